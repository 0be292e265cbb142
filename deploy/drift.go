package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"postcert/deploy/generation"
	"postcert/verify/keypair"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// DriftError says how what is there differs from what was proven before.
type DriftError struct {
	Differences problem.List // each with the place that differs
}

func (e *DriftError) Error() string {
	return "what is there differs from what was proven: " + e.Differences.Error()
}

// Again is the change that installs what was proven once more: the generation with
// this leaf. With Prove it asks whether that is there still.
func (e *Engine) Again(ctx context.Context, name, leaf string) (Change, error) {
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return Change{}, err
	}
	gens, err := e.Store.List(s.Dir, name)
	if err != nil {
		return Change{}, err
	}
	for _, g := range slices.Backward(gens) {
		if g.Number == 0 {
			continue
		}
		if pair, err := e.pairOf(g); err == nil && pair.Fingerprint() == leaf {
			return Change{Reason: "repair", Name: name, Pair: pair, Source: g.Postfix(), Generation: g.Number, Service: e.readBy(s, name)}, nil
		}
	}
	return Change{}, problem.List{problem.New("generation_unknown", problem.At{}, "the generation of %s that was proven last is not kept any more", name)}
}

// probeDeadline is how long a listener is asked that does not present what it
// should: a process of before a reload may answer first.
const probeDeadline = 4 * time.Second

// compare answers a Change.Prove. Nothing is touched. The error is a *DriftError
// if something differs; that a listener could not be asked is no difference, and
// the outcome NotVerified.
func (e *Engine) compare(ctx context.Context, rec *recorder, p *Plan, planErr error) (*Report, error) {
	if p == nil || planErr != nil && len(p.Scheme.Problems.Errors()) == 0 {
		return refusal(p, *rec, planErr), planErr
	}
	r := e.newRun(p)
	var found problem.List
	err := rec.step(StepProve, func() (string, error) {
		if p.Running.Running && planErr == nil {
			r.report.Listeners = e.askAgain(ctx, p)
		}
		found = e.differences(p, r.report.Listeners)
		if len(found) > 0 {
			return count(len(found), "difference"), nil
		}
		return summary(r.report.Listeners), ctx.Err()
	})
	r.report.Steps, r.report.Time = rec.steps, e.now()
	if err != nil {
		return r.report, err
	}
	if len(found) > 0 {
		r.report.Outcome = Drifted
		return r.report, &DriftError{Differences: found}
	}
	if r.report.Outcome, err = weigh(r.report.Listeners, false); err != nil {
		return r.report, err
	}
	if r.report.Outcome == Installed {
		r.report.Outcome = Unchanged
	}
	return r.report, nil
}

// Differs says how what is there differs from what c installs, as a Change.Prove
// does, without the lock and with one look at each listener.
func (e *Engine) Differs(ctx context.Context, c Change) (problem.List, error) {
	c.Prove = true
	p, err := e.Plan(ctx, c)
	if p == nil || err != nil && len(p.Scheme.Problems.Errors()) == 0 {
		return nil, err
	}
	var obs []Observation
	if p.Running.Running && err == nil {
		obs = p.baselineObservations()
	}
	return e.differences(p, obs), nil
}

// askAgain are the answers that the plan has, and of those listeners that did not
// prove it, what they answer within a few seconds.
func (e *Engine) askAgain(ctx context.Context, p *Plan) []Observation {
	out := p.baselineObservations()
	var again []Expectation
	var at []int
	for i, o := range out {
		if o.Verdict != probe.Proven && !o.Expectation.Ignore {
			again, at = append(again, o.Expectation), append(at, i)
		}
	}
	deadline := min(probeDeadline, e.deadline(false))
	for i, o := range (proof{prober: e.Prober, deadline: deadline}).observe(ctx, again) {
		out[at[i]] = o
	}
	return out
}

