package main

import "strings"

func init() {
	register(
		Scenario{ID: "harden", Title: "harden by each profile, then its undo: served meanwhile, and byte for byte as before", Run: hardened},
		Scenario{ID: "outbound", Title: "the level for all and for a domain, in effect by postconf and postmap", Run: outbound},
	)
}

// hardened leaves the submission services out, as there is no SASL in a Ready
// machine: that is told, too.
func hardened(s *S) {
	m := s.Boot(Ready)
	before := m.Configuration()
	m.Postcert("harden", "--profile", "runbook").Want(3).WantProblem("sasl_missing")
	for _, profile := range []string{"runbook", "recommended", "strict"} {
		s.Step(profile)
		m.Postcert("harden", "--profile", profile, "--without-submission").Want(0)
		m.Serves(m.First)
		if before.Changed(m.Configuration()) == nil {
			s.Errorf("%s has changed nothing", profile)
		}
		m.Sh("postfix check")
		m.Postcert("harden", "--undo").Want(0)
		m.Serves(m.First)
		if changed := before.Changed(m.Configuration()); changed != nil {
			s.Errorf("%s and its undo leave changes in %q", profile, changed)
		}
	}
}

func outbound(s *S) {
	m := s.Boot(Ready)
	m.Postcert("outbound", "encrypt").Want(0)
	if level := m.Sh("postconf -xh smtp_tls_security_level"); level != "encrypt" {
		s.Errorf("the level is %q", level)
	}
	m.Postcert("policy", "set", "example.com", "secure").Want(0)
	maps := m.Sh("postconf -xh smtp_tls_policy_maps")
	if found := m.Sh("postmap -q example.com " + maps); !strings.HasPrefix(found, "secure") {
		s.Errorf("%s has %q for the domain", maps, found)
	}
	m.Postcert("policy", "remove", "example.com").Want(0)
	if found := m.Try("postmap -q example.com " + maps).Stdout; found != "" {
		s.Errorf("%s still has %q for the domain", maps, found)
	}
	m.Postcert("trust", "show").Want(0)
	m.Postcert("outbound", "may").Want(0)
	m.Serves(m.First)
	m.Sh("postfix check")
}
