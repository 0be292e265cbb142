package acme

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"context"

	"postcert/acme/acmetest"
)

// S46: port 80 is busy, one of three names fails, a name leads elsewhere: the old
// certificate stays, name and cause are told, the next attempt is shown, and the
// order is not wasted on what is our own fault.
func TestS46(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	w.spec.Identifiers = []string{"mail.example.test", "mx.example.test", "smtp.example.test"}
	first := w.obtain(t, Options{})

	busy, err := net.Listen("tcp", w.spec.Challenge.Listen)
	if err != nil {
		t.Fatal(err)
	}
	if found := w.Preflight(t.Context(), w.spec); !found.Has("challenge_failed") {
		t.Errorf("preflight does not see the busy port: %v", found)
	}
	_, err = w.Obtain(t.Context(), w.spec, Options{Force: true})
	if e := fails(t, err, "challenge_failed"); e.Class != ClassLocal || !e.Next.After(time.Now()) {
		t.Errorf("got %+v", e)
	}
	made := w.ca.Count(acmetest.NewOrder)
	busy.Close()
	w.ca.DNS.SetAddr("mx.example.test", "127.0.0.2")
	w.Addresses = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host == "mx.example.test" {
			return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	if found := w.Preflight(t.Context(), w.spec); !found.Has("domain_elsewhere") || found.Err() != nil {
		t.Errorf("preflight does not see where mx leads: %v", found)
	}
	w.Addresses = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.1.1")}, nil
	}
	if found := w.Preflight(t.Context(), w.spec); found.Has("domain_elsewhere") {
		t.Errorf("127.0.1.1 is taken for another host: %v", found)
	}
	r, err := w.Obtain(t.Context(), w.spec, Options{Force: true})
	e := fails(t, err, "validation_failed")
	if !strings.Contains(e.Error(), "mx.example.test") || strings.Contains(e.Error(), "smtp.example.test") || e.Class != ClassValidation {
		t.Errorf("the failing name is not told: %v", e)
	}
	if n := w.ca.Count(acmetest.NewOrder); n != made {
		t.Errorf("another order was made although the first could be resumed: %d, then %d", made, n)
	}
	if !r.Resumed || r.Version == nil || r.Version.SHA256 != first.Version.SHA256 || !r.Next.After(time.Now().Add(10*time.Minute)) {
		t.Errorf("the old certificate is not kept, or no next attempt is shown: %+v", r)
	}
}

