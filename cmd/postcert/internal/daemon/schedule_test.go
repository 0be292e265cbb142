package daemon

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func names(tasks []Task) []string {
	var out []string
	for _, t := range tasks {
		out = append(out, t.Name)
	}
	return out
}

// One at a time of an account, the earliest due first, a few in all.
func TestStart(t *testing.T) {
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	tests := []struct {
		name  string
		tasks []Task
		want  []string
	}{
		{"nothing", nil, nil},
		{"not yet", []Task{{"a", "x", at(time.Second), "", ""}}, nil},
		{"due now", []Task{{"a", "x", at(0), "", ""}}, []string{"a"}},
		{"never seen before", []Task{{Name: "a", Account: "x"}}, []string{"a"}},
		{"one of an account, the earliest", []Task{{"a", "x", at(-time.Minute), "", ""}, {"b", "x", at(-time.Hour), "", ""}}, []string{"b"}},
		{"two accounts", []Task{{"a", "x", at(-1), "", ""}, {"b", "y", at(-2), "", ""}}, []string{"b", "a"}},
		{"no account stands alone", []Task{{"a", "", at(-2), "", ""}, {"b", "", at(-1), "", ""}}, []string{"a", "b"}},
		{"a few in all", []Task{{"a", "", at(-5), "", ""}, {"b", "", at(-4), "", ""}, {"c", "", at(-3), "", ""}, {"d", "", at(-2), "", ""}}, []string{"a", "b", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Scheduler
			s.Update(tt.tasks, epoch)
			if got := names(s.Start(epoch)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := s.Start(epoch); len(got) > 0 {
				t.Errorf("started twice: %q", names(got))
			}
		})
	}
}

// An account is busy until the run has ended, also when its certificate is gone
// from the configuration.
func TestAccountBusy(t *testing.T) {
	var s Scheduler
	s.Update([]Task{{Name: "a", Account: "x"}}, epoch)
	s.Start(epoch)
	s.Update([]Task{{Name: "b", Account: "x"}}, epoch)
	if got := s.Start(epoch); len(got) > 0 {
		t.Errorf("started beside a: %q", names(got))
	}
	s.Ended("a", epoch)
	s.Update([]Task{{Name: "b", Account: "x"}}, epoch)
	if got := names(s.Start(epoch)); !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %q", got)
	}
}

// Runs that leave their task due are repeated after growing gaps, and at once
// again when one has succeeded, or when the reason may be gone.
func TestGaps(t *testing.T) {
	var s Scheduler
	now := epoch
	due := []Task{{Name: "a", At: epoch}}
	var starts []time.Duration
	for now.Before(epoch.Add(4 * time.Hour)) {
		s.Update(due, now)
		for _, x := range s.Start(now) {
			starts = append(starts, now.Sub(epoch))
			s.Ended(x.Name, now)
		}
		now = now.Add(s.Wait(now))
	}
	m := time.Minute
	want := []time.Duration{0, m, 3 * m, 8 * m, 23 * m, 83 * m, 143 * m, 203 * m}
	if !slices.Equal(starts, want) {
		t.Errorf("started at %v, want %v", starts, want)
	}
	s.Update(due, now)
	s.Forget()
	if got := s.Start(now); len(got) != 1 {
		t.Errorf("after a reload: started %q", names(got))
	}
	s.Ended("a", now)
	s.Update([]Task{{Name: "a", At: now.Add(m)}}, now)
	s.Update([]Task{{Name: "a", At: now.Add(m)}}, now.Add(m))
	if got := s.Start(now.Add(m)); len(got) != 1 {
		t.Errorf("after a success: started %q", names(got))
	}
}

