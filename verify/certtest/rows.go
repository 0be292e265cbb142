package certtest

import (
	"crypto/x509"
	"testing"
	"time"
)

// Hierarchy is a root, intermediates under it, and a good leaf under the lowest.
type Hierarchy struct {
	Root   *CA
	Inters []*CA // from the root down
	Issuer *CA   // the lowest of Inters
	Pair   *Pair
	Round  int // varies what a row can vary, such as which intermediate has its defect
}

// NewHierarchy makes a hierarchy whose presented chain has this many
// certificates, the leaf among them: at least 2. kind is of [NewKey]. What the
// same t makes later has other keys.
func NewHierarchy(t testing.TB, kind string, certs int) Hierarchy {
	t.Helper()
	h := Hierarchy{Root: NewCA(t, Authority{Key: kind})}
	h = h.below(t, h.Root, certs-1, "")
	hold(t)
	return h
}

// below fills the hierarchy with n intermediates under top.
func (h Hierarchy) below(t testing.TB, top *CA, n int, prefix string) Hierarchy {
	t.Helper()
	h.Issuer = top
	for i := range n {
		h.Issuer = h.Issuer.Intermediate(t, Authority{Name: prefix + "Test Intermediate " + string(rune('A'+i))})
		h.Inters = append(h.Inters, h.Issuer)
	}
	h.Pair = h.Issuer.Leaf(t, Leaf{})
	return h
}

// Replace returns the lowest authority of another hierarchy under the same root,
// one of whose intermediates (h.Round says which) is as a says.
func (h Hierarchy) Replace(t testing.TB, a Authority) *CA {
	t.Helper()
	at := h.Root
	for j := range h.Inters {
		if j == h.Round%len(h.Inters) {
			at = at.Intermediate(t, a)
		} else {
			at = at.Intermediate(t, Authority{Name: "Other Intermediate " + string(rune('A'+j))})
		}
	}
	return at
}

// Case is what one row gives to whom it tests: three inputs, a nil one not
// given, and what they are to be judged by.
type Case struct {
	Cert, Key, Chain []byte

	Anchors    []*x509.Certificate // nil = the hierarchy's root
	At         time.Time           // zero = now
	Names      []string
	AllowNames []string
	Served     []*x509.Certificate
	CRL        []*x509.RevocationList

	AllowDowngrade, AllowFewerNames, AllowSelfSigned bool
}

// Row is one kind of input. Make is meant to be called for several hierarchies:
// kinds of keys, lengths, rounds.
type Row struct {
	Name string
	Want string // the id of the problem that refuses it; "" = accepted
	Warn string // the id of a warning it earns; "" = none that matters
	Make func(t testing.TB, h Hierarchy) Case
}
