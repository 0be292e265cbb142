package main

import (
	"fmt"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "S36", Title: "Dovecot on 993 and 143 gets the same certificate; its configuration is not touched", Run: dovecotBeside},
		Scenario{ID: "S36 reload", Title: "Dovecot's reload forgotten, failing or without effect: all is rolled back", Long: true, Run: dovecotNotReloaded},
		Scenario{ID: "dovecot sasl", Title: "Dovecot as SASL backend: rehearsed, AUTH after TLS before and after", Run: dovecotSASL},
		Scenario{ID: "S23", Title: "another program answers in front of 465: rolled back, and named", Long: true, Run: inFrontOf465},
		Scenario{ID: "S23 silent", Title: "a program in front of 465 says nothing: installed, not verified", Long: true, Run: silentIn465},
		Scenario{ID: "S23 held", Title: "port 465 held by another program: refused before a reload ends the master", Run: held465},
		Scenario{ID: "milter dead", Title: "a milter on a dead relative socket: rehearsed; proven where Postfix goes on without it", Run: deadMilter},
		Scenario{ID: "policy", Title: "smtpd_delay_reject = no with a policy service: rehearsed and proven", Run: policyService},
	)
}

// The listeners of Dovecot.
var imapListeners = []string{"127.0.0.1:993", "127.0.0.1:143"}

// dovecotTLS is where the Dovecot of these scenarios reads its certificate.
const dovecotTLS = "/etc/dovecot/tls"

// dovecot makes Debian's Dovecot serve first from a directory of its own, and
// offer SASL to Postfix; it is up when this returns.
func (m *Machine) dovecot(first *Pair) {
	m.s.Helper()
	m.Write(dovecotTLS+"/fullchain.pem", string(first.FullchainPEM()), 0o644)
	m.Write(dovecotTLS+"/privkey.pem", string(first.KeyPEM()), 0o600)
	// 2.4 has new names and reads no file by "<".
	chain, key, from := "ssl_cert", "ssl_key", "<"
	if m.Release.Dovecot.AtLeast("2.4") {
		chain, key, from = "ssl_server_cert_file", "ssl_server_key_file", ""
	}
	m.Write("/etc/dovecot/local.conf", fmt.Sprintf(`listen = 127.0.0.1
%s = %s%s/fullchain.pem
%s = %s%s/privkey.pem
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
`, chain, from, dovecotTLS, key, from, dovecotTLS), 0o644)
	m.Sh("systemctl restart dovecot")
	m.WaitServes(first, bootLimit, imapListeners...)
}

// companion configures Dovecot as companion; reload is a YAML list, "" for none.
func (m *Machine) companion(reload string) {
	m.s.Helper()
	if reload != "" {
		reload = "reload: " + reload + ", "
	}
	m.Write("/etc/postcert/postcert.yaml", "companions:\n  - {name: dovecot, export: {directory: "+dovecotTLS+
		", owner: root, group: dovecot}, "+reload+"probe: [\"imaps://127.0.0.1:993\", \"imap://127.0.0.1:143\"]}\n", 0o644)
}

// doveadm is the reload of Dovecot.
const doveadm = "[/usr/bin/doveadm, reload]"

// dovecotFiles are the SHA-256 of Dovecot's own configuration.
func (m *Machine) dovecotFiles() Files {
	m.s.Helper()
	return m.sums("/etc/dovecot -path " + dovecotTLS + " -prune -o")
}

// sums are the SHA-256 of the files that find(1) finds.
func (m *Machine) sums(where string) Files {
	m.s.Helper()
	out := Files{}
	for line := range strings.Lines(m.Sh("find " + where + " -type f -exec sha256sum {} +")) {
		if sum, path, found := strings.Cut(strings.TrimSpace(line), "  "); found {
			out[path] = sum
		}
	}
	if len(out) == 0 {
		m.s.Fatalf("no file in %s", where)
	}
	return out
}

func dovecotBeside(s *S) {
	m := s.Boot(Ready)
	old := s.Pair()
	m.dovecot(old)
	m.companion(doveadm)
	before := m.dovecotFiles()
	first, second := s.Pair(), s.Pair()
	m.Postcert("install-cert", "--dry-run", m.Lineage("mail.example.org", first)).Want(0)
	m.Serves(old, imapListeners...)
	for _, p := range []*Pair{first, second} {
		m.Postcert("install-cert", m.Lineage("mail.example.org", p)).Want(0)
		m.Serves(p)
		m.WaitServes(p, time.Minute, imapListeners...)
	}
	if got := m.Sh("stat -c '%a %U:%G' " + dovecotTLS + "/privkey.pem " + dovecotTLS + "/fullchain.pem"); got != "640 root:dovecot\n644 root:dovecot" {
		s.Errorf("modes of the copies: %q", got)
	}
	m.Postcert("status").Want(0)

	s.Step("back")
	m.Postcert("rollback").Want(0)
	m.Serves(first)
	m.WaitServes(first, time.Minute, imapListeners...)
	if changed := before.Changed(m.dovecotFiles()); changed != nil {
		s.Errorf("Dovecot's configuration was changed: %q", changed)
	}

	s.Step("Dovecot is down: no success, and no reason to undo")
	m.Sh("systemctl stop dovecot.socket dovecot.service 2>/dev/null || systemctl stop dovecot.service")
	third := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", third)).Want(9).WantProblem("companion_down")
	m.Serves(third)
	m.Postcert("status").Want(8)
	m.Sh("systemctl start dovecot")
	m.WaitServes(third, time.Minute, imapListeners...)
	m.Postcert("renew").Want(0)
	m.Postcert("status").Want(0)
}

