package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// The scenario of all tests in this file: a renewal that also moves a
// parameter, makes a directory and a file in it, drops a file and turns a
// link into a file.
const (
	dirConf  = "/etc/postfix"
	pathKey  = "/etc/postfix/mail.pem"
	pathMain = "/etc/postfix/main.cf"
	pathDir  = "/etc/postfix/tls"
	pathNew  = "/etc/postfix/tls/.gitignore"
	pathOld  = "/etc/postfix/old.map"
	pathLink = "/etc/postfix/link.pem"
	dirState = "/var/lib/postcert"
	refOld   = dirState + "/generations/1/postfix.pem"
	refNew   = dirState + "/generations/2/postfix.pem"
)

var (
	fakeOld = []byte("-----BEGIN PRIVATE KEY-----\nold old old\n-----END PRIVATE KEY-----\nold chain\n")
	fakeNew = []byte("-----BEGIN PRIVATE KEY-----\nnew new new new\n-----END PRIVATE KEY-----\nnew chain\n")
	long    = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	later   = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

func testJournal(fsys atomicfile.FS) Journal {
	// A clock that stands still: a record that differs in its time only is no
	// new state. It is ahead of the model's, so that sweeps sweep.
	now := func() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }
	return Journal{FS: fsys, Dir: dirState + "/journal", History: dirState + "/history", Now: now}
}

func put(t *testing.T, fsys atomicfile.FS, path, data string, attr atomicfile.Attr) {
	t.Helper()
	if err := atomicfile.Write(fsys, path, []byte(data), attr); err != nil {
		t.Fatal(err)
	}
}

// before makes the world before the deploy, all of it on disk.
func before(t *testing.T) *crashfs.FS {
	t.Helper()
	m := crashfs.New()
	for _, dir := range []string{dirConf, dirState + "/generations/1", dirState + "/generations/2"} {
		if err := atomicfile.MkdirAll(m, dir); err != nil {
			t.Fatal(err)
		}
	}
	acl := map[string][]byte{"user.note": []byte("kept"), "security.selinux": []byte("postfix_etc_t")}
	put(t, m, pathKey, string(fakeOld), atomicfile.Attr{Mode: 0o600, MTime: long})
	put(t, m, pathMain, "smtpd_tls_cert_file = old\n", atomicfile.Attr{Mode: 0o640, UID: 7, GID: 8, Xattrs: acl, MTime: long})
	put(t, m, pathOld, "to be dropped\n", atomicfile.Attr{Mode: 0o644, MTime: long})
	put(t, m, refOld, string(fakeOld), atomicfile.Attr{Mode: 0o600})
	put(t, m, refNew, string(fakeNew), atomicfile.Attr{Mode: 0o600})
	if err := m.Symlink("/etc/letsencrypt/live/x/fullchain.pem", pathLink); err != nil {
		t.Fatal(err)
	}
	m.SyncAll()
	return m
}

// writes plans the deploy from what is there.
func writes(fsys atomicfile.FS) ([]Write, error) {
	var out []Write
	for _, w := range []Write{
		{Path: pathDir, After: State{Kind: atomicfile.Directory, Attr: atomicfile.Attr{Mode: 0o750, GID: 9}}},
		{Path: pathNew, After: atomicfile.NewFile([]byte("*\n"), atomicfile.Attr{Mode: 0o644})},
		{Path: pathKey, After: State{Kind: atomicfile.File, Ref: refNew, Attr: atomicfile.Attr{Mode: 0o600, MTime: later}}},
		{Path: pathMain, After: atomicfile.NewFile([]byte("smtpd_tls_cert_file = new, and longer\n"), atomicfile.Attr{Mode: 0o640, UID: 7, GID: 8, MTime: later})},
		{Path: pathOld, After: State{Kind: atomicfile.Absent}},
		{Path: pathLink, After: atomicfile.NewFile([]byte("a file now\n"), atomicfile.Attr{Mode: 0o644, MTime: later})},
	} {
		var err error
		if w.Before, err = Capture(fsys, w.Path); err != nil {
			return nil, err
		}
		if w.Path == pathKey {
			w.Before.Ref = refOld
		}
		if w.Path == pathMain {
			w.After.Xattrs = w.Before.Xattrs
		}
		out = append(out, w)
	}
	return out, nil
}

