package main

import (
	"strings"
	"time"
)

func init() {
	register(
		Scenario{ID: "killed", Title: "SIGKILL between reload and proof: undone within seconds by the path unit", Run: killedInstall},
		Scenario{ID: "unsettled", Title: "a journal that cannot be settled at boot: Postfix starts, and the unit has failed", Run: unsettledBoot},
		Scenario{ID: "timer", Title: "the timer's service deploys what another client renewed, in its sandbox", Run: timerDeploys},
		Scenario{ID: "daemonkill", Title: "the daemon and all its processes are killed in a deploy: settled, started again, deployed", Long: true, Run: daemonKilled},
		Scenario{ID: "daemonhangs", Title: "the daemon gives no sign of life: systemd starts it again, and Postfix goes on", Run: daemonHangs},
		Scenario{ID: "daemonstop", Title: "the daemon is stopped in a deploy: a completed rollback, and no failed unit", Run: daemonStopped},
		Scenario{ID: "beside", Title: "the timer's service does nothing while the daemon runs", Run: besideDaemon},
		Scenario{ID: "master", Title: "the master dies in a deploy by the timer's service: up in its own unit ten seconds later", Run: masterDies},
	)
}

const (
	journalFile = "/var/lib/postcert/journal/open.json"
	watchConfig = `certificates:
  - {name: mail.example.org, domains: [mail.example.org], source: watch, lineage: /etc/letsencrypt/live/mail.example.org}
`
)

// atReload runs a shell command in the machine at the moment when a deploy has asked
// for the reload and has not proven anything yet. It gives up after two minutes.
func (m *Machine) atReload(command string) *Job {
	return m.Go(`end=$(( $(date +%s) + 120 ))
while ! grep -qs reload /var/lib/postcert/journal/phase.json; do [ $(date +%s) -lt $end ] || exit 9; done
` + command)
}

// adopted is a machine whose Postfix serves an installed certificate.
func (s *S) adopted() (*Machine, *Pair) {
	m := s.Boot(Ready)
	p := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", p)).Want(0)
	m.Serves(p)
	return m, p
}

// interrupted leaves an install killed between reload and proof, with nobody to
// settle it.
func (s *S) interrupted() (*Machine, *Pair) {
	m, p := s.adopted()
	m.Sh("systemctl stop postcert-recover.path postcert-renew.timer")
	live := m.Lineage("mail.example.org", s.Pair())
	job := m.atReload("kill -9 $(cat /run/install.pid)")
	m.Try("sh -c 'echo $$ >/run/install.pid; exec postcert install-cert " + live + "'")
	if r := job.Wait(); r.Status != 0 {
		s.Fatal("the install was not caught at its reload")
	}
	m.Sh("test -e " + journalFile)
	return m, p
}

func (m *Machine) settled(bound time.Duration) {
	m.s.Helper()
	m.s.WaitFor("the journal to be closed", bound, func() bool { return m.Try("test ! -e "+journalFile).Status == 0 })
}

func killedInstall(s *S) {
	m, p := s.adopted()
	for range 2 { // a second time, because a unit that failed once must not stay away
		live := m.Lineage("mail.example.org", s.Pair())
		job := m.atReload("kill -9 $(cat /run/install.pid)")
		m.Try("sh -c 'echo $$ >/run/install.pid; exec postcert install-cert " + live + "'")
		if r := job.Wait(); r.Status != 0 {
			s.Fatal("the install was not caught at its reload")
		}
		m.settled(time.Minute)
		m.WaitServes(p, time.Minute)
		m.Sh("systemctl is-active postcert-recover.path && ! systemctl is-failed postcert-recover.service")
	}
	s.Step("deploys that end by themselves start no recovery")
	m.Sh("journalctl --rotate && journalctl --vacuum-time=1s")
	m.Postcert("install-cert", m.Lineage("mail.example.org", s.Pair())).Want(0)
	time.Sleep(2 * time.Second)
	if out := m.Try("journalctl -o cat -t postcert -u postcert-recover.service").Stdout; strings.Contains(out, "recover") {
		s.Errorf("a recovery ran: %s", out)
	}
}

func unsettledBoot(s *S) {
	m, _ := s.interrupted()
	m.Sh("echo x >" + journalFile + " && sync")
	m.Kill()
	m.Boot()
	m.Sh("systemctl is-failed postcert-recover-boot.service")
	s.WaitFor("Postfix", bootLimit, func() bool { return m.Try("postfix status").Status == 0 })
	m.Leaf("127.0.0.1:25")
}

