package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
)

// The variables by which a test interrupts the program it starts. They work
// through the seams of app alone: events, file operations, calls of the MTA.
//
//	kill   "commit begin"   SIGKILL at that event
//	       "commit begin, op 3"
//	                        SIGKILL before the 3rd such operation after that event
//	       "op 17"          SIGKILL before the 17th file operation that changes something
//	       "torn replace"   SIGKILL in the middle of replacing main.cf
//	       "rehearsing"     SIGKILL while the private Postfix of the rehearsal runs
//	       "checking"       SIGKILL while "postfix check" runs
//	       "replaced"       SIGKILL right after main.cf was replaced
//	       "commit begin +25us"  SIGKILL so long after that event: see killtimer_test.go
//	fail   "op 17 EIO"      that operation fails
//	       "op 17+ ENOSPC"  from it on, all that need space fail
//	       "look 17 EIO"    the 17th operation that only looks fails
//	       "Reload 1"       the first call of that method of deploy.MTA fails
//	       "Reload *"       all of them do
//	                        several of these are separated by ", "
//	at     "reload end: sh" that shell command runs at the event; $PPID is the program
//	       "Unchanged end: sh"
//	                        or when that method of deploy.MTA has answered
//	clock  "begin -1h"      the time of day is another one from the beginning on
//	       "prove begin @1970" or from that event on: in that year
//	trace  a file for the numbers of operations and the events that occurred
//	record a file to which each event and operation is written as it occurs
const (
	killAt   = "POSTCERT_TEST_KILL"
	failAt   = "POSTCERT_TEST_FAIL"
	doAt     = "POSTCERT_TEST_AT"
	clockAt  = "POSTCERT_TEST_CLOCK"
	traceTo  = "POSTCERT_TEST_TRACE"
	recordTo = "POSTCERT_TEST_RECORD"
)

// interrupted puts what the environment asks for into the seams. The function
// returned is for the end of the run.
func interrupted(a *app) func() {
	w := &world{kill: a.env[killAt], trace: a.env[traceTo], record: openRecord(a.env[recordTo])}
	if at, jump, ok := cutLast(a.env[clockAt], " "); ok {
		w.jumpAt, w.jump, a.seams.now = at, jump, w.now
		if at == "begin" {
			w.setClock()
		}
	}
	w.event, w.command, _ = strings.Cut(a.env[doAt], ": ")
	for f := range strings.SplitSeq(a.env[failAt], ", ") {
		w.fails = append(w.fails, strings.Fields(f))
	}
	for _, name := range []string{killAt, failAt, doAt, clockAt, traceTo, recordTo} {
		delete(a.env, name)
	}
	w.calls = map[string]int{}
	a.seams.fs = &worldFS{atomicfile.OS, w}
	a.seams.mta = func(m deploy.MTA) deploy.MTA { return &worldMTA{m, w} }
	a.seams.progress = w.happen
	w.reached(programStart)
	return w.write
}

// world is what a run of the program meets.
type world struct {
	kill, event, command string
	fails                [][]string
	trace                string
	record               *record
	events               []string // each with the number of the last operation before it
	changes, looks       int
	mu                   sync.Mutex // of calls
	calls                map[string]int
	jumpAt, jump         string       // of the clock
	offset               atomic.Int64 // of the clock, from the real one
}

// now is the time of day in that world.
func (w *world) now() time.Time { return time.Now().Round(0).Add(time.Duration(w.offset.Load())) }

// setClock does what somebody else's program does who sets the clock.
func (w *world) setClock() {
	if year, ok := strings.CutPrefix(w.jump, "@"); ok {
		n, _ := strconv.Atoi(year)
		w.offset.Store(int64(time.Until(time.Date(n, 1, 1, 0, 0, 1, 0, time.UTC))))
		return
	}
	by, err := time.ParseDuration(w.jump)
	if err != nil {
		panic(err)
	}
	w.offset.Store(int64(by))
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func eventName(e deploy.Event) string {
	if e.Begin {
		return string(e.Step) + " begin"
	}
	return string(e.Step) + " end"
}

func (w *world) happen(e deploy.Event) {
	name := eventName(e)
	if w.jumpAt == name {
		w.setClock()
	}
	w.events = append(w.events, fmt.Sprintf("%s@%d", name, w.changes))
	w.reached(name)
	if w.kill == name {
		dieNow()
	}
	if n, ok := strings.CutPrefix(w.kill, name+", op "); ok {
		more, _ := strconv.Atoi(n)
		w.kill = "op " + strconv.Itoa(w.changes+more)
	}
	w.runAt(name)
}

// runAt runs the command that is for that event.
func (w *world) runAt(name string) {
	if w.event != name {
		return
	}
	cmd := exec.Command("/bin/sh", "-c", w.command)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "test: %s: %v\n", w.command, err)
	}
	// A signal that the command sent has to reach the program's goroutine.
	time.Sleep(50 * time.Millisecond)
}

