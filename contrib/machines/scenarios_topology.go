package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "postmulti", Title: "a second instance by postmulti: each deployed on its own, the hook treats all", Long: true, Run: twoInstances},
		Scenario{ID: "S27", Title: "postscreen on 25 with deep tests: the new certificate through tlsproxy at once", Run: postscreen},
		Scenario{ID: "S25 install-cert", Title: "Postfix stopped, then masked: installed, not verified, not started", Run: stoppedAndMasked},
		Scenario{ID: "log journald", Title: "journald alone: log excerpt of a failure, fields of what is told, mail to postmaster", Run: func(s *S) { logs(s, journald) }},
		Scenario{ID: "log rsyslog", Title: "rsyslog alone: log excerpt of a failure, what is told, mail to postmaster", Run: func(s *S) { logs(s, rsyslog) }},
		Scenario{ID: "log maillog_file", Title: "maillog_file: log excerpt of a failure, what is told, mail to postmaster", Run: func(s *S) { logs(s, maillogFile) }},
		Scenario{ID: "carried", Title: "a configuration carried from the release before keeps working", Run: carried},
		Scenario{ID: "large queue", Title: "a large queue, postfix check slow: installed, and that is said", Run: largeQueue},
		Scenario{ID: "S19", Title: "tables by server name in each indexed type: proven, found stale, built again", Run: serverNameTables},
	)
}

// mx are the listeners of the second instance.
var mx = []string{"127.0.0.2:25", "127.0.0.2:587", "127.0.0.2:465"}

// secondInstance makes what MULTI_INSTANCE_README makes: postfix-mx with its own
// queue, with the services of the primary, on 127.0.0.2.
func (m *Machine) secondInstance(first *Pair) {
	m.s.Helper()
	m.Write("/etc/ssl/private/mx.key", string(first.KeyPEM()), 0o600)
	m.Write("/etc/ssl/certs/mx.pem", string(first.FullchainPEM()), 0o644)
	m.Sh(`ip address add 127.0.0.2/8 dev lo
	postconf -e inet_interfaces=127.0.0.1
	postmulti -e init && postmulti -I postfix-mx -G mta -e create
	cp /etc/postfix/master.cf /etc/postfix-mx/master.cf
	postconf -c /etc/postfix-mx -X master_service_disable
	postconf -c /etc/postfix-mx -e multi_instance_enable=yes inet_interfaces=127.0.0.2 myhostname=mail.example.org \
		mydestination= authorized_submit_users=root \
		smtpd_tls_cert_file=/etc/ssl/certs/mx.pem smtpd_tls_key_file=/etc/ssl/private/mx.key smtpd_tls_security_level=may
	systemctl daemon-reload`)
	if m.Release.Number <= 12 {
		m.Sh("systemctl restart postfix postfix@postfix-mx")
	} else {
		m.Sh("systemctl enable --now postfix@mx && systemctl restart postfix")
	}
	m.WaitServes(first, time.Minute, mx...)
	m.WaitServes(m.First, time.Minute)
}

func twoInstances(s *S) {
	m := s.Boot(Ready)
	before := s.Pair()
	m.secondInstance(before)
	p, q := s.Pair(), s.Pair()
	live := m.Lineage("mail.example.org", p)

	s.Step("which one is not guessed")
	m.Postcert("install-cert", live).Want(2).WantProblem("instance_ambiguous")
	m.Serves(m.First)
	m.Serves(before, mx...)

	s.Step("each on its own")
	primary := m.sums("/etc/postfix")
	m.Postcert("install-cert", "--instance", "postfix-mx", live).Want(0)
	m.Serves(p, mx...)
	m.Serves(m.First)
	if changed := primary.Changed(m.sums("/etc/postfix")); changed != nil {
		s.Errorf("the primary instance was changed: %q", changed)
	}
	m.Postcert("install-cert", "--instance", "-", live).Want(0)
	m.Serves(p)
	m.Serves(p, mx...)

	s.Step("the hook treats both, and so does status")
	m.Lineage("mail.example.org", q)
	m.Sh("RENEWED_LINEAGE=" + live + " RENEWED_DOMAINS=mail.example.org postcert hook")
	m.Serves(q)
	m.Serves(q, mx...)
	m.Postcert("status").Want(0)
	m.Postcert("rollback", "--instance", "postfix-mx").Want(0)
	m.Serves(p, mx...)
	m.Serves(q)

	s.Step("the primary is a null client: the other is the only one with listeners")
	m.Sh("postconf -e master_service_disable=inet && systemctl restart " + m.unit())
	s.WaitFor("the end of the primary's listeners", time.Minute, func() bool {
		return m.Try("ss -Hltn src 127.0.0.1:25 | grep -q .").Status != 0
	})
	r := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", r)).Want(0)
	m.Serves(r, mx...)
}

