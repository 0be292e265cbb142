package main

import (
	"crypto/x509"
	"strings"
	"time"
)

func init() {
	register(
		Scenario{ID: "certbot timer", Title: "certbot's own timer renews, and its deploy hook deploys", Run: certbotTimer},
		Scenario{ID: "S24 certbot", Title: "the master dies in a deploy of certbot's unit: up again, and stays up", Run: masterDiesUnderCertbot},
		Scenario{ID: "S40", Title: "the hook fails under certbot, which does not care: status and postmaster know", Run: hookFailsUnderCertbot},
		Scenario{ID: "timer acme", Title: "our timer renews at a CA (Pebble) and deploys", Run: ourTimer},
		Scenario{ID: "daemon acme", Title: "our daemon renews at a CA (Pebble) and deploys", Run: ourDaemon},
	)
}

// caDir is where the CA of a machine keeps the roots of its TLS and of what it
// issues.
const caDir = "/var/lib/testca"

// acmeCA starts Pebble in the machine, on its loopback interface, with port 80 for
// http-01, lets the machine trust what it issues, and returns the URL of its
// directory.
func (s *S) acmeCA(m *Machine, flags string) string {
	s.Helper()
	m.Sh("mkdir -p " + caDir)
	m.Go(toolsDir + "/testca -dir " + caDir + " -http 80 -for 10m -profile classic " + flags + " >" + caDir + "/url")
	var url string
	s.WaitFor("the CA", time.Minute, func() bool {
		url = strings.TrimSpace(m.Try("cat " + caDir + "/url").Stdout)
		return url != ""
	})
	m.Sh("cat " + caDir + "/issuers.pem >>/etc/ssl/certs/ca-certificates.crt")
	return url
}

// inFile is what a PEM file of the machine holds: a leaf and what follows it.
func (m *Machine) inFile(path string) *Pair {
	m.s.Helper()
	var all []*x509.Certificate
	for _, der := range certificates([]byte(m.Read(path))) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			m.s.Fatalf("%s: %v", path, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		m.s.Fatalf("%s holds no certificate", path)
	}
	return &Pair{Cert: all[0], Chain: all[1:]}
}

// servedFrom fails the scenario unless the three listeners present what is in the
// file, which it returns.
func (m *Machine) servedFrom(path string) *Pair {
	m.s.Helper()
	p := m.inFile(path)
	m.Serves(p)
	return p
}

// allWell is what monitoring says of a certificate that is served and has time.
func (m *Machine) allWell() {
	m.s.Helper()
	m.Postcert("status").Want(0)
	if r := m.Try("postcert status --nagios"); r.Status != 0 {
		m.s.Errorf("status --nagios: exit status %d, want 0", r.Status)
	}
}

// notWell is what monitoring says until somebody has helped.
func (m *Machine) notWell() {
	m.s.Helper()
	m.Postcert("status").Want(8)
	if r := m.Try("postcert status --nagios"); r.Status != 2 {
		m.s.Errorf("status --nagios: exit status %d, want 2", r.Status)
	}
}

// certbotLive is certbot's lineage.
const certbotLive = "/etc/letsencrypt/live/mail.example.org"

// certbotHost is a Ready machine on which certbot has a certificate that is due,
// and the link that makes postcert its deploy hook.
func (s *S) certbotHost() *Machine {
	s.Helper()
	m := s.Boot(Ready)
	url := s.acmeCA(m, "")
	m.Sh("systemctl stop certbot.timer")
	// certbot 1.12 in its unit waits up to 8 minutes otherwise.
	m.Sh(`printf '\nno-random-sleep-on-renew = True\n' >>/etc/letsencrypt/cli.ini`)
	m.Sh("REQUESTS_CA_BUNDLE=" + caDir + "/acme-roots.pem certbot certonly -n --agree-tos --register-unsafely-without-email --standalone --server " + url + " -d mail.example.org")
	m.Sh("mkdir -p /etc/letsencrypt/renewal-hooks/deploy && ln -s /usr/bin/postcert /etc/letsencrypt/renewal-hooks/deploy/postcert")
	m.Sh("sed -i '1i renew_before_expiry = 100 days' /etc/letsencrypt/renewal/mail.example.org.conf")
	m.Write("/etc/systemd/system/certbot.service.d/ca.conf", "[Service]\nEnvironment=REQUESTS_CA_BUNDLE="+caDir+"/acme-roots.pem\n", 0o644)
	return m
}

// elapse makes a timer due now, and waits until its service has run. It returns
// the result that systemd keeps: success, exit-code.
func (m *Machine) elapse(timer, service string) string {
	m.s.Helper()
	ended := func() string {
		return m.Sh("systemctl show -p ExecMainExitTimestampMonotonic --value " + service)
	}
	before := ended()
	m.Write("/etc/systemd/system/"+timer+".d/due.conf", "[Timer]\nOnCalendar=\nOnBootSec=\nRandomizedDelaySec=0\nAccuracySec=10ms\nOnActiveSec=100ms\n", 0o644)
	m.Sh("systemctl daemon-reload && systemctl restart " + timer)
	m.s.WaitFor("the end of "+service, 3*time.Minute, func() bool {
		return ended() != before && m.Sh("systemctl show -p ActiveState --value "+service) != "activating"
	})
	m.Sh("systemctl stop " + timer)
	return m.Sh("systemctl show -p Result --value " + service)
}

