package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/daemon"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/verify/problem"
)

// passOptions are how one pass over a certificate differs from the usual one.
type passOptions struct {
	reason         string // for the history: "obtain" or "renew"
	force          bool   // order although nothing is due
	allowKeyChange bool
	noDeploy       bool
	scheduled      bool          // the daemon's: what waits for its time goes on waiting
	fresh          bool          // another client's files are not what the last pass saw
	interval       time.Duration // until the caller asks again; 0: it asks all the time

	dryDirectory string // of a dry run, "" for the CA's own trials
	dryRoots     []byte
}

// passJSON is what a pass did, for one certificate.
type passJSON struct {
	Name        string           `json:"name"`
	Source      config.Source    `json:"source"`
	Domains     []string         `json:"domains"`
	Action      string           `json:"action"` // none, obtained, renewed, dry_run, failed
	Reason      string           `json:"reason"` // why it was ordered
	Resumed     bool             `json:"resumed"`
	OrderURL    string           `json:"order_url"`
	KeyChange   bool             `json:"key_change"`
	Directory   string           `json:"directory"`             // of the CA
	InstallsOn  []string         `json:"installs_on,omitempty"` // of a dry run: configuration directories of instances
	Files       filesJSON        `json:"files"`
	Certificate *certificateJSON `json:"certificate"`         // the live one
	NextTLSA    string           `json:"next_tlsa,omitempty"` // key policy staged: record for the key that is prepared
	Next        nextJSON         `json:"next"`
	Deploys     []deployJSON     `json:"deploys"`
}

type filesJSON struct {
	Directory string `json:"directory"`
	FullChain string `json:"fullchain"`
	Key       string `json:"key"`
}

// nextJSON is what happens next without anybody's doing.
type nextJSON struct {
	Attempt  *time.Time `json:"attempt,omitempty"` // of an order
	Reason   string     `json:"reason"`
	Held     string     `json:"held"` // what holds it back although it is due; "" if nothing does
	Deadline *time.Time `json:"deadline,omitempty"`
	Warning  bool       `json:"warning"`
	Critical bool       `json:"critical"`
}

type deployJSON struct {
	Instance    string           `json:"instance"`
	Left        string           `json:"left"` // why it was left as it is; "" if it was not
	Transaction *transactionJSON `json:"transaction,omitempty"`
	Next        *time.Time       `json:"next_attempt,omitempty"` // of this deploy
}

func nextOf(d acme.Decision) nextJSON {
	n := nextJSON{Reason: d.Reason, Held: d.Held, Warning: d.Warning, Critical: d.Critical}
	if !d.Attempt.IsZero() {
		n.Attempt = new(d.Attempt.UTC().Truncate(time.Second))
	}
	if !d.Deadline.IsZero() {
		n.Deadline = new(d.Deadline.UTC().Truncate(time.Second))
	}
	return n
}

// passes goes over certificates, one after the other, and says of each what it
// says. The status of the whole is the worst, by the documented order.
func (a *app) passes(ctx context.Context, list []wish, o passOptions, res *result) ([]*passJSON, error) {
	all := []*passJSON{}
	defer func() { res.add("certificates", all) }()
	for _, w := range list {
		v, err := a.pass(ctx, w, o, res)
		a.passed = append(a.passed, passed{w, v.Action == "obtained" || v.Action == "renewed", err})
		all = append(all, v)
		if ctx.Err() != nil {
			return all, withCause(ctx, err)
		}
		a.blame(res, err)
	}
	return all, nil
}

// blame adds an error to a result that is not the last word of the command.
func (a *app) blame(res *result, err error) {
	st, problems := advise(err)
	res.status = worse(res.status, st)
	for _, p := range problems {
		res.problem(p)
	}
}

// pass does what is due about one certificate: orders, then takes the live one to
// its listeners. The two fail apart: a certificate that cannot be renewed is still
// deployed, and one that cannot be deployed is not ordered again.
func (a *app) pass(ctx context.Context, w wish, o passOptions, res *result) (*passJSON, error) {
	v := &passJSON{Name: w.name, Source: w.source, Domains: emptyNotNull(w.spec.Identifiers), Directory: w.spec.Directory, Action: "none", Deploys: []deployJSON{}}
	a.text.printf("%s\n", a.text.paint(bold, w.name))
	a.announce(ctx, w, o, v, res)
	if a.flags.dryRun {
		return v, a.rehearseOrder(ctx, w, o, v, res)
	}
	turn, err := a.beginTurn(w, &o)
	if err != nil {
		return v, err
	}
	live := pairFiles{}
	var ordered error
	if w.source == config.SourceACME {
		live, ordered = a.keep(ctx, w, o, v, res)
	} else {
		live = w.watched()
		for _, p := range a.stale(w) {
			res.problem(p)
		}
	}
	var deployed error
	if w.source == sourceHook && a.nothingNew(w) {
		deployed = a.proveOnly(ctx, w, &turn, o, v, res)
	} else if ctx.Err() == nil && !live.isZero() && !o.noDeploy {
		deployed = a.deployLive(ctx, w, live, &turn, o, v, res)
	}
	err = errors.Join(ordered, deployed)
	a.endTurn(ctx, w, turn, live, err)
	a.showNext(v)
	return v, err
}

