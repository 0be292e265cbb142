package journal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// begun returns a world in which the scenario's transaction is committed.
func begun(t *testing.T, change func(*Journal)) (*crashfs.FS, Journal, *Tx) {
	t.Helper()
	f := before(t)
	j := testJournal(f)
	if change != nil {
		change(&j)
	}
	w, err := writes(f)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := j.Begin(w, json.RawMessage(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(tx); err != nil {
		t.Fatal(err)
	}
	return f, j, tx
}

func read(t *testing.T, f atomicfile.FS, path string) string {
	t.Helper()
	data, err := atomicfile.ReadFile(f, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReopenedTransaction(t *testing.T) {
	f, j, tx := begun(t, nil)
	if err := tx.Mark("applied"); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Begin(nil, nil); !errors.Is(err, ErrOpen) {
		t.Errorf("Begin beside an open one: got %v, want ErrOpen", err)
	}
	again, err := j.Open()
	if err != nil || again == nil {
		t.Fatalf("got %v, %v", again, err)
	}
	if again.ID() != tx.ID() || again.Phase() != "applied" || string(again.Note()) != `{"a":1}` || len(again.Paths()) != 6 {
		t.Errorf("got %s %q %s %v", again.ID(), again.Phase(), again.Note(), again.Paths())
	}
	if err := commit(again); !errors.Is(err, ErrReopened) {
		t.Errorf("Apply: got %v, want ErrReopened", err)
	}
	for range 3 {
		if c, err := again.Undo(); err != nil || len(c) != 0 {
			t.Fatalf("Undo: got %v, %v", c, err)
		}
	}
	if err := again.Close("undone", nil); err != nil {
		t.Fatal(err)
	}
	if tx, err := j.Open(); tx != nil || err != nil {
		t.Errorf("after Close: got %v, %v", tx, err)
	}
	if names, _ := f.ReadDir(j.Dir); len(names) != 0 {
		t.Errorf("left in the journal: %v", names)
	}
	records, err := j.Records()
	if err != nil || len(records) != 1 || records[0].Result != "undone" || records[0].Phase != "applied" {
		t.Errorf("history: got %+v, %v", records, err)
	}
	data, err := atomicfile.ReadFile(f, filepath.Join(j.History, recordName(records[0], nil)), maxRecord)
	if err != nil || bytes.Contains(data, []byte(`"a":1`)) {
		t.Errorf("the record holds the note: %s (%v)", data, err)
	}
}

// TestPhaseOfEarlierTransaction: a phase file that a kill left must not make a
// new transaction look proven.
func TestPhaseOfEarlierTransaction(t *testing.T) {
	f, j, tx := begun(t, nil)
	put(t, f, j.phasePath(), `{"id":"0123","phase":"proven"}`, atomicfile.Attr{Mode: 0o600})
	again, err := j.Open()
	if err != nil || again.Phase() != "" || again.ID() != tx.ID() {
		t.Errorf("got phase %q, %v", again.Phase(), err)
	}
}

func TestUndoConflicts(t *testing.T) {
	foreign := atomicfile.Attr{Mode: 0o644, UID: 7, GID: 8, MTime: later}
	for _, c := range []struct {
		name    string
		path    string
		change  func(t *testing.T, f *crashfs.FS)
		resolve Resolver
		want    string // content afterwards; "" is absent
		clean   bool   // no conflict
		solved  bool
	}{
		{"another program's bytes stay", pathMain, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathMain, "theirs\n", foreign)
		}, nil, "theirs\n", false, false},
		{"removed by another program", pathMain, func(t *testing.T, f *crashfs.FS) {
			if err := f.Remove(pathMain); err != nil {
				t.Fatal(err)
			}
		}, nil, "", false, false},
		{"put back by another program", pathMain, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathMain, "smtpd_tls_cert_file = old\n", foreign)
		}, nil, "smtpd_tls_cert_file = old\n", true, false},
		{"a mode changed on our bytes", pathMain, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathMain, "smtpd_tls_cert_file = new, and longer\n", foreign)
		}, nil, "smtpd_tls_cert_file = old\n", true, false},
		{"merged", pathMain, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathMain, "x = 1\nsmtpd_tls_cert_file = new, and longer\n", foreign)
		}, func(_ string, before, after, now []byte) ([]byte, error) {
			return []byte(strings.Replace(string(now), string(after), string(before), 1)), nil
		}, "x = 1\nsmtpd_tls_cert_file = old\n", false, true},
		{"can't be merged", pathMain, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathMain, "theirs\n", foreign)
		}, func(string, []byte, []byte, []byte) ([]byte, error) { return nil, errors.New("no") },
			"theirs\n", false, false},
		{"a foreign key is nobody's to merge", pathKey, func(t *testing.T, f *crashfs.FS) {
			put(t, f, pathKey, "their key\n", foreign)
		}, func(string, []byte, []byte, []byte) ([]byte, error) { return []byte("merged"), nil },
			"their key\n", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _, tx := begun(t, func(j *Journal) { j.Resolve = c.resolve })
			c.change(t, f)
			for range 2 { // the second one finds what the first one left
				conflicts, err := tx.Undo()
				if err != nil {
					t.Fatal(err)
				}
				if got := len(conflicts) == 0; got != c.clean {
					t.Fatalf("clean: got %v, want %v: %+v", got, c.clean, conflicts)
				}
				if !c.clean && (conflicts[0].Path != c.path || conflicts[0].Resolved != c.solved || (conflicts[0].Err == nil) != c.solved) {
					t.Errorf("got %+v", conflicts[0])
				}
				if s, _ := Capture(f, c.path); string(s.Data) != c.want {
					t.Errorf("content: got %q, want %q", s.Data, c.want)
				}
			}
			if s, _ := Capture(f, pathNew); s.Kind != atomicfile.Absent {
				t.Error("the rest was not undone")
			}
		})
	}
}