// commit makes all writes of tx.
func commit(tx *Tx) error {
	for i := range tx.rec.Writes {
		if err := tx.Apply(i); err != nil {
			return err
		}
	}
	return nil
}

// deploy is the transaction as the engine runs it.
func deploy(fsys atomicfile.FS) error {
	j := testJournal(fsys)
	w, err := writes(fsys)
	if err != nil {
		return err
	}
	tx, err := j.Begin(w, json.RawMessage(`{"reason":"renewal"}`))
	if err != nil {
		return err
	}
	if err := commit(tx); err != nil {
		return err
	}
	if err := tx.Mark("applied"); err != nil {
		return err
	}
	return tx.Close("deployed", json.RawMessage(`{"listeners":3}`))
}

// deployAndUndo is the transaction that fails its proof.
func deployAndUndo(fsys atomicfile.FS) error {
	j := testJournal(fsys)
	w, err := writes(fsys)
	if err != nil {
		return err
	}
	tx, err := j.Begin(w, nil)
	if err != nil {
		return err
	}
	if err := commit(tx); err != nil {
		return err
	}
	if _, made, err := tx.Restore(); err != nil {
		return err
	} else if !made {
		return errors.New("what was made is gone before the rest is read")
	}
	if _, err := tx.Undo(); err != nil {
		return err
	}
	return tx.Close("undone", nil)
}

// recovery is what the next run does first.
func recovery(fsys atomicfile.FS) error {
	tx, err := testJournal(fsys).Open()
	if err != nil || tx == nil {
		return err
	}
	conflicts, err := tx.Undo()
	if err != nil {
		return err
	}
	if len(conflicts) > 0 {
		return fmt.Errorf("conflicts where nobody else wrote: %v", conflicts)
	}
	return tx.Close("recovered", nil)
}

// explorer visits every state that kills and power cuts can lead to, from each
// of which the next run recovers, during which it can be killed again, and so
// on until no new state appears.
type explorer struct {
	model    crashfs.Model
	wrap     func(*crashfs.FS) atomicfile.FS // what the program under test sees
	old, new map[string]string
	readers  map[string][]string // path: what a reader may find there
	seen     map[string]bool
	todo     []*crashfs.FS
	cuts     int // power cuts tried
}

func newExplorer(t *testing.T, m crashfs.Model, wrap func(*crashfs.FS) atomicfile.FS) *explorer {
	t.Helper()
	e := &explorer{model: m, wrap: wrap, seen: map[string]bool{}}
	f := before(t)
	e.old = f.Tree(dirConf)
	if err := deploy(f); err != nil {
		t.Fatal(err)
	}
	e.new = f.Tree(dirConf)
	dropTimes(e.old, e.new)
	e.readers = map[string][]string{}
	for _, path := range []string{pathKey, pathMain, pathNew, pathOld, pathLink} {
		e.readers[path] = []string{e.old[path], e.new[path]}
	}
	return e
}

// dropTimes takes out the time of the one file whose time nobody chose.
func dropTimes(trees ...map[string]string) {
	for _, tree := range trees {
		if s, ok := tree[pathNew]; ok {
			tree[pathNew] = s[:strings.Index(s, "]")+1] + s[strings.LastIndex(s, " "):]
		}
	}
}

func tree(f *crashfs.FS) map[string]string {
	t := f.Tree(dirConf)
	dropTimes(t)
	return t
}

// add notes the states that are possible right now: a kill leaves f as it is,
// a power cut one of its crashes.
func (e *explorer) add(f *crashfs.FS) error {
	if e.seen[f.Digest()] {
		return nil
	}
	if err := e.push(f.Clone()); err != nil {
		return err
	}
	for c := range f.Crashes(e.model) {
		e.cuts++
		if err := e.push(c); err != nil {
			return err
		}
	}
	return nil
}

