package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/problem"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "compare what is wanted, installed and served", Long: statusHelp, Example: statusExample,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.status(ctx, args, res)
		}),
	}
	cmd.Flags().BoolVar(&a.flags.nagios, "nagios", false, "one line and an exit status (0, 1, 2, 3) for Nagios, Icinga and the like")
	return cmd
}

type servedJSON struct {
	Instance  string         `json:"instance"`
	Name      string         `json:"name"`
	Agrees    bool           `json:"agrees"`
	Record    *status.Record `json:"record"`
	Installed installedJSON  `json:"installed"`
	Listeners []observedJSON `json:"listeners"`
	Level     string         `json:"level"` // ok, warning, critical, unknown: as --nagios has it
	Last      eventJSON      `json:"last_event"`
	Next      eventJSON      `json:"next_event"` // that happens by itself
}

type eventJSON struct {
	Time  *time.Time `json:"time,omitempty"`
	Words string     `json:"words"`
}

type installedJSON struct {
	Generation int              `json:"generation"`
	File       string           `json:"file"`
	Current    *certificateJSON `json:"certificate"`
}

func (e eventView) json() eventJSON { return eventJSON{Time: instant(e.at), Words: e.words} }

// certStatus is one certificate, for programs and for people.
type certStatus struct {
	json servedJSON
	view *certView
}

func (a *app) status(ctx context.Context, args []string, res *result) error {
	if a.flags.nagios && a.flags.json {
		return usagef("--nagios and --json exclude each other")
	}
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return err
	}
	a.notAnswered(res, unread)
	a.readPast()
	orders, late := a.orderStates(first(args), res)
	var all []certStatus
	for _, s := range sites {
		some, err := a.siteStates(ctx, s, first(args), orders, res)
		if err != nil && len(sites) == 1 && unread == nil {
			return err
		}
		a.notAnswered(res, err) // and does not hide the other instances
		all = append(all, some...)
	}
	bad := 0
	shown, views := []servedJSON{}, []*certView{}
	for _, v := range all {
		shown, views = append(shown, v.json), append(views, v.view)
		if !v.json.Agrees {
			bad++
		}
	}
	res.views = views
	res.add("certificates", shown)
	res.add("orders", orders)
	a.staleSources(first(args), res)
	err = a.statusHeadline(first(args), views, bad, orders, late, res)
	if problem.From(err) == nil {
		a.showAll(all, orders, res)
	}
	return err
}

// notAnswered adds that one instance of several cannot be asked: then the answer is
// no, whatever the others say.
func (a *app) notAnswered(res *result, err error) {
	if err == nil {
		return
	}
	_, problems := advise(err)
	for _, p := range problems {
		res.problem(p)
	}
	res.status = statusNo
}

// statusHeadline is the answer in one line.
func (a *app) statusHeadline(name string, views []*certView, bad int, orders []orderJSON, late bool, res *result) error {
	all := len(views)
	switch {
	case res.status != statusOK && bad == 0:
		res.headline = "NO: not everything could be asked."
		return errNo
	case all == 0 && len(orders) > 0:
		res.headline = "NO: nothing of what is to be obtained is installed yet. Obtain it: postcert obtain"
		return errNo
	case name != "" && all == 0:
		return refuse("name_unknown", problem.At{}, "no certificate %q is installed here", name)
	case all == 0:
		res.headline = "NO: nothing is installed by postcert yet. See what is served now: postcert probe. Begin with: postcert install-cert --help"
		return errNo
	case bad > 0:
		res.headline = fmt.Sprintf("NO: %d of %d certificates not as they should be.", bad, all)
		if all == 1 {
			res.headline = fmt.Sprintf("NO: %s is not as it should be.", views[0].name)
		}
		return errNo
	case late:
		res.headline = "NO: what is installed is served on every listener, but its renewal is late."
		return errNo
	}
	res.headline = "ok: wanted, installed and served agree on every listener."
	return nil
}

// showAll prints the answer first, then what is wrong, then the rest. A quiet
// command says only what is wrong, at its end, as all commands do.
func (a *app) showAll(all []certStatus, orders []orderJSON, res *result) {
	if a.text.quiet || a.flags.nagios {
		return
	}
	res.told = true
	now := a.now()
	var views []*certView
	of := map[string]bool{}
	var told problem.List
	for _, v := range all {
		views = append(views, v.view)
		of[v.view.name] = true
		told = append(told, v.view.problems...)
	}
	a.text.printf("%s\n", a.text.paint(bold, res.headline))
	for _, p := range res.problems {
		if !slices.ContainsFunc(told, func(q problem.Problem) bool { return q.ID == p.ID && q.Message == p.Message }) {
			a.showProblem(p)
		}
	}
	a.showStatus(views, now)
	for _, o := range orders {
		if of[o.Name] {
			continue
		}
		a.text.printf("\n%s  %s\n", a.text.paint(bold, o.Name), a.text.paint(faint, "not installed"))
		if o.LastError != "" {
			a.text.printf("  last failure %s\n", o.LastError)
		}
		a.text.printf("  next order %s\n", o.Next.words())
	}
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
	}
	return out, late
}

func generationWords(n int) string {
	if n == 0 {
		return "unknown"
	}
	return fmt.Sprint(n)
}
