package main

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// Runbook "Trusted CA": with the CA's file set, mail at the level secure is verified,
// from a chroot too; --none gives main.cf back byte for byte.
func TestRunbookTrustedCA(t *testing.T) {
	for _, chroot := range []bool{false, true} {
		s := newSender(t, postfixtest.Options{Only25: true, Chroot: chroot, Main: []string{"smtp_tls_policy_maps = inline:{" + domain + "=secure}"}}, "")
		if chroot { // hosts(5) as it is now
			data, err := os.ReadFile(filepath.Join(s.dir, "hosts"))
			if err == nil {
				err = os.WriteFile(filepath.Join(s.pf.QueueDir, "etc/hosts"), data, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.serve(s.mxCert(t, domain))
		s.sends(domain, "status=deferred", "Server certificate not verified")
		before := s.pf.Main()
		s.postcert("trust", "show").want(0).says("neither smtp_tls_CAfile nor smtp_tls_CApath is set")
		s.postcert("trust", "set", "--client", s.trust).want(0).says("+smtp_tls_CAfile = " + s.trust)
		s.effective("smtp_tls_CAfile", s.trust)
		s.sends(domain, "Verified TLS connection", "status=sent")
		s.postcert("trust", "set", s.trust).want(0).says("unchanged")
		s.postcert("trust", "set", "--none").want(0)
		if got := string(s.pf.Main()); got != string(before) {
			t.Errorf("main.cf is\n%s", got)
		}
		s.pf.Stop()
		s.mx.Stop()
		_ = exec.Command("umount", "/etc/hosts").Run()
	}
}

// A directory gets the links that openssl rehash makes, and Postfix verifies with
// them; in a chroot it would not see them, and is refused.
func TestRunbookHashLinks(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_policy_maps = inline:{" + domain + "=secure}"}}, "")
	dir, want := filepath.Join(s.pf.Dir, "anchors"), filepath.Join(s.pf.Dir, "rehashed")
	hidden := filepath.Join(s.dir, "anchors") // as root only
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(hidden, "root.pem"), certtest.EncodeCerts(s.root.Cert))
	s.postcert("trust", "set", hidden).want(3).says("cannot be read by postfix")
	other := certtest.EncodeCerts(certtest.NewCA(t, certtest.Authority{}).Cert)
	for _, d := range []string{dir, want} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		s.write(filepath.Join(d, "root.pem"), certtest.EncodeCerts(s.root.Cert))
		s.write(filepath.Join(d, "other.crt"), other)
		if err := errors.Join(os.Chmod(filepath.Join(d, "root.pem"), 0o644), os.Chmod(filepath.Join(d, "other.crt"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("openssl", "rehash", want).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.serve(s.mxCert(t, domain))
	s.postcert("trust", "set", dir).want(0)
	got, rehashed := postfixtest.Tree(t, dir), postfixtest.Tree(t, want)
	if len(got) != len(rehashed) {
		t.Errorf("%d entries, openssl rehash makes %d", len(got), len(rehashed))
	}
	targets := map[string]string{}
	for _, tree := range []postfixtest.Files{got, rehashed} {
		for name, f := range tree {
			if f.Target == "" {
				continue
			}
			// Which of two equal hashes gets .0 is not said.
			targets[strings.SplitN(name, ".", 2)[0]+f.Target] += "x"
		}
	}
	for link, n := range targets {
		if n != "xx" {
			t.Errorf("%s is made by one of the two only", link)
		}
	}
	s.effective("smtp_tls_CApath", dir)
	s.sends(domain, "Verified TLS connection", "status=sent")
	s.postcert("trust", "set", dir).want(0).says("unchanged")

	s.pf.Stop()
	s.mx.Stop()
	h := newHost(t, postfixtest.Options{Only25: true, Chroot: true})
	h.untouchedOn25(func() { h.postcert("trust", "set", dir).want(3).says("trust_chroot") })
}

// The server's side: an smtpd(8) with several files verifies a client's certificate;
// what is no trust anchor is refused.
func TestTrustServer(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtpd_tls_ask_ccert = yes"}})
	other := filepath.Join(h.dir, "other.pem")
	h.write(other, certtest.EncodeCerts(certtest.NewCA(t, certtest.Authority{}).Cert))
	h.untouchedOn25(func() {
		h.postcert("trust", "set", "--server", filepath.Join(h.lineage(certtest.Leaf{}), "privkey.pem")).want(3).says("trust_invalid")
		h.postcert("trust", "set", "--server", filepath.Join(h.lineage(certtest.Leaf{}), "fullchain.pem")).want(3).says("no root certificate")
		h.postcert("trust", "set", "--server", "/nonexistent.pem").want(3).says("trust_invalid")
		h.postcert("trust", "set", "--server").want(2)
		h.postcert("trust", "set", "--system", other).want(2)
	})
	h.postcert("trust", "set", "--server", other, h.trust).want(0).says("smtpd_tls_CAfile")
	bundle := filepath.Join(h.pf.ConfigDir, "trust-server.pem")
	if got := h.pf.Postconf("-xh", "smtpd_tls_CAfile"); got != bundle {
		t.Errorf("smtpd_tls_CAfile = %q", got)
	}
	l := h.lineage(certtest.Leaf{Names: []string{"client.example"}, Mutate: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }})
	if _, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS,
		"-cert", filepath.Join(l, "fullchain.pem"), "-key", filepath.Join(l, "privkey.pem"), "-cert_chain", filepath.Join(l, "fullchain.pem")); err != nil {
		t.Fatal(err)
	}
	h.pf.WaitLog("Trusted TLS connection established from")
	h.postcert("trust", "show", "--server", "--json").want(0)
}

// The bundle of this host is what --system names.
func TestTrustSystem(t *testing.T) {
	postfixtest.Need(t, "update-ca-certificates")
	h := newHost(t, postfixtest.Options{Only25: true})
	h.postcert("trust", "set", "--system").want(0)
	if got := h.pf.Postconf("-xh", "smtp_tls_CAfile"); got != "/etc/ssl/certs/ca-certificates.crt" {
		t.Errorf("smtp_tls_CAfile = %q", got)
	}
	h.postcert("outbound", "secure", "--dry-run").want(0)
	h.postcert("trust", "set", "--server", "--system").want(0).says("trust_all_clients")
}
