package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/deploy"
	"postcert/deploy/postfix/cf"
	"postcert/verify/audit"
	"postcert/verify/problem"
)

// hardening is one run of harden, or of its undo: one transaction, or two.
type hardening struct {
	*app
	site    *site
	flags   hardenFlags
	profile audit.Profile
	say     hardenJSON
	found   problem.List

	cells  []cell
	before matrix      // asked once, before the first transaction; nil: not asked yet
	done   [][]cf.Edit // of the transactions that succeeded, as traced
	now    []cf.Edit   // of the one under way
	more   bool        // another one follows
	whole  string      // diff of all of it, if it is made in two
}

func (a *app) harden(ctx context.Context, f hardenFlags, profile audit.Profile, res *result) error {
	res.headline = untouched
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	h := &hardening{app: a, site: s, flags: f, profile: profile}
	h.say = hardenJSON{Profile: profile.Name, Order: []string{}, LeftOut: []leftOutJSON{}, Left: []leftJSON{}, Log: peerLog{Peers: []*peer{}}, Clients: []clientJSON{}}
	a.undoBy = "postcert harden --undo"
	err = h.run(ctx, h.choose, res)
	res.add("harden", h.say)
	return err
}

// run makes the transactions. What a later one fails with takes back the earlier.
func (h *hardening) run(ctx context.Context, choose deploy.Choice, res *result) error {
	if h.site.unfit != nil {
		return h.site.unfit
	}
	h.site.engine.Progress = h.progress(h.site.engine.Progress)
	h.planWords = h.showWords
	defer func() { h.planWords = nil }()
	for {
		part := h.newResult(res.command)
		err := h.transacted(ctx, h.site, choose, part)
		if err == nil && h.more && !h.flagsDry() {
			h.done = append(h.done, h.now)
			continue
		}
		res.problems = append(append(res.problems, h.found...), part.problems...)
		res.fields, res.headline = append(res.fields, part.fields...), part.headline
		if err != nil && len(h.done) > 0 && !errors.Is(err, errNotVerified) {
			return h.takeBack(ctx, err, res)
		}
		return err
	}
}

func (h *hardening) flagsDry() bool { return h.app.flags.dryRun }

// takeBack undoes the transactions before the one that failed.
func (h *hardening) takeBack(ctx context.Context, cause error, res *result) error {
	if _, bad := errors.AsType[*deploy.IncompleteError](cause); bad {
		return cause
	}
	ctx = context.WithoutCancel(ctx) // an undo, once begun, is finished
	part := h.newResult(res.command)
	err := h.transacted(ctx, h.site, func(ctx context.Context) (deploy.Change, error) {
		snap, err := h.site.engine.MTA.Snapshot(ctx)
		if err != nil {
			return deploy.Change{}, err
		}
		c := deploy.Change{Reason: "harden: taking back the first of two changes"}
		for i := len(h.done) - 1; i >= 0; i-- {
			for j := len(h.done[i]) - 1; j >= 0; j-- {
				c.Edits = append(c.Edits, h.done[i][j].Inverse())
			}
		}
		record, before, err := h.readRecord(h.site)
		if err != nil {
			return c, err
		}
		record.Changes = record.Changes[:max(0, len(record.Changes)-len(h.done))]
		file, err := h.recordFile(h.site, record, before)
		c.Files = []deploy.FileChange{file}
		_, _, aerr := cf.Apply(snap.Main.Data, snap.Master.Data, c.Edits)
		return h.change(h.site, c), errors.Join(err, aerr)
	}, part)
	if err != nil && !errors.Is(err, errNotVerified) {
		res.headline = "ROLLBACK INCOMPLETE: the first of two changes is in place. It is proven by itself; to take it back: postcert harden --undo"
		return &deploy.IncompleteError{Cause: cause, Undo: err}
	}
	res.headline = "rolled back: the second of two changes failed, and the first was taken back. The previous state is in effect again."
	return &deploy.RolledBackError{Cause: cause}
}

