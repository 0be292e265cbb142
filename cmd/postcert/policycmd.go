package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postcert/deploy"
	"postcert/deploy/postfix/cf"
	lookup "postcert/deploy/postfix/table"
	"postcert/verify/problem"
)

const policyHelp = `policy shows and edits the table of smtp_tls_policy_maps, which gives single
destinations a level of their own, above the one of outbound.

A key is the next hop as Postfix writes it: the recipient's domain or, where a
relayhost or a transport sends mail elsewhere, that host in the same form, such as
[mail.example.com]:587. A key .example.com is for all domains below.

  list                                  all entries, and what is wrong with them
  set DOMAIN LEVEL [NAME=VALUE...]      add or change one entry
  remove DOMAIN                         take one out
  test DOMAIN                           ask the servers, and say what happens to mail

set and remove edit the text and its index in one change, which is proven or
undone; other lines stay as they are. If there is no table, <config_directory>/
tls_policy is made and registered. A map that is no file (mysql, socketmap, ...) is
left alone; which one answers first is said.

EXIT STATUS
` + statusTable

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "levels of TLS for single destinations", Long: policyHelp, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var f policyFlags
	set := &cobra.Command{
		Use: "set DOMAIN LEVEL [NAME=VALUE...]", Short: "add or change one entry", Long: policyHelp, Args: usageArgs(cobra.MinimumNArgs(2)),
		Example: "  postcert policy set example.com secure\n  postcert policy set example.com verify match=mx.example.net\n  postcert policy set '[relay.example.com]:587' encrypt",
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.policySet(ctx, &f, args[0], args[1:], res)
		}),
	}
	f.register(set)
	remove := &cobra.Command{
		Use: "remove DOMAIN", Short: "take one entry out", Long: policyHelp, Args: usageArgs(cobra.ExactArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.policyChange(ctx, &f, args[0], "", res)
		}),
	}
	list := &cobra.Command{
		Use: "list", Short: "show all entries", Long: policyHelp, Args: usageArgs(cobra.NoArgs),
		RunE: a.runE(func(ctx context.Context, _ []string, res *result) error { return a.policyList(ctx, res) }),
	}
	a.dryRunFlag(set, dryChange)
	a.dryRunFlag(remove, dryChange)
	cmd.AddCommand(list, set, remove, a.policyTestCommand())
	return cmd
}

// policyFlags say how a table is made that is not there yet.
type policyFlags struct{ kind string }

func (f *policyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.kind, "type", "", "`TYPE` of a new table (default: default_database_type; see postconf -m)")
}

func (a *app) policySet(ctx context.Context, f *policyFlags, key string, words []string, res *result) error {
	return a.policyChange(ctx, f, key, strings.Join(words, " "), res)
}

// policyJSON is what set and remove say besides the plan.
type policyJSON struct {
	Key         string `json:"key"`
	Table       string `json:"table"`
	Before      string `json:"before"` // "": no entry
	After       string `json:"after"`
	Consequence string `json:"consequence"`
}

// policyChange gives a key a value, or takes it out if the value is "".
func (a *app) policyChange(ctx context.Context, f *policyFlags, key, value string, res *result) error {
	res.headline = untouched
	if err := lookup.NextHop(key); err != nil {
		return usagef("%v", err)
	}
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	return a.transact(ctx, s, func(ctx context.Context) (deploy.Change, error) {
		snap, err := s.engine.MTA.Snapshot(ctx)
		if err != nil {
			return deploy.Change{}, err
		}
		if err := a.policyFits(ctx, snap, key, value, res); err != nil {
			return deploy.Change{}, err
		}
		a.keyDiffers(ctx, s, snap, key, res)
		m, edits, err := a.chooseMap(ctx, s, snap, f.kind, key, res)
		if err != nil {
			return deploy.Change{}, err
		}
		files, before, err := a.tableFiles(ctx, s, m, key, value)
		if err != nil {
			return deploy.Change{}, err
		}
		c := deploy.Change{Reason: "policy set " + key + " " + value, Files: files, Edits: edits}
		a.undoBy = "postcert policy remove '" + key + "'"
		if before != "" {
			a.undoBy = "postcert policy set '" + key + "' " + before
		}
		if value == "" {
			c.Reason, c.Edits = "policy remove "+key, nil
		}
		c.Confirm = func(ctx context.Context, _ cf.Snapshot) error { return a.policyConfirmed(ctx, s, m, key, value) }
		words := policyMeans(value)
		a.text.printf("  %s: %s -> %s, in %s\n  this means for mail to %s: %s.\n", key, orText(before, "(no entry)"), orText(value, "(no entry)"), m.name(), key, words)
		res.add("policy", policyJSON{key, m.name(), before, value, words})
		return a.change(s, c), nil
	}, res)
}

