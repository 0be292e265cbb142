package status

import (
	"testing"
	"time"
)

// Which refusals wait for a change, and which for the time.
func TestFinal(t *testing.T) {
	for id, want := range map[string]bool{
		"key_mismatch": true, "chain_incomplete": true, "cert_expired": true, "tls_not_enabled": true, "self_signed": true, "pem_truncated": true,
		// the time will help, or what is served
		"cert_not_yet_valid": false, "chain_not_yet_valid": false, "downgrade": false, "names_shrunk": false, "name_mismatch": false,
		// somebody who mends the host will help, without touching pair or configuration
		"rehearsal_refused": false, "rehearsal_not_run": false, "disk_full": false, "input_unreadable": false, "input_missing": false,
		"not_trusted": false, "no_trust_anchors": false, "config_not_replaceable": false, "key_perms": false, "input_untrusted_path": false,
		"busy": false, "rolled_back": false, "failed": false, "": false, "an id of tomorrow": false,
	} {
		if Final(id) != want {
			t.Errorf("%q: final is %v", id, !want)
		}
	}
}

// A refusal for good waits for a change of its inputs and for nothing else; any
// other failure waits for the time.
func TestRefused(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	final := Update{Leaf: "new", Outcome: "refused", Exit: 3, ID: "key_mismatch", Issued: true, Final: true, Inputs: "i"}
	with := func(u Update, f func(*Update)) Update { f(&u); return u }
	later := with(final, func(u *Update) { u.ID, u.Final = "downgrade", false })
	tests := []struct {
		name    string
		updates []Update
		waits   string // the inputs it waits to see changed; "" if it does not
		retry   bool   // at some time
		since   int    // minutes after the beginning
	}{
		{"for good", []Update{final}, "i", false, 0},
		{"for good, again", []Update{{Leaf: "old", Outcome: "installed"}, final, final, final}, "i", false, 1},
		{"other inputs, refused too", []Update{final, with(final, func(u *Update) { u.Inputs = "j" })}, "j", false, 1},
		{"for now", []Update{later}, "", true, 0},
		{"for good, then for now", []Update{final, later}, "", true, 0},
		{"for now, then for good", []Update{later, final}, "i", false, 1},
		{"rolled back is never for good", []Update{with(final, func(u *Update) { u.Exit, u.Outcome = 4, "rolled_back" })}, "", true, 0},
		{"inputs are not known", []Update{with(final, func(u *Update) { u.Inputs = "" })}, "", true, 0},
		{"no pair could be read", []Update{with(final, func(u *Update) { u.Leaf = "" })}, "i", false, 0},
		{"no pair could be read, for now", []Update{with(later, func(u *Update) { u.Leaf = "" })}, "", true, 0},
		{"somebody asks for it by hand", []Update{with(final, func(u *Update) { u.Issued = false })}, "", false, 0},
		{"served after all", []Update{final, {Leaf: "new", Outcome: "installed", Issued: true}}, "", false, 0},
		{"somebody installs another", []Update{final, {Leaf: "old", Outcome: "installed"}}, "", false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t)
			now := begin
			for i, u := range tt.updates {
				now = begin.Add(time.Duration(i) * time.Minute)
				u.Instance, u.Name, u.Time = "/etc/postfix", "mail", now
				if err := s.Record(u); err != nil {
					t.Fatal(err)
				}
			}
			r, err := s.Read("/etc/postfix", "mail")
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Refused != nil; got != (tt.waits != "") || got && (!r.Waits(tt.waits) || r.Waits("other") || !r.Refused.Since.Equal(begin.Add(time.Duration(tt.since)*time.Minute))) {
				t.Errorf("%+v %+v", r, r.Refused)
			}
			if at := r.RetryAt(now); at.IsZero() == tt.retry {
				t.Errorf("again at %v", at)
			}
		})
	}
	if (*Record)(nil).Waits("") {
		t.Error("no record waits")
	}
}

