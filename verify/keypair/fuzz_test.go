package keypair_test

import (
	"bytes"
	"strings"
	"testing"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// seed gives f every row of form, so that the fuzzer starts from each kind of
// input that is known to be misread.
func seed(f *testing.F, add func(c certtest.Case)) {
	f.Helper()
	h := certtest.NewHierarchy(f, "ecdsa", 2)
	for _, r := range certtest.FormRows {
		// The three large ones would fill the fuzzer's memory and tell it nothing.
		if c := r.Make(f, h); len(c.Cert) < 20_000 {
			add(c)
		}
	}
}

// FuzzParse: whatever is accepted is a pair that comes back from its own
// encoding, and no refusal quotes a key.
func FuzzParse(f *testing.F) {
	seed(f, func(c certtest.Case) { f.Add(c.Cert, c.Key, c.Chain) })
	f.Fuzz(func(t *testing.T, cert, key, chain []byte) {
		p, warnings, err := keypair.Parse(inputs(certtest.Case{Cert: cert, Key: key, Chain: chain}))
		checkOutcome(t, p, err)
		for _, w := range warnings {
			if w.Severity != problem.Warning || w.Message == "" {
				t.Errorf("among the warnings: %+v", w)
			}
		}
	})
}

// FuzzParseInstalled: the same of what Postfix reads.
func FuzzParseInstalled(f *testing.F) {
	seed(f, func(c certtest.Case) { f.Add(bytes.Join([][]byte{c.Key, c.Cert, c.Chain}, nil)) })
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := keypair.ParseInstalled(keypair.Input{Name: "x.pem", Data: data})
		checkOutcome(t, p, err)
	})
}

// FuzzTar: the same of archives.
func FuzzTar(f *testing.F) {
	for _, r := range tarRows(f) {
		if len(r.data) < 100_000 {
			f.Add(r.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _, err := keypair.ParseTar(keypair.Input{Name: "-", Data: data})
		checkOutcome(t, p, err)
	})
}

func checkOutcome(t *testing.T, p keypair.Pair, err error) {
	t.Helper()
	if err != nil {
		l := problem.From(err)
		if len(l) == 0 || l.Err() == nil || !p.IsZero() {
			t.Fatalf("refused without a reason, or with a pair: %v", err)
		}
		for _, e := range l {
			if e.ID == "" || e.ID == "encoding_differs" || strings.Contains(e.Message, "PRIVATE KEY-----") {
				t.Fatalf("refused as %+v", e)
			}
		}
		return
	}
	again, err := keypair.ParseInstalled(keypair.Input{Name: "again", Data: p.Postfix()})
	if err != nil || !again.Equal(p) {
		t.Fatalf("accepted, and not read again: %v", err)
	}
}
