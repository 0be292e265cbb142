package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/verify"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// lockWait is how long a command waits for another run to finish its deploy.
const lockWait = 30 * time.Second

// pairFlags say where a pair is read from.
type pairFlags struct {
	cert, key, chain, tar string
	hosts                 []string
	allowNames            []string
	allowDowngrade        bool
	allowFewerNames       bool
	allowSelfSigned       bool
}

func (f *pairFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.cert, "cert", "", "PEM `FILE`: leaf and intermediates (fullchain.pem), and the key if --key is not given")
	fs.StringVar(&f.key, "key", "", "PEM `FILE`: the private key")
	fs.StringVar(&f.chain, "chain", "", "PEM `FILE`: intermediates, if --cert holds the leaf only")
	fs.StringArrayVar(&f.hosts, "host", nil, "`NAME` that the certificate must cover (repeatable)")
	fs.StringArrayVar(&f.allowNames, "allow-name", nil, "`NAME` that it may lack although it is served until now (repeatable)")
	fs.BoolVar(&f.allowDowngrade, "allow-downgrade", false, "accept a certificate that is older than the served one")
	fs.BoolVar(&f.allowFewerNames, "allow-fewer-names", false, "accept a certificate that lacks names of the served one")
	fs.BoolVar(&f.allowSelfSigned, "allow-self-signed", false, "accept a self-signed certificate")
}

// source says which files a pair comes from. A lineage is a directory as
// certbot keeps it: fullchain.pem and privkey.pem.
func (f *pairFlags) source(a *app, args []string) (keypair.Source, string, error) {
	given := 0
	for _, b := range []bool{len(args) > 0, f.cert != "", f.tar != ""} {
		if b {
			given++
		}
	}
	switch {
	case given == 0:
		return keypair.Source{}, "", usagef("name a lineage directory, or --cert and --key")
	case given > 1:
		return keypair.Source{}, "", usagef("a lineage directory, --cert and --tar exclude each other")
	case f.tar != "":
		return f.tarSource(a)
	case f.cert != "":
		return keypair.Source{Cert: f.cert, Key: f.key, Chain: f.chain}, "", nil
	case f.key != "" || f.chain != "":
		return keypair.Source{}, "", usagef("--key and --chain go with --cert, not with a lineage directory")
	}
	return lineageSource(args[0])
}

func lineageSource(dir string) (keypair.Source, string, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return keypair.Source{}, "", refuse("input_missing", problem.At{File: dir}, "lineage directory: %v", err)
	}
	if !st.IsDir() {
		return keypair.Source{}, "", refuse("input_not_directory", problem.At{File: dir},
			"%s is not a directory; a lineage directory holds fullchain.pem and privkey.pem", dir)
	}
	return keypair.Source{Cert: filepath.Join(dir, "fullchain.pem"), Key: filepath.Join(dir, "privkey.pem")}, filepath.Base(filepath.Clean(dir)), nil
}

func (f *pairFlags) tarSource(a *app) (keypair.Source, string, error) {
	if f.tar == "-" {
		return keypair.Source{Tar: a.stdin, TarName: "standard input"}, "", nil
	}
	file, err := os.OpenFile(f.tar, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return keypair.Source{}, "", refuse("input_missing", problem.At{File: f.tar}, "%v", err)
	}
	return keypair.Source{Tar: closing{file}, TarName: f.tar}, "", nil
}

// closing closes a file once it was read to its end.
type closing struct{ *os.File }

func (c closing) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	if err == io.EOF {
		c.File.Close()
	}
	return n, err
}

func (f *pairFlags) policy(a *app) (verify.Policy, error) {
	anchors, err := verify.LoadAnchors(append(append([]string{}, a.conf.Trust...), a.flags.trust...))
	if err != nil {
		return verify.Policy{}, err
	}
	return verify.Policy{
		Anchors: anchors, Names: f.hosts, AllowNames: f.allowNames, AllowDowngrade: f.allowDowngrade,
		AllowFewerNames: f.allowFewerNames, AllowSelfSigned: f.allowSelfSigned,
	}, nil
}

