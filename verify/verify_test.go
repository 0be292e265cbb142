package verify_test

import (
	"fmt"
	"slices"
	"testing"

	"postcert/verify"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// judge is what the tool makes of a case: the pair if it could be read, and
// every problem of reading and judging.
func judge(h certtest.Hierarchy, c certtest.Case) (keypair.Pair, problem.List) {
	in := func(name string, data []byte) keypair.Input {
		if data == nil {
			return keypair.Input{}
		}
		return keypair.Input{Name: name, Data: data}
	}
	p, found, err := keypair.Parse(in("fullchain.pem", c.Cert), in("privkey.pem", c.Key), in("chain.pem", c.Chain))
	if err != nil {
		return p, append(found, problem.From(err)...)
	}
	anchors := verify.NewAnchors(h.Root.Cert)
	if c.Anchors != nil {
		anchors = verify.NewAnchors(c.Anchors...)
	}
	return p, append(found, verify.Pair(p, verify.Policy{
		At: c.At, Anchors: anchors, Names: c.Names, AllowNames: c.AllowNames, Served: c.Served, CRL: c.CRL,
		AllowDowngrade: c.AllowDowngrade, AllowFewerNames: c.AllowFewerNames, AllowSelfSigned: c.AllowSelfSigned,
	})...)
}

// checkRow asks for the row's id among the errors, alone but for what follows
// from it, or for none.
func checkRow(t *testing.T, r certtest.Row, found problem.List) {
	t.Helper()
	if r.Want == "" && len(found.Errors()) > 0 {
		t.Errorf("%s: refused: %+v", r.Name, found.Errors())
	}
	if r.Want != "" && !found.Errors().Has(r.Want) {
		t.Errorf("%s: got %+v, want %s", r.Name, found, r.Want)
	}
	for _, p := range found.Errors() {
		if p.ID != r.Want && !slices.Contains(consequences[r.Want], p.ID) {
			t.Errorf("%s: got also %s: %s", r.Name, p.ID, p.Message)
		}
	}
	if r.Warn != "" && !found.Warnings().Has(r.Warn) {
		t.Errorf("%s: warnings %+v, want %s", r.Name, found.Warnings(), r.Warn)
	}
}

// consequences are errors that come with another one.
var consequences = map[string][]string{
	"issuer_staging": {"chain_incomplete"},
	"self_signed":    {"chain_unused"},
}

func TestRows(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa"} {
		for length := 2; length <= 4; length++ {
			t.Run(fmt.Sprintf("%s, %d certificates", kind, length), func(t *testing.T) {
				h := certtest.NewHierarchy(t, kind, length)
				h.Round = length
				for _, r := range certtest.ChainRows {
					_, found := judge(h, r.Make(t, h))
					checkRow(t, r, found)
				}
			})
		}
	}
}
