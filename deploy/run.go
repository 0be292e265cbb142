package deploy

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/lock"
	"postcert/verify/problem"
)

// Choice says which change is wanted. Run asks when it has the lock, so that a
// choice that depends on what is installed, such as a rollback, is of the state
// that it changes.
type Choice func(context.Context) (Change, error)

// Chosen is the choice of one that knows already.
func Chosen(c Change) Choice {
	return func(context.Context) (Change, error) { return c, nil }
}

// Run takes the lock, settles what an earlier run left, asks choose what is
// wanted, plans it, shows the plan, and applies it. It is the one way in which a
// change reaches production.
// wait is how long another run may hold the lock before a *lock.HeldError.
// show, if not nil, is called with the plan before anything is written. The
// report is nil only if there is no plan.
func (e *Engine) Run(ctx context.Context, choose Choice, wait time.Duration, show func(*Plan)) (*Report, error) {
	rec := recorder{progress: e.Progress}
	held, err := e.acquire(ctx, &rec, wait)
	if err != nil {
		return nil, err
	}
	defer held.Release()
	if err := e.settleFirst(ctx, &rec); err != nil {
		return nil, err
	}
	c, err := choose(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.plan(ctx, &rec, c)
	if c.Prove {
		return e.compare(ctx, &rec, p, err)
	}
	if err != nil {
		return refusal(p, rec, err), err
	}
	if show != nil {
		show(p)
	}
	rep, err := e.Apply(ctx, p)
	rep.Steps = append(rec.steps, rep.Steps...)
	return rep, err
}

// DryRun plans what is wanted and rehearses it, and writes nothing outside scratch, a
// directory below which temporary ones are made. Its verdicts are those of Run,
// up to the rehearsal.
func (e *Engine) DryRun(ctx context.Context, choose Choice, scratch string) (*Report, error) {
	rec := recorder{progress: e.Progress}
	c, err := choose(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.plan(ctx, &rec, c)
	if err != nil {
		return refusal(p, rec, err), err
	}
	if err := atomicfile.Private(scratch); err != nil {
		err = untrusted(scratch, err)
		return refusal(p, rec, err), err
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return refusal(p, rec, err), err
	}
	dir, err := os.MkdirTemp(scratch, "dry-")
	if err != nil {
		return refusal(p, rec, err), err
	}
	defer os.RemoveAll(dir)
	dry := *e
	store := *e.Store
	store.Dir = dir
	dry.Store = &store
	r := dry.newRun(p)
	r.dry = true
	err = nil
	if !p.Unchanged {
		if err = r.stage(); err == nil {
			err = r.rehearse(ctx)
		}
	}
	r.report.Generation = 0
	r.report.Outcome = Planned
	if err != nil {
		r.report.Outcome = Refused
	}
	r.report.Steps, r.report.Time = append(rec.steps, r.steps...), e.now()
	return r.report, err
}

// refusal is the report of a change that got no further than its plan.
func refusal(p *Plan, rec recorder, err error) *Report {
	rep := &Report{Plan: p, Outcome: Refused, Steps: rec.steps}
	if p != nil {
		rep.Problems, rep.Running = p.Problems, p.Running.Running
	}
	if !refused(err) {
		rep.Outcome = Failed
	}
	return rep
}

func (e *Engine) acquire(ctx context.Context, rec *recorder, wait time.Duration) (*lock.Lock, error) {
	var held *lock.Lock
	err := rec.step(StepLock, func() (string, error) {
		// Before it, because mkdir(2) would follow whoever can write above it.
		err := atomicfile.Private(e.StateDir)
		if err == nil {
			err = atomicfile.MkdirAll(e.FS, e.StateDir)
		}
		if err == nil {
			err = atomicfile.Private(e.StateDir)
		}
		if err == nil {
			held, err = lock.Acquire(ctx, e.lockPath(), wait)
		}
		return "", e.stateProblem(ctx, err)
	})
	return held, err
}

// stateProblem names a state directory that cannot be used. That the lock is
// held, or the time is over, says nothing about the directory.
func (e *Engine) stateProblem(ctx context.Context, err error) error {
	var held *lock.HeldError
	if err == nil || ctx.Err() != nil || errors.As(err, &held) {
		return err
	}
	var refused *atomicfile.RefusedError
	if errors.As(err, &refused) && refused.Reason != atomicfile.NotDirectory {
		return untrusted(e.StateDir, err)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return problem.List{problem.New("disk_full", problem.At{File: e.StateDir}, "the state directory %s cannot be used: %v", e.StateDir, err)}
	}
	return problem.List{problem.New("state_not_writable", problem.At{File: e.StateDir}, "the state directory %s cannot be used: %v", e.StateDir, err)}
}

// untrusted refuses a directory in which somebody else could decide what we
// find and where we write.
func untrusted(dir string, err error) error {
	return problem.List{problem.New("directory_untrusted", problem.At{File: dir}, "%v", err)}
}

// settleFirst finishes or undoes an open transaction before a new one begins.
// Nothing is reported when nothing was open.
func (e *Engine) settleFirst(ctx context.Context, rec *recorder) error {
	rep, err := e.Recover(ctx)
	if rep != nil {
		rec.steps = append(rec.steps, Event{Step: StepSettle, Detail: string(rep.Outcome), Err: err})
	}
	return err
}

func (e *Engine) plan(ctx context.Context, rec *recorder, c Change) (*Plan, error) {
	var p *Plan
	err := rec.step(StepPlan, func() (string, error) {
		var err error
		p, err = e.Plan(ctx, c)
		if p == nil {
			return "", err
		}
		return p.describe(), err
	})
	return p, err
}

func (p *Plan) describe() string {
	switch {
	case p.Unchanged:
		return count(p.listenerCount(), "listener") + ", nothing to change"
	case p.Configures():
		return count(p.listenerCount(), "listener") + ", " + count(len(p.Edits), "edit")
	}
	if n := len(p.Change.Files); n > 0 {
		return count(p.listenerCount(), "listener") + ", " + count(n, "file")
	}
	return count(p.listenerCount(), "listener") + ", a file switch"
}

// listenerCount counts addresses with TLS.
func (p *Plan) listenerCount() int {
	seen := map[string]bool{}
	asked := p.Expect
	if len(asked) == 0 {
		asked = p.Former // refused before it was known what would be asked
	}
	for _, x := range asked {
		seen[x.Endpoint.Address] = true
	}
	return len(seen)
}

// Settle takes the lock and does what Recover does, for a command of its own.
func (e *Engine) Settle(ctx context.Context, wait time.Duration) (*Report, error) {
	rec := recorder{progress: e.Progress}
	held, err := e.acquire(ctx, &rec, wait)
	if err != nil {
		return nil, err
	}
	defer held.Release()
	return e.Recover(ctx)
}
