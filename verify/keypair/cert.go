package keypair

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"time"

	"postcert/verify/problem"
)

// located is a certificate and the block it came from.
type located struct {
	*x509.Certificate
	at problem.At
}

// parseCertificate decodes one certificate and refuses the forms that Go takes
// and RFC 5280, or OpenSSL, does not.
func parseCertificate(b block) (located, error) {
	invalid := func(id, why string) (located, error) {
		return located{}, problem.New(id, b.at, "%s, line %d: the certificate in block %d %s", b.at.File, b.at.Line, b.at.Block, why)
	}
	c, err := x509.ParseCertificate(b.der)
	if err != nil {
		if strings.Contains(err.Error(), "elliptic curve") {
			return invalid("key_format", "has a key on a curve that TLS does not use")
		}
		if strings.Contains(err.Error(), "dNSName") {
			return invalid("name_illegal", "has a subjectAltName that is not ASCII")
		}
		return invalid("der_invalid", "is malformed: "+strings.TrimPrefix(err.Error(), "x509: "))
	}
	switch names := len(c.DNSNames) + len(c.EmailAddresses) + len(c.IPAddresses) + len(c.URIs); {
	case keyType(c.PublicKey) == "":
		return invalid("key_format", "has a key that is neither RSA, ECDSA nor Ed25519")
	case c.SerialNumber.Sign() < 0:
		return invalid("der_invalid", "has a negative serial number")
	case len(c.SerialNumber.Bytes()) > 20 || c.SerialNumber.BitLen() > 159:
		// RFC 5280 section 4.1.2.2: at most 20 octets, the sign bit among them.
		return invalid("der_invalid", "has a serial number of more than 20 octets")
	case names > MaxNames:
		return invalid("input_too_large", "has more subjectAltNames than postcert reads (100)")
	case c.NotAfter.Year() > 9998:
		return invalid("der_invalid", "has no expiry (year 9999), so no renewal can be judged by it")
	case !utcDates(c):
		return invalid("der_invalid", "writes its dates in a form that RFC 5280 forbids")
	}
	return located{c, b.at}, nil
}

// utcDates tells whether both dates are written as RFC 5280 section 4.1.2.5
// has it: with seconds, and Z. OpenSSL refuses others; Go reads them.
func utcDates(c *x509.Certificate) bool {
	var tbs struct {
		Version          asn1.RawValue `asn1:"optional,explicit,tag:0"`
		Serial, Alg, Iss asn1.RawValue
		Validity         struct{ From, To asn1.RawValue }
	}
	if _, err := asn1.Unmarshal(c.RawTBSCertificate, &tbs); err != nil {
		return false
	}
	for _, v := range []asn1.RawValue{tbs.Validity.From, tbs.Validity.To} {
		layout := "060102150405Z"
		if v.Tag == asn1.TagGeneralizedTime {
			layout = "20060102150405Z"
		}
		if _, err := time.Parse(layout, string(v.Bytes)); err != nil {
			return false
		}
	}
	return true
}

// SelfSigned tells whether c is a root: its own issuer, by name and signature
// or, where Go no longer checks such a signature (SHA-1, MD5), by name and key
// identifier.
func SelfSigned(c *x509.Certificate) bool {
	if string(c.RawSubject) != string(c.RawIssuer) {
		return false
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	if err == nil {
		return true
	}
	return weakAlgorithm(c.SignatureAlgorithm) && (len(c.AuthorityKeyId) == 0 || string(c.AuthorityKeyId) == string(c.SubjectKeyId))
}

// dropRoot takes a self-signed root off the end of a chain that it issued.
func dropRoot(certs []located) (kept []located, root *located) {
	n := len(certs) - 1
	if n < 1 || !SelfSigned(certs[n].Certificate) {
		return certs, nil
	}
	below, top := certs[n-1], certs[n]
	if string(below.RawIssuer) != string(top.RawSubject) ||
		top.CheckSignature(below.SignatureAlgorithm, below.RawTBSCertificate, below.Signature) != nil {
		return certs, nil
	}
	return certs[:n], &top
}
