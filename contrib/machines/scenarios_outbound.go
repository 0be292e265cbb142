package main

import (
	"fmt"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "trust", Title: "a partner's CA believed: policy test, posttls-finger and a delivery at secure agree, before and after", Run: partnerTrusted},
		Scenario{ID: "send-test", Title: "send-test finds the mailbox, and a recipient that there is not", Run: sendTest},
		Scenario{ID: "tlsa", Title: "the TLSA record wanted is that of postfix tls, for the key that openssl sees", Run: tlsaRecord},
		Scenario{ID: "harden sasl", Title: "harden with Dovecot SASL and the submission services: AUTH inside TLS only", Long: true, Run: hardenedSASL},
		Scenario{ID: "audit time", Title: "audit within its bounds, without and with handshakes", Alone: true, Run: auditTime},
	)
}

// partner is a second Postfix, on 127.0.0.2, that has a mailbox for anna@example.com
// and a certificate of a CA which this machine does not know. Mail to example.com
// goes there. The root is in a file of the machine.
func (s *S) partner(m *Machine) (root string) {
	s.Helper()
	ca := certtest.NewCA(s, certtest.Authority{Name: "Partner Root"})
	m.Sh("useradd -m anna && echo '127.0.0.2 mx.example.com' >>/etc/hosts")
	m.Sh(`postconf -e transport_maps='inline:{{example.com=smtp:[mx.example.com]:25}}' smtp_host_lookup=native smtp_tls_security_level=may smtp_tls_loglevel=1`)
	m.secondInstance(ca.Leaf(s, certtest.Leaf{Names: []string{"mx.example.com"}}))
	m.Sh(`postconf -c /etc/postfix-mx -e myhostname=mx.example.com mydestination=example.com && postmulti -i postfix-mx -p reload`)
	root = "/etc/ssl/partner.pem"
	m.Write(root, string(certtest.EncodeCerts(ca.Cert)), 0o644)
	return root
}

// toAnna is the next hop of mail for example.com, as the transport table writes it.
const toAnna = "[mx.example.com]:25"

// mail gives a message to sendmail(1), with a subject that is told again in the
// mailbox.
func (m *Machine) mail(to, subject string) {
	m.s.Helper()
	m.Sh(fmt.Sprintf("printf 'Subject: %s\\n\\nHello.\\n' | sendmail -f root@mail.example.org %s", subject, to))
}

// inMailbox tells whether a mailbox of the machine has the text.
func (m *Machine) inMailbox(user, text string) bool {
	m.s.Helper()
	return m.Try("grep -qF "+quoted([]string{text})+" /var/mail/"+user).Status == 0
}

func partnerTrusted(s *S) {
	m := s.Boot(Ready)
	root := s.partner(m)
	m.Postcert("--instance", "/etc/postfix", "policy", "set", toAnna, "secure").Want(0)
	finger := "posttls-finger -c -h native -l secure -F \"$(postconf -xh smtp_tls_CAfile)\" '" + toAnna + "' 2>&1"

	s.Step("not believed")
	m.Postcert("--instance", "/etc/postfix", "trust", "set", "--client", "--system").Want(0)
	if seen := m.Try(finger).Stdout; !strings.Contains(seen, "TLS connection established") || strings.Contains(seen, "Verified") {
		s.Fatalf("posttls-finger does not see a partner that is not believed")
	}
	r := m.Postcert("--instance", "/etc/postfix", "policy", "test", "example.com").Want(8)
	if got := r.inForce(); got != "secure deferred" {
		s.Errorf("policy test: %q, want secure deferred", got)
	}
	m.mail("anna@example.com", "the first")
	s.WaitFor("the mail to be deferred", time.Minute, func() bool {
		return strings.Contains(m.Try("postqueue -p").Stdout, "not trusted") || strings.Contains(m.Try("postqueue -p").Stdout, "not verified")
	})

	s.Step("believed")
	m.Postcert("--instance", "/etc/postfix", "trust", "set", "--client", root).Want(0)
	if seen := m.Sh(finger); !strings.Contains(seen, "Verified TLS connection established") {
		s.Errorf("posttls-finger does not verify the partner")
	}
	r = m.Postcert("--instance", "/etc/postfix", "policy", "test", "example.com").Want(0)
	if got := r.inForce(); got != "secure encrypted" {
		s.Errorf("policy test: %q, want secure encrypted", got)
	}
	m.Sh("postqueue -f")
	s.WaitFor("the mail of the queue", time.Minute, func() bool { return m.inMailbox("anna", "Subject: the first") })
	if log := m.Sh(postfixLog); !strings.Contains(log, "Verified TLS connection established to mx.example.com[127.0.0.2]:25") {
		s.Errorf("the log does not say that it was verified")
	}
	id, _ := m.Postcert("--instance", "/etc/postfix", "send-test", "--to", "anna@example.com").Want(0).Get("mail.message_id").(string)
	if !m.inMailbox("anna", strings.Trim(id, "<>")) {
		s.Errorf("send-test speaks of %q, which the mailbox does not have", id)
	}
	m.Serves(m.First)
}

