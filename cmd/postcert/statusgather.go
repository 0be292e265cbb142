package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// siteStates are the certificates of one instance, or the one that is named:
// those that Postfix reads from our directory, and those that are wanted and
// that it does not read.
func (a *app) siteStates(ctx context.Context, s *site, name string, orders []orderJSON, res *result) ([]certStatus, error) {
	states, err := a.settledStates(ctx, s)
	if err != nil {
		return nil, err
	}
	records, err := a.records().List(s.instance.ConfigDirectory)
	if err != nil {
		res.problem(problem.Warn("record_unreadable", problem.At{}, "what is remembered of a certificate cannot be read: %v", err))
	}
	for _, p := range a.watchedFallbacks(ctx, s) {
		res.problem(p)
	}
	var out []certStatus
	add := func(v certStatus) {
		v.view.next = a.nextOf(v.json.Record, v.view, orders)
		v.json.Next, v.json.Last = v.view.next.json(), v.view.last.json()
		v.json.Agrees = v.view.agrees()
		v.json.Level = v.view.level(a.now()).String()
		for _, p := range v.view.problems {
			res.problem(p)
		}
		out = append(out, v)
	}
	for _, st := range states {
		i := slices.IndexFunc(records, func(r *status.Record) bool { return r.Name == st.Name })
		var rec *status.Record
		if i >= 0 {
			rec = records[i]
			records = slices.Delete(records, i, i+1)
		}
		if name == "" || name == st.Name {
			add(a.stateOf(ctx, s, st, rec))
		}
	}
	for _, rec := range records {
		if (rec.Wanted != "" || rec.Refused != nil || !rec.NextAttempt.IsZero()) && (name == "" || name == rec.Name) {
			add(a.wantedOnly(ctx, s, rec))
		}
	}
	return out, nil
}

// settle is how long status waits for a change that is under way: most take less,
// and monitors wait ten seconds for an answer.
const settle = 5 * time.Second

