package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/notify"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/verify/problem"
)

// commandPrefix begins the name of a command that is told of.
const commandPrefix = "postcert "

// orderGrace is how long an order may fail before somebody is told, if time can
// mend it and there is a certificate for weeks.
const orderGrace = 24 * time.Hour

// subjects are what may have to be told: the certificates that this process did
// something about, or that its arguments name, all for a pass over all; and the
// command itself, if it failed before it came to one.
func (a *app) subjects(args []string, res *result, st int, problems problem.List) []notify.Subject {
	pass := res.command == "renew" || res.command == "obtain"
	list := slices.Clone(a.touched)
	if pass {
		for _, key := range a.records().Keys() {
			if (len(args) == 0 || slices.Contains(args, key.Name)) && !slices.Contains(list, key) {
				list = append(list, key)
			}
		}
	}
	if len(list) > 0 {
		a.readPast()
	}
	var out []notify.Subject
	for _, d := range list {
		// What cannot be read is not judged; status says so.
		if rec, err := a.records().Read(d.Instance, d.Name); err == nil && rec != nil {
			out = append(out, a.ofRecord(rec))
		}
	}
	for _, p := range a.passed {
		out = append(out, a.ofPass(p, out))
	}
	return append(out, ofCommand(res.command, st, problems, out, a.now())...)
}

// ofRecord is what is known of a certificate on an instance.
func (a *app) ofRecord(rec *status.Record) notify.Subject {
	s := notify.Subject{Instance: rec.Instance, Name: rec.Name}
	now := a.now()
	in := a.inUse(rec)
	switch c, known := ofDeploy(rec, in, now); {
	case !known:
		s.Unknown = append(s.Unknown, notify.Failure)
	case c != nil:
		s.Conditions = append(s.Conditions, *c)
	}
	if c := ofDrift(rec); c != nil {
		s.Conditions = append(s.Conditions, *c)
	}
	switch {
	case in.notAfter.IsZero() && rec.Wanted != "":
		s.Unknown = append(s.Unknown, notify.Expiry)
	case !in.notAfter.IsZero() && in.late(now):
		s.Conditions = append(s.Conditions, in.expiry(rec, now))
	}
	return s
}

// inUse is the certificate that Postfix reads, by what its generation says: no key
// is read for it.
type inUse struct {
	generation          int
	notBefore, notAfter time.Time
}

func (a *app) inUse(rec *status.Record) inUse {
	if rec.Generation < 1 || rec.Installed == "" {
		return inUse{}
	}
	store := generation.Store{FS: atomicfile.OS, Dir: a.generationsDir(), Now: a.now}
	g, err := store.Get(rec.Instance, rec.Name, rec.Generation)
	if err != nil || g.Meta.Fingerprint != rec.Installed {
		return inUse{}
	}
	return inUse{rec.Generation, g.Meta.NotBefore, g.Meta.NotAfter}
}

// late: a fifth of its life is left, or three weeks of a long one. It should have
// been renewed with a third left.
func (c inUse) late(now time.Time) bool {
	return now.After(c.notAfter.Add(-min(c.notAfter.Sub(c.notBefore)/5, 21*24*time.Hour)))
}

// words say what is in use.
func (c inUse) words() string {
	if c.notAfter.IsZero() {
		return ""
	}
	return fmt.Sprintf(" Generation %d is installed, valid until %s UTC.", c.generation, c.notAfter.UTC().Format(time.DateTime))
}

func (c inUse) expiry(rec *status.Record, now time.Time) notify.Condition {
	left := c.notAfter.Sub(now)
	n := notify.Condition{
		Event: notify.Expiry, ID: "cert_expires",
		Headline: fmt.Sprintf("the certificate in use expires in %s", daysWords(left)),
		What:     fmt.Sprintf("The certificate that Postfix uses expires on %s UTC, and no newer one was deployed.", c.notAfter.UTC().Format(time.DateTime)),
		State:    "It is served until then. After it, clients that check certificates no longer deliver or fetch mail here.",
		Do:       "renew it, or find out why its ACME client does not: postcert status, postcert renew; or install another one: postcert install-cert",
	}
	if left <= 0 {
		n.ID, n.Headline = "cert_expired", "the certificate in use EXPIRED on "+c.notAfter.UTC().Format(time.DateOnly)
		n.What = fmt.Sprintf("The certificate that Postfix uses expired on %s UTC, and no newer one was deployed.", c.notAfter.UTC().Format(time.DateTime))
		n.State = "The expired certificate is served. Clients that check certificates do not deliver or fetch mail here."
	}
	if rec.LastError.Message != "" {
		n.What += " The last deploy: " + rec.LastError.Message
	}
	return n
}

