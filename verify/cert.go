package verify

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Extensions that decide something here.
var (
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasic           = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidCRLPoints       = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidPolicies        = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidPolicyMappings  = asn1.ObjectIdentifier{2, 5, 29, 33}
	oidPolicyConstr    = asn1.ObjectIdentifier{2, 5, 29, 36}
	oidExtKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidInhibitAny      = asn1.ObjectIdentifier{2, 5, 29, 54}

	oidPoison     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3} // RFC 6962 section 3.1
	oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}       // RFC 7633
	oidProxy      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}       // RFC 3820
	oidIPBlocks   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 7}        // RFC 3779
	oidASNumbers  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 8}        // RFC 3779
	oidNetscape   = asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 1}      // nsCertType

)

// understood are the extensions that may be critical: those that OpenSSL 1.1.1
// to 3.5 and crypto/x509 all process.
var understood = []asn1.ObjectIdentifier{oidKeyUsage, oidSubjectAltName, oidBasic, oidNameConstraints, oidCRLPoints,
	oidPolicies, oidPolicyMappings, oidPolicyConstr, oidExtKeyUsage, oidInhibitAny}

// foreign are extensions that make a certificate something else than one for a
// TLS server, and that OpenSSL refuses, in part only where they are malformed.
var foreign = []asn1.ObjectIdentifier{oidProxy, oidIPBlocks, oidASNumbers}

// leaf judges the end-entity certificate by itself.
func leaf(c *x509.Certificate, pol Policy) problem.List {
	at := block(0)
	found := dates(c, at, pol.At, true)
	found = append(found, purpose(c, at)...)
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		found = append(found, problem.Warn("eku_absent", at, "the certificate does not say that it is for TLS servers (no extended key usage)"))
	}
	if c.IsCA {
		p := problem.New("leaf_is_ca", at, "the first certificate (%q) is an authority, not a server's", keypair.Name(c))
		// openssl req -x509 makes these; with its own key it is an authority for
		// nobody who was not told to trust it.
		if selfSigned(c) && (pol.AllowSelfSigned || pol.Anchors.has(c)) {
			p.Severity = problem.Warning
		}
		found = append(found, p)
	} else if c.MaxPathLen > 0 || c.MaxPathLenZero {
		found = append(found, problem.New("ext_invalid", at, "the certificate has a path length without being an authority"))
	}
	if c.PublicKeyAlgorithm == x509.Ed25519 {
		found = append(found, problem.Warn("key_ed25519", at, "the key is Ed25519, which many mail servers cannot use"))
	}
	return found
}

// purpose asks what "openssl verify -purpose sslserver" asks of the leaf, and
// of its extensions what extensions asks.
func purpose(c *x509.Certificate, at problem.At) problem.List {
	found := append(extensions(c, at), serverAuth(c, at)...)
	// TLS 1.3, and every cipher suite with forward secrecy, signs.
	if extension(c, oidKeyUsage) != nil && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		found = append(found, problem.New("purpose_ku", at, "the key usage of %q does not allow digital signatures, which TLS needs", keypair.Name(c)))
	}
	if !netscapeAllows(c, 0x40) {
		found = append(found, problem.New("purpose_eku", at, "the Netscape certificate type of %q is not that of a TLS server", keypair.Name(c)))
	}
	return found
}

// issuer judges a certificate above the leaf, or a trust anchor, by itself.
func issuer(c *x509.Certificate, at problem.At, now time.Time) problem.List {
	found := append(dates(c, at, now, false), extensions(c, at)...)
	found = append(found, serverAuth(c, at)...)
	switch {
	case c.Version < 3 && selfIssued(c):
		// A root older than extensions; crypto/x509 and OpenSSL both take it.
	case !c.BasicConstraintsValid || !c.IsCA:
		found = append(found, problem.New("chain_not_ca", at, "%q is not an authority (no CA bit), so it can have issued nothing", keypair.Name(c)))
	case extension(c, oidKeyUsage) != nil && c.KeyUsage&x509.KeyUsageCertSign == 0:
		found = append(found, problem.New("chain_not_ca", at, "the key usage of %q does not allow signing certificates", keypair.Name(c)))
	}
	if !netscapeAllows(c, 0xff) {
		// What it says decides for authorities without basic constraints only,
		// which are refused above.
		found = append(found, problem.New("purpose_eku", at, "the Netscape certificate type of %q is malformed", keypair.Name(c)))
	}
	return append(found, constraints(c, at)...)
}