func certbotTimer(s *S) {
	m := s.certbotHost()
	pid, first := m.MasterPID(), m.inFile(certbotLive+"/fullchain.pem")
	if result := m.elapse("certbot.timer", "certbot.service"); result != "success" {
		s.Errorf("certbot.service: %s", result)
	}
	if next := m.servedFrom(certbotLive + "/fullchain.pem"); next.Cert.Equal(first.Cert) {
		s.Errorf("certbot has renewed nothing")
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	if said := m.Sh("journalctl -q --no-pager -o cat -u certbot.service | grep -i -e hook -e error || :"); said != "" {
		s.Errorf("certbot complains: %s", said)
	}
	m.allWell()
}

// masterDiesUnderCertbot: what is started in a oneshot unit ends with it, so the
// master must come back as what its own unit starts. From Debian 13 on, Debian's
// postfix start sees to that itself; on 11 and 12 it is up to us alone.
func masterDiesUnderCertbot(s *S) {
	m := s.certbotHost()
	pid := m.MasterPID()
	killer := m.Go("until [ -e " + openJournal + " ]; do :; done; kill -9 " + pid + " && date +%s.%N")
	if result := m.elapse("certbot.timer", "certbot.service"); result != "success" {
		s.Errorf("certbot.service: %s", result)
	}
	if r := killer.Wait(); r.Status != 0 {
		s.Fatalf("the master was not killed: it had ended before")
	}
	m.Serves(m.First)
	time.Sleep(10 * time.Second)
	m.Serves(m.First)
	now := m.MasterPID()
	if now == pid {
		s.Errorf("the master is still %s", pid)
	}
	if group := m.Sh("cat /proc/" + now + "/cgroup"); !strings.Contains(group, "postfix") {
		s.Errorf("the master runs in %s, not in the unit of Postfix", group)
	}
	m.notWell()
	s.Step("what certbot has is deployed without another renewal")
	m.Postcert("install-cert", certbotLive).Want(0)
	m.servedFrom(certbotLive + "/fullchain.pem")
	m.allWell()
}

func hookFailsUnderCertbot(s *S) {
	m := s.certbotHost()
	m.Write("/etc/postcert/postcert.yaml", "instances:\n  - {config_directory: /etc/postfix, names: [imap.example.org]}\n", 0o600)
	if result := m.elapse("certbot.timer", "certbot.service"); result != "success" {
		s.Errorf("certbot.service: %s; certbot is known to ignore how a hook ends", result)
	}
	m.Serves(m.First)
	m.notWell()
	m.wantMail("mail.example.org", "imap.example.org")
	m.Sh("rm /etc/postcert/postcert.yaml")
	m.Postcert("renew").Want(0)
	m.servedFrom(certbotLive + "/fullchain.pem")
	m.allWell()
}

// wantMail waits for a mail to postmaster that has all of these words.
func (m *Machine) wantMail(words ...string) {
	m.s.Helper()
	test := "[ -s /var/mail/root ]"
	for _, w := range words {
		test += " && grep -qF " + quoted([]string{w}) + " /var/mail/root"
	}
	m.s.WaitFor("the mail to postmaster", time.Minute, func() bool { return m.Try(test).Status == 0 })
	if text := m.Read("/var/mail/root"); strings.Contains(text, "PRIVATE KEY") {
		m.s.Errorf("the mail holds a private key")
	}
}

// orders configures postcert as its own ACME client, and orders the first
// certificate, which the CA wishes to be renewed soon after.
func (s *S) orders(m *Machine) *Pair {
	s.Helper()
	url := s.acmeCA(m, "-renew-after 2s")
	m.Write("/etc/postcert/postcert.yaml", `certificates:
  - name: mail.example.org
    domains: [mail.example.org]
    challenge: {type: http-01}
acme: {directory: "`+url+`", agree_tos: true, trust: `+caDir+`/acme-roots.pem}
`, 0o600)
	m.Postcert("obtain").Want(0)
	p := m.servedFrom(tlsFile)
	if p.Cert.Equal(m.First.Cert) {
		s.Fatalf("obtain has installed nothing")
	}
	return p
}

// tlsFile is what Postfix reads.
const tlsFile = "/etc/postfix/tls/mail.example.org.pem"

func ourTimer(s *S) {
	m := s.Boot(Ready)
	first, pid := s.orders(m), m.MasterPID()
	if result := m.elapse("postcert-renew.timer", "postcert-renew.service"); result != "success" {
		s.Errorf("postcert-renew.service: %s", result)
	}
	if next := m.servedFrom(tlsFile); next.Cert.Equal(first.Cert) {
		s.Errorf("nothing was renewed")
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	m.allWell()
}

func ourDaemon(s *S) {
	m := s.Boot(Ready)
	first, pid := s.orders(m), m.MasterPID()
	m.Sh("systemctl enable --now postcert.service")
	s.WaitFor("the renewal", 2*time.Minute, func() bool { return !m.inFile(tlsFile).Cert.Equal(first.Cert) })
	m.WaitServes(m.inFile(tlsFile), time.Minute)
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	s.WaitFor("the end of the deploy", time.Minute, func() bool { return m.Try("postcert status").Status == 0 })
	m.allWell()
	m.Sh("systemctl stop postcert.service")
	if result := m.Sh("systemctl show -p Result --value postcert.service"); result != "success" {
		s.Errorf("the daemon ended with %s", result)
	}
}
