package keypair

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"

	"postcert/verify/problem"
)

// Weaknesses are the keys and signatures in the chain that a TLS client of
// today refuses, whoever signed them: RSA below 2048 or above 4096 bits, curves
// that TLS does not use, SHA-1 and older. A self-signed certificate's own
// signature proves nothing and is not judged. Parse refuses these; it is for
// pairs that came by ParseInstalled.
func (p Pair) Weaknesses() problem.List {
	var found problem.List
	for i, c := range p.Chain() {
		found = append(found, weaknesses(located{c, problem.At{Block: i + 1}})...)
	}
	return found
}

func weaknesses(c located) problem.List {
	var found problem.List
	if id, why := keyStrength(c.Certificate); id != "" {
		found = append(found, problem.New(id, c.at, "the key of certificate %q is %s", Name(c.Certificate), why))
	}
	if weakAlgorithm(c.SignatureAlgorithm) && string(c.RawSubject) != string(c.RawIssuer) {
		found = append(found, problem.New("sig_weak", c.at, "certificate %q is signed with %s, which clients no longer accept", Name(c.Certificate), c.SignatureAlgorithm))
	}
	return found
}

// keyStrength returns a problem id and its reason, or "".
func keyStrength(c *x509.Certificate) (id, why string) {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		switch bits := k.N.BitLen(); {
		case bits < MinRSABits:
			return "key_weak", "RSA of fewer than 2048 bits"
		case bits > MaxRSABits:
			return "key_too_large", "RSA of more than 4096 bits, which makes every handshake slow"
		case k.E < 3 || k.E%2 == 0 || k.N.Bit(0) == 0:
			return "key_weak", "RSA with an exponent or modulus that breaks it"
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return "key_weak", "on the curve " + k.Curve.Params().Name + ", which TLS does not use"
		}
	}
	return "", ""
}

// weakAlgorithm tells whether a signature by this algorithm is worth nothing;
// an algorithm that Go does not know is not one a TLS client takes.
func weakAlgorithm(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.UnknownSignatureAlgorithm, x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA,
		x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// Name is how messages call a certificate: its common name, else its first
// subjectAltName, else its whole subject, else its serial number.
func Name(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.Subject.Names) > 0:
		return c.Subject.String()
	}
	return "serial " + c.SerialNumber.String()
}