func timerDeploys(s *S) {
	m, _ := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	for range 2 {
		p := s.Pair()
		m.Lineage("mail.example.org", p)
		m.Sh("systemctl start postcert-renew.service")
		m.Serves(p)
	}
	for _, r := range []string{"postcert-renew.service", "postcert-recover.service"} {
		m.Sh("! systemctl is-failed " + r)
	}
}

func daemonKilled(s *S) {
	m, _ := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	m.Sh("systemctl start postcert.service")
	p := s.Pair()
	job := m.atReload("systemctl kill -s KILL postcert.service")
	m.Lineage("mail.example.org", p)
	if r := job.Wait(); r.Status != 0 {
		s.Fatal("the deploy was not caught at its reload")
	}
	m.settled(time.Minute)
	m.WaitServes(p, 5*time.Minute) // by the daemon that systemd started again
	m.Sh("systemctl is-active postcert.service postcert-recover.path")
}

func daemonHangs(s *S) {
	m, p := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	m.Write("/etc/systemd/system/postcert.service.d/soon.conf", "[Service]\nWatchdogSec=3s\nRestartSec=1s\n", 0o644)
	m.Sh("systemctl daemon-reload && systemctl start postcert.service")
	main := "systemctl show -p MainPID --value postcert.service"
	first, master := m.Sh(main), m.MasterPID()
	time.Sleep(6 * time.Second) // twice the limit: a daemon that works is left alone
	if now := m.Sh(main); now != first {
		s.Errorf("the daemon was process %s and is %s, and it did not hang", first, now)
	}
	m.Sh("kill -STOP " + first)
	s.WaitFor("another daemon", time.Minute, func() bool {
		now := m.Sh(main)
		return now != "0" && now != first && m.Try("systemctl is-active postcert.service").Status == 0
	})
	m.Sh("journalctl -u postcert.service | grep -qi 'watchdog timeout'")
	if out := m.Sh("journalctl -u postcert.service"); strings.Contains(out, "PRIVATE KEY") {
		s.Errorf("a key is in the journal")
	}
	if m.MasterPID() != master {
		s.Errorf("the master of Postfix is another one")
	}
	m.Serves(p)
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	m.WaitServes(next, time.Minute)
}

func daemonStopped(s *S) {
	m, p := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	m.Sh("systemctl start postcert.service")
	next := s.Pair()
	job := m.atReload("systemctl stop postcert.service")
	m.Lineage("mail.example.org", next)
	if r := job.Wait(); r.Status != 0 {
		s.Fatal("the deploy was not stopped at its reload")
	}
	m.Sh("test ! -e " + journalFile + " && ! systemctl is-failed postcert.service")
	if m.differs(p, 1, Listeners) != "" {
		m.Serves(next) // it had been proven by then
	}
}

func besideDaemon(s *S) {
	m, _ := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	m.Sh("systemctl start postcert.service && systemctl start postcert-renew.service")
	if r := m.Sh("systemctl show -p Result --value postcert-renew.service"); r != "exec-condition" {
		s.Errorf("the timer's service ended with %q beside the daemon", r)
	}
	m.Sh("systemctl is-active postcert.service && systemctl stop postcert.service && systemctl start postcert-renew.service")
}

func masterDies(s *S) {
	m, p := s.adopted()
	m.Write("/etc/postcert/postcert.yaml", watchConfig, 0o644)
	unit := m.Sh("grep -o '[^/]*[.]service' /proc/" + m.MasterPID() + "/cgroup | sort -u")
	// Its process is known before: on a busy host the proof would be over before
	// postconf(1) had said where to look.
	job := m.atReload("kill -9 " + m.MasterPID())
	next := s.Pair()
	m.Lineage("mail.example.org", next)
	m.Try("systemctl start postcert-renew.service")
	if r := job.Wait(); r.Status != 0 {
		s.Fatal("the master was not killed")
	}
	time.Sleep(10 * time.Second)
	if now := m.Sh("grep -o '[^/]*[.]service' /proc/" + m.MasterPID() + "/cgroup | sort -u"); now != unit {
		s.Errorf("the master runs in %q, ran in %q", now, unit)
	}
	if m.differs(p, 1, Listeners) != "" {
		m.Serves(next)
	}
}
