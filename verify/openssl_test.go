package verify_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// stricter is the closed list of reasons for which we refuse what openssl
// verify accepts. A refusal for another reason fails the test, and so does a
// reason here that nothing hits.
var stricter = map[string]string{
	// What openssl verify does not look at: the key, and the rest of the file.
	"chain_conflict":   "openssl is given one list of certificates",
	"key_encrypted":    "openssl verify reads no private key",
	"key_format":       "openssl verify reads no private key",
	"key_inconsistent": "openssl verify reads no private key",
	"key_mismatch":     "openssl verify reads no private key",
	"key_missing":      "openssl verify reads no private key",
	"key_multiple":     "openssl verify reads no private key",

	// Forms that openssl reads and Go or Postfix does not.
	"der_trailing":    "Postfix: excess data, TLS disabled",
	"der_invalid":     "Go or RFC 5280 refuses it",
	"input_too_large": "limits of ours",
	"pem_bom":         "Go does not see the first block",
	"pem_encoding":    "NUL bytes after the last block",
	"pem_header":      "readers differ",
	"pem_is_der":      "Postfix reads PEM",
	"pem_label":       "Go does not see the block",
	"pem_truncated":   "openssl stops at the damage, in silence",
	"pem_wrong_type":  "what it is for is not clear",

	// Chains that some client refuses.
	"chain_bad_signature": "a certificate above the path to the anchor",
	"chain_duplicate":     "TLS clients differ",
	"chain_expired":       "an expired cross-sign (AddTrust, 2020)",
	"chain_order":         "TLS 1.2 wants order (RFC 5246 section 7.4.2)",
	"chain_unused":        "old GnuTLS",
	"pathlen":             "a certificate above the path to the anchor",

	// Strength: openssl verify asks for security level -1.
	"key_too_large": "slow handshakes",
	"key_weak":      "security level 2 refuses it in a handshake",
	"sig_weak":      "security level 2 refuses it in a handshake",

	// Purposes and names.
	"ext_invalid":     "not a TLS server's certificate",
	"leaf_is_ca":      "an authority's key does not belong on a mail server",
	"must_staple":     "Postfix does not staple",
	"name_constraint": "Go does not judge this kind",
	"name_illegal":    "clients differ",
	"purpose_ku":      "key encipherment alone does not sign",
	"san_missing":     "openssl falls back to the common name",

	// Compared with what is served, and known to us alone.
	"downgrade":    "openssl knows nothing of what is served",
	"names_shrunk": "openssl knows nothing of what is served",
}

const rounds = 4 // x 2 kinds x 3 lengths = 24 of each row

// trial is one case with both verdicts.
type trial struct {
	label    string
	want     string
	found    problem.List
	pair     keypair.Pair
	c        certtest.Case
	original bool // openssl accepts the input
	ours     bool // openssl accepts our encoding of it
	said     string
}

// TestProofAgreesWithOpenSSL judges every row by openssl too: what it refuses, in the original
// or in our encoding, we never accept, and what it accepts and we refuse has one
// of the reasons above.
func TestProofAgreesWithOpenSSL(t *testing.T) {
	program := need(t, "openssl")
	start := time.Now()
	trials := makeTrials(t)
	made := time.Since(start)
	o := oracle{program: program, now: time.Now()}
	work := make(chan *trial)
	var workers sync.WaitGroup
	for range 2 {
		dir := t.TempDir()
		workers.Go(func() {
			for tr := range work {
				o.ask(t, tr, dir)
			}
		})
	}
	for i := range trials {
		work <- &trials[i]
	}
	close(work)
	workers.Wait()
	report(t, trials)
	t.Logf("made in %v, %d calls of openssl in %v", made.Round(time.Millisecond), o.calls.Load(), (time.Since(start) - made).Round(time.Millisecond))
}

// need returns the path of a program that the tests want; without it they are
// skipped, and fail in CI.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%s is needed: %v", name, err)
	}
	if err != nil {
		t.Skipf("%s is needed: %v", name, err)
	}
	return path
}

func makeTrials(t *testing.T) []trial {
	t.Helper()
	var trials []trial
	rows := append(slices.Clone(certtest.FormRows), certtest.ChainRows...)
	for _, kind := range []string{"ecdsa", "rsa"} {
		for length := 2; length <= 4; length++ {
			t.Run(fmt.Sprintf("%s, %d certificates", kind, length), func(t *testing.T) {
				h := certtest.NewHierarchy(t, kind, length)
				for h.Round = range rounds {
					// Another certificate each round, for the one key that is held back.
					h.Pair = h.Issuer.Leaf(t, certtest.Leaf{Signer: h.Pair.Key})
					for _, r := range rows {
						trials = append(trials, newTrial(t, r, h))
					}
				}
			})
		}
	}
	return trials
}

func newTrial(t *testing.T, r certtest.Row, h certtest.Hierarchy) trial {
	t.Helper()
	c := r.Make(t, h)
	if c.Anchors == nil {
		c.Anchors = append(c.Anchors, h.Root.Cert)
	}
	p, found := judge(h, c)
	return trial{label: r.Name + "/" + t.Name(), want: r.Want, found: found, pair: p, c: c}
}