// beginTurn writes down that the pass begins, and what it finds of another
// client's files.
func (a *app) beginTurn(w wish, o *passOptions) (status.Turn, error) {
	seen := w.seen()
	if w.foreign() {
		last, err := a.turns().Read(w.name)
		if err != nil {
			return last, err
		}
		o.fresh, seen.Open = last.Seen.Changed(seen), true
	}
	return a.turns().BeginWith(w.name, seen, a.now(), daemon.Gap)
}

// endTurn writes down that the pass came to its end, unless it was stopped: then
// it is as if it had been killed.
func (a *app) endTurn(ctx context.Context, w wish, turn status.Turn, live pairFiles, err error) {
	if ctx.Err() != nil {
		return
	}
	var problems problem.List
	turn.Exit, problems = advise(err)
	turn.Message = ""
	if e := problems.Errors(); len(e) > 0 {
		turn.Message = e[0].Message
	}
	turn.Leaf = live.leaf
	now := a.now()
	turn.Ended = now.UTC()
	at, _ := a.dueOf(w, w.look(), turn, now)
	if werr := a.turns().End(turn, now, !at.After(now)); werr != nil {
		a.log.Warn("remembering the pass", "err", werr)
	}
}

// keep orders what is due and asks the CA when it would like a renewal. It returns
// the live certificate also when it fails.
func (a *app) keep(ctx context.Context, w wish, o passOptions, v *passJSON, res *result) (pairFiles, error) {
	m, err := a.manager()
	if err != nil {
		return pairFiles{}, err
	}
	m.Interval = o.interval
	schedule := acme.Schedule{Interval: o.interval}
	force, ordered, asked := o.force, false, 0
	var failed error
	for {
		st, err := m.StateOf(w.spec)
		if err != nil {
			return pairFiles{}, errors.Join(failed, err)
		}
		d := schedule.Next(w.spec, st, st.Current, a.now())
		v.Next = nextOf(d)
		switch {
		case failed != nil || ctx.Err() != nil:
		case !ordered && (force || d.Action == acme.Order || d.Action == acme.Resume):
			ordered = true
			failed = a.order(ctx, m, w, d, o, v, res)
			continue
		case d.Action == acme.ARI && asked < 3:
			asked++
			if _, err := m.Refresh(ctx, w.spec); err != nil {
				failed = err
			}
			continue
		}
		for _, p := range d.Problems {
			res.problem(p)
		}
		a.showNextKey(st, v)
		if !ordered && failed == nil && ctx.Err() == nil {
			a.lookAhead(ctx, m, w, res)
		}
		a.alarm(w, st, d, res)
		if d.Held != "" && !ordered {
			res.problem(problem.Warn("order_waits", problem.At{}, "an order for %s is due, and waits until %s UTC: %s", w.name,
				d.Attempt.UTC().Format(time.DateTime), orText(st.LastError, orText(heldWords[d.Held], d.Held))))
		}
		return a.liveOf(st, v), failed
	}
}

// order makes one order, or goes on with one.
func (a *app) order(ctx context.Context, m *acme.Manager, w wish, d acme.Decision, o passOptions, v *passJSON, res *result) error {
	v.Action = "failed"
	if err := a.ready(ctx, m, w, d, res); err != nil {
		return err
	}
	a.text.printf("  order        %s, by %s at %s\n", plural(len(w.spec.Identifiers), "name"), challengeWords(w.spec.Challenge), hostOf(w.spec.Directory))
	r, err := m.Obtain(ctx, w.spec, acme.Options{Force: o.force, AllowKeyChange: o.allowKeyChange})
	for _, p := range r.Warnings {
		res.problem(p)
	}
	v.Resumed, v.OrderURL, v.KeyChange = r.Resumed, r.OrderURL, r.KeyChange
	if r.Reason != "" {
		v.Reason = r.Reason
	}
	if err != nil {
		return err
	}
	switch {
	case !r.Renewed:
		v.Action = "none"
	case r.Version != nil && r.Version.Number > 1:
		v.Action = "renewed"
	default:
		v.Action = "obtained"
	}
	return nil
}