func policyMeans(value string) string {
	if value == "" {
		return "it is sent at the level of " + levelParameter
	}
	return levelMeans(strings.Fields(value)[0])
}

// policyFits refuses an entry that smtp(8) would not take, or at which no mail could
// be sent, and one that takes the effect from smtp_tls_per_site.
func (a *app) policyFits(ctx context.Context, s cf.Snapshot, key, value string, res *result) error {
	at := where(s, "", policyParameter)
	if s.Effective("", "smtp_tls_per_site") != "" && s.Effective("", policyParameter) == "" {
		return refuse("per_site_present", where(s, "", "smtp_tls_per_site"),
			"smtp_tls_per_site = %s is in effect, and none of its entries would be beside a policy table", s.Effective("", "smtp_tls_per_site"))
	}
	if value == "" {
		return nil
	}
	p, err := lookup.ParsePolicy(value, s.Version)
	if err != nil {
		return refuse("policy_invalid", at, "%s %s: %v", key, value, err)
	}
	list := a.levelFits(ctx, s, p.Level, p.Get("tafile"))
	for _, c := range clients(s) {
		if overrides(c, policyParameter) {
			list = append(list, problem.Warn("policy_overridden", where(s, c.ID(), policyParameter),
				"%s asks other maps, by master.cf: %s = %s", c.ID(), policyParameter, s.Effective(c.ID(), policyParameter)))
		}
	}
	res.problems = append(res.problems, list.Warnings()...)
	return list.Err()
}

// keyDiffers says that mail for a domain goes to another next hop, so that an entry
// under the domain has no effect.
func (a *app) keyDiffers(ctx context.Context, s *site, snap cf.Snapshot, key string, res *result) {
	if strings.ContainsAny(key, "[:") || strings.HasPrefix(key, ".") {
		return
	}
	r, err := a.routeOf(ctx, s, snap, key)
	if err != nil {
		a.log.Warn("looking up the route", "domain", key, "err", err)
	} else if !strings.EqualFold(r.NextHop, key) {
		res.problems = append(res.problems, problem.Warn("policy_key_differs", where(snap, "", policyParameter),
			"mail for %s goes to the next hop %s (%s); it is that which is looked up, so an entry under %s has an effect only for mail that is sent there directly", key, r.NextHop, r.Because, key))
	}
}

// policyConfirmed asks postmap(1) whether Postfix finds what was written.
func (a *app) policyConfirmed(ctx context.Context, s *site, m policyMap, key, value string) error {
	got, found, err := s.instance.Lookup(ctx, m.name(), key)
	if err != nil {
		return err
	}
	if found != (value != "") || strings.Join(strings.Fields(got), " ") != value {
		return fmt.Errorf("postmap -q %s %s finds %q, not %q", key, m.name(), got, value)
	}
	return nil
}

// listedJSON is one entry of policy list.
type listedJSON struct {
	Key    string `json:"key"`
	Policy string `json:"policy"`
	Table  string `json:"table"`
	Line   int    `json:"line"`
}

