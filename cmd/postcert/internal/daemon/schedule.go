// Package daemon decides when: which certificate's turn it is, which may run
// beside another, and how long to sleep. It opens nothing and knows neither ACME
// nor Postfix; what is due it learns from [Task] values, which the caller reads
// from disk, and what is done about it is a function of the caller's.
//
// Three facts shaped it:
//
//   - Timers lie. Go's follow CLOCK_MONOTONIC, which stands still while a machine
//     sleeps (https://go.dev/issue/24595), and people set clocks. So nothing here
//     waits longer than [Tick], and every decision compares the time of day with
//     absolute instants.
//   - Processes end. A daemon that is started again every second by a service
//     manager must not order every second. So when a thing is due is never kept
//     here: it is on disk, written by the run that did the work, and read again at
//     each wake. What is kept in memory can only make a run later, never earlier.
//   - Work fails to be done. A run that ends and leaves its certificate due (it was
//     killed, the disk is full, the lock was held) is repeated after a growing gap,
//     see [Gap].
//
// [Scheduler] is the decision as a value; [Loop] lives with it.
package daemon

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"
)

// Tick is the longest sleep, so the latest that anything is noticed: a clock that
// was set, a machine that slept, a certificate that somebody obtained by hand.
const Tick = 60 * time.Second

// Parallel is how many runs there are at a time, of different accounts. Each is a
// process of its own; a host has one or two accounts.
const Parallel = 3

// Task is what is next about one certificate.
type Task struct {
	Name    string    // of the certificate; unique
	Account string    // tasks of one account never run beside each other; "" stands alone
	At      time.Time // when it is due, by the time of day; zero is now
	Why     string    // what is due then, in words: "renewal", "deploy again", ...
	About   string    // what it is done with; with something else it does not wait for what failed before
}

// gaps are the pauses after 1, 2, ... runs in a row that left a task due.
var gaps = []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// Gap is the least pause after n runs in a row after each of which the task was
// still due; 0 after none.
func Gap(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	return gaps[min(n, len(gaps))-1]
}

// memory is what a Scheduler knows of one task beside what is on disk.
type memory struct {
	running bool
	account string    // of the run
	judge   bool      // a run has ended, and nobody has looked yet whether the task is due still
	ended   time.Time // the last run
	futile  int       // runs in a row that left it due
	about   string    // of those runs
}

// Scheduler chooses what runs. The zero value is ready; it is used by one
// goroutine.
type Scheduler struct {
	tasks []Task
	mem   map[string]*memory
}

// Update replaces the tasks by what is on disk now. What runs stays running, and
// what is gone is forgotten when it has ended.
func (s *Scheduler) Update(tasks []Task, now time.Time) {
	now = now.Round(0)
	s.tasks = slices.Clone(tasks)
	slices.SortStableFunc(s.tasks, func(a, b Task) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Name, b.Name))
	})
	if s.mem == nil {
		s.mem = map[string]*memory{}
	}
	present := map[string]bool{}
	for _, t := range s.tasks {
		present[t.Name] = true
		m := s.memory(t.Name)
		if now.Before(m.ended) {
			m.ended = now // the clock was set back: a pause of a minute stays one
		}
		if m.judge {
			m.judge = false
			m.futile++
		}
		if t.About != m.about && !m.running {
			m.futile = 0
		}
		if t.At.After(now) {
			m.futile = 0
		}
	}
	for name, m := range s.mem {
		if !present[name] && !m.running {
			delete(s.mem, name)
		}
	}
}

func (s *Scheduler) memory(name string) *memory {
	m := s.mem[name]
	if m == nil {
		m = &memory{}
		s.mem[name] = m
	}
	return m
}

// Start returns what is to be started now, and counts it as running. The earliest
// due come first; of one account there is one at a time.
func (s *Scheduler) Start(now time.Time) []Task {
	now = now.Round(0)
	busy, running := map[string]bool{}, 0
	for _, m := range s.mem {
		if m.running {
			running++
			busy[m.account] = true
		}
	}
	var out []Task
	for _, t := range s.tasks {
		m := s.memory(t.Name)
		if m.running || running >= Parallel || t.Account != "" && busy[t.Account] || s.due(t).After(now) {
			continue
		}
		if t.About != m.about {
			m.futile = 0
		}
		m.running, m.account, m.about = true, t.Account, t.About
		busy[t.Account] = true
		running++
		out = append(out, t)
	}
	return out
}

// due is when a task may run: when it is due, and not too soon after a run that
// left it so.
func (s *Scheduler) due(t Task) time.Time {
	m := s.memory(t.Name)
	if again := m.ended.Add(Gap(m.futile)); m.futile > 0 && again.After(t.At) {
		return again
	}
	return t.At.Round(0)
}

// Ended says that the run of a task is over, however it ended.
func (s *Scheduler) Ended(name string, now time.Time) {
	if m := s.mem[name]; m != nil {
		m.running, m.judge, m.ended = false, true, now.Round(0)
	}
}

// Forget drops what was learned from runs that left their task due: the reason
// may be gone.
func (s *Scheduler) Forget() {
	for _, m := range s.mem {
		m.futile, m.judge = 0, false
	}
}

// Running are the names of what runs, sorted.
func (s *Scheduler) Running() []string {
	var out []string
	for name, m := range s.mem {
		if m.running {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Next is what does not run yet and will be started first, with At as it will be;
// false if there is nothing.
func (s *Scheduler) Next() (Task, bool) {
	var first Task
	found := false
	for _, t := range s.tasks {
		if s.memory(t.Name).running {
			continue
		}
		t.At = s.due(t)
		if !found || t.At.Before(first.At) {
			first, found = t, true
		}
	}
	return first, found
}

// Wait is how long to sleep: until the next task is due, and at most Tick. At
// least a second passes: what is due and cannot be started waits for the end of
// another run, which wakes the loop by itself.
func (s *Scheduler) Wait(now time.Time) time.Duration {
	t, ok := s.Next()
	if !ok {
		return Tick
	}
	return min(max(t.At.Sub(now.Round(0)), time.Second), Tick)
}

// Daily is the first instant after now at which key has its daily turn: a second
// of the day that is always the same for one key, so that a restart neither
// repeats nor skips it, and that differs from key to key.
func Daily(key string, now time.Time) time.Time {
	h := fnv.New32a()
	h.Write([]byte(key))
	second := time.Duration(h.Sum32()%86400) * time.Second
	day := now.UTC().Truncate(24 * time.Hour) // time.Truncate counts from midnight UTC
	at := day.Add(second)
	if !at.After(now) {
		at = at.Add(24 * time.Hour)
	}
	return at
}