// choose is the change that is still to be made, with what it means for clients.
func (h *hardening) choose(ctx context.Context) (deploy.Change, error) {
	c := deploy.Change{Reason: "harden --profile " + h.profile.Name}
	h.more = false
	x, err := h.auditOne(ctx, h.site, h.profile, false)
	if err != nil {
		return c, err
	}
	s := x.snapshot
	edits, err := h.remedies(ctx, s, x.facts)
	if err != nil {
		return c, err
	}
	if len(edits) == 0 {
		return h.change(h.site, c), nil
	}
	if len(h.done) == 0 {
		if err := h.foresee(ctx, s, edits, c.Reason); err != nil {
			return c, err
		}
	}
	if len(h.say.Order) > 1 {
		edits = slices.DeleteFunc(edits, func(e cf.Edit) bool { return fileOf(e) != h.say.Order[len(h.done)] })
		h.more = len(h.done) == 0
	}
	return h.changeOf(ctx, s, c, edits)
}

// fileOf is the file that an edit is of.
func fileOf(e cf.Edit) string {
	if e.Service == "" {
		return "main.cf"
	}
	return "master.cf"
}

// changeOf completes a change with edits, the record of them and what is asked in
// the end.
func (h *hardening) changeOf(ctx context.Context, s cf.Snapshot, c deploy.Change, edits []cf.Edit) (deploy.Change, error) {
	traced, _, _, err := cf.Trace(s.Main.Data, s.Master.Data, edits)
	if err != nil {
		return c, err
	}
	record, before, err := h.readRecord(h.site)
	if err != nil {
		return c, err
	}
	record.Changes = append(record.Changes, hardenedChange{h.app.now().UTC().Truncate(time.Second), h.profile.Name, traced})
	record.Fallbacks = nil
	file, err := h.recordFile(h.site, record, before)
	if err != nil {
		return c, err
	}
	h.now, c.Edits, c.Files, c.Auth = traced, traced, []deploy.FileChange{file}, authAdded(s, edits)
	auth := c.Auth
	c.Confirm = func(ctx context.Context, now cf.Snapshot) error { return h.confirm(ctx, now, auth) }
	return h.change(h.site, c), nil
}

// authAdded are the services that begin to take passwords.
func authAdded(s cf.Snapshot, edits []cf.Edit) []string {
	var out []string
	for _, e := range edits {
		entry := e.IsEntry() && e.New != nil && strings.Contains(*e.New, "smtpd_sasl_auth_enable=yes")
		option := e.Service != "" && e.Parameter == "smtpd_sasl_auth_enable" && e.New != nil && *e.New == "yes" && !strings.EqualFold(s.Effective(e.Service, e.Parameter), "yes")
		if entry || option {
			out = append(out, e.Service)
		}
	}
	return out
}

// hardenRounds bounds how often what the remedies make is audited again.
const hardenRounds = 3