// installFlags are the switches of install-cert.
type installFlags struct {
	pairFlags
	name, service  string
	enable         bool
	adoptOverrides bool
	noRehearsal    bool
	ignore         []string
}

func (a *app) installCommand() *cobra.Command {
	var f installFlags
	cmd := &cobra.Command{
		Use:     "install-cert [LINEAGE_DIR | --cert FULLCHAIN --key PRIVKEY [--chain CHAIN] | --tar FILE|-]",
		Short:   "verify, rehearse, install, reload and prove a certificate, or roll everything back",
		Long:    installHelp,
		Example: installExample,
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			return a.install(ctx, &f, args, res)
		})),
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.tar, "tar", "", "tar `FILE` with fullchain.pem and privkey.pem; - is standard input")
	fs.StringVar(&f.name, "name", "", "`NAME` under which the certificate is kept (default: the one in use, the lineage's, the first DNS name)")
	fs.StringVar(&f.service, "service", "", "only for this `SERVICE` of master.cf, e.g. submissions/inet")
	fs.BoolVar(&f.enable, "enable", false, "also set smtpd_tls_security_level = may where TLS is off")
	fs.BoolVar(&f.adoptOverrides, "adopt-overrides", false, "also change -o overrides in master.cf that name a stale certificate")
	fs.BoolVar(&f.noRehearsal, "no-rehearsal", false, "do not rehearse on a private Postfix first")
	fs.StringArrayVar(&f.ignore, "ignore-listener", nil, "`ADDRESS` that need not prove the certificate, e.g. 192.0.2.1:465 (repeatable)")
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

// dryChange is what --dry-run is where Postfix is changed.
const dryChange = "show what would be done, after a rehearsal; change nothing"

// dryRunFlag adds --dry-run to a command that changes something.
func (a *app) dryRunFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&a.flags.dryRun, "dry-run", false, usage)
}

func (a *app) install(ctx context.Context, f *installFlags, args []string, res *result) error {
	res.headline = untouched // until there is a plan
	src, lineage, err := f.source(a, args)
	if err != nil {
		return err
	}
	pair, warnings, err := keypair.Read(ctx, src)
	res.problems = append(res.problems, warnings...)
	if err != nil {
		return err
	}
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	pol, err := f.policy(a)
	if err != nil {
		return err
	}
	c := a.change(s, deploy.Change{
		Reason: "install-cert", Name: f.name, Pair: pair, Source: sourceName(src), Lineage: lineage,
		Service: f.service, Enable: f.enable, Judge: true, Policy: pol, AdoptOverrides: f.adoptOverrides,
		IgnoreListeners: f.ignore,
	})
	if err := a.oneService(s, c); err != nil {
		return err
	}
	if f.noRehearsal {
		c.Rehearsal = deploy.RehearsalOff
	}
	// Root may point at what others can write; nobody goes on looking there.
	if !warnings.Has("input_untrusted_path") {
		if a.from, err = fromOf(src, f.service, args); err != nil {
			return err
		}
	}
	return a.transact(ctx, s, deploy.Chosen(c), res)
}

// fromOf is where a pair was read from, to be remembered: its renewals are ours
// from now on. A stream cannot be read again.
func fromOf(src keypair.Source, service string, args []string) (*status.From, error) {
	if src.Tar != nil {
		return nil, nil
	}
	f := &status.From{Service: service}
	var err error
	if len(args) > 0 {
		f.Lineage, err = absolute(args[0])
		return f, err
	}
	f.Source = &status.Source{}
	for _, p := range []struct {
		from string
		to   *string
	}{{src.Cert, &f.Source.Cert}, {src.Key, &f.Source.Key}, {src.Chain, &f.Source.Chain}} {
		var perr error
		*p.to, perr = absolute(p.from)
		err = errors.Join(err, perr)
	}
	return f, err
}