func (a *app) policyList(ctx context.Context, res *result) error {
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	snap, err := s.engine.MTA.Snapshot(ctx)
	if err != nil {
		return err
	}
	maps, tb, entries := policyMaps(snap), &table{head: []string{"next hop", "policy", "table"}}, []listedJSON{}
	names := []string{}
	for _, m := range maps {
		names = append(names, m.name())
		if !m.editable {
			a.text.printf("  %s is asked too; what is in it is not listed here: postmap -q DOMAIN %s\n", m.name(), m.name())
			continue
		}
		text, err := m.read()
		if err != nil {
			res.problems = append(res.problems, problem.New("policy_unreadable", problem.At{File: m.path, Parameter: policyParameter}, "the table %s cannot be read, and Postfix defers all mail: %v", m.name(), err))
			continue
		}
		res.problems = append(res.problems, m.stale()...)
		for _, e := range lookup.Entries(text) {
			entries = append(entries, listedJSON{e.Key, e.Value, m.name(), e.Line})
			tb.add(plain, e.Key, e.Value, fmt.Sprintf("%s line %d", m.path, e.Line))
			if _, err := lookup.ParsePolicy(e.Value, snap.Version); err != nil {
				res.problems = append(res.problems, problem.New("policy_invalid", problem.At{File: m.path, Line: e.Line}, "%s line %d, %s: %v", m.path, e.Line, e.Key, err))
			}
		}
	}
	a.text.table(tb)
	res.add("level", snap.Effective("", levelParameter))
	res.add("maps", names)
	res.add("entries", entries)
	res.headline = fmt.Sprintf("%d entries; everything else is sent at the level %s.", len(entries), orText(snap.Effective("", levelParameter), "none"))
	if len(res.problems.Errors()) > 0 {
		return errNo
	}
	return nil
}

// keyFound is where a key is answered first.
func (a *app) keyFound(ctx context.Context, s *site, maps []policyMap, key string) (n int, value string, err error) {
	for n, m := range maps {
		value, found, err := s.instance.Lookup(ctx, m.name(), key)
		if err != nil || found {
			return n, value, err
		}
	}
	return -1, "", nil
}

// chooseMap is the table in which a key is to be changed, and the edits of main.cf
// that register it if it is new.
func (a *app) chooseMap(ctx context.Context, s *site, snap cf.Snapshot, kind, key string, res *result) (policyMap, []cf.Edit, error) {
	maps := policyMaps(snap)
	at := where(snap, "", policyParameter)
	n, value, err := a.keyFound(ctx, s, maps, key)
	first := slices.IndexFunc(maps, func(m policyMap) bool { return m.editable })
	switch {
	case err != nil && first < 0:
		return policyMap{}, nil, err
	case n >= 0 && first >= 0 && n < first && !maps[n].editable:
		return policyMap{}, nil, refuse("policy_shadowed", at,
			"%s answers for %s first, with %q; an entry in %s would have no effect", maps[n].name(), key, value, maps[first].name())
	case n >= 0 && maps[n].editable:
		return maps[n], nil, nil
	case first >= 0:
		return maps[first], nil, nil
	}
	m, err := a.newMap(ctx, s, snap, kind)
	if err != nil {
		return m, nil, err
	}
	registered := m.name()
	if old := strings.TrimSpace(snap.Parameters[policyParameter]); old != "" {
		registered += ", " + old
		res.problems = append(res.problems, problem.Warn("policy_precedence", at,
			"%s is asked before %s: what it has for a next hop wins, all else is asked there as before", m.name(), old))
	}
	return m, []cf.Edit{snap.Edit("", policyParameter, &registered)}, nil
}

// newMap is the table that is made where there is none.
func (a *app) newMap(ctx context.Context, s *site, snap cf.Snapshot, kind string) (policyMap, error) {
	types, err := s.instance.TableTypes(ctx)
	if err != nil {
		return policyMap{}, err
	}
	if kind == "" {
		if kind = snap.Effective("", "default_database_type"); !slices.Contains(types, kind) || !editableKind(kind) {
			kind = "texthash"
		}
	}
	if !slices.Contains(types, kind) || !editableKind(kind) {
		return policyMap{}, refuse("table_type", problem.At{Parameter: policyParameter},
			"%q is no type of table that can be edited and that this Postfix has; it has %s", kind, strings.Join(types, ", "))
	}
	return policyMap{kind: kind, path: snap.Dir + "/tls_policy", editable: true}, nil
}
