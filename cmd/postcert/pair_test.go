package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// quick is how long a refusal may take. It is meant to be within a second; the
// race detector and a busy machine get three.
const quick = 3 * time.Second

// pairDir writes a pair as a lineage of its own and returns the directory.
func (h *host) pairDir(p *certtest.Pair) string {
	h.t.Helper()
	dir := filepath.Join(h.t.TempDir(), hostName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	p.WriteFiles(h.t, dir)
	return dir
}

// pairFile writes data into a new file and returns its path.
func (h *host) pairFile(name string, data []byte) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), name)
	h.write(path, data)
	return path
}

// leaf is a leaf of the host's CA for the host's name.
func (h *host) leaf(l certtest.Leaf) *certtest.Pair {
	h.t.Helper()
	if len(l.Names) == 0 {
		l.Names = []string{hostName}
	}
	return h.ca.Leaf(h.t, l)
}

// stored is what the state directory holds except what each attempt may leave:
// the lock, the history, the record of the last failure, and who was told of it.
func (h *host) stored() postfixtest.Files {
	h.t.Helper()
	out := postfixtest.Files{}
	if _, err := os.Stat(h.state); err != nil {
		return out
	}
	for name, f := range postfixtest.Tree(h.t, h.state) {
		top, _, _ := strings.Cut(name, "/")
		empty := f.Mode.IsDir() && (name == "." || name == "journal" || strings.HasPrefix(name, "generations"))
		if top != "lock" && top != "history" && top != "status" && top != "notify" && !empty {
			out[name] = f
		}
	}
	return out
}

// errorIDs are the ids of the errors that a --json answer reports.
func (a answer) errorIDs() []string {
	a.t.Helper()
	var ids []string
	problems, _ := a.json()["problems"].([]any)
	for _, p := range problems {
		if m, ok := p.(map[string]any); ok && m["severity"] == "error" {
			ids = append(ids, fmt.Sprint(m["id"]))
		}
	}
	return ids
}

// refuses runs postcert and fails the test unless it ends with this status and
// this id, soon, and neither the configuration nor what is served, nor what is
// stored, is another one than before.
func (h *host) refuses(status int, id string, args ...string) answer {
	h.t.Helper()
	var a answer
	stored := h.stored()
	h.untouched(func() {
		begin := time.Now()
		a = h.postcert(append(args, "--json")...)
		if took := time.Since(begin); took > quick {
			h.t.Errorf("took %v, want at most %v", took, quick)
		}
	})
	if a.status != status {
		h.t.Errorf("exit status %d, want %d\n%s%s", a.status, status, a.stdout, a.stderr)
	}
	if ids := a.errorIDs(); !strings.Contains(" "+strings.Join(ids, " ")+" ", " "+id+" ") {
		h.t.Errorf("errors %q, want %q\n%s%s", ids, id, a.stdout, a.stderr)
	}
	for _, d := range postfixtest.Compare(stored, h.stored()) {
		h.t.Errorf("state: %s", d)
	}
	return a
}

// installs runs install-cert and fails the test unless the pair is served.
func (h *host) installs(leaf string, args ...string) answer {
	h.t.Helper()
	a := h.postcert(append([]string{"install-cert"}, args...)...).want(0)
	h.serves(leaf)
	return a
}

func fingerprint(c *x509.Certificate) string { return postfixtest.Fingerprint(c.Raw) }

