package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// corpusPair is a main.cf with a master.cf, as testdata/corpus/pairs.txt has
// it, and how the two lie on disk.
type corpusPair struct {
	name         string
	main, master []byte

	dir        string // configuration directory
	mode       uint32 // of main.cf
	masterMode uint32
	owner      string // of main.cf, "user:group"; "" is root:root
	link       string // main.cf is a symbolic link: "absolute" or "relative"
	masterLink string
	hard       bool // main.cf has a second name
	xattr      bool
	acl        bool
	old        bool // last changed in 2001, and read-only

	args    []string // of install-cert
	refused string   // id of the problem, if the change is refused
	exit    int
	release int // exit status of release
}

const corpusDir = "../../testdata/corpus/"

// corpus reads all pairs.
func corpus(t testing.TB) []corpusPair {
	t.Helper()
	mains, masters := texts(t, "main.txt"), texts(t, "master.txt")
	parts := strings.SplitN(readCorpus(t, "pairs.txt"), "\n\n", 3)
	if len(parts) < 3 {
		t.Fatal("pairs.txt has no table")
	}
	var out []corpusPair
	for line := range strings.Lines(parts[2]) {
		f := strings.Fields(line)
		if len(f) < 2 || mains[f[0]] == "" || masters[f[1]] == "" {
			t.Fatalf("pairs.txt: %q names no text", line)
		}
		p := corpusPair{name: fmt.Sprintf("%03d %s", len(out)+1, strings.Join(f, " ")), dir: "/etc/postfix", mode: 0o644, masterMode: 0o644,
			main: []byte(mains[f[0]]), master: []byte(included(t, masters[f[1]], masters))}
		for _, word := range f[2:] {
			if err := p.special(word); err != nil {
				t.Fatalf("pairs.txt: %q: %v", line, err)
			}
		}
		out = append(out, p)
	}
	return out
}

