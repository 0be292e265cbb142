package status

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What was obtained is deployed again after growing waits until it is served,
// until somebody chooses another certificate, or until it is given back.
func TestRetry(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	failed := Update{Leaf: "new", Outcome: "rolled_back", Exit: 4, Issued: true}
	tests := []struct {
		name     string
		updates  []Update
		retry    string
		failures int
		wait     time.Duration // after the last update
		released bool
	}{
		{"served", []Update{{Leaf: "new", Outcome: "installed", Issued: true}}, "", 0, 0, false},
		{"rolled back", []Update{failed}, "new", 1, time.Minute, false},
		{"refused", []Update{{Leaf: "new", Outcome: "refused", Exit: 3, Issued: true}}, "new", 1, time.Minute, false},
		{"not verified", []Update{{Leaf: "new", Outcome: "not_verified", Exit: 9, Issued: true}}, "new", 1, time.Minute, false},
		{"again", []Update{failed, failed, failed}, "new", 3, 15 * time.Minute, false},
		{"for ever", []Update{failed, failed, failed, failed, failed, failed, failed, failed}, "new", 8, MaxRetryGap, false},
		{"then served", []Update{failed, failed, {Leaf: "new", Outcome: "installed", Issued: true}}, "", 0, 0, false},
		{"the next one fails too", []Update{failed, failed, {Leaf: "newer", Outcome: "rolled_back", Exit: 4, Issued: true}}, "newer", 1, time.Minute, false},
		{"somebody installs another", []Update{failed, {Leaf: "old", Outcome: "installed"}}, "", 0, 0, false},
		{"somebody fails to", []Update{failed, {Leaf: "old", Outcome: "refused", Exit: 3}}, "new", 1, 0, false},
		{"given back", []Update{failed, {Outcome: "installed", Released: true}}, "", 0, 0, true},
		{"and taken again", []Update{{Outcome: "installed", Released: true}, {Leaf: "new", Outcome: "installed", Issued: true}}, "", 0, 0, false},
		{"install-cert's own failure", []Update{{Leaf: "x", Outcome: "rolled_back", Exit: 4}}, "", 0, 0, false},
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
			if r.Retry != tt.retry || r.Failures != tt.failures || r.Released != tt.released {
				t.Errorf("%+v", r)
			}
			if at := r.RetryAt(now); tt.retry == "" && !at.IsZero() || tt.wait > 0 && at.Sub(now) != tt.wait {
				t.Errorf("again at %v, it is %v", at, now)
			}
			if past := now.AddDate(-1, 0, 0); tt.retry != "" && r.RetryAt(past).Sub(past) > MaxRetryGap {
				t.Errorf("with the clock a year back: again at %v", r.RetryAt(past))
			}
		})
	}
	if at := (*Record)(nil).RetryAt(begin); !at.IsZero() {
		t.Errorf("no record: again at %v", at)
	}
}

func turns(t *testing.T) Turns {
	dir := t.TempDir()
	return Turns{Path: func(name string) (string, error) { return filepath.Join(dir, "turns", name+".json"), nil }}
}

// A pass that never ends keeps the next one away, longer each time; one that ends
// well does not, nor does a clock that was set back.
func TestTurns(t *testing.T) {
	s := turns(t)
	gap := func(n int) time.Duration { return time.Duration(n) * time.Minute }
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if r, err := s.Read("mail"); err != nil || !r.NotBefore(now).IsZero() {
		t.Fatalf("%+v, %v", r, err)
	}
	for n := 1; n <= 3; n++ {
		if _, err := s.Begin("mail", now, gap); err != nil {
			t.Fatal(err)
		}
		r, err := s.Read("mail")
		if err != nil || r.NotBefore(now).Sub(now) != gap(n) {
			t.Errorf("killed %d times: not before %v, it is %v (%v)", n, r.NotBefore(now), now, err)
		}
		if past := now.AddDate(-1, 0, 0); !r.NotBefore(past).IsZero() {
			t.Errorf("with the clock a year back: not before %v", r.NotBefore(past))
		}
	}
	r, err := s.Begin("mail", now, gap)
	if err != nil {
		t.Fatal(err)
	}
	r.Leaf = "leaf"
	if err := s.End(r, now, true); err != nil {
		t.Fatal(err)
	}
	if r, _ := s.Read("mail"); r.NotBefore(now).Sub(now) != gap(4) || r.Leaf != "leaf" {
		t.Errorf("ended, and something is due: %+v", r)
	}
	if err := s.End(r, now, false); err != nil {
		t.Fatal(err)
	}
	if r, _ := s.Read("mail"); !r.NotBefore(now).IsZero() || !r.Ended.Equal(now) {
		t.Errorf("ended well: %+v", r)
	}
	path, _ := s.Path("mail")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Read("mail"); err != nil || r != (Turn{}) {
		t.Errorf("damaged: %+v, %v", r, err)
	}
}
