package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs is the programs of this host as a test wants them: /usr/sbin and
// /usr/bin are overlaid, in this process's own mount namespace, and postfix,
// postconf and openssl in them are shell scripts. Each does what the file of
// its name in faults says, a piece of shell, and then, if that did not end it,
// what the real program does.
type programs struct {
	t      *testing.T
	faults string
}

// stagedPrograms are those, by directory.
var stagedPrograms = map[string][]string{"/usr/sbin": {"postfix", "postconf"}, "/usr/bin": {"openssl"}}

// stagePrograms replaces the programs until the test ends.
func stagePrograms(t *testing.T) *programs {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "stage")
	if err != nil {
		t.Fatal(err)
	}
	s := &programs{t: t, faults: filepath.Join(dir, "faults")}
	for _, d := range []string{"faults", "real"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for target, names := range stagedPrograms {
		for _, name := range names {
			sh(t, "cp -p %s/%s %s/real/", target, name, dir)
		}
		mountOverlay(t, target, dir)
		for _, name := range names {
			script := fmt.Sprintf("#!/bin/sh\n[ ! -e %[1]s/%[2]s ] || . %[1]s/%[2]s\nexec %[3]s/real/%[2]s \"$@\"\n", s.faults, name, dir)
			tmp := filepath.Join(target, name+".new")
			if err := os.WriteFile(tmp, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tmp, filepath.Join(target, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return s
}

// mountOverlay lets dir be changed until the test ends, in this process's own
// mount namespace; the changes are kept in scratch.
func mountOverlay(t *testing.T, dir, scratch string) {
	t.Helper()
	layers, err := os.MkdirTemp(scratch, "layers")
	if err != nil {
		t.Fatal(err)
	}
	upper, work := layers+"/upper", layers+"/work"
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatalf("overlaying %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// misbehaviour is a way in which a program goes wrong: shell that its script
// runs, or, for "missing", that the program is not there.
type misbehaviour struct{ name, shell string }

const missing = "missing"

// The ways in which every program goes wrong. "hung" leaves a grandchild, and
// nobody listens to SIGTERM.
var faults = []misbehaviour{
	{"hung", "trap '' TERM; sleep 1000 & wait; sleep 1000"},
	{missing, ""},
	{"slow", "sleep 0.5"},
	{"fails", "echo 'fatal: staged by a test' >&2; exit 1"},
	{"killed", "kill -KILL $$"},
	{"empty", "exit 0"},
	{"binary", "head -c 200000 /dev/urandom; exit 0"},
	{"10 MiB", "yes 'nonsense = more of it' | head -c 10485760; exit 0"},
	{"endless", "yes 'nonsense = more of it'; exit 0"},
}

// set is the shell command that makes a program go wrong; with only, when that is
// its last argument.
func (s *programs) set(program, only string, f misbehaviour) string {
	if f.name == missing {
		path := s.path(program)
		return "mv " + path + " " + path + ".away"
	}
	file := filepath.Join(s.faults, program)
	text := "case \"$*\" in *" + only + ")\n" + f.shell + "\nesac\n"
	if err := os.WriteFile(file+".next", []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return "mv " + file + ".next " + file
}

func (s *programs) path(program string) string {
	for dir, names := range stagedPrograms {
		if slices.Contains(names, program) {
			return filepath.Join(dir, program)
		}
	}
	s.t.Fatalf("%s is not staged", program)
	return ""
}

// clear makes every program right again.
func (s *programs) clear() {
	for _, names := range stagedPrograms {
		for _, program := range names {
			_ = os.Remove(filepath.Join(s.faults, program))
			_ = os.Remove(filepath.Join(s.faults, program+".next"))
			path := s.path(program)
			if _, err := os.Lstat(path + ".away"); err == nil {
				if err := os.Rename(path+".away", path); err != nil {
					s.t.Error(err)
				}
			}
		}
	}
}

// processes are all that run in this pid namespace, by id, with their names.
// Those that have ended and were not waited for yet are left out.
func processes() map[int]string {
	out := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		open, shut := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		if open < 0 || shut < open || strings.HasPrefix(string(stat[shut+1:]), " Z") {
			continue
		}
		out[pid] = string(stat[open+1 : shut])
	}
	return out
}

// strangers are the processes that were not there before and do not belong to
// a running Postfix: master(8) leads the process group of its daemons. A moment
// is given to those that are about to end.
func (h *host) strangers(before map[int]string) []string {
	var out []string
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out = out[:0]
		master := h.pf.MasterPID()
		for pid, name := range processes() {
			group, err := syscall.Getpgid(pid)
			if before[pid] != "" || err != nil || master != 0 && group == master {
				continue
			}
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			out = append(out, fmt.Sprintf("%d %s (%s)", pid, name, strings.ReplaceAll(string(line), "\x00", " ")))
		}
		if len(out) == 0 || time.Now().After(end) {
			return out
		}
	}
}

// weathered is one run of postcert in a bad world, as it turned out.
type weathered struct {
	answer
	took time.Duration
}

// facing is what a run is expected to do in a bad world.
type facing struct {
	env   []string      // of the run: see seams_test.go
	want  []int         // exit statuses, one of them
	limit time.Duration // it takes no longer
	says  []string      // in what it prints
	mend  func()        // makes the world good again
	known string        // file with the id of a process that may run on
}

// Deadlines of a proof: on a busy machine the 4 s of other tests are too few,
// and those of a release make what fails last for minutes.
const (
	patience = testDeadline + "=15s"
	released = testDeadline + "=" // 20 s and 75 s
)

// undoLimit is how long a successful undo may take: a promise of R7, and more
// than undoReload in package deploy.
const undoLimit = 30 * time.Second

// faces runs args and fails the test unless the exit status tells the truth:
// nothing touched (1, 3, 7), everything as before and served (4), the new chain
// served (0, 9), or a journal with which recover, in a good world, puts
// everything back (5). Nothing of the run lives on.
func (h *host) faces(f facing, old, next string, args ...string) weathered {
	h.t.Helper()
	before, running := h.picture(), processes()
	begin := time.Now()
	a := weathered{answer: h.with(append([]string{patience}, f.env...)...).postcert(args...)}
	a.took = time.Since(begin)
	if pid, err := os.ReadFile(f.known); err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
		running[n] = f.known
	}
	left := h.strangers(running)
	if f.mend != nil {
		f.mend()
	}
	for _, p := range left {
		h.t.Errorf("left running: %s", p)
	}
	if !slices.Contains(f.want, a.status) {
		h.t.Errorf("exit status %d, want one of %d", a.status, f.want)
	}
	if took := a.undone(); a.status == 4 && took > undoLimit {
		h.t.Errorf("the undo took %v, limit %v", took, undoLimit)
	}
	if a.took > f.limit {
		h.t.Errorf("took %v, limit %v", a.took, f.limit)
	}
	for _, text := range f.says {
		if !strings.Contains(a.stdout+a.stderr, text) {
			h.t.Errorf("it does not say %q", text)
		}
	}
	if a.status == 5 {
		if !strings.Contains(a.stderr, "postcert recover") {
			h.t.Error("5 without saying what to do")
		}
		h.with(released).postcert("recover").want(0)
	}
	expect := "old"
	if a.status == 0 || a.status == 9 {
		expect = "new"
	}
	if got := h.shows(old, next); got != expect {
		h.t.Errorf("exit status %d, and the %s chain is served", a.status, got)
	}
	h.settled(expect, before)
	h.postcert("recover").want(0).says("nothing to recover")
	if h.t.Failed() {
		h.t.Logf("took %v\n%s%s", a.took, a.stdout, a.stderr)
	}
	return a
}

// undoing is a line about a step of an undo, as a run prints it.
var undoing = regexp.MustCompile(`(?m)^ *(?:ok|no) +(?:undo|restore|reprove) .* ([0-9.]+) s$`)

// undone is how long the undo took, from the moment at which it was known that
// one is needed until the former state was proven to be served.
func (a weathered) undone() time.Duration {
	var sum time.Duration
	for _, m := range undoing.FindAllStringSubmatch(a.stdout, -1) {
		d, err := time.ParseDuration(m[1] + "s")
		if err != nil {
			a.t.Error(err)
		}
		sum += d
	}
	return sum
}

// statuses counts exit statuses and keeps the longest time, for the figures at the
// end of a proof.
type statuses struct {
	mu     sync.Mutex
	runs   int
	status map[int]int
	longst time.Duration // run
	which  string
	undone time.Duration // longest undo that ended with 4
}

func (y *statuses) add(name string, a weathered) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.runs++
	if y.status == nil {
		y.status = map[int]int{}
	}
	y.status[a.status]++
	if a.took > y.longst {
		y.longst, y.which = a.took, name
	}
	if a.status == 4 {
		y.undone = max(y.undone, a.undone())
	}
}

func (y *statuses) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var codes []string
	for _, s := range sortedKeys(y.status) {
		codes = append(codes, fmt.Sprintf("%d x exit %d", y.status[s], s))
	}
	return fmt.Sprintf("%d runs: %s; longest %v (%s); longest undo %v", y.runs, strings.Join(codes, ", "), y.longst.Round(10*time.Millisecond), y.which, y.undone)
}

func sortedKeys(m map[int]int) []int {
	var out []int
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
