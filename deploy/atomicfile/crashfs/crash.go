package crashfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"

	"postcert/deploy/atomicfile"
)

// Model says what a crash does to names that were changed and not synced.
type Model int

const (
	// Ordered is ext4 and its like: changes of names reach the disk in the
	// order in which they were made, in all directories together, a rename
	// as one; an fsync of anything brings all earlier ones.
	Ordered Model = iota
	// Weak promises only what POSIX does: each name by itself is in any state
	// it had since its directory was synced. A rename can leave both names of a
	// file.
	Weak
)

func (m Model) String() string { return [...]string{"ordered", "weak"}[m] }

// choice is one thing that a crash decides: options are applied to the copy.
type choice []func()

// Crashes yields each file system that a power cut now can leave. All of it is
// on disk in them. Their number is bounded; see [FS.Limit].
func (f *FS) Crashes(m Model) iter.Seq[*FS] {
	return func(yield func(*FS) bool) {
		for _, pick := range f.picks(m) {
			c := f.Clone()
			for i, options := range c.choices(m) {
				options[pick[i]]()
			}
			c.SyncAll()
			if c.twoNames() {
				continue
			}
			if !yield(c) {
				return
			}
		}
	}
}

// twoNames tells whether a directory has two, which no file system has after
// its own recovery: in the Weak model too, one that was renamed has the old
// name, the new one, or is lost.
func (f *FS) twoNames() bool {
	seen := map[*inode]bool{}
	for _, n := range f.inodes() {
		for _, name := range n.list() {
			to := n.look(name)
			if to.kind == atomicfile.Directory && seen[to] {
				return true
			}
			seen[to] = true
		}
	}
	return false
}

// picks returns one option index per choice, for each crash.
func (f *FS) picks(m Model) [][]int {
	limit := f.Limit
	if limit == 0 {
		limit = 400
	}
	var sizes []int
	total := 1
	for _, options := range f.Clone().choices(m) {
		sizes = append(sizes, len(options))
		total = min(total*len(options), limit+1)
	}
	if total > limit {
		return sample(sizes, limit)
	}
	all := [][]int{{}}
	for _, n := range sizes {
		var next [][]int
		for _, head := range all {
			for i := range n {
				next = append(next, append(slices.Clone(head), i))
			}
		}
		all = next
	}
	return all
}

func sample(sizes []int, limit int) [][]int {
	nothing, everything := make([]int, len(sizes)), make([]int, len(sizes))
	for i, n := range sizes {
		everything[i] = n - 1
	}
	picks := [][]int{nothing, everything}
	for i, n := range sizes {
		for o := range n {
			lost, kept := slices.Clone(everything), slices.Clone(nothing)
			lost[i], kept[i] = o, o
			picks = append(picks, lost, kept)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for len(picks) < limit {
		pick := make([]int, len(sizes))
		for i, n := range sizes {
			pick[i] = r.IntN(n)
		}
		picks = append(picks, pick)
	}
	return picks
}

// choices lists what a crash decides, in a fixed order, the option that loses
// most first and the one that keeps all last.
func (f *FS) choices(m Model) []choice {
	var all []choice
	if m == Ordered {
		all = append(all, f.cut())
	}
	for _, n := range f.inodes() {
		if c := n.contents(); len(c) > 1 {
			all = append(all, c)
		}
		if !n.diskMeta.same(n.meta) {
			all = append(all, choice{func() { n.meta = n.diskMeta }, func() {}})
		}
		if m == Weak {
			all = append(all, n.entries()...)
		}
	}
	return all
}

// cut is the Ordered model: the log of names ends somewhere.
func (f *FS) cut() choice {
	var c choice
	for end := f.kept; end <= f.seq; end++ {
		c = append(c, func() {
			for _, n := range f.inodes() {
				for name, v := range n.names {
					last := v[0]
					for _, at := range v[1:] {
						if at.seq <= end {
							last = at
						}
					}
					n.names[name] = []version{last}
				}
			}
		})
	}
	return c
}

// entries is the Weak model: each name for itself.
func (n *inode) entries() []choice {
	var all []choice
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		versions := n.names[name]
		if len(versions) < 2 {
			continue
		}
		var c choice
		for _, v := range versions {
			c = append(c, func() { n.names[name] = []version{v} })
		}
		all = append(all, c)
	}
	return all
}

// contents are the bytes that a file may have.
func (n *inode) contents() choice {
	if n.kind != atomicfile.File || string(n.data) == string(n.diskData) {
		return nil
	}
	var c choice
	for _, data := range [][]byte{n.diskData, nil, n.data[:len(n.data)/2], make([]byte, len(n.data)), n.data} {
		c = append(c, func() { n.data = data })
	}
	return c
}

func (m meta) same(o meta) bool {
	return m.mode == o.mode && m.uid == o.uid && m.gid == o.gid && m.mtime.Equal(o.mtime) &&
		maps.EqualFunc(m.xattrs, o.xattrs, func(a, b []byte) bool { return string(a) == string(b) })
}

// inodes lists all that a name leads or led to since the last sync, in the
// order of their making.
func (f *FS) inodes() []*inode {
	seen := map[*inode]bool{}
	var walk func(n *inode)
	walk = func(n *inode) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		for _, versions := range n.names {
			for _, v := range versions {
				walk(v.ino)
			}
		}
	}
	walk(f.root)
	return slices.SortedFunc(maps.Keys(seen), func(a, b *inode) int { return int(a.id) - int(b.id) })
}