// An external account binding: required, refused, accepted; its key is nowhere on
// disk.
func TestEAB(t *testing.T) {
	hmac := bytes.Repeat([]byte{0xfb, 0xef}, 16)
	w := newWorld(t, acmetest.Options{EAB: map[string][]byte{"kid-1": hmac}})
	_, err := w.Register(t.Context(), w.account())
	fails(t, err, "eab_required")
	s := w.account()
	s.EABKeyID, s.EABFile = "kid-1", filepath.Join(t.TempDir(), "eab")
	_, err = w.Register(t.Context(), s)
	fails(t, err, "eab_file")
	secret := base64.StdEncoding.EncodeToString(hmac)
	if err := os.WriteFile(s.EABFile, []byte(secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = w.Register(t.Context(), s)
	if e := fails(t, err, "eab_file"); strings.Contains(e.Error(), secret) {
		t.Error("the error shows the key")
	}
	if err := os.Chmod(s.EABFile, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := s
	wrong.EABKeyID = "kid-2"
	if _, err = w.Register(t.Context(), wrong); err == nil {
		t.Error("an unknown key identifier was accepted")
	}
	a, err := w.Register(t.Context(), s)
	if err != nil || a.EABKeyID != "kid-1" {
		t.Fatalf("%+v %v", a, err)
	}
	err = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, form := range [][]byte{hmac, []byte(secret), []byte(base64.RawURLEncoding.EncodeToString(hmac))} {
			if bytes.Contains(data, form) {
				t.Errorf("%s holds the key of the binding", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.obtain(t, Options{})
}

// A rollover: the CA knows the new key only; a description that is lost is made
// again from the key; a second rollover works.
func TestRollover(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	first := w.register(t)
	second, err := w.Rollover(t.Context(), w.account())
	if err != nil || second.URI != first.URI || second.Thumbprint == first.Thumbprint {
		t.Fatalf("%+v %v", second, err)
	}
	w.obtain(t, Options{})
	if err := os.Remove(w.Store.ca(w.spec.Directory, defaultAccount, fileAccount)); err != nil {
		t.Fatal(err)
	}
	w.obtain(t, Options{Force: true})
	third, err := w.Account(t.Context(), w.account(), true)
	if err != nil || third.URI != first.URI || third.Status != "valid" {
		t.Errorf("%+v %v", third, err)
	}
	if _, err := w.Rollover(t.Context(), w.account()); err != nil {
		t.Error(err)
	}
	w.obtain(t, Options{Force: true})
}

// Profiles: one that the CA has, one that it lacks, preferred or required; a
// preferred chain; a dry run that stores nothing.
func TestProfilesAndDryRun(t *testing.T) {
	w := newWorld(t, acmetest.Options{AlternateRoots: 1})
	w.register(t)
	w.spec.Profile = "shortlived"
	if r := w.obtain(t, Options{}); r.Version.NotAfter.Sub(r.Version.NotBefore) > 161*time.Hour {
		t.Errorf("%+v", r.Version)
	}
	w.spec.Profile = "nosuch"
	if r := w.obtain(t, Options{Force: true}); !r.Warnings.Has("profile_unknown") || r.Version.Profile != "nosuch" {
		t.Errorf("no warning: %+v", r)
	}
	made := w.ca.Count(acmetest.NewOrder)
	w.spec.ProfileRequired = true
	_, err := w.Obtain(t.Context(), w.spec, Options{Force: true})
	if e := fails(t, err, "profile_unknown"); e.Class != ClassRequest || w.ca.Count(acmetest.NewOrder) != made {
		t.Errorf("%+v", e)
	}
	// Another specification is not held back.
	w.spec.Profile, w.spec.PreferredChain = "classic", w.ca.RootName(1)
	r := w.obtain(t, Options{})
	if !r.Renewed || r.Warnings.Has("chain_not_offered") {
		t.Errorf("%+v", r)
	}
	before := tree(t, w.Store.cert(w.spec.Name))
	_, err = w.Obtain(t.Context(), w.spec, Options{DryRun: true})
	fails(t, err, "dry_run_directory")
	dry, err := w.Obtain(t.Context(), w.spec, Options{DryRun: true, DryRunDirectory: w.spec.Directory, DryRunRoots: w.spec.Roots})
	if err != nil || dry.Version == nil || dry.Dir != "" || dry.Renewed {
		t.Errorf("%+v %v", dry, err)
	}
	if after := tree(t, w.Store.cert(w.spec.Name)); after != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// ARI answers that are none leave the fallback in force, and never mean "now".
func TestARIAnswers(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	remove := w.ca.Fault(acmetest.Fault{Kind: acmetest.RenewalInfo, Status: 500, Problem: "serverInternal"})
	w.obtain(t, Options{})
	remove()
	for name, f := range map[string]acmetest.Fault{
		"500":      {Kind: acmetest.RenewalInfo, Status: 500, Problem: "serverInternal"},
		"404":      {Kind: acmetest.RenewalInfo, Status: 404, Problem: "malformed"},
		"null":     {Kind: acmetest.RenewalInfo, Status: 200, Body: "null"},
		"HTML":     {Kind: acmetest.RenewalInfo, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>"},
		"redirect": {Kind: acmetest.RenewalInfo, Status: 302, Header: http.Header{"Location": {"https://127.0.0.1:1/"}}},
		"inverted": {Kind: acmetest.RenewalInfo, Status: 200, Body: acmetest.Window(time.Now(), time.Now().Add(-time.Hour))},
		"2090":     {Kind: acmetest.RenewalInfo, Status: 200, Body: acmetest.Window(time.Now().AddDate(60, 0, 0), time.Now().AddDate(61, 0, 0))},
		"1970":     {Kind: acmetest.RenewalInfo, Status: 200, Body: acmetest.Window(time.Unix(0, 0), time.Unix(3600, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			remove := w.ca.Fault(f)
			defer remove()
			st, err := w.Refresh(t.Context(), w.spec)
			if err != nil || st.Window != nil || st.ARIError == "" || !st.ARINext.After(time.Now()) {
				t.Errorf("%+v %v", st, err)
			}
			if d := Next(mustNormal(t, w.spec), st, st.Current, time.Now()); d.Action != None || d.Reason != ReasonLifetime {
				t.Errorf("%+v", d)
			}
		})
	}
	leaf, err := w.Leaf(w.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ca.SetRenewalInfo(leaf, acmetest.Window(time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))); err != nil {
		t.Fatal(err)
	}
	st, err := w.Refresh(t.Context(), w.spec)
	if err != nil || st.Window == nil {
		t.Fatalf("%+v %v", st, err)
	}
	if r := w.obtain(t, Options{}); !r.Renewed || r.Reason != ReasonARI {
		t.Errorf("S49: %+v", r)
	}
}

// A cancelled Obtain returns within a second, and the next one goes on with the
// same order.
func TestCancel(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	remove := w.ca.Fault(acmetest.Fault{Kind: acmetest.Finalize, Delay: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	var canceled time.Time
	go func() {
		for w.ca.Count(acmetest.Finalize) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		canceled = time.Now()
		cancel()
	}()
	_, err := w.Obtain(ctx, w.spec, Options{})
	took := time.Since(canceled)
	if e := fails(t, err, "acme_canceled"); e.Class != ClassCanceled || took > time.Second {
		t.Errorf("%+v after %s", e, took)
	}
	remove()
	if r := w.obtain(t, Options{}); !r.Resumed || w.ca.Count(acmetest.NewOrder) > 2 {
		t.Errorf("not resumed: %+v", r)
	}
}

// Damage of any file is told by its name, changes nothing, and loses nothing.
func TestDamage(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	r := w.obtain(t, Options{})
	files := []string{
		w.Store.cert(w.spec.Name, fileState), filepath.Join(r.Dir, fileMeta), r.Key, r.FullChain, filepath.Join(r.Dir, FileCert),
		w.Store.ca(w.spec.Directory, fileLedger), w.Store.ca(w.spec.Directory, defaultAccount, fileAccount),
		w.Store.ca(w.spec.Directory, defaultAccount, fileAccountKey),
	}
	for _, path := range files {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[len(flipped)*3/4] ^= 1
		for kind, bad := range map[string][]byte{"empty": {}, "half": good[:len(good)/2], "one bit": flipped, "zeros": make([]byte, len(good))} {
			t.Run(filepath.Base(path)+" "+kind, func(t *testing.T) {
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := w.Obtain(t.Context(), w.spec, Options{Force: true})
				e := fails(t, err, "acme_state_damaged")
				if !strings.Contains(e.Error(), filepath.Dir(path)) || strings.Contains(e.Error(), "PRIVATE") {
					t.Errorf("the message is %v", e)
				}
				if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
					t.Errorf("the damaged file was changed: %v", err)
				}
			})
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".json") {
			later := bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 2, "new": {}`), 1)
			if err := os.WriteFile(path, later, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := w.Obtain(t.Context(), w.spec, Options{Force: true})
			fails(t, err, "acme_state_later")
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := w.obtain(t, Options{}); again.Renewed || w.ca.Count(acmetest.NewAccount) != 1 {
		t.Errorf("something was lost: %+v", again)
	}
}

// FuzzStored: whatever stands in our files, what is read is sane and reads back
// equal, and everything else is a *FileError.
func FuzzStored(f *testing.F) {
	for _, seed := range []struct {
		kind string
		v    any
	}{
		{kindState, State{Failures: 1, Class: ClassNetwork, NextAttempt: epoch, Window: &Window{epoch, epoch.Add(day)}}},
		{kindVersion, *version(day)}, {kindOrder, *pending(good(), "https://ca.example/o")},
		{kindLedger, ledger{Directory: "https://ca.example/", Orders: map[string][]time.Time{"x": {epoch}}}},
		{kindAccount, AccountState{Directory: "https://ca.example/", URI: "https://ca.example/a/1"}},
	} {
		data, err := encode(seed.kind, seed.v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"kind":"state","sha256":"x","data":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var st State
		var v Version
		var p Pending
		var l ledger
		var a AccountState
		for kind, target := range map[string]struct {
			v     any
			check func() error
		}{kindState: {&st, st.check}, kindVersion: {&v, v.check}, kindOrder: {&p, p.check}, kindLedger: {&l, l.check}, kindAccount: {&a, a.check}} {
			err := decode(kind, data, target.v, target.check)
			var bad *FileError
			if err != nil && !errors.As(err, &bad) {
				t.Fatalf("%s: %T %v", kind, err, err)
			}
			if err != nil {
				continue
			}
			again, err := encode(kind, target.v)
			if err != nil {
				t.Fatal(err)
			}
			if err := decode(kind, again, target.v, target.check); err != nil {
				t.Fatalf("%s reads not back: %v", kind, err)
			}
			third, err := json.Marshal(target.v)
			if err != nil || len(third) == 0 {
				t.Fatal(err)
			}
		}
		if key, err := decodeKey(data); err == nil && keyType(key.Public()) == "" {
			t.Fatal("a key of no type")
		}
		n := mustNormal(t, good())
		st.Current = nil
		if d := Next(n, st, nil, epoch); d.At.IsZero() || d.Attempt.IsZero() {
			t.Fatalf("no next attempt: %+v", d)
		}
	})
}