// What was there is back, and what was made stays until the undo.
func TestRestore(t *testing.T) {
	f, _, tx := begun(t, nil)
	for range 2 {
		if conflicts, made, err := tx.Restore(); err != nil || len(conflicts) != 0 || !made {
			t.Fatalf("got %v, %v, %v", conflicts, made, err)
		}
		for path, want := range map[string]string{pathMain: "smtpd_tls_cert_file = old\n", pathKey: string(fakeOld), pathOld: "to be dropped\n", pathNew: "*\n"} {
			if s, _ := Capture(f, path); string(s.Data) != want {
				t.Errorf("%s: got %q, want %q", path, s.Data, want)
			}
		}
	}
	if conflicts, err := tx.Undo(); err != nil || len(conflicts) != 0 {
		t.Errorf("got %v, %v", conflicts, err)
	}
	for _, path := range []string{pathNew, pathDir} {
		if s, _ := Capture(f, path); s.Kind != atomicfile.Absent {
			t.Errorf("%s is left", path)
		}
	}
}

func TestUndoRestoresAttributes(t *testing.T) {
	f, _, tx := begun(t, nil)
	if s, _ := Capture(f, pathMain); !s.MTime.Equal(later) {
		t.Errorf("time of the new file: got %v, want %v", s.MTime, later)
	}
	if _, err := tx.Undo(); err != nil {
		t.Fatal(err)
	}
	s, err := Capture(f, pathMain)
	if err != nil {
		t.Fatal(err)
	}
	if s.Mode != 0o640 || s.UID != 7 || s.GID != 8 || !s.MTime.Equal(long) || string(s.Xattrs["user.note"]) != "kept" {
		t.Errorf("got %v %v %v", s, s.MTime, s.Xattrs)
	}
}

func TestDirectoryThatIsUsedStays(t *testing.T) {
	f, _, tx := begun(t, nil)
	put(t, f, pathDir+"/theirs.pem", "x", atomicfile.Attr{Mode: 0o600})
	conflicts, err := tx.Undo()
	if err != nil || len(conflicts) != 1 || conflicts[0].Path != pathDir || !errors.Is(conflicts[0].Err, ErrNotEmpty) {
		t.Fatalf("got %+v, %v", conflicts, err)
	}
	if err := f.Remove(pathDir + "/theirs.pem"); err != nil {
		t.Fatal(err)
	}
	if conflicts, err := tx.Undo(); err != nil || len(conflicts) != 0 {
		t.Errorf("when it is empty: got %+v, %v", conflicts, err)
	}
	if s, _ := Capture(f, pathDir); s.Kind != atomicfile.Absent {
		t.Errorf("got %v, want absent", s)
	}
}

