package journal

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// broken is a file system through which the program does what a careless one
// would do: what a wrapper drops or moves is what the careless author forgot.
// It is how the exploration itself is tested.
type broken struct {
	atomicfile.FS
	syncDir func(path string) error
	rename  func(from, to string) error
	name    func(path string) string
	sync    func(path string) bool // whether a file's Sync is done
	chmod   func(h atomicfile.FileHandle, mode uint32) error
	unlink  func(path string) error
}

func (b broken) path(path string) string {
	if b.name != nil {
		return b.name(path)
	}
	return path
}

func (b broken) Create(path string) (atomicfile.FileHandle, error) {
	h, err := b.FS.Create(b.path(path))
	if err != nil {
		return nil, err
	}
	return brokenHandle{h, b, path}, nil
}

func (b broken) Symlink(target, path string) error { return b.FS.Symlink(target, b.path(path)) }

func (b broken) Rename(from, to string) error {
	if b.rename != nil {
		return b.rename(b.path(from), to)
	}
	return b.FS.Rename(b.path(from), to)
}

func (b broken) Remove(path string) error {
	if b.unlink != nil {
		return b.unlink(path)
	}
	return b.FS.Remove(b.path(path))
}

func (b broken) SyncDir(path string) error {
	if b.syncDir != nil {
		return b.syncDir(path)
	}
	return b.FS.SyncDir(path)
}

type brokenHandle struct {
	atomicfile.FileHandle
	b    broken
	path string
}

func (h brokenHandle) Sync() error {
	if h.b.sync != nil && !h.b.sync(h.path) {
		return nil
	}
	return h.FileHandle.Sync()
}

func (h brokenHandle) Chmod(mode uint32) error {
	if h.b.chmod != nil {
		return h.b.chmod(h.FileHandle, mode)
	}
	return h.FileHandle.Chmod(mode)
}

// careless lists the mistakes. Each must be found in the Weak model.
var careless = []struct {
	name    string
	symptom string // in the violation that is found
	wrap    func(*crashfs.FS) atomicfile.FS
}{
	{"directories are not synced", "a power cut after the end", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, syncDir: func(string) error { return nil }}
	}},
	{"files are not synced", "a reader finds", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, sync: func(string) bool { return false }}
	}},
	{"only configuration files are not synced", "a reader finds", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, sync: func(path string) bool { return !strings.HasPrefix(path, dirConf) }}
	}},
	{"changes begin before the journal is on disk", "neither the old tree nor the new one", func(f *crashfs.FS) atomicfile.FS {
		ended := false
		return broken{FS: f,
			unlink: func(path string) error {
				ended = ended || strings.HasSuffix(path, openName)
				return f.Remove(path)
			},
			syncDir: func(path string) error {
				if !ended && path == dirState+"/journal" {
					return nil
				}
				return f.SyncDir(path)
			}}
	}},
	{"the journal ends before the changes are on disk", "a power cut after the end changed the tree", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, syncDir: func(path string) error {
			if strings.HasPrefix(path, dirConf) {
				return nil
			}
			return f.SyncDir(path)
		}}
	}},
	{"a temporary name that is always the same", "file exists", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, name: func(path string) string {
			if atomicfile.IsTemp(path) {
				return filepath.Join(filepath.Dir(path), "new.tmp")
			}
			return path
		}}
	}},
	{"the file is removed and then renamed", "a reader finds", func(f *crashfs.FS) atomicfile.FS {
		return broken{FS: f, rename: func(from, to string) error {
			_ = f.Remove(to) // what a careless author writes
			return f.Rename(from, to)
		}}
	}},
	{"the mode is set after the rename", "a reader finds", func(f *crashfs.FS) atomicfile.FS {
		var late []func() error
		return broken{FS: f,
			chmod: func(h atomicfile.FileHandle, mode uint32) error {
				late = append(late, func() error { return h.Chmod(mode) })
				return nil
			},
			syncDir: func(path string) error {
				for _, do := range late {
					if err := do(); err != nil {
						return err
					}
				}
				late = nil
				return f.SyncDir(path)
			}}
	}},
	{"the journal is removed and the removal not synced", "brought the journal back", func(f *crashfs.FS) atomicfile.FS {
		removed := false
		return broken{FS: f,
			unlink: func(path string) error {
				removed = removed || strings.HasSuffix(path, openName)
				return f.Remove(path)
			},
			syncDir: func(path string) error {
				if removed && path == dirState+"/journal" {
					return nil
				}
				return f.SyncDir(path)
			}}
	}},
}

