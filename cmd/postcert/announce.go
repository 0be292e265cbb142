package main

import (
	"context"
	"slices"

	"postcert/cmd/postcert/internal/config"
	"postcert/verify/problem"
)

// announce says on which Postfix a certificate will be installed, before that
// happens: in a dry run always, else where nobody has said it and it was not
// installed there before.
func (a *app) announce(ctx context.Context, w wish, o passOptions, v *passJSON, res *result) {
	if w.source != config.SourceACME || o.noDeploy && !a.flags.dryRun {
		return
	}
	list, known := a.targets(w)
	known = known && !w.chosen
	if !known && !o.noDeploy {
		s, err := a.oneInstance(ctx)
		if err != nil {
			if a.flags.dryRun { // else it is said when it is to be installed
				for _, p := range problem.From(err) {
					p.Severity = problem.Warning
					res.problem(p)
				}
			}
			return
		}
		list = []target{{s.instance.ConfigDirectory}}
	}
	if o.noDeploy {
		list = nil
	}
	switch {
	case a.flags.dryRun:
		for _, t := range list {
			v.InstallsOn = append(v.InstallsOn, t.directory)
			a.text.printf("  would go to  the Postfix of %s%s\n", t.directory, a.wayOut(w, known))
		}
		if len(list) == 0 {
			a.text.printf("  would go to  no Postfix: it is obtained and kept\n")
		}
	case !known && !slices.Contains(a.records().Instances(w.name), list[0].directory):
		a.text.printf("  goes to      the Postfix of %s%s\n", list[0].directory, a.wayOut(w, known))
	}
}

// wayOut is how to keep a certificate off an instance that nobody has named.
func (a *app) wayOut(w wish, known bool) string {
	switch {
	case known, a.conf.Instance != "":
		return ""
	case w.remembered:
		return ", the only one here; --no-deploy keeps it off"
	}
	return ", the only one here, as the configuration names none; --no-deploy keeps it off now, and \"instances: []\" for good"
}
