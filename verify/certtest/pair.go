package certtest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Pair is a leaf with its private key and the authorities above it.
type Pair struct {
	Cert  *x509.Certificate
	Key   crypto.Signer
	Chain []*x509.Certificate // intermediates, bottom-up, without the root
	Root  *x509.Certificate   // nil for a self-signed leaf
}

// With returns the pair with another chain above the same leaf.
func (p *Pair) With(chain ...*x509.Certificate) *Pair {
	c := *p
	c.Chain = slices.Clone(chain)
	return &c
}

// WithKey returns the pair with another private key.
func (p *Pair) WithKey(key crypto.Signer) *Pair {
	c := *p
	c.Key = key
	return &c
}

// WithLeaf returns the pair with another leaf over the same chain.
func (p *Pair) WithLeaf(leaf *x509.Certificate) *Pair {
	c := *p
	c.Cert = leaf
	return &c
}

// CertPEM is the leaf, as in certbot's cert.pem.
func (p *Pair) CertPEM() []byte { return EncodeCerts(p.Cert) }

// ChainPEM is the intermediates, as in certbot's chain.pem.
func (p *Pair) ChainPEM() []byte { return EncodeCerts(p.Chain...) }

// FullchainPEM is the leaf and the intermediates, as in certbot's fullchain.pem.
func (p *Pair) FullchainPEM() []byte { return append(p.CertPEM(), p.ChainPEM()...) }

// KeyPEM is the private key as PKCS#8, as in certbot's privkey.pem.
func (p *Pair) KeyPEM() []byte { return EncodeKey(p.Key) }

// PostfixPEM is key, leaf and intermediates, in the order Postfix wants.
func (p *Pair) PostfixPEM() []byte { return append(p.KeyPEM(), p.FullchainPEM()...) }

// Files are the paths of a lineage.
type Files struct{ Dir, Cert, Chain, Fullchain, Key string }

// WriteFiles writes cert.pem, chain.pem, fullchain.pem (0644) and privkey.pem
// (0600) into dir, as certbot does, and returns their paths.
func (p *Pair) WriteFiles(t testing.TB, dir string) Files {
	t.Helper()
	f := Files{
		Dir:       dir,
		Cert:      filepath.Join(dir, "cert.pem"),
		Chain:     filepath.Join(dir, "chain.pem"),
		Fullchain: filepath.Join(dir, "fullchain.pem"),
		Key:       filepath.Join(dir, "privkey.pem"),
	}
	write(t, f.Cert, p.CertPEM(), 0o644)
	write(t, f.Chain, p.ChainPEM(), 0o644)
	write(t, f.Fullchain, p.FullchainPEM(), 0o644)
	write(t, f.Key, p.KeyPEM(), 0o600)
	return f
}

func write(t testing.TB, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatalf("certtest: %v", err)
	}
	// The umask of the test run has no say.
	if err := os.Chmod(path, mode); err != nil {
		t.Fatalf("certtest: %v", err)
	}
}

// EncodeCerts returns the certificates as PEM, in this order.
func EncodeCerts(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(Block("CERTIFICATE", c.Raw))
	}
	return b.Bytes()
}

// Block returns der as one PEM block.
func Block(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

// EncodeKey returns the key as PKCS#8 PEM. A key that Go refuses to write as
// PKCS#8 (see "rsa512") is written as PKCS#1.
func EncodeKey(key crypto.Signer) []byte {
	if k, ok := key.(*rsa.PrivateKey); ok && (k.N.BitLen() < 1024 || k.N.BitLen() > 4096) {
		return Block("RSA PRIVATE KEY", RawPKCS1(k))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("certtest: " + err.Error())
	}
	return Block("PRIVATE KEY", der)
}

// RawPKCS1 returns the numbers of the key as an RFC 8017 RSAPrivateKey without
// asking whether they belong together.
func RawPKCS1(k *rsa.PrivateKey) []byte {
	p, q, one := k.Primes[0], k.Primes[1], big.NewInt(1)
	qInv := new(big.Int).ModInverse(q, p)
	if qInv == nil {
		qInv = one
	}
	der, err := asn1.Marshal(struct {
		Version             int
		N                   *big.Int
		E                   int
		D, P, Q, Dp, Dq, Qi *big.Int
	}{0, k.N, k.E, k.D, p, q,
		new(big.Int).Mod(k.D, new(big.Int).Sub(p, one)), new(big.Int).Mod(k.D, new(big.Int).Sub(q, one)), qInv})
	if err != nil {
		panic("certtest: " + err.Error())
	}
	return der
}