// S02, S04, S06, S09, S37: pairs that no client would take are refused by the
// right name, and the old one stays.
func TestS02S04S06S09S37Refused(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	now, day := time.Now(), 24*time.Hour
	other := h.leaf(certtest.Leaf{})
	staple := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}
	for _, tc := range []struct {
		name, id string
		pair     *certtest.Pair
	}{
		{"S04 expired", "cert_expired", h.leaf(certtest.Leaf{NotBefore: now.Add(-90 * day), NotAfter: now.Add(-day)})},
		{"S04 not yet valid", "cert_not_yet_valid", h.leaf(certtest.Leaf{NotBefore: now.Add(day)})},
		{"S06 leaf only", "chain_incomplete", other.With()},
		{"S09 for clients", "purpose_eku", h.leaf(certtest.Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})},
		{"S09 self-signed", "self_signed", certtest.SelfSigned(t, certtest.Leaf{Names: []string{hostName}})},
		{"S37 must-staple", "must_staple", h.leaf(certtest.Leaf{Mutate: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, staple) }})},
		{"S10 lacks myhostname", "name_mismatch", h.leaf(certtest.Leaf{Names: []string{"www.example.test"}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			h.refuses(statusRefused, tc.id, "install-cert", h.pairDir(tc.pair))
		})
	}
	h.t = t
	// S02: the message names both keys, so that the right file can be found.
	mixed := other.WithKey(certtest.NewKey(t, "ecdsa"))
	said := h.refuses(statusRefused, "key_mismatch", "install-cert", h.pairDir(mixed))
	dir := h.pairDir(mixed)
	for _, args := range [][]string{
		{"x509", "-in", filepath.Join(dir, "cert.pem"), "-noout", "-pubkey"},
		{"pkey", "-in", filepath.Join(dir, "privkey.pem"), "-pubout"},
	} {
		said.says(spkiHash(t, args...))
	}

	// S06 with --chain, and S09 with the opt-in.
	dir = h.pairDir(other)
	h.installs(fingerprint(other.Cert), "--cert", filepath.Join(dir, "cert.pem"), "--key", filepath.Join(dir, "privkey.pem"), "--chain", filepath.Join(dir, "chain.pem"))
	if chain, err := postfixtest.ServedChain(t, postfixtest.SMTP, postfixtest.StartTLS); err != nil || len(chain) != 2 {
		t.Errorf("%d certificates are served (%v), want leaf and intermediate", len(chain), err)
	}
	h.refuses(statusRefused, "name_mismatch", "install-cert", h.pairDir(h.leaf(certtest.Leaf{})), "--host", "imap.example.test")
	own := certtest.SelfSigned(t, certtest.Leaf{Names: []string{hostName}})
	h.installs(fingerprint(own.Cert), h.pairDir(own), "--allow-self-signed").says("self_signed")
}

