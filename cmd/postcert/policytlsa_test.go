package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// Which TLSA records match a chain (RFC 6698 section 2.1, RFC 7672 section 3.1): what
// is in a record is computed by openssl.
func TestTLSAMatches(t *testing.T) {
	postfixtest.Need(t, "openssl")
	root := certtest.NewCA(t, certtest.Authority{})
	inter := root.Intermediate(t, certtest.Authority{})
	chain := []*x509.Certificate{inter.Leaf(t, certtest.Leaf{}).Cert, inter.Cert}
	other := certtest.NewCA(t, certtest.Authority{}).Cert
	// association is the content of a record about a certificate.
	association := func(c *x509.Certificate, selector, matching byte) []byte {
		t.Helper()
		path := filepath.Join(t.TempDir(), "c.pem")
		if err := os.WriteFile(path, certtest.EncodeCerts(c), 0o600); err != nil {
			t.Fatal(err)
		}
		command := "openssl x509 -in " + path + " -outform DER"
		if selector == 1 {
			command = "openssl x509 -in " + path + " -noout -pubkey | openssl pkey -pubin -outform DER"
		}
		command += map[byte]string{0: " | od -An -v -tx1", 1: " | openssl dgst -sha256 -r", 2: " | openssl dgst -sha512 -r"}[matching]
		out, err := exec.Command("/bin/sh", "-c", command).Output()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSuffix(strings.TrimSpace(string(out)), " *stdin")
		data, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		return data
	}
	for usage := range byte(4) {
		for selector := range byte(3) {
			for matching := range byte(4) {
				usable := usage >= 2 && selector <= 1 && matching <= 2
				for name, c := range map[string]*x509.Certificate{"leaf": chain[0], "intermediate": chain[1], "another": other} {
					r := tlsa{usage, selector, matching, association(c, selector%2, matching%3)}
					want := usable && (usage == 3 && name == "leaf" || usage == 2 && name == "intermediate")
					if got := r.matched(chain) == c; got != want || r.usable() != usable {
						t.Errorf("%d %d %d of the %s: matches %v, want %v; usable %v", usage, selector, matching, name, got, want, r.usable())
					}
				}
			}
		}
	}
	if (tlsa{3, 0, 0, chain[0].Raw}).matched(nil) != nil {
		t.Error("a record matches no chain at all")
	}
}

// A record about an issuer, DANE-TA(2), is not enough by itself: the certificate must
// cover the server or the domain, be in date, and be signed by that issuer (RFC 7672
// section 3.1.2). policy test says what Postfix does.
func TestOutboundDaneTA(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_dns_support_level = dnssec", "smtp_tls_security_level = dane"}}, "")
	s.pf.ReplaceMain("disable_dns_lookups = yes\n", "")
	sum := sha256.Sum256(s.ca.Cert.Raw)
	s.zone(true, domain+". 60 IN MX 10 "+mxName+".", mxName+". 60 IN A "+receiverHost, fmt.Sprintf("_25._tcp.%s. 60 IN TLSA 2 0 1 %x", mxName, sum))
	foreign := certtest.NewCA(t, certtest.Authority{}).Leaf(t, certtest.Leaf{Names: []string{mxName}})
	now := time.Now()
	for _, tt := range []struct {
		name     string
		pem      []byte
		verified bool
	}{
		{"the server's name", s.leaf(certtest.Leaf{Names: []string{mxName}}).PostfixPEM(), true},
		{"another name", s.leaf(certtest.Leaf{Names: []string{"wrong.example"}}).PostfixPEM(), false},
		{"the domain", s.leaf(certtest.Leaf{Names: []string{domain}}).PostfixPEM(), true},
		{"expired", s.leaf(certtest.Leaf{Names: []string{mxName}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)}).PostfixPEM(), false},
		{"the issuer beside another's", slices.Concat(foreign.PostfixPEM(), certtest.EncodeCerts(s.ca.Cert)), false},
	} {
		t.Log(tt.name)
		s.serve(s.pairFile("mx.pem", tt.pem))
		if tt.verified {
			s.postcert("policy", "test", domain).want(0).says("verified by TLSA records")
			s.sends(domain, "Verified TLS connection established to "+mxName, "status=sent")
			continue
		}
		s.postcert("policy", "test", domain).want(8).says("Server certificate not verified")
		s.sends(domain, "status=deferred", "Server certificate not")
	}
}
