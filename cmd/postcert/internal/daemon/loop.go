package daemon

import (
	"context"
	"log/slog"
	"time"
)

// Loop is the life of the daemon. All fields without a comment on their zero
// value must be set.
type Loop struct {
	// Tasks are read again at every wake: what is on disk, in force now.
	Tasks func(now time.Time) ([]Task, error)

	// Run does what is due and returns when that is over. It must heed ctx, and
	// write down, where Tasks reads it, when the next turn is.
	Run func(ctx context.Context, t Task)

	// Reload takes over a new configuration, or says why it keeps the old one.
	Reload func()

	Hangup <-chan struct{}  // somebody wants a Reload; nil: nobody does
	Hints  <-chan struct{}  // Tasks may answer something else now; nil: nobody tells
	Tell   Teller           // nil: nobody listens
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: discarded

	// Watchdog is how often the service manager wants to hear of us; 0 never. It
	// is told twice as often, by the same goroutine that does everything else, so
	// that one which is stuck is noticed.
	Watchdog time.Duration

	unread string // the last error of Tasks: it is said once, not at every wake
}

// Teller is who is told what the daemon does: the service manager.
type Teller interface {
	Status(words string) // one line for people
	Alive()              // a sign of life
	Reloading()
	Ready()
	Stopping()
}

// Live runs what is due until ctx ends, and returns when all runs have ended. A
// run gets ctx's end as its own.
func (l *Loop) Live(ctx context.Context) {
	if l.Tell == nil {
		l.Tell = silent{}
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	var s Scheduler
	ended := make(chan string)
	running := 0
	for ctx.Err() == nil {
		l.look(&s)
		for _, t := range s.Start(l.now()) {
			running++
			go func() {
				l.Run(ctx, t)
				ended <- t.Name
			}()
		}
		l.Tell.Status(s.Words(l.now()))
		if name, ok := l.sleep(ctx, &s, ended); ok {
			running--
			s.Ended(name, l.now())
		}
	}
	l.Tell.Stopping()
	for ; running > 0; running-- {
		l.Log.Debug("waiting for the end of a run", "running", running)
		<-ended
	}
}

// look reads the tasks. If that fails, what was known stays in force: a record
// that cannot be read now must not keep the others from being renewed.
func (l *Loop) look(s *Scheduler) {
	tasks, err := l.Tasks(l.now())
	words := ""
	if err != nil {
		words = err.Error()
	}
	if words != l.unread {
		l.unread = words
		if err != nil {
			l.Log.Error("reading what is due", "err", err)
		} else {
			l.Log.Info("what is due can be read again")
		}
	}
	if err != nil && len(tasks) == 0 {
		tasks = s.tasks
	}
	s.Update(tasks, l.now())
}

// sleep ends when something may be due, or earlier with the name of a task that
// has ended, with a reload, or with ctx.
func (l *Loop) sleep(ctx context.Context, s *Scheduler, ended <-chan string) (string, bool) {
	timer := time.NewTimer(s.Wait(l.now()))
	defer timer.Stop()
	var alive <-chan time.Time
	if l.Watchdog > 0 {
		l.Tell.Alive()
		tick := time.NewTicker(l.Watchdog / 2)
		defer tick.Stop()
		alive = tick.C
	}
	for {
		select {
		case <-ctx.Done():
			return "", false
		case <-timer.C:
			return "", false
		case name := <-ended:
			return name, true
		case <-l.Hints:
			return "", false
		case <-l.Hangup:
			l.Tell.Reloading()
			l.Reload()
			s.Forget()
			l.Tell.Ready()
			return "", false
		case <-alive:
			l.Tell.Alive()
		}
	}
}

func (l *Loop) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

// Words are what the scheduler is doing, in one line for people.
func (s *Scheduler) Words(now time.Time) string {
	words := ""
	for _, name := range s.Running() {
		words += "working on " + name + "; "
	}
	t, ok := s.Next()
	switch {
	case !ok && words == "":
		return "nothing to keep: no certificate is configured or stored"
	case !ok:
		return words[:len(words)-2]
	case !t.At.After(now):
		return words + "next: " + t.Name + " (" + t.Why + "), now"
	}
	return words + "next: " + t.Name + " (" + t.Why + ") at " + t.At.UTC().Format(time.DateTime) + " UTC"
}

type silent struct{}

func (silent) Status(string) {}
func (silent) Alive()        {}
func (silent) Reloading()    {}
func (silent) Ready()        {}
func (silent) Stopping()     {}
