package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// replayed is a bundle that once was good, or would be good elsewhere, and the
// id by which it is refused.
type replayed struct {
	name string
	leaf certtest.Leaf
	id   string
}

// replays are presented to a host that serves a leaf of an hour ago for two
// names.
func replays(now time.Time) []replayed {
	both := []string{hostName, "imap.example.test"}
	day := 24 * time.Hour
	return []replayed{
		{"two days older", certtest.Leaf{Names: both, NotBefore: now.Add(-2 * day)}, "downgrade"},
		{"a minute older", certtest.Leaf{Names: both, NotBefore: now.Add(-time.Hour - time.Minute)}, "downgrade"},
		{"older, valid for longer", certtest.Leaf{Names: both, NotBefore: now.Add(-2 * day), NotAfter: now.Add(300 * day)}, "downgrade"},
		{"older, more names", certtest.Leaf{Names: append([]string{"www.example.test"}, both...), NotBefore: now.Add(-2 * day)}, "downgrade"},
		{"expired", certtest.Leaf{Names: both, NotBefore: now.Add(-90 * day), NotAfter: now.Add(-time.Minute)}, "cert_expired"},
		{"expired long ago", certtest.Leaf{Names: both, NotBefore: now.Add(-900 * day), NotAfter: now.Add(-800 * day)}, "cert_expired"},
		{"of tomorrow", certtest.Leaf{Names: both, NotBefore: now.Add(day)}, "cert_not_yet_valid"},
		{"another name", certtest.Leaf{Names: []string{"mail.example.net"}}, "names_shrunk"},
		{"a name that looks alike", certtest.Leaf{Names: []string{"mail.example.test.example.net", "imap.example.test"}}, "names_shrunk"},
		{"a wildcard of another depth", certtest.Leaf{Names: []string{"*.mail.example.test", "*.test"}}, "names_shrunk"},
		{"fewer names", certtest.Leaf{Names: both[:1]}, "names_shrunk"},
		{"the other half of the names", certtest.Leaf{Names: both[1:]}, "names_shrunk"},
	}
}

// R28: bundles from the past, or of others, are refused, however they are given.
func TestProofReplay(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, 1, func(t *testing.T, _ int) { replayAll(t) })
}

func replayAll(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	names := []string{hostName, "imap.example.test"}
	h.with(patience).postcert("install-cert", h.pairDir(h.leaf(certtest.Leaf{Names: names, NotBefore: time.Now().Add(-3 * 24 * time.Hour)}))).want(0)
	h.with(patience).postcert("install-cert", h.pairDir(h.leaf(certtest.Leaf{Names: names}))).want(0)
	refused := 0
	for _, r := range replays(time.Now()) {
		pair := h.leaf(r.leaf)
		dir := h.pairDir(pair)
		for form, args := range h.forms(dir) {
			h.at(r.name+", "+form, func(h *host) { h.replay(r.id, args...) })
			refused++
		}
	}
	// What this host itself served before: the store's own copy, read by
	// somebody who got hold of it, and of a backup.
	old := filepath.Join(h.generations()[0])
	if data, err := os.ReadFile(old); err != nil {
		t.Fatal(err)
	} else if fp, err := openssl(data, "x509", "-outform", "der"); err != nil || postfixtest.Fingerprint(fp) == h.served() {
		t.Fatalf("%s is no older generation (%v)", old, err)
	}
	h.at("the generation before", func(h *host) { h.replay("downgrade", "install-cert", "--cert", old) })
	refused++
	t.Logf("R28: %d of %d refused, nothing touched", refused, refused)
}

// forms are the ways in which a pair can be given.
func (h *host) forms(dir string) map[string][]string {
	h.t.Helper()
	cert, key := filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, path := range []string{cert, key} {
		data, err := os.ReadFile(path)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o600, Size: int64(len(data))}); err != nil {
			h.t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		h.t.Fatal(err)
	}
	return map[string][]string{
		"lineage": {"install-cert", dir},
		"files":   {"install-cert", "--cert", cert, "--key", key},
		"tar":     {"install-cert", "--tar", h.pairFile("pair.tar", archive.Bytes())},
	}
}

// replay fails the test unless the pair is refused, by this id, and not a byte
// and no leaf is another one than before.
func (h *host) replay(id string, args ...string) {
	h.t.Helper()
	stored := h.stored()
	h.untouched(func() {
		a := h.postcert(append(args, "--json")...).want(3)
		found := false
		for _, got := range a.errorIDs() {
			found = found || got == id
		}
		if !found {
			h.t.Errorf("errors %q, want %q", a.errorIDs(), id)
		}
	})
	for _, d := range postfixtest.Compare(stored, h.stored()) {
		h.t.Errorf("state: %s", d)
	}
}