// unit is what runs the primary instance.
func (m *Machine) unit() string {
	if m.Release.Number <= 12 {
		return "postfix@-"
	}
	return "postfix"
}

// postscreen: its deep protocol tests make it speak to each client that it does
// not know yet, so that its TLS is tlsproxy's.
func postscreen(s *S) {
	m := s.Boot(Ready)
	m.Sh(`postconf -MX smtp/inet
	postconf -M smtp/inet='smtp inet n - y - 1 postscreen' smtpd/pass='smtpd pass - - y - - smtpd' \
		dnsblog/unix='dnsblog unix - - y - 0 dnsblog' tlsproxy/unix='tlsproxy unix - - y - 0 tlsproxy'
	postconf -e postscreen_access_list= postscreen_greet_wait=1s postscreen_bare_newline_enable=yes
	systemctl restart postfix`)
	m.WaitServes(m.First, time.Minute)
	old := m.Sh("pgrep -x tlsproxy")
	for range 2 {
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
		if r.Get("transaction.rehearsed") != true {
			s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
		}
		m.Serves(next)
		now := m.Sh("pgrep -x tlsproxy")
		if now == old {
			s.Errorf("tlsproxy is the old one, process %s", old)
		}
		old = now
	}

	s.Step("a tlsproxy that reads another file is found")
	other := s.Pair()
	m.Write("/etc/ssl/private/other.pem", string(other.KeyPEM())+string(other.FullchainPEM()), 0o600)
	m.Sh("postconf -e tlsproxy_tls_cert_file=/etc/ssl/private/other.pem tlsproxy_tls_key_file=/etc/ssl/private/other.pem && systemctl restart postfix")
	m.WaitServes(other, time.Minute, "127.0.0.1:25")
	m.Postcert("status").Want(8)
	next := s.Pair()
	live := m.Lineage("mail.example.org", next)
	m.Postcert("install-cert", live).Want(3).WantProblem("override_present")
	m.Postcert("install-cert", "--adopt-overrides", live).Want(0)
	m.Serves(next)

	s.Step("a client that postscreen lets pass sees the same, from smtpd")
	m.Sh("postconf -e postscreen_access_list=permit_mynetworks && postfix reload")
	m.Serves(next)
}

func stoppedAndMasked(s *S) {
	m := s.Boot(Ready)
	for _, state := range []string{"stopped", "masked"} {
		s.Step("%s", state)
		m.Sh("systemctl stop postfix")
		if state == "masked" {
			m.Sh("systemctl mask postfix.service postfix@.service")
		}
		s.WaitFor("the end of Postfix", time.Minute, func() bool { return m.Try("postfix status").Status != 0 })
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(9)
		if r.Get("transaction.rehearsed") != true || r.Get("transaction.running") != false {
			s.Errorf("rehearsed %v, running %v", r.Get("transaction.rehearsed"), r.Get("transaction.running"))
		}
		if m.Try("postfix status").Status == 0 {
			s.Errorf("install-cert has started a Postfix that was %s", state)
		}
		m.Postcert("status").Want(8)
		if state == "masked" {
			m.Sh("systemctl unmask postfix.service postfix@.service")
		}
		m.Sh("systemctl start postfix")
		m.WaitServes(next, time.Minute)
		m.Postcert("renew").Want(0)
		m.Postcert("status").Want(0)
	}
}

// The ways of a mail log.
const (
	journald    = "journald"
	rsyslog     = "rsyslog"
	maillogFile = "maillog_file"
)

// logOnly makes one way the only one that leads to lines of Postfix.
func (m *Machine) logOnly(way string) {
	m.s.Helper()
	if way == rsyslog {
		m.Sh("systemctl restart rsyslog && systemctl restart postfix && j=$(command -v journalctl) && mv $j $j.away")
		return
	}
	m.Sh("systemctl disable --now rsyslog 2>/dev/null; rm -f /var/log/mail.* /var/log/maillog /var/spool/postfix/dev/log")
	if way == maillogFile {
		m.Sh("postconf -e maillog_file=/var/log/postfix.log && j=$(command -v journalctl) && mv $j $j.away")
	}
	m.Sh("systemctl restart postfix")
}

