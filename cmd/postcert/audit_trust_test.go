package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// sending is a host that has to verify the server it sends to, and that server.
type sending struct {
	*host
	receiver *postfixtest.Instance
}

func newSending(t *testing.T, o postfixtest.Options) *sending {
	t.Helper()
	o.Only25, o.Address = true, "127.0.0.1"
	h := newHost(t, o)
	pair := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	file := filepath.Join(h.dir, "receiver.pem")
	h.write(file, pair.PostfixPEM())
	r := postfixtest.New(t, postfixtest.Options{Cert: file, Only25: true, Address: postfixtest.SecondAddress, Main: []string{"local_recipient_maps ="}})
	r.Start()
	h.pf.ReplaceMain("default_transport = discard:", "default_transport = smtp")
	h.pf.ReplaceMain("myhostname = mail.example.test", "myhostname = out.example.test")
	h.pf.ReplaceMain("mydestination = $myhostname, localhost", "mydestination = localhost")
	h.pf.AppendMain("relayhost = ["+postfixtest.SecondAddress+"]", "smtp_tls_security_level = secure",
		"smtp_tls_secure_cert_match = "+hostName, "smtp_tls_loglevel = 1")
	h.reload()
	return &sending{h, r}
}

// send gives a message to the queue, or what waits there another chance.
func (s *sending) send() {
	s.t.Helper()
	cmd := exec.Command("sendmail", "-C", s.pf.ConfigDir, "-f", "a@out.example.test", "b@"+hostName)
	cmd.Stdin = strings.NewReader("Subject: test\n\ntest\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// logged waits until the log has the text more than n times.
func (s *sending) logged(text string, n int) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); strings.Count(s.pf.Log(), text) <= n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("no %q in the log:\n%s", text, s.pf.Log())
		}
	}
}

// S60: secure without trust anchors, and with those that the chroot hides: audit
// says it before mail is deferred; with a file of trust anchors the log says
// Verified and the mail arrives.
func TestAuditS60Trust(t *testing.T) {
	for _, x := range []struct {
		name   string
		chroot bool
		says   string
	}{{"nothing", false, "neither smtp_tls_CAfile nor smtp_tls_CApath"}, {"CApath and chroot", true, "inside the chroot of smtp/unix"}} {
		t.Run(x.name, func(t *testing.T) {
			s := newSending(t, postfixtest.Options{Chroot: x.chroot})
			if x.chroot {
				certs := filepath.Join(s.pf.Dir, "certs")
				sh(t, "mkdir %s && cp %s %s/root.pem && openssl rehash %s", certs, s.trust, certs, certs)
				s.pf.AppendMain("smtp_tls_CApath = " + certs)
				s.reload()
			}
			f := s.finds(s.audit("--no-handshakes"), "outbound_no_trust", "main.cf", "smtp_tls_security_level")
			if !strings.Contains(f.Message, x.says) {
				t.Errorf("says %q", f.Message)
			}
			s.send()
			s.logged("status=deferred (Server certificate not ", 0)

			s.pf.AppendMain("smtp_tls_CAfile = " + s.trust)
			s.reload()
			if left := s.audit("--no-handshakes")["outbound_no_trust"]; len(left) > 0 {
				t.Errorf("still found: %+v", left)
			}
			s.pf.Postconf() // the queue manager has read it by now
			sh(t, "postqueue -c %s -f", s.pf.ConfigDir)
			s.logged("Verified TLS connection established to "+postfixtest.SecondAddress, 0)
			s.logged("status=sent", 0)
			for end := time.Now().Add(30 * time.Second); !strings.Contains(s.receiver.Log(), "from=<a@out.example.test>"); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) { // the receiver's queue manager logs after the sender's "sent"
					t.Fatalf("it did not arrive:\n%s", s.receiver.Log())
				}
			}
		})
	}
}
