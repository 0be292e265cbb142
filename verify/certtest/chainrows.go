package certtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"strings"
	"testing"
	"time"
)

// ChainRows are chains, dates, purposes and names, good and bad: what package
// verify decides about one pair.
var ChainRows = append(append(append(goodChains, badLeaves...), badChains...), policyRows...)

// caseOf gives a pair as certbot would.
func caseOf(p *Pair) Case { return Case{Cert: p.FullchainPEM(), Key: p.KeyPEM()} }

// leafRow makes a row of a leaf under the good intermediates.
func leafRow(l Leaf) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		t.Helper()
		return caseOf(h.Issuer.Leaf(t, l))
	}
}

// mutated makes a row of a leaf whose template is changed before it is signed.
func mutated(m func(*x509.Certificate)) func(testing.TB, Hierarchy) Case {
	return leafRow(Leaf{Mutate: m})
}

// interRow makes a row of a good leaf under one changed intermediate.
func interRow(a Authority) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		t.Helper()
		return caseOf(h.Replace(t, a).Leaf(t, Leaf{}))
	}
}

// chainRow makes a row of the good leaf under another list of certificates.
func chainRow(edit func(t testing.TB, h Hierarchy) []*x509.Certificate) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		t.Helper()
		return caseOf(h.Pair.With(edit(t, h)...))
	}
}

// Ext returns an extension for ExtraExtensions.
func Ext(oid string, critical bool, value ...byte) pkix.Extension {
	var id asn1.ObjectIdentifier
	for _, arc := range strings.Split(oid, ".") {
		n := 0
		for _, d := range arc {
			n = n*10 + int(d-'0')
		}
		id = append(id, n)
	}
	return pkix.Extension{Id: id, Critical: critical, Value: value}
}

func withExt(e pkix.Extension) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, e) }
}

func ago(d time.Duration) time.Time { return time.Now().Add(-d).Truncate(time.Second) }

const day = 24 * time.Hour

// longChain is leaf, intermediates, a new root cross-signed by an old one; it
// returns what is presented and both roots. dates are of the cross-sign.
func longChain(t testing.TB, h Hierarchy, cross Authority) (p *Pair, old, young *CA) {
	t.Helper()
	old, young = NewCA(t, Authority{Name: "Old Root"}), NewCA(t, Authority{Name: "New Root"})
	below := h
	below.Inters = nil
	below = below.below(t, old.CrossSign(t, young, cross), len(h.Inters), "Long ")
	return below.Pair, old, young
}

