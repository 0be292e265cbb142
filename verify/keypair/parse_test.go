package keypair_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

var kinds = []string{"ecdsa", "rsa"}

// TestRows: every row earns exactly its id, and an accepted one comes back from
// its own encoding as the same pair.
func TestRows(t *testing.T) {
	for _, kind := range kinds {
		for _, r := range rows {
			t.Run(kind+"/"+r.name, func(t *testing.T) {
				p, warnings, err := keypair.Parse(r.make(t, newHierarchy(t, kind)).inputs())
				checkRow(t, r, p, warnings, err)
			})
		}
	}
}

func checkRow(t *testing.T, r row, p keypair.Pair, warnings problem.List, err error) {
	t.Helper()
	if r.id != "" {
		var l problem.List
		if !errors.As(err, &l) || len(l) != 1 || l[0].ID != r.id || l[0].At.File == "" || !p.IsZero() {
			t.Fatalf("got pair %v, problems %+v; want only %s with its file", p, err, r.id)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if (r.warn == "") != (len(warnings) == 0) || r.warn != "" && !warnings.Has(r.warn) {
		t.Errorf("warnings %v, want %q", warnings, r.warn)
	}
	again, err := keypair.ParseInstalled(keypair.Input{Name: "again", Data: p.Postfix()})
	if err != nil || !again.Equal(p) {
		t.Errorf("read again: %v, %v; want %v", again, err, p)
	}
	for _, c := range p.Chain() {
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			t.Errorf("a root is left in the chain")
		}
	}
}

// TestMismatchNamesBoth: the operator can compare the hashes with what is published.
func TestMismatchNamesBoth(t *testing.T) {
	h := newHierarchy(t, "ecdsa")
	other := h.inter.Leaf(t, certtest.Leaf{})
	in := func(name string, b []byte) keypair.Input { return keypair.Input{Name: name, Data: b} }
	mine, _, err := keypair.Parse(in("a", h.pair.FullchainPEM()), in("b", h.pair.KeyPEM()), keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, err := keypair.Parse(in("a", other.FullchainPEM()), in("b", other.KeyPEM()), keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = keypair.Parse(in("a", h.pair.FullchainPEM()), in("b", other.KeyPEM()), keypair.Input{})
	if err == nil || !strings.Contains(err.Error(), mine.SPKI()) || !strings.Contains(err.Error(), theirs.SPKI()) {
		t.Errorf("got %v, want both %s and %s", err, mine.SPKI(), theirs.SPKI())
	}
}
