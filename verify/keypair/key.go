package keypair

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"

	"postcert/verify/problem"
)

var (
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// parseKey decodes one private key. No decoder's error is passed on: what it
// quotes could be part of the key.
func parseKey(b block) (crypto.Signer, error) {
	bad := func(id, why string) (crypto.Signer, error) {
		return nil, problem.New(id, b.at, "%s, line %d: the private key %s", b.at.File, b.at.Line, why)
	}
	var key any
	var err error
	switch b.label {
	case labelPKCS1:
		key, err = x509.ParsePKCS1PrivateKey(b.der)
	case labelSEC1:
		key, err = x509.ParseECPrivateKey(b.der)
	default:
		key, err = x509.ParsePKCS8PrivateKey(b.der)
	}
	label, inner := unwrap(b)
	if err != nil {
		if label == labelPKCS1 && isPKCS1(inner) {
			return bad("key_inconsistent", "has RSA numbers that do not belong together")
		}
		return bad("key_format", "is not an RSA, ECDSA or Ed25519 key that TLS can use")
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if len(k.Primes) != 2 {
			return bad("key_format", "is an RSA key of more than two primes")
		}
		return k, nil
	case *ecdsa.PrivateKey:
		if !ownPoint(k, inner) {
			return bad("key_inconsistent", "comes with a public point that is not its own")
		}
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return bad("key_format", "is not of a kind that can sign")
}

// unwrap returns what is inside PKCS#8 (RFC 5958) and the label it would have
// by itself; other blocks as they are.
func unwrap(b block) (label string, der []byte) {
	if b.label != labelPKCS8 {
		return b.label, b.der
	}
	var outer struct {
		Version int
		Alg     pkix.AlgorithmIdentifier
		Key     []byte
	}
	if _, err := asn1.Unmarshal(b.der, &outer); err != nil {
		return "", nil
	}
	switch {
	case outer.Alg.Algorithm.Equal(oidRSA):
		return labelPKCS1, outer.Key
	case outer.Alg.Algorithm.Equal(oidEC):
		return labelSEC1, outer.Key
	}
	return "", nil
}

// isPKCS1 tells whether der has the form of an RSAPrivateKey (RFC 8017 A.1.2),
// whatever its numbers are.
func isPKCS1(der []byte) bool {
	var key struct {
		Version int
		N       *big.Int
		E       *big.Int
		D, P, Q *big.Int
		Dp      *big.Int
		Dq      *big.Int
		Qi      *big.Int
	}
	_, err := asn1.Unmarshal(der, &key)
	return err == nil
}

// ownPoint tells whether the public point that an ECPrivateKey (RFC 5915) may
// carry belongs to its private number. Go ignores that point, OpenSSL believes
// it: a foreign one makes a pair that matches for OpenSSL and can't sign.
func ownPoint(k *ecdsa.PrivateKey, der []byte) bool {
	var sec1 struct {
		Version int
		Key     []byte
		Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
		Point   asn1.BitString        `asn1:"optional,explicit,tag:1"`
	}
	if _, err := asn1.Unmarshal(der, &sec1); err != nil {
		return false
	}
	if len(sec1.Point.Bytes) == 0 {
		return true
	}
	own, err := k.PublicKey.Bytes()
	if err != nil {
		return false
	}
	if bytes.Equal(sec1.Point.Bytes, own) {
		return true
	}
	half := (len(own) - 1) / 2
	x, y := new(big.Int).SetBytes(own[1:1+half]), new(big.Int).SetBytes(own[1+half:])
	return bytes.Equal(sec1.Point.Bytes, elliptic.MarshalCompressed(k.Curve, x, y))
}

// signs tells whether what key signs is verified by pub: what a handshake will
// ask. It finds a key whose numbers agree one by one and not together.
func signs(key crypto.Signer, pub crypto.PublicKey) bool {
	msg := []byte("postcert: does this key sign?")
	sum := sha256.Sum256(msg)
	switch p := pub.(type) {
	case *rsa.PublicKey:
		sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		return err == nil && rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], sig) == nil
	case *ecdsa.PublicKey:
		sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		return err == nil && ecdsa.VerifyASN1(p, sum[:], sig)
	case ed25519.PublicKey:
		sig, err := key.Sign(rand.Reader, msg, crypto.Hash(0))
		return err == nil && ed25519.Verify(p, msg, sig)
	}
	return false
}

// samePublic tells whether key is the private half of pub.
func samePublic(key crypto.Signer, pub crypto.PublicKey) bool {
	p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(pub)
}

// publicHash is the SHA-256 of the key's SubjectPublicKeyInfo in hex.
func publicHash(key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "unknown"
	}
	return hexSum(der)
}