// Digest names the file system as it is, and what of it is on disk. Two that
// have the same are the same for every program. Of temporary files only counts
// whether there are any: their names are random, and each kill would leave
// another state without end. Times do not count either.
func (f *FS) Digest() string {
	sum := sha256.Sum256(f.root.encode(nil))
	return hex.EncodeToString(sum[:])
}

// encode appends the text that Digest is made of. It is most of the time of an
// exploration, hence no fmt.
func (n *inode) encode(b []byte) []byte {
	if n == nil {
		return append(b, "absent;"...)
	}
	b = append(append(append(append(b, n.kind...), ' '), n.target...), ' ')
	b = appendData(b, n.data)
	if string(n.data) != string(n.diskData) {
		b = appendData(append(b, " disk "...), n.diskData)
	}
	b = n.meta.encode(b)
	if !n.meta.same(n.diskMeta) {
		b = n.diskMeta.encode(b)
	}
	temps := false
	b = append(b, '{')
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		versions := n.names[name]
		if atomicfile.IsTemp(name) {
			temps = temps || n.look(name) != nil
			continue
		}
		if len(versions) == 1 && versions[0].ino == nil {
			continue
		}
		b = append(append(b, name...), '=')
		last := 0 // length of the version before
		for _, v := range versions {
			before := len(b)
			b = v.ino.encode(b)
			if now := b[before:]; last > 0 && string(now) == string(b[before-last:before]) {
				b = b[:before]
			} else {
				last = len(now)
			}
		}
	}
	if temps {
		b = append(b, "temps"...)
	}
	return append(b, '}')
}

func appendData(b, data []byte) []byte {
	return append(append(strconv.AppendInt(b, int64(len(data)), 10), ':'), data...)
}

// encode leaves out the time: times that matter are compared by the tests.
func (m meta) encode(b []byte) []byte {
	for _, n := range []uint32{m.mode, m.uid, m.gid} {
		b = strconv.AppendUint(append(b, ' '), uint64(n), 8)
	}
	for _, name := range slices.Sorted(maps.Keys(m.xattrs)) {
		b = appendData(append(append(b, ' '), name...), m.xattrs[name])
	}
	return append(b, ';')
}

// describe is the attributes, without the time, for people.
func describe(m meta) string {
	return fmt.Sprintf("%04o %d:%d %q", m.mode, m.uid, m.gid, m.xattrs)
}

// Tree describes what a reader finds below path, one entry for each path that
// exists, temporary files left out: kind, attributes, the time, and content
// for a file. It is for comparison.
func (f *FS) Tree(path string) map[string]string {
	tree := map[string]string{}
	var walk func(path string, n *inode)
	walk = func(path string, n *inode) {
		switch n.kind {
		case atomicfile.File:
			tree[path] = fmt.Sprintf("file %s %s %q", describe(n.meta), n.mtime.UTC().Format("2006-01-02T15:04:05.999999999"), n.data)
		case atomicfile.Symlink:
			tree[path] = "symlink " + n.target
		default:
			tree[path] = "directory " + describe(n.meta)
		}
		for _, name := range n.list() {
			if !atomicfile.IsTemp(name) {
				walk(filepath.Join(path, name), n.look(name))
			}
		}
	}
	if n, err := f.find("tree", path); err == nil && n != nil {
		walk(path, n)
	}
	return tree
}