// special reads one word of the table.
func (p *corpusPair) special(word string) error {
	key, value, _ := strings.Cut(word, "=")
	change := func(f func(string) string) {
		if value != "master" {
			p.main = []byte(f(string(p.main)))
		}
		if value != "main" {
			p.master = []byte(f(string(p.master)))
		}
	}
	var err error
	switch key {
	case "crlf":
		change(func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") })
	case "bare":
		change(func(s string) string { return strings.TrimSuffix(s, "\n") })
	case "tail":
		change(func(s string) string { return s + "# the end, without a newline" })
	case "bom":
		change(func(s string) string { return "\n  \n\t\n# what follows was generated\n" + s })
	case "mode":
		p.mode, err = octal(value)
	case "master":
		p.masterMode, err = octal(value)
	case "owner":
		p.owner = value
	case "link":
		p.link = value
	case "masterlink":
		p.masterLink = value
	case "hard":
		p.hard = true
	case "xattr":
		p.xattr = true
	case "acl":
		p.acl = true
	case "old":
		p.old, p.mode, p.masterMode = true, 0o444, 0o444
	case "at":
		p.dir = value
	case "arg":
		p.args = append(p.args, value)
	case "refused":
		p.refused = value
	case "exit":
		p.exit, err = strconv.Atoi(value)
	case "release":
		p.release, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("what is %s", word)
	}
	return err
}

func octal(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	return uint32(n), err
}

func readCorpus(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(corpusDir + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// texts are the texts of a file by name. The comment before the first is none.
func texts(t testing.TB, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var current string
	for line := range strings.Lines(readCorpus(t, name)) {
		if title, ok := strings.CutPrefix(line, "== "); ok {
			if current = strings.TrimSpace(title); out[current] != "" {
				t.Fatalf("%s has %s twice", name, current)
			}
		} else if current != "" {
			out[current] += line
		}
	}
	return out
}

// included puts texts in the place of the lines that name them.
func included(t testing.TB, text string, all map[string]string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "@"); ok {
			line = all[strings.TrimSpace(name)]
			if line == "" {
				t.Fatalf("no text %q", name)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// lay writes the two files below root (which is "" on a host of their own) as
// the pair wants them, and returns the paths of the real files.
func (p *corpusPair) lay(root string) (main, master string, err error) {
	dir := filepath.Join(root, p.dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	if main, err = p.layFile(root, "main.cf", p.main, p.link, p.mode); err != nil {
		return "", "", err
	}
	if master, err = p.layFile(root, "master.cf", p.master, p.masterLink, p.masterMode); err != nil {
		return "", "", err
	}
	if p.owner != "" {
		if err := chownByName(main, p.owner); err != nil {
			return "", "", err
		}
		if err := os.Chmod(main, os.FileMode(p.mode)); err != nil {
			return "", "", err
		}
	}
	if p.acl {
		if err := syscall.Setxattr(main, "system.posix_acl_access", accessList(p.mode), 0); err != nil {
			return "", "", fmt.Errorf("access control list: %w", err)
		}
	}
	if p.hard {
		if err := os.Link(main, filepath.Join(dir, "main.cf.linked")); err != nil {
			return "", "", err
		}
	}
	return main, master, p.age(main, master)
}

// layFile writes one file, or the file that it links to.
func (p *corpusPair) layFile(root, name string, data []byte, link string, mode uint32) (string, error) {
	path := filepath.Join(root, p.dir, name)
	real := path
	switch link {
	case "absolute":
		real = filepath.Join(root, "/etc/managed", name)
	case "relative":
		real = filepath.Join(root, p.dir, "managed", name)
	}
	if real != path {
		target := real
		if link == "relative" {
			target = filepath.Join("managed", name)
		}
		if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
			return "", err
		}
		if err := os.Symlink(target, path); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(real, data, 0o600); err != nil {
		return "", err
	}
	if p.xattr {
		for name, value := range map[string]string{"user.comment": "by hand\x00\xff", "trusted.note": "kept"} {
			if err := syscall.Setxattr(real, name, []byte(value), 0); err != nil {
				return "", fmt.Errorf("attribute %s: %w", name, err)
			}
		}
	}
	return real, os.Chmod(real, os.FileMode(mode))
}

// age sets modification times in the past: Postfix waits for a young main.cf.
func (p *corpusPair) age(paths ...string) error {
	when := time.Now().Add(-time.Hour)
	if p.old {
		when = time.Date(2001, 9, 9, 1, 46, 40, 123456789, time.UTC)
	}
	for _, path := range paths {
		if err := os.Chtimes(path, when, when); err != nil {
			return err
		}
	}
	return nil
}

// accessList is acl(5) as the kernel keeps it in an attribute: version 2, then
// entries of tag, permissions and id. User 1 may read too.
func accessList(mode uint32) []byte {
	out := []byte{2, 0, 0, 0}
	const none = 0xffffffff
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, uint16(mode >> 6 & 7), none}, {0x02, 4, 1}, {0x04, uint16(mode >> 3 & 7), none}, {0x10, 4, none}, {0x20, uint16(mode & 7), none}} {
		out = append(out, byte(e.tag), byte(e.tag>>8), byte(e.perm), byte(e.perm>>8), byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	return out
}

// inode is what must stay of a file beside its bytes.
type inode struct {
	mode     os.FileMode
	uid, gid uint32
	links    uint64
	mtime    time.Time
	target   string // of a symbolic link
	xattrs   string
}

func inodeOf(path string) (inode, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return inode{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	n := inode{mode: fi.Mode(), uid: st.Uid, gid: st.Gid, links: uint64(st.Nlink), mtime: fi.ModTime()}
	if fi.Mode()&os.ModeSymlink != 0 {
		n.target, err = os.Readlink(path)
		return n, err
	}
	n.xattrs, err = attributes(path)
	return n, err
}

// attributes are all extended attributes of a file, in order.
func attributes(path string) (string, error) {
	names := make([]byte, 4096)
	k, err := syscall.Listxattr(path, names)
	if err != nil {
		return "", err
	}
	list := strings.Split(strings.TrimSuffix(string(names[:k]), "\x00"), "\x00")
	slices.Sort(list)
	var out []string
	for _, name := range list {
		value := make([]byte, 4096)
		if name == "" {
			continue
		}
		k, err := syscall.Getxattr(path, name, value)
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf("%s=%q", name, value[:k]))
	}
	return strings.Join(out, " "), nil
}

// chownByName gives a file to "user:group".
func chownByName(path, owner string) error {
	name, group, _ := strings.Cut(owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(g.Gid)
	return errors.Join(err1, err2, os.Chown(path, uid, gid))
}
