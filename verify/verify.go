// Package verify answers whether a certificate and its key are fit to serve.
//
// The measure is Postfix's own (postconf(5) smtpd_tls_cert_file): the chain must
// "pass the openssl verify -purpose sslserver test", with no help from
// intermediates that this host happens to have. [Pair] asks more than that. It
// is at least as strict as openssl and as Go's crypto/x509, which disagree, and
// refuses what both leave to the administrator: a CA as leaf, a certificate
// without subjectAltName, must-staple, fewer names than are served now.
//
// # How openssl finds its way, and why it matters
//
// crypto/x509 tries every path to every trust anchor and accepts if one is good.
// OpenSSL (since 1.1.0) takes one: at each certificate it looks for the issuer
// among the trust anchors first, then among the presented certificates, by name
// and key identifier, and never turns back. So [Pair] walks as OpenSSL does,
// judges every certificate on that way, and then asks crypto/x509 as well.
//
// # What else may stand in the file
//
// Decided here, once, because clients differ (old GnuTLS wants exactly one path
// in order; the AddTrust expiry of May 2020 stopped mail through a certificate
// that nobody needed):
//
//	the root at the end            warning root_included; keypair leaves it out
//	a cross-signed root at the end accepted, needed or not, while it is valid
//	  ... that has expired         chain_expired, even if no client needs it
//	right certificates, wrong order chain_order
//	a certificate that issued none of the others   chain_unused
//	two ways up (two cross-signs)  chain_unused, for the second
//	the same certificate twice     chain_duplicate (keypair)
//	same name, another key         chain_bad_signature
//
// Nothing here reads a clock, a file or the network: time, trust anchors and
// what is served now are values in [Policy]. Only [LoadAnchors] reads files.
package verify

import (
	"crypto/x509"
	"time"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Policy is what a pair is judged by. The zero Policy trusts nothing.
type Policy struct {
	At      time.Time // the time that counts; zero = now
	Anchors Anchors

	// Names must each be covered: name_mismatch. A name that is also in
	// AllowNames may be missing; that is a warning. The names of Served need not
	// be repeated: they are asked for by names_shrunk.
	Names      []string
	AllowNames []string

	// Served are the leaves served now. One that has expired, or signed itself,
	// sets no measure for its successor.
	Served []*x509.Certificate
	// ServedAt is the address:port that presents one of Served which others do not.
	ServedAt map[*x509.Certificate]string

	AllowDowngrade  bool // older than what is served: a warning
	AllowFewerNames bool // without a name that is served now: a warning
	AllowSelfSigned bool // a leaf that signed itself: a warning

	// CRL is revocation lists. One that does not come from the issuer of a
	// certificate in the chain says nothing about it.
	CRL []*x509.RevocationList
}

// Pair judges p by pol and returns errors and warnings. No errors means that p
// may be installed.
func Pair(p keypair.Pair, pol Policy) problem.List {
	if p.IsZero() {
		return problem.List{problem.New("cert_missing", problem.At{}, "there is no certificate to verify")}
	}
	if pol.At.IsZero() {
		pol.At = time.Now()
	}
	chain := p.Chain()
	found := p.Weaknesses()
	found = append(found, leaf(chain[0], pol)...)
	for i, c := range chain[1:] {
		found = append(found, issuer(c, block(i+1), pol.At)...)
	}
	path, trust := trusted(p, pol)
	found = append(found, trust...)
	if len(found.Errors()) == 0 && !selfSigned(chain[0]) {
		found = append(found, secondOpinion(chain, pol)...)
	}
	found = append(found, names(chain[0], pol)...)
	found = append(found, served(chain[0], pol)...)
	found = append(found, staging(chain, path != nil)...)
	found = append(found, revoked(chain, path, pol)...)
	return found
}

// Trusted tells whether a presented chain, leaf first, is trusted for sslserver
// at a time, whatever it is named: nil, or a problem.List. It asks what openssl
// and crypto/x509 ask, and nothing about good form.
func Trusted(chain []*x509.Certificate, a Anchors, at time.Time) error {
	if len(chain) == 0 {
		return problem.List{problem.New("cert_missing", problem.At{}, "no certificate is presented")}
	}
	if a.Count() == 0 {
		return problem.List{noAnchors()}
	}
	found := append(dates(chain[0], block(0), at, true), purpose(chain[0], block(0))...)
	way := walk(chain[0], chain[1:], a, at)
	if !way.anchored() {
		return append(found, untrusted(way.top(), chain, nil, a))
	}
	for i, c := range way.certs[1:] {
		found = append(found, issuer(c, block(i+1), at)...)
	}
	found = append(found, way.judge(at)...)
	if err := found.Err(); err != nil {
		return err
	}
	if selfSigned(chain[0]) {
		return nil // it is an anchor itself
	}
	return secondOpinion(chain, Policy{At: at, Anchors: a}).Err()
}

// block is the place of the i-th certificate (from 0) of a chain.
func block(i int) problem.At { return problem.At{Block: i + 1} }

func selfSigned(c *x509.Certificate) bool { return keypair.SelfSigned(c) }

func noAnchors() problem.Problem {
	return problem.New("no_trust_anchors", problem.At{}, "this host has no trust anchors, so no chain can be judged")
}
