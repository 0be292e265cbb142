package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"postcert/deploy/postfix/cf"
	"postcert/verify/audit"
	"postcert/verify/problem"
)

const auditHelp = `audit looks at the TLS settings of Postfix and says what is wrong with them: with
the parameter, the service, the file and line, why it matters, who says so, and
what to write instead. It changes nothing.

It judges what is in effect, for each service of master.cf, by the rules of the
installed version of Postfix. Then it asks each listener on this host for its
extensions before and inside TLS, which shows whether a password would be taken
in clear text; --no-handshakes leaves that out.

Profiles are lists of rules:
  recommended  what is wrong or advised against by Postfix's own documentation
  runbook      exactly the values of the runbook for TLS on Postfix
  strict       recommended, and TLS 1.2 or later for users, DANE and reporting

Severities are error (TLS or mail does not work, or a secret is exposed), warning
(it works, and against advice) and info. The answer is no (exit status 8) if
anything is at least as bad as --severity, which also decides what is printed;
--json and --sarif have everything. -v says of each finding why, and who says so.

EXIT STATUS
` + statusTable

const auditExample = `  postcert audit
  postcert audit --severity info -v
  postcert audit --profile runbook
  postcert audit --sarif >postfix-tls.sarif`

func (a *app) auditCommand() *cobra.Command {
	var f auditFlags
	cmd := &cobra.Command{
		Use: "audit", Short: "say what is wrong with the TLS settings of Postfix", Long: auditHelp, Example: auditExample,
		Args: usageArgs(cobra.NoArgs),
		RunE: a.runE(func(ctx context.Context, _ []string, res *result) error {
			profile, ok := audit.Find(f.profile)
			switch {
			case !ok:
				return usagef("--profile %q: use %s", f.profile, profileNames())
			case !slices.Contains(audit.Severities, audit.Severity(f.severity)):
				return usagef("--severity %q: use error, warning or info", f.severity)
			case f.sarif && a.flags.json:
				return usagef("--sarif and --json exclude each other")
			}
			return a.audit(ctx, f, profile, res)
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.profile, "profile", audit.Profiles[0].Name, "`LIST` of rules: "+profileNames())
	fs.StringVar(&f.severity, "severity", string(audit.Warning), "least `SEVERITY` that is printed and counts: error, warning or info")
	fs.BoolVar(&f.sarif, "sarif", false, "SARIF 2.1.0 on standard output instead of text")
	fs.BoolVar(&f.noHandshakes, "no-handshakes", false, "ask no listener")
	return cmd
}

type auditFlags struct {
	profile, severity   string
	sarif, noHandshakes bool
}

func profileNames() string {
	var out []string
	for _, p := range audit.Profiles {
		out = append(out, p.Name)
	}
	return strings.Join(out, ", ")
}

// audited is one instance with what was found.
type audited struct {
	snapshot cf.Snapshot
	facts    audit.Facts
	findings []*audit.Finding
}

func (a *app) audit(ctx context.Context, f auditFlags, profile audit.Profile, res *result) error {
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return err
	}
	a.notAnswered(res, unread)
	var all []audited
	for _, s := range sites {
		one, err := a.auditOne(ctx, s, profile, !f.noHandshakes)
		if err != nil && len(sites) == 1 && unread == nil {
			return err
		}
		if err != nil {
			a.notAnswered(res, err)
			continue
		}
		all = append(all, one)
	}
	return a.showAudit(all, f, profile, res)
}

// auditOne gathers what the rules ask for, side by side, and asks them.
func (a *app) auditOne(ctx context.Context, s *site, profile audit.Profile, handshakes bool) (audited, error) {
	var types []string
	var typesErr error
	var wg sync.WaitGroup
	wg.Go(func() { types, typesErr = s.instance.TableTypes(ctx) })
	snapshot, err := s.engine.MTA.Snapshot(ctx)
	wg.Wait()
	if err == nil {
		err = typesErr
	}
	if err != nil {
		return audited{}, err
	}
	facts := gatherFiles(snapshot, audit.NeedsOf(snapshot))
	facts.TableTypes = types
	if handshakes {
		facts.Greetings = greetings(ctx, snapshot.Listeners(s.engine.Host), prober{s.settings})
	}
	if err := ctx.Err(); err != nil {
		return audited{}, err
	}
	return audited{snapshot, facts, audit.Run(snapshot, facts, profile.Rules())}, nil
}

type findingJSON struct {
	Rule     string         `json:"rule"`
	Severity audit.Severity `json:"severity"`
	Title    string         `json:"title"`
	Message  string         `json:"message"`
	Why      string         `json:"why"`
	Citation string         `json:"citation"`
	Remedy   string         `json:"remedy"`
	Edits    []editJSON     `json:"edits"` // none where somebody has to decide
	At       problem.At     `json:"at"`
}

type leftOutJSON struct {
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

type askedJSON struct {
	Service  string `json:"service"`
	Endpoint string `json:"endpoint"`
	Asked    bool   `json:"asked"` // false: it could not be, and nothing follows from it
	TLS      bool   `json:"tls"`   // TLS was reached
	Before   string `json:"auth_before_tls"`
	Inside   string `json:"auth_inside_tls"`
	Words    string `json:"words"` // why TLS was not reached
}

type auditedJSON struct {
	Instance  string        `json:"instance"`
	Version   string        `json:"version"`
	LeftOut   []leftOutJSON `json:"left_out"` // rules of the profile that are not for this version
	Findings  []findingJSON `json:"findings"`
	Listeners []askedJSON   `json:"listeners"` // empty with --no-handshakes
}

func auditedOf(x audited, profile audit.Profile) auditedJSON {
	j := auditedJSON{Instance: x.snapshot.Dir, Version: x.snapshot.Version, LeftOut: []leftOutJSON{}, Findings: []findingJSON{}, Listeners: askedOf(x)}
	for _, r := range profile.LeftOut(x.snapshot.Version) {
		j.LeftOut = append(j.LeftOut, leftOutJSON{r.ID, r.Retired})
	}
	for _, f := range x.findings {
		v := findingJSON{f.Rule.ID, f.Rule.Severity, f.Rule.Title, f.Message, f.Rule.Why, f.Rule.Cite, f.Advice, []editJSON{}, f.At}
		for _, e := range f.Remedy {
			v.Edits = append(v.Edits, editJSON{e.Service, e.Parameter, e.Old, e.New})
		}
		j.Findings = append(j.Findings, v)
	}
	return j
}

func askedOf(x audited) []askedJSON {
	out := []askedJSON{}
	for _, l := range x.snapshot.Services {
		g, ok := x.facts.Greetings[l.ID()]
		if ok && !slices.ContainsFunc(out, func(o askedJSON) bool { return o.Service == l.ID() }) {
			out = append(out, askedJSON{l.ID(), g.Endpoint, !g.Unknown, g.Failed == "", authOf(g.Before), authOf(g.After), g.Failed})
		}
	}
	return out
}

// authOf is the AUTH line of a reply to EHLO, without the keyword; "" if there is
// none.
func authOf(lines []string) string {
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(strings.ToUpper(l), "AUTH "); ok {
			return rest
		}
	}
	return ""
}

// showAudit says what was found and answers no if anything is bad enough.
func (a *app) showAudit(all []audited, f auditFlags, profile audit.Profile, res *result) error {
	threshold := audit.Severity(f.severity)
	counts := map[audit.Severity]int{audit.Error: 0, audit.Warning: 0, audit.Info: 0}
	instances, bad := []auditedJSON{}, 0
	for _, x := range all {
		instances = append(instances, auditedOf(x, profile))
		for _, y := range x.findings {
			counts[y.Rule.Severity]++
			if y.Rule.Severity.AtLeast(threshold) {
				bad++
			}
		}
	}
	res.add("profile", profile.Name)
	res.add("threshold", threshold)
	res.add("counts", counts)
	res.add("instances", instances)
	if f.sarif {
		res.told = true
		if err := writeSARIF(a.stdout, all, profile); err != nil {
			return fmt.Errorf("writing SARIF: %w", err)
		}
	} else {
		for _, x := range all {
			a.showFindings(x, threshold, profile)
		}
		res.headline = auditHeadline(counts, threshold, bad, profile)
	}
	if bad > 0 {
		return errNo
	}
	return nil
}

// showFindings prints those of one instance, by severity.
func (a *app) showFindings(x audited, threshold audit.Severity, profile audit.Profile) {
	a.text.printf("%s\n", a.text.paint(bold, fmt.Sprintf("%s: Postfix %s, profile %s", x.snapshot.Dir, x.snapshot.Version, profile.Name)))
	colours := map[audit.Severity]string{audit.Error: red, audit.Warning: yellow, audit.Info: faint}
	last := audit.Severity("")
	for _, f := range x.findings {
		if !f.Rule.Severity.AtLeast(threshold) {
			continue
		}
		if f.Rule.Severity != last {
			last = f.Rule.Severity
			a.text.printf("\n%s\n", a.text.paint(colours[last], string(last)))
		}
		a.text.printf("  %s: %s [%s]\n", placeWords(f.At), f.Message, f.Rule.ID)
		if a.flags.verbose > 0 {
			a.text.printf("      %s %s (%s)\n", a.text.paint(faint, "why:"), f.Rule.Why, f.Rule.Cite)
		}
		a.text.printf("      %s %s\n", a.text.paint(faint, "do:"), f.Advice)
	}
	for _, r := range profile.LeftOut(x.snapshot.Version) {
		a.text.printf("\n  left out: %s: %s\n", r.ID, r.Retired)
	}
	for _, g := range askedOf(x) {
		if !g.Asked {
			a.text.printf("\n  not asked: %s: %s\n", g.Service, g.Words)
		}
	}
	a.text.printf("\n")
}

// placeWords is a place as compilers write it.
func placeWords(at problem.At) string {
	if at.Line == 0 {
		return at.File
	}
	return fmt.Sprintf("%s:%d", at.File, at.Line)
}

func auditHeadline(counts map[audit.Severity]int, threshold audit.Severity, bad int, profile audit.Profile) string {
	var parts, hidden []string
	for _, s := range audit.Severities {
		if n := counts[s]; n > 0 && s.AtLeast(threshold) {
			parts = append(parts, counted(n, s))
		} else if n > 0 {
			hidden = append(hidden, counted(n, s))
		}
	}
	more := ""
	if len(hidden) > 0 {
		more = fmt.Sprintf(" Not shown: %s (--severity info).", strings.Join(hidden, ", "))
	}
	if bad == 0 {
		return fmt.Sprintf("ok: nothing of severity %s or worse in profile %s.%s", threshold, profile.Name, more)
	}
	return fmt.Sprintf("NO: %s; nothing was changed.%s", strings.Join(parts, ", "), more)
}

// counted is a number of findings in words.
func counted(n int, s audit.Severity) string {
	if n == 1 || s == audit.Info {
		return fmt.Sprintf("%d %s", n, s)
	}
	return fmt.Sprintf("%d %ss", n, s)
}
