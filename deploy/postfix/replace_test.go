package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

func TestReplaceKeepsAttributes(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	path := f.i.MainPath()
	old := f.Main()
	// u::rw- u:102:r-- g::r-- m::r-- o::---
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x66\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	for _, err := range []error{
		os.Chown(path, 1, 2), os.Chmod(path, 0o640),
		syscall.Setxattr(path, "trusted.label", []byte("kept"), 0),
		syscall.Setxattr(path, "system.posix_acl_access", acl, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := f.Files()
	text := append(slices.Clone(old), "new = 1\n"...)
	if err := f.i.Replace(ctx(t), path, old, text, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Main(), text) {
		t.Error("main.cf is not the new text")
	}
	if age := time.Since(f.Files()["main.cf"].MTime); age < 3*time.Second || age > 30*time.Second {
		t.Errorf("mtime is %v ago, want a little more than 3s", age)
	}
	if err := f.i.Replace(ctx(t), path, text, old, before["main.cf"].MTime); err != nil {
		t.Fatal(err)
	}
	if d := postfixtest.Compare(before, f.Files()); len(d) > 0 {
		t.Errorf("putting the old text and time back leaves: %q", d)
	}
}

func TestReplaceFollowsLinks(t *testing.T) {
	tests := []struct {
		name string
		link func(t *testing.T, f *fixture) (path, real string)
	}{
		{"file", func(t *testing.T, f *fixture) (string, string) {
			real := filepath.Join(t.TempDir(), "real.cf")
			move(t, f.i.MainPath(), real)
			return f.i.MainPath(), real
		}},
		{"chain of links", func(t *testing.T, f *fixture) (string, string) {
			dir := t.TempDir()
			move(t, f.i.MainPath(), dir+"/real.cf")
			err := errors.Join(os.Symlink("real.cf", dir+"/link.cf"), os.Remove(f.i.MainPath()), os.Symlink(dir+"/link.cf", f.i.MainPath()))
			if err != nil {
				t.Fatal(err)
			}
			return f.i.MainPath(), dir + "/real.cf"
		}},
		{"directory", func(t *testing.T, f *fixture) (string, string) {
			link := filepath.Join(t.TempDir(), "etc")
			if err := os.Symlink(f.ConfigDir, link); err != nil {
				t.Fatal(err)
			}
			return link + "/main.cf", f.i.MainPath()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{})
			old := f.Main()
			path, real := tt.link(t, f)
			before := f.Files()
			text := append(slices.Clone(old), "new = 1\n"...)
			if err := f.i.Replace(ctx(t), path, old, text, time.Time{}); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(real)
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s is not the new text (%v)", real, err)
			}
			for name, file := range f.Files() {
				if file.Target != before[name].Target {
					t.Errorf("%s points to %q, pointed to %q", name, file.Target, before[name].Target)
				}
			}
			for _, dir := range []string{f.ConfigDir, filepath.Dir(real)} {
				if left, _ := filepath.Glob(dir + "/*.tmp"); left != nil {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
}

// move moves a file and leaves a link in its place.
func move(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err := errors.Join(err, os.WriteFile(to, data, 0o644), os.Remove(from), os.Symlink(to, from)); err != nil {
		t.Fatal(err)
	}
}

func TestReplaceRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, f *fixture)
		check   func(err error) bool
	}{
		{"a file changed meanwhile", func(t *testing.T, f *fixture) { f.AppendMain("other = 1") }, func(err error) bool {
			var changed *ChangedError
			return errors.As(err, &changed) && strings.HasSuffix(changed.Path, "/main.cf")
		}},
		{"a file that is gone", func(t *testing.T, f *fixture) {
			if err := os.Remove(f.i.MainPath()); err != nil {
				t.Fatal(err)
			}
		}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		{"a mount point", func(t *testing.T, f *fixture) {
			if err := syscall.Mount(f.i.MainPath(), f.i.MainPath(), "", syscall.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(f.i.MainPath(), syscall.MNT_DETACH) })
		}, func(err error) bool { return errors.Is(err, syscall.EBUSY) }},
		{"a link in place of FILE.tmp", func(t *testing.T, f *fixture) {
			if err := os.Symlink("/etc/passwd", f.i.MainPath()+".tmp"); err != nil {
				t.Fatal(err)
			}
		}, func(err error) bool { return errors.Is(err, syscall.ELOOP) }},
		{"a lock that nobody gives up", func(t *testing.T, f *fixture) { hold(t, f.i.MainPath()+".tmp") },
			func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{})
			old := f.Main()
			tt.prepare(t, f)
			before := f.Files()
			short, cancel := context.WithTimeout(ctx(t), 300*time.Millisecond)
			defer cancel()
			err := f.i.Replace(short, f.i.MainPath(), old, []byte("new = 1\n"), time.Time{})
			if !tt.check(err) {
				t.Errorf("got %v", err)
			}
			if d := postfixtest.Compare(before, f.Files()); len(d) > 0 {
				t.Errorf("it changed: %q", d)
			}
		})
	}
}