// What the listeners presented, and since when something differs.
func TestProbe(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	agrees, differs := &Served{Agrees: true}, &Served{IDs: []string{"drift_file"}}
	drift := []Difference{{ID: "drift_file", Words: "w"}}
	installed := Update{Leaf: "a", Outcome: "installed", Issued: true}
	stopped := Update{Leaf: "a", Outcome: "not_verified", Exit: 9, Issued: true}
	tests := []struct {
		name    string
		updates []Update
		agrees  bool
		since   int // minutes; -1: no drift
		exit    int // of the last error
		retry   string
	}{
		{"agrees", []Update{installed, {Probe: true, Leaf: "a", Served: agrees}}, true, -1, 0, ""},
		{"differs", []Update{installed, {Probe: true, Leaf: "a", Served: differs, Drift: drift}}, false, 1, 0, ""},
		{"still differs", []Update{installed, {Probe: true, Leaf: "a", Served: differs, Drift: drift}, {Probe: true, Leaf: "a", Served: differs, Drift: drift}}, false, 1, 0, ""},
		{"put back", []Update{installed, {Probe: true, Leaf: "a", Served: differs, Drift: drift}, {Probe: true, Leaf: "a", Served: agrees}}, true, -1, 0, ""},
		{"installed again", []Update{installed, {Probe: true, Leaf: "a", Served: differs, Drift: drift}, {Leaf: "a", Outcome: "installed", Served: agrees}}, true, -1, 0, ""},
		{"refused meanwhile", []Update{installed, {Probe: true, Leaf: "a", Served: differs, Drift: drift}, {Leaf: "b", Outcome: "refused", Exit: 3}}, false, 1, 3, ""},
		{"verified later", []Update{stopped, {Probe: true, Leaf: "a", Served: agrees}}, true, -1, 0, ""},
		{"not yet", []Update{stopped, {Probe: true, Leaf: "a", Served: &Served{}}}, false, -1, 9, "a"},
		{"another waits to be deployed", []Update{installed, {Leaf: "b", Outcome: "rolled_back", Exit: 4, Issued: true}, {Probe: true, Leaf: "a", Served: agrees}}, true, -1, 4, "b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r Record
			for i, u := range tt.updates {
				u.Instance, u.Name, u.Time = "/etc/postfix", "mail", begin.Add(time.Duration(i)*time.Minute)
				r.fold(u)
			}
			if r.Served == nil || r.Served.Agrees != tt.agrees || (r.Drift != nil) != (tt.since >= 0) || r.LastError.Exit != tt.exit || r.Retry != tt.retry {
				t.Errorf("%+v %+v %+v", r, r.Served, r.Drift)
			}
			if r.Drift != nil && !r.Drift.Since.Equal(begin.Add(time.Duration(tt.since)*time.Minute)) {
				t.Errorf("since %v", r.Drift.Since)
			}
		})
	}
}

// What the history says since is folded in, each entry once, in its order, whoever
// writes first; and of another certificate nothing.
func TestMissed(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	entry := func(n int, leaf string, exit int) Update {
		outcome := map[int]string{0: "installed", 4: "rolled_back"}[exit]
		return Update{Instance: "/etc/postfix", Name: "mail", Time: begin.Add(time.Duration(n) * time.Minute), Leaf: leaf, Outcome: outcome, Exit: exit, History: leaf, Issued: true}
	}
	history := []Update{entry(1, "a", 0), entry(2, "b", 4), entry(3, "c", 4)}
	other := entry(4, "x", 0)
	other.Name = "other"
	history = append(history, other)
	own := entry(3, "c", 4)
	own.Message = "in more words"
	tests := []struct {
		name     string
		written  []Update // while the history was not there
		then     *Update
		wanted   string
		failures int
		message  string
	}{
		{"nothing was written", nil, nil, "c", 1, ""},
		{"one was", history[:1], nil, "c", 1, ""},
		{"all was", history[:3], nil, "c", 1, ""},
		{"a record of before there were ids", []Update{{Instance: "/etc/postfix", Name: "mail", Leaf: "b", Outcome: "rolled_back", Exit: 4, Issued: true, Time: begin.Add(2*time.Minute + time.Second)}}, nil, "c", 1, ""},
		{"its own entry is there already", history[:1], &own, "c", 1, "in more words"},
		{"another run was faster", history[:3], &own, "c", 1, ""},
		{"the history was full", history[:3], &Update{Instance: "/etc/postfix", Name: "mail", Leaf: "d", Outcome: "rolled_back", Exit: 4, Time: begin.Add(time.Hour), Issued: true, Message: "no room"}, "d", 1, "no room"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t)
			for _, u := range tt.written {
				if err := s.Record(u); err != nil {
					t.Fatal(err)
				}
			}
			s.Missed = func(_, after string) ([]Update, bool) {
				for i, u := range history {
					if u.History == after {
						return history[i+1:], true
					}
				}
				return history, false
			}
			if tt.then != nil {
				if err := s.Record(*tt.then); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				r, err := s.Read("/etc/postfix", "mail")
				if err != nil || r.Wanted != tt.wanted || r.Installed != "a" && tt.name != "a record of before there were ids" || r.Failures != tt.failures || r.LastError.Message != tt.message {
					t.Errorf("%+v, %v", r, err)
				}
				if err := s.Keep("/etc/postfix", "mail"); err != nil {
					t.Fatal(err)
				}
			}
			if list, err := s.List("/etc/postfix"); err != nil || len(list) != 2 {
				t.Errorf("%d records, %v; want that of the other certificate, too", len(list), err)
			}
		})
	}
}
