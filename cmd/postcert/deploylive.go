package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/postfix"
	"postcert/verify"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// pairFiles are where a pair is.
type pairFiles struct {
	cert, key string
	chain     string // "" if cert holds it
	leaf      string // fingerprint, "" if it is known only when it is read
	ours      bool   // in our own state directory
}

func (f pairFiles) isZero() bool { return f == pairFiles{} }

func lineageFiles(dir string) pairFiles {
	return pairFiles{cert: filepath.Join(dir, "fullchain.pem"), key: filepath.Join(dir, "privkey.pem")}
}

// deployLive takes the live pair of a certificate to every instance that is to
// serve it. What is served already is proven again, which changes nothing.
func (a *app) deployLive(ctx context.Context, w wish, live pairFiles, turn *status.Turn, o passOptions, v *passJSON, res *result) error {
	sites, unread := a.sitesOf(ctx, w)
	if len(sites) == 0 {
		if unread == nil && !w.remembered {
			res.problem(problem.Warn("not_deployed", problem.At{File: a.conf.File, Parameter: "instances"},
				"no instance of the configuration serves %s; it is kept in %s", w.name, filepath.Dir(live.cert)))
		}
		return unread
	}
	a.blame(res, unread)
	for _, s := range sites {
		s.inputs = a.inputs(s.instance.ConfigDirectory, live)
	}
	pair, warnings, err := a.readLive(ctx, w, live, turn)
	for _, p := range warnings {
		res.problem(p)
	}
	if err != nil {
		return a.notRead(ctx, sites, w, o, err, v)
	}
	v.Certificate = certificateOf(pair)
	a.showCertificate(pair)
	var all []error
	for _, s := range sites {
		d, err := a.deployTo(ctx, s, w, pair, *turn, o, res)
		v.Deploys = append(v.Deploys, d)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// notRead remembers, for each instance, that there is no pair to deploy. To read it
// again costs nothing, so it is tried again at each pass; the daemon's says it
// once for the same files.
func (a *app) notRead(ctx context.Context, sites []*site, w wish, o passOptions, err error, v *passJSON) error {
	said := true
	for _, s := range sites {
		d := deployJSON{Instance: s.instance.ConfigDirectory}
		rec, _ := a.records().Read(d.Instance, w.name)
		if o.scheduled && (rec.Waits(s.inputs) || rec.RetryAt(a.now()).After(a.now())) {
			d.Left = "it was refused before: " + rec.LastError.Message
			a.text.printf("  left alone   %s: %s\n", d.Instance, d.Left)
		} else {
			said = false
			a.recordFailed(ctx, s, w, keypair.Pair{}, err)
		}
		d.Next = a.retryOf(s, w)
		v.Deploys = append(v.Deploys, d)
	}
	if said && len(sites) > 0 {
		return nil
	}
	return err
}

// sitesOf are the instances that are to serve a certificate. The error is of those
// that cannot be used, and does not keep the others from it.
func (a *app) sitesOf(ctx context.Context, w wish) ([]*site, error) {
	list, known := a.targets(w)
	if !known {
		s, err := a.oneInstance(ctx)
		if err != nil {
			return nil, err
		}
		return []*site{s}, nil
	}
	var out []*site
	var all []error
	for _, t := range list {
		found, err := postfix.Find(ctx, postfix.Options{
			Instance: t.directory, CommandDirectory: a.conf.CommandDirectory, RuntimeDirectory: a.conf.RuntimeDir, Log: a.log,
		})
		if err != nil {
			all = append(all, err)
			continue
		}
		for _, i := range found {
			out = append(out, a.site(ctx, i))
		}
	}
	return out, errors.Join(all...)
}

// deployTo installs a pair on one instance, or proves that it is served, unless
// somebody has decided otherwise or it is not its time.
func (a *app) deployTo(ctx context.Context, s *site, w wish, pair keypair.Pair, turn status.Turn, o passOptions, res *result) (deployJSON, error) {
	d := deployJSON{Instance: s.instance.ConfigDirectory}
	rec, err := a.records().Read(s.instance.ConfigDirectory, w.name)
	if err != nil {
		a.log.Warn("reading the status", "err", err)
	}
	if d.Left = a.leaveAlone(rec, pair.Fingerprint(), s.inputs, turn, o); d.Left != "" {
		a.text.printf("  left alone   %s: %s\n", d.Instance, d.Left)
		d.Next = instant(rec.RetryAt(a.now()))
		return d, nil
	}
	if o.reason != "obtain" { // which a person asks for
		if done, err := a.stillServed(ctx, s, rec, pair.Fingerprint(), o.scheduled, &d, res); done {
			return d, err
		}
	}
	c, err := a.liveChange(s, w, pair, o)
	if err == nil {
		var rep *deploy.Report
		s.engine.Progress = a.progress(s.engine.Progress)
		rep, err = s.engine.Run(ctx, deploy.Chosen(c), lockWait, nil)
		if rep != nil {
			d.Transaction = transactionOf(rep)
			for _, p := range rep.Problems {
				res.problem(p)
			}
			a.showReport(rep)
			a.text.printf("  %s\n", headline(rep, err, false))
			if err == nil && rep.Outcome == deploy.NotVerified {
				err = errNotVerified
			}
			a.recordIssued(ctx, s, w, rep, err)
			d.Next = a.retryOf(s, w)
			return d, err
		}
	}
	a.recordFailed(ctx, s, w, pair, err)
	d.Next = a.retryOf(s, w)
	return d, err
}

// stillServed proves a pair that was deployed before, in place of deploying it: an
// administrator may have meant what differs now. What was installed and never
// verified is deployed, unless it is verified now. done is false if it is to be
// deployed.
func (a *app) stillServed(ctx context.Context, s *site, rec *status.Record, leaf string, scheduled bool, d *deployJSON, res *result) (done bool, _ error) {
	unverified := rec != nil && rec.LastOutcome == string(deploy.NotVerified) && rec.Installed == leaf && rec.Wanted == leaf
	if !proven(rec, leaf) || unverified {
		return false, nil
	}
	rep, _, err := a.prove(ctx, s, rec, proving{issued: true, scheduled: scheduled}, res)
	if problem.From(err).Has("generation_unknown") {
		return false, nil
	}
	if rep != nil {
		d.Transaction = transactionOf(rep)
		if rep.Outcome == deploy.Unchanged {
			a.showReport(rep)
			a.text.printf("  %s\n", headline(rep, err, false))
		}
	}
	return true, err
}

// liveChange is the change that serves a pair.
func (a *app) liveChange(s *site, w wish, pair keypair.Pair, o passOptions) (deploy.Change, error) {
	if slices.Contains(s.settings.SNI, w.name) {
		return deploy.Change{}, refuse("sni_unsupported", problem.At{File: a.conf.File, Parameter: "sni"},
			"%s is to be served for its names only, by a lookup table; this version cannot write one", w.name)
	}
	anchors, err := verify.LoadAnchors(append(append([]string{}, a.conf.Trust...), a.flags.trust...))
	if err != nil {
		return deploy.Change{}, err
	}
	policy := verify.Policy{Anchors: anchors}
	source := w.spec.Directory
	if w.source == sourceHook {
		policy.Names, source = ownName(pair), w.watched().cert
	}
	c := a.change(s, deploy.Change{
		Reason: o.reason, Name: w.name, Service: w.hooked[s.instance.ConfigDirectory], Pair: pair, Source: source, Judge: true, Policy: policy,
	})
	return c, a.oneService(s, c)
}

// leaveAlone says why a pair is not taken to an instance now; "" if it is.
func (a *app) leaveAlone(rec *status.Record, leaf, inputs string, turn status.Turn, o passOptions) string {
	if rec == nil || o.reason == "obtain" {
		return ""
	}
	now := a.now()
	again := rec.RetryAt(now)
	switch {
	case rec.Released:
		return "it was given back (postcert release); to take it again: postcert obtain " + rec.Name
	case rec.Issued != leaf:
		return "" // new
	case rec.Wanted != leaf && rec.Retry != leaf:
		return "somebody installed another certificate since; the next renewal is installed again"
	case !o.scheduled || o.fresh:
		return ""
	case rec.Waits(inputs):
		return "it is refused as long as neither the pair nor the configuration changes: " + rec.Refused.Message
	case rec.Retry == leaf && again.After(now):
		return fmt.Sprintf("the last deploy failed (%s); the next one is at %s UTC", rec.LastError.Message, again.UTC().Format(time.DateTime))
	case rec.Retry == "" && dailyAt(turn, now).After(now) && a.probeDue(rec, now).After(now):
		return "it was proven at its last turn"
	}
	return ""
}

// recordIssued remembers how the deploy of something issued ended.
func (a *app) recordIssued(ctx context.Context, s *site, w wish, rep *deploy.Report, err error) {
	up, ok := a.statusUpdate(s, rep, withCause(ctx, err))
	if !ok {
		return
	}
	up.Issued = true
	if w.source == config.SourceACME && up.Exit == 0 {
		up.From = &status.From{} // whatever it came from before, it is ours to obtain now
	}
	if werr := a.records().Record(up); werr != nil {
		a.log.Warn("recording the status", "err", werr)
	}
}

// recordFailed remembers a deploy that did not begin: it is tried again.
func (a *app) recordFailed(ctx context.Context, s *site, w wish, pair keypair.Pair, err error) {
	if ctx.Err() != nil {
		return
	}
	st, problems := advise(err)
	up := status.Update{
		Instance: s.instance.ConfigDirectory, Name: w.name, Time: a.now(), Outcome: string(deploy.Failed), Exit: st, Issued: true,
		Inputs: s.inputs, Final: anyFinal(problems),
	}
	if !pair.IsZero() {
		up.Leaf = pair.Fingerprint()
	}
	if st == statusRefused {
		up.Outcome = string(deploy.Refused)
	}
	if e := problems.Errors(); len(e) > 0 {
		up.ID, up.Message = e[0].ID, e[0].Message
	}
	if werr := a.records().Record(up); werr != nil {
		a.log.Warn("recording the status", "err", werr)
	}
}

// retryOf is when the deploy is tried again; nil if it need not be.
func (a *app) retryOf(s *site, w wish) *time.Time {
	rec, err := a.records().Read(s.instance.ConfigDirectory, w.name)
	if err != nil {
		return nil
	}
	return instant(rec.RetryAt(a.now()))
}

// instant is a time in JSON, nil for none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC().Truncate(time.Second))
}
