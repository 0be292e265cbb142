package main

import (
	"strings"
	"testing"
	"time"

	"postcert/acme"
	"postcert/cmd/postcert/internal/notify"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/problem"
)

// What the end of a deploy is told as, by its record.
func TestToldOfDeploy(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name  string
		rec   status.Record
		event notify.Event // "" if it is none
		known bool
		once  bool
	}{
		{"succeeded", status.Record{Wanted: "a", Installed: "a"}, "", true, false},
		{"another run was at work", status.Record{LastError: status.Failure{Exit: statusBusy}}, "", false, false},
		{"somebody stopped it", status.Record{LastError: status.Failure{Exit: statusTerminated}}, "", false, false},
		{"refused, and tried again", status.Record{Wanted: "a", Installed: "a", Retry: "b", LastError: status.Failure{Exit: statusRefused}}, notify.Failure, true, false},
		{"refused, by hand", status.Record{Wanted: "a", Installed: "a", LastError: status.Failure{Exit: statusRefused}}, notify.Failure, true, true},
		{"wanted and not there", status.Record{Wanted: "b", Installed: "a", LastError: status.Failure{Exit: statusFailed}}, notify.Failure, true, false},
		{"rolled back", status.Record{Wanted: "b", Installed: "a", LastError: status.Failure{Exit: statusRolledBack}}, notify.Rollback, true, false},
		{"half rolled back", status.Record{Wanted: "a", Installed: "a", LastError: status.Failure{Exit: statusIncomplete}}, notify.Incomplete, true, false},
		{"not verified", status.Record{Wanted: "a", Installed: "a", LastError: status.Failure{Exit: statusNotVerified}}, notify.Failure, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, known := ofDeploy(&tt.rec, inUse{}, now)
			if known != tt.known || known && (c != nil) != (tt.event != "") {
				t.Fatalf("%+v, known %v", c, known)
			}
			if known && c != nil && (c.Event != tt.event || c.Once != tt.once || c.Headline == "" || c.State == "") {
				t.Errorf("%+v", *c)
			}
		})
	}
}

// When an order that fails is told: at once if only a person can mend it, or if
// there is nothing to serve meanwhile; else after a day.
func TestToldOfOrder(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := &acme.Version{NotBefore: now.AddDate(0, -2, 0), NotAfter: now.AddDate(0, 1, 0)}
	for _, tt := range []struct {
		name  string
		st    acme.State
		d     acme.Decision
		told  bool
		grace time.Duration
	}{
		{"nothing failed", acme.State{Current: v}, acme.Decision{}, false, 0},
		{"the CA is not done", acme.State{Current: v, Failures: 1, Class: acme.ClassPending}, acme.Decision{}, false, 0},
		{"the CA is away", acme.State{Current: v, Failures: 1, Class: acme.ClassNetwork}, acme.Decision{}, true, orderGrace},
		{"a name is not validated", acme.State{Current: v, Failures: 1, Class: acme.ClassValidation}, acme.Decision{}, true, orderGrace},
		{"the CA is away, and time is short", acme.State{Current: v, Failures: 1, Class: acme.ClassNetwork}, acme.Decision{Warning: true}, true, 0},
		{"the CA is away, and there is nothing", acme.State{Failures: 1, Class: acme.ClassNetwork}, acme.Decision{}, true, 0},
		{"the account is refused", acme.State{Current: v, Failures: 1, Class: acme.ClassAccount}, acme.Decision{}, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ofOrder("a", tt.st, tt.d, now)
			if (c != nil) != tt.told || c != nil && c.Grace != tt.grace {
				t.Errorf("%+v", c)
			}
		})
	}
}