// settledStates are the states of an instance, if it can be when nobody changes it.
func (a *app) settledStates(ctx context.Context, s *site) ([]deploy.State, error) {
	wait := settle
	if a.seams.deadline > 0 {
		wait = min(wait, a.seams.deadline)
	}
	for end := time.Now().Add(wait); ; {
		states, err := s.engine.States(ctx)
		busy := slices.ContainsFunc(states, func(st deploy.State) bool { return st.Busy })
		if err != nil || !busy || time.Now().After(end) {
			return states, err
		}
		select {
		case <-ctx.Done():
			return nil, withCause(ctx, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// underWay makes warnings of what is found while somebody changes it: nothing of it
// lasts.
func underWay(list problem.List) problem.List {
	for i := range list {
		list[i].Severity = problem.Warning
	}
	return append(problem.List{problem.Warn("change_running", problem.At{}, "a change is under way at this moment: what follows is of the middle of it")}, list...)
}

// wantedOnly is about a certificate that was asked for and that no parameter
// names: its first install did not succeed, or somebody edited main.cf since.
func (a *app) wantedOnly(ctx context.Context, s *site, rec *status.Record) certStatus {
	v := certStatus{
		json: servedJSON{Instance: rec.Instance, Name: rec.Name, Record: rec, Listeners: []observedJSON{}},
		view: &certView{name: rec.Name, instance: rec.Instance, last: lastOf(rec)},
	}
	why := "no parameter in main.cf or master.cf names its file any more"
	if rec.LastError.Message != "" {
		why = rec.LastError.Message
	}
	if rec.Wanted != "" {
		v.view.problems = append(v.view.problems, problem.New("wanted_not_installed", problem.At{File: rec.Instance},
			"the certificate %s, wanted since %s, is not installed: %s", rec.Name, rec.WantedSince.UTC().Format(time.DateTime), why))
	}
	v.view.problems = append(v.view.problems, a.waiting(rec)...)
	v.view.problems = append(v.view.problems, a.driftNow(ctx, s, rec)...)
	return v
}

// stateOf is about a certificate that is installed: what it is, what serves it,
// and what disagrees.
func (a *app) stateOf(ctx context.Context, s *site, st deploy.State, rec *status.Record) certStatus {
	v := certStatus{
		json: servedJSON{Instance: s.instance.ConfigDirectory, Name: st.Name, Record: rec, Listeners: []observedJSON{},
			Installed: installedJSON{Generation: st.Generation, File: st.File, Current: certificateOf(st.Pair)}},
		view: &certView{name: st.Name, instance: s.instance.ConfigDirectory, generation: st.Generation, last: lastOf(rec)},
	}
	at := problem.At{File: st.File}
	no := func(p problem.Problem) { v.view.problems = append(v.view.problems, p) }
	if !st.Running {
		v.view.notAsked = "Postfix is not running"
		no(problem.New("not_running", problem.At{File: s.instance.ConfigDirectory}, "Postfix is not running (%s): it serves nobody", s.instance.ConfigDirectory))
	}
	if st.Open && !st.Busy {
		no(problem.New("transaction_open", at, "a change was interrupted and is not settled"))
	}
	if st.Pair.IsZero() {
		no(problem.New("installed_unreadable", at, "the installed file cannot be read: %v", st.Err))
	} else {
		a.installedView(st, v.view)
	}
	v.view.problems = append(v.view.problems, a.noPass(st.Name)...)
	if rec != nil {
		v.view.problems = append(v.view.problems, a.disagrees(ctx, s, st, rec)...)
	}
	if !v.view.problems.Has("drift_table") { // no renewal has told it yet
		v.view.problems = append(v.view.problems, st.Tables...)
	}
	for _, o := range st.Listeners {
		v.json.Listeners = append(v.json.Listeners, observedOf(o))
	}
	for _, o := range merged(st.Listeners) {
		v.view.listeners = append(v.view.listeners, listenerOf(o, st.Known, a.now()))
		if !o.Agrees() {
			x := o.Expectation
			no(problem.New("served_differs", problem.At{File: st.File, Service: x.Listener.ID(), Endpoint: x.Endpoint.Address},
				"%s on %s: %s", x.Listener.ID(), x.Endpoint.Address, presentsWords(o, st.Known)))
		}
	}
	if st.Busy {
		v.view.problems = underWay(v.view.problems)
		for i := range v.view.listeners {
			v.view.listeners[i].level = min(v.view.listeners[i].level, levelWarning)
		}
	}
	return v
}

// installedView fills in what is installed, and how long it lives.
func (a *app) installedView(st deploy.State, v *certView) {
	leaf := st.Pair.Leaf()
	v.names, v.issuer, v.life = leaf.DNSNames, issuerName(leaf), life{leaf.NotBefore, leaf.NotAfter}
	now, at := a.now(), problem.At{File: st.File}
	switch l := v.life.level(now); {
	case now.After(v.life.until):
		v.problems = append(v.problems, problem.New("cert_expired", at, "the installed certificate expired on %s, %s ago: clients that look at it turn away",
			v.life.until.UTC().Format(time.DateOnly), span(now.Sub(v.life.until))))
	case l != levelOK:
		v.problems = append(v.problems, problem.Warn("expires_soon", at, "the installed certificate expires on %s: %s of its life of %s",
			v.life.until.UTC().Format(time.DateTime), v.life.left(now), span(v.life.until.Sub(v.life.from))))
	}
}

// disagrees is what the record says against what is installed.
func (a *app) disagrees(ctx context.Context, s *site, st deploy.State, rec *status.Record) problem.List {
	var out problem.List
	at := problem.At{File: st.File}
	other := !st.Pair.IsZero() && rec.Installed != "" && rec.Installed != st.Pair.Fingerprint()
	var drift problem.List
	if rec.Drift != nil || other || st.Pair.IsZero() {
		drift = a.driftNow(ctx, s, rec)
	}
	if rec.Wanted != "" && !st.Pair.IsZero() && rec.Wanted != st.Pair.Fingerprint() {
		why := rec.LastError.Message
		if why == "" && len(drift) > 0 {
			why = "somebody changed what was proven"
		}
		p := problem.New("wanted_not_installed", at, "the certificate wanted since %s (%s…) is not the installed one: %s",
			rec.WantedSince.UTC().Format(time.DateTime), rec.Wanted[:min(16, len(rec.Wanted))], why)
		switch again := rec.RetryAt(a.now()); {
		case rec.LastError.Message == "" && len(drift) > 0:
			p.Remedy = drift[0].Remedy
		case !again.IsZero() && rec.Retry == rec.Wanted:
			p.Remedy = "mend the cause; it is deployed again by itself, where the daemon or a timer runs, " + when(again, a.now()) + "; sooner: postcert renew"
		}
		out = append(out, p)
	}
	return append(append(out, a.waiting(rec)...), drift...)
}

// passLimit is how long there may be no pass before somebody is told: the timer
// calls twice a day, the daemon once.
const passLimit = 50 * time.Hour

// noPass warns that nobody looks after a certificate that is to be renewed or
// deployed by itself: no daemon runs, and no timer.
func (a *app) noPass(name string) problem.List {
	turn, err := a.turns().Read(name)
	if err != nil || turn.Began.IsZero() || a.now().Sub(turn.Began) < passLimit {
		return nil
	}
	if list, err := a.wishes([]string{name}); err != nil || len(list) == 0 {
		return nil
	}
	return problem.List{problem.Warn("no_pass", problem.At{}, "nobody has looked after %s since %s: neither the daemon nor a timer with renew seems to run",
		name, when(turn.Began, a.now()))}
}

// waiting is what was to be deployed by itself, and was not.
func (a *app) waiting(rec *status.Record) problem.List {
	switch {
	case rec.Refused != nil:
		return problem.List{problem.New("deploy_refused", problem.At{}, "what is to be served next is refused since %s (%s), and is not tried again until the pair or the configuration changes: %s",
			rec.Refused.Since.UTC().Format(time.DateTime), rec.Refused.ID, rec.Refused.Message)}
	case rec.NextAttempt.IsZero():
		return nil
	case rec.Retry == "":
		return problem.List{problem.New("issued_not_installed", problem.At{}, "what is to be served next cannot be read: %s; next attempt at %s UTC",
			rec.LastError.Message, rec.RetryAt(a.now()).UTC().Format(time.DateTime))}
	case rec.Retry != rec.Wanted:
		return problem.List{problem.New("issued_not_installed", problem.At{}, "the certificate that was obtained last (%s…) is not installed: %s; next attempt at %s UTC",
			rec.Retry[:min(16, len(rec.Retry))], rec.LastError.Message, rec.RetryAt(a.now()).UTC().Format(time.DateTime))}
	}
	return nil
}

// driftNow says how what is there differs from what was proven. It takes no lock,
// and writes nothing: what the daily probe found may have been mended since.
func (a *app) driftNow(ctx context.Context, s *site, rec *status.Record) problem.List {
	if rec.Installed == "" || rec.Released {
		return nil
	}
	c, err := s.engine.Again(ctx, rec.Name, rec.Installed)
	if err != nil {
		return nil // what is kept of it is gone; the caller knows that it differs
	}
	c.Service = orText(c.Service, rec.Service)
	list, err := s.engine.Differs(ctx, a.change(s, c))
	if err != nil {
		a.log.Warn("comparing with what was proven", "err", err)
	}
	list = slices.DeleteFunc(list, func(p problem.Problem) bool { return p.ID == "served_differs" }) // told of each listener
	driftRemedies(list, rec)
	if len(list) > 0 && rec.Drift != nil {
		list[0].Message += "; seen first " + when(rec.Drift.Since, a.now())
	}
	return list
}

// lastOf is the last event in words.
func lastOf(rec *status.Record) eventView {
	if rec == nil || rec.LastTime.IsZero() {
		return eventView{words: "nothing is remembered of it"}
	}
	e := eventView{at: rec.LastTime, words: outcomeWords[deploy.Outcome(rec.LastOutcome)]}
	if e.words == "" {
		e.words = rec.LastOutcome
	}
	switch {
	case rec.LastError.Exit != 0 && rec.LastError.Message != "":
		e.words += ": " + strings.TrimPrefix(rec.LastError.Message, "rolled back: ")
	case rec.LastError.Exit == 0 && rec.Rehearsed == "yes" && rec.LastOutcome == string(deploy.Installed):
		e.words += " after a rehearsal"
	}
	if s := rec.Served; s != nil && s.Agrees && s.Time.After(rec.LastTime.Add(time.Minute)) {
		e.words += "; proven again " + s.Time.UTC().Format("2006-01-02 15:04")
	}
	return e
}

// outcomeWords say how an attempt ended.
var outcomeWords = map[deploy.Outcome]string{
	deploy.Installed: "installed and proven", deploy.Unchanged: "proven, unchanged", deploy.NotVerified: "installed, and could not be verified",
	deploy.Refused: "a change was refused, nothing was touched", deploy.Failed: "a change failed before anything was touched",
	deploy.RolledBack: "rolled back", deploy.Incomplete: "ROLLBACK INCOMPLETE",
}

// nextOf is what happens next by itself.
func (a *app) nextOf(rec *status.Record, v *certView, orders []orderJSON) eventView {
	now := a.now()
	if rec != nil && rec.Refused != nil {
		return eventView{words: "deployed when the pair or the configuration changes"}
	}
	if at := rec.RetryAt(now); !at.IsZero() {
		return eventView{at: at, words: "next deploy, where the daemon or a timer runs"}
	}
	for _, o := range orders {
		if o.Name == v.name && o.Next.Attempt != nil {
			words := "next order: " + orText(nextWords[o.Next.Reason], o.Next.Reason)
			if o.Next.Held != "" {
				words = "next order, held back: " + orText(heldWords[o.Next.Held], o.Next.Held)
			}
			if o.LastError != "" {
				words += "; last failure: " + o.LastError
			}
			return eventView{at: *o.Next.Attempt, words: words}
		}
	}
	if c, err := a.conf.Certificate(v.name); err == nil && c.Source == config.SourceWatch {
		return eventView{words: "deployed when another client renews it in " + c.Lineage}
	}
	if from := stillThere(rec); from != "" {
		return eventView{words: "deployed by its client's hook, or by renew, when it is renewed in " + from}
	}
	switch {
	case v.life.until.IsZero():
		return eventView{words: "nothing by itself"}
	case now.After(v.life.until):
		return eventView{words: "nothing by itself: install another one now"}
	}
	return eventView{words: "nothing by itself: install the next one before " + v.life.until.UTC().Format(time.DateOnly)}
}

// stillThere is where the pair of a certificate came from, if that is there still.
func stillThere(rec *status.Record) string {
	if rec == nil || rec.Released || len(placesOf(rec)) == 0 || !exists(placesOf(rec)[0]) {
		return ""
	}
	return placesOf(rec)[0]
}

// listenerOf is what one listener presents, in words.
func listenerOf(o deploy.Observation, known map[string]int, now time.Time) listenerView {
	x := o.Expectation
	l := listenerView{service: x.Listener.ID(), address: x.Endpoint.Address, verdict: "yes"}
	if sni := x.Endpoint.ServerName; sni != "any name" || x.Endpoint.KeyType != "" {
		l.asked = askedFor(o)
	}
	if len(o.Result.Chain) > 0 {
		leaf := o.Result.Chain[0]
		l.names, l.issuer, l.life = namesOf(leaf), issuerName(leaf), life{leaf.NotBefore, leaf.NotAfter}
		l.level = l.life.level(now)
	}
	switch {
	case x.Ignore && o.Verdict != probe.Proven:
		l.verdict, l.level = "ignored", levelOK
	case o.Verdict == probe.NotVerified:
		l.verdict, l.level = "not known", levelCritical
	case o.Verdict == probe.Contradicted:
		l.verdict, l.level = "NO: another one", levelCritical
		if n := known[o.Result.Leaf()]; n > 0 && o.Reason == probe.OtherLeaf {
			l.verdict = fmt.Sprintf("NO: generation %d", n)
		}
		if o.Reason == probe.OtherChain {
			l.verdict = "NO: another chain"
		}
		if l.names == "" {
			l.verdict = "NO: " + o.Words()
		}
	}
	return l
}

// presentsWords say what a listener presents in place of what is installed.
func presentsWords(o deploy.Observation, known map[string]int) string {
	if n := known[o.Result.Leaf()]; n > 0 && o.Reason == probe.OtherLeaf {
		leaf := o.Result.Chain[0]
		return fmt.Sprintf("presents generation %d, not the installed one (%s, until %s)", n, deploy.LeafWords(leaf), leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return o.Words()
}

// namesOf are a certificate's names, briefly.
func namesOf(c *x509.Certificate) string {
	words := deploy.LeafWords(c)
	return words[:strings.LastIndexByte(words, ' ')]
}
