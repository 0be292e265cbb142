package verify

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postcert/verify/certtest"
	"postcert/verify/problem"
)

func TestLoadAnchors(t *testing.T) {
	dir := t.TempDir()
	h := certtest.NewHierarchy(t, "ecdsa", 2)
	other := certtest.NewCA(t, certtest.Authority{Name: "Other"})
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := certtest.EncodeCerts(h.Root.Cert)
	bundle := put("bundle.pem", append(certtest.Block("CERTIFICATE", []byte("damaged")), append(root, root...)...))
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		name           string
		bundles, extra []string
		count          int
		refused        bool
	}{
		{"first bundle that exists", []string{missing, bundle, put("second.pem", certtest.EncodeCerts(other.Cert))}, nil, 1, false},
		{"no bundle", []string{missing}, nil, 0, false},
		{"extra", []string{bundle}, []string{put("extra.pem", certtest.EncodeCerts(other.Cert))}, 2, false},
		{"extra missing", []string{bundle}, []string{missing}, 0, true},
		{"extra is a directory", []string{bundle}, []string{dir}, 0, true},
		{"extra empty", nil, []string{put("empty.pem", nil)}, 0, true},
		{"extra damaged", nil, []string{bundle}, 0, true},
		{"extra cut", nil, []string{put("cut.pem", append(root, root[:200]...))}, 0, true},
		{"extra with a key", nil, []string{put("key.pem", append(root, h.Pair.KeyPEM()...))}, 0, true},
		{"extra is an intermediate", nil, []string{put("inter.pem", h.Pair.ChainPEM())}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := loadAnchors(c.bundles, c.extra)
			if a.Count() != c.count || problem.From(err).Has("trust_invalid") != c.refused {
				t.Errorf("got %d anchors, %v; want %d, refused %v", a.Count(), err, c.count, c.refused)
			}
		})
	}
	// Only main decides what the environment may say; this package never asks it.
	t.Setenv("SSL_CERT_FILE", bundle)
	if a, err := loadAnchors(nil, nil); err != nil || a.Count() != 0 {
		t.Errorf("SSL_CERT_FILE gives %d anchors, %v", a.Count(), err)
	}
	if NewAnchors(h.Issuer.Cert).Count() != 0 || (Anchors{}).Count() != 0 {
		t.Errorf("an intermediate counts as trust anchor")
	}
}

func TestCovers(t *testing.T) {
	leaf := &x509.Certificate{
		DNSNames:    []string{"mail.example.org", "*.Example.net", "*.org", "*.a.example.com"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1").To4(), net.ParseIP("2001:db8::1")},
	}
	leaf.Subject.CommonName = "cn.example.org"
	for name, want := range map[string]bool{
		"mail.example.org": true, "MAIL.Example.ORG.": true, "example.org": false, "x.mail.example.org": false,
		"a.example.net": true, "example.net": false, "a.b.example.net": false, "*.example.net": true, "_x.example.net": false,
		".example.net": false, "*.mail.example.org": false, "*.example.org": false, "*.b.a.example.com": false, "b.a.example.com": true,
		"cn.example.org": false, "": false, ".": false, "192.0.2.1": true, "::ffff:192.0.2.1": true, "[2001:db8::1]": true, "192.0.2.2": false, "bücher.example.net": false,
	} {
		if got := Covers(leaf, name); got != want {
			t.Errorf("Covers(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestLegal(t *testing.T) {
	for name, want := range map[string]bool{
		"mail.example.org": true, "*.example.org": true, "_dmarc.example.org": true, "xn--bcher-kva.example": true, "localhost": true,
		"": false, ".": false, "*": false, "a..b": false, "a.b.": false, ".a": false, "a.*.b": false, "a b": false, "a\x00": false, "*.*.a": false,
	} {
		if got := legal(name); got != want {
			t.Errorf("legal(%q) = %v, want %v", name, got, want)
		}
	}
}

// TestTrusted: what a listener presents, judged without names and good form.
func TestTrusted(t *testing.T) {
	h := certtest.NewHierarchy(t, "ecdsa", 3)
	a, now := NewAnchors(h.Root.Cert), time.Now()
	full := append([]*x509.Certificate{h.Pair.Cert}, h.Pair.Chain...)
	self := certtest.SelfSigned(t, certtest.Leaf{}).Cert
	client := h.Issuer.Leaf(t, certtest.Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}).Cert
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		a     Anchors
		at    time.Time
		want  string
	}{
		{"good", full, a, now, ""},
		{"any order", []*x509.Certificate{full[0], full[2], full[1]}, a, now, ""},
		{"root and a stranger besides", append(full[:3:3], h.Root.Cert, self), a, now, ""},
		{"nothing", nil, a, now, "cert_missing"},
		{"leaf only", full[:1], a, now, "chain_incomplete"},
		{"no anchors", full, Anchors{}, now, "no_trust_anchors"},
		{"other root", append(full[:3:3], h.Root.Cert), NewAnchors(self), now, "not_trusted"},
		{"expired", full, a, now.AddDate(0, 0, 100), "cert_expired"},
		{"for clients", append([]*x509.Certificate{client}, full[1:]...), a, now, "purpose_eku"},
		{"self-signed", []*x509.Certificate{self}, a, now, "self_signed"},
		{"self-signed, trusted", []*x509.Certificate{self}, NewAnchors(self), now, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Trusted(c.chain, c.a, c.at)
			if c.want == "" && err != nil || c.want != "" && !problem.From(err).Has(c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