// TestExplorationFindsMistakes is the test of the test: a property that no
// mistake violates is one that nobody looks at.
func TestExplorationFindsMistakes(t *testing.T) {
	for _, c := range careless {
		t.Run(c.name, func(t *testing.T) {
			e := newExplorer(t, crashfs.Weak, c.wrap)
			n, err := e.explore(t, deploy, e.new)
			if err == nil {
				t.Fatalf("not found in %d states", n)
			}
			if !strings.Contains(err.Error(), c.symptom) {
				t.Fatalf("found something else: got %v, want %q", err, c.symptom)
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			t.Logf("found after %d states: %.160s", n, first)
		})
	}
}

// TestEveryErrorLeavesOldOrNew fails each call in turn, once or from then on,
// as a bad sector and a full disk do.
func TestEveryErrorLeavesOldOrNew(t *testing.T) {
	for _, c := range []struct {
		name    string
		errno   syscall.Errno
		forever bool
		do      func(atomicfile.FS) error
		onlyOld bool
	}{
		{"EIO once", syscall.EIO, false, deploy, false},
		{"ENOSPC from then on", syscall.ENOSPC, true, deploy, false},
		{"EROFS from then on", syscall.EROFS, true, deploy, false},
		{"EIO once, in a deploy that is undone", syscall.EIO, false, deployAndUndo, true},
		{"EIO from then on, in a deploy that is undone", syscall.EIO, true, deployAndUndo, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 1
			for ; failAt(t, n, c.errno, c.forever, c.do, c.onlyOld); n++ {
			}
			if n < 40 {
				t.Errorf("only %d calls: the deploy can't be this short", n)
			}
			t.Logf("%d calls", n-1)
		})
	}
}

// failAt fails the n-th call and reports whether there was one.
func failAt(t *testing.T, n int, errno syscall.Errno, forever bool, do func(atomicfile.FS) error, onlyOld bool) bool {
	t.Helper()
	e := newExplorer(t, crashfs.Weak, asIs)
	f := before(t)
	calls, lost := 0, ""
	f.Before = func(op crashfs.Op) error {
		if op.Name == "fsync" && op.Path == lost {
			t.Errorf("call %d: %s again, after it failed", n, op)
		}
		if calls++; calls == n || forever && calls > n {
			if op.Name == "fsync" && atomicfile.IsTemp(op.Path) {
				lost = op.Path
			}
			return errno
		}
		return nil
	}
	err := do(f)
	f.Before = nil
	if calls < n {
		return false
	}
	if err == nil {
		t.Errorf("call %d: no error", n)
	}
	// The next run comes along: at once, after a power cut, or after both.
	for c := range f.Crashes(crashfs.Weak) {
		checkRecovery(t, e, c, n, onlyOld)
	}
	checkRecovery(t, e, f, n, onlyOld)
	return true
}

func checkRecovery(t *testing.T, e *explorer, f *crashfs.FS, n int, onlyOld bool) {
	t.Helper()
	if err := recovery(f); err != nil {
		t.Errorf("call %d: recovery: %v", n, err)
		return
	}
	if err := e.settled(f); err != nil {
		t.Errorf("call %d: %v", n, err)
	}
	if got := tree(f); onlyOld && show(got) != show(e.old) {
		t.Errorf("call %d: after an undone deploy:\n%s", n, show(got))
	}
	if show(tree(f)) == show(e.old) {
		if err := deploy(f); err != nil {
			t.Errorf("call %d: the next deploy: %v", n, err)
		}
	}
}
