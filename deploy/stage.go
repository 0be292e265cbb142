package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// stage writes the pair as a new generation and reads it back. A pair that is
// already the newest generation is not written again.
func (r *run) stage() error {
	if r.plan.Pair.IsZero() {
		return nil
	}
	return r.step(StepStage, func() (string, error) {
		gen, err := r.generation()
		if err != nil {
			return "", err
		}
		r.gen, r.report.Generation = gen, gen.Number
		return fmt.Sprintf("generation %d", gen.Number), r.adopt()
	})
}

// generation is the one that holds the pair: an earlier one, or a new one.
func (r *run) generation() (generation.Generation, error) {
	if n := r.plan.Change.Generation; n > 0 && !r.dry {
		return r.Store.Get(r.plan.Instance, r.plan.Name, n)
	}
	latest, err := r.Store.Latest(r.plan.Instance, r.plan.Name)
	if err == nil && holds(latest.Postfix(), r.plan.Pair.Postfix()) {
		r.reused = true
		return latest, nil
	}
	return r.Store.Stage(r.plan.Instance, r.plan.Name, r.plan.Pair.Postfix(), r.plan.meta())
}

// rehearse lets a private Postfix serve the candidate. It decides by three
// ends: served; refused, which stops the change; and not run, which a mere
// file switch survives unless the configuration demands a rehearsal.
func (r *run) rehearse(ctx context.Context) error {
	mode := r.plan.Change.Rehearsal
	if !r.rehearses() {
		return nil
	}
	return r.step(StepRehearse, func() (string, error) {
		n, err := r.rehearsals(ctx)
		if r.plan.Configures() {
			// What it says of the live instance is to be said of the one
			// before this change.
			r.checked()
		}
		var not *RefusedError
		switch {
		case err == nil:
			r.report.Rehearsed.OK = true
			return count(n, "handshake"), nil
		case errors.As(err, &not):
			r.report.Log = not.Log
			return "", err
		case len(problem.From(err)) > 0 || ctx.Err() != nil:
			return "", err
		}
		r.report.Rehearsed.Reason = err.Error()
		if mode == RehearsalRequired || r.plan.Configures() {
			return "", problem.List{problem.New("rehearsal_not_run", problem.At{}, "the rehearsal could not run: %v", err)}
		}
		r.report.Problems = append(r.report.Problems, problem.Warn("rehearsal_not_run", problem.At{}, "the rehearsal could not run: %v", err))
		return "not run", nil
	})
}

// rehearses tells whether a rehearsal was asked for.
func (r *run) rehearses() bool {
	return r.plan.Change.Rehearsal != RehearsalOff && r.Stage != nil
}

// rehearsals runs the rehearsal of the candidate and, if both files change, those
// of what lies between, which decide in what order the files are written.
func (r *run) rehearsals(ctx context.Context) (int, error) {
	acts := r.plan.acts(r.plan.Candidate, false)
	if len(acts) == 0 && r.plan.Pair.IsZero() {
		return 0, nil // no service offers TLS: before us, or at all
	}
	seen, err := r.Stage.Rehearse(ctx, Rehearsal{Candidate: r.plan.Candidate, Services: acts, Substitute: r.substitute(), Files: r.plan.newFiles()})
	if err != nil || !r.plan.editsBoth() {
		return len(seen), err
	}
	more, err := r.chooseOrder(ctx)
	return len(seen) + more, err
}

// substitute maps each file of the certificate to one that holds the pair already.
func (r *run) substitute() map[string]string {
	out := map[string]string{}
	for _, f := range r.plan.Files {
		out[f.Path] = r.gen.Postfix()
	}
	return out
}

// newFiles is what the further files of the change will hold: trust anchors that
// main.cf names must be there for the private Postfix too.
func (p *Plan) newFiles() map[string][]byte {
	out := map[string][]byte{}
	for _, f := range p.Change.Files {
		if f.After.Kind == atomicfile.File && !f.Own {
			out[f.Path] = f.After.Data
		}
	}
	return out
}

