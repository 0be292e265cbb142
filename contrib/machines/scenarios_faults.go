package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "S21", Title: "a typo in main.cf that disables TLS: found before production meets it", Run: typo},
		Scenario{ID: "S22", Title: "STARTTLS answers 454 before we start: said, and repaired", Run: brokenBefore},
		Scenario{ID: "S24", Title: "a line of master.cf at which the master exits: refused; else Postfix is started again", Run: masterExits},
		Scenario{ID: "S28 chroot", Title: "chroot y and n: new, renewed, mismatch, override, typo", Run: chroots},
		Scenario{ID: "S28 ipv6", Title: "IPv6 only, then named interfaces: new, renewed, mismatch, override, typo", Run: protocols},
		Scenario{ID: "S28 level", Title: "compatibility_level 0 and the newest: new, renewed, mismatch, override, typo", Run: levels},
		Scenario{ID: "S32", Title: "the rollback fails, read-only: exit 5, what to do; recover ends it", Run: rollbackFails},
		Scenario{ID: "Postfix agrees", Title: "postfix check, the log, postfix tls and posttls-finger say the same", Run: postfixAgrees},
	)
}

// badProtocols is a line that "postfix check" accepts and that switches TLS off.
const badProtocols = "smtpd_tls_protocols = !SSLv3 #"

func typo(s *S) {
	m := s.Boot(Ready)
	m.typoRefused(m.First, Listeners)
}

// typoRefused puts a typo into main.cf, which production has not read yet, and takes
// it away again.
func (m *Machine) typoRefused(serving *Pair, listeners []string) {
	m.s.Helper()
	// Postfix reads it in each new smtpd, so nobody looks at the listeners meanwhile.
	m.Sh("cp -p /etc/postfix/main.cf /root/good.cf && echo '" + badProtocols + "' >>/etc/postfix/main.cf && postfix check")
	before, pid := m.Configuration(), m.MasterPID()
	live := m.Lineage("typo.example.org", m.s.Pair())
	m.Postcert("install-cert", "--name", lineageName, live).Want(3).WantProblem("rehearsal_refused").says("Invalid TLS protocol list")
	if changed := before.Changed(m.Configuration()); changed != nil || m.MasterPID() != pid {
		m.s.Errorf("refused, but changed: %q, or another master", changed)
	}
	m.aged("cat /root/good.cf >main.cf")
	m.WaitServes(serving, time.Minute, listeners...)
}

func brokenBefore(s *S) {
	m := s.Boot(Ready)
	m.Write("/etc/ssl/private/other.key", string(s.Pair().KeyPEM()), 0o600)
	m.aged("postconf -e smtpd_tls_key_file=/etc/ssl/private/other.key")
	s.WaitFor("the end of TLS", time.Minute, func() bool {
		_, err := m.Presented(Listeners[0])
		return err != nil
	})
	talk := m.Try(`(sleep 1; printf 'EHLO client.example.org\r\n'; sleep 1; printf 'STARTTLS\r\n'; sleep 1; printf 'QUIT\r\n'; sleep 1) | socat - TCP:127.0.0.1:25`)
	if !strings.Contains(talk.Stdout, "250-STARTTLS") || !strings.Contains(talk.Stdout, "454 4.7.0") {
		s.Fatalf("this is not the situation: STARTTLS announced, and 454")
	}
	next := s.Pair()
	r := m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0).WantProblem("broken_before").says("454")
	m.Serves(next)
	if !strings.Contains(fmt.Sprint(r.Get("problems")), "127.0.0.1:25") {
		s.Errorf("it does not say which listener was broken")
	}
}

// wrapped puts a script in the place of postfix(1), which it runs in turn: script
// runs once, before the first reload. If it fails, so does the reload.
func (m *Machine) wrapped(script string) {
	m.s.Helper()
	m.Write("/opt/postfix/before-reload", "set -e\n"+script+"\n", 0o700)
	m.Sh("mv /usr/sbin/postfix /opt/postfix/postfix")
	m.Write("/usr/sbin/postfix", `#!/bin/sh
for last; do :; done
if [ "$last" = reload ] && mv /opt/postfix/before-reload /opt/postfix/ran 2>/dev/null; then
	sh /opt/postfix/ran || exit 1
fi
exec /opt/postfix/postfix "$@"
`, 0o755)
}

// ran fails the scenario if the script of wrapped has not run.
func (m *Machine) ran() { m.s.Helper(); m.Sh("test -e /opt/postfix/ran") }