// serverAuth asks that the extended key usage, where there is one, names
// serverAuth itself: to OpenSSL anyExtendedKeyUsage alone is not enough.
func serverAuth(c *x509.Certificate, at problem.At) problem.List {
	if extension(c, oidExtKeyUsage) == nil || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return nil
	}
	return problem.List{problem.New("purpose_eku", at, "the extended key usage of %q does not name TLS servers (serverAuth)", keypair.Name(c))}
}

// dates asks that now is within the validity. OpenSSL takes the second of
// NotAfter as expired, Go as valid; so it is expired.
func dates(c *x509.Certificate, at problem.At, now time.Time, isLeaf bool) problem.List {
	early, late := "chain_not_yet_valid", "chain_expired"
	if isLeaf {
		early, late = "cert_not_yet_valid", "cert_expired"
	}
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case c.NotAfter.Before(c.NotBefore):
		return problem.List{problem.New("cert_validity_order", at, "%q ends (%s) before it begins (%s)", keypair.Name(c), stamp(c.NotAfter), stamp(c.NotBefore))}
	case now.Before(c.NotBefore):
		return problem.List{problem.New(early, at, "%q is not valid before %s; it is %s", keypair.Name(c), stamp(c.NotBefore), stamp(now))}
	case !now.Before(c.NotAfter):
		return problem.List{problem.New(late, at, "%q expired at %s; it is %s", keypair.Name(c), stamp(c.NotAfter), stamp(now))}
	}
	return nil
}

// extensions refuses what a certificate may not carry anywhere in a chain.
func extensions(c *x509.Certificate, at problem.At) problem.List {
	var found problem.List
	for _, e := range c.Extensions {
		known := func(id asn1.ObjectIdentifier) bool { return e.Id.Equal(id) }
		switch {
		case known(oidPoison):
			found = append(found, problem.New("cert_precert", at, "%q is a pre-certificate (CT poison), which is for logs, not for servers", keypair.Name(c)))
		case known(oidTLSFeature):
			found = append(found, problem.New("must_staple", at, "%q demands a stapled OCSP response (must-staple), which Postfix does not send", keypair.Name(c)))
		case slices.ContainsFunc(foreign, known):
			found = append(found, problem.New("ext_invalid", at, "%q carries the extension %s, which has no place in a TLS server's chain", keypair.Name(c), e.Id))
		case e.Critical && !slices.ContainsFunc(understood, known):
			found = append(found, problem.New("ext_critical", at, "%q carries the critical extension %s, which clients do not know", keypair.Name(c), e.Id))
		}
	}
	return found
}

// netscapeAllows tells whether nsCertType, if present, has one of the bits: 0x40
// is a TLS server. crypto/x509 does not look at it.
func netscapeAllows(c *x509.Certificate, bit byte) bool {
	value := extension(c, oidNetscape)
	if value == nil {
		return true
	}
	var bits asn1.BitString
	rest, err := asn1.Unmarshal(value, &bits)
	return err == nil && len(rest) == 0 && len(bits.Bytes) > 0 && bits.Bytes[0]&bit != 0
}

// constraints refuses name constraints that crypto/x509 does not judge and
// OpenSSL does: on other kinds of names, with a minimum or maximum, and on mail
// addresses, which OpenSSL also looks for in the subject.
func constraints(c *x509.Certificate, at problem.At) problem.List {
	value := extension(c, oidNameConstraints)
	if value == nil {
		return nil
	}
	var nc struct {
		Permitted []asn1.RawValue `asn1:"optional,tag:0"`
		Excluded  []asn1.RawValue `asn1:"optional,tag:1"`
	}
	_, err := asn1.Unmarshal(value, &nc)
	judged := err == nil
	for _, subtree := range append(nc.Permitted, nc.Excluded...) {
		var base asn1.RawValue
		rest, err := asn1.Unmarshal(subtree.Bytes, &base)
		judged = judged && err == nil && len(rest) == 0 && (base.Tag == 2 || base.Tag == 6 || base.Tag == 7)
	}
	if judged {
		return nil
	}
	return problem.List{problem.New("name_constraint", at, "%q constrains names of a kind that clients judge differently", keypair.Name(c))}
}
