package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// watching is a configuration in which another client renews a lineage.
func (h *host) watching(lineage string) string {
	h.t.Helper()
	conf := filepath.Join(h.dir, "watch.yaml")
	h.write(conf, []byte(fmt.Sprintf("certificates: [{name: %s, source: watch, lineage: %s}]\ninstances: [{config_directory: %s, certificate: %[1]s}]\ntrust: [%[4]s]\n",
		hostName, lineage, h.pf.ConfigDir, h.trust)))
	return conf
}

// A key that does not match is refused once and not again by the daemon's passes,
// while status says no and why; a changed pair is deployed at the next pass, and
// so is one after the configuration was changed.
func TestRefusedForGood(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	lineage := h.lineage(certtest.Leaf{})
	conf := h.watching(lineage)
	pass := func() answer {
		return h.postcert("renew", hostName, "--scheduled", "--interval", "0s", "--config", conf, "--json")
	}
	pass().want(0)
	good := h.leafOf(lineage)
	h.only25(good)
	h.postcert("status", "--config", conf).want(0)

	key := h.read(filepath.Join(h.lineage(certtest.Leaf{}), "privkey.pem"))
	h.write(filepath.Join(lineage, "privkey.pem"), key)
	if a := pass().want(3); !a.has("key_mismatch") {
		t.Errorf("%v", a.ids())
	}
	for range 2 {
		pass().want(0).says("refused before")
	}
	r := h.record()
	if r.Refused == nil || r.Refused.ID != "key_mismatch" || r.Failures != 1 || !r.NextAttempt.IsZero() || strings.Contains(r.Refused.Inputs, "/") {
		t.Errorf("%+v %+v", r, r.Refused)
	}
	if a := h.postcert("status", "--config", conf, "--json").want(8); !a.has("deploy_refused") {
		t.Errorf("status: %v", a.ids())
	}
	h.postcert("status", "--config", conf, "--nagios").want(2).says("deploy_refused")
	h.only25(good)

	h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, lineage)
	pass().want(0)
	h.only25(h.leafOf(lineage))
	if h.leafOf(lineage) == good {
		t.Error("the lineage was not renewed")
	}
	h.postcert("status", "--config", conf).want(0)
}

// S40, as it is without a hook: a deploy of renew that fails is not forgotten.
// Status says no until it agrees, tells when it is tried again, and the same pair is
// deployed by a later pass once the cause is mended, and not before its time.
func TestS40FailedDeploy(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	lineage := h.lineage(certtest.Leaf{})
	conf, clock := h.watching(lineage), filepath.Join(h.dir, "clock")
	at := h.with(childClock + "=" + clock)
	pass := func(on *host) answer {
		return on.postcert("renew", hostName, "--scheduled", "--interval", "0s", "--config", conf, "--json")
	}
	pass(h).want(0)
	h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, lineage)
	pass(h.with(failAt + "=Reload 1")).want(4)
	status := func(want int) answer { return at.postcert("status", "--config", conf, "--json").want(want) }
	if a := status(8); !a.has("wanted_not_installed") || a.certificate(0)["next_event"].(map[string]any)["time"] == nil {
		t.Errorf("%v: %v", a.ids(), a.certificate(0)["next_event"])
	}
	h.postcert("status", "--config", conf).want(8).says("next deploy").says("Reload fails in this test")
	pass(h).want(0).says("the last deploy failed")
	status(8)
	h.write(clock, []byte("2m"))
	pass(at).want(0)
	h.only25(h.leafOf(lineage))
	status(0)
}

// S25: Postfix is stopped. Status says so once, for people and for monitors, and the
// daily probe remembers it and takes it back.
func TestS25Status(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0)
	if p := guideline(t, h.postcert("status", "--nagios").want(0).stdout); p.word != "OK" || len(p.perf) != 2 || !h.daysAgree(p, l) {
		t.Errorf("%+v", p)
	}
	h.pf.Stop()
	if a := h.postcert("status").want(8); strings.Count(a.stdout, "[not_running]") != 1 {
		t.Error(a.stdout)
	}
	if p := guideline(t, h.postcert("status", "--nagios").want(2).stdout); p.word != "CRITICAL" || len(p.perf) != 1 {
		t.Errorf("%+v", p)
	}
	if a := h.postcert("renew", "--json").want(8); !a.has("not_running") {
		t.Errorf("%v", a.ids())
	}
	if r := h.record(); r.Served == nil || r.Served.Agrees || r.Drift != nil || r.Served.Words != "Postfix is not running" {
		t.Errorf("%+v %+v", r.Served, r.Drift)
	}
	h.pf.Start()
	h.postcert("renew").want(0).says("proven on 1 listener")
	if r := h.record(); !r.Served.Agrees {
		t.Errorf("%+v", r.Served)
	}
}

// While a deploy is under way status does not cry that it was interrupted: it waits
// a little, and then says what it sees, as a warning.
func TestStatusDuringChange(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	l := h.lineage(certtest.Leaf{})
	short := h.with(testDeadline + "=500ms")
	h.during("commit end", func() {
		a := short.postcert("status", "--json").want(8)
		if !a.has("change_running") || a.has("transaction_open") {
			t.Errorf("%v", a.ids())
		}
		if p := guideline(t, short.postcert("status", "--nagios").want(1).stdout); p.word != "WARNING" {
			t.Errorf("%+v", p)
		}
	}, "install-cert", l).want(0)
	h.postcert("status").want(0)
}

// daysAgree compares the days of the performance data with what openssl reads in the
// certificate.
func (h *host) daysAgree(p plugin, lineage string) bool {
	h.t.Helper()
	for label, m := range p.perf {
		for _, tt := range []struct {
			days float64
			want bool // that the certificate is valid then
		}{{m.value - 0.02, true}, {m.value + 0.02, false}} {
			if got := validFor(h.t, filepath.Join(lineage, "fullchain.pem"), tt.days); got != tt.want {
				h.t.Errorf("%s: %v days; openssl says that it is valid in %v days: %v", label, m.value, tt.days, got)
				return false
			}
		}
	}
	return true
}

// validFor asks openssl whether a certificate is valid in so many days.
func validFor(t *testing.T, file string, days float64) bool {
	t.Helper()
	seconds := int(days * (24 * time.Hour).Seconds())
	return runs("openssl", "x509", "-noout", "-in", file, "-checkend", fmt.Sprint(seconds))
}

// An installed certificate that has expired, and one whose record says nothing.
func TestStatusExpired(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	clock := filepath.Join(h.dir, "clock")
	later := h.with(childClock + "=" + clock)
	for _, tt := range []struct {
		by     time.Duration
		status int
		word   string
		id     string
	}{{60 * aDay, 0, "OK", ""}, {70 * aDay, 0, "WARNING", "source_stale"}, {75 * aDay, 0, "WARNING", "expires_soon"}, {85 * aDay, 0, "CRITICAL", "expires_soon"}, {92 * aDay, 8, "CRITICAL", "cert_expired"}} {
		h.write(clock, []byte(tt.by.String()))
		a := later.postcert("status", "--json").want(tt.status)
		if tt.id != "" && !a.has(tt.id) || tt.id == "" && len(a.ids()) > 0 {
			t.Errorf("in %v: %v, want %s", tt.by, a.ids(), tt.id)
		}
		if p := guideline(t, later.postcert("status", "--nagios").stdout); p.word != tt.word {
			t.Errorf("in %v: %s, want %s", tt.by, p.word, tt.word)
		}
	}
	_ = os.Remove(clock)
}

func runs(name string, args ...string) bool { return exec.Command(name, args...).Run() == nil }
