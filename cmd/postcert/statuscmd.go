package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status [NAME]", Short: "compare what is wanted, installed and served", Long: statusHelp, Example: statusExample,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.status(ctx, args, res)
		}),
	}
}

type servedJSON struct {
	Instance  string         `json:"instance"`
	Name      string         `json:"name"`
	Agrees    bool           `json:"agrees"`
	Record    *status.Record `json:"record"`
	Installed installedJSON  `json:"installed"`
	Listeners []observedJSON `json:"listeners"`
}

type installedJSON struct {
	Generation int              `json:"generation"`
	File       string           `json:"file"`
	Current    *certificateJSON `json:"certificate"`
}

func (a *app) status(ctx context.Context, args []string, res *result) error {
	sites, err := a.instances(ctx)
	if err != nil {
		return err
	}
	var all []servedJSON
	for _, s := range sites {
		some, err := a.siteStates(ctx, s, first(args), res)
		if err != nil {
			return err
		}
		all = append(all, some...)
	}
	res.add("certificates", emptyNotNull(all))
	orders, late := a.orderStates(first(args), res)
	res.add("orders", orders)
	switch {
	case len(all) == 0 && len(orders) > 0:
		res.headline = "nothing of what is to be obtained is installed yet. Obtain it: postcert obtain"
		return errNo
	case len(args) == 1 && len(all) == 0:
		return refuse("name_unknown", problem.At{}, "no certificate %q is installed here", args[0])
	case len(all) == 0:
		res.headline = "nothing is installed by postcert yet. Begin with: postcert install-cert --help"
		return errNo
	case slices.ContainsFunc(all, func(v servedJSON) bool { return !v.Agrees }):
		return errNo
	case late:
		res.headline = "what is installed is served on every listener, but its renewal is late."
		return errNo
	}
	res.headline = "wanted, installed and served agree on every listener."
	return nil
}

// siteStates are the certificates of one instance, or the one that is named:
// those that Postfix reads from our directory, and those that are wanted and
// that it does not read.
func (a *app) siteStates(ctx context.Context, s *site, name string, res *result) ([]servedJSON, error) {
	states, err := s.engine.States(ctx)
	if err != nil {
		return nil, err
	}
	records, err := a.records().List(s.instance.ConfigDirectory)
	if err != nil {
		res.problem(problem.Warn("record_unreadable", problem.At{}, "what is remembered of a certificate cannot be read: %v", err))
	}
	var out []servedJSON
	for _, st := range states {
		i := slices.IndexFunc(records, func(r *status.Record) bool { return r.Name == st.Name })
		var rec *status.Record
		if i >= 0 {
			rec = records[i]
			records = slices.Delete(records, i, i+1)
		}
		if name == "" || name == st.Name {
			out = append(out, a.showState(s, st, rec, res))
		}
	}
	for _, rec := range records {
		if rec.Wanted != "" && (name == "" || name == rec.Name) {
			out = append(out, a.showMissing(rec, res))
		}
	}
	return out, nil
}

// showMissing is about a certificate that was asked for and that no parameter
// names: its first install did not succeed, or somebody edited main.cf since.
func (a *app) showMissing(rec *status.Record, res *result) servedJSON {
	a.text.printf("%s  %s\n", a.text.paint(bold, rec.Name), a.text.paint(faint, rec.Instance))
	a.text.printf("  last         %s\n", rec.Words())
	why := "no parameter in main.cf or master.cf names its file any more"
	if rec.LastError.Message != "" {
		why = rec.LastError.Message
	}
	res.problems = append(res.problems, problem.New("wanted_not_installed", problem.At{File: rec.Instance},
		"the certificate %s, wanted since %s, is not installed: %s", rec.Name, rec.WantedSince.UTC().Format(time.DateTime), why))
	return servedJSON{Instance: rec.Instance, Name: rec.Name, Record: rec, Listeners: []observedJSON{}}
}