// ready makes sure that an order can be made: there is an account, and nothing is
// known that would make it fail. An order that was begun only needs the account
// that it was begun with.
func (a *app) ready(ctx context.Context, m *acme.Manager, w wish, d acme.Decision, res *result) error {
	if d.Action == acme.Resume {
		return nil
	}
	found := m.Preflight(ctx, w.spec)
	for _, p := range found.Warnings() {
		res.problem(p)
	}
	errs := slices.DeleteFunc(found.Errors(), func(p problem.Problem) bool { return p.ID == "account_missing" })
	if found.Has("account_missing") && !found.Has("ca_unreachable") {
		// It would be registered next: what stands against that is told with the rest.
		_, err := m.PreflightRegister(ctx, w.account)
		if len(errs) == 0 && err != nil {
			return err
		}
		errs = append(errs, problem.From(err)...)
	}
	if len(errs) > 0 {
		return &acme.Error{Class: acme.ClassLocal, Problems: errs}
	}
	return a.account(ctx, m, w)
}

// account registers the account of a certificate if there is none yet.
func (a *app) account(ctx context.Context, m *acme.Manager, w wish) error {
	if _, err := m.Account(ctx, w.account, false); err == nil {
		return nil
	} else if !problem.From(err).Has("account_missing") {
		return err
	}
	state, err := m.Register(ctx, w.account)
	if err == nil {
		a.text.printf("  account      registered at %s\n", hostOf(state.Directory))
	}
	return err
}

// liveOf is the live certificate and what is said of it.
func (a *app) liveOf(st acme.State, v *passJSON) pairFiles {
	if st.Current == nil {
		return pairFiles{}
	}
	f := lineageFiles(st.Current.Dir)
	f.leaf, f.ours = st.Current.SHA256, true
	v.Files = filesJSON{Directory: st.Current.Dir, FullChain: f.cert, Key: f.key}
	return f
}

// lookAhead tells once a day what would stop the next renewal, while there is time.
func (a *app) lookAhead(ctx context.Context, m *acme.Manager, w wish, res *result) {
	found, err := m.Check(ctx, w.spec)
	if err != nil {
		a.log.Warn("looking whether the next renewal could succeed", "name", w.name, "err", err)
	}
	for _, p := range found {
		p.Severity = problem.Warning
		p.Message = "the next renewal of " + w.name + " would fail: " + p.Message
		res.problem(p)
	}
}

// showNextKey shows the record to publish for the key that is prepared (policy
// staged). RFC 7672 section 3.1.1 recommends this form: it stays true for every
// certificate of the key.
func (a *app) showNextKey(st acme.State, v *passJSON) {
	if st.NextSPKI == "" {
		return
	}
	v.NextTLSA = "3 1 1 " + st.NextSPKI
	a.text.printf("  next key     TLSA %s, beside the present record; after its TTL: postcert renew --force --allow-key-change %s\n", v.NextTLSA, v.Name)
}

// alarm says that time is getting short.
func (a *app) alarm(w wish, st acme.State, d acme.Decision, res *result) {
	if !d.Warning && !d.Critical || st.Current == nil {
		return
	}
	word := "renewal_late"
	text := fmt.Sprintf("%s has not been renewed in time: it expires on %s UTC", w.name, st.Current.NotAfter.UTC().Format(time.DateTime))
	if st.LastError != "" {
		text += "; the last attempt: " + st.LastError
	}
	res.problem(problem.Warn(word, problem.At{}, "%s", text))
}

