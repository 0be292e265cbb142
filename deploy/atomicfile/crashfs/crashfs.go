// Package crashfs is a file system in memory that forgets what was not synced.
// It is test help, like net/http/httptest: only tests import it.
//
// A power cut leaves some of the changes that were not forced to disk, and a
// program is right only if each possible remainder is one that it can live
// with. Trying that on real disks finds a few of them. Here they are
// enumerated, after the method of "All File Systems Are Not Created Equal"
// (ALICE, OSDI 2014): [FS] implements the seam atomicfile.FS, keeps for each
// inode and each name what is on disk and what is only in memory, and
// [FS.Crashes] yields the file systems that a cut at this moment can leave.
//
// What a crash may do, in both models:
//
//   - content of a file that was not synced: as synced before, empty, the
//     first half, the right length in zeros, or all of it; its attributes as
//     synced before or as set;
//   - attributes of a directory that was not synced: before or after.
//
// And to names, which are what the models differ in: see [Model].
package crashfs

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
)

// Op is one call that changes something, for [FS.Before].
type Op struct {
	Name string // "create", "write", "fsync", "rename", ...
	Path string
}

func (o Op) String() string { return o.Name + " " + o.Path }

// FS is the file system. The zero value is not usable; see [New].
type FS struct {
	// Before is called ahead of each change. An error becomes the call's own
	// error, and nothing is changed.
	Before func(Op) error
	// After is called when a change was made.
	After func(Op)
	// Canonical rewrites the text that Digest is made of, all names and contents
	// among it, so that what a program makes up at random does not count. Nil
	// leaves it as it is.
	Canonical func([]byte) []byte

	// Limit bounds what Crashes yields; 0 is 400. A program that syncs has a
	// handful of pending changes and all their combinations are below it; one
	// that does not has more, and gets the extremes, each single change lost or
	// kept, and a random sample, the same in each run.
	Limit int

	root *inode
	ids  uint64
	seq  int // number of the last change of a name
	kept int // changes up to here are on disk in the Ordered model
}

type meta struct {
	mode     uint32
	uid, gid uint32
	xattrs   map[string][]byte // never changed in place
	mtime    time.Time
}

type version struct {
	seq int
	ino *inode // nil: the name does not exist
}

type inode struct {
	id     uint64
	kind   atomicfile.Kind
	target string // of a symbolic link
	data   []byte // never changed in place
	meta
	diskData []byte
	diskMeta meta
	// names of a directory: what was on disk, then each change since.
	names map[string][]version
}

// New returns an empty file system: a root directory, owned by 0:0.
func New() *FS {
	f := &FS{}
	f.root = f.inode(atomicfile.Directory, 0o755)
	f.root.diskMeta = f.root.meta
	return f
}

func (f *FS) inode(kind atomicfile.Kind, mode uint32) *inode {
	f.ids++
	n := &inode{id: f.ids, kind: kind, meta: meta{mode: mode, mtime: time.Now()}}
	n.diskMeta = n.meta
	if kind == atomicfile.Directory {
		n.names = map[string][]version{}
	}
	return n
}

// look is the present meaning of a name, nil if there is none.
func (n *inode) look(name string) *inode {
	v := n.names[name]
	if len(v) == 0 {
		return nil
	}
	return v[len(v)-1].ino
}

func (n *inode) set(name string, seq int, to *inode) {
	if len(n.names[name]) == 0 {
		n.names[name] = []version{{}}
	}
	n.names[name] = append(n.names[name], version{seq, to})
}

