package journal

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// FuzzOpen: whatever stands in the journal's directory, a recovery that begins
// there ends, does the same when it is begun again, and changes nothing but the
// paths that the journal names; what was written as accepted reads back equal.
func FuzzOpen(f *testing.F) {
	for _, open := range openSeeds(f) {
		f.Add(open, []byte(`{"id":"0102030405060708090a0b0c","phase":"done"}`), []byte(`{"id":"a","result":"deployed","writes":[]}`))
	}
	f.Add([]byte("{}"), []byte("{"), []byte("[]"))
	f.Fuzz(func(t *testing.T, open, phase, entry []byte) {
		if len(open)+len(phase)+len(entry) > 1<<16 {
			return
		}
		fsys := before(t)
		j := testJournal(fsys)
		for _, dir := range []string{j.Dir, j.History} {
			if err := atomicfile.MkdirAll(fsys, dir); err != nil {
				t.Fatal(err)
			}
		}
		put(t, fsys, j.openPath(), string(open), atomicfile.Attr{Mode: 0o600})
		put(t, fsys, j.phasePath(), string(phase), atomicfile.Attr{Mode: 0o600})
		put(t, fsys, j.History+"/20260102T030405.000000000Z-x.json", string(entry), atomicfile.Attr{Mode: 0o600})
		was := standing(t, fsys, "/")
		tx, err := j.Open()
		if err != nil {
			if now := standing(t, fsys, "/"); !reflect.DeepEqual(now, was) {
				t.Fatalf("refused (%v), and changed something", err)
			}
			return
		}
		checkStable(t, tx.rec)
		settleTwice(t, fsys, tx, was)
	})
}

// settleTwice undoes tx twice, at first in two steps, and closes it.
func settleTwice(t *testing.T, fsys *crashfs.FS, tx *Tx, was map[string]State) {
	t.Helper()
	_, _, _ = tx.Restore() // an error is Undo's, too
	_, err1 := tx.Undo()
	once := standing(t, fsys, "/")
	_, err2 := tx.Undo()
	if err1 == nil && err2 == nil && !reflect.DeepEqual(standing(t, fsys, "/"), once) {
		t.Fatal("the second undo changed something")
	}
	closeErr := tx.Close("undone", nil)
	for path, state := range standing(t, fsys, "/") {
		ours := strings.HasPrefix(path, tx.j.Dir+"/") || filepath.Dir(path) == tx.j.History
		if before, ok := was[path]; !ours && !slices.Contains(tx.Paths(), path) && (!ok || !state.Same(before)) {
			t.Fatalf("%s was not in the journal and is %s", path, state)
		}
	}
	if closeErr != nil {
		return
	}
	if again, err := tx.j.Open(); again != nil || err != nil && !slices.Contains(tx.Paths(), tx.j.Dir) {
		t.Fatalf("closed, and open again: %v", err)
	}
	_, _ = tx.j.Records() // of entry nothing is known: an error is in order
}

// checkStable: what was accepted and is written again says the same.
func checkStable(t *testing.T, rec record) {
	t.Helper()
	data, err := encode(rec)
	if err != nil {
		return // a key in it, or a time that has no such form
	}
	var again record
	if err := decode(data, &again); err != nil {
		t.Fatalf("accepted, and refused when written again: %v\n%s", err, data)
	}
	data2, err := encode(again)
	if err != nil || string(data2) != string(data) {
		t.Fatalf("%v: it changes by being written again:\n%s\n%s", err, data, data2)
	}
}

// standing is all that stands below dir.
func standing(t *testing.T, fsys atomicfile.FS, dir string) map[string]State {
	t.Helper()
	out := map[string]State{}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		state, err := Capture(fsys, path)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = state
		if state.Kind == atomicfile.Directory {
			for p, s := range standing(t, fsys, path) {
				out[p] = s
			}
		}
	}
	return out
}

// openSeeds are journals of the scenario, and damaged ones.
func openSeeds(f *testing.F) [][]byte {
	rec := record{Format: format, ID: "0102030405060708090a0b0c", Begun: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Note: json.RawMessage(`{"a":1}`)}
	file := func(data string) State {
		return atomicfile.NewFile([]byte(data), atomicfile.Attr{Mode: 0o640, UID: 7, GID: 8, MTime: long})
	}
	key := State{Kind: atomicfile.File, Ref: refOld, SHA256: atomicfile.Digest(fakeOld), Attr: atomicfile.Attr{Mode: 0o600, MTime: long}}
	rec.Writes = []Write{
		{pathMain, file("a = b\n"), file("smtpd_tls_cert_file = old\n")},
		{pathKey, key, State{Kind: atomicfile.File, Ref: refNew, SHA256: atomicfile.Digest(fakeOld)}},
		{pathDir, State{Kind: atomicfile.Absent}, State{Kind: atomicfile.Directory, Attr: atomicfile.Attr{Mode: 0o750}}},
		{pathLink, State{Kind: atomicfile.Symlink, Target: "/a"}, State{Kind: atomicfile.Symlink, Target: "/etc/letsencrypt/live/x/fullchain.pem"}},
	}
	data, err := encode(rec)
	if err != nil {
		f.Fatal(err)
	}
	text := string(data)
	return [][]byte{
		data, data[:len(data)/2],
		[]byte(strings.Replace(text, `"format":1`, `"format":2`, 1)),
		[]byte(strings.Replace(text, rec.ID, "x/../../../../../etc/postfix/x", 1)),
		[]byte(strings.Replace(text, `"path":"`, `"path":"/..`, 1)),
	}
}

// FuzzBegin: what Begin accepts comes back from the disk as it was, whatever
// bytes a path, a link or an attribute is made of; else it refuses.
func FuzzBegin(f *testing.F) {
	f.Add("/etc/postfix/main.cf", "new\n", "", "user.note", uint32(0o640), false)
	f.Add("/etc/postfix/caf\xe9", "", "/etc/ssl/caf\xe9.pem", "user.\xe9", uint32(0o7777), true)
	f.Add("/a<&>\u2028", "\x00\xff", "a", "x", uint32(0), true)
	f.Fuzz(func(t *testing.T, path, data, target, attr string, mode uint32, link bool) {
		if !filepath.IsAbs(path) || strings.Contains(path, "\x00") {
			return
		}
		fsys := before(t)
		j := testJournal(fsys)
		w := Write{Path: path, After: atomicfile.NewFile([]byte(data), atomicfile.Attr{Mode: mode, MTime: later, Xattrs: map[string][]byte{attr: []byte(data)}})}
		if link {
			w.After = State{Kind: atomicfile.Symlink, Target: target}
		}
		var err error
		if w.Before, err = Capture(fsys, path); err != nil {
			return
		}
		tx, err := j.Begin([]Write{w}, nil)
		if err != nil {
			return
		}
		again, err := j.Open()
		if err != nil || again == nil {
			t.Fatalf("begun, and not opened: %v", err)
		}
		got, want := again.rec.Writes[0], tx.rec.Writes[0]
		if got.Path != want.Path || !got.Before.Same(want.Before) || !got.After.Same(want.After) || got.After.Target != want.After.Target {
			t.Fatalf("begun with %q, %s, %s; read back as %q, %s, %s", want.Path, want.Before, want.After, got.Path, got.Before, got.After)
		}
	})
}