// oneService refuses a change that several services are to get, and any if the
// configuration cannot be met.
func (a *app) oneService(s *site, c deploy.Change) error {
	if s.unfit != nil {
		return s.unfit
	}
	if own := ownServices(s.settings, c); len(own) > 1 {
		return refuse("services_unsupported", problem.At{File: a.conf.File, Parameter: "services"},
			"the configuration gives %s to %d services; one change can give it to one", own[0].Certificate, len(own))
	}
	return nil
}

func sourceName(s keypair.Source) string {
	if s.Tar != nil {
		return s.TarName
	}
	return s.Cert
}

// transact runs one change, as a dry run if asked for, prints what happens and
// says how it ended.
func (a *app) transact(ctx context.Context, s *site, choose deploy.Choice, res *result) error {
	if s.unfit != nil {
		return s.unfit
	}
	s.engine.Progress = a.progress(s.engine.Progress)
	return a.transacted(ctx, s, choose, res)
}

// transacted is transact for one of several changes of a command, whose progress is
// drawn already.
func (a *app) transacted(ctx context.Context, s *site, choose deploy.Choice, res *result) error {
	var rep *deploy.Report
	var err error
	if a.flags.dryRun {
		rep, err = s.engine.DryRun(ctx, choose, a.conf.RuntimeDir)
		if rep != nil {
			a.showPlan(rep.Plan)
		}
	} else {
		rep, err = s.engine.Run(ctx, choose, lockWait, a.showPlan)
	}
	if rep == nil {
		// The change did not begin; but an earlier one may be half undone.
		var incomplete *deploy.IncompleteError
		if errors.As(err, &incomplete) {
			res.headline = headline(&deploy.Report{Outcome: deploy.Incomplete, Plan: &deploy.Plan{Instance: s.instance.ConfigDirectory}}, err, false)
		}
		return err
	}
	res.add("plan", planOf(rep.Plan))
	res.add("transaction", transactionOf(rep))
	res.problems = append(res.problems, rep.Problems...)
	a.showReport(rep)
	res.headline = headline(rep, err, a.flags.dryRun)
	if p := rep.Plan; p != nil && p.Name == "" && p.Pair.IsZero() && p.Change.Reason != "" {
		res.headline = plainHeadline(rep, res.headline, a.undoBy, a.flags.dryRun)
	}
	a.recordStatus(s, rep, err)
	if err == nil && rep.Outcome == deploy.NotVerified {
		if !rep.Running {
			res.problem(problem.Warn("not_running", problem.At{File: s.instance.ConfigDirectory}, "Postfix is not running: nobody could be asked"))
		}
		err = errNotVerified
	}
	return err
}

// untouched is the headline of what ended before it touched anything.
const untouched = "refused: nothing was touched; Postfix serves what it served before."

// progress draws the steps, and passes events on to a test's seam.
func (a *app) progress(next func(deploy.Event)) func(deploy.Event) {
	return func(e deploy.Event) {
		if !e.Begin {
			a.log.Debug("step", "step", string(e.Step), "took", e.Took, "err", e.Err)
		}
		a.text.step(e)
		if next != nil {
			next(e)
		}
	}
}

// headline is the last line: what happened, what is served now, what to do.
func headline(r *deploy.Report, err error, dry bool) string {
	name := "the configuration"
	if r.Plan != nil && r.Plan.Name != "" {
		name = r.Plan.Name
	}
	switch r.Outcome {
	case deploy.Planned:
		if r.Plan.Unchanged {
			return fmt.Sprintf("dry run: %s is installed and served already; nothing would be done.", name)
		}
		return fmt.Sprintf("dry run: nothing was changed. Without --dry-run, %s would be installed, reloaded and proven.", name)
	case deploy.Unchanged:
		return fmt.Sprintf("unchanged: %s is installed, and every listener proved it just now. Nothing was written or reloaded.", name)
	case deploy.Installed:
		return fmt.Sprintf("installed: %s, generation %d, is served and proven on %s. To go back: postcert %s", name, r.Generation, listenerWords(r), wayBack(r))
	case deploy.NotVerified:
		if !r.Running {
			return fmt.Sprintf("installed, not verified: %s, generation %d, is in place, but Postfix is not running. Start it, then ask: postcert status", name, r.Generation)
		}
		return fmt.Sprintf("installed, not verified: %s, generation %d, is in place, but not every listener could be asked. See the table; then: postcert status", name, r.Generation)
	case deploy.RolledBack:
		return fmt.Sprintf("rolled back: %s was installed and then undone. The previous state is served again%s.", name, provenWords(r))
	case deploy.Incomplete:
		return "ROLLBACK INCOMPLETE: what Postfix serves now is not what it served before. Do this now:\n" + manual(r)
	case deploy.Refused:
		if dry {
			return "dry run: it would be refused. Nothing was changed."
		}
		return untouched
	}
	if err != nil {
		return "failed before anything was changed: Postfix serves what it served before."
	}
	return ""
}