var goodChains = []Row{
	{Name: "good chain", Make: leafRow(Leaf{})},
	{Name: "wildcard", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Issuer.Leaf(t, Leaf{Names: []string{"*.example.org"}}))
		c.Names = []string{"mail.example.org"}
		return c
	}},
	{Name: "upper case name", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Issuer.Leaf(t, Leaf{Names: []string{"MAIL.example.org"}}))
		c.Names = []string{"mail.Example.org"}
		return c
	}},
	{Name: "common name and address besides", Make: leafRow(Leaf{CommonName: DefaultName, Mutate: func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)}
	}})},
	{Name: "100 names", Make: func(t testing.TB, h Hierarchy) Case {
		names := []string{DefaultName, "under_score.example.org"}
		for i := range 98 {
			names = append(names, "h"+string(rune('a'+i%26))+string(rune('a'+i/26))+".example.org")
		}
		return caseOf(h.Issuer.Leaf(t, Leaf{Names: names}))
	}},
	{Name: "EKU absent", Warn: "eku_absent", Make: leafRow(Leaf{EKU: []x509.ExtKeyUsage{}})},
	{Name: "EKU server and client", Make: leafRow(Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}})},
	{Name: "key usage absent", Make: mutated(func(c *x509.Certificate) { c.KeyUsage = 0 })},
	{Name: "intermediate for servers only", Make: interRow(Authority{Mutate: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }})},
	{Name: "intermediate with Netscape type", Make: interRow(Authority{Mutate: withExt(Ext("2.16.840.1.113730.1.1", false, 3, 2, 6, 0x40))})},
	{Name: "name constraint kept", Make: interRow(Authority{Mutate: func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
	}})},
	{Name: "path length kept", Make: func(t testing.TB, h Hierarchy) Case {
		at := h.Root
		for i := range h.Inters {
			at = at.Intermediate(t, Authority{Name: "Exact " + string(rune('A'+i)), Mutate: func(c *x509.Certificate) {
				c.MaxPathLen = len(h.Inters) - 1 - i
				c.MaxPathLenZero = c.MaxPathLen == 0
			}})
		}
		return caseOf(at.Leaf(t, Leaf{}))
	}},
	{Name: "leaf of RSA-2048", Make: leafRow(Leaf{Key: "rsa"})},
	{Name: "leaf of RSA-4096", Make: leafRow(Leaf{Key: "rsa4096"})},
	{Name: "leaf of P-256", Make: leafRow(Leaf{Key: "ecdsa"})},
	{Name: "leaf of P-384", Make: leafRow(Leaf{Key: "p384"})},
	{Name: "leaf of P-521", Make: leafRow(Leaf{Key: "p521"})},
	{Name: "leaf of Ed25519", Warn: "key_ed25519", Make: leafRow(Leaf{Key: "ed25519"})},
	{Name: "intermediate of the other algorithm", Make: func(t testing.TB, h Hierarchy) Case {
		kind := "rsa"
		if h.Root.kind == "rsa" {
			kind = "ecdsa"
		}
		return interRow(Authority{Key: kind})(t, h)
	}},
	{Name: "long chain, old root known", Make: func(t testing.TB, h Hierarchy) Case {
		p, old, _ := longChain(t, h, Authority{})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{old.Cert}
		return c
	}},
	{Name: "long chain, new root known", Make: func(t testing.TB, h Hierarchy) Case {
		p, _, young := longChain(t, h, Authority{})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{young.Cert}
		return c
	}},
	{Name: "long chain, both roots known", Make: func(t testing.TB, h Hierarchy) Case {
		p, old, young := longChain(t, h, Authority{})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{old.Cert, young.Cert, h.Root.Cert}
		return c
	}},
	{Name: "first second of validity", Make: func(t testing.TB, h Hierarchy) Case {
		from := ago(10 * time.Minute)
		c := caseOf(h.Issuer.Leaf(t, Leaf{NotBefore: from}))
		c.At = from
		return c
	}},
}

