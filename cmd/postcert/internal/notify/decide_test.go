package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a target that writes down what it is told.
type fake struct {
	name  string
	on    []string
	err   error
	delay time.Duration
	mu    sync.Mutex
	heard []Notice
}

func (f *fake) ID() string { return f.name }

func (f *fake) Wants(what string) bool {
	return f.on == nil || strings.Contains(" "+strings.Join(f.on, " ")+" ", " "+what+" ")
}

func (f *fake) Send(ctx context.Context, n Notice) error {
	if f.delay > 0 {
		time.Sleep(f.delay)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.heard = append(f.heard, n)
	}
	return f.err
}

// words are what it heard, as "begins failure" and so on.
func (f *fake) words() string {
	var out []string
	for _, n := range f.heard {
		for _, i := range n.Items {
			out = append(out, string(i.Phase)+" "+string(i.Event))
		}
	}
	return strings.Join(out, ", ")
}

// desk is a teller with a clock and a memory of its own.
type desk struct {
	Teller
	t     *testing.T
	clock time.Time
}

func newDesk(t *testing.T, targets ...Target) *desk {
	dir := t.TempDir()
	d := &desk{t: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	d.Teller = Teller{Targets: targets, Now: func() time.Time { return d.clock }, Store: Store{
		Dir: dir, Path: func(_, name string) (string, error) { return filepath.Join(dir, "x", name+".json"), nil },
	}}
	return d
}

// pass tells what is wrong so long after the pass before.
func (d *desk) pass(after time.Duration, events ...Event) []error {
	d.clock = d.clock.Add(after)
	s := Subject{Instance: "/etc/postfix", Name: "a"}
	for _, e := range events {
		s.Conditions = append(s.Conditions, Condition{Event: e, ID: "x"})
	}
	return d.Tell(d.t.Context(), []Subject{s})
}

func TestDecide(t *testing.T) {
	t.Parallel()
	type step struct {
		after  time.Duration
		events []Event
	}
	F, R, I, X := []Event{Failure}, []Event{Rollback}, []Event{Incomplete}, []Event{Expiry}
	hour := time.Hour
	for _, tt := range []struct {
		name  string
		on    []string
		steps []step
		want  string
	}{
		{"nothing", nil, []step{{0, nil}, {hour, nil}}, ""},
		{"once", nil, []step{{0, F}, {hour, F}, {hour, F}}, "begins failure"},
		{"again each day", nil, []step{{0, F}, {12 * hour, F}, {12 * hour, F}, {12 * hour, F}, {12 * hour, F}}, "begins failure, lasts failure, lasts failure"},
		{"closed once", nil, []step{{0, F}, {hour, nil}, {hour, nil}}, "begins failure, ends failure"},
		{"worse", nil, []step{{0, R}, {hour, I}, {hour, I}}, "begins rollback, begins incomplete"},
		{"two that are one are closed once", nil, []step{{0, R}, {hour, F}, {hour, nil}}, "begins rollback, begins failure, ends failure"},
		{"to and fro", nil, []step{{0, R}, {hour, F}, {hour, R}, {hour, F}, {hour, R}}, "begins rollback, begins failure"},
		{"two at once", nil, []step{{0, []Event{Failure, Expiry}}, {hour, X}, {hour, nil}}, "begins failure, begins expiry, ends failure, ends expiry"},
		{"comes and goes", nil, []step{{0, F}, {hour, nil}, {hour, F}, {hour, nil}, {hour, F}, {hour, nil}, {hour, F}, {hour, nil}},
			"begins failure, ends failure, begins failure, ends failure"},
		{"the next day again", nil, []step{{0, F}, {hour, nil}, {hour, F}, {hour, nil}, {hour, F}, {24 * hour, F}},
			"begins failure, ends failure, begins failure, ends failure, begins failure"},
		{"not wanted", []string{"rollback", "recovery"}, []step{{0, F}, {hour, nil}}, ""},
		{"recovery not wanted", []string{"failure"}, []step{{0, F}, {hour, nil}, {hour, F}}, "begins failure, begins failure"},
		{"an undo that is incomplete is a rollback", []string{"rollback"}, []step{{0, I}}, "begins incomplete"},
		{"the clock was put back", nil, []step{{0, F}, {-30 * 24 * hour, F}, {hour, F}, {hour, F}}, "begins failure, lasts failure"},
		{"the clock was put forward", nil, []step{{0, F}, {9 * 365 * 24 * hour, F}, {-9 * 365 * 24 * hour, F}, {hour, F}}, "begins failure, lasts failure, lasts failure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{name: "f", on: tt.on}
			d := newDesk(t, f)
			for _, s := range tt.steps {
				if errs := d.pass(s.after, s.events...); len(errs) > 0 {
					t.Error(errs)
				}
			}
			if got := f.words(); got != tt.want {
				t.Errorf("heard %q, want %q", got, tt.want)
			}
		})
	}
}

