package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/journal"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// run is one transaction on its way.
type run struct {
	*Engine
	recorder
	plan   *Plan
	report *Report
	tx     *journal.Tx
	gen    generation.Generation
	writes []journal.Write
	dry    bool              // nothing of this is remembered
	check  chan problem.List // of the postfix check that runs beside; nil if none does

	reused   bool      // the generation was there before
	adopting bool      // generation 0 was made for this change
	began    time.Time // when production was first touched

	masterFirst bool // master.cf is replaced and read before main.cf is: see chooseOrder
}

// Apply executes a plan: stage, rehearse, journal, commit, reload, prove,
// confirm; and undoes it if it is contradicted. The caller holds the lock. The
// report is filled also when an error is returned.
func (e *Engine) Apply(ctx context.Context, p *Plan) (*Report, error) {
	r := e.newRun(p)
	err := r.transact(ctx)
	r.checked()
	r.report.Steps, r.report.Time = r.steps, e.now()
	r.remember(err)
	return r.report, err
}

// close ends the open transaction; its record in the history is part of that.
func (r *run) close(cause error) error {
	detail, err := json.Marshal(r.record(cause))
	if err != nil {
		return err
	}
	r.report.ID = r.tx.ID()
	err = r.tx.Close(string(r.report.Outcome), detail)
	var unrecorded *journal.UnrecordedError
	if errors.As(err, &unrecorded) {
		r.report.ID = ""
		r.report.Problems = append(r.report.Problems, problem.Warn("history_full", problem.At{File: r.historyDir()},
			"the history has no record of this change: %v", err))
	} else if err != nil {
		return err
	}
	r.tx = nil
	r.dropKeys()
	return nil
}

// finish closes the journal of a change that is done; what it stored stays.
func (r *run) finish() error {
	if r.plan.Name != "" {
		if err := r.Store.Keep(r.plan.Instance, r.plan.Name); err != nil {
			return err
		}
	}
	return r.close(nil)
}

// warnOpen tells that the journal of a change that was settled could not be
// closed. What Postfix serves is right and was proven, so it is no failure; the
// next run closes it, or says why it cannot.
func (r *run) warnOpen(err error) {
	r.report.Problems = append(r.report.Problems, problem.Warn("journal_open", problem.At{File: r.journalDir()},
		"the journal of this change could not be closed: %v", err))
}

// tidy removes what nothing needs any more. It is not part of the promise, so
// what fails here is logged and tried again after the next change.
func (r *run) tidy(proven bool) {
	if !proven {
		// Which generation was proven last is not known here, and what others
		// still name may be needed: only the number is bounded.
		r.prune(max(unprovenKeep, orInt(r.Keep, 3)))
		return
	}
	for _, path := range r.plan.Obsolete {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.logger().Warn("removing a file that nothing names any more", "file", path, "err", err)
		}
	}
	if len(r.plan.Obsolete) > 0 {
		// One of them is a key: a power cut must not bring it back.
		if err := atomicfile.SyncParent(r.FS, r.plan.Obsolete[0]); err != nil {
			r.logger().Warn("removing files that nothing names any more", "err", err)
		}
	}
	r.prune(orInt(r.Keep, 3))
}

// unprovenKeep is how many generations are kept while none can be proven: more
// than enough to hold the last one that was.
const unprovenKeep = 10

func (r *run) prune(keep int) {
	if r.gen.Number == 0 {
		return
	}
	if _, err := r.Store.Prune(r.plan.Instance, r.plan.Name, keep, r.gen.Number); err != nil {
		r.logger().Warn("removing old generations", "err", err)
	}
}

func (e *Engine) newRun(p *Plan) *run {
	return &run{
		Engine: e, recorder: recorder{progress: e.Progress}, plan: p, began: e.now(),
		report: &Report{Plan: p, Outcome: Failed, Problems: p.Problems, Running: p.Running.Running},
	}
}