var badLeaves = []Row{
	{Name: "leaf expired", Want: "cert_expired", Make: leafRow(Leaf{NotBefore: ago(90 * day), NotAfter: ago(time.Hour)})},
	{Name: "second of expiry", Want: "cert_expired", Make: func(t testing.TB, h Hierarchy) Case {
		end := ago(-time.Hour)
		c := caseOf(h.Issuer.Leaf(t, Leaf{NotAfter: end}))
		c.At = end
		return c
	}},
	{Name: "leaf not yet valid", Want: "cert_not_yet_valid", Make: leafRow(Leaf{NotBefore: ago(-day)})},
	{Name: "leaf ends before it begins", Want: "cert_validity_order", Make: leafRow(Leaf{NotBefore: ago(time.Hour), NotAfter: ago(day)})},
	{Name: "EKU client only", Want: "purpose_eku", Make: leafRow(Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})},
	{Name: "EKU mail only", Want: "purpose_eku", Make: leafRow(Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}})},
	{Name: "EKU any only", Want: "purpose_eku", Make: leafRow(Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})},
	{Name: "key usage keyCertSign only", Want: "purpose_ku", Make: mutated(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })},
	{Name: "key usage keyEncipherment only", Want: "purpose_ku", Make: mutated(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })},
	{Name: "Netscape type client", Want: "purpose_eku", Make: mutated(withExt(Ext("2.16.840.1.113730.1.1", false, 3, 2, 7, 0x80)))},
	{Name: "leaf is CA", Want: "leaf_is_ca", Make: mutated(func(c *x509.Certificate) { c.IsCA = true })},
	{Name: "path length on a leaf", Want: "ext_invalid", Make: mutated(func(c *x509.Certificate) {
		c.BasicConstraintsValid = false
		withExt(Ext("2.5.29.19", true, 0x30, 3, 2, 1, 1))(c)
	})},
	{Name: "CN only", Want: "san_missing", Make: leafRow(Leaf{Names: []string{}, CommonName: DefaultName})},
	{Name: "IP only", Want: "san_missing", Make: leafRow(Leaf{Names: []string{}, CommonName: DefaultName, Mutate: func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)}
	}})},
	{Name: "other name", Want: "name_mismatch", Make: named("www.example.org")},
	{Name: "wildcard of a top level", Want: "name_mismatch", Make: named("*.org")},
	{Name: "wildcard of the level below", Want: "name_mismatch", Make: named("*.mail.example.org")},
	{Name: "wildcard within a label", Want: "name_illegal", Make: leafRow(Leaf{Names: []string{DefaultName, "m*.example.org"}})},
	{Name: "NUL in a name", Want: "name_illegal", Make: leafRow(Leaf{Names: []string{DefaultName, "mail.example.org\x00.evil.example"}})},
	{Name: "blank in a name", Want: "name_illegal", Make: leafRow(Leaf{Names: []string{DefaultName, "mail .example.org"}})},
	{Name: "unknown critical extension", Want: "ext_critical", Make: mutated(withExt(Ext("1.3.6.1.4.1.99999.1", true, 5, 0)))},
	{Name: "pre-certificate", Want: "cert_precert", Make: mutated(withExt(Ext("1.3.6.1.4.1.11129.2.4.3", true, 5, 0)))},
	{Name: "must-staple", Want: "must_staple", Make: mutated(withExt(Ext("1.3.6.1.5.5.7.1.24", false, 0x30, 3, 2, 1, 5)))},
	{Name: "proxy certificate", Want: "ext_invalid", Make: mutated(withExt(Ext("1.3.6.1.5.5.7.1.14", true,
		0x30, 12, 0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 0x15, 1)))},
	{Name: "malformed IP resources", Want: "ext_invalid", Make: mutated(withExt(Ext("1.3.6.1.5.5.7.1.7", false, 5, 0)))},
	{Name: "self-signed", Want: "self_signed", Make: func(t testing.TB, h Hierarchy) Case {
		return caseOf(SelfSigned(t, Leaf{Key: h.Root.kind}))
	}},
	{Name: "self-signed over a chain", Want: "self_signed", Make: func(t testing.TB, h Hierarchy) Case {
		return caseOf(SelfSigned(t, Leaf{Key: h.Root.kind}).With(h.Pair.Chain...))
	}},
	{Name: "staging issuer", Want: "issuer_staging", Make: func(t testing.TB, h Hierarchy) Case {
		root := NewCA(t, Authority{Key: h.Root.kind, Org: "(STAGING) Internet Security Research Group", Name: "(STAGING) Pretend Pear X1"})
		return caseOf(root.Intermediate(t, Authority{Org: "(STAGING) Let's Encrypt", Name: "(STAGING) Artificial Apricot R3"}).Leaf(t, Leaf{}))
	}},
	{Name: "leaf of another issuer of the same name", Want: "chain_bad_signature", Make: func(t testing.TB, h Hierarchy) Case {
		imposter := *h.Issuer
		imposter.Key = NewKey(t, h.Root.kind)
		// CreateCertificate refuses a parent with another key, so the name is
		// borrowed by a root of the imposter's own.
		ca := NewCA(t, Authority{Signer: imposter.Key, Mutate: func(c *x509.Certificate) {
			c.Subject, c.SubjectKeyId = h.Issuer.Cert.Subject, h.Issuer.Cert.SubjectKeyId
		}})
		return caseOf(ca.Leaf(t, Leaf{}).With(h.Pair.Chain...))
	}},
}

// named makes a row of a leaf with one name, of which DefaultName is asked.
func named(name string) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Issuer.Leaf(t, Leaf{Names: []string{name}}))
		c.Names = []string{DefaultName}
		return c
	}
}
