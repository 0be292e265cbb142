package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// Runbook "Outbound: use TLS when available": with may, mail to a server without
// STARTTLS goes in clear, and to one with it, encrypted.
func TestRunbookOutboundMay(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true}, "")
	before := s.pf.Main()
	s.postcert("outbound", "may", "--dry-run").want(0).says("+smtp_tls_security_level = may").says("nothing was changed")
	s.effective(levelParameter, "")
	s.postcert("outbound", "may").want(0).says("sent in clear where it does not").says("no mail waits").says("postcert outbound default")
	s.effective(levelParameter, "may")
	log := s.send(domain)
	if !strings.Contains(log, "status=sent") || strings.Contains(log, "TLS connection") {
		t.Errorf("not in clear:\n%s", log)
	}
	cert := filepath.Join(s.dir, "mx.pem")
	postfixtest.WritePair(t, cert, mxName)
	s.serve(cert)
	s.sends(domain, "TLS connection established to "+domain, "status=sent")
	s.postcert("outbound", "may").want(0).says("unchanged")
	s.postcert("outbound", "default").want(0)
	if got := string(s.pf.Main()); got != string(before) {
		t.Errorf("main.cf is not as before:\n%s", got)
	}
}

// Runbook "Enforcing TLS on all outgoing e-mails": with encrypt, mail to a server
// without STARTTLS stays in the queue, and outbound says so before and after.
func TestRunbookEncryptQueues(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true}, "")
	s.postcert("outbound", "encrypt").want(0).says("will stay in the queue").says("outbound_holds_mail")
	s.effective(levelParameter, "encrypt")
	s.sends(domain, "status=deferred", "TLS is required, but was not offered")
	s.postcert("outbound", "encrypt", "--dry-run").want(0).says("user1@" + domain).says("TLS is required, but was not offered")
	cert := filepath.Join(s.dir, "mx.pem")
	postfixtest.WritePair(t, cert, mxName) // self-signed: encrypt does not ask
	s.serve(cert)
	s.sends(domain, "Untrusted TLS connection established", "status=sent")
}

// Runbook "Increase connection security": secure defers a self-signed receiver and
// delivers to one whose certificate a known CA has signed. S60: without trust
// anchors it is refused, before mail is deferred.
func TestRunbookSecure(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true}, "")
	self := filepath.Join(s.dir, "self.pem")
	postfixtest.WritePair(t, self, domain)
	s.serve(self)
	before := s.pf.Files()
	s.postcert("outbound", "secure").want(3).says("outbound_no_anchors").says("postcert trust set")
	for _, d := range postfixtest.Compare(before, s.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	s.pf.AppendMain("smtp_tls_CAfile = " + s.trust)
	s.postcert("outbound", "secure").want(0)
	s.sends(domain, "status=deferred", "Server certificate not")
	s.postcert("outbound", "secure").want(0).says("Server certificate not")
	s.serve(s.mxCert(t, domain))
	s.sends(domain, "Verified TLS connection established", "status=sent")
	s.serve(s.mxCert(t, "wrong.example"))
	s.sends(domain, "status=deferred", "Server certificate not verified")
}

// S60: a directory of trust anchors that the chroot hides is none; a file is read
// before the chroot.
func TestS60AnchorsInChroot(t *testing.T) {
	s := newHost(t, postfixtest.Options{Only25: true, Chroot: true, Main: []string{"smtp_tls_CApath = /etc/postcert-test-anchors"}})
	s.postcert("outbound", "verify").want(3).says("outbound_no_anchors").says("chroot")
	s.pf.AppendMain("smtp_tls_CAfile = " + s.trust)
	s.postcert("outbound", "verify").want(0)
	if got := s.pf.Postconf("-xh", levelParameter); got != "verify" {
		t.Errorf("smtp_tls_security_level = %q", got)
	}
}

// DANE without DNSSEC would be may without a word, or hold back all mail.
func TestOutboundDaneNeedsDNSSEC(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	h.untouchedOn25(func() {
		h.postcert("outbound", "dane").want(3).says("dane_no_dnssec").says("smtp_dns_support_level")
		h.postcert("outbound", "dane-only").want(3).says("dane_no_dnssec")
		h.postcert("outbound", "strict").want(2)
	})
}