// masterExits has lines of master.cf that a reload would end the master with: what
// can be seen before is refused; what cannot ends it, and Postfix is started again.
func masterExits(s *S) {
	m := s.Boot(Ready)
	live := m.Lineage(lineageName, s.Pair())
	m.Sh("cp -p /etc/postfix/master.cf /root/good.cf")
	for _, bad := range []struct{ line, problem string }{
		{"broken inet n", "config_broken"},
		{"192.0.2.7:2465 inet n - y - - smtpd", "listener_not_bindable"},
	} {
		s.Step("%s", bad.line)
		m.Sh("echo '" + bad.line + "' >>/etc/postfix/master.cf")
		m.unchanged(m.First, func() { m.Postcert("install-cert", live).Want(3).WantProblem(bad.problem) })
		m.Sh("cp -p /root/good.cf /etc/postfix/master.cf")
	}

	s.Step("a port that is taken by another program after we have looked")
	m.Sh("echo '127.0.0.1:2526 inet n - y - - smtpd' >>/etc/postfix/master.cf && touch -d '10 seconds ago' /etc/postfix/master.cf")
	pid := m.pid()
	m.wrapped(`setsid sh -c 'socat TCP-LISTEN:2526,bind=127.0.0.1 /dev/null & holder=$!
	n=0; while kill -0 ` + pid + ` && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; kill $holder' >/dev/null 2>&1 </dev/null &
n=0; until ss -ltn | grep -q 127.0.0.1:2526 || [ $n -gt 600 ]; do sleep 0.05; n=$((n+1)); done`)
	before := m.Configuration()
	r := m.Postcert("install-cert", live).Want(4).WantProblem("rolled_back")
	m.ran()
	m.Serves(m.First)
	if now := m.pid(); now == pid {
		s.Errorf("the master has not exited: this is not the situation")
	}
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("rolled back, but changed: %q", changed)
	}
	if steps := fmt.Sprint(r.Get("transaction.cause")); !strings.Contains(steps, "master") {
		s.Errorf("the cause does not speak of the master: %s", steps)
	}
	// It runs where its own unit can stop it, and not below whoever has called us.
	if group := m.Sh("cat /proc/" + m.pid() + "/cgroup"); !strings.Contains(group, "postfix") {
		s.Errorf("the new master is in %s, not in the unit of Postfix", group)
	}
	next := s.Pair()
	m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
	m.Serves(next, append([]string{"127.0.0.1:2526"}, Listeners...)...)
}

// everywhere is what must hold in all surroundings: a new pair, a renewal, a key of
// another certificate, an override, a typo.
func (m *Machine) everywhere(listeners []string) {
	m.s.Helper()
	var next *Pair
	for range 2 {
		next = m.s.Pair()
		m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
		m.Serves(next, listeners...)
	}
	bad := m.s.Pair().WithKey(certtest.NewKey(m.s, "ecdsa"))
	m.Postcert("install-cert", "--name", lineageName, m.Lineage("bad.example.org", bad)).Want(3).WantProblem("key_mismatch")
	m.typoRefused(next, listeners)

	m.Sh("cp -p /etc/postfix/master.cf /root/good.cf")
	file := m.writePair("/etc/ssl/private/override.pem", m.s.Pair())
	m.Sh("postconf -P submissions/inet/smtpd_tls_cert_file=" + file)
	m.Postcert("install-cert", m.Lineage(lineageName, m.s.Pair())).Want(3).WantProblem("override_present").says("submissions/inet")
	m.Sh("cp -p /root/good.cf /etc/postfix/master.cf")
	m.Serves(next, listeners...)
}

func chroots(s *S) {
	m := s.Boot(Ready)
	for _, yes := range []string{"y", "n"} {
		s.Step("chroot %s", yes)
		m.aged("postconf -F smtp/inet/chroot=" + yes + " submission/inet/chroot=" + yes + " submissions/inet/chroot=" + yes)
		m.everywhere(onSixAddresses)
	}
}

func protocols(s *S) {
	m := s.Boot(Ready)
	six := []string{"[::1]:25", "[::1]:587", "[::1]:465"}
	m.aged("postconf -e inet_protocols=ipv6 && systemctl restart postfix")
	m.WaitServes(m.First, bootLimit, six...)
	m.everywhere(six)
	if sockets := m.Sh("ss -Hltn"); strings.Contains(sockets, "127.0.0.1:25 ") || strings.Contains(sockets, "0.0.0.0:25 ") {
		s.Errorf("Postfix listens on IPv4: this is not the situation")
	}
	m.aged("postconf -e inet_protocols=all inet_interfaces='127.0.0.1, [::1]' && systemctl restart postfix")
	next := s.Pair()
	s.WaitFor("port 25 on IPv4", bootLimit, func() bool { _, err := m.Presented("127.0.0.1:25"); return err == nil })
	m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
	m.Serves(next, onSixAddresses...)
}

func levels(s *S) {
	m := s.Boot(Ready)
	// Before 3.6 a level is a number, from then on a version of Postfix.
	newest := "2"
	if version := strings.Split(string(s.Release.Postfix), "."); s.Release.Postfix.AtLeast("3.6") {
		newest = strings.Join(version[:2], ".")
	}
	for _, level := range []string{"0", newest} {
		s.Step("level %s", level)
		m.aged("postconf -e compatibility_level=" + level)
		if got := m.Sh("postconf -h compatibility_level"); got != level {
			s.Fatalf("compatibility_level is %s, want %s", got, level)
		}
		m.everywhere(Listeners)
	}
}

