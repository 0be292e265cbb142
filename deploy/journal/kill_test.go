package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
)

// The real file system and real kills: the test binary runs itself again and
// kills itself at the n-th change.

const (
	envRoot = "JOURNAL_TEST_ROOT"
	envKill = "JOURNAL_TEST_KILL"
	envWhat = "JOURNAL_TEST_WHAT"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(envRoot); root != "" {
		os.Exit(child(root, os.Getenv(envWhat), os.Getenv(envKill)))
	}
	os.Exit(m.Run())
}

// killer ends the process, with no warning, at the n-th change.
type killer struct {
	atomicfile.FS
	n, at int
}

func (k *killer) step() {
	if k.n++; k.n == k.at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // does not return
		select {}
	}
}

func (k *killer) Create(path string) (atomicfile.FileHandle, error) {
	k.step()
	h, err := k.FS.Create(path)
	if err != nil {
		return nil, err
	}
	return killerHandle{h, k}, nil
}
func (k *killer) Mkdir(path string) error           { k.step(); return k.FS.Mkdir(path) }
func (k *killer) Symlink(target, path string) error { k.step(); return k.FS.Symlink(target, path) }
func (k *killer) Rename(from, to string) error      { k.step(); return k.FS.Rename(from, to) }
func (k *killer) Remove(path string) error          { k.step(); return k.FS.Remove(path) }
func (k *killer) SyncDir(path string) error         { k.step(); return k.FS.SyncDir(path) }

type killerHandle struct {
	atomicfile.FileHandle
	k *killer
}

// Write is two calls, so that a kill can come between the halves.
func (h killerHandle) Write(b []byte) (int, error) {
	h.k.step()
	n, err := h.FileHandle.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	h.k.step()
	m, err := h.FileHandle.Write(b[n:])
	return n + m, err
}
func (h killerHandle) Chmod(mode uint32) error { h.k.step(); return h.FileHandle.Chmod(mode) }
func (h killerHandle) Chown(u, g uint32) error { h.k.step(); return h.FileHandle.Chown(u, g) }
func (h killerHandle) Sync() error             { h.k.step(); return h.FileHandle.Sync() }
func (h killerHandle) SetMTime(t time.Time) error {
	h.k.step()
	return h.FileHandle.SetMTime(t)
}

// child is the deploy, or the recovery, of one short life. Its status is 0
// when it came to its end.
func child(root, what, kill string) int {
	at, err := strconv.Atoi(kill)
	if err == nil {
		fsys := &killer{FS: atomicfile.OS, at: at}
		err = map[string]func(atomicfile.FS, string) error{
			"deploy": osDeploy, "undo": osUndo, "recover": osRecover,
		}[what](fsys, root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func osJournal(fsys atomicfile.FS, root string) Journal {
	return Journal{FS: fsys, Dir: root + "/state/journal", History: root + "/state/history"}
}

func osBegin(fsys atomicfile.FS, root string) (*Tx, error) {
	owner, err := fsys.Lstat(root)
	if err != nil {
		return nil, err
	}
	attr := func(mode uint32) atomicfile.Attr {
		return atomicfile.Attr{Mode: mode, UID: owner.UID, GID: owner.GID, MTime: later}
	}
	plan := []Write{
		{Path: root + "/conf/tls", After: State{Kind: atomicfile.Directory, Attr: attr(0o750)}},
		{Path: root + "/conf/tls/mail.pem", After: atomicfile.NewFile([]byte(strings.Repeat("new pair\n", 500)), attr(0o600))},
		{Path: root + "/conf/main.cf", After: atomicfile.NewFile([]byte("new = configuration\n"), attr(0o644))},
		{Path: root + "/conf/link", After: State{Kind: atomicfile.Symlink, Target: "main.cf"}},
	}
	for i := range plan {
		if plan[i].Before, err = Capture(fsys, plan[i].Path); err != nil {
			return nil, err
		}
	}
	plan[2].After.Xattrs = plan[2].Before.Xattrs
	tx, err := osJournal(fsys, root).Begin(plan, json.RawMessage(`{}`))
	if err != nil {
		return nil, err
	}
	return tx, commit(tx)
}

func osDeploy(fsys atomicfile.FS, root string) error {
	tx, err := osBegin(fsys, root)
	if err != nil {
		return err
	}
	if err := tx.Mark("proven"); err != nil {
		return err
	}
	return tx.Close("deployed", nil)
}

func osUndo(fsys atomicfile.FS, root string) error {
	tx, err := osBegin(fsys, root)
	if err != nil {
		return err
	}
	if _, err := tx.Undo(); err != nil {
		return err
	}
	return tx.Close("undone", nil)
}

func osRecover(fsys atomicfile.FS, root string) error {
	tx, err := osJournal(fsys, root).Open()
	if err != nil || tx == nil {
		return err
	}
	conflicts, err := tx.Undo()
	if err == nil && len(conflicts) > 0 {
		err = fmt.Errorf("conflicts: %v", conflicts)
	}
	if err != nil {
		return err
	}
	return tx.Close("recovered", nil)
}

// world makes the files before the deploy.
func world(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{root + "/conf", root + "/state"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	info, err := atomicfile.OS.Lstat(root)
	if err != nil {
		t.Fatal(err)
	}
	attr := atomicfile.Attr{Mode: 0o640, UID: info.UID, GID: info.GID, MTime: long}
	if os.Geteuid() == 0 {
		attr.UID, attr.GID = 12, 34
	}
	put(t, atomicfile.OS, root+"/conf/main.cf", "old = configuration\n", attr)
	return root
}

// osTree describes all below conf, temporary files left out.
func osTree(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(root+"/conf", func(path string, _ os.DirEntry, err error) error {
		if err != nil || atomicfile.IsTemp(path) {
			return err
		}
		s, err := Capture(atomicfile.OS, path)
		tree[strings.TrimPrefix(path, root)] = fmt.Sprint(s, s.MTime.UTC(), s.Xattrs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// run starts the test binary as a child and tells whether it was killed.
func run(t *testing.T, root, what string, kill int) (killed bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = []string{envRoot + "=" + root, envWhat + "=" + what, envKill + "=" + strconv.Itoa(kill),
		"GORACE=atexit_sleep_ms=0"} // else each child waits a second under -race
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%s, to be killed at %d: %v: %s", what, kill, err, out)
	}
	return false
}

func TestKillAtEveryChange(t *testing.T) {
	for _, what := range []string{"deploy", "undo"} {
		t.Run(what, func(t *testing.T) {
			root := world(t)
			old := osTree(t, root)
			run(t, root, what, 0)
			end := osTree(t, root)
			kills := 0
			for n := 1; ; n++ {
				root := world(t)
				if !run(t, root, what, n) {
					break
				}
				kills++
				// The first recovery is killed too, somewhere.
				run(t, root, "recover", 1+n%17)
				run(t, root, "recover", 0)
				got := osTree(t, root)
				if !maps.Equal(got, old) && !maps.Equal(got, end) {
					t.Fatalf("killed at change %d:\n%s\nneither old\n%s\nnor new\n%s", n, show(got), show(old), show(end))
				}
				run(t, root, "deploy", 0)
			}
			if kills < 40 {
				t.Errorf("only %d kills", kills)
			}
			t.Logf("%d kills", kills)
		})
	}
}
