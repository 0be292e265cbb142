package deploy

import (
	"context"
	"errors"
	"fmt"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// Mixtures rehearses what lies between two configurations when both files change.
// A process that starts before the reload reads the new main.cf and has the
// overrides of before; after the reload of an undo it is the reverse, until main.cf
// is back. All of it is rehearsed first, of which err is the verdict. mainFirst
// and masterFirst say why new main.cf with old overrides, and old main.cf with new
// ones, do not serve; nil: they do. err is that it could not be found out, too.
func (e *Engine) Mixtures(ctx context.Context, c Change) (mainFirst, masterFirst, err error) {
	p, err := e.Plan(ctx, c)
	if err != nil || !p.editsBoth() || e.Stage == nil {
		return nil, nil, err
	}
	r := e.newRun(p)
	r.dry = true
	acts := p.acts(p.Candidate, false)
	if _, err = r.Stage.Rehearse(ctx, Rehearsal{Candidate: p.Candidate, Services: acts, Files: p.newFiles()}); err != nil && len(acts) > 0 {
		return nil, nil, err
	}
	if mainFirst, _, err = r.mixture(ctx, p.Main, p.Before.Master.Data); err != nil {
		return nil, nil, err
	}
	masterFirst, _, err = r.mixture(ctx, p.Before.Main.Data, p.Master)
	return mainFirst, masterFirst, err
}

// chooseOrder rehearses the mixture that a process meets which starts between the
// two replacements: it reads the new main.cf and has the overrides it always had.
// Where that does not serve, master.cf goes first, with a reload of its own, if the
// old main.cf serves with the new overrides. Else there is no order in which every
// client is served, and the change is refused.
func (r *run) chooseOrder(ctx context.Context) (handshakes int, err error) {
	mainFirst, n, err := r.mixture(ctx, r.plan.Main, r.plan.Before.Master.Data)
	if err != nil || mainFirst == nil {
		return n, err
	}
	masterFirst, more, err := r.mixture(ctx, r.plan.Before.Main.Data, r.plan.Master)
	if err == nil && masterFirst != nil {
		err = noOrder(mainFirst, masterFirst)
	}
	r.masterFirst = err == nil
	return n + more, err
}

// noOrder is the refusal of a change of which neither half can go first.
func noOrder(mainFirst, masterFirst error) error {
	out := &RefusedError{Mixture: true, Why: fmt.Sprintf(
		"neither file can be changed first: the new main.cf with the options of before does not serve (%v), and the old main.cf with the new options does not either (%v)", mainFirst, masterFirst)}
	if not, ok := errors.AsType[*RefusedError](mainFirst); ok {
		out.Log = not.Log
	}
	return out
}

// mixture rehearses one pair of files: what it is refused for, or why there was no
// rehearsal.
func (r *run) mixture(ctx context.Context, main, master []byte) (refused error, handshakes int, err error) {
	s, err := r.MTA.Candidate(ctx, main, master)
	if err != nil {
		return judged(err, 0)
	}
	if lost := r.plan.losesTLS(s); lost != nil {
		return lost, 0, nil
	}
	acts := r.plan.acts(s, true)
	if len(acts) == 0 {
		return nil, 0, nil
	}
	seen, err := r.Stage.Rehearse(ctx, Rehearsal{Candidate: s, Services: acts, Substitute: r.substitute(), Files: r.plan.newFiles()})
	return judged(err, len(seen))
}

// judged tells a refusal from a rehearsal that there could not be.
func judged(err error, n int) (refused error, handshakes int, failed error) {
	var not *RefusedError
	if errors.As(err, &not) || len(problem.From(err)) > 0 {
		return err, n, nil
	}
	return nil, n, err
}

// LostError says that a service which had TLS would offer none.
type LostError struct{ Service, Reason string }

func (e *LostError) Error() string { return e.Service + " would offer no TLS: " + e.Reason }

// losesTLS looks for a service that has TLS, and none in the configuration s.
func (p *Plan) losesTLS(s cf.Snapshot) *LostError {
	after := s.Listeners(p.host)
	for _, l := range p.Before.Listeners(p.host) {
		if !l.TLS || !p.servedTLS(l.ID()) {
			continue
		}
		for _, x := range after {
			if x.ID() == l.ID() && !x.TLS {
				return &LostError{x.ID(), x.Reason}
			}
		}
	}
	return nil
}
