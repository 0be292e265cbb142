package keypair_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// readWithin runs Read and fails if it takes long: nothing it is given may make
// it wait.
func readWithin(t *testing.T, s keypair.Source) (keypair.Pair, problem.List, error) {
	t.Helper()
	type result struct {
		p   keypair.Pair
		w   problem.List
		err error
	}
	done := make(chan result, 1)
	go func() {
		p, w, err := keypair.Read(context.Background(), s)
		done <- result{p, w, err}
	}()
	select {
	case r := <-done:
		return r.p, r.w, r.err
	case <-time.After(10 * time.Second):
		t.Fatalf("Read(%+v) waits", s)
		return keypair.Pair{}, nil, nil
	}
}

func TestReadLineage(t *testing.T) {
	made := certtest.NewHierarchy(t, "ecdsa", 3).Pair
	f := made.WriteFiles(t, t.TempDir())
	for name, s := range map[string]keypair.Source{
		"fullchain": {Cert: f.Fullchain, Key: f.Key},
		"chain":     {Cert: f.Cert, Key: f.Key, Chain: f.Chain},
		"foreign":   {Cert: f.Fullchain, Key: f.Key, Foreign: true},
	} {
		p, warnings, err := readWithin(t, s)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %v", name, err, warnings)
			continue
		}
		if len(p.Chain()) != 3 || !p.Leaf().Equal(made.Cert) || p.KeyType() != "ecdsa" {
			t.Errorf("%s: got %v with %d certificates", name, p, len(p.Chain()))
		}
	}
}

// TestReadRefuses: what is no regular file, too large, absent or another user's.
func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	f := certtest.NewHierarchy(t, "ecdsa", 2).Pair.WriteFiles(t, dir)
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.Mkfifo(path("fifo"), 0o600))
	must(os.Symlink(path("fifo"), path("link to a fifo")))
	must(os.Symlink(path("loop"), path("loop")))
	must(os.WriteFile(path("sparse"), nil, 0o600))
	must(os.Truncate(path("sparse"), 1<<30))
	l, err := net.Listen("unix", path("socket"))
	must(err)
	defer l.Close()
	for _, c := range []struct{ name, path, want string }{
		{"FIFO", path("fifo"), "input_not_regular"},
		{"link to a FIFO", path("link to a fifo"), "input_not_regular"},
		{"directory", dir, "input_not_regular"},
		{"socket", path("socket"), "input_not_regular"},
		{"endless device", "/dev/zero", "input_not_regular"},
		{"empty device", "/dev/null", "input_not_regular"},
		{"proc", "/proc/self/environ", "input_not_regular"},
		{"sparse file", path("sparse"), "input_too_large"},
		{"missing", path("nothing"), "input_missing"},
		{"no path", "", "input_missing"},
		{"link to itself", path("loop"), "input_unreadable"},
		{"below a file", f.Cert + "/x", "input_unreadable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, foreign := range []bool{false, true} {
				_, _, err := readWithin(t, keypair.Source{Cert: c.path, Key: f.Key, Foreign: foreign})
				var list problem.List
				if !errors.As(err, &list) || !list.Has(c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
			}
		})
	}
}

// TestReadCancelled: a tar stream whose writer says nothing ends with the context.
func TestReadCancelled(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, _, err := keypair.Read(ctx, keypair.Source{Tar: r})
	if !problem.From(err).Has("input_unreadable") {
		t.Errorf("got %v", err)
	}
}

// TestForeignPath: a path from a hook is refused wherever another user could
// have had a hand in it; the same path from root itself earns a warning.
func TestForeignPath(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, to give files away")
		}
		t.Skip("needs root, to give files away")
	}
	const other = 65534
	made := certtest.NewHierarchy(t, "ecdsa", 2).Pair
	for _, c := range []struct {
		name  string
		spoil func(f certtest.Files) error
	}{
		{"file of another user", func(f certtest.Files) error { return os.Chown(f.Fullchain, other, 0) }},
		{"file for all to write", func(f certtest.Files) error { return os.Chmod(f.Fullchain, 0o666) }},
		{"file for the group to write", func(f certtest.Files) error { return os.Chmod(f.Fullchain, 0o664) }},
		{"directory of another user", func(f certtest.Files) error { return os.Chown(f.Dir, other, 0) }},
		{"directory for all to write", func(f certtest.Files) error { return os.Chmod(f.Dir, 0o777) }},
		{"link of another user", func(f certtest.Files) error {
			if err := os.Rename(f.Fullchain, f.Fullchain+".1"); err != nil {
				return err
			}
			if err := os.Symlink(filepath.Base(f.Fullchain)+".1", f.Fullchain); err != nil {
				return err
			}
			return os.Lchown(f.Fullchain, other, 0)
		}},
		{"link into another user's directory", func(f certtest.Files) error {
			d := filepath.Join(filepath.Dir(f.Dir), "theirs")
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
			if err := os.Rename(f.Fullchain, filepath.Join(d, "x")); err != nil {
				return err
			}
			if err := os.Symlink("../theirs/x", f.Fullchain); err != nil {
				return err
			}
			return os.Chown(d, other, 0)
		}},
		{"hard link below a shared directory", func(f certtest.Files) error {
			if err := os.Chmod(f.Dir, 0o777|os.ModeSticky); err != nil {
				return err
			}
			return os.Link(f.Fullchain, f.Fullchain+".2")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "live")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f := made.WriteFiles(t, dir)
			if _, _, err := readWithin(t, keypair.Source{Cert: f.Fullchain, Key: f.Key, Foreign: true}); err != nil {
				t.Fatalf("refused before it is spoilt: %v", err)
			}
			if err := c.spoil(f); err != nil {
				t.Fatal(err)
			}
			if _, _, err := readWithin(t, keypair.Source{Cert: f.Fullchain, Key: f.Key, Foreign: true}); !problem.From(err).Has("input_untrusted_path") {
				t.Errorf("from a hook: got %v", err)
			}
			p, warnings, err := readWithin(t, keypair.Source{Cert: f.Fullchain, Key: f.Key})
			if err != nil || p.IsZero() || !warnings.Has("input_untrusted_path") {
				t.Errorf("from root: got %v, warnings %v", err, warnings)
			}
		})
	}
}

// TestKeyMode: a key that others can read is told.
func TestKeyMode(t *testing.T) {
	f := certtest.NewHierarchy(t, "ecdsa", 2).Pair.WriteFiles(t, t.TempDir())
	if err := os.Chmod(f.Key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, warnings, err := readWithin(t, keypair.Source{Cert: f.Fullchain, Key: f.Key}); err != nil || !warnings.Has("key_perms") {
		t.Errorf("got %v, warnings %v", err, warnings)
	}
}
