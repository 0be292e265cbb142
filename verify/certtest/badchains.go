package certtest

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"
)

// extended makes a row of the good chain with more certificates at its end.
func extended(more func(t testing.TB, h Hierarchy) *x509.Certificate) func(testing.TB, Hierarchy) Case {
	return chainRow(func(t testing.TB, h Hierarchy) []*x509.Certificate {
		return append(slices.Clone(h.Pair.Chain), more(t, h))
	})
}

// rooted makes a row that the root itself spoils.
func rooted(a Authority) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		a := a
		a.Key = h.Root.kind
		h.Root, h.Inters = NewCA(t, a), h.Inters[:0:0]
		h = h.below(t, h.Root, 1+h.Round%3, "Rooted ")
		c := caseOf(h.Pair)
		c.Anchors = []*x509.Certificate{h.Root.Cert}
		return c
	}
}

func ekus(u ...x509.ExtKeyUsage) Authority {
	return Authority{Mutate: func(c *x509.Certificate) { c.ExtKeyUsage = u }}
}

var badChains = []Row{
	{Name: "one intermediate missing", Want: "chain_incomplete", Make: chainRow(func(_ testing.TB, h Hierarchy) []*x509.Certificate {
		return slices.Delete(slices.Clone(h.Pair.Chain), h.Round%len(h.Pair.Chain), h.Round%len(h.Pair.Chain)+1)
	})},
	{Name: "leaf only", Want: "chain_incomplete", Make: chainRow(func(testing.TB, Hierarchy) []*x509.Certificate { return nil })},
	{Name: "only an unrelated intermediate", Want: "chain_incomplete", Make: chainRow(func(t testing.TB, h Hierarchy) []*x509.Certificate {
		return []*x509.Certificate{NewCA(t, Authority{Name: "Stranger"}).Intermediate(t, Authority{Name: "Strange Intermediate"}).Cert}
	})},
	{Name: "intermediates out of order", Want: "chain_order", Make: func(t testing.TB, h Hierarchy) Case {
		p := h.Issuer.Intermediate(t, Authority{Name: "Lowest"}).Leaf(t, Leaf{})
		p.Chain[0], p.Chain[1] = p.Chain[1], p.Chain[0]
		return caseOf(p)
	}},
	{Name: "unrelated certificate between", Want: "chain_order", Make: chainRow(func(t testing.TB, h Hierarchy) []*x509.Certificate {
		return slices.Insert(slices.Clone(h.Pair.Chain), 0, NewCA(t, Authority{Name: "Stranger"}).Cert)
	})},
	{Name: "unrelated root at the end", Want: "chain_unused", Make: extended(func(t testing.TB, h Hierarchy) *x509.Certificate {
		return NewCA(t, Authority{Name: "Stranger"}).Cert
	})},
	{Name: "unrelated intermediate at the end", Want: "chain_unused", Make: extended(func(t testing.TB, h Hierarchy) *x509.Certificate {
		return NewCA(t, Authority{Name: "Stranger"}).Intermediate(t, Authority{Name: "Strange Intermediate"}).Cert
	})},
	{Name: "second cross-sign", Want: "chain_unused", Make: func(t testing.TB, h Hierarchy) Case {
		p, old, young := longChain(t, h, Authority{})
		second := NewCA(t, Authority{Name: "Third Root"}).CrossSign(t, young, Authority{})
		c := caseOf(p.With(append(p.Chain, second.Cert)...))
		c.Anchors = []*x509.Certificate{old.Cert}
		return c
	}},
	{Name: "expired cross-sign, needed", Want: "chain_expired", Make: func(t testing.TB, h Hierarchy) Case {
		p, old, _ := longChain(t, h, Authority{NotBefore: ago(90 * day), NotAfter: ago(day)})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{old.Cert}
		return c
	}},
	{Name: "expired cross-sign, not needed", Want: "chain_expired", Make: func(t testing.TB, h Hierarchy) Case {
		p, _, young := longChain(t, h, Authority{NotBefore: ago(90 * day), NotAfter: ago(day)})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{young.Cert}
		return c
	}},
	{Name: "intermediate of the same name, other key", Want: "chain_bad_signature", Make: chainRow(func(t testing.TB, h Hierarchy) []*x509.Certificate {
		imposter := h.Issuer.Parent.Intermediate(t, Authority{Name: h.Issuer.Cert.Subject.CommonName, Mutate: func(c *x509.Certificate) {
			if h.Round%2 == 0 {
				c.SubjectKeyId = h.Issuer.Cert.SubjectKeyId
			}
		}})
		return append([]*x509.Certificate{imposter.Cert}, h.Pair.Chain[1:]...)
	})},
	{Name: "right key, other key identifier", Want: "chain_bad_signature", Make: chainRow(func(t testing.TB, h Hierarchy) []*x509.Certificate {
		again := h.Issuer.Parent.Intermediate(t, Authority{Name: h.Issuer.Cert.Subject.CommonName, Signer: h.Issuer.Key, Mutate: func(c *x509.Certificate) {
			c.SubjectKeyId = []byte("another")
		}})
		return append([]*x509.Certificate{again.Cert}, h.Pair.Chain[1:]...)
	})},
	{Name: "intermediate expired", Want: "chain_expired", Make: interRow(Authority{NotBefore: ago(90 * day), NotAfter: ago(day)})},
	{Name: "intermediate not yet valid", Want: "chain_not_yet_valid", Make: interRow(Authority{NotBefore: ago(-day)})},
	{Name: "intermediate ends before it begins", Want: "cert_validity_order", Make: interRow(Authority{NotAfter: ago(day)})},
	{Name: "intermediate EKU client", Want: "purpose_eku", Make: interRow(ekus(x509.ExtKeyUsageClientAuth))},
	{Name: "intermediate EKU any", Want: "purpose_eku", Make: interRow(ekus(x509.ExtKeyUsageAny))},
	{Name: "intermediate not a CA", Want: "chain_not_ca", Make: interRow(Authority{Mutate: func(c *x509.Certificate) { c.IsCA = false }})},
	{Name: "intermediate without basic constraints", Want: "chain_not_ca", Make: interRow(Authority{Mutate: func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid = false, false
	}})},
	{Name: "intermediate may not sign", Want: "chain_not_ca", Make: interRow(Authority{Mutate: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }})},
	{Name: "intermediate with malformed Netscape type", Want: "purpose_eku", Make: interRow(Authority{Mutate: withExt(Ext("2.16.840.1.113730.1.1", false, 5, 0))})},
	{Name: "intermediate with unknown critical extension", Want: "ext_critical", Make: interRow(Authority{Mutate: withExt(Ext("1.3.6.1.4.1.99999.1", true, 5, 0))})},
	{Name: "path length exceeded", Want: "pathlen", Make: func(t testing.TB, h Hierarchy) Case {
		top := h.Replace(t, Authority{Mutate: func(c *x509.Certificate) { c.MaxPathLenZero = true }})
		return caseOf(top.Intermediate(t, Authority{Name: "One Too Many"}).Leaf(t, Leaf{}))
	}},
	{Name: "path length exceeded above the anchor", Want: "pathlen", Make: func(t testing.TB, h Hierarchy) Case {
		p, _, young := longChain(t, h, Authority{Mutate: func(c *x509.Certificate) { c.MaxPathLenZero = true }})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{young.Cert}
		return c
	}},
	{Name: "name constraint violated", Want: "name_constraint", Make: interRow(Authority{Mutate: func(c *x509.Certificate) {
		c.PermittedDNSDomains = []string{"example.net"}
	}})},
	{Name: "name excluded", Want: "name_constraint", Make: interRow(Authority{Mutate: func(c *x509.Certificate) {
		c.ExcludedDNSDomains = []string{"example.org"}
	}})},
	{Name: "directory name constrained", Want: "name_constraint", Make: interRow(Authority{Mutate: withExt(Ext("2.5.29.30", false,
		// permittedSubtrees { directoryName { CN=x } }
		0x30, 20, 0xa0, 18, 0x30, 16, 0xa4, 14, 0x30, 12, 0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, 'x'))})},
	{Name: "mail addresses constrained", Want: "name_constraint", Make: interRow(Authority{Mutate: func(c *x509.Certificate) {
		c.PermittedEmailAddresses = []string{"example.org"}
	}})},
	{Name: "root expired", Want: "chain_expired", Make: rooted(Authority{NotBefore: ago(90 * day), NotAfter: ago(day)})},
	{Name: "root for clients only", Want: "purpose_eku", Make: rooted(ekus(x509.ExtKeyUsageClientAuth))},
	{Name: "root for any purpose only", Want: "purpose_eku", Make: rooted(ekus(x509.ExtKeyUsageAny))},
	{Name: "root with path length 0", Want: "pathlen", Make: rooted(Authority{Mutate: func(c *x509.Certificate) { c.MaxPathLenZero = true }})},
	{Name: "root not a CA", Want: "chain_not_ca", Make: rooted(Authority{Mutate: func(c *x509.Certificate) { c.IsCA = false }})},
	{Name: "root appended, not trusted", Want: "not_trusted", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair.With(append(slices.Clone(h.Pair.Chain), h.Root.Cert)...))
		c.Anchors = []*x509.Certificate{NewCA(t, Authority{Name: "Another Root"}).Cert}
		return c
	}},
	{Name: "no trust anchors", Want: "no_trust_anchors", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		c.Anchors = []*x509.Certificate{}
		return c
	}},
	{Name: "two roots of one name", Want: "chain_bad_signature", Make: func(t testing.TB, h Hierarchy) Case {
		noID := func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} }
		c := rooted(Authority{Mutate: noID})(t, h)
		// The one that signed comes last: openssl takes the first and gives up.
		c.Anchors = append([]*x509.Certificate{NewCA(t, Authority{Mutate: noID}).Cert}, c.Anchors...)
		return c
	}},
}

