package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// runAll runs every scenario on every release, parallel of them at a time, and
// prints a line for each that is done.
func (w *world) runAll(scenarios []Scenario, parallel int) table {
	t := table{scenarios: scenarios, releases: w.releases, date: time.Now()}
	together, alone := inTurn(scenarios)
	t.cells = append(w.run(together, parallel), w.run(alone, 1)...)
	t.took, t.cpu = time.Since(t.date), used()
	return t
}

// run runs scenarios in their order.
func (w *world) run(scenarios []Scenario, parallel int) []cell {
	type job struct {
		sc Scenario
		r  *Release
	}
	var cells []cell
	jobs := make(chan job)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for j := range jobs {
				c := w.one(j.sc, j.r)
				mu.Lock()
				cells = append(cells, c)
				mu.Unlock()
			}
		})
	}
	for _, sc := range scenarios {
		for _, r := range w.releases {
			select {
			case jobs <- job{sc, r}:
			case <-w.ctx.Done():
			}
		}
	}
	close(jobs)
	wg.Wait()
	return cells
}

// used is the processor time of this process and of those that it has waited for:
// nspawn, which has waited for its machine, is one.
func used() time.Duration {
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(who, &r); err != nil {
			return 0
		}
		sum += r.Utime.Nano() + r.Stime.Nano()
	}
	return time.Duration(sum)
}

// inTurn is the order of a run: what waits for minutes is not to be the last, and
// what measures goes alone.
func inTurn(scenarios []Scenario) (together, alone []Scenario) {
	var others []Scenario
	for _, sc := range scenarios {
		switch {
		case sc.Alone:
			alone = append(alone, sc)
		case sc.Long:
			together = append(together, sc)
		default:
			others = append(others, sc)
		}
	}
	return append(together, others...), alone
}

// one runs a scenario on a release.
func (w *world) one(sc Scenario, r *Release) cell {
	limit := sc.Limit
	if limit == 0 {
		limit = scenarioLimit
	}
	ctx, cancel := context.WithTimeoutCause(w.ctx, limit, fmt.Errorf("the scenario is over its time, %s", limit))
	defer cancel()
	s := &S{Release: r, world: w, title: sc.ID + " " + sc.Title, ctx: ctx}
	begin := time.Now()
	s.perform(sc.Run)
	c := cell{scenario: sc.ID, release: r, verdict: s.verdict, reason: s.reason, took: time.Since(begin), cpu: s.cpu, figures: s.figures}
	w.printing.Lock()
	defer w.printing.Unlock()
	if w.quiet && c.verdict != failed {
		return c
	}
	fmt.Printf("%-4s %-9s %5.1f s %5.1f CPU-s  %s\n", c.verdict, r, c.took.Seconds(), c.cpu.Seconds(), s.title)
	switch {
	case c.verdict == cannot:
		fmt.Printf("     %s\n", c.reason)
	case c.verdict == failed && w.ctx.Err() == nil:
		fmt.Printf("     %s\n%s\n", c.reason, indented(s.told()))
	}
	return c
}

// perform runs f, then ends the machines of s.
func (s *S) perform(f func(*S)) {
	s.verdict = passed
	s.goexit(func() { f(s) })
	s.mu.Lock() // what runs in the background may write still
	s.ended = s.text.Len()
	s.mu.Unlock()
	if s.verdict == failed {
		s.goexit(s.postMortem)
	}
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		s.goexit(s.cleanup[i])
	}
	for _, m := range s.machines {
		if s.world.keep && s.verdict == failed {
			continue
		}
		s.cpu += cpuTime(m.cgroups)
		if err := m.remove(); err != nil {
			s.judge(failed, err.Error())
		}
	}
}

// goexit runs f, which may end itself by Fatalf or a panic.
func (s *S) goexit(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				s.judge(failed, fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
			}
		}()
		f()
	}()
	<-done
}

// told is the transcript with what was found out after the failure first: who
// prints only the beginning of it keeps that.
func (s *S) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.text.String()
	return text[s.ended:] + "before that:\n" + text[:s.ended]
}

// postMortem adds what the machines know to the transcript of a failure.
func (s *S) postMortem() {
	if errors.Is(s.ctx.Err(), context.DeadlineExceeded) {
		ctx, cancel := context.WithTimeout(s.world.ctx, time.Minute)
		defer cancel()
		s.ctx = ctx
	}
	for _, m := range s.machines {
		if !m.running() {
			s.note("%s is off; its console:\n%s", m.Name, m.Console())
			continue
		}
		for _, command := range []string{
			"journalctl --no-pager -q -o short-precise -n 20 -t postcert",
			"systemctl --no-pager --failed",
			"journalctl --no-pager -q -o short-precise -n 60",
		} {
			r, err := m.enter(20*time.Second, nil, "sh", "-c", command)
			s.transcribe(m, command, r, err)
		}
	}
}

func indented(text string) string {
	return "     " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n     ")
}

// report prints the table, to file as well if there is one.
func (t table) report(file string) error {
	fmt.Println()
	t.markdown(os.Stdout)
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	t.markdown(f)
	return f.Close()
}
