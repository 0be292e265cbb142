package main

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

func init() {
	register(
		Scenario{ID: "S25", Title: "the hook runs while Postfix is stopped, then masked: installed, not called verified", Run: postfixStopped},
		Scenario{ID: "S30", Title: "two hooks and the daemon at the same time: one deploy", Run: hooksAndDaemon},
		Scenario{ID: "S03", Title: "a writer is half-way while the daemon watches and clients connect", Run: halfWay},
		Scenario{ID: "S31 kill", Title: "SIGKILL in a deploy: settled at once by postcert-recover.path", Run: killedDeploy},
		Scenario{ID: "S31 power", Title: "a power cut in a deploy: settled before Postfix starts", Run: powerCutHeld},
		Scenario{ID: "S31 reboot", Title: "a reboot in a deploy: settled before the first connection", Run: rebooted},
		Scenario{ID: "notify", Title: "the sandboxed daemon refuses a pair, and postmaster has a mail", Run: mailFromDaemon},
		Scenario{ID: "upgrade", Title: "the package is upgraded while the daemon runs", Long: true, Run: upgraded},
		Scenario{ID: "purge", Title: "the package is removed, then purged; Postfix goes on", Run: purged},
	)
}

// openJournal is there while a deploy has changed, or may have changed, Postfix.
const openJournal = "/var/lib/postcert/journal/open.json"

// hook is a deploy hook's call, as certbot makes it.
func hook(live string) string {
	return "env RENEWED_LINEAGE=" + live + " RENEWED_DOMAINS=mail.example.org postcert hook"
}

// gone waits until a file is no longer there.
func (m *Machine) gone(path string, bound time.Duration) {
	m.s.Helper()
	m.s.WaitFor("the end of "+path, bound, func() bool { return m.Try("[ ! -e "+path+" ]").Status == 0 })
}

func postfixStopped(s *S) {
	m := s.Boot(Ready)
	units := "postfix.service"
	if m.Release.Number < 13 { // postfix.service is a dummy there
		units += " postfix@-.service"
	}
	for _, how := range []struct{ down, up string }{
		{"systemctl stop " + units, ":"},
		{"systemctl mask --now " + units, "systemctl unmask " + units},
	} {
		s.Step("%s", how.down)
		next := s.Pair()
		live := m.Lineage("mail.example.org", next)
		m.Sh(how.down)
		s.WaitFor("the end of Postfix", time.Minute, func() bool { return m.Try("postfix status").Status != 0 })
		if r := m.Try(hook(live)); r.Status != 9 || r.Stderr == "" {
			s.Errorf("the hook: exit status %d, want 9 and a word about it", r.Status)
		}
		if m.Try("postfix status").Status == 0 {
			s.Errorf("the hook has started a Postfix that was stopped")
		}
		m.notWell()
		m.Sh(how.up)
		m.Sh("systemctl start postfix.service")
		m.WaitServes(next, time.Minute)
		m.Postcert("renew").Want(0)
		m.allWell()
	}
}

// fromLineage is a Ready machine whose certificate is one of postcert's, from a
// lineage.
func (s *S) fromLineage() (m *Machine, live string, now *Pair) {
	s.Helper()
	m, now = s.Boot(Ready), s.Pair()
	live = m.Lineage("mail.example.org", now)
	m.Postcert("install-cert", live).Want(0)
	m.Serves(now)
	return m, live, now
}

func hooksAndDaemon(s *S) {
	m, live, _ := s.fromLineage()
	m.Sh("systemctl start postcert.service")
	before, generations := m.reloads(), m.generations()
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	jobs := []*Job{m.Go(hook(live)), m.Go(hook(live))}
	for _, j := range jobs {
		if r := j.Wait(); r.Status != 0 {
			s.Errorf("a hook: exit status %d, want 0", r.Status)
		}
	}
	m.Serves(next)
	s.WaitFor("the daemon", time.Minute, func() bool { return m.Try("postcert status").Status == 0 })
	time.Sleep(2 * time.Second) // the daemon waits for the last of the files to settle
	if now := m.reloads(); now != before+1 {
		s.Errorf("%d reloads for one new certificate", now-before)
	}
	if now := m.generations(); now != generations+1 {
		s.Errorf("%d generations for one new certificate", now-generations)
	}
	m.Serves(next)
	m.allWell()
	m.Sh("systemctl stop postcert.service")
}