// inForce is the level in force of policy test, and what becomes of mail.
func (r *Report) inForce() string {
	r.m.s.Helper()
	levels, _ := r.Get("test.levels").([]any)
	for _, l := range levels {
		if level, ok := l.(map[string]any); ok && level["in_force"] == true {
			return fmt.Sprintf("%v %v", level["level"], level["outcome"])
		}
	}
	r.m.s.Fatalf("no level in force: %s", r.line)
	return ""
}

func sendTest(s *S) {
	m := s.Boot(Ready)
	m.Sh("useradd -m anna")
	r := m.Postcert("send-test", "--to", "anna").Want(0)
	id, _ := r.Get("mail.message_id").(string)
	if id == "" || !m.inMailbox("anna", strings.Trim(id, "<>")) {
		s.Errorf("send-test speaks of %q, which the mailbox does not have", id)
	}
	m.Postcert("send-test", "--to", "nobody-of-that-name").Want(8)
	if got := m.Sh("postqueue -p"); !strings.Contains(got, "is empty") {
		s.Errorf("something is left in the queue: %s", got)
	}
}

func tlsaRecord(s *S) {
	m := s.Boot(Ready)
	next := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
	m.Serves(next)
	// There is no DNS in the machine, and that is no yes.
	r := m.Postcert("tlsa", "mail.example.org").Want(8)
	var ours []string
	hosts, _ := r.Get("hosts").([]any)
	for i := range hosts {
		wanted, _ := r.Get(fmt.Sprintf("hosts.%d.wanted", i)).([]any)
		for j := range wanted {
			ours = append(ours, fmt.Sprint(r.Get(fmt.Sprintf("hosts.%d.wanted.%d.record", i, j))))
		}
	}
	theirs := strings.Fields(strings.ToLower(m.Sh("postfix tls output-server-tlsa -h mail.example.org | grep -v '^;'")))
	if n := len(theirs); n < 4 || strings.Join(ours, ",") != strings.Join(theirs[n-4:], " ") {
		s.Errorf("tlsa wants %q, postfix tls says %q", ours, theirs)
	}
	if want := "3 1 1 " + fingerprint(next.Cert.RawSubjectPublicKeyInfo); strings.Join(ours, ",") != want {
		s.Errorf("tlsa wants %q, want %s", ours, want)
	}
}

