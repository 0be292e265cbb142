package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme/lineage"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Limits of a hook's run. lego kills its hook after two minutes; what was begun
// before hookLimit, with its undo, is over by then.
const (
	hookLimit  = 80 * time.Second
	hookSettle = 10 * time.Second // for a pair that is still being written
	stdinLimit = 5 * time.Second
	maxStdin   = 1 << 20
)

// called reads the pair of a call. Who calls has done with writing, as a rule, so
// a pair that can be read is taken at once; one that cannot gets its time.
func called(ctx context.Context, src keypair.Source, wait time.Duration) (*keypair.Pair, problem.List, error) {
	if pair, warnings, err := keypair.Read(ctx, src); err == nil || src.Tar != nil {
		return &pair, warnings, err
	}
	return settled(ctx, src, wait)
}

// errForeign is a call that a deploy hook has no answer to.
var errForeign = errors.New("not a deploy hook's event")

// hookJSON is what a call of the hook was about.
type hookJSON struct {
	Client   string         `json:"client"`
	Event    string         `json:"event"`
	Lineages []*lineageJSON `json:"lineages"`
}

type lineageJSON struct {
	Lineage     string           `json:"lineage"`
	Ours        bool             `json:"ours"`
	Rule        lineage.Rule     `json:"rule"` // why it is ours; "" if it is not
	Certificate *certificateJSON `json:"certificate"`
	Deploys     []deployJSON     `json:"deploys"`
}

// commandLine is what the program is to do, by the name under which it was called
// and the environment: ACME clients that take the path of a hook, and no
// arguments for it, call a link.
//
//   - As postcert-hook, everything is for "hook". dehydrated (HOOK=) calls it so.
//   - Without arguments, in the environment of a client, it is its hook: certbot
//     runs whatever lies in renewal-hooks/deploy/, under any name.
//   - acmetool runs what lies in /etc/acme/hooks/, with an event.
func commandLine(argv []string, env map[string]string) []string {
	if len(argv) == 0 {
		return nil
	}
	args := argv[1:]
	client, _ := lineage.ByEnvironment(env)
	switch {
	case strings.HasSuffix(filepath.Base(argv[0]), "postcert-hook"),
		len(args) == 0 && client != "",
		len(args) > 0 && env["ACME_STATE_DIR"] != "" && lineage.AcmetoolEvent(args[0]):
		return append([]string{"hook", "--"}, args...)
	}
	return args
}

func (a *app) hookCommand() *cobra.Command {
	var src keypair.Source
	cmd := &cobra.Command{
		Use:   "hook [LINEAGE_DIR | --cert FULLCHAIN --key PRIVKEY [--chain CHAIN] | EVENT ARG...]",
		Short: "deploy hook of certbot, lego, acme.sh, dehydrated, acmetool and others", Long: hookHelp, Example: hookExample,
		Args:        usageArgs(cobra.ArbitraryArgs),
		Annotations: map[string]string{unattended: "yes"},
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			return a.hook(ctx, src, args, res)
		})),
	}
	fs := cmd.Flags()
	fs.SetInterspersed(false) // what a client appends is not for us to parse
	fs.StringVar(&src.Cert, "cert", "", "PEM `FILE`: leaf and intermediates")
	fs.StringVar(&src.Key, "key", "", "PEM `FILE`: the private key")
	fs.StringVar(&src.Chain, "chain", "", "PEM `FILE`: intermediates, if --cert holds the leaf only")
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

// hook does what a client's call asks for. It is quiet unless something went
// wrong: clients pass on what a hook prints, and cron mails it.
func (a *app) hook(ctx context.Context, src keypair.Source, args []string, res *result) error {
	if a.flags.verbose == 0 {
		a.flags.quiet = true
		a.text = newText(a.stdout, true)
	}
	v := &hookJSON{Lineages: []*lineageJSON{}}
	res.add("hook", v)
	call, err := a.recognise(ctx, src, args)
	if err != nil {
		return err
	}
	v.Client, v.Event = call.Client, call.Event
	a.log.Debug("hook", "client", call.Client, "event", call.Event, "lineages", len(call.Lineages))
	switch {
	case call.Foreign:
		return errForeign
	case call.Nothing:
		return nil
	}
	if a.flags.timeout == 0 {
		var cancel context.CancelFunc
		limit := cmp.Or(a.seams.hook, hookLimit)
		ctx, cancel = context.WithTimeoutCause(ctx, limit, hookLate{limit})
		defer cancel()
	}
	return withCause(ctx, a.hookLineages(ctx, call, v, res))
}

// hookLate is the end of a hook's time.
type hookLate struct{ limit time.Duration }

func (e hookLate) Error() string {
	return fmt.Sprintf("not done within the %s that a hook has; it is tried again by \"postcert renew\" or the daemon", e.limit)
}

// recognise understands the call.
func (a *app) recognise(ctx context.Context, src keypair.Source, args []string) (lineage.Call, error) {
	in := lineage.Input{Args: args, Env: a.env, Stdin: func() ([]byte, error) { return a.readStdin(ctx) }}
	if dir, err := os.Getwd(); err == nil && filepath.IsAbs(dir) {
		in.Dir = dir
	}
	if src == (keypair.Source{}) {
		return lineage.Recognise(in)
	}
	if len(args) > 0 {
		return lineage.Call{}, usagef("a lineage directory and --cert exclude each other")
	}
	return lineage.Named(in, src)
}

