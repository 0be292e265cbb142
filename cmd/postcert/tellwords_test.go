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