// hold takes the lock of Postfix's edit_file_open until the test ends.
func hold(t *testing.T, path string) {
	t.Helper()
	l, err := lockTemp(context.Background(), strings.TrimSuffix(path, ".tmp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.release)
}

// What a crash left as FILE.tmp is not written to, and does not stop us.
func TestReplaceAfterCrash(t *testing.T) {
	tests := []struct {
		name  string
		leave func(f *fixture, tmp string) error
	}{
		{"half a file", func(f *fixture, tmp string) error { return os.WriteFile(tmp, []byte("half"), 0o600) }},
		{"a file with its final mode", func(f *fixture, tmp string) error { return os.WriteFile(tmp, []byte("half"), 0o644) }},
		{"main.cf itself", func(f *fixture, tmp string) error { return os.Link(f.i.MainPath(), tmp) }},
		{"main.cf itself, which only root may read", func(f *fixture, tmp string) error {
			return errors.Join(os.Chmod(f.i.MainPath(), 0o600), os.Link(f.i.MainPath(), tmp))
		}},
		{"a named pipe", func(f *fixture, tmp string) error { return syscall.Mkfifo(tmp, 0o600) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{})
			old := f.Main()
			if err := tt.leave(f, f.i.MainPath()+".tmp"); err != nil {
				t.Fatal(err)
			}
			mode := f.Files()["main.cf"].Mode
			keep, err := os.Open(f.i.MainPath()) // a reader that began before
			if err != nil {
				t.Fatal(err)
			}
			defer keep.Close()
			if err := f.i.Replace(ctx(t), f.i.MainPath(), old, []byte("new = 1\n"), time.Time{}); err != nil {
				t.Fatal(err)
			}
			if got := string(f.Main()); got != "new = 1\n" {
				t.Errorf("main.cf is %q", got)
			}
			read := make([]byte, len(old)+1)
			if n, _ := keep.Read(read); !bytes.Equal(read[:n], old) {
				t.Error("the old file was written to while somebody read it")
			}
			if fi, err := os.Stat(f.i.MainPath()); err != nil || fi.Mode() != mode {
				t.Errorf("mode %v, %v, want %v", fi.Mode(), err, mode)
			}
		})
	}
}

// Between our open and our lock the holder before us can rename FILE.tmp to
// FILE, or remove it. Writing to what we opened would then be writing to FILE.
func TestLockedFileMoved(t *testing.T) {
	tests := []struct {
		name string
		move func(path string) error
		want error
	}{
		{"still there", func(string) error { return nil }, nil},
		{"renamed", func(path string) error { return os.Rename(path, path+".final") }, errRetry},
		{"removed", os.Remove, errRetry},
		{"replaced by the next one's", func(path string) error {
			return errors.Join(os.Rename(path, path+".final"), os.WriteFile(path, nil, 0o600))
		}, errRetry},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "main.cf.tmp")
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := tt.move(path); err != nil {
				t.Fatal(err)
			}
			if err := checkTemp(f, path); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// 200 edits of ours beside 200 of postconf's: each adds a parameter of its
// own, and in the end all are there. Also through a link, which postconf would
// replace; so there postconf edits the real file.
func TestReplaceBesidePostconf(t *testing.T) {
	for _, linked := range []bool{false, true} {
		t.Run(fmt.Sprintf("linked=%v", linked), func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{})
			ours := f.i
			if linked {
				dir := filepath.Join(t.TempDir(), "etc")
				if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(f.i.MainPath(), dir+"/main.cf")); err != nil {
					t.Fatal(err)
				}
				ours.ConfigDirectory = dir
			}
			const each = 200
			var wg sync.WaitGroup
			for w := range 2 {
				wg.Go(func() {
					for n := range each / 2 {
						addOurs(t, ours, fmt.Sprintf("ours_%d_%d", w, n))
					}
				})
				wg.Go(func() {
					for n := range each / 2 {
						out, err := exec.Command("/usr/sbin/postconf", "-c", f.ConfigDir, "-e", fmt.Sprintf("theirs_%d_%d=1", w, n)).CombinedOutput()
						if err != nil {
							t.Errorf("postconf: %v %s", err, out)
						}
					}
				})
			}
			wg.Wait()
			text := string(f.Main())
			for w := range 2 {
				for n := range each / 2 {
					for _, who := range []string{"ours", "theirs"} {
						if line := fmt.Sprintf("\n%s_%d_%d = 1\n", who, w, n); strings.Count(text, line) != 1 {
							t.Errorf("%q is there %d times", line, strings.Count(text, line))
						}
					}
				}
			}
		})
	}
}

// addOurs plans again whenever somebody else was faster.
func addOurs(t *testing.T, i Instance, name string) {
	for range 10000 {
		old, _, err := readRegular(i.MainPath())
		if err != nil {
			t.Error(err)
			return
		}
		err = i.Replace(context.Background(), i.MainPath(), old, append(slices.Clone(old), name+" = 1\n"...), time.Time{})
		var changed *ChangedError
		if !errors.As(err, &changed) {
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Errorf("%s: never my turn", name)
}