// spkiHash is the SHA-256 of a public key's DER, by openssl.
func spkiHash(t *testing.T, args ...string) string {
	t.Helper()
	pem, err := exec.Command("openssl", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("openssl", "pkey", "-pubin", "-outform", "der")
	cmd.Stdin = bytes.NewReader(pem)
	der, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return postfixtest.Fingerprint(der)
}

// hammer asks two listeners without pause until stop is called, which returns
// how many handshakes there were, and fails the test for one that failed or
// presented neither of the leaves. openssl checks the server's signature, so
// each handshake that succeeds is of a pair that belongs together.
func (h *host) hammer(leaves ...string) (stop func() int) {
	h.t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for addr, mode := range map[string]postfixtest.Mode{postfixtest.SMTP: postfixtest.StartTLS, postfixtest.Submissions: postfixtest.Implicit} {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got, err := postfixtest.ServedLeaf(h.t, addr, mode)
				if err != nil || !strings.Contains(strings.Join(leaves, " "), got) {
					h.t.Errorf("under load, %s serves %q (%v), want one of %v", addr, got, err, leaves)
				}
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	return func() int { close(done); wg.Wait(); return n }
}

// S03: the writer is half-way: the certificate is the new one, the key still
// the old. Nobody meets a mixed pair, and when it is complete it is installed.
func TestS03HalfWritten(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	first, second := h.leaf(certtest.Leaf{}), h.leaf(certtest.Leaf{})
	dir, next := h.pairDir(first), h.pairDir(second)
	h.installs(fingerprint(first.Cert), dir)
	rename := func(name string) {
		if err := os.Rename(filepath.Join(next, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	stop := h.hammer(fingerprint(first.Cert), fingerprint(second.Cert))
	rename("fullchain.pem")
	a := h.postcert("install-cert", dir, "--json")
	if ids := a.errorIDs(); a.status != statusRefused || len(ids) == 0 || ids[0] != "key_mismatch" {
		t.Errorf("half-written: status %d, %q", a.status, ids)
	}
	h.serves(fingerprint(first.Cert))
	rename("privkey.pem")
	h.postcert("install-cert", dir).want(0)
	h.serves(fingerprint(second.Cert))
	if n := stop(); n < 10 {
		t.Errorf("only %d handshakes were made meanwhile", n)
	}
	for _, words := range []string{"454 4.7.0", "disabling TLS support", "TLS library problem"} {
		if log := h.pf.Log(); strings.Contains(log, words) {
			t.Errorf("Postfix could not load a pair (%s):\n%s", words, log)
		}
	}
}

// S05: certbot's links are turned back to an older generation.
func TestS05Downgrade(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	root := t.TempDir()
	live := filepath.Join(root, "live", hostName)
	leaves := map[int]*certtest.Pair{
		1: h.leaf(certtest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour)}),
		2: h.leaf(certtest.Leaf{}),
	}
	for n, p := range leaves {
		archive := filepath.Join(root, "archive", hostName, fmt.Sprint(n))
		if err := os.MkdirAll(archive, 0o700); err != nil {
			t.Fatal(err)
		}
		p.WriteFiles(t, archive)
	}
	if err := os.MkdirAll(live, 0o700); err != nil {
		t.Fatal(err)
	}
	turn := func(n int) {
		for _, f := range []string{"fullchain.pem", "privkey.pem"} {
			link := filepath.Join(live, f)
			os.Remove(link)
			if err := os.Symlink(filepath.Join("../../archive", hostName, fmt.Sprint(n), f), link); err != nil {
				t.Fatal(err)
			}
		}
	}
	turn(2)
	h.installs(fingerprint(leaves[2].Cert), live)
	turn(1)
	h.refuses(statusRefused, "downgrade", "install-cert", live).says("older")
	h.installs(fingerprint(leaves[1].Cert), live, "--allow-downgrade").says("downgrade")
}

// S07: leaf, intermediate, and a young root that an old one cross-signed: good
// for clients that know only the old root, and for those that know only the
// young one. What was received verifies without any other certificate.
func TestS07CrossSigned(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	old, young := certtest.NewCA(t, certtest.Authority{Name: "Old Root"}), certtest.NewCA(t, certtest.Authority{Name: "Young Root"})
	cross := old.CrossSign(t, young, certtest.Authority{})
	inter := young.Intermediate(t, certtest.Authority{Name: "Young Intermediate"})
	anchors := map[string]*certtest.CA{"old": old, "young": young}
	var received string
	for name, root := range anchors {
		h.trust = h.pairFile(name+".pem", certtest.EncodeCerts(root.Cert))
		p := inter.Leaf(t, certtest.Leaf{Names: []string{hostName}})
		h.installs(fingerprint(p.Cert), h.pairDir(p.With(inter.Cert, cross.Cert)))
		chain, err := postfixtest.ServedChain(t, postfixtest.Submissions, postfixtest.Implicit)
		if err != nil || len(chain) != 3 {
			t.Fatalf("trusting the %s root: %d certificates (%v), want 3", name, len(chain), err)
		}
		var pem []byte
		for _, der := range chain[1:] {
			pem = append(pem, certtest.Block("CERTIFICATE", der)...)
		}
		received = h.pairFile("received.pem", pem)
		leaf := h.pairFile("leaf.pem", certtest.Block("CERTIFICATE", chain[0]))
		for who, root := range anchors {
			anchor := h.pairFile("anchor.pem", certtest.EncodeCerts(root.Cert))
			out, err := exec.Command("openssl", "verify", "-purpose", "sslserver", "-no-CApath", "-no-CAstore", "-CAfile", anchor, "-untrusted", received, leaf).CombinedOutput()
			if err != nil {
				t.Errorf("a client with the %s root: %v: %s", who, err, out)
			}
		}
	}
	// A client that knows neither must be refused, or the check above says nothing.
	stranger := h.pairFile("stranger.pem", certtest.EncodeCerts(certtest.NewCA(t, certtest.Authority{}).Cert))
	h.trust = stranger
	h.refuses(statusRefused, "chain_incomplete", "install-cert", h.pairDir(inter.Leaf(t, certtest.Leaf{Names: []string{hostName}}).With(inter.Cert, cross.Cert)))
}

// S08: what else may stand in a chain file is decided deliberately.
func TestS08ChainForm(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	low := h.ca.Intermediate(t, certtest.Authority{Name: "Low Intermediate"})
	p := low.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	stranger := certtest.NewCA(t, certtest.Authority{Name: "Stranger"})
	expired := stranger.CrossSign(t, h.root, certtest.Authority{NotBefore: time.Now().Add(-90 * 24 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)})
	for _, tc := range []struct {
		name, id, text string
		chain          []*x509.Certificate
	}{
		{"wrong order", "chain_order", `must be followed by its issuer \"Low Intermediate\"`, []*x509.Certificate{h.ca.Cert, low.Cert}},
		{"extra", "chain_unused", `certificate 4 of the chain (\"Stranger\") issued none of those before it`, []*x509.Certificate{low.Cert, h.ca.Cert, stranger.Intermediate(t, certtest.Authority{Name: "Stranger"}).Cert}},
		{"expired cross-sign", "chain_expired", `\"Test Root\" expired at`, []*x509.Certificate{low.Cert, h.ca.Cert, expired.Cert}},
		{"twice", "chain_duplicate", `is also in block`, []*x509.Certificate{low.Cert, h.ca.Cert, low.Cert}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			h.refuses(statusRefused, tc.id, "install-cert", h.pairDir(p.With(tc.chain...))).says(tc.text)
		})
	}
	h.t = t
	h.installs(fingerprint(p.Cert), h.pairDir(p.With(low.Cert, h.ca.Cert, h.root.Cert))).
		says(`the chain ends in the self-signed root "Test Root", which clients do not need; it is left out`)
	if chain, err := postfixtest.ServedChain(t, postfixtest.SMTP, postfixtest.StartTLS); err != nil || len(chain) != 3 {
		t.Errorf("%d certificates are served (%v), want 3: not the root", len(chain), err)
	}
}

// S10: a name that is served until now must not vanish unnoticed.
func TestS10Names(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	both := h.leaf(certtest.Leaf{Names: []string{hostName, "mx.example.test"}})
	h.installs(fingerprint(both.Cert), h.pairDir(both))
	one := h.leaf(certtest.Leaf{})
	dir := h.pairDir(one)
	h.refuses(statusRefused, "names_shrunk", "install-cert", dir).says("mx.example.test")
	h.refuses(statusRefused, "names_shrunk", "install-cert", dir, "--allow-name", "other.example.test")
	h.refuses(statusRefused, "name_mismatch", "install-cert", dir, "--allow-fewer-names", "--host", "mx.example.test")
	h.postcert("install-cert", dir, "--allow-fewer-names", "--dry-run").want(0)
	h.installs(fingerprint(one.Cert), dir, "--allow-name", "mx.example.test").says("names_shrunk")
}

// S12: each form of a key and a file is taken or refused, wholly.
func TestS12Forms(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	p := h.leaf(certtest.Leaf{})
	dir := h.pairDir(p)
	key, full := filepath.Join(dir, "privkey.pem"), filepath.Join(dir, "fullchain.pem")
	convert := func(name string, args ...string) string {
		out := filepath.Join(t.TempDir(), name)
		if b, err := exec.Command("openssl", append(args, "-out", out)...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, b)
		}
		return out
	}
	edit := func(path string, f func([]byte) []byte) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return h.pairFile(filepath.Base(path), f(data))
	}
	der := convert("cert.der", "x509", "-in", full, "-outform", "der")
	for _, tc := range []struct{ name, id, cert, key string }{
		{"passphrase PKCS#8", "key_encrypted", full, convert("k.pem", "pkcs8", "-topk8", "-in", key, "-passout", "pass:secret")},
		{"passphrase traditional", "key_encrypted", full, convert("k.pem", "ec", "-aes256", "-in", key, "-passout", "pass:secret")},
		{"DER certificate", "pem_is_der", der, key},
		{"DER key", "pem_is_der", full, convert("k.der", "pkey", "-in", key, "-outform", "der")},
		{"BOM", "pem_bom", edit(full, func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) }), key},
		{"cut off", "pem_truncated", edit(full, func(b []byte) []byte { return b[:len(b)-40] }), key},
		{"empty", "pem_empty", h.pairFile("empty.pem", nil), key},
		{"two keys", "key_multiple", full, edit(key, func(b []byte) []byte { return append(b, certtest.EncodeKey(certtest.NewKey(t, "ecdsa"))...) })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			h.refuses(statusRefused, tc.id, "install-cert", "--cert", tc.cert, "--key", tc.key)
		})
	}
	h.t = t
	rsa := h.leaf(certtest.Leaf{Key: "rsa"})
	rsaDir := h.pairDir(rsa)
	rsaKey, rsaFull := filepath.Join(rsaDir, "privkey.pem"), filepath.Join(rsaDir, "fullchain.pem")
	crlf := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
	for _, tc := range []struct {
		name string
		leaf *x509.Certificate
		args []string
	}{
		{"PKCS#1", rsa.Cert, []string{"--cert", rsaFull, "--key", convert("k.pem", "rsa", "-traditional", "-in", rsaKey)}},
		{"SEC1, CRLF", p.Cert, []string{"--cert", edit(full, crlf), "--key", edit(convert("k.pem", "ec", "-in", key), crlf)}},
		{"PKCS#8, one file", rsa.Cert, []string{"--cert", h.pairFile("all.pem", append(rsa.FullchainPEM(), rsa.KeyPEM()...))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			h.installs(fingerprint(tc.leaf), append(tc.args, "--name", hostName, "--allow-downgrade")...)
		})
	}
}