// transact is the sequence of the transaction. What fails up to the journal
// has touched nothing; what fails after it is undone.
func (r *run) transact(ctx context.Context) error {
	if r.plan.Unchanged {
		r.report.Outcome = Unchanged
		r.report.Listeners = r.plan.baselineObservations()
		return nil
	}
	if err := r.prepare(ctx); err != nil {
		r.sweep()
		if refused(err) {
			r.report.Outcome = Refused
		}
		return err
	}
	for _, part := range r.parts() {
		if err := r.commit(ctx, part); err != nil {
			return r.undo(ctx, err)
		}
		if !r.plan.Running.Running {
			continue
		}
		if err := r.take(ctx); err != nil {
			return r.undo(ctx, err)
		}
	}
	if !r.plan.Running.Running {
		return r.last(ctx, NotVerified)
	}
	outcome, err := r.prove(ctx)
	if err == nil {
		err = r.ask(ctx)
	}
	if err != nil {
		return r.undo(ctx, err)
	}
	return r.last(ctx, outcome)
}

// last is what follows when Postfix has proven the change.
func (r *run) last(ctx context.Context, outcome Outcome) error {
	outcome, err := r.accompany(ctx, outcome)
	if err != nil {
		return r.undo(ctx, err)
	}
	return r.confirmed(ctx, outcome)
}

// confirmed ends a change that is in place. As long as the journal does not
// say so, a change is undone by whoever finds the journal: so it is undone here
// if the journal cannot be made to say so.
func (r *run) confirmed(ctx context.Context, outcome Outcome) error {
	if err := r.confirm(outcome); err != nil {
		return r.undo(ctx, err)
	}
	return nil
}

// prepare does all that can be done before production is touched, the journal
// included.
func (r *run) prepare(ctx context.Context) error {
	r.checkLive(ctx)
	if err := r.stage(); err != nil {
		return err
	}
	if err := r.rehearse(ctx); err != nil {
		return err
	}
	return r.step(StepJournal, func() (string, error) {
		if err := r.fresh(ctx); err != nil {
			return "", err
		}
		return "", r.openJournal(ctx)
	})
}

// refused tells a verdict about what was asked for from a failure to act.
func refused(err error) bool {
	var not *RefusedError
	return len(problem.From(err)) > 0 || errors.As(err, &not)
}

// StaleError says that the configuration is not the one that was planned for.
type StaleError struct{ Instance string }

func (e *StaleError) Error() string {
	return fmt.Sprintf("the configuration in %s was changed by somebody else while this change was being prepared", e.Instance)
}

// fresh refuses a plan that was made for another configuration.
func (r *run) fresh(ctx context.Context) error {
	same, err := r.MTA.Unchanged(ctx, r.plan.Before)
	if err != nil {
		return err
	}
	if !same {
		return &StaleError{Instance: r.plan.Instance}
	}
	return ctx.Err()
}

// span is a run of writes, by their numbers: from the first to before the end.
type span struct{ from, end int }

// parts are the writes up to each reload: all of them, or first those without
// main.cf, which is the last one where master.cf goes first.
func (r *run) parts() []span {
	n := len(r.writes)
	if r.masterFirst {
		return []span{{0, n - 1}, {n - 1, n}}
	}
	return []span{{0, n}}
}

// commit applies writes in order. Each state in between is serveable: the file is
// one rename, and the configuration names it only afterwards.
func (r *run) commit(ctx context.Context, part span) error {
	return r.step(StepCommit, func() (string, error) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if part.from == 0 {
			r.began = r.now()
		}
		for i := part.from; i < part.end; i++ {
			if err := r.tx.Apply(i); err != nil {
				return "", err
			}
		}
		return count(part.end-part.from, "file"), nil
	})
}

// take lets Postfix read what was committed.
func (r *run) take(ctx context.Context) error {
	return r.step(StepReload, func() (string, error) {
		if err := r.tx.Mark(phaseReload); err != nil {
			return "", err
		}
		return "", r.MTA.Reload(ctx)
	})
}

// prove asks every listener and weighs the answers.
func (r *run) prove(ctx context.Context) (Outcome, error) {
	outcome := Installed
	err := r.step(StepProve, func() (string, error) {
		p := proof{prober: r.Prober, deadline: r.deadline(r.plan.Configures())}
		alive, stop := r.whileMasterLives(ctx)
		r.report.Listeners = p.observe(alive, r.plan.postfixOf(r.plan.Expect))
		lost := stop()
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if lost {
			return summary(r.report.Listeners), errMasterLost
		}
		var err error
		if r.plan.Change.plain() && len(r.plan.Expect) == 0 {
			return "no listener offers TLS", nil
		}
		outcome, err = weigh(r.report.Listeners, r.plan.Configures() || !r.report.Rehearsed.OK)
		return summary(r.report.Listeners), err
	})
	return outcome, err
}