// editsBoth tells whether main.cf and master.cf both change.
func (p *Plan) editsBoth() bool {
	ofMain := func(e cf.Edit) bool { return e.Service == "" }
	ofMaster := func(e cf.Edit) bool { return !ofMain(e) }
	return slices.ContainsFunc(p.Edits, ofMain) && slices.ContainsFunc(p.Edits, ofMaster)
}

// acts are the questions of a rehearsal: one for each service that offers TLS,
// whether or not it has an address of its own. With anyChain set, a good handshake
// is enough: the mixture of two configurations may still serve the old pair, and
// not yet have a key type that the new one adds.
func (p *Plan) acts(s cf.Snapshot, anyChain bool) []Act {
	var out []Act
	for _, l := range carryTLS(p.Listeners, s, p.host) {
		if !l.TLS {
			continue
		}
		svc, ok := s.Service(l.ID())
		if !ok {
			continue
		}
		a := Act{Listener: l, Service: svc, SNI: p.serverNames(), Want: map[string][][]byte{},
			Auth: !anyChain && slices.Contains(p.Change.Auth, l.ID()), Good: (anyChain || p.Change.plain()) && p.servedTLS(l.ID())}
		types := p.keyTypesAfter(l.ID())
		if anyChain && !p.Change.plain() {
			types = []string{""}
		}
		for _, kt := range types {
			a.Want[kt] = nil
			if p.serves(l.ID()) && (kt == "" || kt == p.Pair.KeyType()) && !anyChain {
				a.Want[kt] = rawChain(p.Pair.Chain())
			}
		}
		out = append(out, a)
	}
	return out
}

// servedTLS tells that a service must go on with TLS: it had it before this
// change, as far as anybody can know, or is new.
func (p *Plan) servedTLS(id string) bool {
	if _, there := p.Before.Service(id); !there || !p.Running.Running {
		return true
	}
	return slices.ContainsFunc(p.Former, func(x Expectation) bool { return x.Listener.ID() == id && !x.wasBroken() })
}

// slowCheck is when the time of a "postfix check" is worth a word.
const slowCheck = 10 * time.Second

// checkLive begins "postfix check" beside the transaction. It inspects the live
// instance and refuses nothing: what is wrong there was so before. That it
// fails is told; Debian's warns on a fresh host already, so warnings go to the
// log. It takes longer than all the rest, so nothing that does not edit the
// configuration waits for it.
func (r *run) checkLive(ctx context.Context) {
	if r.dry || !r.rehearses() {
		// It is not read-only: Debian's copies files into the chroot.
		return
	}
	r.check = make(chan problem.List, 1)
	go func() {
		begin := time.Now()
		warnings, err := r.MTA.Check(ctx)
		took := time.Since(begin)
		for _, w := range warnings {
			r.logger().Info("postfix check", "warning", strings.TrimSpace(w))
		}
		if ctx.Err() != nil {
			err = nil // it was ended with the transaction
		}
		r.check <- checkWords(r.plan.Instance, took, err)
	}()
}

// checkWords is what is worth telling of a "postfix check". One that was ended
// has said nothing: what the log had meanwhile is of the transaction.
func checkWords(instance string, took time.Duration, err error) problem.List {
	at := problem.At{File: instance}
	if e, ok := errors.AsType[*program.Error](err); ok && e.Timeout > 0 {
		return problem.List{problem.Warn("postfix_check_slow", at, "postfix check was ended after %s: it looks at each file of the queue", e.Timeout)}
	}
	switch {
	case err != nil:
		return problem.List{problem.Warn("postfix_check", at, "%v", err)}
	case took > slowCheck:
		return problem.List{problem.Warn("postfix_check_slow", at, "postfix check took %s: it looks at each file of the queue", took.Round(time.Second))}
	}
	return nil
}

// checked waits for the end of what checkLive began, and tells what it found.
func (r *run) checked() {
	if r.check == nil {
		return
	}
	r.report.Problems = append(r.report.Problems, <-r.check...)
	r.check = nil
}

// serves tells whether a service is to present the pair of this change.
func (p *Plan) serves(id string) bool { return slices.Contains(p.Scheme.Services, id) }

// keyTypesAfter are the key types that a service will serve.
func (p *Plan) keyTypesAfter(id string) []string {
	return keyTypes(p.chains(p.Candidate, id))
}