// generations counts what is kept of the certificate's files.
func (m *Machine) generations() int {
	m.s.Helper()
	n, err := strconv.Atoi(m.Sh("find /var/lib/postcert/generations -name meta.json | wc -l"))
	if err != nil {
		m.s.Fatal(err)
	}
	return n
}

// clients connects to port 25, one session after the other, until stop is called,
// which returns how many there were. Each must see one of the pairs.
func (m *Machine) clients(pairs ...*Pair) (stop func() int) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	sessions := 0
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			chain, err := m.Presented("127.0.0.1:25")
			if err != nil {
				if m.running() { // else the scenario has ended without stop
					m.s.Errorf("a client: %v", err)
				}
				return
			}
			known := false
			for _, p := range pairs {
				known = known || fingerprint(chain[0]) == LeafOf(p)
			}
			if !known {
				m.s.Errorf("a client sees a leaf that is neither the old nor the new one")
			}
			sessions++
			time.Sleep(50 * time.Millisecond)
		}
	})
	return func() int { close(end); wg.Wait(); return sessions }
}

func halfWay(s *S) {
	m, live, old := s.fromLineage()
	m.Sh("systemctl start postcert.service")
	next := s.Pair()
	stop := m.clients(old, next)
	archive := "/etc/letsencrypt/archive/mail.example.org"
	key := string(next.KeyPEM())
	m.Write(archive+"/cert2.pem", string(next.CertPEM()), 0o644)
	m.Write(archive+"/chain2.pem", string(next.ChainPEM()), 0o644)
	m.Write(archive+"/fullchain2.pem", string(next.FullchainPEM()), 0o644)
	m.Sh("cd " + live + " && for f in cert chain fullchain; do ln -sfn ../../archive/mail.example.org/${f}2.pem $f.pem; done")
	time.Sleep(4 * time.Second)
	m.Serves(old)
	m.Write(archive+"/privkey2.pem", key[:len(key)/2], 0o600)
	m.Sh("cd " + live + " && ln -sfn ../../archive/mail.example.org/privkey2.pem privkey.pem")
	time.Sleep(2 * time.Second)
	m.Serves(old)
	m.Write(archive+"/privkey2.pem", key, 0o600)
	m.WaitServes(next, 2*time.Minute)
	if n := stop(); n < 10 {
		s.Errorf("%d sessions of clients, want 10 at least", n)
	}
	s.WaitFor("the end of the deploy", time.Minute, func() bool { return m.Try("postcert status").Status == 0 })
	m.allWell()
}

// holdDir is where a held deploy and a scenario meet. Not in /tmp: the units have
// one of their own.
const holdDir = "/var/lib/held"

// holder is another daemon's reload command, which the deploy calls when Postfix
// serves the new certificate already and the journal is still open. Once armed it
// waits there; only the first call does, because an undo makes one too.
const holder = `#!/bin/sh
rm ` + holdDir + `/armed 2>/dev/null || exit 0
: >` + holdDir + `/held
n=0
while [ ! -e ` + holdDir + `/go ] && [ $n -lt 1200 ]; do sleep 0.1; n=$((n + 1)); done
`

// held is a machine whose deploy of next is under way in a unit, as a client's
// would be: Postfix serves next, and the journal is open.
func (s *S) held() (m *Machine, old, next *Pair) {
	s.Helper()
	m = s.Boot(Ready)
	m.Write("/usr/local/sbin/hold", holder, 0o755)
	m.Write("/etc/postcert/postcert.yaml", "companions:\n  - {name: held, reload: [/usr/local/sbin/hold]}\n", 0o600)
	old, next = s.Pair(), s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", old)).Want(0)
	m.Serves(old)
	live := m.Lineage("mail.example.org", next)
	m.Sh("mkdir -p " + holdDir + " && touch " + holdDir + "/armed")
	// Going down, systemd stops Postfix at the same time, and the deploy's undo then
	// waits for it until the unit's time is over: 90 s, if nobody says less.
	m.Sh("systemd-run --unit=client --no-block --service-type=oneshot -p TimeoutStopSec=10s /usr/bin/postcert install-cert " + live)
	s.WaitFor("the deploy, half-way", 2*time.Minute, func() bool { return m.Try("[ -e "+holdDir+"/held ]").Status == 0 })
	m.Serves(next)
	if m.Try("[ -e "+openJournal+" ]").Status != 0 {
		s.Fatalf("no journal is open in the middle of a deploy")
	}
	return m, old, next
}