// ask asks Postfix what is in effect after a change that is about no certificate:
// each edited parameter, and what the change itself wants to know. That a value is
// the planned one shows that Postfix reads it from there, and that nobody has
// written another one since.
func (r *run) ask(ctx context.Context) error {
	if !r.plan.Change.plain() {
		return nil
	}
	return r.step(StepAsk, func() (string, error) {
		now, err := r.MTA.Snapshot(ctx)
		if err != nil {
			return "", err
		}
		for _, ed := range r.plan.Edits {
			if _, there := now.Service(ed.Service); ed.IsEntry() {
				if there != (ed.New != nil) {
					return "", fmt.Errorf("the entry %s in master.cf is not as planned any more", ed.Service)
				}
				continue
			}
			got, want := now.Effective(ed.Service, ed.Parameter), r.plan.Candidate.Effective(ed.Service, ed.Parameter)
			if got != want {
				return "", fmt.Errorf("in effect is %s = %s, not %q", ed.Parameter, got, want)
			}
		}
		if r.plan.Change.Confirm != nil {
			if err := r.plan.Change.Confirm(ctx, now); err != nil {
				return "", err
			}
		}
		return count(len(r.plan.Edits), "parameter") + ", " + count(len(r.plan.Change.Files), "file"), nil
	})
}

// whileMasterLives is a context that ends when the master does: a listener that
// cannot be asked is one thing, a Postfix that died of this change another, and
// no reason to wait for the deadline. The function it returns tells whether the
// master died.
func (r *run) whileMasterLives(ctx context.Context) (context.Context, func() bool) {
	alive, cancel := context.WithCancelCause(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-alive.Done():
				return
			case <-time.After(masterInterval):
			}
			if m, err := r.MTA.Master(alive); err == nil && !m.Running {
				cancel(errMasterLost)
			}
		}
	}()
	return alive, func() bool {
		cancel(nil)
		<-gone
		return errors.Is(context.Cause(alive), errMasterLost)
	}
}

// masterInterval is how often the master is looked for during a proof.
const masterInterval = 500 * time.Millisecond

// errMasterLost is the cause of an undo that has to start Postfix again.
var errMasterLost = errors.New("the Postfix master process ended after the reload")

// ContradictedError says which listener does not present what was installed.
type ContradictedError struct {
	Observations []Observation // those that led to the undo
}

func (e *ContradictedError) Error() string {
	o := e.Observations[0]
	what := "does not present the certificate"
	if o.Verdict == probe.NotVerified {
		what = "could not be verified"
	}
	return fmt.Sprintf("%s on %s %s: %s", o.Expectation.Listener.ID(), o.Expectation.Endpoint.Address, what, o.Words())
}

// weigh turns the observations into an outcome. A contradiction undoes. What
// could not be verified undoes only if demand is set: when configuration
// changed, or nothing was rehearsed. What was broken before never undoes, and
// is no success either. Nothing proven at all is never a success.
func weigh(obs []Observation, demand bool) (Outcome, error) {
	var against []Observation
	proven, open := 0, 0
	for _, o := range obs {
		switch {
		case o.Expectation.Ignore:
		case o.Verdict == probe.Proven:
			proven++
		case o.Expectation.wasBroken():
			open++
		case o.Verdict == probe.Contradicted, demand:
			against = append(against, o)
		default:
			open++
		}
	}
	if len(against) > 0 {
		return "", &ContradictedError{Observations: against}
	}
	if open > 0 || proven == 0 {
		return NotVerified, nil
	}
	return Installed, nil
}

func summary(obs []Observation) string {
	proven := 0
	for _, o := range obs {
		if o.Verdict == probe.Proven {
			proven++
		}
	}
	return fmt.Sprintf("%d of %d proven", proven, len(obs))
}

// confirm closes the journal and prunes what is no longer needed.
func (r *run) confirm(outcome Outcome) error {
	return r.step(StepConfirm, func() (string, error) {
		if err := r.tx.Mark(phaseDone); err != nil {
			// It may be in place, not forced to disk: the undo that follows
			// must not be taken for done by whoever finds it interrupted.
			_ = r.tx.Mark(phaseReload)
			return "", err
		}
		r.report.Outcome = outcome
		if err := r.finish(); err != nil {
			r.warnOpen(err)
			return "journal left open", nil
		}
		r.tidy(outcome == Installed)
		return "", nil
	})
}
