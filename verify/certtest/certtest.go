// Package certtest makes throw-away certificates for tests, as net/http/httptest
// makes throw-away servers: roots, intermediates, cross-signed roots and leaves,
// with any defect a test wants.
//
//	root := certtest.NewCA(t, certtest.Authority{})
//	inter := root.Intermediate(t, certtest.Authority{})
//	leaf := inter.Leaf(t, certtest.Leaf{Names: []string{"mail.example.org"}})
//	files := leaf.WriteFiles(t, t.TempDir()) // as in a certbot lineage
//
// Zero values give a good certificate: ECDSA P-256, valid from an hour ago for
// 90 days, names "mail.example.org". Mutate changes the template before it is
// signed; what x509.CreateCertificate refuses to sign (a negative serial, two
// copies of an extension) is made by [CA.Resign], which edits the DER.
//
// RSA keys come from a pool of [PoolSize] that is filled on demand, because
// making one takes longer than all the rest of a test. Within one test the
// first PoolSize RSA keys are different ones; so never use these keys, or this
// package, outside tests.
package certtest

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// DefaultName is the DNS name of a [Leaf] that names none.
const DefaultName = "mail.example.org"

// Authority describes a CA certificate. The zero value is a good one.
type Authority struct {
	Name      string // common name; "" = "Test Root" or "Test Intermediate"
	Org       string // organisation; "" = "postcert test"
	Key       string // a kind of NewKey; "" = the issuer's kind, or ecdsa
	Signer    crypto.Signer
	NotBefore time.Time // zero = an hour ago
	NotAfter  time.Time // zero = ten years from now
	Mutate    func(*x509.Certificate)
}

// CA is an authority with its private key: it signs.
type CA struct {
	Cert   *x509.Certificate
	Key    crypto.Signer
	Parent *CA // nil for a root
	kind   string
}

// Leaf describes an end-entity certificate. The zero value is a good one.
type Leaf struct {
	Names      []string // DNS names; nil = DefaultName
	CommonName string   // "" = none, as Let's Encrypt's tlsserver profile has it
	Key        string   // a kind of NewKey; "" = the issuer's kind
	Signer     crypto.Signer
	NotBefore  time.Time          // zero = an hour ago
	NotAfter   time.Time          // zero = NotBefore + 90 days
	EKU        []x509.ExtKeyUsage // nil = serverAuth; empty, not nil = no extension
	Mutate     func(*x509.Certificate)
}

// NewCA returns a self-signed root.
func NewCA(t testing.TB, a Authority) *CA {
	t.Helper()
	ca := &CA{kind: a.kind("")}
	ca.Key = a.signer(t, ca.kind)
	tmpl := a.template("Test Root")
	ca.Cert = sign(t, tmpl, tmpl, ca.Key.Public(), ca.Key)
	return ca
}

// Intermediate returns an authority signed by c.
func (c *CA) Intermediate(t testing.TB, a Authority) *CA {
	t.Helper()
	sub := &CA{Parent: c, kind: a.kind(c.kind)}
	sub.Key = a.signer(t, sub.kind)
	sub.Cert = sign(t, a.template("Test Intermediate"), c.Cert, sub.Key.Public(), c.Key)
	return sub
}

// CrossSign returns another certificate for the name and key of the authority
// other, signed by c: what an old root signs for a new one. Names in a are
// ignored, dates and Mutate are not.
func (c *CA) CrossSign(t testing.TB, other *CA, a Authority) *CA {
	t.Helper()
	tmpl := a.template("")
	tmpl.Subject, tmpl.RawSubject = pkix.Name{}, other.Cert.RawSubject
	tmpl.SubjectKeyId = other.Cert.SubjectKeyId
	cross := &CA{Parent: c, Key: other.Key, kind: other.kind}
	cross.Cert = sign(t, tmpl, c.Cert, other.Key.Public(), c.Key)
	return cross
}

// Leaf returns a pair signed by c. Its Chain holds c and the authorities above
// it without the root.
func (c *CA) Leaf(t testing.TB, l Leaf) *Pair {
	t.Helper()
	kind := l.Key
	if kind == "" {
		kind = c.kind
	}
	key := l.Signer
	if key == nil {
		key = NewKey(t, kind)
	}
	tmpl := l.template(key)
	return &Pair{Cert: sign(t, tmpl, c.Cert, key.Public(), c.Key), Key: key, Chain: c.chain(), Root: c.root()}
}

// SelfSigned returns a leaf that signed itself.
func SelfSigned(t testing.TB, l Leaf) *Pair {
	t.Helper()
	key := l.Signer
	if key == nil {
		key = NewKey(t, l.Key)
	}
	tmpl := l.template(key)
	tmpl.Subject.CommonName = "self-signed"
	return &Pair{Cert: sign(t, tmpl, tmpl, key.Public(), key), Key: key}
}

// CRL returns a revocation list of c that names the given certificates.
func (c *CA) CRL(t testing.TB, revoked ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, r := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, c.Cert, c.Key)
	if err != nil {
		t.Fatalf("certtest: signing a CRL: %v", err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatalf("certtest: parsing a CRL: %v", err)
	}
	return crl
}

func (c *CA) chain() []*x509.Certificate {
	var chain []*x509.Certificate
	for ; c.Parent != nil; c = c.Parent {
		chain = append(chain, c.Cert)
	}
	return chain
}

func (c *CA) root() *x509.Certificate {
	for c.Parent != nil {
		c = c.Parent
	}
	return c.Cert
}

func (a Authority) kind(inherited string) string {
	switch {
	case a.Key != "":
		return a.Key
	case inherited != "":
		return inherited
	}
	return "ecdsa"
}

func (a Authority) signer(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	if a.Signer != nil {
		return a.Signer
	}
	return NewKey(t, kind)
}

func (a Authority) template(name string) *x509.Certificate {
	if a.Name != "" {
		name = a.Name
	}
	org := a.Org
	if org == "" {
		org = "postcert test"
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name, Organization: []string{org}},
		NotBefore:             or(a.NotBefore, time.Now().Add(-time.Hour)),
		NotAfter:              or(a.NotAfter, time.Now().AddDate(10, 0, 0)),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if a.Mutate != nil {
		a.Mutate(tmpl)
	}
	return tmpl
}

func (l Leaf) template(key crypto.Signer) *x509.Certificate {
	from := or(l.NotBefore, time.Now().Add(-time.Hour))
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: l.CommonName},
		NotBefore:             from,
		NotAfter:              or(l.NotAfter, from.AddDate(0, 0, 90)),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           l.EKU,
		DNSNames:              l.Names,
	}
	if isRSA(key) {
		tmpl.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	if l.EKU == nil {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if l.Names == nil {
		tmpl.DNSNames = []string{DefaultName}
	}
	if l.Mutate != nil {
		l.Mutate(tmpl)
	}
	return tmpl
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatalf("certtest: signing %q: %v", tmpl.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("certtest: parsing what was signed: %v", err)
	}
	return cert
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("certtest: no randomness: " + err.Error())
	}
	return n.Add(n, big.NewInt(1))
}

func or(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise
	}
	return t
}