// untouchedOn25 is untouched for a host with one listener.
func (h *host) untouchedOn25(f func()) {
	h.t.Helper()
	before, leaf := h.pf.Files(), h.served()
	f()
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		h.t.Errorf("changed: %s", d)
	}
	if got := h.served(); got != leaf {
		h.t.Errorf("%s is served, not %s", got, leaf)
	}
}

// What contradicts a level is named: parameters of before it, services with one of
// their own. They stay as they are.
func TestOutboundConflicts(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtp_use_tls = yes", "smtp_enforce_tls = no", "smtp_tls_per_site = inline:{x.example=NONE}"}})
	h.pf.ReplaceMaster("        -o syslog_name=postfix/$service_name\n", "        -o syslog_name=postfix/$service_name -o smtp_tls_security_level=none\n")
	master := h.pf.Master()
	h.postcert("outbound", "may").want(0).says("deprecated_ignored").says("smtp_enforce_tls").says("per_site_overrides").says("level_overridden").says("relay/unix")
	if !strings.Contains(string(h.pf.Main()), "smtp_use_tls = yes\n") || string(h.pf.Master()) != string(master) {
		t.Error("something else was taken away")
	}
}

// A level that somebody else sets before it is confirmed is not ours: what we did is
// undone, what he wrote is kept.
func TestOutboundNotInEffectIsUndone(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}})
	before := h.pf.Main()
	h.during("reload end", func() { h.pf.ReplaceMain("level = encrypt", "level = none") }, "outbound", "encrypt").
		want(4).says("rolled back").says("in effect is smtp_tls_security_level = none").says("kept")
	if got, want := string(h.pf.Main()), strings.Replace(string(before), "smtp_tls_security_level = may", "smtp_tls_security_level = none", 1); got != want {
		t.Errorf("main.cf is\n%s\nwant\n%s", got, want)
	}
}

// A change that is about no certificate survives a kill at each of its steps and at
// any operation: a map that main.cf names always answers, and after the next run text,
// index and main.cf are all as before, or all as planned.
func TestPolicyKilled(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	s := &sender{host: h}
	set := []string{"policy", "set", "example.org", "encrypt"}
	path := filepath.Join(h.pf.ConfigDir, "tls_policy")
	main, before := h.pf.Main(), h.pf.Files()
	reset := func() {
		sh(t, "rm -f %s %s.db", path, path)
		h.pf.SetMain(main)
		before = h.pf.Files()
		h.pf.Reload()
	}
	h.postcert(set...).want(0) // the first run makes directories
	reset()
	tr := h.traced(set...)
	reset()
	ends := map[string]int{}
	for _, point := range append(points(tr, "journal begin", 12), "ask end") {
		h.dies(point, set...)
		if h.pf.Postconf("-xh", policyParameter) != "" {
			s.found("hash:"+path, "example.org", "encrypt")
		}
		h.postcert("recover").want(0)
		if h.pf.Postconf("-xh", policyParameter) == "" {
			ends["old"]++
			for _, d := range postfixtest.Compare(before, h.pf.Files()) {
				t.Errorf("killed at %s: changed: %s", point, d)
			}
			continue
		}
		ends["new"]++
		s.found("hash:"+path, "example.org", "encrypt")
		if got, err := os.ReadFile(path); err != nil || string(got) != "example.org encrypt\n" {
			t.Errorf("killed at %s: %v: %q", point, err, got)
		}
		reset()
	}
	t.Logf("%d kills: %v", ends["old"]+ends["new"], ends)
	if ends["old"] == 0 || ends["new"] == 0 {
		t.Error("the kills did not cover both sides of the change")
	}
}

// What waits in the queue for another reason than TLS is not said to wait for it.
func TestOutboundWaiting(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may", "smtp_tls_policy_maps = inline:{other.example=encrypt}"}}, "")
	s.sends("other.example", "status=deferred", "TLS is required, but was not offered")
	s.mx.Stop()
	s.sends(domain, "status=deferred", "Connection refused")
	if ids := s.inQueue(); len(ids) != 2 {
		t.Fatalf("in the queue: %v", ids)
	}
	a := s.postcert("outbound", "encrypt", "--dry-run", "--json").want(0)
	waits := a.json()["outbound"].(map[string]any)["waiting"].([]any)
	if len(waits) != 1 || waits[0].(map[string]any)["recipient"] != "user1@other.example" {
		t.Errorf("waiting: %v", waits)
	}
}