func (w *world) write() {
	w.reached(programEnd)
	if w.trace == "" {
		return
	}
	text := fmt.Sprintf("%d\n%d\n%s\n", w.changes, w.looks, strings.Join(w.events, "\n"))
	if err := os.WriteFile(w.trace, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// beforeDeath is what a run that is to be killed does last: a power cut takes
// the disk away as well.
var beforeDeath = func() {}

func dieNow() {
	beforeDeath()
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

var errnos = map[string]syscall.Errno{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC}

// change is called before each file operation that changes something; space
// tells that it needs some.
func (w *world) change(name, path string, space bool) error {
	w.changes++
	w.record.say("op " + strconv.Itoa(w.changes) + " " + name)
	if w.kill == "op "+strconv.Itoa(w.changes) {
		dieNow()
	}
	for _, f := range w.fails {
		if len(f) != 3 || f[0] != "op" {
			continue
		}
		at, onwards := strings.CutSuffix(f[1], "+")
		n, _ := strconv.Atoi(at)
		if !onwards && w.changes == n || onwards && w.changes >= n && space {
			return &os.PathError{Op: name, Path: path, Err: errnos[f[2]]}
		}
	}
	return nil
}

func (w *world) look(name, path string) error {
	w.looks++
	for _, f := range w.fails {
		if len(f) == 3 && f[0] == "look" && f[1] == strconv.Itoa(w.looks) {
			return &os.PathError{Op: name, Path: path, Err: errnos[f[2]]}
		}
	}
	return nil
}

// call is called before each call of the MTA.
func (w *world) call(name string) error {
	w.mu.Lock() // "postfix check" and the watch of the master run beside the rest
	defer w.mu.Unlock()
	w.calls[name]++
	for _, f := range w.fails {
		if len(f) == 2 && f[0] == name && (f[1] == "*" || f[1] == strconv.Itoa(w.calls[name])) {
			return fmt.Errorf("%s fails in this test", name)
		}
	}
	return nil
}

// worldFS is the file system as that world has it.
type worldFS struct {
	atomicfile.FS
	w *world
}

func (f *worldFS) Create(path string) (atomicfile.FileHandle, error) {
	if err := f.w.change("create", path, true); err != nil {
		return nil, err
	}
	h, err := f.FS.Create(path)
	return &worldFile{h, f.w, path}, err
}

func (f *worldFS) Open(path string) (atomicfile.FileHandle, error) {
	if err := f.w.look("open", path); err != nil {
		return nil, err
	}
	return f.FS.Open(path)
}

func (f *worldFS) Lstat(path string) (atomicfile.Info, error) {
	if err := f.w.look("lstat", path); err != nil {
		return atomicfile.Info{}, err
	}
	return f.FS.Lstat(path)
}

func (f *worldFS) ReadDir(path string) ([]string, error) {
	if err := f.w.look("readdir", path); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(path)
}

func (f *worldFS) Mkdir(path string) error {
	if err := f.w.change("mkdir", path, true); err != nil {
		return err
	}
	return f.FS.Mkdir(path)
}

func (f *worldFS) Symlink(target, path string) error {
	if err := f.w.change("symlink", path, true); err != nil {
		return err
	}
	return f.FS.Symlink(target, path)
}

func (f *worldFS) Rename(from, to string) error {
	if err := f.w.change("rename", to, false); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *worldFS) Remove(path string) error {
	if err := f.w.change("remove", path, false); err != nil {
		return err
	}
	return f.FS.Remove(path)
}

func (f *worldFS) SyncDir(path string) error {
	if err := f.w.change("syncdir", path, false); err != nil {
		return err
	}
	return f.FS.SyncDir(path)
}

type worldFile struct {
	atomicfile.FileHandle
	w    *world
	path string
}

func (f *worldFile) Write(p []byte) (int, error) {
	if err := f.w.change("write", f.path, true); err != nil {
		return 0, err
	}
	return f.FileHandle.Write(p)
}

func (f *worldFile) Sync() error {
	if err := f.w.change("fsync", f.path, true); err != nil {
		return err
	}
	return f.FileHandle.Sync()
}

func (f *worldFile) Chmod(mode uint32) error {
	if err := f.w.change("chmod", f.path, false); err != nil {
		return err
	}
	return f.FileHandle.Chmod(mode)
}

func (f *worldFile) Chown(uid, gid uint32) error {
	if err := f.w.change("chown", f.path, false); err != nil {
		return err
	}
	return f.FileHandle.Chown(uid, gid)
}

func (f *worldFile) SetMTime(t time.Time) error {
	if err := f.w.change("utimens", f.path, false); err != nil {
		return err
	}
	return f.FileHandle.SetMTime(t)
}

// worldMTA is the Postfix of that world.
type worldMTA struct {
	deploy.MTA
	w *world
}

func (m *worldMTA) Snapshot(ctx context.Context) (cf.Snapshot, error) {
	if err := m.w.call("Snapshot"); err != nil {
		return cf.Snapshot{}, err
	}
	return m.MTA.Snapshot(ctx)
}

func (m *worldMTA) Unchanged(ctx context.Context, s cf.Snapshot) (bool, error) {
	if err := m.w.call("Unchanged"); err != nil {
		return false, err
	}
	same, err := m.MTA.Unchanged(ctx, s)
	m.w.runAt("Unchanged end")
	return same, err
}

func (m *worldMTA) Candidate(ctx context.Context, main, master []byte) (cf.Snapshot, error) {
	if err := m.w.call("Candidate"); err != nil {
		return cf.Snapshot{}, err
	}
	return m.MTA.Candidate(ctx, main, master)
}

func (m *worldMTA) Replace(ctx context.Context, path string, want, data []byte, mtime time.Time) error {
	if err := m.w.call("Replace"); err != nil {
		return err
	}
	if m.w.kill == "torn replace" {
		if err := os.WriteFile(path+".tmp", data[:len(data)/2], 0o600); err != nil {
			panic(err)
		}
		dieNow()
	}
	err := m.MTA.Replace(ctx, path, want, data, mtime)
	if m.w.kill == "replaced" {
		dieNow()
	}
	return err
}

func (m *worldMTA) Check(ctx context.Context) ([]string, error) {
	if err := m.w.call("Check"); err != nil {
		return nil, err
	}
	if m.w.kill == "rehearsing" {
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !rehearsing(); {
			time.Sleep(time.Millisecond)
		}
		dieNow()
	}
	if m.w.kill == "checking" {
		go func() {
			for !checking() {
				time.Sleep(100 * time.Microsecond)
			}
			dieNow()
		}()
	}
	return m.MTA.Check(ctx)
}

// checking tells whether the part of "postfix check" runs, post-install(1), that
// compares parameters with what postconf(1) answers, one by one.
func checking() bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range files {
		data, _ := os.ReadFile(path)
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if len(args) == 5 && strings.HasSuffix(args[0], "postconf") && args[3] == "-h" && strings.Contains("mail_owner setgid_group sendmail_path mailq_path", args[4]) {
			return true
		}
	}
	return false
}

// rehearsing tells whether a process works in a rehearsal's directory.
func rehearsing() bool {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && strings.Contains(dir, "/run/rehearsal/") {
			return true
		}
	}
	return false
}

func (m *worldMTA) Reload(ctx context.Context) error {
	if err := m.w.call("Reload"); err != nil {
		return err
	}
	return m.MTA.Reload(ctx)
}

func (m *worldMTA) Refresh(ctx context.Context) error {
	if err := m.w.call("Refresh"); err != nil {
		return err
	}
	return m.MTA.(deploy.Refresher).Refresh(ctx)
}

func (m *worldMTA) BuildTable(ctx context.Context, table string) error {
	return m.MTA.(deploy.TableBuilder).BuildTable(ctx, table)
}

func (m *worldMTA) Master(ctx context.Context) (deploy.Master, error) {
	if err := m.w.call("Master"); err != nil {
		return deploy.Master{}, err
	}
	return m.MTA.Master(ctx)
}

func (m *worldMTA) Restart(ctx context.Context, was deploy.Master) error {
	if err := m.w.call("Restart"); err != nil {
		return err
	}
	return m.MTA.Restart(ctx, was)
}

func (m *worldMTA) LogSince(ctx context.Context, t time.Time) ([]string, error) {
	if err := m.w.call("LogSince"); err != nil {
		return nil, err
	}
	return m.MTA.LogSince(ctx, t)
}

func (m *worldMTA) SweepReplace(path string) error {
	return m.MTA.(deploy.Sweeper).SweepReplace(path)
}