var policyRows = []Row{
	{Name: "allowed name missing", Warn: "name_mismatch", Make: func(t testing.TB, h Hierarchy) Case {
		c := named("www.example.org")(t, h)
		c.AllowNames = []string{"MAIL.example.org."}
		return c
	}},
	{Name: "fewer names", Want: "names_shrunk", Make: shrunk(false)},
	{Name: "fewer names, allowed", Warn: "names_shrunk", Make: shrunk(true)},
	{Name: "older than served", Want: "downgrade", Make: older(false)},
	{Name: "older than served, allowed", Warn: "downgrade", Make: older(true)},
	{Name: "newer than served", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		c.Served = []*x509.Certificate{h.Issuer.Leaf(t, Leaf{NotBefore: ago(60 * day)}).Cert, h.Pair.Cert}
		return c
	}},
	{Name: "served has expired or signed itself", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Issuer.Leaf(t, Leaf{NotBefore: ago(9 * day)}))
		gone := Leaf{Names: []string{"gone.example.org"}, NotBefore: ago(5 * day), NotAfter: ago(day)}
		c.Served = []*x509.Certificate{h.Issuer.Leaf(t, gone).Cert, SelfSigned(t, Leaf{Names: []string{"snakeoil"}}).Cert}
		return c
	}},
	{Name: "self-signed, allowed", Warn: "self_signed", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(SelfSigned(t, Leaf{Key: h.Root.kind, Mutate: func(c *x509.Certificate) { c.IsCA = h.Round%2 == 0 }}))
		c.AllowSelfSigned = true
		return c
	}},
	{Name: "self-signed, trusted", Warn: "self_signed", Make: func(t testing.TB, h Hierarchy) Case {
		p := SelfSigned(t, Leaf{Key: h.Root.kind})
		c := caseOf(p)
		c.Anchors = []*x509.Certificate{p.Cert}
		return c
	}},
	{Name: "revoked", Want: "revoked", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		c.CRL = []*x509.RevocationList{h.Issuer.CRL(t, h.Pair.Cert)}
		return c
	}},
	{Name: "intermediate revoked", Want: "revoked", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		c.CRL = []*x509.RevocationList{h.Root.CRL(t, h.Inters[0].Cert)}
		return c
	}},
	{Name: "others revoked", Make: func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		other := NewHierarchy(t, "ecdsa", 2)
		c.CRL = []*x509.RevocationList{h.Issuer.CRL(t, other.Pair.Cert), other.Issuer.CRL(t, h.Pair.Cert)}
		return c
	}},
}

func shrunk(allow bool) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Pair)
		c.Served = []*x509.Certificate{h.Issuer.Leaf(t, Leaf{Names: []string{DefaultName, "mx.example.org"}, NotBefore: ago(30 * day)}).Cert}
		c.AllowFewerNames = allow
		return c
	}
}

func older(allow bool) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		c := caseOf(h.Issuer.Leaf(t, Leaf{NotBefore: time.Now().Add(-48 * time.Hour)}))
		c.Served = []*x509.Certificate{h.Pair.Cert}
		c.AllowDowngrade = allow
		return c
	}
}
