package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"postcert/deploy/postfix/cf"
	lookup "postcert/deploy/postfix/table"
	"postcert/verify"
	"postcert/verify/probe"
)

// judgeLevels says what each level would do with what the server showed.
func (a *app) judgeLevels(ctx context.Context, snap cf.Snapshot, id string, p *policyTested) {
	levels := []string{"none", "may", "encrypt", "dane", "dane-only", "verify", "secure"}
	if !slices.Contains(levels, p.Level) {
		levels = append(levels, p.Level)
	}
	for _, level := range levels {
		l := levelDoes{Level: level, InForce: level == p.Level}
		pol := lookup.Policy{}
		if l.InForce {
			pol, _ = lookup.ParsePolicy(p.Policy, snap.Version)
		}
		l.Outcome, l.Words = a.levelDoes(ctx, snap, id, p, level, pol)
		p.Levels = append(p.Levels, l)
	}
}

func deferred(format string, args ...any) (string, string) {
	return "deferred", "deferred: " + fmt.Sprintf(format, args...)
}

func (a *app) levelDoes(ctx context.Context, snap cf.Snapshot, id string, p *policyTested, level string, pol lookup.Policy) (outcome, words string) {
	if len(p.Hosts) == 0 {
		return deferred("no server was found for %s", p.Route.NextHop)
	}
	h := p.Hosts[len(p.Hosts)-1]
	if h.Result.Phase == probe.Connecting || h.Result.Phase == "" {
		return deferred("%s", orText(h.Result.Detail, "the server cannot be reached"))
	}
	if level == "dane" || level == "dane-only" {
		if level, words = a.danePlan(ctx, snap, h, level, p.Route.NextHop); words != "" {
			return deferred("%s", words)
		}
	}
	name := fmt.Sprintf("%s[%s]", h.Host, strings.Trim(h.Address[:strings.LastIndex(h.Address, ":")], "[]"))
	tls := h.Result.Reason == probe.OK || h.Result.Reason == probe.Unreadable
	switch {
	case level == "none":
		return "in_clear", "delivered in clear: TLS is not used"
	case level == "may" && h.Result.Reason == probe.NotOffered:
		return "in_clear", "delivered in clear: the server offers no STARTTLS"
	case level == "may" && !tls:
		return "in_clear", fmt.Sprintf("delivered in clear, after TLS failed: %s", orText(h.Result.Detail, string(h.Result.Reason)))
	case h.Result.Reason == probe.NotOffered:
		return deferred("TLS is required, but was not offered by host %s", name)
	case !tls:
		return deferred("Cannot start TLS: handshake failure (%s)", orText(h.Result.Detail, string(h.Result.Reason)))
	case level == "may", level == "encrypt":
		return "encrypted", "delivered encrypted, " + protocolName(h.Result) + "; the certificate is not asked about"
	case level == "dane-ee":
		return "encrypted", "delivered encrypted, and verified by TLSA records"
	case level == "fingerprint":
		return fingerprintDoes(h.Result, snap, id, pol)
	}
	return certificateDoes(h, snap, id, p.Route.NextHop, level, pol, a)
}

// certificateDoes judges what the levels verify and secure ask of a certificate: a
// chain to a trust anchor, and a name (postconf(5), smtp_tls_verify_cert_match,
// smtp_tls_secure_cert_match; TLS_README, match=).
func certificateDoes(h askedHost, snap cf.Snapshot, id, nextHop, level string, pol lookup.Policy, a *app) (string, string) {
	var certs []*x509.Certificate
	for _, f := range anchorFiles(snap, id, pol.Get("tafile")) {
		if data, err := os.ReadFile(f); err == nil {
			certs = append(certs, pemCertificates(data)...)
		}
	}
	if len(certs) == 0 {
		return deferred("Server certificate not verified: there are no trust anchors to verify it with")
	}
	if err := verify.Trusted(h.Result.Chain, verify.NewAnchors(certs...), a.now()); err != nil {
		return deferred("Server certificate not verified: it is not trusted, %v", err)
	}
	patterns := strings.FieldsFunc(snap.Effective(id, "smtp_tls_"+level+"_cert_match"), listSeparator)
	if m := pol.Get("match"); m != "" {
		patterns = nil
		for _, at := range pol.Attributes {
			if at.Name == "match" {
				patterns = append(patterns, strings.Split(at.Value, ":")...)
			}
		}
	}
	domain, _, _ := hopParts(nextHop)
	for i, pattern := range patterns {
		switch pattern {
		case "hostname":
			pattern = h.Host
		case "nexthop":
			pattern = domain
		case "dot-nexthop":
			pattern = "." + domain
		}
		patterns[i] = pattern
		if nameMatches(h.Result.Chain[0], pattern) {
			return "encrypted", fmt.Sprintf("delivered encrypted, and verified: the certificate is trusted and covers %s", pattern)
		}
	}
	return deferred("Server certificate not verified: it is trusted, and covers none of %s", strings.Join(patterns, ", "))
}