// TestDirectoryThatWasThereStays: a plan may name a directory that exists as it
// shall be. Undo must not take it for one that we made.
func TestDirectoryThatWasThereStays(t *testing.T) {
	f := before(t)
	if err := atomicfile.MkdirAll(f, pathDir); err != nil {
		t.Fatal(err)
	}
	s, err := Capture(f, pathDir)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := testJournal(f).Begin([]Write{{Path: pathDir, Before: s, After: s}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(tx); err != nil {
		t.Fatal(err)
	}
	s.Mode = 0o755 // somebody else's chmod
	if err := atomicfile.Put(f, pathDir, s); err != nil {
		t.Fatal(err)
	}
	if conflicts, err := tx.Undo(); err != nil || len(conflicts) != 0 {
		t.Errorf("got %+v, %v", conflicts, err)
	}
	if now, _ := Capture(f, pathDir); now.Kind != atomicfile.Directory {
		t.Errorf("got %v, want a directory", now)
	}
}

func TestBeginRefuses(t *testing.T) {
	attr := atomicfile.Attr{Mode: 0o600}
	plain := func(data string) State { return atomicfile.NewFile([]byte(data), attr) }
	absent := State{Kind: atomicfile.Absent}
	b64 := base64.StdEncoding.EncodeToString
	for _, c := range []struct {
		name string
		w    Write
		want error // nil: any
	}{
		{"key bytes", Write{Path: "/etc/x", Before: absent, After: plain(string(fakeNew))}, ErrKeyBytes},
		{"key in base64", Write{Path: "/etc/x", Before: absent, After: plain(b64(fakeNew))}, ErrKeyBytes},
		{"key in base64, shifted by 1", Write{Path: "/etc/x", Before: absent, After: plain(b64(append([]byte("x"), fakeNew...)))}, ErrKeyBytes},
		{"key in base64, shifted by 2", Write{Path: "/etc/x", Before: absent, After: plain(b64(append([]byte("xx"), fakeNew...)))}, ErrKeyBytes},
		{"relative", Write{Path: "etc/x", Before: absent, After: plain("x")}, nil},
		{"not clean", Write{Path: "/etc/../etc/x", Before: absent, After: plain("x")}, nil},
		{"in the journal", Write{Path: dirState + "/journal/open.json", Before: absent, After: plain("x")}, nil},
		{"a wrong digest", Write{Path: "/etc/x", Before: absent, After: State{Kind: atomicfile.File, Data: []byte("x"), SHA256: "00"}}, nil},
		{"a reference to other bytes", Write{Path: "/etc/x", Before: absent, After: State{Kind: atomicfile.File, Ref: refOld, SHA256: "00"}}, nil},
		{"a reference to nothing", Write{Path: "/etc/x", Before: absent, After: State{Kind: atomicfile.File, Ref: "/none"}}, nil},
		{"a directory changed", Write{Path: dirConf, Before: State{Kind: atomicfile.Directory}, After: absent}, nil},
		{"a path that is not UTF-8", Write{Path: "/etc/caf\xe9", Before: absent, After: plain("x")}, nil},
		{"a link to what is not UTF-8", Write{Path: "/etc/x", Before: absent, After: State{Kind: atomicfile.Symlink, Target: "/caf\xe9"}}, nil},
		{"an attribute that is not UTF-8", Write{Path: "/etc/x", Before: absent, After: atomicfile.NewFile([]byte("x"), atomicfile.Attr{Mode: 0o600, Xattrs: map[string][]byte{"user.\xe9": nil}})}, nil},
		{"a device", Write{Path: "/etc/x", Before: absent, After: State{Kind: atomicfile.Other}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := before(t)
			j := testJournal(f)
			_, err := j.Begin([]Write{c.w}, nil)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if strings.Contains(err.Error(), "old old") || strings.Contains(err.Error(), "new new") {
				t.Errorf("the error shows the key: %v", err)
			}
			if tx, err := j.Open(); tx != nil || err != nil {
				t.Errorf("a transaction is open: %v, %v", tx, err)
			}
		})
	}
}

func TestBeginRefusesStalePlan(t *testing.T) {
	f := before(t)
	w, err := writes(f)
	if err != nil {
		t.Fatal(err)
	}
	put(t, f, pathMain, "theirs\n", atomicfile.Attr{Mode: 0o644})
	var changed *ChangedError
	if _, err := testJournal(f).Begin(w, nil); !errors.As(err, &changed) || changed.Path != pathMain {
		t.Errorf("got %v, want ChangedError for %s", err, pathMain)
	}
}

func TestApplyRefusesForeignChange(t *testing.T) {
	f := before(t)
	w, err := writes(f)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := testJournal(f).Begin(w, nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, f, pathMain, "theirs\n", atomicfile.Attr{Mode: 0o644})
	var changed *ChangedError
	if err := commit(tx); !errors.As(err, &changed) || changed.Path != pathMain {
		t.Fatalf("got %v, want ChangedError for %s", err, pathMain)
	}
	if conflicts, err := tx.Undo(); err != nil || len(conflicts) != 1 {
		t.Errorf("got %+v, %v", conflicts, err)
	}
	if got := read(t, f, pathMain); got != "theirs\n" {
		t.Errorf("got %q", got)
	}
}

// TestApplyAgain: a write whose last step failed is in place, and may be gone
// after a power cut. Asking again must not take it for done.
func TestApplyAgain(t *testing.T) {
	f := before(t)
	w, err := writes(f)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := testJournal(f).Begin(w[3:4], nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Before = func(op crashfs.Op) error {
		if op.Name == "fsync" && op.Path == dirConf {
			return errors.New("no")
		}
		return nil
	}
	if err := commit(tx); err == nil {
		t.Fatal("the failed fsync was not reported")
	}
	f.Before = nil
	if err := commit(tx); err != nil {
		t.Fatal(err)
	}
	for c := range f.Crashes(crashfs.Weak) {
		if got := read(t, c, pathMain); got != string(w[3].After.Data) {
			t.Fatalf("after a power cut: %q", got)
		}
	}
}

func TestReplacerIsUsedBothWays(t *testing.T) {
	var calls []string
	f, _, tx := begun(t, func(j *Journal) {
		j.Replace = map[string]Replacer{pathMain: func(path string, want, data State) error {
			calls = append(calls, fmt.Sprintf("%s %q -> %q", path, want.Data, data.Data))
			return atomicfile.Put(j.FS, path, data)
		}}
	})
	if _, err := tx.Undo(); err != nil {
		t.Fatal(err)
	}
	if len(calls) != 2 || !strings.Contains(calls[1], `-> "smtpd_tls_cert_file = old\n"`) {
		t.Errorf("got %q", calls)
	}
	if s, _ := Capture(f, pathMain); !s.MTime.Equal(long) {
		t.Errorf("time: got %v, want %v", s.MTime, long)
	}
}

// TestNoKeyBytesOnDisk looks at everything below the journal and the history,
// at each moment, for the bytes of the two keys.
func TestNoKeyBytesOnDisk(t *testing.T) {
	f := before(t)
	looks := 0
	f.After = func(crashfs.Op) {
		looks++
		for _, dir := range []string{"/journal", "/history"} {
			for path, content := range f.Tree(dirState + dir) {
				if HasKey([]byte(content)) || strings.Contains(content, "old old") || strings.Contains(content, "new new") {
					t.Fatalf("%s: %.200s", path, content)
				}
			}
		}
	}
	if err := deploy(f); err != nil {
		t.Fatal(err)
	}
	if looks < 40 {
		t.Errorf("only %d looks", looks)
	}
}

func TestStatePrintsNoContent(t *testing.T) {
	s := atomicfile.NewFile([]byte("secret"), atomicfile.Attr{Mode: 0o600})
	w := Write{Path: "/x", After: s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, got := range []string{fmt.Sprintf(verb, s), fmt.Sprintf(verb, w), fmt.Sprintf(verb, &w)} {
			for _, bad := range []string{"secret", "115 101", "73656372", "0x73"} {
				if strings.Contains(got, bad) {
					t.Errorf("%s prints %q", verb, got)
				}
			}
		}
	}
	s.Ref = "/generation"
	if b, err := json.Marshal(s); err != nil || strings.Contains(string(b), "c2VjcmV0") {
		t.Errorf("JSON: %s, %v", b, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	f := before(t)
	j := testJournal(f)
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	j.Now = func() time.Time { clock = clock.Add(time.Minute); return clock }
	for i := range KeepRecords + 5 {
		tx, err := j.Begin(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Close(fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	records, err := j.Records()
	if err != nil || len(records) != KeepRecords {
		t.Fatalf("got %d records, %v; want %d", len(records), err, KeepRecords)
	}
	if got, want := records[0].Result, fmt.Sprint(KeepRecords+4); got != want {
		t.Errorf("newest: got %s, want %s", got, want)
	}
	put(t, f, filepath.Join(j.History, "20260101T000000.000000000Z-x.json"), "{", atomicfile.Attr{Mode: 0o600})
	if records, err := j.Records(); err == nil || len(records) != KeepRecords {
		t.Errorf("with a damaged one: got %d records, %v", len(records), err)
	}
}

func TestDamagedJournalIsRefused(t *testing.T) {
	for _, c := range []struct{ name, old, new string }{
		{"cut", "", ""},
		{"another format", `"format":1`, `"format":9`},
		{"content", base64.StdEncoding.EncodeToString([]byte("to be dropped\n")), base64.StdEncoding.EncodeToString([]byte("to be changed\n"))},
		{"an id that leads elsewhere", `"id":"`, `"id":"x/../../../`},
		{"an unknown field", `"writes":`, `"other":1,"writes":`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, j, _ := begun(t, nil)
			data := read(t, f, j.openPath())
			changed := strings.Replace(data, c.old, c.new, 1)
			if c.old == "" {
				changed = data[:len(data)/2]
			}
			if changed == data {
				t.Fatal("nothing to damage")
			}
			put(t, f, j.openPath(), changed, atomicfile.Attr{Mode: 0o600})
			was := f.Tree(dirConf)
			if tx, err := j.Open(); err == nil {
				t.Errorf("got %v, want an error", tx)
			}
			if !maps.Equal(was, f.Tree(dirConf)) {
				t.Error("something was changed")
			}
		})
	}
}

// fullHistory has no room for a record.
type fullHistory struct {
	atomicfile.FS
	dir string
}

func (f fullHistory) Create(path string) (atomicfile.FileHandle, error) {
	if filepath.Dir(path) == f.dir {
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.ENOSPC}
	}
	return f.FS.Create(path)
}

// TestCloseWithoutRoom: nobody knows for how long a disk is full, so what is
// settled does not wait for it.
func TestCloseWithoutRoom(t *testing.T) {
	f := before(t)
	j := testJournal(f)
	j.FS = fullHistory{f, j.History}
	tx, err := j.Begin(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var unrecorded *UnrecordedError
	if err := tx.Close("deployed", nil); !errors.As(err, &unrecorded) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want an UnrecordedError", err)
	}
	if tx, err := j.Open(); tx != nil || err != nil {
		t.Errorf("after Close: got %v, %v; want it closed", tx, err)
	}
}

// TestUndoKeepsWhatIsNamed: where main.cf cannot be put back, the certificate
// that it names stays.
func TestUndoKeepsWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	main, certificate := filepath.Join(dir, "main.cf"), filepath.Join(dir, "mail.pem")
	attr := atomicfile.Attr{Mode: 0o600, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if err := atomicfile.Write(atomicfile.OS, main, []byte("old"), attr); err != nil {
		t.Fatal(err)
	}
	full := false
	j := Journal{FS: atomicfile.OS, Dir: filepath.Join(dir, "journal"), Replace: map[string]Replacer{
		main: func(path string, _, data State) error {
			if full {
				return syscall.ENOSPC
			}
			return atomicfile.Write(atomicfile.OS, path, data.Data, data.Attr)
		},
	}}
	tx, err := j.Begin([]Write{
		{Path: certificate, Before: State{Kind: atomicfile.Absent}, After: atomicfile.NewFile([]byte("certificate"), attr)},
		{Path: main, Before: atomicfile.NewFile([]byte("old"), attr), After: atomicfile.NewFile([]byte("names mail.pem"), attr)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(tx); err != nil {
		t.Fatal(err)
	}
	full = true
	if _, err := tx.Undo(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if _, err := os.Stat(certificate); err != nil {
		t.Errorf("the certificate that main.cf names: %v", err)
	}
	full = false
	if _, err := tx.Undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(certificate); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with room again the certificate is left: %v", err)
	}
}
