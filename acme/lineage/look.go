package lineage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postcert/verify/keypair"
)

// Look is what the file system says of the files of a source without opening one
// of them: which links lead to them, which inodes they are, how large, and since
// when. Two equal looks around a read tell that it read what is there, unless
// somebody writes the same number of bytes within one tick of the kernel's clock.
type Look struct {
	Sum     string    // of all of it, in hex; equal looks have equal sums
	Changed time.Time // the latest change that the file system remembers, by its clock
	Missing string    // the first path that leads nowhere; "" if none does
	Gone    string    // a file that has no name any more: it is reached through a mount of that single file
}

// maxLinks is how many symbolic links a path may lead through; the kernel's own
// limit.
const maxLinks = 40

// LookAt looks at the files of a source. visit, if it is not nil, is called before
// each entry of a directory is looked at, with that directory (free of links) and
// the entry's name: whoever watches these directories from then on misses nothing
// that happens after the look.
func LookAt(src keypair.Source, visit func(dir, name string)) Look {
	l := looker{hash: sha256.New(), visit: visit}
	for _, path := range Files(src) {
		l.follow(path)
	}
	l.look.Sum = hex.EncodeToString(l.hash.Sum(nil))
	return l.look
}

// Files are the paths of a source, certificate first, each once.
func Files(src keypair.Source) []string {
	var out []string
	for i, path := range []string{src.Cert, src.Key, src.Chain} {
		if path != "" && (i == 0 || path != src.Cert) {
			out = append(out, path)
		}
	}
	return out
}

type looker struct {
	hash  hash.Hash
	visit func(dir, name string)
	look  Look
}

// follow walks a path component by component, as the kernel does.
func (l *looker) follow(path string) {
	l.note("path %q", path)
	if !filepath.IsAbs(path) {
		l.lost(path, "/")
		return
	}
	at, todo := "/", strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at) // at has no links in it
			continue
		}
		if l.visit != nil {
			l.visit(at, name)
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			l.lost(next, at)
			return
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if len(todo) == 0 || !info.IsDir() {
				l.file(next, info)
				return
			}
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			l.lost(next, at)
			return
		}
		l.link(target, info)
		todo = append(strings.Split(target, "/"), todo...)
		if filepath.IsAbs(target) {
			at = "/"
		}
	}
	l.lost(path, at) // it leads to a directory
}

func (l *looker) link(target string, info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		l.note("link %q %d %d %v", target, st.Dev, st.Ino, st.Ctim)
		l.changed(time.Unix(st.Ctim.Unix()))
	}
}

func (l *looker) file(path string, info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		l.note("file %q %o %d %d %d %v %v", path, st.Mode, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
		l.changed(time.Unix(st.Ctim.Unix()))
		if st.Nlink == 0 && l.look.Gone == "" {
			l.look.Gone = path
		}
	}
}

// lost notes a path that leads nowhere. When it went is known to the directory
// that it is missing from.
func (l *looker) lost(path, dir string) {
	l.note("lost %q", path)
	if l.look.Missing == "" {
		l.look.Missing = path
	}
	if info, err := os.Lstat(dir); err == nil {
		l.changed(info.ModTime())
	}
}

func (l *looker) changed(t time.Time) {
	if t.After(l.look.Changed) {
		l.look.Changed = t
	}
}

func (l *looker) note(format string, args ...any) { fmt.Fprintf(l.hash, format+"\n", args...) }