// mailLog is the text of the only mail log.
func (m *Machine) mailLog(way string) string {
	m.s.Helper()
	switch way {
	case rsyslog:
		return m.Sh("cat /var/log/mail.log")
	case maillogFile:
		return m.Sh("cat /var/log/postfix.log")
	}
	return m.Sh("journalctl -q --no-pager -o short SYSLOG_FACILITY=2")
}

// logs stages a deploy that fails in production only: it is not rehearsed, and
// OpenSSL finds the key of the new pair too small for the security level.
func logs(s *S, way string) {
	m := s.Boot(Ready)
	m.logOnly(way)
	m.WaitServes(m.First, time.Minute)
	good := s.Pair()
	live := m.Lineage("mail.example.org", good)
	m.Postcert("install-cert", live).Want(0)
	m.Sh("postconf -e 'tls_medium_cipherlist=aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3' && systemctl restart postfix")
	m.WaitServes(good, time.Minute)

	s.Step("what Postfix says of it is in the report")
	m.Lineage("mail.example.org", s.CA().Leaf(s, certtest.Leaf{Key: "rsa"}))
	r := m.Postcert("install-cert", "--no-rehearsal", live).Want(4)
	m.Serves(good)
	if excerpt := fmt.Sprint(r.All); !strings.Contains(excerpt, "ee key too small") {
		s.Errorf("the report does not say what the log says of it")
	}

	s.Step("it is told in the log and by mail")
	m.Postcert("status").Want(8)
	s.WaitFor("the mail to postmaster", time.Minute, func() bool {
		return m.Try("grep -q '^Subject:.*mail.example.org' /var/mail/root /var/mail/nobody 2>/dev/null").Status == 0
	})
	s.WaitFor("the line in the log", time.Minute, func() bool {
		for line := range strings.Lines(m.mailLog(way)) {
			if strings.Contains(line, "postcert") && strings.Contains(line, "error: certificate mail.example.org") {
				return true
			}
		}
		return false
	})
	if way == journald {
		m.Sh("journalctl -q --no-pager -o cat POSTCERT_CERTIFICATE=mail.example.org POSTCERT_EVENT=rollback SYSLOG_FACILITY=2 PRIORITY=3 | grep -q .")
	}

	s.Step("and its end")
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	m.Sh("postcert hook " + live)
	m.Serves(next)
	m.Postcert("status").Want(0)
}

// carried takes what an upgrade of the distribution keeps, to the next release.
func carried(s *S) {
	if s.Release.Number == 11 {
		s.NotHere("Debian 10 is not among the machines: there is nothing to carry from")
	}
	from := s.Other(map[int]string{12: "bullseye", 13: "bookworm", 14: "trixie"}[s.Release.Number])
	old := s.BootOf(from, Ready)
	first, second, third := s.Pair(), s.Pair(), s.Pair()
	for _, p := range []*Pair{first, second} {
		old.Postcert("install-cert", old.Lineage("mail.example.org", p)).Want(0)
	}
	old.Serves(second)
	old.PowerOff()

	m := s.Boot(Ready)
	m.Sh("systemctl stop postfix postcert-renew.timer")
	m.Sh("rm -rf /var/lib/postcert /etc/postcert /etc/letsencrypt /etc/postfix /etc/ssl/private/mail.key /etc/ssl/certs/mail.pem")
	script := `cd "$1" && tar -cpf - --numeric-owner --ignore-failed-read etc/postfix etc/postcert etc/letsencrypt etc/ssl/private/mail.key etc/ssl/certs/mail.pem var/lib/postcert | tar -xpf - --numeric-owner -C "$2"`
	if out, err := exec.CommandContext(s.Context(), "sh", "-c", script, "sh", old.Root, m.Root).CombinedOutput(); err != nil {
		s.Fatalf("carrying the configuration: %v: %s", err, out)
	}
	// What the package of the newer Postfix does at an upgrade.
	m.Sh(`chown -R root:root /var/lib/postcert && chgrp postfix /etc/postfix/tls
	postfix set-permissions upgrade-configuration >/dev/null 2>&1 || postfix upgrade-configuration
	systemctl start postfix`)
	m.WaitServes(second, time.Minute)

	s.Step("status agrees, the same again is unchanged, a renewal and the way back work")
	m.Postcert("renew").Want(0)
	m.Postcert("status").Want(0)
	reloads := m.reloads()
	m.Postcert("install-cert", "/etc/letsencrypt/live/mail.example.org").Want(0)
	if now := m.reloads(); now != reloads {
		s.Errorf("%d reloads, were %d", now, reloads)
	}
	m.Postcert("install-cert", m.Lineage("mail.example.org", third)).Want(0)
	m.Serves(third)
	m.Postcert("rollback").Want(0)
	m.Serves(second)
	m.Postcert("rollback", "--to", "1").Want(0)
	m.Serves(first)
}

