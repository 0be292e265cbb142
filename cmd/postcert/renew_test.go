package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// What somebody chose to be served stays: a rollback until the next renewal, a
// release until somebody asks for the certificate again.
func TestRenewLeavesChoicesAlone(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	renew := []string{"renew", "--trust", h.issuers()}
	first := h.served()
	h.postcert(h.order()...).want(0)
	old := h.live()
	h.postcert(append(renew, "--force")...).want(0)
	h.serves(h.live())
	h.postcert("rollback").want(0)
	h.serves(old)
	h.postcert(renew...).want(0).says("left alone").says("somebody installed another certificate")
	h.serves(old)
	h.postcert(append(renew, "--force")...).want(0)
	h.serves(h.live())
	h.postcert("release").want(0)
	h.serves(first)
	h.postcert(renew...).want(0).says("it was given back")
	h.postcert(append(renew, "--force")...).want(0)
	h.serves(first)
	h.postcert("obtain", hostName, "--trust", h.issuers()).want(0)
	h.serves(h.live())
}

// What another client obtains is deployed when it changes, and never ordered.
func TestRenewWatched(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	lineage := h.lineage(certtest.Leaf{})
	conf := filepath.Join(h.dir, "postcert.yaml")
	h.write(conf, []byte(fmt.Sprintf("certificates: [{name: %s, source: watch, lineage: %s}]\ninstances: [{config_directory: %s, certificate: %[1]s}]\ntrust: [%[4]s]\n",
		hostName, lineage, h.pf.ConfigDir, h.trust)))
	h.postcert("renew", "--force", "--config", conf).want(0)
	h.serves(h.leafOf(lineage))
	h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, lineage)
	h.postcert("renew", "--config", conf).want(0)
	h.serves(h.leafOf(lineage))
	before := h.leafOf(lineage)
	if err := os.WriteFile(filepath.Join(lineage, "fullchain.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.with(testSettle+"=2s").postcert("renew", "--config", conf).want(3)
	h.serves(before)
	h.postcert("obtain", "--config", conf).want(2)
	h.postcert("renew", "nobody.example", "--config", conf).want(3).says("name_unknown")
}

// A dry run is a whole order, and keeps nothing: no certificate, no wish, nothing
// installed.
func TestObtainDryRun(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.untouched(func() { h.postcert(h.order("--dry-run")...).want(0).says("was not kept") })
	if n := h.ca.Count(acmetest.Finalize); n != 1 {
		t.Errorf("%d certificates were issued for trial", n)
	}
	for _, dir := range []string{"obtained", filepath.Join("acme", "certs", hostName)} {
		if left, _ := os.ReadDir(filepath.Join(h.state, dir)); len(left) > 0 {
			t.Errorf("%s: %v is left", dir, left)
		}
	}
	h.postcert(h.order("--dry-run", "--listen", "192.0.2.77:80")...).want(6).says("192.0.2.77")
}

// An external account binding: without one the CA refuses, with it the account is
// made, and the key is neither kept nor shown.
func TestAccountBinding(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	h := newACMEHost(t, acmetest.Options{EAB: map[string][]byte{"kid-1": key}})
	secret := base64.RawURLEncoding.EncodeToString(key)
	file := filepath.Join(h.dir, "eab")
	h.write(file, []byte(secret+"\n"))
	at := []string{"account", "register", "--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile, "--agree-tos"}
	h.postcert(at...).says("eab_required")
	a := h.postcert(append(at, "--eab-kid", "kid-1", "--eab-hmac-file", file, "-v")...).want(0).says("registered")
	if strings.Contains(a.stdout+a.stderr, secret) {
		t.Error("the key is in the output")
	}
	err := filepath.WalkDir(h.state, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) {
			t.Errorf("the key is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.postcert(at...).want(0).says("exists already")
}
