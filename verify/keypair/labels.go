package keypair

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"

	"postcert/verify/problem"
)

// refusedLabels says what a PEM label that is never read stands for.
var refusedLabels = map[string]struct{ id, what string }{
	"ENCRYPTED PRIVATE KEY":   {"key_encrypted", "a private key under a passphrase, which Postfix cannot ask for"},
	"OPENSSH PRIVATE KEY":     {"key_format", "a private key in OpenSSH's own format"},
	"DSA PRIVATE KEY":         {"key_format", "a DSA key, which TLS no longer has"},
	"ANY PRIVATE KEY":         {"key_format", "a private key in a format TLS servers do not read"},
	"X509 CERTIFICATE":        {"pem_label", "a certificate under an old label, which Go does not see"},
	"TRUSTED CERTIFICATE":     {"pem_label", "a certificate with OpenSSL's trust settings, which Postfix ignores"},
	"CERTIFICATE REQUEST":     {"pem_wrong_type", "a certificate signing request"},
	"NEW CERTIFICATE REQUEST": {"pem_wrong_type", "a certificate signing request"},
	"X509 CRL":                {"pem_wrong_type", "a certificate revocation list"},
	"PKCS7":                   {"pem_wrong_type", "a PKCS#7 bundle"},
	"PKCS #7 SIGNED DATA":     {"pem_wrong_type", "a PKCS#7 bundle"},
	"CMS":                     {"pem_wrong_type", "a CMS bundle"},
	"PKCS12":                  {"pem_wrong_type", "a PKCS#12 bundle"},
	"PUBLIC KEY":              {"pem_wrong_type", "a public key"},
	"RSA PUBLIC KEY":          {"pem_wrong_type", "a public key"},
	"DH PARAMETERS":           {"pem_wrong_type", "Diffie-Hellman parameters"},
	"X9.42 DH PARAMETERS":     {"pem_wrong_type", "Diffie-Hellman parameters"},
	"OCSP RESPONSE":           {"pem_wrong_type", "an OCSP response"},
	"ATTRIBUTE CERTIFICATE":   {"pem_wrong_type", "an attribute certificate"},
	"SSH2 PUBLIC KEY":         {"pem_wrong_type", "an SSH public key"},
	"PGP PRIVATE KEY BLOCK":   {"pem_wrong_type", "an OpenPGP key"},
	"PGP PUBLIC KEY BLOCK":    {"pem_wrong_type", "an OpenPGP key"},
}

// checkLabels refuses every block that is not a certificate or a private key.
// EC PARAMETERS is taken where openssl ecparam writes it: before its key.
func checkLabels(name string, blocks []block) (kept []block, err error) {
	for i, b := range blocks {
		refused, known := refusedLabels[b.label]
		switch {
		case b.encrypted && (b.isKey() || known):
			return nil, problem.New("key_encrypted", b.at, "%s, line %d: the private key is under a passphrase, which Postfix cannot ask for", name, b.at.Line)
		case b.encrypted:
			return nil, problem.New("pem_header", b.at, "%s, line %d: PEM block %d has header lines", name, b.at.Line, b.at.Block)
		case b.label == labelCertificate, b.isKey():
		case b.label == labelECParams:
			if i+1 == len(blocks) || blocks[i+1].label != labelSEC1 {
				return nil, problem.New("pem_wrong_type", b.at, "%s, line %d: EC PARAMETERS without an EC PRIVATE KEY after it", name, b.at.Line)
			}
			continue
		case known:
			return nil, problem.New(refused.id, b.at, "%s, line %d: PEM block %d (%s) is %s", name, b.at.Line, b.at.Block, b.label, refused.what)
		default:
			return nil, problem.New("pem_label", b.at, "%s, line %d: PEM block %d has the label %q, which is neither a certificate nor a private key", name, b.at.Line, b.at.Block, b.label)
		}
		var whole asn1.RawValue
		rest, err := asn1.Unmarshal(b.der, &whole)
		if err != nil || whole.Tag != asn1.TagSequence || !whole.IsCompound {
			id, what := "der_invalid", "certificate"
			if b.isKey() {
				id, what = "key_format", "private key"
			}
			return nil, problem.New(id, b.at, "%s, line %d: PEM block %d is not the DER of a %s", name, b.at.Line, b.at.Block, what)
		}
		if len(rest) > 0 {
			return nil, problem.New("der_trailing", b.at, "%s, line %d: PEM block %d has %d bytes after its DER; Postfix refuses it as excess data", name, b.at.Line, b.at.Block, len(rest))
		}
		kept = append(kept, b)
	}
	return kept, nil
}

var oidSignedData = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}

// binary names well-known binary forms; nil if data is none of them.
func binary(name string, data []byte) error {
	at := problem.At{File: name}
	wrong := func(what string) error { return problem.New("pem_wrong_type", at, "%s is %s, not PEM", name, what) }
	if bytes.HasPrefix(data, []byte("\xfe\xed\xfe\xed")) {
		return wrong("a Java keystore")
	}
	// A SEQUENCE whose length takes more than one byte, or is exactly the rest:
	// the P-256 key that openssl pkey writes has 119 bytes.
	if len(data) < 2 || data[0] != 0x30 || data[1] < 0x80 && int(data[1]) != len(data)-2 {
		return nil
	}
	var outer []asn1.RawValue
	if _, err := asn1.Unmarshal(data, &outer); err == nil && len(outer) > 1 {
		first := outer[0]
		switch {
		case bytes.Equal(first.FullBytes, oidSignedData):
			return wrong("a PKCS#7 bundle")
		case first.Tag == asn1.TagInteger && bytes.Equal(first.Bytes, []byte{3}) && outer[1].Tag == asn1.TagSequence:
			return wrong("a PKCS#12 bundle")
		}
		if _, err := x509.ParseCertificateRequest(data); err == nil {
			return wrong("a certificate signing request (DER)")
		}
		if _, err := x509.ParseRevocationList(data); err == nil {
			return wrong("a certificate revocation list (DER)")
		}
	}
	return problem.New("pem_is_der", at, "%s is DER (binary), not PEM", name)
}