// offers is what port of the machine offers: the lines after EHLO, in clear, or
// inside TLS by the machine's openssl.
func (m *Machine) offers(port string, inTLS bool) string {
	m.s.Helper()
	talk := "socat -t 5 - TCP:127.0.0.1:" + port
	switch {
	case inTLS && port == "465":
		talk = "openssl s_client -quiet -connect 127.0.0.1:465 2>/dev/null"
	case inTLS:
		talk = "openssl s_client -quiet -starttls smtp -connect 127.0.0.1:" + port + " 2>/dev/null"
	}
	// A listener that is asked before it has greeted ends the session.
	out := m.Sh("(sleep 1; printf 'EHLO client.example.org\\r\\n'; sleep 1; printf 'QUIT\\r\\n'; sleep 1) | " + talk)
	if !strings.Contains(out, "250") {
		m.s.Fatalf("port %s does not answer EHLO", port)
	}
	return out
}

// hardenedSASL begins with a host that takes passwords on port 25, in clear as
// well, and that has no submission services.
func hardenedSASL(s *S) {
	m := s.Boot(Ready)
	m.dovecot(m.First)
	m.Write("/root/login.py", authScript, 0o644)
	m.Sh(`useradd -m anna && echo 'anna:only for this machine' | chpasswd
	postconf -MX submission/inet submissions/inet
	postconf -e smtpd_sasl_type=dovecot smtpd_sasl_path=private/auth smtpd_sasl_auth_enable=yes
	systemctl restart postfix`)
	m.WaitServes(m.First, time.Minute, "127.0.0.1:25")
	if !strings.Contains(m.offers("25", false), "AUTH PLAIN") {
		s.Fatalf("this is not the situation: AUTH in clear")
	}
	before := m.Configuration()
	for _, profile := range []string{"recommended", "runbook"} {
		s.Step(profile)
		m.Postcert("harden", "--profile", profile).Want(0)
		if strings.Contains(m.offers("25", false), "AUTH") {
			s.Errorf("AUTH in clear on port 25 after %s", profile)
		}
		m.Serves(m.First, "127.0.0.1:25")
		if profile == "runbook" {
			m.Serves(m.First)
			for _, port := range []string{"587", "465"} {
				if port == "587" && strings.Contains(m.offers(port, false), "AUTH") {
					s.Errorf("AUTH in clear on port %s", port)
				}
				if !strings.Contains(m.offers(port, true), "AUTH PLAIN") {
					s.Errorf("no AUTH inside TLS on port %s", port)
				}
			}
			m.Sh("python3 /root/login.py")
		}
	}
	s.Step("undone")
	m.Postcert("harden", "--undo").Want(0)
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("both and their undo leave changes in %q", changed)
	}
}

// auditTime measures in the machine. The bounds are those of a quiet one; beyond
// three times them it is not the machine, unless others keep the host busy.
func auditTime(s *S) {
	m := s.Boot(Ready)
	// What this run did until now still counts in the last ten seconds.
	for range 30 {
		if !busy() {
			break
		}
		time.Sleep(time.Second)
	}
	for _, way := range []struct {
		flag  string
		bound time.Duration
	}{{"--no-handshakes", 300 * time.Millisecond}, {"", 2 * time.Second}} {
		var took []time.Duration
		for _, word := range strings.Fields(m.Sh(`for n in 1 2 3 4 5 6 7; do a=$(date +%s%N); postcert audit ` + way.flag + ` >/dev/null; r=$?; b=$(date +%s%N)
			[ $r = 0 ] || [ $r = 8 ] || exit $r; echo $(( b - a ))ns; done`)) {
			d, err := time.ParseDuration(word)
			if err != nil {
				s.Fatalf("%v", err)
			}
			took = append(took, d)
		}
		middle := median(took)
		text := fmt.Sprintf("%s: median of %d runs %d ms, bound %d ms",
			strings.TrimSpace("postcert audit "+way.flag), len(took), middle.Milliseconds(), way.bound.Milliseconds())
		switch {
		case busy():
			s.figure("%s; not judged, as the host is busy", text)
		case middle > 3*way.bound:
			s.Errorf("%s", text)
		default:
			s.figure("%s", text)
		}
	}
}
