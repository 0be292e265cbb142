package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk is what a test's runs write down, and what time it is there: the bubble's
// clock runs on while a machine sleeps, the time of day jumps.
type disk struct {
	mu     sync.Mutex
	tasks  map[string]Task
	jump   time.Duration
	starts []time.Time
	run    func(ctx context.Context, t Task)
	wrong  error
	said   []string
	looks  int
}

func (d *disk) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Round(0).Add(d.jump)
}

func (d *disk) read(time.Time) ([]Task, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	var out []Task
	for _, t := range d.tasks {
		out = append(out, t)
	}
	if d.wrong != nil {
		return nil, d.wrong
	}
	return out, nil
}

func (d *disk) put(t Task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tasks == nil {
		d.tasks = map[string]Task{}
	}
	d.tasks[t.Name] = t
}

func (d *disk) loop() *Loop {
	return &Loop{Tasks: d.read, Now: d.now, Tell: d, Reload: func() { d.say("reload") }, Run: func(ctx context.Context, t Task) {
		now := d.now()
		d.mu.Lock()
		d.starts = append(d.starts, now)
		if len(d.starts) > 10000 {
			panic("a storm: more runs than any test has time for")
		}
		d.mu.Unlock()
		d.run(ctx, t)
	}}
}

func (d *disk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.starts)
}

func (d *disk) say(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, s)
}
func (d *disk) Status(string) {}
func (d *disk) Alive()        { d.say("alive") }
func (d *disk) Reloading()    { d.say("reloading") }
func (d *disk) Ready()        { d.say("ready") }
func (d *disk) Stopping()     { d.say("stopping") }

// live runs the loop in a bubble while f does things to it.
func live(t *testing.T, d *disk, f func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := d.loop()
		ended := make(chan struct{})
		go func() { l.Live(ctx); close(ended) }()
		f()
		cancel()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the loop goes on after its end")
		}
	})
}

// Ninety days of renewals a week apart: each starts within a tick of its time,
// and the loop looks a little more often than once a minute, not in between.
func TestLiveDays(t *testing.T) {
	d := &disk{}
	var due []time.Time
	d.run = func(_ context.Context, task Task) {
		due = append(due, task.At)
		time.Sleep(30 * time.Second)
		task.At = d.now().Add(7 * 24 * time.Hour)
		d.put(task)
	}
	live(t, d, func() {
		d.put(Task{Name: "a", At: d.now()})
		time.Sleep(90 * 24 * time.Hour)
	})
	if len(d.starts) != 13 {
		t.Fatalf("%d runs, want 13", len(d.starts))
	}
	for i := range due {
		if late := d.starts[i].Sub(due[i]); late < 0 || late > Tick {
			t.Errorf("run %d started %v after its time", i, late)
		}
	}
	if most := 90*24*60 + 60; d.looks > most {
		t.Errorf("looked %d times in 90 days, more than %d", d.looks, most)
	}
}

// A machine that sleeps every night for eight hours, with timers that stand still,
// starts what became due in the night within a minute of its waking.
func TestLiveSuspend(t *testing.T) {
	d := &disk{}
	d.run = func(_ context.Context, task Task) {
		task.At = d.now().Add(5 * time.Hour)
		d.put(task)
	}
	live(t, d, func() {
		d.put(Task{Name: "a", At: d.now()})
		for range 30 {
			time.Sleep(16 * time.Hour)
			before := d.count()
			d.mu.Lock()
			d.jump += 8 * time.Hour
			d.mu.Unlock()
			time.Sleep(Tick + time.Second)
			if d.count() == before {
				t.Errorf("nothing started in the minute after the night")
			}
		}
	})
}

// A clock set back a year and forward again: no run is lost, and there is no
// storm.
func TestLiveClock(t *testing.T) {
	d := &disk{}
	d.run = func(_ context.Context, task Task) {
		task.At = d.now().Add(time.Hour)
		d.put(task)
	}
	live(t, d, func() {
		d.put(Task{Name: "a", At: d.now()})
		for _, jump := range []time.Duration{-365 * 24 * time.Hour, 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
			time.Sleep(24 * time.Hour)
			d.mu.Lock()
			d.jump += jump
			// What reads the disk sees that the time written there cannot be meant.
			d.tasks["a"] = Task{Name: "a", At: time.Now().Add(d.jump)}
			d.mu.Unlock()
			before := d.count()
			time.Sleep(2 * time.Hour)
			if n := d.count() - before; n < 2 || n > 3 {
				t.Errorf("%d runs in the two hours after a jump of %v", n, jump)
			}
		}
	})
}

