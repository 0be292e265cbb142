package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// umask sets the process's mask for the test. No test here is parallel.
func umask(t *testing.T, mask int) {
	t.Helper()
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

func TestWrite(t *testing.T) {
	when := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	for _, c := range []struct {
		name string
		mask int
		mode uint32
	}{
		{"key", 0o022, 0o600},
		{"no mask", 0, 0o644},
		{"every bit masked", 0o777, 0o640},
		{"odd bits", 0o077, 0o4751},
	} {
		t.Run(c.name, func(t *testing.T) {
			umask(t, 0)
			dir := t.TempDir()
			umask(t, c.mask)
			path := filepath.Join(dir, "file")
			attr := mine(c.mode)
			attr.MTime = when
			for _, data := range []string{"first", "second, and longer", ""} {
				if err := Write(OS, path, []byte(data), attr); err != nil {
					t.Fatal(err)
				}
				s, err := Capture(OS, path)
				if err != nil {
					t.Fatal(err)
				}
				if string(s.Data) != data || s.Mode != c.mode || !s.MTime.Equal(when) {
					t.Errorf("got %q %v %v, want %q %04o %v", s.Data, s, s.MTime, data, c.mode, when)
				}
			}
			if names, _ := OS.ReadDir(dir); len(names) != 1 {
				t.Errorf("left over: %v", names)
			}
		})
	}
}

func TestWriteOwner(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := Write(OS, path, nil, Attr{Mode: 0o2750, UID: 12, GID: 34}); err != nil {
		t.Fatal(err)
	}
	s, err := Capture(OS, path)
	if err != nil || s.UID != 12 || s.GID != 34 || s.Mode != 0o2750 {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(path string) error
		want Reason
	}{
		{"symbolic link", func(p string) error { return os.Symlink("elsewhere", p) }, IsSymlink},
		{"directory", func(p string) error { return os.Mkdir(p, 0o700) }, NotRegular},
		{"FIFO", func(p string) error { return syscall.Mkfifo(p, 0o600) }, NotRegular},
		{"hard link", func(p string) error {
			return errors.Join(os.WriteFile(p+"2", []byte("x"), 0o600), os.Link(p+"2", p))
		}, HardLinked},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			was, _ := OS.Lstat(path)
			if err := Write(OS, path, []byte("ours"), mine(0o600)); reason(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if now, err := OS.Lstat(path); err != nil || now.Ino != was.Ino {
				t.Errorf("it was replaced: %v", err)
			}
			if names, _ := OS.ReadDir(dir); strings.Contains(strings.Join(names, " "), tempPrefix) {
				t.Errorf("left over: %v", names)
			}
		})
	}
	err := Write(OS, filepath.Join(t.TempDir(), "missing", "file"), nil, mine(0o600))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: got %v", err)
	}
}

// TestCreateIsExclusive: a name that is taken, by whatever, is an error and
// never opened.
func TestCreateIsExclusive(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "theirs", 0o600)
	if err := errors.Join(os.Symlink("file", dir+"/link"), os.Symlink("none", dir+"/dangling")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link", "dangling"} {
		if _, err := Create(OS, dir+"/"+name, []byte("ours"), mine(0o600)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want %v", name, err, fs.ErrExist)
		}
	}
	if data, err := ReadFile(OS, dir+"/file", 10); err != nil || string(data) != "theirs" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := os.Lstat(dir + "/none"); err == nil {
		t.Error("the link was followed")
	}
}

func TestPutEachKind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	states := []State{
		{Kind: Absent},
		NewFile([]byte("a"), mine(0o600)),
		{Kind: Symlink, Target: "nowhere"},
		NewFile([]byte("b"), mine(0o644)),
		{Kind: Absent},
		{Kind: Directory, Attr: mine(0o750)},
		{Kind: Absent},
		{Kind: Symlink, Target: "nowhere else"},
	}
	for _, want := range states {
		for range 2 { // the second changes nothing
			if err := Put(OS, path, want); err != nil {
				t.Fatalf("%v: %v", want, err)
			}
			if got, err := Capture(OS, path); err != nil || !got.Same(want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		}
	}
}

