package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"time"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// way is the path that OpenSSL takes from a leaf: certs from the leaf to the
// last presented certificate on it, then any of anchors, which are several
// where OpenSSL's choice depends on the order of its store.
type way struct {
	certs   []*x509.Certificate
	anchors []*x509.Certificate
	isRoot  bool // the last of certs is a trust anchor itself
}

func (w way) anchored() bool         { return w.isRoot || len(w.anchors) > 0 }
func (w way) top() *x509.Certificate { return w.certs[len(w.certs)-1] }

// walk builds the path as OpenSSL's build_chain does (crypto/x509/x509_vfy.c
// with X509_V_FLAG_TRUSTED_FIRST, the default since 1.1.0).
func walk(leaf *x509.Certificate, presented []*x509.Certificate, a Anchors, at time.Time) way {
	w := way{certs: []*x509.Certificate{leaf}}
	left := slices.Clone(presented)
	for {
		cur := w.top()
		if a.has(cur) {
			w.isRoot = true
			return w
		}
		if selfIssued(cur) && namesIssuer(cur, cur) {
			return w
		}
		if w.anchors = preferValid(a.issuersOf(cur), at); len(w.anchors) > 0 {
			return w
		}
		var issuers []*x509.Certificate
		for _, c := range left {
			if namesIssuer(cur, c) {
				issuers = append(issuers, c)
			}
		}
		if issuers = preferValid(issuers, at); len(issuers) == 0 {
			return w
		}
		w.certs = append(w.certs, issuers[0])
		left = slices.DeleteFunc(left, issuers[0].Equal)
	}
}

// preferValid returns the valid ones, or all if none is valid.
func preferValid(certs []*x509.Certificate, at time.Time) []*x509.Certificate {
	var valid []*x509.Certificate
	for _, c := range certs {
		if len(dates(c, problem.At{}, at, false)) == 0 {
			valid = append(valid, c)
		}
	}
	if valid == nil {
		return certs
	}
	return valid
}

// judge asks what concerns the links of the path, and its trust anchors.
func (w way) judge(at time.Time) problem.List {
	var found problem.List
	tops := w.anchors
	if w.isRoot {
		tops = []*x509.Certificate{nil}
	}
	for _, root := range tops {
		path := w.certs
		if root != nil {
			path = append(slices.Clone(path), root)
			found = append(found, issuer(root, problem.At{}, at)...)
		}
		found = append(found, links(path)...)
	}
	return found
}

// links judges path[i] under path[i+1]: signatures and path lengths.
func links(path []*x509.Certificate) problem.List {
	var found problem.List
	for i, c := range path[1:] {
		below := path[i]
		if err := c.CheckSignature(below.SignatureAlgorithm, below.RawTBSCertificate, below.Signature); err != nil {
			found = append(found, badSignature(below, c, block(i)))
		}
		// RFC 5280 section 6.1.4 does not count self-issued certificates;
		// crypto/x509 does, and so do we. i is how many stand between c and the leaf.
		if limit := c.MaxPathLen; c.BasicConstraintsValid && (limit > 0 || limit == 0 && c.MaxPathLenZero) && i > limit {
			found = append(found, problem.New("pathlen", block(i+1), "%q allows %d intermediates below it, and there are %d", keypair.Name(c), limit, i))
		}
	}
	return found
}

func badSignature(child, parent *x509.Certificate, at problem.At) problem.Problem {
	return problem.New("chain_bad_signature", at, "%q was not signed by the key of the %q that follows it, although the name is right", keypair.Name(child), keypair.Name(parent))
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// namesIssuer tells whether parent is, by its name and by what child's authority
// key identifier says, the issuer of child: OpenSSL's X509_check_issued, which
// asks this before it looks at any signature. Go does not ask it.
func namesIssuer(child, parent *x509.Certificate) bool {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return false
	}
	if len(child.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
		return false
	}
	return serialAgrees(child, parent)
}

var oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

// serialAgrees compares authorityCertIssuer and authorityCertSerialNumber of
// child (RFC 5280 section 4.2.1.1), if it has them, with parent.
func serialAgrees(child, parent *x509.Certificate) bool {
	value := extension(child, oidAuthorityKeyID)
	if value == nil {
		return true
	}
	var id struct {
		KeyID  []byte        `asn1:"optional,tag:0"`
		Issuer asn1.RawValue `asn1:"optional,tag:1"`
		Serial *big.Int      `asn1:"optional,tag:2"`
	}
	if _, err := asn1.Unmarshal(value, &id); err != nil {
		return false
	}
	if id.Serial != nil && id.Serial.Cmp(parent.SerialNumber) != 0 {
		return false
	}
	// GeneralNames of one directoryName, [4] explicit, as every issuer writes it.
	if len(id.Issuer.Bytes) > 0 && !bytes.HasSuffix(id.Issuer.Bytes, parent.RawIssuer) {
		return false
	}
	return true
}

// extension returns the value of an extension, nil if c has it not.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}
