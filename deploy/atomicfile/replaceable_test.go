package atomicfile

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// chattr sets a flag until the test ends.
func chattr(t *testing.T, flag, path string) {
	t.Helper()
	if out, err := exec.Command("chattr", "+"+flag, path).CombinedOutput(); err != nil {
		t.Fatalf("chattr +%s: %v: %s", flag, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("chattr", "-"+flag, path).CombinedOutput(); err != nil {
			t.Errorf("chattr -%s: %v: %s", flag, err, out)
		}
	})
}

// agree checks Replaceable against what Write then really does.
func agree(t *testing.T, path string, need int64, want Reason) {
	t.Helper()
	err := Replaceable(path, need)
	if reason(err) != want || (err != nil) != (want != "") {
		t.Errorf("got %v, want %q", err, want)
	}
	werr := Write(OS, path, make([]byte, need), mine(0o600))
	if (werr != nil) != (want != "") {
		t.Errorf("Replaceable says %v, Write %v", err, werr)
	}
	if names, _ := OS.ReadDir(filepath.Dir(path)); strings.Contains(strings.Join(names, " "), tempPrefix) {
		t.Errorf("left over: %v", names)
	}
}

func TestReplaceable(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name  string
		stage func(t *testing.T) string // returns the path
		need  int64
		want  Reason
	}{
		{"a file", func(t *testing.T) string {
			path := t.TempDir() + "/main.cf"
			write(t, path, "x", 0o644)
			return path
		}, 10, ""},
		{"a file to be made", func(t *testing.T) string { return t.TempDir() + "/main.cf" }, 10, ""},
		{"no directory", func(t *testing.T) string { return t.TempDir() + "/tls/mail.pem" }, 10, NoDirectory},
		{"bind mount", func(t *testing.T) string {
			path := t.TempDir() + "/main cf" // a blank: mountinfo writes \040
			write(t, path, "x", 0o644)
			write(t, path+".other", "y", 0o644)
			if err := syscall.Mount(path+".other", path, "", syscall.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }) // the namespace ends anyway
			return path
		}, 10, MountPoint},
		{"immutable file", func(t *testing.T) string {
			path := t.TempDir() + "/main.cf"
			write(t, path, "x", 0o644)
			chattr(t, "i", path)
			return path
		}, 10, Immutable},
		{"append-only file", func(t *testing.T) string {
			path := t.TempDir() + "/main.cf"
			write(t, path, "x", 0o644)
			chattr(t, "a", path)
			return path
		}, 10, AppendOnly},
		{"immutable directory", func(t *testing.T) string {
			path := t.TempDir() + "/main.cf"
			write(t, path, "x", 0o644)
			chattr(t, "i", filepath.Dir(path))
			return path
		}, 10, Immutable},
		{"read-only file system", func(t *testing.T) string {
			dir := tmpfs(t, "size=1m")
			write(t, dir+"/main.cf", "x", 0o644)
			if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			return dir + "/main.cf"
		}, 10, ReadOnly},
		{"full", func(t *testing.T) string {
			dir := tmpfs(t, "size=64k")
			write(t, dir+"/main.cf", "x", 0o644)
			return dir + "/main.cf"
		}, 64 << 10, NoSpace},
		{"almost full", func(t *testing.T) string { return tmpfs(t, "size=64k") + "/main.cf" }, 32 << 10, ""},
		{"no inodes", func(t *testing.T) string {
			dir := tmpfs(t, "nr_inodes=2")
			write(t, dir+"/main.cf", "x", 0o644)
			return dir + "/main.cf"
		}, 10, NoInodes},
		{"symbolic link", func(t *testing.T) string {
			path := t.TempDir() + "/main.cf"
			if err := os.Symlink("/nix/store/main.cf", path); err != nil {
				t.Fatal(err)
			}
			return path
		}, 10, IsSymlink},
	} {
		t.Run(c.name, func(t *testing.T) { agree(t, c.stage(t), c.need, c.want) })
	}
}

// TestReplaceableAsUser asks as another user, to whom root's directory says no.
func TestReplaceableAsUser(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setreuid(65534, 0); err != nil { // access(2) asks the real user
		t.Fatal(err)
	}
	err := Replaceable(dir+"/main.cf", 10)
	if e := syscall.Setreuid(0, 0); e != nil {
		t.Fatal(e)
	}
	if reason(err) != NotWritable {
		t.Errorf("got %v, want %s", err, NotWritable)
	}
}

func TestMountPoints(t *testing.T) {
	points, err := mountPoints(strings.NewReader(
		"36 35 98:0 /mnt1 /etc/postfix/main.cf rw,noatime master:1 - ext3 /dev/root rw\n" +
			"37 35 98:0 / /a\\040b\\134c rw - tmpfs none rw\nshort line\n\n" +
			"38 35 98:0 / /no\u00a0break\r rw - tmpfs none rw\n"))
	if err != nil || !points["/etc/postfix/main.cf"] || !points[`/a b\c`] || !points["/no\u00a0break\r"] || len(points) != 3 {
		t.Errorf("got %v, %v", points, err)
	}
}