func dovecotNotReloaded(s *S) {
	m := s.Boot(Ready)
	m.dovecot(m.First)
	copies, before := m.sums(dovecotTLS), m.Configuration()
	for _, reload := range []string{"", "[/bin/false]", "[/bin/true]"} {
		s.Step("reload: %s", orWord(reload, "none"))
		m.companion(reload)
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", s.Pair())).Want(4).WantProblem("rolled_back")
		if !strings.Contains(r.Stdout, "dovecot") {
			s.Errorf("nothing names Dovecot")
		}
		m.Serves(m.First)
		m.Serves(m.First, imapListeners...)
		if changed := copies.Changed(m.sums(dovecotTLS)); changed != nil {
			s.Errorf("copies that differ after the rollback: %q", changed)
		}
		if changed := before.Changed(m.Configuration()); changed != nil {
			s.Errorf("the rollback has left changes in %q", changed)
		}
	}
	s.Step("mended")
	m.companion(doveadm)
	next := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
	m.Serves(next)
	m.WaitServes(next, time.Minute, imapListeners...)
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// authScript logs in as a mail client does: AUTH is offered after TLS only, and
// it works.
const authScript = `import smtplib, ssl
insecure = ssl._create_unverified_context()
c = smtplib.SMTP("127.0.0.1", 587, timeout=60)
c.ehlo()
assert not c.has_extn("auth"), "AUTH before TLS"
c.starttls(context=insecure)
c.ehlo()
c.login("anna", "only for this machine")
c.quit()
c = smtplib.SMTP_SSL("127.0.0.1", 465, timeout=60, context=insecure)
c.login("anna", "only for this machine")
c.quit()
print("logged in")
`

func dovecotSASL(s *S) {
	m := s.Boot(Ready)
	m.dovecot(m.First)
	m.Write("/root/login.py", authScript, 0o644)
	m.Sh(`useradd -m anna && echo 'anna:only for this machine' | chpasswd
	postconf -e smtpd_sasl_type=dovecot smtpd_sasl_path=private/auth smtpd_tls_auth_only=yes
	postconf -P submission/inet/smtpd_sasl_auth_enable=yes submissions/inet/smtpd_sasl_auth_enable=yes
	systemctl restart postfix`)
	m.WaitServes(m.First, time.Minute)
	m.Sh("python3 /root/login.py")
	for range 2 {
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
		if r.Get("transaction.rehearsed") != true {
			s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
		}
		m.Serves(next)
		m.Sh("python3 /root/login.py")
	}
	m.Postcert("status").Want(0)
}

// redirect leads what is dialled at a port of 127.0.0.1 to another one, as a
// container's port mapping or a proxy's firewall rule does. Nothing of Postfix
// shows it.
func (m *Machine) redirect(from, to string) {
	m.s.Helper()
	r := m.Try(`nft add table ip front && nft 'add chain ip front output { type nat hook output priority -100 ; }' &&
	nft add rule ip front output ip daddr 127.0.0.1 tcp dport ` + from + ` redirect to :` + to)
	if r.Status != 0 {
		m.s.Fatalf("this kernel redirects no port: %s", r.Stderr)
	}
}

// front answers TLS on port 4465 with another pair, until the unit front ends.
func (m *Machine) front(port string, p *Pair) {
	m.s.Helper()
	m.Write("/root/front.pem", string(p.KeyPEM())+string(p.FullchainPEM()), 0o600)
	m.Sh("systemd-run --quiet --collect --unit=front " + toolsDir + "/impostor -listen 127.0.0.1:4" + port + " -implicit -pem /root/front.pem -for 10m")
	m.WaitServes(p, time.Minute, "smtps://127.0.0.1:4"+port)
}

func inFrontOf465(s *S) {
	m := s.Boot(Ready)
	before, first := m.Configuration(), s.Pair()
	other := certtest.SelfSigned(s, certtest.Leaf{Names: []string{"other.example.org"}})
	m.front("465", other)
	m.redirect("465", "4465")
	m.Serves(other, "127.0.0.1:465")

	live := m.Lineage("mail.example.org", first)
	r := m.Postcert("install-cert", live).Want(4).WantProblem("rolled_back")
	for _, words := range []string{"presents another certificate: other.example.org", "127.0.0.1:465"} {
		if !strings.Contains(r.Stdout, words) {
			s.Errorf("nothing says %q", words)
		}
	}
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("the rollback has left changes in %q", changed)
	}
	m.Serves(m.First, "127.0.0.1:25", "127.0.0.1:587")

	s.Step("with a certificate that is trusted: its names are asked for, and it is said where")
	m.Sh("systemctl stop front")
	trusted := s.Pair("other.example.org")
	m.front("465", trusted)
	if r := m.Postcert("install-cert", live).Want(3).WantProblem("names_shrunk"); !strings.Contains(r.Stdout, "served now at 127.0.0.1:465") {
		s.Errorf("nothing says where the other names are served")
	}

	s.Step("left out, then gone")
	m.Postcert("install-cert", live, "--ignore-listener", "127.0.0.1:465").Want(0)
	m.Serves(first, "127.0.0.1:25", "127.0.0.1:587")
	m.Serves(trusted, "127.0.0.1:465")
	m.Sh("nft delete table ip front")
	m.Serves(first)
	m.Postcert("status").Want(0)
}