// oracle asks openssl verify, once about each different question.
type oracle struct {
	program string
	now     time.Time // for all questions that name no time
	calls   atomic.Int64
	known   sync.Map // of question digest to answer
}

type answer struct {
	ok   bool
	said string
}

// ask fills in what openssl says of the original and, of a pair that we accept,
// of our encoding. Then both files are given to one call, with our chain as the
// only intermediates: that asks more than each with its own.
func (o *oracle) ask(t *testing.T, tr *trial, dir string) {
	all := slices.Concat(tr.c.Cert, tr.c.Chain)
	if len(tr.found.Errors()) == 0 {
		both := o.verify(t, dir, tr.c, tr.pair.Fullchain(), tr.c.Cert, tr.pair.Postfix())
		if tr.original, tr.ours = both.ok, both.ok; both.ok {
			return
		}
		again := o.verify(t, dir, tr.c, tr.pair.Fullchain(), tr.pair.Postfix())
		tr.ours, tr.said = again.ok, again.said
	}
	first := o.verify(t, dir, tr.c, all, tr.c.Cert)
	tr.original, tr.said = first.ok, tr.said+first.said
}

func (o *oracle) verify(t *testing.T, dir string, c certtest.Case, chain []byte, full ...[]byte) answer {
	at := c.At
	if at.IsZero() {
		at = o.now
	}
	digest := sha256.New()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		fmt.Fprintf(digest, "%s %d %s", name, len(data), data)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Error(err)
		}
		return path
	}
	args := []string{"verify", "-purpose", "sslserver", "-attime", fmt.Sprint(at.Unix()), "-no-CApath", "-no-CAstore",
		"-CAfile", put("roots.pem", certtest.EncodeCerts(c.Anchors...)), "-untrusted", put("chain.pem", chain)}
	for _, name := range c.Names {
		if len(c.AllowNames) == 0 {
			args = append(args, "-verify_hostname", name)
		}
	}
	if len(c.CRL) > 0 {
		var crls bytes.Buffer
		for _, crl := range c.CRL {
			crls.Write(certtest.Block("X509 CRL", crl.Raw))
		}
		args = append(args, "-CRLfile", put("crl.pem", crls.Bytes()), "-crl_check")
	}
	for i, data := range full {
		args = append(args, put(fmt.Sprintf("fullchain%d.pem", i), data))
	}
	// The directory is the worker's, not the question's.
	question := strings.ReplaceAll(strings.Join(args, " "), dir, "") + hex.EncodeToString(digest.Sum(nil))
	if known, ok := o.known.Load(question); ok {
		return known.(answer)
	}
	o.calls.Add(1)
	out, err := exec.Command(o.program, args...).CombinedOutput()
	a := answer{err == nil, string(out)}
	o.known.Store(question, a)
	return a
}

// optedIn are warnings about what the policy allows by name: the one way to
// accept what openssl, which has no such policy, refuses.
var optedIn = []string{"self_signed"}

func report(t *testing.T, trials []trial) {
	t.Helper()
	accepted, refused, allowed, perRow := 0, 0, 0, map[string]int{}
	hit := map[string]int{}
	for _, tr := range trials {
		row, _, _ := strings.Cut(tr.label, "/")
		perRow[row]++
		errs := tr.found.Errors()
		switch {
		case len(errs) == 0 && tr.original && tr.ours:
			accepted++
		case len(errs) == 0 && tr.c.AllowSelfSigned && tr.found.Warnings().Has(optedIn[0]):
			allowed++
		case len(errs) == 0:
			t.Errorf("%s: accepted, and openssl refuses (original %v, ours %v): %s", tr.label, tr.original, tr.ours, tr.said)
		case tr.original:
			refused++
			id := errs[0].ID
			hit[id]++
			if stricter[id] == "" {
				t.Errorf("%s: refused as %s for no listed reason, and openssl accepts: %v", tr.label, id, errs)
			}
		default:
			refused++
		}
		if tr.want != "" && !errs.Has(tr.want) {
			t.Errorf("%s: got %v, want %s", tr.label, tr.found, tr.want)
		}
	}
	for id := range stricter {
		if hit[id] == 0 {
			t.Errorf("the reason %s is listed and nothing hit it", id)
		}
	}
	for row, n := range perRow {
		if n < 20 {
			t.Errorf("row %q was tried %d times, want 20", row, n)
		}
	}
	if accepted < 500 || len(trials) < 2000 {
		t.Errorf("%d accepted of %d, want 500 of 2000", accepted, len(trials))
	}
	stricterN := 0
	for _, n := range hit {
		stricterN += n
	}
	t.Logf("%d rows, %d cases: %d accepted by both, %d refused by both, %d refused by us alone for %d reasons, %d accepted by us alone because allowed by name",
		len(perRow), len(trials), accepted, refused-stricterN, stricterN, len(hit), allowed)
}
