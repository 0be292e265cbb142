package legoclient

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"slices"
	"strings"
	"testing"

	"postcert/acme/acmetest"
)

func TestRegister(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	if !strings.HasPrefix(w.acct.URI, "https://") {
		t.Fatalf("the account's URL is %q", w.acct.URI)
	}
	// The same key finds the same account.
	again, err := w.client.Register(t.Context(), w.acct.Key, Registration{AgreeTerms: true})
	if err != nil || again != w.acct.URI {
		t.Errorf("got %q, %v; want %q", again, err, w.acct.URI)
	}
	found, err := w.client.Lookup(t.Context(), w.acct.Key)
	if err != nil || found != w.acct.URI {
		t.Errorf("got %q, %v; want %q", found, err, w.acct.URI)
	}
	if _, err := w.client.Lookup(t.Context(), newKey(t)); failure(t, err).Type != "accountDoesNotExist" {
		t.Errorf("got %v", err)
	}
	before := w.Count(acmetest.NewAccount)
	if _, err := w.client.Register(t.Context(), newKey(t), Registration{}); failure(t, err).Type != "userActionRequired" {
		t.Errorf("got %v", err)
	}
	if w.Count(acmetest.NewAccount) != before {
		t.Error("terms that were not agreed to were sent to the CA all the same")
	}
}

func TestAccountKeys(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		key  crypto.Signer
		ok   bool
	}{{"P-384", p384, true}, {"RSA 2048", large, true}, {"P-521", p521, false}, {"RSA 1024", small, false}}
	for _, tt := range tests {
		_, err := w.client.Register(t.Context(), tt.key, Registration{AgreeTerms: true})
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !tt.ok && failure(t, err).Kind != Local {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestContact(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, contact := range [][]string{{"mailto:a@example.test", "mailto:b@example.test"}, {"mailto:c@example.test"}, nil} {
		if err := w.client.UpdateContact(t.Context(), w.acct, contact); err != nil {
			t.Fatal(err)
		}
		info, err := w.client.AccountInfo(t.Context(), w.acct)
		if err != nil || info.Status != "valid" || !slices.Equal(info.Contact, contact) {
			t.Errorf("got %+v, %v; want %q", info, err, contact)
		}
	}
	if err := w.client.UpdateContact(t.Context(), w.acct, []string{"tel:+49"}); failure(t, err).Kind != Protocol {
		t.Errorf("got %v", err)
	}
}

func TestEAB(t *testing.T) {
	t.Parallel()
	hmac := []byte("0123456789abcdef0123456789abcdef")
	w := start(t, acmetest.Options{EAB: map[string][]byte{"kid-1": hmac}})
	dir, err := w.client.Directory(t.Context())
	if err != nil || !dir.EABRequired {
		t.Fatalf("got %+v, %v", dir, err)
	}
	wrong := slices.Clone(hmac)
	wrong[0]++
	tests := []struct {
		name string
		r    Registration
		kind Kind
		typ  string
	}{
		{"none", Registration{AgreeTerms: true}, Protocol, "externalAccountRequired"},
		{"unknown", Registration{AgreeTerms: true, EABKeyID: "kid-2", EABHMAC: hmac}, Protocol, "unauthorized"},
		{"wrong key", Registration{AgreeTerms: true, EABKeyID: "kid-1", EABHMAC: wrong}, Protocol, "unauthorized"},
		{"short key", Registration{AgreeTerms: true, EABKeyID: "kid-1", EABHMAC: hmac[:8]}, Local, ""},
		{"no key", Registration{AgreeTerms: true, EABKeyID: "kid-1"}, Local, ""},
	}
	for _, tt := range tests {
		_, err := w.client.Register(t.Context(), w.acct.Key, tt.r)
		if e := failure(t, err); e.Kind != tt.kind || e.Type != tt.typ {
			t.Errorf("%s: got %+v", tt.name, e)
		}
		if err != nil && strings.Contains(err.Error(), string(hmac)) {
			t.Errorf("%s: the error has the key", tt.name)
		}
	}
	if _, err := w.client.Register(t.Context(), w.acct.Key, Registration{AgreeTerms: true, EABKeyID: "kid-1", EABHMAC: hmac}); err != nil {
		t.Error(err)
	}
}

func TestChangeKey(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{NonceReject: 50})
	old := w.acct
	next, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.client.ChangeKey(t.Context(), old, next); err != nil {
		t.Fatal(err)
	}
	found, err := w.client.Lookup(t.Context(), next)
	if err != nil || found != old.URI {
		t.Errorf("got %q, %v; want %q", found, err, old.URI)
	}
	if _, err := w.client.Lookup(t.Context(), old.Key); failure(t, err).Type != "accountDoesNotExist" {
		t.Errorf("the old key: %v", err)
	}
	w.acct.Key = next
	w.verified(w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}}), "mail.example.test")
	if _, err := w.client.NewOrder(t.Context(), old, OrderRequest{Identifiers: []string{"a.example.test"}, Profile: "classic"}); err == nil {
		t.Error("the old key still orders")
	}
	// A key that another account has is refused, and nothing changes.
	other := newKey(t)
	if _, err := w.client.Register(t.Context(), other, Registration{AgreeTerms: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.ChangeKey(t.Context(), w.acct, other); failure(t, err).Kind != Protocol {
		t.Errorf("got %v", err)
	}
	// RFC 8555 section 7.3.5 says 409 for it.
	remove := w.Fault(acmetest.Fault{Kind: acmetest.KeyChange, Status: http.StatusConflict, Problem: "malformed"})
	if err := w.client.ChangeKey(t.Context(), w.acct, other); failure(t, err).Status != http.StatusConflict {
		t.Errorf("got %v", err)
	}
	remove()
	if found, err := w.client.Lookup(t.Context(), next); err != nil || found != w.acct.URI {
		t.Errorf("got %q, %v", found, err)
	}
}

func TestChangeKeyNone(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{Directory: func(d map[string]any) { delete(d, "keyChange") }})
	if err := w.client.ChangeKey(t.Context(), w.acct, newKey(t)); failure(t, err).Kind != Protocol {
		t.Errorf("got %v", err)
	}
	if dir, err := w.client.Directory(t.Context()); err != nil || dir.KeyChange || !dir.ARI {
		t.Errorf("got %+v, %v", dir, err)
	}
}