func silentIn465(s *S) {
	m := s.Boot(Ready)
	m.Postcert("install-cert", m.Lineage("mail.example.org", s.Pair())).Want(0)
	m.Sh("systemd-run --quiet --collect socat -u TCP-LISTEN:4465,fork,reuseaddr /dev/null")
	m.redirect("465", "4465")
	next := s.Pair()
	r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(9)
	if !strings.Contains(r.Stdout, "127.0.0.1:465") {
		s.Errorf("nothing names the listener")
	}
	m.Serves(next, "127.0.0.1:25", "127.0.0.1:587")
	m.Sh("nft delete table ip front")
	m.Serves(next)
	m.Postcert("renew").Want(0)
	m.Postcert("status").Want(0)
}

func held465(s *S) {
	m := s.Boot(Ready)
	pid := m.MasterPID()
	m.Sh("cp -p /etc/postfix/master.cf /root/master.cf && postconf -MX submissions/inet && postfix reload")
	s.WaitFor("the end of the listener", time.Minute, func() bool { return m.Try("ss -Hltn sport = 465 | grep -q .").Status != 0 })
	m.Sh("systemd-run --quiet --collect --unit=holder socat -u TCP-LISTEN:465,fork,reuseaddr /dev/null")
	s.WaitFor("the holder", time.Minute, func() bool { return m.Try("ss -Hltn sport = 465 | grep -q .").Status == 0 })
	m.Sh("cp -p /root/master.cf /etc/postfix/master.cf")
	next := s.Pair()
	live := m.Lineage("mail.example.org", next)
	r := m.Postcert("install-cert", live).Want(3).WantProblem("listener_not_bindable")
	if !strings.Contains(r.Stdout, "submissions") {
		s.Errorf("nothing names the service")
	}
	m.Serves(m.First, "127.0.0.1:25", "127.0.0.1:587")
	m.Sh("systemctl stop holder")
	m.Postcert("install-cert", live).Want(0)
	m.Serves(next)
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
}

func deadMilter(s *S) {
	m := s.Boot(Ready)
	m.Sh("postconf -e smtpd_milters=unix:milter/dead.sock milter_default_action=accept && systemctl restart postfix")
	m.WaitServes(m.First, time.Minute)
	first := s.Pair()
	r := m.Postcert("install-cert", m.Lineage("mail.example.org", first)).Want(0)
	if r.Get("transaction.rehearsed") != true {
		s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
	}
	m.Serves(first)

	s.Step("Postfix answers 454 4.3.0 for it, which is no verdict about the certificate")
	m.Sh("postconf -e milter_default_action=tempfail && systemctl restart postfix")
	next := s.Pair()
	r = m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(9)
	if r.Get("transaction.rehearsed") != true {
		s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
	}
	m.Sh("postconf -X smtpd_milters && systemctl restart postfix")
	m.WaitServes(next, time.Minute)
	m.Postcert("renew").Want(0)
	m.Postcert("status").Want(0)
}

func policyService(s *S) {
	m := s.Boot(Ready)
	m.Write("/usr/local/bin/policy", `#!/bin/sh
# A policy service has an opinion on each request, which ends with an empty line.
while read -r line; do
	[ -n "$line" ] || printf 'action=dunno\n\n'
done
`, 0o755)
	m.Sh(`postconf -M policy/unix='policy unix - n n - 0 spawn user=nobody argv=/usr/local/bin/policy'
	postconf -e smtpd_delay_reject=no \
		'smtpd_client_restrictions=check_policy_service unix:private/policy' \
		'smtpd_helo_restrictions=check_policy_service unix:private/policy'
	systemctl restart postfix`)
	m.WaitServes(m.First, time.Minute)
	for range 2 {
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
		if r.Get("transaction.rehearsed") != true {
			s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
		}
		m.Serves(next)
	}
}
