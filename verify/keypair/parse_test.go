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

// inputs are the three inputs of Parse.
func inputs(c certtest.Case) (cert, key, chain keypair.Input) {
	in := func(name string, data []byte) keypair.Input {
		if data == nil {
			return keypair.Input{}
		}
		return keypair.Input{Name: name, Data: data}
	}
	return in("fullchain.pem", c.Cert), in("privkey.pem", c.Key), in("chain.pem", c.Chain)
}

// TestRows: every row earns exactly its id, and an accepted one comes back from
// its own encoding as the same pair.
func TestRows(t *testing.T) {
	for _, kind := range kinds {
		for _, r := range certtest.FormRows {
			t.Run(kind+"/"+r.Name, func(t *testing.T) {
				p, warnings, err := keypair.Parse(inputs(r.Make(t, certtest.NewHierarchy(t, kind, 3))))
				checkRow(t, r, p, warnings, err)
			})
		}
	}
}

func checkRow(t *testing.T, r certtest.Row, p keypair.Pair, warnings problem.List, err error) {
	t.Helper()
	if r.Want != "" {
		var l problem.List
		if !errors.As(err, &l) || len(l) != 1 || l[0].ID != r.Want || l[0].At.File == "" || !p.IsZero() {
			t.Fatalf("got pair %v, problems %+v; want only %s with its file", p, err, r.Want)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if (r.Warn == "") != (len(warnings) == 0) || r.Warn != "" && !warnings.Has(r.Warn) {
		t.Errorf("warnings %v, want %q", warnings, r.Warn)
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
	h := certtest.NewHierarchy(t, "ecdsa", 2)
	other := h.Issuer.Leaf(t, certtest.Leaf{})
	in := func(name string, b []byte) keypair.Input { return keypair.Input{Name: name, Data: b} }
	mine, _, err := keypair.Parse(in("a", h.Pair.FullchainPEM()), in("b", h.Pair.KeyPEM()), keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, err := keypair.Parse(in("a", other.FullchainPEM()), in("b", other.KeyPEM()), keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = keypair.Parse(in("a", h.Pair.FullchainPEM()), in("b", other.KeyPEM()), keypair.Input{})
	if err == nil || !strings.Contains(err.Error(), mine.SPKI()) || !strings.Contains(err.Error(), theirs.SPKI()) {
		t.Errorf("got %v, want both %s and %s", err, mine.SPKI(), theirs.SPKI())
	}
}