func (n *inode) list() []string {
	var names []string
	for name := range n.names {
		if n.look(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func fail(op, path string, err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }

// find returns the inode at path, nil if the last element does not exist.
func (f *FS) find(op, path string) (*inode, error) {
	n := f.root
	todo := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for i, name := range todo {
		if n.kind != atomicfile.Directory {
			return nil, fail(op, path, syscall.ENOTDIR)
		}
		next := n.look(name)
		if next == nil && i < len(todo)-1 {
			return nil, fail(op, path, syscall.ENOENT)
		}
		n = next
	}
	return n, nil
}

func (f *FS) parent(op, path string) (*inode, string, error) {
	n, err := f.find(op, filepath.Dir(path))
	switch {
	case err != nil:
		return nil, "", fail(op, path, err.(*fs.PathError).Err)
	case n == nil:
		return nil, "", fail(op, path, syscall.ENOENT)
	case n.kind != atomicfile.Directory:
		return nil, "", fail(op, path, syscall.ENOTDIR)
	}
	return n, filepath.Base(path), nil
}

func (f *FS) change(op, path string, do func() error) error {
	if f.Before != nil {
		if err := f.Before(Op{op, path}); err != nil {
			return fail(op, path, err)
		}
	}
	if err := do(); err != nil {
		return fail(op, path, err)
	}
	if f.After != nil {
		f.After(Op{op, path})
	}
	return nil
}

// add makes a new name.
func (f *FS) add(op, path string, make func() *inode) (*inode, error) {
	var made *inode
	err := f.change(op, path, func() error {
		dir, name, err := f.parent(op, path)
		if err != nil {
			return err.(*fs.PathError).Err
		}
		if dir.look(name) != nil {
			return syscall.EEXIST
		}
		made = make()
		f.seq++
		dir.set(name, f.seq, made)
		return nil
	})
	return made, err
}

// Create implements atomicfile.FS.
func (f *FS) Create(path string) (atomicfile.FileHandle, error) {
	n, err := f.add("create", path, func() *inode { return f.inode(atomicfile.File, 0o600) })
	if err != nil {
		return nil, err
	}
	return &handle{fs: f, ino: n, path: path, writable: true}, nil
}

// Open implements atomicfile.FS.
func (f *FS) Open(path string) (atomicfile.FileHandle, error) {
	n, err := f.existing("open", path)
	if err != nil {
		return nil, err
	}
	if n.kind == atomicfile.Symlink {
		return nil, &atomicfile.RefusedError{Path: path, Reason: atomicfile.IsSymlink}
	}
	return &handle{fs: f, ino: n, path: path}, nil
}

func (f *FS) existing(op, path string) (*inode, error) {
	n, err := f.find(op, path)
	if err == nil && n == nil {
		err = fail(op, path, syscall.ENOENT)
	}
	return n, err
}

// Lstat implements atomicfile.FS.
func (f *FS) Lstat(path string) (atomicfile.Info, error) {
	n, err := f.existing("lstat", path)
	if err != nil {
		return atomicfile.Info{}, err
	}
	return n.info(), nil
}

func (n *inode) info() atomicfile.Info {
	return atomicfile.Info{
		Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Size: int64(len(n.data)),
		MTime: n.mtime, Dev: 1, Ino: n.id, Nlink: 1,
	}
}

// ReadDir implements atomicfile.FS.
func (f *FS) ReadDir(path string) ([]string, error) {
	n, err := f.existing("readdir", path)
	if err != nil {
		return nil, err
	}
	return n.list(), nil
}

// Readlink implements atomicfile.FS.
func (f *FS) Readlink(path string) (string, error) {
	n, err := f.existing("readlink", path)
	if err == nil && n.kind != atomicfile.Symlink {
		err = fail("readlink", path, syscall.EINVAL)
	}
	if err != nil {
		return "", err
	}
	return n.target, nil
}

// Mkdir implements atomicfile.FS.
func (f *FS) Mkdir(path string) error {
	_, err := f.add("mkdir", path, func() *inode { return f.inode(atomicfile.Directory, 0o700) })
	return err
}

// Symlink implements atomicfile.FS.
func (f *FS) Symlink(target, path string) error {
	_, err := f.add("symlink", path, func() *inode {
		n := f.inode(atomicfile.Symlink, 0o777)
		n.target = target
		return n
	})
	return err
}

// Rename implements atomicfile.FS.
func (f *FS) Rename(from, to string) error {
	return f.change("rename", to, func() error {
		dir, name, err := f.parent("rename", from)
		if err != nil {
			return err.(*fs.PathError).Err
		}
		if filepath.Dir(from) != filepath.Dir(to) {
			return syscall.EXDEV
		}
		moved, old := dir.look(name), dir.look(filepath.Base(to))
		switch {
		case moved == nil:
			return syscall.ENOENT
		case old == nil:
		case old.kind == atomicfile.Directory && moved.kind != atomicfile.Directory:
			return syscall.EISDIR
		case old.kind == atomicfile.Directory && len(old.list()) > 0:
			return syscall.ENOTEMPTY
		case old.kind != atomicfile.Directory && moved.kind == atomicfile.Directory:
			return syscall.ENOTDIR
		}
		f.seq++ // one change: in the Ordered model both names or none
		dir.set(filepath.Base(to), f.seq, moved)
		dir.set(name, f.seq, nil)
		return nil
	})
}

// Remove implements atomicfile.FS.
func (f *FS) Remove(path string) error {
	return f.change("remove", path, func() error {
		dir, name, err := f.parent("remove", path)
		if err != nil {
			return err.(*fs.PathError).Err
		}
		n := dir.look(name)
		if n == nil {
			return syscall.ENOENT
		}
		if n.kind == atomicfile.Directory && len(n.list()) > 0 {
			return syscall.ENOTEMPTY
		}
		f.seq++
		dir.set(name, f.seq, nil)
		return nil
	})
}

// SyncDir implements atomicfile.FS.
func (f *FS) SyncDir(path string) error {
	return f.change("fsync", path, func() error {
		n, err := f.existing("fsync", path)
		if err != nil {
			return err.(*fs.PathError).Err
		}
		if n.kind != atomicfile.Directory {
			return syscall.ENOTDIR
		}
		f.sync(n)
		return nil
	})
}

// sync puts an inode on disk. On ext4 and its like that also commits the
// journal, with all earlier changes of names.
func (f *FS) sync(n *inode) {
	n.diskData, n.diskMeta = n.data, n.meta
	for name, v := range n.names {
		n.names[name] = v[len(v)-1:]
		if v[len(v)-1].ino == nil {
			delete(n.names, name)
		}
	}
	f.kept = f.seq
}

// SyncAll puts everything on disk, as a machine that was idle for a while.
func (f *FS) SyncAll() {
	var walk func(n *inode)
	walk = func(n *inode) {
		f.sync(n)
		for _, name := range n.list() {
			walk(n.look(name))
		}
	}
	walk(f.root)
}

// Clone returns an independent copy, with what is on disk and what is not.
// Before and After are not copied.
func (f *FS) Clone() *FS {
	seen := map[*inode]*inode{}
	var copyOf func(n *inode) *inode
	copyOf = func(n *inode) *inode {
		if n == nil {
			return nil
		}
		if c, ok := seen[n]; ok {
			return c
		}
		c := *n
		seen[n] = &c
		c.names = maps.Clone(n.names)
		for name, v := range c.names {
			c.names[name] = slices.Clone(v)
			for i := range c.names[name] {
				c.names[name][i].ino = copyOf(v[i].ino)
			}
		}
		return &c
	}
	return &FS{root: copyOf(f.root), ids: f.ids, seq: f.seq, kept: f.kept, Canonical: f.Canonical, Limit: f.Limit}
}
