package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"postcert/acme/lineage"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/verify"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// hookWait is when a deploy is tried again whose hook was killed in the middle.
const hookWait = 3 * time.Minute

// hookDeploy takes the pair of a lineage to where it is ours.
func (a *app) hookDeploy(ctx context.Context, targets []hookTarget, l found, v *lineageJSON, res *result) error {
	src := l.Complete()
	for _, t := range targets {
		t.site.inputs = a.inputs(t.site.instance.ConfigDirectory, pairFiles{cert: src.Cert, key: src.Key})
	}
	read, warnings, err := called(ctx, src, cmp.Or(a.seams.settle, hookSettle))
	for _, p := range warnings {
		res.problem(p)
	}
	if err != nil {
		for _, t := range targets {
			d := deployJSON{Instance: t.site.instance.ConfigDirectory}
			d.Next = a.recordHook(ctx, t, l, src, keypair.Pair{}, nil, err)
			v.Deploys = append(v.Deploys, d)
		}
		return err
	}
	pair := *read
	v.Certificate = certificateOf(pair)
	a.showCertificate(pair)
	var all []error
	for _, t := range targets {
		d, err := a.hookDeployTo(ctx, t, l, src, pair, res)
		v.Deploys = append(v.Deploys, d)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// hookDeployTo is the same install as install-cert, with memory: what does not
// succeed is remembered, because the caller forgets.
func (a *app) hookDeployTo(ctx context.Context, t hookTarget, l found, src keypair.Source, pair keypair.Pair, res *result) (deployJSON, error) {
	d := deployJSON{Instance: t.site.instance.ConfigDirectory}
	c, err := a.hookChange(t, l, src, pair)
	if c.Name != "" {
		t.name = c.Name // the configuration may have one
	}
	var rep *deploy.Report
	begun := ""
	if err == nil {
		s := t.site
		s.engine.Progress = a.progress(s.engine.Progress)
		if a.flags.dryRun {
			rep, err = s.engine.DryRun(ctx, deploy.Chosen(c), a.conf.RuntimeDir)
		} else {
			begun = a.hookBegins(t, l, src, pair)
			rep, err = s.engine.Run(ctx, deploy.Chosen(c), lockWait, nil)
		}
	}
	if rep != nil {
		d.Transaction = transactionOf(rep)
		for _, p := range rep.Problems {
			res.problem(p)
		}
		a.showReport(rep)
		a.text.printf("  %s\n", headline(rep, err, a.flags.dryRun))
		if err == nil && rep.Outcome == deploy.NotVerified {
			err = errNotVerified
		}
	}
	d.Next = a.recordHook(ctx, t, l, src, pair, rep, err)
	if rep != nil && rep.Plan != nil && begun != "" && rep.Plan.Name != begun {
		// The plan found the name that is in use on disk. Nobody waits for the other.
		if err := a.records().Forget(d.Instance, begun); err != nil {
			a.log.Warn("recording the status", "err", err)
		}
	}
	return d, err
}

// hookChange is the change that serves the pair of a lineage.
func (a *app) hookChange(t hookTarget, l found, src keypair.Source, pair keypair.Pair) (deploy.Change, error) {
	anchors, err := verify.LoadAnchors(append(append([]string{}, a.conf.Trust...), a.flags.trust...))
	if err != nil {
		return deploy.Change{}, err
	}
	// What was judged when it was installed, perhaps with exceptions that a person
	// made, is not judged once more.
	rec, _ := a.records().Read(t.site.instance.ConfigDirectory, a.hookName(t, l))
	c := a.change(t.site, deploy.Change{
		Reason: "hook", Name: t.name, Service: t.service, Pair: pair, Source: src.Cert, Lineage: lineageName(l), Judge: !rec.Settled(pair.Fingerprint()),
		Policy: verify.Policy{Anchors: anchors, Names: hookNames(t, pair)},
	})
	return c, a.oneService(t.site, c)
}

// hookNames are the names that a pair must cover beside those that are served.
func hookNames(t hookTarget, pair keypair.Pair) []string {
	if t.rule == lineage.RuleNamed {
		return nil
	}
	return ownName(pair)
}

// ownName is what is asked of a pair in place of myhostname, where nothing is
// served that says which names are needed: something else than its names has
// decided that it is for this Postfix.
func ownName(pair keypair.Pair) []string {
	for _, name := range pair.Leaf().DNSNames {
		if !strings.HasPrefix(name, "*") {
			return []string{name}
		}
	}
	return nil
}

// lineageName is a lineage's own name, where it has one that is meant for people.
func lineageName(l found) string {
	switch l.Client {
	case lineage.AcmeSh:
		return ""
	case lineage.Command:
		if l.Dir == "" {
			return ""
		}
	}
	if name := l.Name(); generation.ValidName(name) == nil {
		return name
	}
	return ""
}

// hookName is the name under which a failure is remembered that came before any
// plan chose one.
func (a *app) hookName(t hookTarget, l found) string {
	if t.name != "" {
		return t.name
	}
	records, _ := a.records().List(t.site.instance.ConfigDirectory)
	for _, r := range records {
		if r.Installed != "" && !r.Released && t.service == "" {
			return r.Name
		}
	}
	if name := lineageName(l); name != "" {
		return name
	}
	if l.seen.Leaf != nil && len(l.seen.Leaf.DNSNames) > 0 {
		return generation.FileName(l.seen.Leaf.DNSNames[0])
	}
	return ""
}

// from is where a record says that a pair came from.
func (l found) from(src keypair.Source, service string) *status.From {
	f := &status.From{Lineage: l.Dir, Service: service}
	if usual := lineageFiles(l.Dir); l.Dir == "" || src.Cert != usual.cert || src.Key != usual.key || src.Chain != "" {
		f.Source = &status.Source{Cert: src.Cert, Key: src.Key, Chain: src.Chain}
	}
	return f
}

// hookBegins remembers a deploy before it begins: lego kills a hook that takes
// too long, and somebody must know that it was wanted. What is deployed already
// needs no memory. It returns the name of the record, "" for none.
func (a *app) hookBegins(t hookTarget, l found, src keypair.Source, pair keypair.Pair) string {
	name := a.hookName(t, l)
	rec, err := a.records().Read(t.site.instance.ConfigDirectory, name)
	if err == nil && rec != nil && rec.Installed == pair.Fingerprint() && rec.Issued == rec.Installed {
		return ""
	}
	up := status.Update{Instance: t.site.instance.ConfigDirectory, Name: name, Time: a.now(), Leaf: pair.Fingerprint(), From: l.from(src, t.service)}
	if err := a.records().Begin(up, hookWait); err != nil {
		a.log.Warn("recording the deploy", "err", err)
		return ""
	}
	return name
}

// recordHook remembers how a hook's deploy ended, and says when it is tried again.
func (a *app) recordHook(ctx context.Context, t hookTarget, l found, src keypair.Source, pair keypair.Pair, rep *deploy.Report, err error) *time.Time {
	if a.flags.dryRun {
		return nil
	}
	up, ok := a.statusUpdate(t.site, rep, withCause(ctx, err))
	if !ok {
		up = a.failedUpdate(t, l, withCause(ctx, err))
		_, problems := advise(withCause(ctx, err))
		up.Inputs, up.Final = t.site.inputs, anyFinal(problems)
		if !pair.IsZero() {
			up.Leaf = pair.Fingerprint()
		}
	}
	up.Issued, up.From = true, l.from(src, t.service)
	if problem.From(err).Has("input_untrusted_path") {
		// Whoever can write there may have made the call, too: where we go on
		// looking is not for them to say.
		if rec, rerr := a.records().Read(up.Instance, up.Name); rerr == nil && rec != nil && len(placesOf(rec)) > 0 {
			up.From = nil
		}
	}
	if up.Leaf == "" {
		up.Leaf = l.fingerprint(src)
	}
	if werr := a.records().Record(up); werr != nil {
		a.log.Warn("recording the status", "err", werr)
	}
	a.hookSaw(up.Name, pair.IsZero())
	rec, rerr := a.records().Read(up.Instance, up.Name)
	if rerr != nil {
		return nil
	}
	return instant(rec.RetryAt(a.now()))
}

// hookSaw tells the daemon that what it sees in the files was dealt with: it does
// not try at once what has just failed.
func (a *app) hookSaw(name string, refused bool) {
	for _, w := range a.hookWishes([]string{name}) {
		seen := w.seen()
		seen.Refused = refused
		if err := a.turns().Saw(name, seen); err != nil {
			a.log.Warn("recording what was seen", "err", err)
		}
	}
}

// hookLost remembers, for each certificate that came from one of these lineages,
// that its deploy did not even come to a decision: Postfix could not be asked, but
// for the instances sites.
func (a *app) hookLost(ctx context.Context, all []found, sites []*site, err error) {
	if a.flags.dryRun {
		return
	}
	st, problems := advise(withCause(ctx, err))
	for _, r := range a.records().All() {
		if slices.ContainsFunc(sites, func(s *site) bool { return s.instance.ConfigDirectory == r.Instance }) {
			continue
		}
		for _, l := range all {
			if r.Released || !slices.ContainsFunc(placesOf(r), l.seen.Is) {
				continue
			}
			up := status.Update{Instance: r.Instance, Name: r.Name, Time: a.now(), Outcome: string(deploy.Failed), Exit: st, Issued: true, Leaf: l.fingerprint(l.Source)}
			if e := problems.Errors(); len(e) > 0 {
				up.ID, up.Message = e[0].ID, e[0].Message
			}
			if werr := a.records().Record(up); werr != nil {
				a.log.Warn("recording the status", "err", werr)
			}
		}
	}
}

// fingerprint is what a pair that could not be read is known by: its leaf, or, of
// what holds none, the bytes.
func (l found) fingerprint(src keypair.Source) string {
	if l.seen.Leaf != nil {
		return keypair.Fingerprint(l.seen.Leaf)
	}
	data, err := atomicfile.Read(src.Cert, keypair.MaxBytes)
	if err != nil {
		data = []byte(src.Cert)
	}
	defer clear(data)
	return atomicfile.Digest(data)
}

// failedUpdate is the end of a deploy that did not come as far as a plan.
func (a *app) failedUpdate(t hookTarget, l found, err error) status.Update {
	st, problems := advise(err)
	up := status.Update{Instance: t.site.instance.ConfigDirectory, Name: a.hookName(t, l), Time: a.now(), Outcome: string(deploy.Failed), Exit: st}
	if st == statusRefused {
		up.Outcome = string(deploy.Refused)
	}
	if e := problems.Errors(); len(e) > 0 {
		up.ID, up.Message = e[0].ID, e[0].Message
	}
	return up
}
