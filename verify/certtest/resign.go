package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for certificates nobody should sign any more
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

// ResignDER edits the TBSCertificate of cert and signs the result by the key of
// c, with the same algorithm. It returns DER, not a certificate: the purpose is
// to make what x509 refuses to make, and often to read.
func (c *CA) ResignDER(t testing.TB, cert *x509.Certificate, edit func(tbs []byte) []byte) []byte {
	t.Helper()
	var outer struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.Raw, &outer); err != nil {
		t.Fatalf("certtest: %v", err)
	}
	tbs := edit(append([]byte(nil), outer.TBS.FullBytes...))
	sig := signBytes(t, c.Key, cert.SignatureAlgorithm, tbs)
	der, err := asn1.Marshal(struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, outer.Alg, asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}})
	if err != nil {
		t.Fatalf("certtest: %v", err)
	}
	return der
}

// TBS is a TBSCertificate (RFC 5280 section 4.1) cut into its fields, for edits.
type TBS struct {
	Version                                asn1.RawValue `asn1:"explicit,tag:0"`
	Serial, Alg, Issuer, Validity, Subject asn1.RawValue
	SPKI                                   asn1.RawValue
	Extensions                             []Extension `asn1:"explicit,tag:3,optional"`
}

// Extension is one certificate extension.
type Extension struct {
	ID       asn1.ObjectIdentifier
	Critical bool `asn1:"optional"`
	Value    []byte
}

// EditTBS turns an edit of fields into an edit of bytes for ResignDER.
func EditTBS(t testing.TB, edit func(*TBS)) func([]byte) []byte {
	t.Helper()
	return func(der []byte) []byte {
		var tbs TBS
		if _, err := asn1.Unmarshal(der, &tbs); err != nil {
			t.Fatalf("certtest: reading a TBSCertificate: %v", err)
		}
		edit(&tbs)
		out, err := asn1.Marshal(tbs)
		if err != nil {
			t.Fatalf("certtest: writing a TBSCertificate: %v", err)
		}
		return out
	}
}

// SHA1 returns cert signed again by c with SHA-1 (RSA or ECDSA, as c's key is).
func (c *CA) SHA1(t testing.TB, cert *x509.Certificate) []byte {
	t.Helper()
	// 1.2.840.113549.1.1.5 sha1WithRSAEncryption; 1.2.840.10045.4.1 ecdsa-with-SHA1.
	oid, alg := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 5, 0}, x509.SHA1WithRSA
	if _, ok := c.Key.(*ecdsa.PrivateKey); ok {
		oid, alg = []byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1}, x509.ECDSAWithSHA1
	}
	algDER := append([]byte{0x30, byte(len(oid))}, oid...)
	var outer struct {
		TBS asn1.RawValue
		Alg asn1.RawValue
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.Raw, &outer); err != nil {
		t.Fatalf("certtest: %v", err)
	}
	tbs := EditTBS(t, func(f *TBS) { f.Alg = asn1.RawValue{FullBytes: algDER} })(outer.TBS.FullBytes)
	sig := signBytes(t, c.Key, alg, tbs)
	outer.TBS, outer.Alg = asn1.RawValue{FullBytes: tbs}, asn1.RawValue{FullBytes: algDER}
	outer.Sig = asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}
	der, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatalf("certtest: %v", err)
	}
	return der
}

func signBytes(t testing.TB, key crypto.Signer, alg x509.SignatureAlgorithm, msg []byte) []byte {
	t.Helper()
	hash := crypto.SHA256
	switch alg {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		hash = crypto.SHA1
	case x509.ECDSAWithSHA384, x509.SHA384WithRSA:
		hash = crypto.SHA384
	case x509.ECDSAWithSHA512, x509.SHA512WithRSA:
		hash = crypto.SHA512
	}
	var sig []byte
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, hash, digest(hash, msg))
	case *ecdsa.PrivateKey:
		sig, err = ecdsa.SignASN1(rand.Reader, k, digest(hash, msg))
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, msg)
	default:
		t.Fatalf("certtest: cannot sign with a %T", key)
	}
	if err != nil {
		t.Fatalf("certtest: signing: %v", err)
	}
	return sig
}

func digest(h crypto.Hash, msg []byte) []byte {
	w := h.New()
	w.Write(msg)
	return w.Sum(nil)
}