func daysWords(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// ofDeploy is what the last deploy says; known is false if it was ended from
// outside, so that it says nothing.
func ofDeploy(rec *status.Record, in inUse, now time.Time) (c *notify.Condition, known bool) {
	e := rec.LastError
	c = &notify.Condition{Event: notify.Failure, ID: e.ID, What: e.Message, Tried: e.Time, Do: remedyOf(e.ID)}
	switch e.Exit {
	case statusOK:
		return nil, true
	case statusBusy, statusInterrupted, statusTerminated:
		return nil, false
	case statusIncomplete:
		c.Event, c.Headline = notify.Incomplete, "ROLLBACK INCOMPLETE, Postfix may serve something else than before"
		c.State = "What Postfix serves now is not known to be what it served before the deploy." + in.words()
		c.Do = "read what stands in the way above and mend it, then: postcert recover --instance " + rec.Instance
	case statusRolledBack:
		c.Event, c.Headline = notify.Rollback, "a deploy was rolled back, the previous certificate is served"
		c.State = "The listeners serve what they served before the deploy; that was proven." + in.words()
	case statusNotVerified:
		c.Headline = "installed, but not every listener could be asked"
		c.State = "The new certificate is in place. Listeners that could not be asked may not be reachable, or Postfix does not run." + in.words()
		c.Do = "see which: postcert status; start Postfix if it does not run: postfix start"
	default:
		c.Headline = "a deploy failed, the previous certificate is served"
		c.State = "Nothing was changed: Postfix serves what it served before." + in.words()
	}
	if e.ID != "" {
		c.Headline += " (" + e.ID + ")"
	}
	lasting := rec.Retry != "" || rec.Wanted != rec.Installed || e.Exit == statusIncomplete || e.Exit == statusNotVerified
	c.Once = !lasting
	switch at := rec.RetryAt(now); {
	case !at.IsZero():
		c.Do = strings.TrimSpace(c.Do + "\nIt is tried again at " + at.UTC().Format(time.DateTime) + " UTC, or at once by: postcert renew " + rec.Name)
	case rec.Refused != nil:
		c.Do = strings.TrimSpace(c.Do + "\nIt is tried again when the files or the configuration change.")
	}
	return c, true
}

// remedyOf is what to do about a problem of which only the id is remembered.
func remedyOf(id string) string {
	text := remedy(problem.Problem{ID: id})
	if strings.ContainsRune(remedies[id], '{') {
		return "see where, and what to do: postcert status"
	}
	return text
}

// ofDrift is how what is there differs from what was proven.
func ofDrift(rec *status.Record) *notify.Condition {
	if rec.Drift == nil || len(rec.Drift.Differences) == 0 {
		return nil
	}
	first := rec.Drift.Differences[0]
	var what []string
	for _, d := range rec.Drift.Differences[:min(len(rec.Drift.Differences), 10)] {
		what = append(what, d.Words)
	}
	return &notify.Condition{
		Event: notify.Drift, ID: first.ID, Since: rec.Drift.Since,
		Headline: "what is there is not what was deployed (" + first.ID + ")",
		What:     strings.Join(what, "\n"),
		State:    "Somebody, or something, changed it since it was proven; postcert changed nothing.",
		Do:       "if it was not meant, put it back, or let it be done: postcert install-cert with the same pair; to keep it: postcert release " + rec.Name,
	}
}

// ofPass is what is known of a certificate before it comes to an instance: its
// order, or the files of another client. others are what its instances say.
func (a *app) ofPass(p passed, others []notify.Subject) notify.Subject {
	s := notify.Subject{Name: p.wish.name}
	now := a.now()
	if p.wish.source == config.SourceACME {
		m, err := a.manager()
		if err != nil {
			return s
		}
		if st, err := m.StateOf(p.wish.spec); err == nil {
			if c := ofOrder(p.wish.name, st, acme.Next(p.wish.spec, st, st.Current, now), now); c != nil {
				s.Conditions = []notify.Condition{*c}
				return s
			}
		}
	}
	said := slices.ContainsFunc(others, func(o notify.Subject) bool {
		return o.Name == s.Name && (len(o.Conditions) > 0 || slices.Contains(o.Unknown, notify.Failure))
	})
	st, problems := advise(p.err)
	if st == statusUsage {
		st = statusRefused // not what a person typed, but a configuration that no longer fits
	}
	c := failedBefore("it cannot be deployed", st, problems)
	switch {
	case said || st == statusCA || st > 128 || st == statusBusy:
		s.Unknown = []notify.Event{notify.Failure}
	case c != nil:
		s.Conditions = []notify.Condition{*c}
	}
	return s
}

// ofOrder is an order that fails. What time can mend gets a day, as long as the
// certificate that there is leaves it.
func ofOrder(name string, st acme.State, d acme.Decision, now time.Time) *notify.Condition {
	if st.Failures == 0 || st.Class == acme.ClassPending || st.Class == acme.ClassCanceled {
		return nil
	}
	c := &notify.Condition{
		Event: notify.Failure, ID: "order_" + string(st.Class), Grace: orderGrace,
		Headline: "it cannot be obtained: " + orText(heldWords[string(st.Class)], string(st.Class)),
		What:     st.LastError,
		State:    "There is no certificate of this name yet.",
		Do:       "read the reason above; then try it at once: postcert renew " + name,
	}
	if st.Current != nil {
		c.Headline = "it cannot be renewed: " + orText(heldWords[string(st.Class)], string(st.Class))
		c.State = fmt.Sprintf("The present certificate is kept and served. It is valid until %s UTC.", st.Current.NotAfter.UTC().Format(time.DateTime))
	}
	if !d.Attempt.IsZero() {
		c.Do += fmt.Sprintf("\nBy itself it is tried again at %s UTC.", d.Attempt.UTC().Format(time.DateTime))
	}
	switch st.Class {
	case acme.ClassNetwork, acme.ClassRateLimited, acme.ClassValidation, acme.ClassReplaces:
	default: // only a person can mend it
		c.Grace = 0
	}
	if st.Current == nil || d.Warning || d.Critical || now.After(st.Current.NotAfter) {
		c.Grace = 0
	}
	return c
}

// ofCommand is a command that failed without there being a certificate to tell it
// of, such as an install from files that cannot be read. It is over when the
// command succeeds; of a hook that had nothing to do nobody knows.
func ofCommand(command string, st int, problems problem.List, others []notify.Subject, now time.Time) []notify.Subject {
	s := notify.Subject{Name: commandPrefix + command}
	if st == statusOK {
		if len(others) == 0 && command != "renew" && command != "recover" {
			return nil
		}
		return []notify.Subject{s}
	}
	said := slices.ContainsFunc(others, func(o notify.Subject) bool {
		return len(o.Conditions) > 0 || slices.Contains(o.Unknown, notify.Failure)
	})
	c := failedBefore("postcert "+command+" failed", st, problems)
	if said || c == nil {
		return nil
	}
	if command == "recover" && c.Event == notify.Failure {
		c.Headline = "postcert recover failed, an interrupted deploy may still be open (" + c.ID + ")"
		c.State = "It is not known whether Postfix serves what it served before that deploy, or what the deploy was to install; see: postcert status"
	}
	c.Once, c.Tried = c.Event == notify.Failure, now
	s.Conditions = []notify.Condition{*c}
	return []notify.Subject{s}
}

// ofConfig is a configuration that cannot be used.
func ofConfig(file string, problems problem.List) notify.Subject {
	s := notify.Subject{Name: configName}
	errs := problems.Errors()
	if len(errs) == 0 {
		return s
	}
	s.Conditions = []notify.Condition{{
		Event: notify.Failure, ID: errs[0].ID,
		Headline: "the configuration cannot be used, nothing is renewed or deployed (" + errs[0].ID + ")",
		What:     errs.Error(),
		State:    "Nothing was changed: Postfix serves what it served before.",
		Do:       "mend it: " + file + "; ask whether it is right: postcert config check " + file + "; then: postcert renew",
	}}
	return s
}

// failedBefore is what ended, with this status, before it came to a deploy; nil if
// nobody must be told: it went well, it was a question or not understood, somebody
// stopped it, or another run was at work.
func failedBefore(words string, st int, problems problem.List) *notify.Condition {
	errs := problems.Errors()
	switch st {
	case statusFailed, statusRefused, statusRolledBack, statusIncomplete, statusNotVerified, statusCA:
	default:
		return nil
	}
	if len(errs) == 0 {
		return nil
	}
	c := &notify.Condition{
		Event: notify.Failure, ID: errs[0].ID, What: errs[0].Message, Do: orText(errs[0].Remedy, remedy(errs[0])),
		Headline: words + ", the previous certificate is served (" + errs[0].ID + ")",
		State:    "Nothing was changed: Postfix serves what it served before.",
	}
	if st == statusIncomplete {
		c.Event, c.Headline = notify.Incomplete, "ROLLBACK INCOMPLETE, Postfix may serve something else than before"
		c.State = "What Postfix serves now is not known to be what it served before."
		c.Do = "mend what is named above, then: postcert recover"
	}
	return c
}
