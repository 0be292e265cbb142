package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
	"postcert/deploy/generation"
)

// The world of the crash states of whole changes: what package deploy does with
// a journal and a store, in its order, without a Postfix. main.cf has a line for
// each file that Postfix reads, "read PATH", and one of somebody else.
const (
	lifeInst  = "/etc/postfix"
	lifeName  = "mail.example.com"
	lifeMain  = lifeInst + "/main.cf"
	lifeTLS   = lifeInst + "/tls"
	lifeFirst = "/etc/ssl/first.pem" // what is read before the first adoption
	lifeState = "/var/lib/postcert"
	lifeKeys  = lifeState + "/generations/.open"
)

// lifeReleased is main.cf before the adoption and after a release.
const lifeReleased = "myhostname = mail\nread " + lifeFirst + "\n"

func lifePair(n int) (key, chain []byte) {
	return fmt.Appendf(nil, "-----BEGIN PRIVATE KEY-----\n%d\n", n), fmt.Appendf(nil, "chain %d\n", n)
}

// lifeChange is one change. number is the pair that it installs, 0 for a
// release; pairs is the layout in which key and chain are two files, named by
// the pair; back is an earlier generation, for a rollback; fails, that the proof
// contradicts it.
type lifeChange struct {
	number, back int
	pairs, fails bool
}

// files are what the change writes, with main.cf as it is then.
func (c lifeChange) files() (names []string, contents [][]byte, main string) {
	key, chain := lifePair(c.number)
	switch {
	case c.number == 0:
		return nil, nil, lifeReleased
	case c.pairs:
		names = []string{fmt.Sprintf("%s/pair-%d.fullchain.pem", lifeTLS, c.number), fmt.Sprintf("%s/pair-%d.privkey.pem", lifeTLS, c.number)}
		contents = [][]byte{chain, key}
	default:
		names, contents = []string{lifeTLS + "/" + lifeName + ".pem"}, [][]byte{append(key, chain...)}
	}
	main = "myhostname = mail\n"
	for _, name := range names {
		main += "read " + name + "\n"
	}
	return names, contents, main
}

// lifeEngine does what deploy.Engine does, through one file system.
type lifeEngine struct{ fs atomicfile.FS }

func (e lifeEngine) store() generation.Store {
	return generation.Store{FS: e.fs, Dir: lifeState + "/generations", Now: e.journal().Now}
}

func (e lifeEngine) journal() Journal {
	j := testJournal(e.fs)
	j.Dir, j.History = lifeState+"/journal", lifeState+"/history"
	j.Replace = map[string]Replacer{lifeMain: e.replace}
	return j
}

// replace compares before it writes, as the one of deploy/postfix does. That
// one's temporary file has a fixed name; here it is one of ours, because Digest
// takes all of those for one.
func (e lifeEngine) replace(path string, want, data State) error {
	now, err := Capture(e.fs, path)
	if err == nil && !now.SameContent(want) {
		err = errors.New("changed by somebody else")
	}
	if err != nil {
		return err
	}
	return atomicfile.Write(e.fs, path, data.Data, data.Attr)
}

