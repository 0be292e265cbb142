package generation

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

const (
	inst = "/etc/postfix"
	name = "mail.example.com"
	dir  = "/var/lib/postcert/generations"
)

func pem(n int) []byte { return fmt.Appendf(nil, "key %d, leaf %d, intermediates %d\n", n, n, n) }

// store returns an empty store in memory.
func store(t *testing.T) (*crashfs.FS, Store) {
	t.Helper()
	f := crashfs.New()
	if err := atomicfile.MkdirAll(f, dir); err != nil {
		t.Fatal(err)
	}
	f.SyncAll()
	return f, Store{FS: f, Dir: dir}
}

func stage(t *testing.T, s Store, n int) Generation {
	t.Helper()
	g, err := s.Stage(inst, name, pem(n), Meta{Fingerprint: fmt.Sprint(n), Source: "/etc/letsencrypt/live/x"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func numbersOf(t *testing.T, s Store) []int {
	t.Helper()
	all, err := s.List(inst, name)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, g := range all {
		out = append(out, g.Number)
	}
	return out
}

func TestStageAndGet(t *testing.T) {
	root := t.TempDir()
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s := Store{FS: atomicfile.OS, Dir: root + "/generations"}
	if _, err := s.Latest(inst, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("Latest of nothing: got %v", err)
	}
	for n := 1; n <= 3; n++ {
		stage(t, s, n)
	}
	g, err := s.Latest(inst, name)
	if err != nil || g.Number != 3 || g.Meta.Fingerprint != "3" || g.Meta.Source != "/etc/letsencrypt/live/x" || g.Meta.Created.IsZero() {
		t.Fatalf("got %+v, %v", g, err)
	}
	if want := root + "/generations/etc-postfix/mail.example.com/000003/postfix.pem"; g.Postfix() != want {
		t.Errorf("got %s, want %s", g.Postfix(), want)
	}
	if data, err := s.ReadPostfix(g); err != nil || string(data) != string(pem(3)) {
		t.Errorf("got %q, %v", data, err)
	}
	if names, err := s.Names(inst); err != nil || !slices.Equal(names, []string{name}) {
		t.Errorf("got %v, %v", names, err)
	}
	err = filepath.WalkDir(s.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s: got %v, want %v", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDamageIsFound(t *testing.T) {
	f, s := store(t)
	g := stage(t, s, 1)
	for _, c := range []struct{ name, path, data string }{
		{"other bytes", g.Postfix(), "something else"},
		{"meta data that is no JSON", g.Dir + "/meta.json", "{"},
		{"meta data of another", g.Dir + "/meta.json", `{"number":2,"name":"mail.example.com"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := atomicfile.Write(f, c.path, []byte(c.data), atomicfile.Attr{Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			var damaged *DamagedError
			got, err := s.Get(inst, name, 1)
			if err == nil {
				_, err = s.ReadPostfix(got)
			}
			if !errors.As(err, &damaged) || damaged.Path != c.path {
				t.Errorf("got %v, want DamagedError of %s", err, c.path)
			}
		})
	}
	// A damaged one does not hide the others, nor give its number away.
	if g := stage(t, s, 2); g.Number != 2 {
		t.Errorf("got number %d, want 2", g.Number)
	}
	if all, err := s.List(inst, name); err == nil || len(all) != 1 || all[0].Number != 2 {
		t.Errorf("got %+v, %v", all, err)
	}
}

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name   string
		have   int
		keep   int
		proven []int
		want   []int
	}{
		{"the newest stay", 5, 3, nil, []int{3, 4, 5}},
		{"the last proven one stays", 5, 3, []int{1}, []int{1, 4, 5}},
		{"it can be more than asked for", 5, 1, []int{1, 2}, []int{1, 2, 5}},
		{"never none", 3, 0, nil, []int{3}},
		{"nothing to do", 2, 3, nil, []int{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, s := store(t)
			if _, err := s.Zero(inst, name, Original{}); err != nil {
				t.Fatal(err)
			}
			for n := range c.have {
				stage(t, s, n)
			}
			gone, err := s.Prune(inst, name, c.keep, c.proven...)
			if err != nil || len(gone) != c.have-len(c.want) {
				t.Errorf("got %v, %v", gone, err)
			}
			if got := numbersOf(t, s); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if _, err := s.GetZero(inst, name); err != nil {
				t.Errorf("generation 0: %v", err)
			}
			names, _ := f.ReadDir(dir + "/etc-postfix/" + name)
			if len(names) != len(c.want)+1 {
				t.Errorf("left over: %v", names)
			}
		})
	}
}

func TestDiscard(t *testing.T) {
	_, s := store(t)
	stage(t, s, 1)
	g := stage(t, s, 2)
	for range 2 {
		if err := s.Discard(g); err != nil {
			t.Fatal(err)
		}
	}
	if got := numbersOf(t, s); !slices.Equal(got, []int{1}) {
		t.Errorf("got %v", got)
	}
	if err := s.Discard(Generation{Instance: inst, Name: name}); err == nil {
		t.Error("generation 0 was discarded")
	}
}

func TestZeroIsMadeOnce(t *testing.T) {
	f, s := store(t)
	value := "/etc/ssl/old.pem"
	first := Original{
		Parameters: []Parameter{{Name: "smtpd_tls_cert_file", Value: &value}, {Name: "smtpd_tls_key_file"}},
		Files: []OriginalFile{
			{Path: "/etc/ssl/old.pem", State: atomicfile.NewFile([]byte("secret bytes"), atomicfile.Attr{Mode: 0o640, GID: 5})},
			{Path: "/etc/ssl/link.pem", State: atomicfile.State{Kind: atomicfile.Symlink, Target: "old.pem"}},
			{Path: "/etc/postfix/tls/mail.pem", State: atomicfile.State{Kind: atomicfile.Absent}},
		},
	}
	if _, err := s.GetZero(inst, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("before: got %v", err)
	}
	for _, o := range []Original{first, {}} {
		got, err := s.Zero(inst, name, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Parameters) != 2 || *got.Parameters[0].Value != value || got.Parameters[1].Value != nil ||
			len(got.Files) != 3 || string(got.Files[0].State.Data) != "secret bytes" ||
			got.Files[0].State.GID != 5 || got.Files[1].State.Target != "old.pem" {
			t.Errorf("got %+v", got)
		}
		if b, err := json.Marshal(got); err != nil || strings.Contains(string(b), "c2VjcmV0") || strings.Contains(fmt.Sprintf("%+v", got), "secret bytes") {
			t.Errorf("it shows content: %s %+v, %v", b, got, err)
		}
	}
	meta, err := atomicfile.ReadFile(f, dir+"/etc-postfix/mail.example.com/000000/meta.json", 1<<20)
	if err != nil || strings.Contains(string(meta), "c2VjcmV0") {
		t.Errorf("meta.json has the content: %v", err)
	}
	if g := stage(t, s, 1); g.Number != 1 {
		t.Errorf("the first generation is number %d", g.Number)
	}
	if err := s.DropZero(inst, name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetZero(inst, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("after DropZero: got %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name string
		file string // "" is refused
	}{
		{"mail.example.com", "mail.example.com"},
		{"mail.example.com+rsa", "mail.example.com+rsa"},
		{"*.example.com", "_wildcard.example.com"},
		{"_wildcard.example.com", "_wildcard.example.com"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"a_b-c", "a_b-c"},
		{"", ""}, {".", ""}, {"..", ""}, {"a..b", ""}, {"../x", ""}, {"a/b", ""}, {"-x", ""}, {".x", ""},
		{"Mail.example.com", ""}, {"a b", ""}, {"a\n", ""}, {"a\x00", ""}, {"a*", ""}, {"a.*.b", ""}, {"*", ""},
		{"a+", ""}, {"a+rsa+ec", ""}, {"a,b", ""}, {"$a", ""}, {"_x", ""}, {"bücher", ""},
		{"000001", "000001"},
		{strings.Repeat("a", 200), strings.Repeat("a", 200)}, {strings.Repeat("a", 201), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ValidName(c.name)
			if (err == nil) != (c.file != "") {
				t.Fatalf("got %v", err)
			}
			if err == nil && FileName(c.name) != c.file {
				t.Errorf("got %q, want %q", FileName(c.name), c.file)
			}
			var e *NameError
			if err != nil && !errors.As(err, &e) {
				t.Errorf("got %T", err)
			}
		})
	}
}

func TestInstanceKey(t *testing.T) {
	seen := map[string]string{}
	for _, path := range []string{"/etc/postfix", "/etc-postfix", "/etc/post-fix", "/etc%2Dpostfix", "/", "/.x", "/a b", "/a/.b", "/ETC/postfix", "/ü"} {
		key, err := InstanceKey(path)
		if err != nil || key == "" || strings.Contains(key, "/") || strings.HasPrefix(key, ".") {
			t.Errorf("%s: got %q, %v", path, key, err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s share %s", path, other, key)
		}
		seen[key] = path
	}
	for _, path := range []string{"", "etc", "/etc/", "/etc/../x", "/" + strings.Repeat("x", 300)} {
		if key, err := InstanceKey(path); err == nil {
			t.Errorf("%q: got %q, want an error", path, key)
		}
	}
}

// sound says what is wrong with a store: each generation that is there must be
// whole.
func sound(s Store) error {
	all, err := s.List(inst, name)
	if err != nil {
		return err
	}
	for _, g := range all {
		if err := s.Check(g); err != nil {
			return err
		}
	}
	if _, err := s.GetZero(inst, name); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// life is what happens to a store, several times in all.
func life(s Store) error {
	if _, err := s.Zero(inst, name, Original{Files: []OriginalFile{{Path: "/x", State: atomicfile.NewFile([]byte("old"), atomicfile.Attr{})}}}); err != nil {
		return err
	}
	for n := range 3 {
		if _, err := s.Stage(inst, name, pem(n), Meta{}); err != nil {
			return err
		}
	}
	_, err := s.Prune(inst, name, 1)
	return err
}

// visit tries all that a kill or a power cut can leave of a life, looking for
// a store that is not sound or that the next run can't use.
func visit(t *testing.T, wrap func(*crashfs.FS) atomicfile.FS) (int, error) {
	t.Helper()
	f, _ := store(t)
	cuts := 0
	var bad error
	f.After = func(op crashfs.Op) {
		for c := range f.Crashes(crashfs.Weak) {
			if bad == nil {
				cuts++
				if err := aftermath(c, wrap); err != nil {
					bad = fmt.Errorf("after %s: %w", op, err)
				}
			}
		}
	}
	if err := life(Store{FS: wrap(f), Dir: dir}); err != nil {
		return cuts, err
	}
	f.After = nil
	// What was reported as stored survives.
	for c := range f.Crashes(crashfs.Weak) {
		if got, err := (Store{FS: c, Dir: dir}).Latest(inst, name); bad == nil && (err != nil || got.Number != 3) {
			bad = fmt.Errorf("after the end: got number %d, %w", got.Number, err)
		}
	}
	return cuts, bad
}

// aftermath is the next run, in the store that a power cut left.
func aftermath(c *crashfs.FS, wrap func(*crashfs.FS) atomicfile.FS) error {
	s := Store{FS: wrap(c), Dir: dir}
	if err := sound(s); err != nil {
		return err
	}
	if err := s.Sweep(time.Now().Add(time.Hour)); err != nil {
		return err
	}
	if err := life(s); err != nil {
		return err
	}
	names, err := c.ReadDir(dir + "/etc-postfix/" + name)
	if err == nil && len(names) != 2 {
		err = fmt.Errorf("left over: %v", names)
	}
	return errors.Join(err, sound(s))
}

type careless struct {
	*crashfs.FS
	noDirs, noFiles bool
}

func (c careless) SyncDir(path string) error {
	if c.noDirs {
		return nil
	}
	return c.FS.SyncDir(path)
}

func (c careless) Create(path string) (atomicfile.FileHandle, error) {
	h, err := c.FS.Create(path)
	if err == nil && c.noFiles {
		h = unsynced{h}
	}
	return h, err
}

type unsynced struct{ atomicfile.FileHandle }

func (unsynced) Sync() error { return nil }

func TestCrashes(t *testing.T) {
	for _, c := range []struct {
		name string
		wrap func(*crashfs.FS) atomicfile.FS
		bad  bool
	}{
		{"as it is", func(f *crashfs.FS) atomicfile.FS { return f }, false},
		{"directories are not synced", func(f *crashfs.FS) atomicfile.FS { return careless{f, true, false} }, true},
		{"files are not synced", func(f *crashfs.FS) atomicfile.FS { return careless{f, false, true} }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := visit(t, c.wrap)
			if (err != nil) != c.bad {
				t.Errorf("got %v after %d power cuts, want an error: %v", err, n, c.bad)
			}
			if n < 200 && !c.bad {
				t.Errorf("only %d power cuts", n)
			}
			t.Logf("%d power cuts: %v", n, err)
		})
	}
}

// TestStagedSurvives: what Stage and Zero report as stored is on disk when they
// return, not only after the next call.
func TestStagedSurvives(t *testing.T) {
	f, s := store(t)
	g := stage(t, s, 1)
	for c := range f.Crashes(crashfs.Weak) {
		s := Store{FS: c, Dir: dir}
		if data, err := s.ReadPostfix(g); err != nil || string(data) != string(pem(1)) {
			t.Fatalf("generation 1: got %q, %v", data, err)
		}
	}
	if _, err := s.Zero(inst, name, Original{}); err != nil {
		t.Fatal(err)
	}
	for c := range f.Crashes(crashfs.Weak) {
		if _, err := (Store{FS: c, Dir: dir}).GetZero(inst, name); err != nil {
			t.Fatalf("generation 0: %v", err)
		}
	}
}

// TestErrors fails each change in turn: a generation is whole or not there.
func TestErrors(t *testing.T) {
	n := 1
	for failed := true; failed; n++ {
		f, s := store(t)
		calls := 0
		f.Before = func(crashfs.Op) error {
			if calls++; calls == n {
				return syscall.ENOSPC
			}
			return nil
		}
		err := life(s)
		f.Before = nil
		failed = calls >= n
		if failed != (err != nil) {
			t.Errorf("call %d: got %v", n, err)
		}
		if err := sound(s); err != nil {
			t.Errorf("call %d: %v", n, err)
		}
		if err := aftermath(f, func(f *crashfs.FS) atomicfile.FS { return f }); err != nil {
			t.Errorf("call %d: the next run: %v", n, err)
		}
	}
	if n < 40 {
		t.Errorf("only %d calls", n)
	}
}
