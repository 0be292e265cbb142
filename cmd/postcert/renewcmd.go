package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/problem"
)

// renewInterval is how often a timer calls renew if it does not say otherwise.
const renewInterval = 12 * time.Hour

func (a *app) renewCommand() *cobra.Command {
	o := passOptions{reason: "renew"}
	cmd := &cobra.Command{
		Use: "renew [NAME...]", Short: "one pass: recover, renew what is due, deploy what is not served, prove", Long: renewHelp, Example: renewExample,
		Args:        usageArgs(cobra.ArbitraryArgs),
		Annotations: map[string]string{unattended: "yes"},
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			return a.renew(ctx, o, args, res)
		})),
	}
	fs := cmd.Flags()
	fs.BoolVar(&o.force, "force", false, "order also what is not due; limits of the CA and our own guards stay")
	fs.BoolVar(&o.allowKeyChange, "allow-key-change", false, "accept another key although a TLSA record may name the present one")
	fs.DurationVar(&o.interval, "interval", renewInterval, "how long until the next pass: what becomes due before is done now")
	fs.BoolVar(&o.scheduled, "scheduled", false, "what waits for its time goes on waiting, and what was proven is proven again once a day; for timers that call often")
	a.dryRunFlag(cmd, dryOrder)
	return cmd
}

// renew is one pass over everything, or over the named certificates.
func (a *app) renew(ctx context.Context, o passOptions, args []string, res *result) error {
	if !a.flags.dryRun {
		if err := a.recoverFirst(ctx, res); err != nil {
			return err
		}
		a.keepRecords()
	}
	list, err := a.wishes(args)
	if len(list) == 0 && err != nil {
		return err
	}
	a.blame(res, err)
	if err := a.allKnown(args, list); err != nil && res.status == statusOK {
		return err
	}
	all, err := a.passes(ctx, list, o, res)
	if err != nil {
		return err
	}
	res.headline = passHeadline(res, all)
	if len(list) == 0 && len(a.lookedAfter(nil)) == 0 {
		res.headline = "no certificate is configured, and none was obtained. Begin with: postcert obtain --help"
	}
	if a.flags.dryRun {
		return nil
	}
	return a.others(ctx, o, args, list, res)
}

// allKnown refuses a name that nothing is known about.
func (a *app) allKnown(args []string, list []wish) error {
	for _, name := range args {
		if slices.ContainsFunc(list, func(w wish) bool { return w.name == name }) || len(a.records().Instances(name)) > 0 {
			continue
		}
		return refuse("name_unknown", problem.At{}, "no certificate %q is configured, obtained or installed here", name)
	}
	return nil
}

// recoverFirst settles a change that was interrupted.
func (a *app) recoverFirst(ctx context.Context, res *result) error {
	s, err := a.journalSite(ctx)
	if err != nil || s == nil {
		return err
	}
	if dir, err := s.engine.OpenInstance(ctx); err != nil || dir == "" {
		return err
	}
	err = a.recover(ctx, res)
	if res.headline != "" {
		a.text.printf("  %s\n", res.headline)
	}
	return err
}

// others are the certificates that are neither ordered nor watched, such as those
// that install-cert installed: they are proven, and what differs is told or
// repaired.
func (a *app) others(ctx context.Context, o passOptions, args []string, list []wish, res *result) error {
	probes := []probeJSON{}
	defer func() { res.add("probes", probes) }()
	for _, rec := range a.lookedAfter(list) {
		if len(args) > 0 && !slices.Contains(args, rec.Name) {
			continue
		}
		sites, err := a.sitesOf(ctx, wish{name: rec.Name, source: config.SourceWatch, remembered: true, instance: rec.Instance})
		if err != nil {
			a.blame(res, err)
			continue
		}
		for _, s := range sites {
			a.text.printf("%s\n", a.text.paint(bold, rec.Name))
			probes = append(probes, a.lookAfter(ctx, s, rec, o, res))
		}
		if ctx.Err() != nil {
			return withCause(ctx, ctx.Err())
		}
	}
	return nil
}

// lookedAfter are the records of what is installed and is none of the wishes.
func (a *app) lookedAfter(list []wish) []*status.Record {
	var out []*status.Record
	for _, name := range a.records().Names() {
		if slices.ContainsFunc(list, func(w wish) bool { return w.name == name }) {
			continue
		}
		for _, dir := range a.records().Instances(name) {
			if rec, _ := a.records().Read(dir, name); rec != nil && rec.Installed != "" && !rec.Released {
				out = append(out, rec)
			}
		}
	}
	return out
}