// settle is what each run does first, and "postcert recover" alone.
func (e lifeEngine) settle() error {
	if err := atomicfile.MkdirAll(e.fs, lifeState); err != nil {
		return err
	}
	if err := e.store().Sweep(e.journal().now()); err != nil {
		return err
	}
	tx, err := e.journal().Open()
	if err != nil {
		return err
	}
	if tx != nil {
		if tx.Phase() == "done" {
			err = e.finish(tx)
		} else {
			err = e.undo(tx)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(e.store().SweepStaged(), e.journal().Sweep(), e.dropKeys())
}

func (e lifeEngine) finish(tx *Tx) error {
	if err := e.store().Keep(lifeInst, lifeName); err != nil {
		return err
	}
	if err := tx.Close("installed", nil); err != nil {
		return err
	}
	return e.dropKeys()
}

func (e lifeEngine) undo(tx *Tx) error {
	if _, _, err := tx.Restore(); err != nil {
		return err
	}
	conflicts, err := tx.Undo()
	if err == nil && len(conflicts) > 0 {
		err = fmt.Errorf("conflicts where nobody else wrote: %v", conflicts)
	}
	if err != nil {
		return err
	}
	if err := tx.Close("rolled back", nil); err != nil {
		return err
	}
	return e.dropKeys()
}

// dropKeys is os.RemoveAll of the engine's.
func (e lifeEngine) dropKeys() error {
	names, err := e.fs.ReadDir(lifeKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		err = errors.Join(err, e.fs.Remove(filepath.Join(lifeKeys, name)))
	}
	return errors.Join(err, e.fs.Remove(lifeKeys))
}

// apply is one whole run.
func (e lifeEngine) apply(c lifeChange) error {
	if err := e.settle(); err != nil {
		return err
	}
	g, err := e.stage(c)
	if err != nil {
		return err
	}
	adopting, err := e.adopt(c)
	if err != nil {
		return err
	}
	writes, obsolete, err := e.plan(c)
	if err != nil {
		return err
	}
	tx, err := e.journal().Begin(writes, json.RawMessage(`{}`))
	if err != nil {
		return err
	}
	if err := errors.Join(commit(tx), tx.Mark("reload")); err != nil {
		return err
	}
	if c.fails {
		if err := e.undo(tx); err != nil {
			return err
		}
		if adopting {
			err = e.store().DropZero(lifeInst, lifeName)
		}
		return errors.Join(err, e.store().Discard(g))
	}
	if err := tx.Mark("done"); err != nil {
		return err
	}
	if err := e.finish(tx); err != nil {
		return err
	}
	for _, path := range obsolete {
		if err := errors.Join(e.fs.Remove(path), atomicfile.SyncParent(e.fs, path)); err != nil {
			return err
		}
	}
	if g.Number > 0 {
		_, err = e.store().Prune(lifeInst, lifeName, 2, g.Number)
	}
	return err
}

func (e lifeEngine) stage(c lifeChange) (generation.Generation, error) {
	switch {
	case c.number == 0:
		return generation.Generation{}, nil
	case c.back > 0:
		return e.store().Get(lifeInst, lifeName, c.back)
	}
	key, chain := lifePair(c.number)
	return e.store().Stage(lifeInst, lifeName, append(key, chain...), generation.Meta{})
}

// adopt makes generation 0, or adds to it.
func (e lifeEngine) adopt(c lifeChange) (made bool, err error) {
	if c.number == 0 {
		return false, nil
	}
	more := []generation.Parameter{{Name: "read"}}
	if c.pairs {
		more = append(more, generation.Parameter{Name: "read the key"})
	}
	_, err = e.store().GetZero(lifeInst, lifeName)
	if !errors.Is(err, generation.ErrNotFound) {
		return false, errors.Join(err, e.store().ExtendZero(lifeInst, lifeName, more))
	}
	first, err := Capture(e.fs, lifeFirst)
	if err != nil {
		return false, err
	}
	_, err = e.store().Zero(lifeInst, lifeName, generation.Original{Parameters: more, Files: []generation.OriginalFile{{Path: lifeFirst, State: first}}})
	return true, err
}

// plan is the writes of a change, and the files that nothing names after it.
func (e lifeEngine) plan(c lifeChange) (writes []Write, obsolete []string, err error) {
	add := func(path string, after State) {
		before, cerr := Capture(e.fs, path)
		if bytes.Contains(before.Data, []byte("PRIVATE KEY")) {
			before.Ref, cerr = e.keep(before)
		}
		if cerr == nil && bytes.Contains(after.Data, []byte("PRIVATE KEY")) {
			after.Ref, cerr = e.keep(after)
		}
		err = errors.Join(err, cerr)
		writes = append(writes, Write{Path: path, Before: before, After: after})
	}
	names, contents, main := c.files()
	if _, lerr := e.fs.Lstat(lifeTLS); len(names) > 0 && errors.Is(lerr, fs.ErrNotExist) {
		add(lifeTLS, State{Kind: atomicfile.Directory, Attr: atomicfile.Attr{Mode: 0o750, GID: 9}})
		add(lifeTLS+"/.gitignore", atomicfile.NewFile([]byte("*\n"), atomicfile.Attr{Mode: 0o644}))
	}
	for i, name := range names {
		add(name, atomicfile.NewFile(contents[i], atomicfile.Attr{Mode: 0o600, MTime: later}))
	}
	was, rerr := atomicfile.ReadFile(e.fs, lifeMain, 1<<20)
	if string(was) != main {
		add(lifeMain, atomicfile.NewFile([]byte(main), atomicfile.Attr{Mode: 0o644, MTime: later}))
	}
	there, derr := e.fs.ReadDir(lifeTLS)
	if errors.Is(derr, fs.ErrNotExist) {
		derr = nil
	}
	for _, name := range there {
		path := filepath.Join(lifeTLS, name)
		if strings.HasPrefix(name, "pair-") && !strings.Contains(main, path) {
			obsolete = append(obsolete, path)
		}
	}
	return writes, obsolete, errors.Join(err, rerr, derr)
}

// keep is a file of the store with the same bytes.
func (e lifeEngine) keep(s State) (string, error) {
	all, err := e.store().List(lifeInst, lifeName)
	if err != nil {
		return "", err
	}
	for _, g := range all {
		if data, err := e.store().ReadPostfix(g); err == nil && bytes.Equal(data, s.Data) {
			return g.Postfix(), nil
		}
	}
	if err := atomicfile.MkdirAll(e.fs, lifeKeys); err != nil {
		return "", err
	}
	path := filepath.Join(lifeKeys, atomicfile.Digest(s.Data)+".pem")
	return path, atomicfile.Write(e.fs, path, s.Data, atomicfile.Attr{Mode: 0o600})
}

// lifeServed is what a Postfix that starts now serves: "" if it can't, because a
// file that main.cf names is missing, or is not one of those that were made, or
// key and chain are of two pairs.
func lifeServed(f *crashfs.FS) string {
	main, err := atomicfile.ReadFile(f, lifeMain, 1<<20)
	if err != nil || !bytes.HasPrefix(main, []byte("myhostname = mail\n")) || !bytes.HasSuffix(main, []byte("\n")) {
		return ""
	}
	var read [][]byte
	for line := range strings.Lines(string(main)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "read "); ok {
			data, err := atomicfile.ReadFile(f, path, 1<<20)
			if err != nil {
				return ""
			}
			read = append(read, data)
		}
	}
	for n := range 10 {
		key, chain := lifePair(n)
		one := [][]byte{append(slices.Clone(key), chain...)}
		if slices.EqualFunc(read, one, bytes.Equal) || slices.EqualFunc(read, [][]byte{chain, key}, bytes.Equal) {
			return fmt.Sprint("pair ", n)
		}
	}
	return ""
}