// servesOneOf fails the scenario unless all listeners present the same one of two
// pairs, whole.
func (m *Machine) servesOneOf(old, next *Pair) *Pair {
	m.s.Helper()
	for _, p := range []*Pair{old, next} {
		if m.Leaf(Listeners[0]) == LeafOf(p) {
			m.Serves(p)
			return p
		}
	}
	m.s.Fatalf("port 25 presents neither the old nor the new certificate")
	return nil
}

// wholeAgain says what must hold after a deploy that was interrupted, however it was.
func (m *Machine) wholeAgain(old, next *Pair) {
	m.s.Helper()
	m.servesOneOf(old, next)
	if m.Try("[ -e "+openJournal+" ]").Status == 0 {
		m.s.Errorf("the journal is open")
	}
	m.s.Step("the next deploy is an ordinary one")
	m.Postcert("install-cert", certbotLive).Want(0)
	m.Serves(next)
	m.allWell()
}

func killedDeploy(s *S) {
	m, old, next := s.held()
	m.Sh("kill -9 $(pgrep -x postcert)")
	m.gone(openJournal, 3*time.Minute)
	s.WaitFor("the end of recover", 3*time.Minute, func() bool {
		return m.Sh("systemctl show -p ActiveState --value postcert-recover.service") == "inactive"
	})
	if started := m.Sh("systemctl show -p ExecMainStartTimestampMonotonic --value postcert-recover.service"); started == "0" {
		s.Errorf("postcert-recover.service did not run")
	}
	m.wholeAgain(old, next)
}

// firstUnit tells, after a boot, what the first session on port 25 was shown.
const firstUnit = `[Unit]
Description=The first client
[Service]
ExecStart=/bin/sh -c 'n=0; until openssl s_client -connect 127.0.0.1:25 -starttls smtp -showcerts </dev/null >/var/lib/held/try 2>/dev/null || [ $n -gt 600 ]; do n=$((n+1)); sleep 0.05; done; mv /var/lib/held/try /var/lib/held/first'
[Install]
WantedBy=multi-user.target
`

// watchBoot makes the machine record what its next first client is shown.
func (m *Machine) watchBoot() {
	m.s.Helper()
	m.Write("/etc/systemd/system/first-client.service", firstUnit, 0o644)
	m.Sh("rm -f " + holdDir + "/first && systemctl enable first-client.service")
}

// settledAtBoot fails the scenario unless the boot settled the deploy before the
// real unit of Postfix started, and the first client saw what is served now.
func (m *Machine) settledAtBoot(old, next *Pair, open bool) {
	m.s.Helper()
	if open {
		real := "postfix.service"
		if m.Release.Number < 13 {
			real = "postfix@-.service"
		}
		ended := m.when("InactiveEnterTimestampMonotonic", "postcert-recover-boot.service")
		started := m.when("InactiveExitTimestampMonotonic", real)
		if ended == 0 || started == 0 || ended > started {
			m.s.Errorf("recovery ended at %d µs of the monotonic clock, 0 is never, and %s began at %d", ended, real, started)
		}
		if result := m.Sh("systemctl show -p Result --value postcert-recover-boot.service"); result != "success" {
			m.s.Errorf("postcert-recover-boot.service: %s", result)
		}
	}
	m.s.WaitFor("the first client", time.Minute, func() bool { return m.Try("[ -e "+holdDir+"/first ]").Status == 0 })
	now := m.servesOneOf(old, next)
	if first := m.inFile(holdDir + "/first"); LeafOf(first) != LeafOf(now) {
		m.s.Errorf("the first client saw %.8s, served is %.8s", LeafOf(first), LeafOf(now))
	}
}

// when is a time that systemd keeps of a unit, in µs of the monotonic clock, which
// is the host's; 0 is never.
func (m *Machine) when(property, unit string) int64 {
	m.s.Helper()
	n, err := strconv.ParseInt(m.Sh("systemctl show -p "+property+" --value "+unit), 10, 64)
	if err != nil {
		m.s.Fatal(err)
	}
	return n
}

