// Package keypair reads a certificate chain and its private key from PEM as
// strictly as the strictest of their later readers, and writes them in one
// encoding of our own.
//
// Go, the openssl command and Postfix's loader (src/tls/tls_certkey.c) are
// three parsers that disagree on odd input: of a first block labelled
// "X509 CERTIFICATE" Go knows nothing and takes the intermediate as leaf, of
// one byte behind a certificate's DER openssl says nothing and Postfix disables
// TLS. So what any of them would misread is refused here, by a stable id, and
// what is accepted is encoded again: [Pair.Postfix] is the bytes to verify and
// the bytes to install, the same ones.
//
// [Parse] is pure; [Read] reads files or a tar stream and calls it, each input
// once, through one descriptor that is known to be a regular file.
// [ParseInstalled] reads the file that Postfix reads.
//
// A [Pair] holds a private key and prints as the fingerprint of its leaf,
// whatever is used to print it.
//
// This package judges form, and what needs no opinion on time, names or trust.
// Whether a pair is fit to serve is for package verify to say. One thing it
// changes: a self-signed root at the end of a chain is dropped, with a warning,
// because no client needs it and every handshake would carry it.
package keypair

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
)

// Limits of what is read. RFC 5280 has none; these are far above what a public
// CA issues and far below what costs time (3,000 certificates take openssl and
// Go together 0.4 s).
const (
	MaxBytes        = 1 << 20 // of one file
	MaxCertificates = 20      // of one pair
	MaxNames        = 100     // subjectAltNames of one certificate; Let's Encrypt's limit too
	MinRSABits      = 2048    // CA/Browser Forum BR 6.1.5; OpenSSL security level 2
	MaxRSABits      = 4096    // one RSA-8192 signature takes a server ~100 ms per handshake
)

// Pair is a certificate chain, leaf first, and the private key of the leaf. The
// zero Pair holds nothing. Pairs are values: copying one shares its contents,
// which never change.
type Pair struct{ in *contents }

// contents is behind a pointer, and the key in it behind a function: fmt and
// every encoder that works by reflection stop at the one or the other, even
// where a Pair sits in an unexported field and its methods are not called.
type contents struct {
	chain []*x509.Certificate
	root  *x509.Certificate // dropped from the end of chain; may be nil
	key   func() []byte     // PKCS#8 DER
}

// IsZero tells whether p holds nothing.
func (p Pair) IsZero() bool { return p.in == nil }

// Leaf is the end-entity certificate; nil for the zero Pair.
func (p Pair) Leaf() *x509.Certificate {
	if p.in == nil {
		return nil
	}
	return p.in.chain[0]
}

// Chain is the leaf and the intermediates, in the order they are presented.
func (p Pair) Chain() []*x509.Certificate {
	if p.in == nil {
		return nil
	}
	return slices.Clone(p.in.chain)
}

// Intermediates is the chain without the leaf.
func (p Pair) Intermediates() []*x509.Certificate {
	if p.in == nil {
		return nil
	}
	return slices.Clone(p.in.chain[1:])
}

// DroppedRoot is the self-signed root that the input held and the pair does
// not; nil if there was none.
func (p Pair) DroppedRoot() *x509.Certificate {
	if p.in == nil {
		return nil
	}
	return p.in.root
}

// WithIntermediates returns the pair with another chain above the same leaf.
func (p Pair) WithIntermediates(above []*x509.Certificate) Pair {
	if p.in == nil {
		return p
	}
	c := *p.in
	c.chain = append([]*x509.Certificate{c.chain[0]}, above...)
	c.root = nil
	return Pair{&c}
}

// Equal tells whether both hold the same certificates and the same key.
func (p Pair) Equal(q Pair) bool {
	if p.in == nil || q.in == nil {
		return p.in == q.in
	}
	return bytes.Equal(p.Postfix(), q.Postfix())
}

// KeyType is the algorithm of the leaf's key: "rsa", "ecdsa" or "ed25519", ""
// for the zero Pair. It is what decides in which slot of an OpenSSL context,
// and so under which Postfix parameter, the pair is served.
func (p Pair) KeyType() string {
	if p.in == nil {
		return ""
	}
	return keyType(p.Leaf().PublicKey)
}

func keyType(pub crypto.PublicKey) string {
	switch pub.(type) {
	case *rsa.PublicKey:
		return "rsa"
	case *ecdsa.PublicKey:
		return "ecdsa"
	case ed25519.PublicKey:
		return "ed25519"
	}
	return ""
}

// Fingerprint is the fingerprint of the leaf; "" for the zero Pair.
func (p Pair) Fingerprint() string {
	if p.in == nil {
		return ""
	}
	return Fingerprint(p.Leaf())
}

// SPKI is the SHA-256 of the leaf's SubjectPublicKeyInfo in lower-case hex: what
// a TLSA record "3 1 1" publishes (RFC 6698 section 2.1).
func (p Pair) SPKI() string {
	if p.in == nil {
		return ""
	}
	return hexSum(p.Leaf().RawSubjectPublicKeyInfo)
}

// Fingerprint is the SHA-256 of the certificate's DER in lower-case hex.
func Fingerprint(c *x509.Certificate) string { return hexSum(c.Raw) }

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Postfix is the pair as Postfix reads it from one file: private key (PKCS#8),
// leaf, intermediates (postconf(5) smtpd_tls_chain_files: "each key must be
// followed immediately by its certificate chain"). It holds the private key.
func (p Pair) Postfix() []byte { return append(p.PrivateKey(), p.Fullchain()...) }

// Fullchain is leaf and intermediates as PEM; nothing in it is secret.
func (p Pair) Fullchain() []byte {
	var b bytes.Buffer
	for _, c := range p.Chain() {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: labelCertificate, Bytes: c.Raw}))
	}
	return b.Bytes()
}

// PrivateKey is the private key as PKCS#8 PEM.
func (p Pair) PrivateKey() []byte {
	if p.in == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: labelPKCS8, Bytes: p.in.key()})
}