// differences are what differs on disk and at the listeners, in the order in which
// one follows from another.
func (e *Engine) differences(p *Plan, obs []Observation) problem.List {
	out := slices.Clone(p.Scheme.Problems.Errors())
	for _, f := range p.Files {
		if !holds(f.Path, f.Part.of(p.Pair)) {
			out = append(out, e.fileDiffers(p, f.Path))
		}
	}
	for _, ed := range p.Edits {
		at := problem.At{Parameter: ed.Parameter, Service: ed.Service}
		at.File, at.Line = p.Before.Source(ed.Service, ed.Parameter)
		out = append(out, problem.New("drift_parameter", at, "%s is %s; when the certificate was proven it was %s",
			parameterWords(ed.Service, ed.Parameter), valueWords(ed.Old), valueWords(ed.New)))
	}
	onDisk := len(out) > 0
	seen := map[string]bool{}
	for _, o := range obs {
		x := o.Expectation
		if o.Verdict != probe.Contradicted || x.Ignore || seen[x.Endpoint.Address+o.Result.Leaf()] {
			continue
		}
		seen[x.Endpoint.Address+o.Result.Leaf()] = true
		at := problem.At{Service: x.Listener.ID(), Endpoint: x.Endpoint.Address, SNI: x.Endpoint.ServerName}
		words := fmt.Sprintf("%s on %s presents %s", x.Listener.ID(), x.Endpoint.Address, e.presents(p, o))
		if onDisk {
			out = append(out, problem.New("served_differs", at, "%s", words))
		} else {
			out = append(out, problem.New("drift_not_reloaded", at, "%s, although file and parameters are right: Postfix was not reloaded since, or something else answers there", words))
		}
	}
	for _, t := range staleTables(p.Before) {
		out = append(out, t.problem())
	}
	return out
}

// fileDiffers says what a file of ours holds instead of the proven pair.
func (e *Engine) fileDiffers(p *Plan, path string) problem.Problem {
	at := problem.At{File: path}
	short := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
	want := fmt.Sprintf("not %s, which was proven", generationOf(p.Change.Generation))
	chains, _, err := installedChains(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem.New("drift_file", at, "%s is gone; Postfix cannot start another process that serves TLS", short)
	case err != nil:
		return problem.New("drift_file", at, "%s cannot be read: %v", short, err)
	case len(chains) == 0:
		return problem.New("drift_file", at, "%s holds no certificate, %s", short, want)
	}
	leaf := chains[0][0]
	until := leaf.NotAfter.UTC().Format(time.DateOnly)
	if keypair.Fingerprint(leaf) == p.Pair.Fingerprint() {
		return problem.New("drift_file", at, "%s holds the right certificate, and other bytes beside it than were proven", short)
	}
	if n := e.generationWith(p, keypair.Fingerprint(leaf)); n > 0 {
		return problem.New("drift_file", at, "%s holds %s again (until %s), %s", short, generationOf(n), until, want)
	}
	return problem.New("drift_file", at, "%s holds %s (until %s), none of the generations that are kept, %s", short, LeafWords(leaf), until, want)
}

// presents says what a listener shows, by the generation if it is one of ours.
func (e *Engine) presents(p *Plan, o Observation) string {
	if len(o.Result.Chain) == 0 {
		return "no certificate: " + o.Words()
	}
	leaf := o.Result.Chain[0]
	words := fmt.Sprintf("%s (until %s)", LeafWords(leaf), leaf.NotAfter.UTC().Format(time.DateOnly))
	if o.Reason == probe.OtherChain {
		return words + " with another chain"
	}
	if n := e.generationWith(p, o.Result.Leaf()); n > 0 {
		return generationOf(n) + ", " + words
	}
	return words
}

// generationWith is the newest generation with this leaf, 0 if none is.
func (e *Engine) generationWith(p *Plan, leaf string) int {
	gens, err := e.Store.List(p.Instance, p.Name)
	if err != nil {
		return 0
	}
	i := slices.IndexFunc(gens, func(g generation.Generation) bool {
		pair, err := e.pairOf(g)
		return g.Number > 0 && err == nil && pair.Fingerprint() == leaf
	})
	if i < 0 {
		return 0
	}
	return gens[i].Number
}

func generationOf(n int) string { return fmt.Sprintf("generation %d", n) }

func parameterWords(service, parameter string) string {
	if service == "" {
		return parameter
	}
	return fmt.Sprintf("%s of %s", parameter, service)
}

func valueWords(v *string) string {
	switch {
	case v == nil:
		return "not set"
	case *v == "":
		return "empty"
	}
	return *v
}