// plainHeadline is the headline of a change that is about no certificate; where its
// words are those of any other, they are given.
func plainHeadline(r *deploy.Report, words, undoBy string, dry bool) string {
	what := r.Plan.Change.Reason
	switch r.Outcome {
	case deploy.Planned:
		if r.Plan.Unchanged {
			return fmt.Sprintf("dry run: %s is so already; nothing would be done.", what)
		}
		return fmt.Sprintf("dry run: nothing was changed. Without --dry-run, %s would be done, reloaded and proven.", what)
	case deploy.Unchanged:
		return fmt.Sprintf("unchanged: %s is so already. Nothing was written or reloaded.", what)
	case deploy.Installed:
		return fmt.Sprintf("done: %s is in effect, and the listeners serve what they served before. To go back: %s", what, undoBy)
	case deploy.NotVerified:
		if !r.Running {
			return fmt.Sprintf("done, not verified: %s is in place, but Postfix is not running. Start it: systemctl start postfix", what)
		}
		return fmt.Sprintf("done, not verified: %s is in place, but not every listener could be asked; see the table. To go back: %s", what, undoBy)
	case deploy.RolledBack:
		return fmt.Sprintf("rolled back: %s was done and then undone. The previous state is in effect again%s.", what, provenWords(r))
	}
	if dry || r.Outcome != deploy.Refused {
		return words
	}
	return "refused: nothing was touched."
}

// wayBack is the command that undoes a change: before the first generation
// there are only the files that were named before the adoption.
func wayBack(r *deploy.Report) string {
	if r.Generation == 1 {
		return "release " + r.Plan.Name
	}
	return "rollback " + r.Plan.Name
}

func provenWords(r *deploy.Report) string {
	if len(r.Listeners) == 0 {
		return ""
	}
	return fmt.Sprintf(", proven on %s", listenerWords(r))
}

func listenerWords(r *deploy.Report) string {
	seen := map[string]bool{}
	for _, o := range r.Listeners {
		seen[o.Expectation.Endpoint.Address] = true
	}
	if len(seen) == 1 {
		return "1 listener"
	}
	return fmt.Sprintf("%d listeners", len(seen))
}

// manual is what finishes an undo by hand, as text.
func manual(r *deploy.Report) string {
	var out []string
	for n, step := range byHand(r) {
		out = append(out, fmt.Sprintf("  %d. %s", n+1, step))
	}
	return strings.Join(out, "\n")
}

// byHand is what finishes an undo by hand, in order; nothing for any other outcome.
func byHand(r *deploy.Report) []string {
	if r.Outcome != deploy.Incomplete {
		return nil
	}
	dir := "/etc/postfix"
	if r.Plan != nil && r.Plan.Instance != "" {
		dir = r.Plan.Instance
	}
	return []string{
		"read what stands in the way above (a full disk, a read-only file system, Postfix not running), and mend it",
		fmt.Sprintf("postcert recover --instance %s     finishes the rollback; the journal with the former files is kept until then", dir),
		fmt.Sprintf("if that cannot be: put the files back from <state_dir>/journal by hand, then: postfix -c %s check && postfix -c %s reload || postfix -c %s start", dir, dir, dir),
	}
}