func largeQueue(s *S) {
	m := s.Boot(Ready)
	// postfix check looks at the owner of each file below the queue.
	m.Sh(`cd /var/spool/postfix/deferred && for d in 0 1 2 3 4 5 6 7 8 9 A B C D E F; do
		mkdir -p $d && (cd $d && seq -f "${d}%05.0f" 1 500 | xargs touch)
	done && chown -R postfix:postfix . && chmod -R u=rwX,go= .`)
	next := s.Pair()
	r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
	if r.Get("transaction.rehearsed") != true {
		s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
	}
	m.Serves(next)
	if files := m.Sh("find /var/spool/postfix/deferred -type f | wc -l"); files != "8000" {
		s.Errorf("%s files in the queue, were 8000", files)
	}

	s.Step("a check that takes long, as it does on a disk")
	m.Sh(`dir=$(postconf -h daemon_directory) && cp -p $dir/postfix-script $dir/postfix-script.real &&
	sed -i '1a [ "$1" = check ] && { sleep 12; exit 0; }' $dir/postfix-script`)
	next = s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0).WantProblem("postfix_check_slow")
	m.Serves(next)
}

func serverNameTables(s *S) {
	m := s.Boot(Ready)
	live := m.Lineage("mail.example.org", s.Pair())
	m.Postcert("install-cert", live).Want(0)
	kinds := []string{m.Sh("postconf -h default_database_type")}
	for _, kind := range []string{"hash", "lmdb", "cdb"} {
		if kind != kinds[0] && m.Try("postconf -m | grep -qx "+kind).Status == 0 {
			kinds = append(kinds, kind)
		}
	}
	for _, kind := range kinds {
		s.Step("%s", kind)
		m.shopTable(kind, live)
	}
}

// shopTable stages a table of that type with a certificate for one name.
func (m *Machine) shopTable(kind, live string) {
	m.s.Helper()
	shop := m.s.Pair("shop.example.org")
	put := func(p *Pair) {
		m.Write("/etc/ssl/private/shop.pem", string(p.KeyPEM())+string(p.FullchainPEM()), 0o600)
	}
	put(shop)
	m.Write("/etc/postfix/sni", "shop.example.org /etc/ssl/private/shop.pem\n", 0o644)
	m.Sh("postmap -F " + kind + ":/etc/postfix/sni && chmod 600 /etc/postfix/sni.* && postconf -e tls_server_sni_maps=" + kind + ":/etc/postfix/sni && systemctl restart postfix")
	next := m.s.Pair()
	m.s.WaitFor("the table", time.Minute, func() bool {
		chain, err := m.Presented("127.0.0.1:25", "-servername", "shop.example.org")
		return err == nil && fingerprint(chain[0]) == LeafOf(shop)
	})
	m.Lineage("mail.example.org", next)
	m.Postcert("install-cert", live).Want(0)
	m.Serves(next)
	m.shows(shop)

	m.s.Step("%s: its certificate is renewed, the table is not", kind)
	newer := m.s.Pair("shop.example.org")
	m.Sh("sleep 1.1") // times of files are compared
	put(newer)
	m.Postcert("renew").Want(8).WantProblem("drift_table")
	m.shows(shop)
	m.Write("/etc/postcert/postcert.yaml", "instances: [{config_directory: /etc/postfix, drift: repair}]\n", 0o644)
	m.Postcert("renew").Want(0)
	m.Sh("rm /etc/postcert/postcert.yaml")
	m.Postcert("status").Want(0)
	m.shows(newer)
}

// shows fails the scenario unless each listener presents p for shop.example.org.
func (m *Machine) shows(p *Pair) {
	m.s.Helper()
	for _, addr := range Listeners {
		if got := m.Leaf(addr, "-servername", "shop.example.org"); got != LeafOf(p) {
			m.s.Errorf("%s presents %.8s for shop.example.org, want %.8s", addr, got, LeafOf(p))
		}
	}
}