func powerCutHeld(s *S) {
	m, old, next := s.held()
	m.watchBoot()
	m.Kill()
	m.Boot()
	m.settledAtBoot(old, next, true)
	m.wholeAgain(old, next)
}

func rebooted(s *S) {
	m, old, next := s.held()
	m.watchBoot()
	m.Reboot()
	// The deploy was asked to end, and may have undone itself while going down.
	open := m.Sh("journalctl -q --no-pager -b -1 -o cat -u client.service | tail -n 3; systemctl show -p ConditionResult --value postcert-recover-boot.service")
	m.settledAtBoot(old, next, strings.HasSuffix(open, "yes"))
	m.wholeAgain(old, next)
}

func mailFromDaemon(s *S) {
	m, _, now := s.fromLineage()
	m.Sh("systemctl start postcert.service")
	m.Lineage("mail.example.org", s.Pair("other.example.org"))
	m.wantMail("mail.example.org")
	m.Serves(now)
	m.notWell()
	s.Step("a good pair ends it")
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	m.WaitServes(next, 2*time.Minute)
	s.WaitFor("the end of the deploy", time.Minute, func() bool { return m.Try("postcert status").Status == 0 })
	m.allWell()
}

// nextPackage makes a newer version of the package in the machine, and returns
// its file.
func (m *Machine) nextPackage() string {
	m.s.Helper()
	m.Sh("dpkg-deb -R " + toolsDir + "/postcert.deb /root/next && sed -i 's/^Version: .*/Version: 99.0/' /root/next/DEBIAN/control && dpkg-deb -Zgzip -b /root/next /root/next.deb")
	return "/root/next.deb"
}

func upgraded(s *S) {
	m, _, now := s.fromLineage()
	m.Sh("systemctl enable --now postcert.service")
	daemon := "systemctl show -p MainPID --value postcert.service"
	was, pid, before := m.Sh(daemon), m.MasterPID(), m.Configuration()
	stop := m.clients(now)
	m.Sh("dpkg -i " + m.nextPackage())
	if v := m.Sh("dpkg-query -W -f '${Version}' postcert"); v != "99.0" {
		s.Fatalf("version %s is installed", v)
	}
	if n := stop(); n == 0 {
		s.Errorf("no client had a session during the upgrade")
	}
	is := m.Sh(daemon)
	if is == was || is == "0" {
		s.Errorf("the daemon is process %s, was %s", is, was)
	}
	if exe := m.Sh("readlink /proc/" + is + "/exe"); exe != "/usr/bin/postcert" {
		s.Errorf("the daemon's program is %s", exe)
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("the upgrade has changed %q", changed)
	}
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	m.WaitServes(next, 2*time.Minute)
	s.WaitFor("the end of the deploy", time.Minute, func() bool { return m.Try("postcert status").Status == 0 })
	m.allWell()
}

func purged(s *S) {
	m, _, now := s.fromLineage()
	m.Sh("systemctl enable --now postcert.service")
	pid, stop := m.MasterPID(), m.clients(now)
	for _, by := range []struct{ how, says string }{{"-r", tlsFile}, {"-P", "/var/lib/postcert/generations"}} {
		said := m.Sh("dpkg " + by.how + " postcert 2>&1")
		if !strings.Contains(said, by.says) {
			s.Errorf("dpkg %s does not say that %s stays", by.how, by.says)
		}
		if left := m.Try("pgrep -x postcert").Stdout; left != "" {
			s.Errorf("dpkg %s leaves processes: %s", by.how, left)
		}
		m.Sh("postfix check && postfix reload")
		m.WaitServes(now, time.Minute)
	}
	if n := stop(); n == 0 {
		s.Errorf("no client had a session")
	}
	if left := m.Sh("find /etc/systemd/system -name 'postcert*'; systemctl list-units --all --no-legend 'postcert*' --state=active"); left != "" {
		s.Errorf("units are left: %s", left)
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	s.Step("installed again, the way back is there")
	s.InstallPackage(m)
	m.Postcert("release").Want(0)
	m.WaitServes(m.First, time.Minute)
}