func (e *explorer) push(f *crashfs.FS) error {
	key := f.Digest()
	if e.seen[key] {
		return nil
	}
	e.seen[key] = true
	e.todo = append(e.todo, f)
	now := tree(f)
	for path, may := range e.readers {
		if !slices.Contains(may, now[path]) {
			return fmt.Errorf("a reader finds at %s: %s", path, now[path])
		}
	}
	return nil
}

// run runs do on f, noting the states after each change.
func (e *explorer) run(f *crashfs.FS, do func(atomicfile.FS) error) error {
	var bad error
	f.After = func(crashfs.Op) {
		if bad == nil {
			bad = e.add(f)
		}
	}
	err := do(e.wrap(f))
	f.After = nil
	return errors.Join(bad, err)
}

// settled says what is wrong with the end of a recovery; final is the state
// that must survive any later power cut.
func (e *explorer) settled(f *crashfs.FS) error {
	final := tree(f)
	if !maps.Equal(final, e.old) && !maps.Equal(final, e.new) {
		return fmt.Errorf("neither the old tree nor the new one:\n%s", show(final))
	}
	if names, err := f.ReadDir(dirConf); err != nil || slices.ContainsFunc(names, atomicfile.IsTemp) {
		return fmt.Errorf("temporary files are left: %v, %v", names, err)
	}
	for c := range f.Crashes(e.model) {
		if got := tree(c); !maps.Equal(got, final) {
			return fmt.Errorf("a power cut after the end changed the tree:\n%s\nto\n%s", show(final), show(got))
		}
		if tx, err := testJournal(c).Open(); err != nil || tx != nil {
			return fmt.Errorf("a power cut after the end brought the journal back: %v, %v", tx, err)
		}
	}
	return nil
}

func show(tree map[string]string) string {
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		lines = append(lines, path+": "+tree[path])
	}
	return strings.Join(lines, "\n")
}

// explore returns the first violation, and how many states it visited.
func (e *explorer) explore(t *testing.T, do func(atomicfile.FS) error, want map[string]string) (int, error) {
	t.Helper()
	f := before(t)
	if err := e.add(f); err != nil {
		return 0, err
	}
	if err := e.run(f, do); err != nil {
		return len(e.seen), err
	}
	if err := e.settled(f); err != nil {
		return len(e.seen), err
	}
	if got := tree(f); !maps.Equal(got, want) {
		return len(e.seen), fmt.Errorf("the undisturbed run ends in\n%s", show(got))
	}
	for len(e.todo) > 0 {
		f := e.todo[0]
		e.todo = e.todo[1:]
		if err := e.run(f, recovery); err != nil {
			return len(e.seen), fmt.Errorf("recovery: %w", err)
		}
		if err := e.settled(f); err != nil {
			return len(e.seen), fmt.Errorf("after recovery: %w", err)
		}
		// The next deploy must work from here, whatever was left behind.
		if again := f.Clone(); maps.Equal(tree(again), e.old) {
			if err := deploy(e.wrap(again)); err != nil {
				return len(e.seen), fmt.Errorf("the next deploy: %w", err)
			}
		}
		if len(e.seen) > maxStates {
			return len(e.seen), errors.New("more states than a program that syncs can have")
		}
	}
	return len(e.seen), nil
}

// maxStates is several times what the program has.
const maxStates = 20_000

func asIs(f *crashfs.FS) atomicfile.FS { return f }

func TestEveryCrashLeadsToOldOrNew(t *testing.T) {
	for _, model := range []crashfs.Model{crashfs.Ordered, crashfs.Weak} {
		t.Run(model.String(), func(t *testing.T) {
			e := newExplorer(t, model, asIs)
			n, err := e.explore(t, deploy, e.new)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("deploy: %d states, %d power cuts", n, e.cuts)
			e = newExplorer(t, model, asIs)
			if n, err = e.explore(t, deployAndUndo, e.old); err != nil {
				t.Fatal(err)
			}
			t.Logf("deploy and undo: %d states, %d power cuts", n, e.cuts)
			if n < 60 {
				t.Errorf("only %d states visited: the enumeration does not enumerate", n)
			}
		})
	}
}