// readStdin reads standard input to its end, for a while.
func (a *app) readStdin(ctx context.Context) ([]byte, error) {
	type input struct {
		data []byte
		err  error
	}
	done := make(chan input, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(a.stdin, maxStdin+1))
		if err == nil && len(data) > maxStdin {
			err = fmt.Errorf("more than %d bytes", maxStdin)
		}
		done <- input{data, err}
	}()
	select {
	case in := <-done:
		return in.data, in.err
	case <-time.After(stdinLimit):
		return nil, errors.New("it does not end")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hookLineages decides about each lineage of a call, and deploys ours.
func (a *app) hookLineages(ctx context.Context, call lineage.Call, v *hookJSON, res *result) error {
	var all []found
	for _, l := range call.Lineages {
		seen, err := l.Look()
		if err != nil {
			v.Lineages = append(v.Lineages, &lineageJSON{Lineage: l.String(), Deploys: []deployJSON{}})
			a.hookBlame(res, err)
			continue
		}
		all = append(all, found{l, seen})
	}
	if len(all) == 0 {
		return nil
	}
	others := a.surelyOthers(all)
	var sites []*site
	if !others {
		var unread, err error
		if sites, unread, err = a.instances(ctx); err != nil {
			a.hookLost(ctx, all, nil, err)
			return err
		}
		if unread != nil { // no reason to keep the others waiting
			a.hookLost(ctx, all, sites, unread)
			a.blame(res, unread)
		}
	}
	for _, l := range all {
		one := &lineageJSON{Lineage: l.String(), Deploys: []deployJSON{}}
		v.Lineages = append(v.Lineages, one)
		if others {
			a.log.Debug("another's lineage", "lineage", l.String())
			continue
		}
		a.hookBlame(res, withCause(ctx, a.hookLineage(ctx, sites, l, one, res)))
		if ctx.Err() != nil {
			break
		}
	}
	a.hookHeadline(res, v)
	return nil
}

// hookBlame adds what went wrong with one lineage; the others are not hindered.
func (a *app) hookBlame(res *result, err error) {
	if err != nil {
		a.blame(res, err)
	}
}

// hookLineage deploys one lineage wherever it is ours.
func (a *app) hookLineage(ctx context.Context, sites []*site, l found, v *lineageJSON, res *result) error {
	var targets []hookTarget
	var unread []error
	for i, s := range sites {
		some, err := a.hookTargets(ctx, s, l)
		if err != nil {
			a.hookLost(ctx, []found{l}, slices.Concat(sites[:i], sites[i+1:]), err)
			unread = append(unread, err)
		}
		targets = append(targets, some...)
	}
	if len(targets) == 0 && len(unread) > 0 {
		return errors.Join(unread...)
	}
	if len(targets) == 0 {
		a.log.Debug("another's lineage", "lineage", l.String())
		a.neverOurs(sites, l, res)
		return nil
	}
	a.hookBlame(res, errors.Join(unread...))
	v.Ours, v.Rule = true, targets[0].rule
	left := slices.DeleteFunc(slices.Clone(targets), func(t hookTarget) bool { return t.left == "" })
	for _, t := range left {
		v.Deploys = append(v.Deploys, deployJSON{Instance: t.site.instance.ConfigDirectory, Left: t.left})
		res.problem(adopting(l, "hook_left", "%s is left alone: %s", l, t.left))
		a.flags.quiet = false
	}
	targets = slices.DeleteFunc(targets, func(t hookTarget) bool { return t.left != "" })
	if len(targets) == 0 {
		return nil
	}
	return a.hookDeploy(ctx, targets, l, v, res)
}

// neverOurs says why nothing happens, as long as nothing ever was deployed here:
// whoever has just set up the hook waits for something to happen.
func (a *app) neverOurs(sites []*site, l found, res *result) {
	if len(a.records().All()) > 0 {
		return
	}
	why := "no parameter of Postfix names a file of it, and it is valid for no name that Postfix goes by"
	if l.seen.Leaf != nil {
		why += " (it is for " + strings.Join(l.seen.Leaf.DNSNames[:min(len(l.seen.Leaf.DNSNames), 5)], ", ") + ")"
	}
	res.problem(adopting(l, "hook_not_ours", "%s is not deployed: %s", l, why))
	a.flags.quiet = false
}

// adopting is a notice with the command that makes a lineage ours.
func adopting(l found, id, format string, args ...any) problem.Problem {
	p := problem.Warn(id, problem.At{File: l.String()}, format, args...)
	command := "postcert install-cert " + l.Dir
	if l.Dir == "" || filepath.Base(l.Source.Cert) != "fullchain.pem" {
		command = "postcert install-cert --cert " + l.Source.Cert + " --key " + l.Source.Key
	}
	p.Remedy = "if it is for this mail server, adopt it once, after which its renewals are deployed: " + command
	return p
}

// hookHeadline is the last line, for what went wrong.
func (a *app) hookHeadline(res *result, v *hookJSON) {
	if res.status == statusOK {
		return
	}
	res.headline = "not deployed; see above."
	for _, l := range v.Lineages {
		for _, d := range l.Deploys {
			if d.Next != nil {
				res.headline = fmt.Sprintf("what was served is served; the deploy is tried again by \"postcert renew\" (timer) or the daemon, at %s UTC at the earliest, without the ACME client.",
					d.Next.Format(time.DateTime))
			}
		}
	}
	if res.status == statusIncomplete {
		res.headline = "ROLLBACK INCOMPLETE: see above, and run: postcert recover"
	}
}