// rehearseOrder makes a whole order at a CA's directory for trials.
func (a *app) rehearseOrder(ctx context.Context, w wish, o passOptions, v *passJSON, res *result) error {
	if w.source != config.SourceACME {
		a.text.printf("  dry run      nothing is ordered for %s: another client renews it\n", w.name)
		return nil
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	v.Action = "failed"
	if v.Directory, err = a.trialAccount(ctx, m, w, o); err != nil {
		return err
	}
	a.text.printf("  dry run      a whole order at %s: %s, by %s\n", hostOf(v.Directory), plural(len(w.spec.Identifiers), "name"), challengeWords(w.spec.Challenge))
	r, err := m.Obtain(ctx, w.spec, acme.Options{Force: true, DryRun: true, DryRunDirectory: o.dryDirectory, DryRunRoots: o.dryRoots, AllowKeyChange: o.allowKeyChange})
	for _, p := range r.Warnings {
		res.problem(p)
	}
	if err == nil {
		v.Action = "dry_run"
	}
	return err
}

// trialAccount makes sure that there is an account where a dry run orders.
func (a *app) trialAccount(ctx context.Context, m *acme.Manager, w wish, o passOptions) (string, error) {
	trial := w
	trial.account.Directory, trial.account.Roots = o.dryDirectory, o.dryRoots
	if o.dryDirectory == "" {
		trial.account.Directory = acme.StagingURL(w.spec.Directory)
		trial.account.Roots = w.spec.Roots
	}
	if trial.account.Directory == "" {
		return "", refuse("staging_unknown", problem.At{Parameter: "acme.directory"}, "%s has no directory for trials that is known here", hostOf(w.spec.Directory))
	}
	return trial.account.Directory, a.account(ctx, m, trial)
}

// showNext is the last line about a certificate: what happens next by itself.
func (a *app) showNext(v *passJSON) {
	if v.Source != config.SourceACME || v.Next.Attempt == nil {
		return
	}
	a.text.printf("  next order   %s\n", v.Next.words())
}

func (n nextJSON) words() string {
	words := orText(nextWords[n.Reason], n.Reason)
	if n.Held != "" {
		words = "held back: " + orText(heldWords[n.Held], n.Held)
	}
	return n.Attempt.Format(time.DateTime) + " UTC (" + words + ")"
}

// nextWords say why there will be an order.
var nextWords = map[string]string{
	acme.ReasonMissing:  "there is no certificate yet",
	acme.ReasonSpec:     "another certificate is wanted",
	acme.ReasonPending:  "an order was begun",
	acme.ReasonARI:      "renewal, when the CA would like it",
	acme.ReasonLifetime: "renewal, by the age of the certificate",
	acme.ReasonDeadline: "renewal, overdue",
	acme.ReasonClock:    "the clock was changed",
}

// heldWords say what holds an order back.
var heldWords = map[string]string{
	"cap":   "enough orders for these names within a week",
	"pace":  "the last order failed, and few are left for these names this week",
	"guard": "the CA failed to validate these names several times within an hour",
	"ari":   "enough renewals within a day because the CA asked for them",

	string(acme.ClassNetwork): "the CA was not reached", string(acme.ClassRateLimited): "the CA asked us to wait",
	string(acme.ClassPaused): "the CA has paused the account", string(acme.ClassValidation): "the CA could not validate a name",
	string(acme.ClassAccount): "the account was refused", string(acme.ClassRequest): "the CA refuses what is asked for",
	string(acme.ClassLocal): "this host could not answer the CA", string(acme.ClassBadCert): "what was issued is not what was asked for",
	string(acme.ClassRefused): "refused here", string(acme.ClassPending): "the CA has not finished the order",
}

// passHeadline is the last line of obtain and renew.
func passHeadline(res *result, all []*passJSON) string {
	made, failed, changed := 0, 0, 0
	for _, v := range all {
		switch v.Action {
		case "obtained", "renewed":
			made++
		case "failed":
			failed++
		}
		for _, d := range v.Deploys {
			if d.Transaction != nil && d.Transaction.Outcome == deploy.Installed {
				changed++
			}
		}
	}
	switch {
	case res.status == statusIncomplete:
		return "ROLLBACK INCOMPLETE: see above, and run: postcert recover"
	case failed > 0:
		return fmt.Sprintf("failed: %s not obtained; nothing new was stored for it, and what is served stays. It is tried again by itself where \"postcert daemon\" or a timer with \"postcert renew\" runs.", isAre(failed))
	case res.status == statusRolledBack:
		return "rolled back: the listeners serve what they served before. The deploy is tried again, without another order."
	case res.status == statusRefused:
		return "not installed: Postfix serves what it served before. The deploy is tried again, without another order."
	case made > 0 && changed > 0:
		return fmt.Sprintf("%s obtained, and %s installed and proven.", isAre(made), isAre(changed))
	case made > 0:
		return fmt.Sprintf("%s obtained.", isAre(made))
	case changed > 0:
		return fmt.Sprintf("nothing was due at the CA; %s installed and proven.", isAre(changed))
	}
	return "nothing was due."
}

func isAre(n int) string {
	if n == 1 {
		return "1 certificate is"
	}
	return fmt.Sprintf("%d certificates are", n)
}
