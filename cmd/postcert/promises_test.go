package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// Each test here shows one promise by itself, as quickly as it can be shown:
// the mutants of testdata/mutants break them one by one.

// A renewal is one rename: one file of the configuration changes, so there is
// no moment at which a new smtpd could read a key and a certificate of two
// pairs.
func TestRenewalIsOneRename(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	before := h.pf.Files()
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	var changed []string
	for name, file := range h.pf.Files() {
		if was, ok := before[name]; !ok || string(file.Data) != string(was.Data) {
			changed = append(changed, name)
		}
	}
	if want := []string{"tls/" + hostName + ".pem"}; !slices.Equal(changed, want) {
		t.Errorf("the renewal changed %q, want %q", changed, want)
	}
}

// What was verified is what is installed: a pair that is exchanged after it was
// read, as a renewal beside us does, waits for its own run.
func TestReadOnce(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	l, other := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	leaf := h.leafOf(l)
	h.during("plan end", func() {
		for _, name := range []string{"fullchain.pem", "privkey.pem"} {
			if err := os.Rename(filepath.Join(other, name), filepath.Join(l, name)); err != nil {
				t.Error(err)
			}
		}
	}, "install-cert", l).want(0)
	h.serves(leaf)
}

// An undo is done when what was served before is served again, and not when the
// files are back: here somebody replaces the former pair while we undo.
func TestUndoIsProven(t *testing.T) {
	first := filepath.Join(t.TempDir(), "first.pem")
	leaf := postfixtest.WritePair(t, first, hostName)
	h := newHost(t, postfixtest.Options{Cert: first, MaxUse: 1})
	other, kept := h.dir+"/other.pem", h.dir+"/kept.pem"
	postfixtest.WritePair(t, other, hostName)
	h.with(failAt+"=Reload 1", doAt+"=undo end: cp "+first+" "+kept+" && cp "+other+" "+first).
		postcert("install-cert", h.lineage(certtest.Leaf{})).want(5).says("rollback_incomplete")
	data, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	h.write(first, data)
	h.postcert("recover").want(0)
	h.serves(leaf)
}

// A run that finds an open journal settles it before it begins.
func TestInstallSettlesFirst(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	before := string(h.pf.Main())
	if a := h.with(killAt+"=commit end").postcert("install-cert", h.lineage(certtest.Leaf{})); a.status != -1 {
		t.Fatalf("not killed: %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	if string(h.pf.Main()) == before {
		t.Fatal("main.cf was not edited when the run was killed")
	}
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0).says("undo")
	h.serves(h.leafOf(l))
	h.postcert("recover").want(0).says("nothing to recover")
	h.postcert("release", hostName).want(0)
	if got := string(h.pf.Main()); got != before {
		t.Errorf("released, main.cf is\n%s\nwant\n%s", got, before)
	}
}

// Postfix waits until main.cf is 2 s old before it reads it, in each new
// process; so the one that we write is older from the start.
func TestMainIsNotHot(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	main := filepath.Join(h.pf.ConfigDir, "main.cf")
	before := string(h.pf.Main())
	h.during("commit end", func() {
		info, err := os.Stat(main)
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(info.ModTime()); age < 2*time.Second {
			t.Errorf("main.cf is %v old when it is in place, want more than 2s", age)
		}
		if after := string(h.pf.Main()); after == before || !strings.Contains(after, hostName) {
			t.Error("main.cf was not edited")
		}
	}, "install-cert", h.lineage(certtest.Leaf{})).want(0)
}