func listSeparator(r rune) bool { return strings.ContainsRune(", :\t\n", r) }

// nameMatches tells whether a certificate has a name that a pattern takes: the name
// itself or, with a leading dot, one below it.
func nameMatches(leaf *x509.Certificate, pattern string) bool {
	if !strings.HasPrefix(pattern, ".") {
		return verify.Covers(leaf, pattern)
	}
	return slices.ContainsFunc(leaf.DNSNames, func(n string) bool {
		return len(n) > len(pattern) && strings.HasSuffix(strings.ToLower(n), strings.ToLower(pattern))
	})
}

// fingerprintDoes compares the leaf, and its public key, with the digests of match=
// or smtp_tls_fingerprint_cert_match.
func fingerprintDoes(r probe.Result, snap cf.Snapshot, id string, pol lookup.Policy) (string, string) {
	digest := snap.Effective(id, "smtp_tls_fingerprint_digest")
	if digest != "sha256" || len(r.Chain) == 0 {
		return deferred("not known: digests of type %s are not compared here", digest)
	}
	want := snap.Effective(id, "smtp_tls_fingerprint_cert_match") + "|" + pol.Get("match")
	want = strings.ToLower(strings.ReplaceAll(want, ":", ""))
	for _, der := range [][]byte{r.Chain[0].Raw, r.Chain[0].RawSubjectPublicKeyInfo} {
		if sum := sha256.Sum256(der); strings.Contains(want, hex.EncodeToString(sum[:])) {
			return "encrypted", "delivered encrypted, and verified: the fingerprint is the one that is named"
		}
	}
	return deferred("Server certificate not verified: its fingerprint is not the one that is named")
}

// danePlan is the level at which dane and dane-only work for this server: by its
// TLSA records, "dane-ee" if it is verified by them; or words why mail is deferred.
func (a *app) danePlan(ctx context.Context, snap cf.Snapshot, h askedHost, level, nextHop string) (instead, words string) {
	if list := daneFits(ctx, snap, level); list != nil {
		if level == "dane" {
			return "may", ""
		}
		return level, "client TLS configuration problem: " + list[0].Message
	}
	server, _ := validates(ctx)
	port := h.Address[strings.LastIndex(h.Address, ":")+1:]
	records, secure, err := tlsaOf(ctx, server, port, h.Host)
	switch {
	case err != nil:
		return level, fmt.Sprintf("TLSA lookup error for %s:%s: %v", h.Host, port, err)
	case (!secure || len(records) == 0) && level == "dane":
		return "may", ""
	case !secure:
		return level, "non DNSSEC destination"
	case len(records) == 0:
		return level, "no TLSA records found"
	}
	usable, why := false, "it matches none of the TLSA records"
	domain, _, _ := hopParts(nextHop)
	for _, r := range records {
		usable = usable || r.usable()
		c := r.matched(h.Result.Chain)
		if c == nil {
			continue
		}
		// Beside DANE-TA(2) all else counts as with a CA: RFC 7672 section 3.1.2.
		err := error(nil)
		if r.usage == 2 {
			err = issuedFor(h.Result.Chain, c, a.now(), h.Host, domain)
		}
		if err == nil {
			return "dane-ee", ""
		}
		why = "a TLSA record is about its issuer, and " + err.Error()
	}
	if usable {
		return level, "Server certificate not verified: " + why
	}
	if level == "dane" {
		return "encrypt", ""
	}
	return level, "TLSA records unusable"
}