// What a command is told as that came to no certificate.
func TestToldOfCommand(t *testing.T) {
	now := time.Now()
	wrong := problem.List{problem.New("input_missing", problem.At{}, "it is not there")}
	other := []notify.Subject{{Name: "a", Conditions: []notify.Condition{{Event: notify.Failure}}}}
	for _, tt := range []struct {
		name, command string
		status        int
		problems      problem.List
		others        []notify.Subject
		want          string
	}{
		{"failed", "hook", statusRefused, wrong, nil, "failure"},
		{"told already", "hook", statusRefused, wrong, other, "none"},
		{"usage", "install-cert", statusUsage, wrong, nil, "none"},
		{"busy", "renew", statusBusy, wrong, nil, "none"},
		{"a question", "renew", statusNo, wrong, nil, "none"},
		{"stopped", "renew", statusTerminated, wrong, nil, "none"},
		{"half undone", "recover", statusIncomplete, wrong, nil, "incomplete"},
		{"nothing to do", "hook", statusOK, nil, nil, "none"},
		{"went well", "install-cert", statusOK, nil, []notify.Subject{{Name: "a"}}, "over"},
		{"nothing to recover", "recover", statusOK, nil, nil, "over"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := "none"
			for _, s := range ofCommand(tt.command, tt.status, tt.problems, tt.others, now) {
				if got = "over"; len(s.Conditions) > 0 {
					got = string(s.Conditions[0].Event)
				}
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A recover that fails says nothing of what is served that it does not know.
func TestToldOfRecover(t *testing.T) {
	wrong := problem.List{problem.New("journal_damaged", problem.At{}, "it cannot be read")}
	for command, knows := range map[string]bool{"recover": false, "install-cert": true} {
		c := ofCommand(command, statusFailed, wrong, nil, time.Now())[0].Conditions[0]
		if says := strings.Contains(c.Headline+c.State, "serves what it served before.") || strings.Contains(c.Headline, "is served"); says != knows {
			t.Errorf("%s: %q, %q", command, c.Headline, c.State)
		}
	}
}

// A certificate is late by a fraction of its life, whatever that is.
func TestToldOfExpiry(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ life, late time.Duration }{
		{6 * 24 * time.Hour, 28 * time.Hour}, {90 * 24 * time.Hour, 18 * 24 * time.Hour}, {398 * 24 * time.Hour, 21 * 24 * time.Hour},
	} {
		c := inUse{1, from, from.Add(tt.life)}
		if at := c.notAfter.Add(-tt.late); c.late(at.Add(-time.Hour)) || !c.late(at.Add(time.Hour)) {
			t.Errorf("a life of %v: not late %v before its end", tt.life, tt.late)
		}
	}
	e := inUse{1, from, from.Add(90 * 24 * time.Hour)}.expiry(&status.Record{}, from.Add(91*24*time.Hour))
	if !strings.Contains(e.Headline, "EXPIRED") || e.ID != "cert_expired" {
		t.Errorf("%+v", e)
	}
}

// A configuration that cannot be used stops all renewals, and whoever runs as a hook
// or from a timer says so to nobody: postmaster is told, once a day, and when it is
// mended. A person who asks something is told on the spot.
func TestToldUnusableConfiguration(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	served := h.served()
	for name, more := range map[string]string{"unknown": "nonsense: 1\n", "not YAML": "\t{", "unusable place to tell": "notify: [{mail: 'a b'}]\n"} {
		h.configure(more)
		h.postcert("status", "--config", h.conf).want(2)
		h.renew("--dry-run").want(2)
		if m := h.read(); len(m) > 0 {
			t.Errorf("%s: a mail at a question: %v", name, m)
		}
	}
	h.configure("nonsense: 1\n")
	h.renew().want(2)
	first := h.mails(1)[0]
	for _, want := range []string{"configuration", "nothing is renewed or deployed", "config_unknown"} {
		if !strings.Contains(first.subject(), want) {
			t.Errorf("the subject %q does not say %q", first.subject(), want)
		}
	}
	if words := strings.Join(strings.Fields(first.text), " "); !strings.Contains(words, "nonsense") || !strings.Contains(words, "postcert config check "+h.conf) {
		t.Errorf("the mail:\n%s", first.text)
	}
	if l := h.lines(1); len(l) != 1 || !strings.Contains(l[0], "config_unknown") {
		t.Errorf("the mail log: %q", l)
	}
	h.finish(h.hookCommand([]string{"RENEWED_LINEAGE=" + h.lineage}, "--config", h.conf)).want(2)
	h.postcert("daemon", "--config", h.conf).want(2)
	h.postcert("recover", "--config", h.conf).want(2)
	h.mails(1)
	h.at(25 * time.Hour)
	h.renew().want(2)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "still: ") {
		t.Errorf("the second day: %q", m.subject())
	}
	if h.served() != served {
		t.Error("something else is served")
	}
	h.configure("")
	h.renew().want(0)
	if m := h.mails(3)[2]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("mended: %q", m.subject())
	}
	h.renew().want(0)
	h.mails(3)
	h.configure("nonsense: 1\nnotify: none\n")
	h.at(50 * time.Hour)
	h.renew().want(2)
	h.mails(3)
}