// rollbackFails makes /etc/postfix read-only after main.cf was edited, and ends the
// master: nothing can be put back, yet mail must go on.
func rollbackFails(s *S) {
	m := s.Boot(Ready)
	state := "cd /etc/postfix; find . -path ./tls -prune -o -type f -printf '%p %m %u %g\\n' | sort; sha256sum *.cf"
	before := m.Sh(state)
	m.wrapped(`mount --bind /etc/postfix /etc/postfix
mount -o remount,bind,ro /etc/postfix
kill -9 $(cat /var/spool/postfix/pid/master.pid)`)
	next := s.Pair()
	r := m.Try("postcert install-cert " + m.Lineage(lineageName, next))
	if r.Status != 5 {
		s.Fatalf("exit status %d, want 5", r.Status)
	}
	for _, text := range []string{"[rollback_incomplete]", "read-only", "postcert recover", "postfix -c /etc/postfix"} {
		if !strings.Contains(r.Stdout+r.Stderr, text) {
			s.Errorf("it does not say %q", text)
		}
	}
	m.ran()
	m.Serves(next) // the one that main.cf names; the master was started again
	m.Postcert("status").Want(8)

	s.Step("writable again")
	m.Sh("umount /etc/postfix")
	// The unit that watches for it may be at work itself.
	s.WaitFor("recover", time.Minute, func() bool { return m.Try("postcert recover").Status == 0 })
	m.Serves(m.First)
	if now := m.Sh(state); now != before {
		s.Errorf("before:\n%s\nand after recover:\n%s", before, now)
	}
	m.Postcert("install-cert", m.Lineage(lineageName, s.Pair())).Want(0)
}

// postfixLog prints the journal; complaints takes Postfix's lines out of it.
const postfixLog = "journalctl -q --no-pager -o short"

// complaints are the texts of the lines of Postfix above the severity of information.
func complaints(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		_, text, _ := strings.Cut(strings.TrimSpace(line), "]: ")
		for _, severity := range []string{"warning: ", "error: ", "fatal: ", "panic: "} {
			if strings.Contains(line, " postfix/") && strings.HasPrefix(text, severity) {
				out = append(out, text)
			}
		}
	}
	return out
}

// postfixAgrees asks Postfix's own programs about what we have done.
func postfixAgrees(s *S) {
	m := s.Boot(Ready)
	check := m.Sh("postfix check 2>&1")
	m.aged(":") // what this release says of Debian's own main.cf, it says now
	m.WaitServes(m.First, time.Minute, onSixAddresses...)
	known := complaints(m.Sh(postfixLog))
	m.Sh("journalctl -q -n 1 --show-cursor | sed -n 's/^-- cursor: //p' >/root/cursor && test -s /root/cursor")
	var next *Pair
	for range 2 {
		next = s.Pair()
		m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
		m.Serves(next, onSixAddresses...)
	}
	if now := m.Sh("postfix check 2>&1"); now != check {
		s.Errorf("postfix check said %q and says %q", check, now)
	}
	s.Step("the log")
	log := m.Sh(postfixLog + " --after-cursor=\"$(cat /root/cursor)\"")
	for _, text := range complaints(log) {
		if !slices.Contains(known, text) {
			s.Errorf("new in the log: %s", text)
		}
	}
	if !strings.Contains(log, "reload") {
		s.Errorf("the log does not show our reload; what else does it not show?")
	}
	s.Step("postfix tls")
	records := strings.ToLower(m.Sh("postfix tls output-server-tlsa -h mail.example.org"))
	if want := "_25._tcp.mail.example.org. in tlsa 3 1 1 " + fingerprint(next.Cert.RawSubjectPublicKeyInfo); !strings.Contains(strings.Join(strings.Fields(records), " "), want) {
		s.Errorf("postfix tls output-server-tlsa shows\n%s\nwant %s", records, want)
	}
	s.Step("posttls-finger")
	digest := strings.ToUpper(LeafOf(next))
	var pairs []string
	for i := 0; i < len(digest); i += 2 {
		pairs = append(pairs, digest[i:i+2])
	}
	for _, where := range []string{`"[127.0.0.1]:25"`, `"[127.0.0.1]:587"`, `-w "[127.0.0.1]:465"`} {
		seen := m.Sh("posttls-finger -c -l secure -d sha256 -F /etc/ssl/certs/ca-certificates.crt " + where + " mail.example.org 2>&1")
		if !strings.Contains(seen, "Verified TLS connection established") {
			s.Errorf("posttls-finger %s does not verify it", where)
		}
		if want := strings.Join(pairs, ":"); !strings.Contains(seen, "fingerprint="+want) {
			s.Errorf("posttls-finger %s does not see %s", where, want)
		}
	}
}
