package main

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/daemon"
	"postcert/cmd/postcert/internal/status"
)

// inProcess is an invocation with a state directory of its own, and a clock.
func inProcess(t *testing.T, now *time.Time) *app {
	t.Helper()
	a := &app{env: map[string]string{}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	a.text = newText(io.Discard, true)
	a.conf.StateDir, a.conf.RuntimeDir = t.TempDir(), t.TempDir()
	a.seams.now = func() time.Time { return *now }
	return a
}

// When the daemon looks after a certificate that install-cert installed: once a day,
// each hour while the listeners disagree, at once if nobody ever did or the clock was
// set back; and never after it was given back.
func TestDueProbe(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	agrees, differs := &status.Served{Agrees: true, Time: now}, &status.Served{Time: now}
	installed := status.Update{Leaf: "a", Outcome: "installed"}
	with := func(f func(*status.Update)) status.Update { u := installed; f(&u); return u }
	tests := []struct {
		name string
		u    []status.Update
		at   time.Time // zero: no turn
	}{
		{"proven", []status.Update{with(func(u *status.Update) { u.Served = agrees })}, daemon.Daily("mail", now)},
		{"disagrees", []status.Update{installed, {Probe: true, Leaf: "a", Served: differs}}, now.Add(time.Hour)},
		{"never asked", []status.Update{installed}, now},
		{"asked in the future", []status.Update{with(func(u *status.Update) { u.Served = &status.Served{Agrees: true, Time: now.AddDate(1, 0, 0)} })}, now},
		{"given back", []status.Update{installed, {Outcome: "installed", Released: true}}, time.Time{}},
		{"never installed", []status.Update{{Leaf: "a", Outcome: "rolled_back", Exit: 4}}, time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := inProcess(t, &now)
			for _, u := range tt.u {
				u.Instance, u.Name, u.Time = "/etc/postfix", "mail", now
				if err := a.records().Record(u); err != nil {
					t.Fatal(err)
				}
			}
			tasks, _, err := a.due(now)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.at.IsZero() && len(tasks) > 0:
				t.Errorf("%+v", tasks)
			case !tt.at.IsZero() && (len(tasks) != 1 || tasks[0].Name != "mail" || !tasks[0].At.Equal(tt.at)):
				t.Errorf("%+v, want at %v", tasks, tt.at)
			}
		})
	}
}

// A refusal for good has no turn of its own until an input changes; then at once.
func TestDueRefused(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	a := inProcess(t, &now)
	lineage, etc := t.TempDir(), t.TempDir()
	a.conf.Certificates = []config.Certificate{{Name: "mail", Source: config.SourceWatch, Lineage: lineage}}
	a.conf.Instances = []config.Instance{{ConfigDirectory: etc, Certificate: "mail"}}
	(&host{t: t}).write(lineage+"/privkey.pem", []byte("one"))
	turn := status.Turn{Version: status.Version, Name: "mail", Began: now, Ended: now}
	u := status.Update{Instance: etc, Name: "mail", Time: now, Outcome: "refused", Exit: 3, ID: "key_mismatch", Final: true, Issued: true,
		Inputs: a.inputs(etc, lineageFiles(lineage))}
	if err := a.records().Record(u); err != nil {
		t.Fatal(err)
	}
	w := wish{name: "mail", source: config.SourceWatch, lineage: lineage}
	turn.Seen = w.seen()
	turn.Seen.Refused = true
	if at, why := a.dueOf(w, w.look(), turn, now); !at.Equal(now.Add(watchInterval)) {
		t.Errorf("due at %v: %s", at, why)
	}
	(&host{t: t}).write(lineage+"/privkey.pem", []byte("another"))
	turn.Seen = w.seen() // for the files alone, the pass that was refused would do
	turn.Seen.Refused = true
	if at, why := a.dueOf(w, w.look(), turn, now); !at.Equal(now) || !strings.Contains(why, "changed") {
		t.Errorf("after a change: due at %v: %s", at, why)
	}
	// The digest tells of no path and of no key, and of the configuration.
	before := a.inputs(etc, lineageFiles(lineage))
	(&host{t: t}).write(etc+"/main.cf", []byte("x = y\n"))
	if after := a.inputs(etc, lineageFiles(lineage)); after == before || len(after) != 64 {
		t.Errorf("%s, then %s", before, after)
	}
}

// Nobody looks after what is to be renewed by itself: that is told after two days.
func TestNoPass(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	a := inProcess(t, &now)
	a.conf.Certificates = []config.Certificate{{Name: "mail", Source: config.SourceWatch, Lineage: "/l"}}
	if l := a.noPass("mail"); len(l) > 0 {
		t.Errorf("never a pass, and none to be expected yet: %v", l)
	}
	if _, err := a.turns().Begin("mail", now, daemon.Gap); err != nil {
		t.Fatal(err)
	}
	for by, want := range map[time.Duration]int{0: 0, 49 * time.Hour: 0, 51 * time.Hour: 1} {
		now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).Add(by)
		if l := a.noPass("mail"); len(l) != want || want > 0 && l[0].ID != "no_pass" {
			t.Errorf("%v later: %v", by, l)
		}
	}
	a.conf.Certificates = nil
	if l := a.noPass("mail"); len(l) > 0 {
		t.Errorf("nobody wants it any more: %v", l)
	}
}

// Each id for which a refusal is final is one that can be reported.
func TestFinalIDsExist(t *testing.T) {
	known := 0
	for id := range remedies {
		if status.Final(id) {
			known++
		}
	}
	if all := status.FinalIDs(); known != len(all) {
		for _, id := range all {
			if _, ok := remedies[id]; !ok {
				t.Errorf("%s is final, and nothing reports it", id)
			}
		}
	}
	if slices.Contains(status.FinalIDs(), "failed") {
		t.Error("a failure is final")
	}
}

// What was installed and is wanted still is looked after; everything else is deployed.
func TestProven(t *testing.T) {
	tests := []struct {
		name string
		rec  *status.Record
		want bool
	}{
		{"no record", nil, false},
		{"installed and wanted", &status.Record{Installed: "a", Wanted: "a"}, true},
		{"another one is wanted", &status.Record{Installed: "a", Wanted: "b"}, false},
		{"another one is installed", &status.Record{Installed: "b", Wanted: "b"}, false},
		{"never installed", &status.Record{Wanted: "a"}, false},
		{"installed, and to be tried again", &status.Record{Installed: "a", Wanted: "a", Retry: "a"}, false},
		{"another one is to be tried again", &status.Record{Installed: "a", Wanted: "a", Retry: "b"}, false},
	}
	for _, tt := range tests {
		if got := proven(tt.rec, "a"); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if proven(&status.Record{}, "") {
		t.Error("no leaf is proven")
	}
}
