package main

import (
	"slices"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "S00", Title: "fresh install of the package, then install-cert with shipped defaults", Run: freshInstall},
		Scenario{ID: "S01", Title: "a valid new pair on 25, 587 and 465; the same master goes on", Run: validPair},
		Scenario{ID: "S02", Title: "certificate and key do not match: refused, the old one is kept", Run: mismatch},
		Scenario{ID: "S33", Title: "the same pair again: unchanged, no reload", Run: samePair},
		Scenario{ID: "S34", Title: "a dry run rehearses and touches nothing", Run: dryRun},
		Scenario{ID: "rollback", Title: "rollback to the certificate before, also with Postfix stopped", Run: rollBack},
	)
}

// freshInstall begins with Debian as it is: its own snakeoil or no certificate.
func freshInstall(s *S) {
	m := s.Boot(Raw)
	first := s.Pair()
	s.MailServer(m, first)
	s.TrustCA(m)
	before := m.Configuration()
	s.InstallPackage(m)
	m.Serves(first)
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("installing the package has changed %q", changed)
	}
	s.Step("the first install")
	next := s.Pair()
	m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
	m.Serves(next)
	m.Sh("postfix check")
}

func validPair(s *S) {
	m := s.Boot(Ready)
	pid := m.MasterPID()
	for range 2 { // the first edits main.cf, the second is a renewal
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage("mail.example.org", next)).Want(0)
		if r.Get("transaction.rehearsed") != true {
			s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
		}
		m.Serves(next)
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
	m.Postcert("status").Want(0)
}

func mismatch(s *S) {
	m := s.Boot(Ready)
	before, pid := m.Configuration(), m.MasterPID()
	bad := s.Pair().WithKey(certtest.NewKey(s, "ecdsa"))
	m.Postcert("install-cert", m.Lineage("mail.example.org", bad)).Want(3).WantProblem("key_mismatch")
	m.Serves(m.First)
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("a refused pair has changed %q", changed)
	}
	if now := m.MasterPID(); now != pid {
		s.Errorf("the master is %s, was %s", now, pid)
	}
}

func samePair(s *S) {
	m := s.Boot(Ready)
	next := s.Pair()
	live := m.Lineage("mail.example.org", next)
	m.Postcert("install-cert", live).Want(0)
	before, reloads := m.Configuration(), m.reloads()
	m.Postcert("install-cert", live).Want(0)
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("the same pair has changed %q", changed)
	}
	if now := m.reloads(); now != reloads {
		s.Errorf("%d reloads, were %d", now, reloads)
	}
	m.Serves(next)
}

func dryRun(s *S) {
	m := s.Boot(Ready)
	before, reloads := m.Configuration(), m.reloads()
	next := s.Pair()
	r := m.Postcert("install-cert", "--dry-run", m.Lineage("mail.example.org", next)).Want(0)
	if r.Get("transaction.rehearsed") != true {
		s.Errorf("rehearsed: %v, want true", r.Get("transaction.rehearsed"))
	}
	bad := s.Pair().WithKey(certtest.NewKey(s, "ecdsa"))
	m.Postcert("install-cert", "--dry-run", m.Lineage("bad.example.org", bad)).Want(3).WantProblem("key_mismatch")
	if changed := before.Changed(m.Configuration()); changed != nil {
		s.Errorf("a dry run has changed %q", changed)
	}
	if now := m.reloads(); now != reloads {
		s.Errorf("%d reloads, were %d", now, reloads)
	}
	m.Serves(m.First)
}

func rollBack(s *S) {
	m := s.Boot(Ready)
	var pairs []*Pair
	for range 3 {
		p := s.Pair()
		pairs = append(pairs, p)
		m.Postcert("install-cert", m.Lineage("mail.example.org", p)).Want(0)
	}
	m.Serves(pairs[2])
	m.Postcert("rollback").Want(0)
	m.Serves(pairs[1])

	s.Step("with Postfix stopped")
	m.Sh("systemctl stop postfix")
	s.WaitFor("the end of Postfix", time.Minute, func() bool { return m.Try("postfix status").Status != 0 })
	m.Postcert("rollback").Want(9)
	if status := m.Try("postfix status").Status; status == 0 {
		s.Errorf("rollback has started a Postfix that was stopped")
	}
	m.Sh("systemctl start postfix")
	m.WaitServes(pairs[0], time.Minute)
}

// reloads counts the reloads in the log of Postfix.
func (m *Machine) reloads() int {
	m.s.Helper()
	return strings.Count(m.Sh("journalctl -q --no-pager -o cat -t postfix/master -t postfix"), "reload")
}

// Files are the SHA-256 of files by path.
type Files map[string]string

// Configuration is what is in /etc/postfix and what the state directory of
// postcert holds beside its lock and its records.
func (m *Machine) Configuration() Files {
	m.s.Helper()
	out := Files{}
	list := m.Sh("find /etc/postfix /var/lib/postcert/generations -type f -exec sha256sum {} + 2>/dev/null || :")
	for line := range strings.Lines(list) {
		if sum, path, found := strings.Cut(strings.TrimSpace(line), "  "); found {
			out[path] = sum
		}
	}
	return out
}

// Changed are the paths that differ.
func (f Files) Changed(now Files) []string {
	var out []string
	for path, sum := range f {
		if now[path] != sum {
			out = append(out, path)
		}
	}
	for path := range now {
		if _, was := f[path]; !was {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}