// Nobody is flooded: a thousand passes that fail within a day are one message, and
// over ten days one a day, however the process that tells is started.
func TestNoFlood(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	for range 1000 {
		d.pass(time.Minute, Failure)
	}
	if len(f.heard) != 1 {
		t.Errorf("%d messages in 1,000 minutes", len(f.heard))
	}
	for range 10 * 24 {
		d.pass(time.Hour, Failure)
	}
	if n := len(f.heard); n < 10 || n > 12 {
		t.Errorf("%d messages in 10.7 days", n)
	}
}

// A hundred certificates that fail one after the other, each in a process of its
// own, do not make a hundred mails.
func TestManyCertificates(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	for n := range 100 {
		d.clock = d.clock.Add(time.Minute)
		d.Tell(t.Context(), []Subject{{Name: fmt.Sprintf("n%d", n), Conditions: []Condition{{Event: Failure}}}})
	}
	if len(f.heard) != maxADay || !f.heard[maxADay-1].Held || f.heard[0].Held {
		t.Errorf("%d messages, want %d, of which the last says so", len(f.heard), maxADay)
	}
	// What was held back is told when the day is over, by a pass over all in one.
	d.clock = d.clock.Add(25 * time.Hour)
	var all []Subject
	for n := range 100 {
		all = append(all, Subject{Name: fmt.Sprintf("n%d", n), Conditions: []Condition{{Event: Failure}}})
	}
	d.Tell(t.Context(), all)
	if n := len(f.heard); n != maxADay+1 || len(f.heard[n-1].Items) != 100 {
		t.Errorf("%d messages, the last of %d", n, len(f.heard[n-1].Items))
	}
}

// A target that fails is tried again, ever more rarely, and the others hear nothing
// twice. When it can be told again it is told what is so then.
func TestRetry(t *testing.T) {
	t.Parallel()
	good, bad := &fake{name: "good"}, &fake{name: "bad", err: errors.New("no")}
	d := newDesk(t, good, bad)
	tries := 0
	for range 24 * 60 {
		tries += len(d.pass(time.Minute, Failure))
	}
	if tries < 4 || tries > 9 {
		t.Errorf("%d attempts in a day", tries)
	}
	if good.words() != "begins failure, lasts failure" {
		t.Errorf("the other one heard %q", good.words())
	}
	bad.err = nil
	d.pass(7*time.Hour, Failure)
	d.pass(time.Hour)
	if bad.words() != "begins failure, ends failure" {
		t.Errorf("it heard %q", bad.words())
	}
	// The message that something is over is tried again, too.
	d.pass(25*time.Hour, Failure)
	bad.err = errors.New("no")
	d.pass(time.Hour)
	bad.err = nil
	d.pass(time.Hour)
	d.pass(time.Hour)
	if bad.words() != "begins failure, ends failure, begins failure, ends failure" {
		t.Errorf("it heard %q", bad.words())
	}
}

// A process that is killed while it tells has claimed what it was about to say:
// nobody says it at once, and somebody does later.
func TestKilledWhileTelling(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	s := []Subject{{Instance: "/etc/postfix", Name: "a", Conditions: []Condition{{Event: Failure}}}}
	claims := 0
	for range 24 * 60 { // each of them is killed when it has claimed
		d.clock = d.clock.Add(time.Minute)
		messages, err := d.claim(t.Context(), s, d.clock)
		if err != nil {
			t.Fatal(err)
		}
		claims += len(messages)
	}
	if claims < 4 || claims > 9 {
		t.Errorf("it was tried %d times in a day", claims)
	}
	d.pass(7*time.Hour, Failure)
	d.pass(time.Hour, Failure)
	if f.words() != "begins failure" {
		t.Errorf("heard %q", f.words())
	}
}

// Two processes at once say it once.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f", delay: 50 * time.Millisecond}
	d := newDesk(t, f)
	s := []Subject{{Name: "a", Conditions: []Condition{{Event: Failure}}}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { d.Tell(t.Context(), s) })
	}
	wg.Wait()
	if f.words() != "begins failure" {
		t.Errorf("heard %q", f.words())
	}
}