func TestXattrs(t *testing.T) {
	needRoot(t)
	// tmpfs has user.* since Linux 6.6; the temporary directory's own file
	// system has both.
	dir := t.TempDir()
	path, other := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, path, "x", 0o640)
	f := open(t, path)
	for name, value := range map[string]string{
		"user.note": "kept", "user.empty": "", "trusted.t": "v", "security.postcert": "label",
		"system.posix_acl_access": acl(4, 65534, 4),
	} {
		if err := f.SetXattr(name, []byte(value)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	s, err := Capture(OS, path)
	if err != nil || len(s.Xattrs) != 5 {
		t.Fatalf("got %q, %v", s.Xattrs, err)
	}
	if err := Put(OS, other, s); err != nil {
		t.Fatal(err)
	}
	if got, err := Capture(OS, other); err != nil || !got.Same(s) {
		t.Errorf("got %v %q, %v; want %v %q", got, got.Xattrs, err, s, s.Xattrs)
	}
	// What is not wanted goes, the security namespace aside.
	s.Xattrs = map[string][]byte{"user.note": []byte("changed")}
	if err := Put(OS, other, s); err != nil {
		t.Fatal(err)
	}
	if got, _ := Capture(OS, other); len(got.Xattrs) != 1 || string(got.Xattrs["user.note"]) != "changed" {
		t.Errorf("got %q", got.Xattrs)
	}
}

// acl is a POSIX ACL in the kernel's form (linux/posix_acl_xattr.h, version 2)
// with one named user.
func acl(perm byte, uid uint32, mask byte) string {
	entry := func(tag uint16, perm byte, id uint32) string {
		return string([]byte{byte(tag), byte(tag >> 8), perm, 0, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	}
	const none = 0xffffffff
	return "\x02\x00\x00\x00" + entry(1, 6, none) + entry(2, perm, uid) + entry(4, 4, none) + entry(16, mask, none) + entry(32, 0, none)
}

// TestDefaultACL: a directory's default ACL must not give somebody our key.
func TestDefaultACL(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	d := open(t, dir)
	if err := d.SetXattr("system.posix_acl_default", []byte(acl(4, 65534, 7))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "key")
	write(t, path, "x", 0o640)
	if s, err := Capture(OS, path); err != nil || len(s.Xattrs) != 0 || s.Mode != 0o640 {
		t.Errorf("got %v %q, %v", s, s.Xattrs, err)
	}
}

func open(t *testing.T, path string) FileHandle {
	t.Helper()
	f, err := OS.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	write(t, file, "0123456789", 0o600)
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink("file", dir+"/link"),
		os.Truncate(file, 10), os.Link(file, dir+"/hard"), os.WriteFile(dir+"/sparse", nil, 0o600),
		os.Truncate(dir+"/sparse", 1<<30)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		path         string
		max          int64
		read, noLink Reason // of Read and of ReadFile
	}{
		{"at the limit", "/link", 10, "", IsSymlink},
		{"above the limit", "/file", 9, TooLarge, HardLinked},
		{"hard link", "/hard", 10, "", HardLinked},
		{"FIFO", "/fifo", 10, NotRegular, NotRegular},
		{"directory", "", 10, NotRegular, NotRegular},
		{"1 GiB of nothing", "/sparse", 1 << 20, TooLarge, TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Read(dir+c.path, c.max); reason(err) != c.read || (err != nil) != (c.read != "") {
				t.Errorf("Read: got %v, want %q", err, c.read)
			}
			if _, err := ReadFile(OS, dir+c.path, c.max); reason(err) != c.noLink {
				t.Errorf("ReadFile: got %v, want %q", err, c.noLink)
			}
		})
	}
	if _, err := Read("/dev/zero", 10); reason(err) != NotRegular {
		t.Errorf("device: got %v", err)
	}
	if _, err := Read(dir+"/none", 10); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("missing: got %v", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	stale, fresh := TempName(dir), TempName(dir)
	link := TempName(dir)
	keep := []string{filepath.Join(dir, ".postcert-notes"), filepath.Join(dir, "main.cf.tmp"), fresh}
	for _, path := range append([]string{stale}, keep...) {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("main.cf", link); err != nil {
		t.Fatal(err)
	}
	cut := time.Now().Add(time.Minute)
	if err := os.Chtimes(fresh, time.Time{}, cut.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	gone, err := Sweep(OS, dir, cut)
	if err != nil || len(gone) != 2 {
		t.Errorf("got %v, %v; want %s and %s", gone, err, stale, link)
	}
	for _, path := range keep {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("swept what is not ours: %v", err)
		}
	}
	if gone, err := Sweep(OS, dir+"/none", cut); len(gone) != 0 || err != nil {
		t.Errorf("missing directory: got %v, %v", gone, err)
	}
}

// TestSweepWhateverTheOwner: a killed run may have come as far as the chown.
func TestSweepWhateverTheOwner(t *testing.T) {
	needRoot(t)
	path := TempName(t.TempDir())
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if gone, err := Sweep(OS, filepath.Dir(path), time.Now().Add(time.Hour)); len(gone) != 1 || err != nil {
		t.Errorf("got %v, %v", gone, err)
	}
}

func TestLinksOnTheWay(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, err := range []error{
		os.Mkdir(dir+"/real", 0o700), os.Symlink("real", dir+"/ours"), os.Symlink(dir+"/ours", dir+"/twice"),
		os.Symlink("real", dir+"/theirs"), os.Lchown(dir+"/theirs", 65534, 65534),
		os.Symlink("loop", dir+"/loop"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/twice/file", "x", 0o600)
	if data, err := ReadFile(OS, dir+"/real/file", 10); err != nil || string(data) != "x" {
		t.Errorf("through our links: got %q, %v", data, err)
	}
	if err := Write(OS, dir+"/theirs/file", nil, mine(0o600)); reason(err) != ForeignLink {
		t.Errorf("through another user's link: got %v, want %s", err, ForeignLink)
	}
	if err := OS.SyncDir(dir + "/theirs"); reason(err) != ForeignLink {
		t.Errorf("fsync through another user's link: got %v, want %s", err, ForeignLink)
	}
	if err := Write(OS, dir+"/loop/file", nil, mine(0o600)); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("loop: got %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := MkdirAll(OS, dir+"/a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Capture(OS, dir+"/a/b/c"); err != nil || s.Kind != Directory || s.Mode != 0o700 {
		t.Errorf("got %v, %v", s, err)
	}
	write(t, dir+"/file", "", 0o600)
	if err := MkdirAll(OS, dir+"/file"); reason(err) != NotDirectory {
		t.Errorf("got %v", err)
	}
}
