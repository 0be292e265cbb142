package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// domain is where the mail of these tests goes, and mxName what its server is called.
const domain, mxName = "example.org", "mx.example.org"

// sender is a host that sends mail by SMTP, and the Postfix that receives it, each a
// real one of its own. Names lead to the receiver by hosts(5), without DNS.
type sender struct {
	*host
	mx    *postfixtest.Instance
	mails int
}

// newSender starts both. The receiver shows this certificate, which the host's CA
// has signed; with "" it offers no TLS.
func newSender(t *testing.T, o postfixtest.Options, cert string) *sender {
	t.Helper()
	s := &sender{host: newHost(t, o)}
	hosts := filepath.Join(s.dir, "hosts")
	s.write(hosts, []byte("127.0.0.1 localhost "+hostName+"\n"+receiverHost+" "+domain+" "+mxName+" other.example relay.example\n"))
	if err := os.Chmod(hosts, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", hosts, "/etc/hosts").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "/etc/hosts").Run() })
	s.mx = postfixtest.New(t, postfixtest.Options{Cert: cert, Only25: true, Address: receiverHost, Main: []string{
		"relay_domains = " + domain + ", other.example", "relay_transport = discard:"}})
	s.mx.ReplaceMain("myhostname = "+hostName, "myhostname = "+mxName)
	s.mx.Start()
	s.pf.ReplaceMain("default_transport = discard:", "default_transport = smtp:\nsmtp_tls_loglevel = 1")
	s.pf.Reload()
	return s
}

const receiverHost = postfixtest.SecondAddress

// mxCert is a certificate for the receiver that the CA of the tests has signed.
func (h *host) mxCert(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mx.pem")
	if err := os.WriteFile(path, h.ca.Leaf(t, certtest.Leaf{Names: names}).PostfixPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve makes the receiver show another certificate.
func (s *sender) serve(cert string) {
	s.t.Helper()
	s.mx.AppendMain("smtpd_tls_cert_file = "+cert, "smtpd_tls_key_file = "+cert, "smtpd_tls_security_level = may")
	s.mx.Reload()
	end := time.Now().Add(30 * time.Second)
	for {
		if _, err := postfixtest.ServedLeaf(s.t, receiverHost+":25", postfixtest.StartTLS); err == nil {
			return
		} else if time.Now().After(end) {
			s.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// send sends a mail through the sender's queue and returns what its smtp(8) logged
// from its connection to how it ended.
func (s *sender) send(to string) string {
	s.t.Helper()
	s.mails++
	rcpt := fmt.Sprintf("user%d@%s", s.mails, to)
	from := len(s.pf.Log())
	cmd := exec.Command("/usr/sbin/sendmail", "-f", "test@"+hostName, rcpt)
	cmd.Env = append(os.Environ(), "MAIL_CONFIG="+s.pf.ConfigDir)
	cmd.Stdin = strings.NewReader("Subject: test\n\ntest\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("sendmail: %v: %s", err, out)
	}
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		log := s.pf.Log()[from:]
		if at := strings.Index(log, "to=<"+rcpt+">"); at >= 0 && strings.Contains(log[at:], "\n") {
			return log[:at+strings.Index(log[at:], "\n")]
		}
	}
	s.t.Fatalf("no end of the mail to %s:\n%s", rcpt, s.pf.Log()[from:])
	return ""
}

// sends fails the test unless the log of a mail has all these texts.
func (s *sender) sends(to string, texts ...string) {
	s.t.Helper()
	log := s.send(to)
	for _, text := range texts {
		if !strings.Contains(log, text) {
			s.t.Fatalf("the sender's log does not say %q:\n%s", text, log)
		}
	}
}

// effective is what postconf(1) says is in effect.
func (s *sender) effective(name, want string) {
	s.t.Helper()
	if got := s.pf.Postconf("-xh", name); got != want {
		s.t.Errorf("postconf: %s = %q, want %q", name, got, want)
	}
}

// found is what postmap(1) finds in a table of the sender.
func (s *sender) found(table, key, want string) {
	s.t.Helper()
	out, _ := exec.Command("postmap", "-c", s.pf.ConfigDir, "-q", key, table).Output()
	if got := string(bytes.TrimSpace(out)); got != want {
		s.t.Errorf("postmap -q %s %s: %q, want %q", key, table, got, want)
	}
}
