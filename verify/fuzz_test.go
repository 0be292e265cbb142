package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"postcert/verify/certtest"
)

// FuzzAnchors: of whatever bytes, each certificate that is read stands in them,
// and a bundle that is read without an error reads the same from its own
// encoding.
func FuzzAnchors(f *testing.F) {
	root := certtest.NewCA(f, certtest.Authority{})
	data := certtest.EncodeCerts(root.Cert)
	f.Add(data)
	f.Add(append([]byte("# a comment\n"), append(data, data...)...))
	f.Add(data[:len(data)/2])
	f.Add(bytes.Replace(data, []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE"), 2))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := parseBundle(data)
		size := 0
		for _, c := range certs {
			size += len(c.Raw)
		}
		if size > len(data) || NewAnchors(certs...).Count() > len(certs) {
			t.Fatalf("%d bytes of certificates in %d", size, len(data))
		}
		if err != nil {
			return
		}
		var encoded []byte
		for _, c := range certs {
			encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		again, err := parseBundle(encoded)
		if err != nil || len(again) != len(certs) {
			t.Fatalf("%d certificates are %d when read again: %v", len(certs), len(again), err)
		}
	})
}

// FuzzCovers: a name that we take to be covered, crypto/x509 does too; so a
// client that checks is never told less than we said.
func FuzzCovers(f *testing.F) {
	for _, r := range [][2]string{
		{"mail.example.com", "mail.example.com"}, {"*.example.com", "mail.example.com"}, {"*.example.com", "*.example.com"}, {"*.com", "example.com"},
		{"*.example.com", "a.b.example.com"}, {"MAIL.example.com", "mail.EXAMPLE.com."}, {"a*.example.com", "ab.example.com"}, {"*", "a"}, {"*.example.com", "-0.example.com"}, {"*.-a.example.com", "a.-a.example.com"}, {"127.0.0.1", "127.0.0.1"}, {"", ""},
	} {
		f.Add(r[0], r[1])
	}
	f.Fuzz(func(t *testing.T, san, name string) {
		leaf := &x509.Certificate{DNSNames: []string{san}}
		// Names that begin with "*." are the configuration's, not a client's.
		if !Covers(leaf, name) || strings.HasPrefix(name, "*") || !legal(san) || !legal(strings.TrimSuffix(name, ".")) {
			return
		}
		if err := leaf.VerifyHostname(name); err != nil {
			t.Fatalf("%q covers %q, and for crypto/x509 it does not: %v", san, name, err)
		}
	})
}
