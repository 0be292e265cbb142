package acme

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postcert/acme/acmetest"
	"postcert/verify/problem"
)

// world is a Manager on a directory of its own and a real CA, Pebble.
type world struct {
	*Manager
	ca   *acmetest.CA
	dir  string
	spec Spec
}

func newWorld(t *testing.T, o acmetest.Options) *world {
	t.Helper()
	ca := acmetest.Start(t, o)
	dir := filepath.Join(t.TempDir(), "acme")
	store, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(ca.RootsFile)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca, dir: dir, Manager: &Manager{Store: store, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}}
	w.spec = Spec{
		Name: "mail.example.test", Identifiers: []string{"mail.example.test"}, Profile: "classic",
		Directory: ca.URL, Roots: roots,
		Challenge: Challenge{Type: HTTP01, Listen: fmt.Sprintf("127.0.0.1:%d", ca.HTTPPort)},
	}
	return w
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (w *world) account() AccountSpec {
	return AccountSpec{Directory: w.spec.Directory, Roots: w.spec.Roots, Contact: []string{"admin@example.test"}, AgreeTerms: true}
}

func (w *world) register(t *testing.T) AccountState {
	t.Helper()
	a, err := w.Register(t.Context(), w.account())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) obtain(t *testing.T, o Options) Result {
	t.Helper()
	r, err := w.Obtain(t.Context(), w.spec, o)
	if err != nil {
		t.Fatalf("obtain: %v", err)
	}
	opensslReads(t, r.Version)
	return r
}

// fails expects an error with a problem of this id.
func fails(t *testing.T, err error, id string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error with %s", err, id)
	}
	if !problem.From(err).Has(id) {
		t.Fatalf("got %+v, want %s", problem.From(err), id)
	}
	return e
}

// opensslReads makes openssl agree on what was stored: the key is a good one, the
// leaf has its public key, and the chain holds up to its topmost certificate.
func opensslReads(t *testing.T, v *Version) {
	t.Helper()
	run := func(args ...string) string {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	run("pkey", "-in", v.Key(), "-noout", "-check")
	fromKey := run("pkey", "-in", v.Key(), "-pubout")
	if fromCert := run("x509", "-in", v.FullChain(), "-noout", "-pubkey"); fromCert != fromKey {
		t.Errorf("openssl reads another public key in %s than in %s", v.FullChain(), v.Key())
	}
	run("verify", "-partial_chain", "-purpose", "sslserver", "-CAfile", filepath.Join(v.Dir, FileChain), "-untrusted", filepath.Join(v.Dir, FileChain), filepath.Join(v.Dir, FileCert))
	for _, name := range []string{FilePrivateKey, FileCert, FileChain, FileFullChain, fileMeta} {
		if info, err := os.Lstat(filepath.Join(v.Dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", name, info, err)
		}
	}
}

// The whole way: registered once, obtained once, found again, renewed by force
// with the same key (S50), revoked.
func TestObtain(t *testing.T) {
	w := newWorld(t, acmetest.Options{ChainLength: 3})
	_, err := w.Obtain(t.Context(), w.spec, Options{})
	fails(t, err, "account_missing")

	s := w.account()
	s.AgreeTerms = false
	_, err = w.Register(t.Context(), s)
	if e := fails(t, err, "terms_not_agreed"); !strings.Contains(e.Error(), "https://") && !strings.Contains(e.Error(), "data:") {
		t.Errorf("the terms are not named: %v", e)
	}
	first := w.register(t)
	if again := w.register(t); again.URI != first.URI || again.Created || !first.Created {
		t.Errorf("registered twice: %+v, %+v", first, again)
	}
	if n := w.ca.Count(acmetest.NewAccount); n != 1 {
		t.Errorf("%d requests for an account, want 1", n)
	}

	// That there was no account is no failure that delays anything.
	r := w.obtain(t, Options{})
	if !r.Renewed || r.Version.Number != 1 || r.Version.ChainLen != 4 || r.Next.IsZero() {
		t.Errorf("%+v", r)
	}
	orders := w.ca.Count(acmetest.NewOrder)
	for range 5 {
		if r := w.obtain(t, Options{}); r.Renewed {
			t.Error("ordered again although nothing is due")
		}
	}
	if n := w.ca.Count(acmetest.NewOrder); n != orders || n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	st, err := w.State(w.spec.Name)
	if err != nil || st.Window == nil || st.Selected.Before(st.Window.Start) || st.Selected.After(st.Window.End) {
		t.Errorf("no renewal window after the issuance: %+v %v", st, err)
	}
	r2 := w.obtain(t, Options{Force: true})
	if !r2.Renewed || r2.Version.SPKI != r.Version.SPKI || r2.KeyChange || r2.Version.Number != 2 {
		t.Errorf("S50: a renewal with default settings changed the key: %+v", r2)
	}
	if err := w.Revoke(t.Context(), w.spec, KeyCompromise); err != nil {
		t.Fatal(err)
	}
	leaf, err := w.Leaf(w.spec.Name)
	if err != nil || !w.ca.Revoked(leaf) {
		t.Errorf("not revoked: %v", err)
	}
	_, err = w.Obtain(t.Context(), w.spec, Options{Force: true})
	fails(t, err, "key_change_refused")
	r3 := w.obtain(t, Options{Force: true, AllowKeyChange: true})
	if r3.Version.SPKI == r.Version.SPKI || !r3.KeyChange {
		t.Error("a compromised key was used again")
	}
}