// What a person has just seen on a terminal is told the next day, if it lasts; and
// what was not told is not closed.
func TestSeen(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	d.Seen = true
	d.pass(0, Failure)
	d.Seen = false
	d.pass(time.Hour, Failure)
	d.pass(time.Hour)
	if f.words() != "" {
		t.Errorf("heard %q", f.words())
	}
	d.Seen = true
	d.pass(time.Hour, Failure)
	d.Seen = false
	d.pass(24*time.Hour, Failure)
	d.pass(time.Hour)
	if f.words() != "lasts failure, ends failure" {
		t.Errorf("heard %q", f.words())
	}
}

// What nobody looked at stays as it was; what gets time is told when it is over.
func TestUnknownAndGrace(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	d.pass(0, Drift)
	d.clock = d.clock.Add(time.Hour)
	d.Tell(t.Context(), []Subject{{Instance: "/etc/postfix", Name: "a", Unknown: []Event{Drift}}})
	if f.words() != "begins drift" {
		t.Errorf("heard %q", f.words())
	}
	d.pass(time.Hour)
	if f.words() != "begins drift, ends drift" {
		t.Errorf("heard %q", f.words())
	}
	order := []Subject{{Name: "o", Conditions: []Condition{{Event: Failure, Grace: day}}}}
	for range 30 {
		d.clock = d.clock.Add(time.Hour)
		d.Tell(t.Context(), order)
	}
	if f.words() != "begins drift, ends drift, begins failure" {
		t.Errorf("heard %q", f.words())
	}
}

// What nothing tries again is told again only after somebody did.
func TestOnce(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	tried := d.clock
	tell := func(after time.Duration) {
		d.clock = d.clock.Add(after)
		d.Tell(t.Context(), []Subject{{Name: "a", Conditions: []Condition{{Event: Failure, Once: true, Tried: tried}}}})
	}
	for range 72 {
		tell(time.Hour)
	}
	tried = d.clock.Add(time.Hour)
	tell(time.Hour)
	if f.words() != "begins failure, lasts failure" {
		t.Errorf("heard %q", f.words())
	}
}

// A memory that is damaged is none; one that cannot be written tells nobody, since
// it would be told again and again; what is over leaves nothing behind.
func TestMemory(t *testing.T) {
	t.Parallel()
	f := &fake{name: "f"}
	d := newDesk(t, f)
	d.pass(0, Failure)
	path, _ := d.Store.Path("", "a")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.pass(time.Hour, Failure)
	if f.words() != "begins failure, begins failure" {
		t.Errorf("heard %q", f.words())
	}
	d.pass(time.Hour)
	d.pass(25 * time.Hour)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	d.Store.Path = func(_, name string) (string, error) { return "/proc/nowhere/" + name, nil }
	log := &fakeLog{fake{name: "log"}}
	d.Targets = append(d.Targets, log)
	before := len(f.heard)
	if errs := d.pass(time.Hour, Failure); len(errs) == 0 || len(f.heard) != before {
		t.Errorf("told %d, errors %v", len(f.heard)-before, errs)
	}
	if log.words() != "begins failure" {
		t.Errorf("the log heard %q", log.words())
	}
	// Nor is anything written where others can write.
	if err := os.Chmod(d.Store.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	d.Store.Path = func(_, name string) (string, error) { return filepath.Join(d.Store.Dir, "y", name), nil }
	if errs := d.pass(time.Hour, Failure); len(errs) == 0 || len(f.heard) != before {
		t.Errorf("told %d, errors %v", len(f.heard)-before, errs)
	}
	if _, err := os.Stat(filepath.Join(d.Store.Dir, "y")); !os.IsNotExist(err) {
		t.Errorf("written to: %v", err)
	}
}

// fakeLog takes any number of messages.
type fakeLog struct{ fake }

func (*fakeLog) unlimited() {}

// A target that hangs costs no more than its time, and the others nothing.
func TestHangs(t *testing.T) {
	t.Parallel()
	good, bad, worse := &fake{name: "good"}, &fake{name: "bad", delay: time.Hour}, &fake{name: "worse", delay: time.Hour}
	d := newDesk(t, bad, worse, good)
	start := time.Now()
	errs := d.pass(0, Failure)
	if took := time.Since(start); took > Limit {
		t.Errorf("took %v", took)
	}
	if len(errs) != 2 || !strings.Contains(errs[0].Error(), "bad") || good.words() != "begins failure" {
		t.Errorf("errors %v, the other one heard %q", errs, good.words())
	}
}