// A clock that was set back a year does not make a pause of minutes one of a
// year; one that was set forward makes everything due.
func TestClockJumps(t *testing.T) {
	var s Scheduler
	s.Update([]Task{{Name: "a", At: epoch}}, epoch)
	s.Start(epoch)
	s.Ended("a", epoch)
	past := epoch.AddDate(-1, 0, 0)
	tasks := []Task{{Name: "a", At: past}} // written anew by somebody who saw that the time is another
	s.Update(tasks, past)
	if next, _ := s.Next(); next.At.Sub(past) > time.Minute {
		t.Errorf("next at %v, it is %v", next.At, past)
	}
	if wait := s.Wait(past); wait > Tick {
		t.Errorf("sleeps %v", wait)
	}
	future := epoch.AddDate(1, 0, 0)
	s.Update(tasks, future)
	if got := s.Start(future); len(got) != 1 {
		t.Errorf("after a jump forward: started %q", names(got))
	}
}

func TestWait(t *testing.T) {
	tests := []struct {
		name string
		at   time.Duration
		want time.Duration
	}{
		{"far away", 90 * 24 * time.Hour, Tick},
		{"soon", 10 * time.Second, 10 * time.Second},
		{"over, and not to be started", -time.Hour, time.Second},
	}
	for _, tt := range tests {
		var s Scheduler
		s.Update([]Task{{Name: "a", At: epoch.Add(tt.at)}}, epoch)
		if got := s.Wait(epoch); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := new(Scheduler).Wait(epoch); got != Tick {
		t.Errorf("nothing to do: %v", got)
	}
}

// The daily turn is one second of each day, whenever it is asked for.
func TestDaily(t *testing.T) {
	differ := map[int]bool{}
	for i := range 50 {
		key := fmt.Sprint("mail", i, ".example.com")
		first := Daily(key, epoch)
		if first.Sub(epoch) <= 0 || first.Sub(epoch) > 24*time.Hour {
			t.Errorf("%s: %v after %v", key, first, epoch)
		}
		if again := Daily(key, first); again.Sub(first) != 24*time.Hour {
			t.Errorf("%s: %v after %v", key, again, first)
		}
		if again := Daily(key, first.Add(-time.Second)); !again.Equal(first) {
			t.Errorf("%s: asked a second before, %v is not %v", key, again, first)
		}
		differ[first.Hour()] = true
	}
	if len(differ) < 10 {
		t.Errorf("50 certificates have their turns in %d hours of the day", len(differ))
	}
}

func TestWords(t *testing.T) {
	tests := []struct {
		name  string
		tasks []Task
		start bool
		want  string
	}{
		{"nothing", nil, false, "nothing to keep: no certificate is configured or stored"},
		{"later", []Task{{"a", "", epoch.Add(time.Hour), "renewal", ""}}, false, "next: a (renewal) at 2026-11-20 13:00:00 UTC"},
		{"now", []Task{{"a", "", epoch, "renewal", ""}}, false, "next: a (renewal), now"},
		{"at work", []Task{{"a", "", epoch, "renewal", ""}}, true, "working on a"},
		{"both", []Task{{"a", "", epoch, "renewal", ""}, {"b", "", epoch.Add(time.Hour), "deploy again", ""}}, true,
			"working on a; next: b (deploy again) at 2026-11-20 13:00:00 UTC"},
	}
	for _, tt := range tests {
		var s Scheduler
		s.Update(tt.tasks, epoch)
		if tt.start {
			s.Start(epoch)
		}
		if got := s.Words(epoch); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What is about something else does not wait for what failed before it; what is
// about the same does, also when it came up while that was running.
func TestAbout(t *testing.T) {
	var s Scheduler
	old, next := []Task{{Name: "a", At: epoch, About: "old"}}, []Task{{Name: "a", At: epoch, About: "next"}}
	start := func(tasks []Task, now time.Time) int {
		s.Update(tasks, now)
		n := len(s.Start(now))
		if n > 0 {
			s.Ended("a", now)
		}
		return n
	}
	for _, step := range []struct {
		tasks []Task
		at    time.Duration
		want  int
	}{{old, 0, 1}, {old, time.Second, 0}, {next, 2 * time.Second, 1}, {next, 3 * time.Second, 0}, {next, 90 * time.Second, 1}, {next, 2 * time.Minute, 0}, {old, 2 * time.Minute, 1}} {
		if got := start(step.tasks, epoch.Add(step.at)); got != step.want {
			t.Errorf("after %v: %d started, want %d", step.at, got, step.want)
		}
	}
}