// A service manager that starts the daemon again each second, for a day: what is
// on disk decides, so there are no more runs than in one life.
func TestLiveRestartLoop(t *testing.T) {
	d := &disk{}
	d.run = func(_ context.Context, task Task) {
		task.At = d.now().Add(6 * time.Hour)
		d.put(task)
	}
	synctest.Test(t, func(t *testing.T) {
		d.put(Task{Name: "a", At: d.now()})
		for range 24*3600 - 1 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			d.loop().Live(ctx)
			cancel()
		}
	})
	if len(d.starts) != 4 {
		t.Errorf("%d runs in a day of restarts, want 4", len(d.starts))
	}
}

// A disk that cannot be read: what was known stays in force, with gaps.
func TestLiveUnreadable(t *testing.T) {
	d := &disk{}
	d.run = func(context.Context, Task) { d.mu.Lock(); d.wrong = errors.New("no"); d.mu.Unlock() }
	live(t, d, func() {
		d.put(Task{Name: "a", At: d.now()})
		time.Sleep(2 * time.Hour)
	})
	if n := len(d.starts); n != 6 {
		t.Errorf("%d runs in two hours, want 6", n)
	}
}

// The end comes at once when nothing runs, and waits for what does.
func TestLiveEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		d.run = func(ctx context.Context, _ Task) {
			<-ctx.Done()
			time.Sleep(20 * time.Second) // puts things in order
		}
		d.put(Task{Name: "a", At: d.now()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { d.loop().Live(ctx); close(ended) }()
		time.Sleep(time.Hour)
		cancel()
		start := time.Now()
		<-ended
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("ended after %v", took)
		}
		if len(d.starts) != 1 || d.said[len(d.said)-1] != "stopping" {
			t.Errorf("%d runs, said %q", len(d.starts), d.said)
		}
	})
}

// A hang-up reloads, between two words to the service manager, also while
// something runs; signs of life come twice in the time that is allowed.
func TestLiveReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		d.run = func(ctx context.Context, _ Task) { <-ctx.Done() }
		d.put(Task{Name: "a", At: d.now()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		l := d.loop()
		hangup := make(chan struct{})
		l.Hangup, l.Watchdog = hangup, 20*time.Second
		go func() {
			time.Sleep(5 * time.Second)
			hangup <- struct{}{}
		}()
		l.Live(ctx)
		i := slices.Index(d.said, "reloading")
		if i < 0 || !slices.Equal(d.said[i:i+3], []string{"reloading", "reload", "ready"}) {
			t.Errorf("said %q", d.said[:min(10, len(d.said))])
		}
		alive := 0
		for _, s := range d.said {
			if s == "alive" {
				alive++
			}
		}
		if alive < 360 || alive > 430 {
			t.Errorf("%d signs of life in an hour, want about 360 to 430", alive)
		}
	})
}

// A hint has the tasks read again at once, and what has come due is run.
func TestLiveHint(t *testing.T) {
	d := &disk{}
	synctest.Test(t, func(t *testing.T) {
		hints := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		l := d.loop()
		l.Hints = hints
		d.run = func(_ context.Context, task Task) { task.At = d.now().Add(time.Hour); d.put(task) }
		ended := make(chan struct{})
		go func() { l.Live(ctx); close(ended) }()
		time.Sleep(10 * time.Second)
		d.put(Task{Name: "a"})
		began := time.Now()
		synctest.Wait()
		if d.count() != 0 {
			t.Error("run without a hint")
		}
		hints <- struct{}{}
		synctest.Wait()
		if d.count() != 1 || time.Since(began) > 0 {
			t.Errorf("%d runs, %v after the hint", d.count(), time.Since(began))
		}
		cancel()
		<-ended
	})
}
