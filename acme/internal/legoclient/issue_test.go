package legoclient

import (
	"bytes"
	"crypto/x509"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// verified checks the chain against the CA's roots, as a peer would.
func (w *world) verified(chain Chain, names ...string) {
	w.t.Helper()
	intermediates := x509.NewCertPool()
	for _, c := range chain.Certificates[1:] {
		intermediates.AddCert(c)
	}
	for _, name := range names {
		if _, err := chain.Certificates[0].Verify(x509.VerifyOptions{DNSName: strings.Replace(name, "*.", "any.", 1), Roots: w.Issuers(), Intermediates: intermediates}); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssueHTTP(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{ChainLength: 3})
	names := []string{"mail.example.test", "smtp.example.test"}
	began := time.Now()
	chain := w.issue(w.http(), OrderRequest{Identifiers: names, Profile: "shortlived"})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("two names took %s", took)
	}
	w.verified(chain, names...)
	if len(chain.Certificates) != 4 {
		t.Errorf("got %d certificates, want 4", len(chain.Certificates))
	}
	leaf := chain.Certificates[0]
	if got := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); got != 160*time.Hour {
		t.Errorf("the shortlived profile gives %s", got)
	}
	mustBeFree(t, w.HTTPPort)
	// The oracle: one order, one challenge per name, and no hurry.
	if n := w.Count(acmetest.NewOrder); n != 1 {
		t.Errorf("%d orders", n)
	}
	if n := w.Count(acmetest.Challenge); n != 2 {
		t.Errorf("%d answers to challenges", n)
	}
	for _, r := range w.Requests() {
		if !strings.HasPrefix(r.UserAgent, "postcert") {
			t.Errorf("%s %s by %q", r.Method, r.Kind, r.UserAgent)
		}
	}
}

func TestIssueALPN(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	names := []string{"mail.example.test", "smtp.example.test"}
	w.verified(w.issue(w.alpn(), OrderRequest{Identifiers: names}), names...)
	mustBeFree(t, w.TLSPort)
}

func TestIssueDNS(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	z := &zone{dns: w.DNS}
	// The wildcard's record and the name's share a place; another name is delegated.
	w.DNS.SetCNAME("_acme-challenge.other.test", "a.alias.test")
	w.DNS.SetCNAME("a.alias.test", "b.alias.test")
	w.DNS.SetLag(600 * time.Millisecond)
	names := []string{"*.example.test", "example.test", "other.test"}
	// The alias changes once the name is validated; what was written is removed.
	w.Fault(acmetest.Fault{Kind: acmetest.Authz, Edit: func(b []byte) []byte {
		if bytes.Contains(b, []byte("other.test")) && !bytes.Contains(b, []byte(`"pending"`)) {
			w.DNS.SetCNAME("_acme-challenge.other.test", "c.alias.test")
		}
		return b
	}})
	s := solver(t, Challenge{Type: DNS01, DNS: z, Resolvers: []string{w.DNS.Addr}})
	w.verified(w.issue(s, OrderRequest{Identifiers: names}), names...)
	if left := w.DNS.TXT(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if !slices.Contains(z.calls, "present b.alias.test.") || !slices.Contains(z.calls, "cleanup b.alias.test.") {
		t.Errorf("the CNAME was not followed: %q", z.calls)
	}
}

func TestIssueWebroot(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	dir := t.TempDir()
	publish(t, dir, w.HTTPPort)
	s := solver(t, Challenge{Type: HTTP01, Webroot: dir})
	if err := s.Check(t.Context(), []string{"mail.example.test"}); err != nil {
		t.Error(err)
	}
	names := []string{"mail.example.test", "smtp.example.test"}
	w.verified(w.issue(s, OrderRequest{Identifiers: names}), names...)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestResume: the process ends after the challenges; another one goes on with the
// order's URL alone.
func TestResume(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	key, names := newKey(t), []string{"mail.example.test"}
	o := w.order(OrderRequest{Identifiers: names})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	url := o.URL
	again := client(t, w.CA)
	o, err := again.Order(t.Context(), w.acct, url)
	if err != nil || o.Status != "ready" {
		t.Fatalf("got %q, %v; want ready", o.Status, err)
	}
	if _, err = again.Finalize(t.Context(), w.acct, o, csr(t, key, names...)); err != nil {
		t.Fatal(err)
	}
	// And once more: what the first Finalize brought about is not lost.
	third := client(t, w.CA)
	if _, err = third.Finalize(t.Context(), w.acct, o, csr(t, key, names...)); err != nil {
		t.Fatal(err)
	}
	if o, err = third.Await(t.Context(), w.acct, url); err != nil {
		t.Fatal(err)
	}
	chain, err := third.Download(t.Context(), w.acct, o.Certificate, "")
	if err != nil {
		t.Fatal(err)
	}
	w.verified(chain, names...)
	if !key.PublicKey.Equal(chain.Certificates[0].PublicKey) {
		t.Error("a certificate of another key")
	}
	if n := w.Count(acmetest.NewOrder); n != 1 {
		t.Errorf("%d orders", n)
	}
}

func TestAlternateChain(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{AlternateRoots: 2})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Finalize(t.Context(), w.acct, o, csr(t, newKey(t), "mail.example.test")); err != nil {
		t.Fatal(err)
	}
	o, err := w.client.Await(t.Context(), w.acct, o.URL)
	if err != nil {
		t.Fatal(err)
	}
	offered := []string{w.RootName(0), w.RootName(1), w.RootName(2)}
	tests := []struct {
		wanted, got string
		preferred   bool
	}{
		{"", offered[0], true}, {offered[0], offered[0], true}, {offered[1], offered[1], true},
		{offered[2], offered[2], true}, {"DST Root CA X3", offered[0], false},
	}
	for _, tt := range tests {
		for range 3 { // no order of a map in it
			chain, err := w.client.Download(t.Context(), w.acct, o.Certificate, tt.wanted)
			if err != nil {
				t.Fatal(err)
			}
			got := chain.Certificates[len(chain.Certificates)-1].Issuer.CommonName
			if got != tt.got || chain.Preferred != tt.preferred || !slices.Equal(chain.Alternates, offered) {
				t.Errorf("%q: got %q, %v, %q", tt.wanted, got, chain.Preferred, chain.Alternates)
			}
		}
	}
	// A chain that could not be fetched is not quietly another one.
	w.Fault(acmetest.Fault{Kind: acmetest.Certificate, Path: "/alternate/", Status: 503})
	if _, err := w.client.Download(t.Context(), w.acct, o.Certificate, offered[1]); failure(t, err).Status != 503 {
		t.Errorf("got %v", err)
	}
	if chain, err := w.client.Download(t.Context(), w.acct, o.Certificate, ""); err != nil || len(chain.Certificates) == 0 {
		t.Errorf("got %v, although the default was there", err)
	}
}
