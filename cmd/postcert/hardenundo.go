package main

import (
	"context"
	"slices"
	"strings"

	"postcert/deploy"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

func (a *app) hardenUndo(ctx context.Context, names []string, res *result) error {
	res.headline = untouched
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	h := &hardening{app: a, site: s}
	h.say = hardenJSON{Order: []string{}, LeftOut: []leftOutJSON{}, Left: []leftJSON{}, Log: peerLog{Peers: []*peer{}}, Clients: []clientJSON{}}
	a.undoBy = "postcert harden --profile PROFILE"
	err = h.run(ctx, func(ctx context.Context) (deploy.Change, error) { return h.chooseUndo(ctx, names) }, res)
	res.add("harden", h.say)
	return err
}

// chooseUndo is the change that takes back what is recorded, as far as it stands.
func (h *hardening) chooseUndo(ctx context.Context, names []string) (deploy.Change, error) {
	c := deploy.Change{Reason: strings.TrimSpace("harden --undo " + strings.Join(names, " "))}
	s, err := h.site.engine.MTA.Snapshot(ctx)
	if err != nil {
		return c, err
	}
	record, before, err := h.readRecord(h.site)
	if err != nil {
		return c, err
	}
	for _, n := range names {
		if p := planUndo(record, s, []string{n}); !p.matched {
			return c, refuse("harden_not_ours", problem.At{Parameter: n}, "harden has not changed %s, so there is nothing of it to take back", n)
		}
	}
	p := planUndo(record, s, names)
	if !p.matched {
		return c, refuse("harden_not_ours", problem.At{File: s.Dir}, "nothing that harden did is in the configuration in %s", s.Dir)
	}
	h.found = append(h.found, p.kept...)
	if len(p.edits) == 0 {
		return h.change(h.site, c), nil
	}
	main, master, err := cf.Apply(s.Main.Data, s.Master.Data, p.edits)
	if err != nil {
		return c, err
	}
	after, err := h.site.engine.MTA.Candidate(ctx, main, master)
	if err != nil {
		return c, err
	}
	if err := h.clients(ctx, s, after, after.Listeners(h.site.engine.Host)); err != nil {
		return c, err
	}
	h.fallback(&p.record, s, after)
	file, err := h.recordFile(h.site, p.record, before)
	c.Edits, c.Files = p.edits, []deploy.FileChange{file}
	c.Confirm = func(ctx context.Context, now cf.Snapshot) error { return h.confirm(ctx, now, nil) }
	return h.change(h.site, c), err
}

// fallback warns of services that take passwords in clear by this undo, and has
// status watch them.
func (h *hardening) fallback(r *hardenRecord, before, after cf.Snapshot) {
	ids := opened(before, after)
	r.Fallbacks = slices.DeleteFunc(r.Fallbacks, func(f hardenFallback) bool { return !slices.Contains(clearAuth(after), f.Service) })
	for _, id := range ids {
		r.Fallbacks = append(r.Fallbacks, hardenFallback{id, h.app.now().UTC()})
		h.found = append(h.found, problem.Warn("auth_before_tls", where(after, id, "smtpd_tls_auth_only"),
			"%s takes passwords without TLS after this: who reads the connection reads the password; status says so until it does not", id))
	}
}