// remedies are the edits of a profile, and those that its rules ask for when the
// former are made: port 25 that no more insists on TLS must not begin to take
// passwords in clear.
func (h *hardening) remedies(ctx context.Context, s cf.Snapshot, facts audit.Facts) ([]cf.Edit, error) {
	var out []cf.Edit
	for round := range hardenRounds {
		more := h.edits(s, audit.Run(s, facts, h.profile.Hardening()), round == 0 && len(h.done) == 0)
		if len(more) == 0 {
			break
		}
		main, master, err := cf.Apply(s.Main.Data, s.Master.Data, more)
		if err != nil {
			return nil, err
		}
		if s, err = h.site.engine.MTA.Candidate(ctx, main, master); err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// edits are the remedies that are carried out; the others are said, the first time.
func (h *hardening) edits(s cf.Snapshot, found []*audit.Finding, first bool) []cf.Edit {
	users := audit.UserServices(s)
	left := func(f *audit.Finding, words string) {
		if first {
			h.say.Left = append(h.say.Left, leftJSON{f.Rule.ID, f.Message, words})
		}
	}
	var fixed []*audit.Finding
	for _, f := range found {
		switch {
		case len(f.Remedy) == 0:
			left(f, f.Advice)
		case slices.ContainsFunc(f.Remedy, namesCertificate):
			left(f, "parameters that name certificates are for install-cert: "+f.Advice)
		case h.flags.withoutSubmission && slices.ContainsFunc(f.Remedy, func(e cf.Edit) bool { return e.IsEntry() || slices.Contains(users, e.Service) }):
			left(f, "left as it is by --without-submission")
		default:
			fixed = append(fixed, f)
		}
	}
	edits, conflicts := audit.Edits(fixed)
	for _, f := range conflicts {
		left(f, "another rule of this profile wants something else there")
	}
	if first {
		for _, r := range h.profile.LeftOut(s.Version) {
			h.say.LeftOut = append(h.say.LeftOut, leftOutJSON{r.ID, r.Retired})
		}
	}
	return edits
}

// namesCertificate tells an edit of a parameter that names a certificate or a key.
func namesCertificate(e cf.Edit) bool {
	return strings.HasSuffix(e.Parameter, "cert_file") || strings.HasSuffix(e.Parameter, "key_file") || strings.HasSuffix(e.Parameter, "_chain_files")
}

// foresee finds out what all of the change means before any of it is made.
func (h *hardening) foresee(ctx context.Context, s cf.Snapshot, edits []cf.Edit, reason string) error {
	main, master, err := cf.Apply(s.Main.Data, s.Master.Data, edits)
	if err != nil {
		return err
	}
	after, err := h.site.engine.MTA.Candidate(ctx, main, master)
	if err != nil {
		return err
	}
	listeners := after.Listeners(h.site.engine.Host)
	for _, l := range listeners {
		if l.TLS && !l.Postscreen && !hasCertificate(after, l.ID()) {
			return refuse("harden_no_certificate", where(after, l.ID(), "smtpd_tls_cert_file"), "%s would offer TLS, and no certificate is configured for it", l.ID())
		}
	}
	for _, l := range s.Listeners(h.site.engine.Host) {
		if i := slices.IndexFunc(listeners, func(x cf.Listener) bool { return x.ID() == l.ID() && !x.TLS }); l.TLS && i >= 0 {
			return refuse("harden_ends_tls", where(after, l.ID(), "smtpd_tls_security_level"), "%s would offer no TLS any more: %s", l.ID(), listeners[i].Reason)
		}
	}
	if err := h.clients(ctx, s, after, listeners); err != nil {
		return err
	}
	h.whole = cf.Diff(s.Main.Path, s.Main.Data, main) + cf.Diff(s.Master.Path, s.Master.Data, master)
	return h.order(ctx, edits, reason)
}

// hasCertificate tells whether any parameter names a certificate for a service.
func hasCertificate(s cf.Snapshot, id string) bool {
	for _, name := range []string{"smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file"} {
		if s.Effective(id, name) != "" {
			return true
		}
	}
	return false
}

// clients asks what works now, and says what the new settings mean for it.
func (h *hardening) clients(ctx context.Context, s, after cf.Snapshot, listeners []cf.Listener) error {
	if opensslPath() == "" {
		h.before = matrix{}
		h.found = append(h.found, problem.Warn("harden_no_openssl", problem.At{}, "there is no openssl program to play clients with, so only the listeners are proven"))
		return nil
	}
	services, err := allowances(ctx, after, listeners)
	if err != nil {
		return err
	}
	p := prober{h.site.settings}
	h.before, _ = askMatrix(ctx, p.cellsOf(s.Listeners(h.site.engine.Host)))
	h.cells = p.cellsOf(listeners)
	for _, c := range h.cells {
		h.say.Clients = append(h.say.Clients, clientJSON{c.service, c.address, c.client.name, demandOf(c, h.before, services), h.before[c.key()], ""})
	}
	h.say.Log = pastPeers(ctx, h.site.instance, s, after, services, h.app.now())
	return ctx.Err()
}

// order decides in which order the files change. Between new main.cf and new
// master.cf every process must be able to serve: one that starts before the reload
// has new main.cf and old overrides, and in an undo it is the reverse.
func (h *hardening) order(ctx context.Context, edits []cf.Edit, reason string) error {
	h.say.Order, h.say.Why = []string{"both"}, "both files in one transaction: what is in between serves too"
	if n := len(slices.DeleteFunc(slices.Clone(edits), func(e cf.Edit) bool { return e.Service == "" })); n == 0 || n == len(edits) {
		h.say.Order, h.say.Why = []string{fileOf(edits[0])}, "only one file changes"
		return nil
	}
	c := h.change(h.site, deploy.Change{Reason: reason, Edits: edits})
	mainFirst, masterFirst, err := h.site.engine.Mixtures(ctx, c)
	if err != nil {
		if not, ok := errors.AsType[*deploy.RefusedError](err); ok {
			h.showReport(&deploy.Report{Log: not.Log})
		}
		return err
	}
	h.say.Order, h.say.Why = orderOf(mainFirst, masterFirst)
	if h.say.Order == nil {
		h.say.Order = []string{}
		return refuse("harden_mixture", problem.At{}, "%s", h.say.Why)
	}
	return nil
}

// orderOf is the order of the files, and why: none if no order serves all the time.
func orderOf(mainFirst, masterFirst error) (order []string, why string) {
	switch {
	case mainFirst == nil && masterFirst == nil:
		return []string{"both"}, "both files in one transaction: what is in between serves too"
	case masterFirst == nil:
		return []string{"master.cf", "main.cf"}, fmt.Sprintf("master.cf first, then main.cf: new main.cf with the options of before would not serve (%v)", mainFirst)
	case mainFirst == nil:
		return []string{"main.cf", "master.cf"}, fmt.Sprintf("main.cf first, then master.cf: an undo would meet old main.cf with the new options, which would not serve (%v)", masterFirst)
	}
	return nil, fmt.Sprintf("neither new main.cf with the options of before serves (%v), nor old main.cf with the new options (%v)", mainFirst, masterFirst)
}

// authTries is how often a service is asked for AUTH before it counts as missing.
const authTries = 4

// confirm proves what is in place by the clients of before, and that passwords are
// taken inside TLS only.
func (h *hardening) confirm(ctx context.Context, now cf.Snapshot, auth []string) error {
	listeners := now.Listeners(h.site.engine.Host)
	for try := 1; ; try++ {
		err := authProven(greetings(ctx, ofServices(listeners, auth), prober{h.site.settings}), now, auth)
		if err == nil {
			// Again: smtpd whose SASL has no mechanism dies after the first session.
			err = authProven(greetings(ctx, ofServices(listeners, auth), prober{h.site.settings}), now, auth)
		}
		if err == nil {
			break
		}
		if try == authTries || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	if opensslPath() == "" {
		return nil
	}
	services, err := allowances(ctx, now, listeners)
	if err != nil {
		return err
	}
	cells := prober{h.site.settings}.cellsOf(listeners)
	after, err := proveMatrix(ctx, cells, h.before, services)
	h.say.Clients = []clientJSON{}
	for _, c := range cells {
		h.say.Clients = append(h.say.Clients, clientJSON{c.service, c.address, c.client.name, demandOf(c, h.before, services), h.before[c.key()], yesNo(after[c.key()])})
	}
	return err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func ofServices(all []cf.Listener, ids []string) []cf.Listener {
	return slices.DeleteFunc(slices.Clone(all), func(l cf.Listener) bool { return !slices.Contains(ids, l.ID()) })
}

// authProven holds the replies to EHLO against what services with AUTH must say.
func authProven(seen map[string]audit.Greeting, s cf.Snapshot, ids []string) error {
	for _, id := range ids {
		g, asked := seen[id]
		switch {
		case !asked || s.Effective(id, "smtpd_sasl_exceptions_networks") != "":
			continue // nobody can ask from here
		case offersAuth(g.Before):
			return fmt.Errorf("%s offers AUTH before TLS", id)
		case !offersAuth(g.After):
			return fmt.Errorf("%s offers no AUTH inside TLS: %s", id, orText(g.Failed, "its reply to EHLO has none"))
		}
	}
	return nil
}