// tlsa is the content of one TLSA record (RFC 6698 section 2.1).
type tlsa struct {
	usage, selector, matching byte
	data                      []byte
}

// usable tells what Postfix can use: DANE-TA(2) and DANE-EE(3) (RFC 7672 section 3.1).
func (t tlsa) usable() bool {
	return (t.usage == 2 || t.usage == 3) && t.selector <= 1 && t.matching <= 2
}

// issuedFor is nil if an issuer has signed the chain, which is in date, for one of the
// names.
func issuedFor(chain []*x509.Certificate, issuer *x509.Certificate, now time.Time, names ...string) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(issuer) // an intermediate, mostly
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now}); err != nil {
		return err
	}
	if !slices.ContainsFunc(names, func(n string) bool { return verify.Covers(chain[0], n) }) {
		return fmt.Errorf("it covers none of %s", strings.Join(names, ", "))
	}
	return nil
}

// matched is the certificate of a chain that the record is about, by its bytes or its
// key: the leaf for usage 3, one of the others for usage 2; nil if there is none.
func (t tlsa) matched(chain []*x509.Certificate) *x509.Certificate {
	if !t.usable() || len(chain) == 0 {
		return nil
	}
	of := chain[:1]
	if t.usage == 2 {
		of = chain[1:]
	}
	i := slices.IndexFunc(of, func(c *x509.Certificate) bool {
		der := c.Raw
		if t.selector == 1 {
			der = c.RawSubjectPublicKeyInfo
		}
		switch t.matching {
		case 1:
			sum := sha256.Sum256(der)
			der = sum[:]
		case 2:
			sum := sha512.Sum512(der)
			der = sum[:]
		}
		return bytes.Equal(der, t.data)
	})
	if i < 0 {
		return nil
	}
	return of[i]
}

// tlsaOf asks a validating nameserver for the TLSA records of a server; secure is
// what it says of the answer, that there are none included.
func tlsaOf(ctx context.Context, server, port, host string) (records []tlsa, secure bool, err error) {
	query := slices.Clone(soaOfRoot[:12])
	for _, label := range strings.Split("_"+port+"._tcp."+strings.TrimSuffix(host, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil, false, fmt.Errorf("%q is no DNS name", host)
		}
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 52, 0, 1)
	query = append(query, soaOfRoot[len(soaOfRoot)-11:]...)
	reply, err := exchange(ctx, server, query)
	if err != nil {
		return nil, false, err
	}
	if code := reply[3] & 0x0f; code != 0 && code != 3 { // neither NOERROR nor NXDOMAIN
		return nil, false, fmt.Errorf("the resolver answers with code %d", code)
	}
	if reply[2]&0x02 != 0 {
		return nil, false, errors.New("the answer does not fit into one packet")
	}
	records, err = tlsaIn(reply, len(query)-11)
	return records, reply[3]&0x20 != 0, err
}

// tlsaIn reads the TLSA records of an answer; at is where its first record begins.
func tlsaIn(reply []byte, at int) ([]tlsa, error) {
	short := errors.New("the answer is cut off")
	var out []tlsa
	for range binary.BigEndian.Uint16(reply[6:]) {
		for at < len(reply) && reply[at] != 0 && reply[at] < 0xc0 {
			at += int(reply[at]) + 1
		}
		if at >= len(reply) {
			return nil, short
		}
		if reply[at] >= 0xc0 {
			at++
		}
		if at++; at+10 > len(reply) {
			return nil, short
		}
		kind, size := binary.BigEndian.Uint16(reply[at:]), int(binary.BigEndian.Uint16(reply[at+8:]))
		if at += 10; at+size > len(reply) {
			return nil, short
		}
		if data := reply[at : at+size]; kind == 52 && size > 3 {
			out = append(out, tlsa{data[0], data[1], data[2], data[3:]})
		}
		at += size
	}
	return out, nil
}