// showState prints one certificate's state and says what disagrees.
func (a *app) showState(s *site, st deploy.State, rec *status.Record, res *result) servedJSON {
	v := servedJSON{Instance: s.instance.ConfigDirectory, Name: st.Name, Agrees: true, Record: rec, Listeners: []observedJSON{},
		Installed: installedJSON{Generation: st.Generation, File: st.File, Current: certificateOf(st.Pair)}}
	no := func(id, format string, args ...any) {
		v.Agrees = false
		res.problems = append(res.problems, problem.New(id, problem.At{File: st.File}, format, args...))
	}
	a.text.printf("%s  %s\n", a.text.paint(bold, st.Name), a.text.paint(faint, s.instance.ConfigDirectory))
	switch {
	case st.Pair.IsZero():
		no("installed_unreadable", "the installed file cannot be read: %v", st.Err)
	default:
		a.showCertificate(st.Pair)
		a.text.printf("               generation %s, %s\n", generationWords(st.Generation), bar(st.Pair.Leaf().NotBefore, st.Pair.Leaf().NotAfter, a.now()))
		if a.now().After(st.Pair.Leaf().NotAfter) {
			no("cert_expired", "the installed certificate expired on %s", st.Pair.Leaf().NotAfter.UTC().Format(time.DateOnly))
		}
	}
	if rec != nil && rec.Wanted != "" && !st.Pair.IsZero() && rec.Wanted != st.Pair.Fingerprint() {
		no("wanted_not_installed", "the certificate wanted since %s (%s…) is not the installed one: %s",
			rec.WantedSince.UTC().Format(time.DateTime), rec.Wanted[:16], rec.LastError.Message)
	}
	if rec != nil && rec.Retry != "" && rec.Retry != rec.Wanted {
		no("issued_not_installed", "the certificate that was obtained last (%s…) is not installed: %s; next attempt at %s UTC",
			rec.Retry[:16], rec.LastError.Message, rec.RetryAt(a.now()).UTC().Format(time.DateTime))
	}
	if st.Open {
		no("transaction_open", "a change was interrupted and is not settled")
	}
	if !st.Running {
		no("not_running", "Postfix is not running")
	}
	a.showObservations(st.Listeners)
	for _, o := range st.Listeners {
		v.Listeners = append(v.Listeners, observedOf(o))
		if o.Verdict != probe.Proven && !o.Expectation.Ignore {
			no("served_differs", "%s on %s: %s", o.Expectation.Listener.ID(), o.Expectation.Endpoint.Address, o.Words())
		}
	}
	if rec != nil {
		a.text.printf("  last         %s\n", rec.Words())
		if at := rec.RetryAt(a.now()); !at.IsZero() {
			a.text.printf("  next deploy  %s UTC\n", at.UTC().Format(time.DateTime))
		}
	}
	return v
}

// orderJSON is what is to be ordered of one certificate, and when.
type orderJSON struct {
	Name      string   `json:"name"`
	Obtained  string   `json:"obtained"` // fingerprint of the live certificate; "" if there is none
	LastError string   `json:"last_error"`
	Next      nextJSON `json:"next"`
}

// orderStates are the certificates that we order ourselves; late tells that one of
// them is not going to be renewed in time. No CA is asked.
func (a *app) orderStates(name string, res *result) (out []orderJSON, late bool) {
	out = []orderJSON{}
	var names []string
	if name != "" {
		names = []string{name}
	}
	list, err := a.wishes(names)
	a.blame(res, err)
	for _, w := range list {
		if w.source != config.SourceACME {
			continue
		}
		m, err := a.manager()
		if err != nil {
			a.blame(res, err)
			return out, late
		}
		st, err := m.StateOf(w.spec)
		if err != nil {
			a.blame(res, err)
			continue
		}
		d := acme.Next(w.spec, st, st.Current, a.now())
		v := orderJSON{Name: w.name, LastError: st.LastError, Next: nextOf(d)}
		if st.Current != nil {
			v.Obtained = st.Current.SHA256
		}
		out = append(out, v)
		late = late || d.Critical
		a.alarm(w, st, d, res)
		a.text.printf("%s  next order %s\n", a.text.paint(bold, w.name), v.Next.words())
		if st.LastError != "" {
			a.text.printf("  last failure %s\n", st.LastError)
		}
	}
	return out, late
}

func generationWords(n int) string {
	if n == 0 {
		return "unknown"
	}
	return fmt.Sprint(n)
}

// bar draws the used part of a lifetime.
func bar(from, until, now time.Time) string {
	const width = 20
	used := float64(now.Sub(from)) / float64(until.Sub(from))
	n := min(max(int(used*width+0.5), 0), width)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "] " + fmt.Sprintf("%.0f %% of its lifetime used", min(max(used, 0), 1)*100)
}
