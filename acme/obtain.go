package acme

import (
	"context"
	"errors"
	"fmt"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// ReasonForce is Result.Reason for an order that Options.Force made.
const ReasonForce = "force"

// warnSkew is a difference of the clocks that is worth a warning.
const warnSkew = 5 * time.Minute

// Obtain makes the certificate that spec describes, if [Next] says that an order
// is due or one was begun, and otherwise returns the one there is. With an error
// the Result holds the live version all the same, if there is one.
func (m *Manager) Obtain(ctx context.Context, spec Spec, o Options) (Result, error) {
	spec, err := spec.Normal()
	if err != nil {
		return Result{}, failure(err)
	}
	if o.DryRun {
		r, err := m.dryRun(ctx, spec, o)
		return r, failure(err)
	}
	r := &run{m: m, spec: spec, o: o}
	err = m.lockCA(ctx, spec.Directory, func() error {
		return m.lockCert(ctx, spec.Name, func() error { return r.do(ctx) })
	})
	r.show()
	return r.result, failure(err)
}

// run is one Obtain under its locks.
type run struct {
	m      *Manager
	spec   Spec
	o      Options
	st     State
	read   bool // st was read: it may be written
	c      ca
	dir    legoclient.Directory
	acct   account
	due    Decision
	result Result
}

// do decides whether anything is to be done, does it, and writes down how it
// went.
func (r *run) do(ctx context.Context) error {
	if err := r.m.Store.clean(r.spec.Name); err != nil {
		return err
	}
	var err error
	if r.st, err = r.m.stateOf(r.spec, r.m.now()); err != nil {
		return err
	}
	r.read = true
	if wanted, err := r.wanted(); err != nil || !wanted {
		return err
	}
	err = r.order(ctx)
	if err == nil {
		return nil
	}
	return r.failed(err)
}

// wanted decides whether the CA is to be asked for a certificate: with an error
// if an order is due and something holds it back.
func (r *run) wanted() (bool, error) {
	now := r.m.now()
	d := Schedule{Interval: r.m.Interval}.Next(r.spec, r.st, r.st.Current, now)
	r.due = d
	due := !d.Due.After(r.st.at(now).Add(r.m.Interval))
	switch {
	case d.Action == ARI && d.Reason == ReasonClock:
		// Nothing is judged by this clock: the CA's is asked for first.
		return r.o.Force || due || r.st.clockUnsure(now), nil
	case r.o.Force:
		r.due.Reason = ReasonForce
		return true, r.forbidden(now)
	case d.Action == Order || d.Action == Resume:
		return true, nil
	case due && r.o.AllowKeyChange && r.st.Class == ClassRefused && d.Held == string(ClassRefused):
		return true, nil // what was refused is allowed now
	case due:
		return false, r.held(d.Held, d.Attempt)
	}
	return false, nil
}

// forbidden is what Force does not pass over.
func (r *run) forbidden(now time.Time) error {
	t := r.st.at(now)
	told := r.st.backingOff(r.spec) && (r.st.Class == ClassRateLimited || r.st.Class == ClassPaused)
	switch {
	case told && r.st.NextAttempt.After(t):
		return r.held(string(r.st.Class), r.st.NextAttempt)
	case r.st.Guarded.After(t):
		return r.held("guard", r.st.Guarded)
	case !r.st.resumable(r.spec, t) && capped(r.st.Orders, t).After(t):
		return r.held("cap", capped(r.st.Orders, t))
	}
	return nil
}

// held is the error for an order that must wait.
func (r *run) held(why string, until time.Time) error {
	e := &Error{Class: ClassRefused, Next: until, held: true}
	at := problem.At{}
	when := until.UTC().Format(time.RFC3339)
	switch why {
	case "cap":
		e.Problems = problem.List{problem.New("order_cap", at, "%d orders for these names were made within a week; the next one may be made at %s", len(r.st.Orders), when)}
	case "pace":
		e.Problems = problem.List{problem.New("order_pace", at, "%d orders for these names were made within a week, and the last one failed; the next one will be made at %s: %s", len(r.st.Orders), when, r.st.LastError)}
	case "guard":
		e.Problems = problem.List{problem.New("order_guard", at, "%d validations of a name failed within an hour; the next one may be made at %s", maxFailures, when)}
	case "ari":
		e.Problems = problem.List{problem.New("order_ari", at, "the CA asked for %d renewals within a day; the next one will be made at %s", maxARIOrders, when)}
	default:
		e.Class = r.st.Class
		p := problem.New("order_backoff", at, "the last attempt failed (%s); the next one will be made at %s: %s", r.st.Class, when, r.st.LastError)
		switch r.st.Class { // Force passes over neither
		case ClassRateLimited:
			p = problem.New("ca_rate_limited", at, "the next order will be made at %s, as the CA asked for: %s", when, r.st.LastError)
		case ClassPaused:
			p = problem.New("ca_paused", at, "the next order will be tried at %s, and fails until somebody visits the CA's page: %s", when, r.st.LastError)
		}
		e.Problems = problem.List{p}
	}
	return e
}

// order goes through an order, or the rest of one.
func (r *run) order(ctx context.Context) error {
	r.result.Reason = r.due.Reason
	if err := r.known(); err != nil {
		return err
	}
	if done, err := r.landed(); err != nil || done {
		return err
	}
	if err := r.greet(ctx); err != nil {
		return err
	}
	r.touch()
	if !r.o.Force {
		// The clock is known now, and it may not be due by it.
		if wanted, err := r.wanted(); err != nil || !wanted {
			return errors.Join(err, r.m.Store.writeState(r.spec.Name, r.st))
		}
		r.result.Reason = r.due.Reason
	}
	var err error
	if r.acct, err = r.m.settled(ctx, r.c, r.spec.Directory, r.spec.Account); err != nil {
		return err
	}
	if r.dir.Terms != "" && r.acct.Terms != "" && r.dir.Terms != r.acct.Terms {
		r.warn(problem.Warn("terms_changed", problem.At{}, "the CA has new terms of service, %s; those agreed to are %s", r.dir.Terms, r.acct.Terms))
	}
	profile, err := r.profile()
	if err != nil {
		return err
	}
	if err := r.trial(ctx); err != nil {
		return err
	}
	o, err := r.begun(ctx, profile)
	if err != nil {
		return err
	}
	chain, err := r.advance(ctx, o)
	if err != nil {
		return err
	}
	return r.keep(ctx, chain)
}

// known refuses an order without an account before anything is asked. Nothing was
// tried then, so it is no failure that delays the next attempt.
func (r *run) known() error {
	a, err := r.m.Store.account(r.spec.Directory, r.spec.Account)
	if err == nil && a.key == nil && a.state == nil {
		return &Error{Class: ClassAccount, Problems: noAccount(r.spec.Directory, r.spec.Account), held: true}
	}
	return err
}

func (r *run) warn(p problem.Problem) { r.result.Warnings = append(r.result.Warnings, p) }

func (r *run) touch() { r.st.touch(r.st.at(r.m.now())) }

// greet asks the CA for its directory, and so for the time.
func (r *run) greet(ctx context.Context) error {
	var err error
	if r.c, err = r.m.connect(r.spec.Directory, r.spec.Roots); err != nil {
		return err
	}
	if r.dir, err = r.c.Directory(ctx); err != nil {
		return err
	}
	now := r.m.now()
	r.st.measured(r.dir.Skew, now)
	if r.dir.Skew.Abs() > warnSkew {
		r.warn(problem.Warn("clock_off", problem.At{}, "the clock of this host differs from the CA's by %s", r.dir.Skew.Round(time.Second)))
	}
	// The counts of the ledger depend on the time.
	l, err := r.m.Store.ledger(r.spec.Directory)
	if err != nil {
		return err
	}
	l.seen(&r.st, r.spec, r.st.at(now))
	return nil
}

// profile is the profile to order.
func (r *run) profile() (string, error) {
	p := profileProblem(r.spec, r.dir)
	switch {
	case p == nil:
		return r.spec.Profile, nil
	case p.Severity == problem.Error:
		return "", &Error{Class: ClassRequest, Problems: problem.List{*p}}
	}
	r.warn(*p)
	return "", nil
}

func profileProblem(spec Spec, dir legoclient.Directory) *problem.Problem {
	if _, ok := dir.Profiles[spec.Profile]; ok || spec.Profile == "" {
		return nil
	}
	have := "none"
	if len(dir.Profiles) > 0 {
		have = words(sortedKeys(dir.Profiles))
	}
	var p problem.Problem
	if spec.ProfileRequired {
		p = problem.New("profile_unknown", problem.At{}, "the CA has no profile %q; it has %s", spec.Profile, have)
	} else {
		p = problem.Warn("profile_unknown", problem.At{}, "the CA has no profile %q, so its own choice is taken; it has %s", spec.Profile, have)
	}
	return &p
}

// failed writes down a failure, and what is left to be resumed.
func (r *run) failed(err error) error {
	class := Classify(err)
	if class == ClassReplaces {
		class = ClassRequest // it was tried without already
	}
	e := &Error{}
	if errors.As(failure(err), &e); e.held {
		return e
	}
	e = &Error{Class: class, Problems: e.Problems, Next: e.Next, Err: err}
	if class == ClassCanceled || class == ClassNone {
		return e
	}
	t := r.st.at(r.m.now())
	r.touch()
	if hash := r.spec.Hash(); r.st.SpecHash != hash {
		r.st.SpecHash, r.st.Failures = hash, 0
	}
	r.st.Failures++
	r.st.Class, r.st.LastError, r.st.LastFailure = class, oneLine(e), t
	var notAfter time.Time
	if r.st.Current != nil {
		notAfter = r.st.Current.NotAfter
	}
	r.st.NextAttempt = latest(Backoff(class, r.st.Failures, err, t, notAfter), e.Next)
	e.Next = r.st.NextAttempt
	if werr := r.m.Store.writeState(r.spec.Name, r.st); werr != nil {
		e.Problems = append(e.Problems, problem.New("acme_failed", problem.At{}, "the failure could not be written down: %v", werr))
	}
	r.m.log().Warn("no certificate", "name", r.spec.Name, "class", class, "next", e.Next, "err", e)
	return e
}

// show fills in what the result says of the state at the end.
func (r *run) show() {
	if !r.read {
		return
	}
	if v := r.st.Current; v != nil {
		r.result.Version, r.result.Dir, r.result.FullChain, r.result.Key = v, v.Dir, v.FullChain(), v.Key()
	}
	d := Schedule{Interval: r.m.Interval}.Next(r.spec, r.st, r.st.Current, r.m.now())
	r.result.Next = d.Attempt
	r.result.Warnings = append(r.result.Warnings, d.Problems...)
}

// stateOf is Manager.StateOf for a normal specification.
func (m *Manager) stateOf(spec Spec, now time.Time) (State, error) {
	st, err := m.Store.state(spec.Name)
	if err != nil {
		return State{}, err
	}
	l, err := m.Store.ledger(spec.Directory)
	if err != nil {
		return State{}, err
	}
	l.seen(&st, spec, st.at(now))
	return st, nil
}

// State is what is on disk about one certificate; zero if nothing is. It takes
// no lock.
func (m *Manager) State(name string) (State, error) {
	if p := checkName("spec_name", "a certificate", fileName(name)); p != nil {
		return State{}, failure(p)
	}
	st, err := m.Store.state(name)
	return st, failure(err)
}

// StateOf is State with the orders and failed validations that concern the names
// of spec at its CA, which [Next] needs.
func (m *Manager) StateOf(spec Spec) (State, error) {
	spec, err := spec.Normal()
	if err != nil {
		return State{}, failure(err)
	}
	st, err := m.stateOf(spec, m.now())
	if err != nil {
		err = fmt.Errorf("reading the state of %s: %w", spec.Name, err)
	}
	return st, failure(err)
}
