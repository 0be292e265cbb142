package postfixtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// File is all that a change to a file could have changed, except its inode.
type File struct {
	Mode     fs.FileMode
	UID, GID int
	MTime    time.Time // of regular files
	Data     []byte    // of regular files
	Target   string    // of symbolic links
	Xattrs   map[string]string
}

// Files is a tree by path relative to its root.
type Files map[string]File

// Files takes a picture of the configuration directory.
func (i *Instance) Files() Files {
	i.t.Helper()
	return Tree(i.t, i.ConfigDir)
}

// Tree takes a picture of everything below dir.
func Tree(t testing.TB, dir string) Files {
	t.Helper()
	out := Files{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := picture(path)
		out[name] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func picture(path string) (File, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	f := File{Mode: fi.Mode(), UID: int(st.Uid), GID: int(st.Gid)}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		f.Target, err = os.Readlink(path)
		return f, err
	case fi.Mode().IsRegular():
		f.MTime = fi.ModTime()
		if f.Data, err = os.ReadFile(path); err != nil {
			return f, err
		}
	}
	f.Xattrs, err = xattrs(path)
	return f, err
}

func xattrs(path string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := syscall.Listxattr(path, buf)
	if err == syscall.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing attributes of %s: %w", path, err)
	}
	out := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		k, err := syscall.Getxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("reading attribute %s of %s: %w", name, path, err)
		}
		out[name] = string(value[:k])
	}
	return out, nil
}

// Compare lists what differs between two pictures, one line each, sorted by
// path; contents are not printed, because a file may be a key.
func Compare(before, after Files) []string {
	var out []string
	names := map[string]bool{}
	for n := range before {
		names[n] = true
	}
	for n := range after {
		names[n] = true
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		a, had := before[n]
		b, has := after[n]
		switch {
		case !had:
			out = append(out, n+": new")
		case !has:
			out = append(out, n+": gone")
		default:
			out = append(out, differences(n, a, b)...)
		}
	}
	return out
}

func differences(name string, a, b File) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, name+": "+fmt.Sprintf(format, args...)) }
	if a.Mode != b.Mode {
		say("mode %v, was %v", b.Mode, a.Mode)
	}
	if a.UID != b.UID || a.GID != b.GID {
		say("owner %d:%d, was %d:%d", b.UID, b.GID, a.UID, a.GID)
	}
	if !bytes.Equal(a.Data, b.Data) {
		say("content differs")
	}
	if a.Target != b.Target {
		say("target %q, was %q", b.Target, a.Target)
	}
	if !a.MTime.Equal(b.MTime) {
		say("mtime %v, was %v", b.MTime, a.MTime)
	}
	if !maps.Equal(a.Xattrs, b.Xattrs) {
		say("attributes %q, were %q", b.Xattrs, a.Xattrs)
	}
	return out
}
