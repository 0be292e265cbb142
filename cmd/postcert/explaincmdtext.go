package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"postcert/verify/maillog"
)

// effectWords are what a table calls an effect, and its colour.
var effectWords = map[maillog.Effect]struct{ words, colour string }{
	maillog.MailStopped: {"service stopped", red},
	maillog.TLSOff:      {"TLS off", red},
	maillog.MailDelayed: {"mail may wait", yellow},
	maillog.Weaker:      {"less than asked", yellow},
	maillog.PeerFailed:  {"one session", plain},
	maillog.None:        {"as it should be", green},
}

// lineWidth is where explanations are broken.
const lineWidth = 78

// sayKind prints what a kind of line means.
func (a *app) sayKind(k maillog.Kind) {
	a.text.printf("%s\n", wrapped("  ", "  ", k.Means))
	for _, part := range [][2]string{{"now", k.Now}, {"do", k.Do}, {"see", k.Source}} {
		a.text.printf("%s\n", wrapped(fmt.Sprintf("  %-5s", part[0]+":"), strings.Repeat(" ", 7), part[1]))
	}
}

// wrapped breaks text at spaces. A word that is too long stays whole, so that
// commands can be copied.
func wrapped(first, rest, text string) string {
	var out strings.Builder
	line := first
	empty := true // nothing is on the line yet
	for _, word := range strings.Fields(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > lineWidth {
			out.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	return out.String() + line
}

type countJSON struct {
	Service string         `json:"service"`
	Kind    string         `json:"kind"`
	Effect  maillog.Effect `json:"effect"`
	Count   int            `json:"count"`
	First   *time.Time     `json:"first,omitempty"`
	Last    *time.Time     `json:"last,omitempty"`
	Example string         `json:"example"`
}

type logTallyJSON struct {
	Source   string      `json:"source"` // a path, "journal" or "standard input"
	Instance string      `json:"instance"`
	Since    *time.Time  `json:"since,omitempty"` // absent: all
	Why      string      `json:"since_why"`
	From     *time.Time  `json:"from,omitempty"` // of the oldest line in the log
	Unread   []string    `json:"unread,omitempty"`
	Lines    int         `json:"lines"`
	Known    int         `json:"known"`
	Counts   []countJSON `json:"counts"`
	Unknown  []countJSON `json:"unknown"` // about TLS, and not known
}

func (t *logTally) json() logTallyJSON {
	j := logTallyJSON{
		Source: t.source, Instance: t.instance, Since: instantUTC(t.since), Why: t.why, From: instantUTC(t.from), Unread: t.unread,
		Lines: t.lines, Known: t.known, Counts: []countJSON{}, Unknown: []countJSON{},
	}
	for _, c := range t.sorted() {
		j.Counts = append(j.Counts, c.json(t.kinds[c.key.kind].Effect))
	}
	for _, c := range t.mostUnknown() {
		j.Unknown = append(j.Unknown, c.json(""))
	}
	return j
}

func (c *count) json(e maillog.Effect) countJSON {
	return countJSON{c.key.service, c.key.kind, e, c.n, instantUTC(c.first), instantUTC(c.last), c.example}
}

// instantUTC is a time for JSON, nil if it is not known.
func instantUTC(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// sayTallies prints what was counted, and explains each kind once.
func (a *app) sayTallies(all []*logTally, res *result) {
	logs, kinds := []logTallyJSON{}, []kindJSON{}
	seen := map[string]bool{}
	var order []maillog.Kind
	for _, t := range all {
		logs = append(logs, t.json())
		a.text.printf("%s\n", t.heading())
		tb := &table{head: []string{"service", "count", "last", "kind", "effect"}}
		for _, c := range t.sorted() {
			k := t.kinds[c.key.kind]
			e := effectWords[k.Effect]
			tb.add(e.colour, c.key.service, fmt.Sprint(c.n), stampWords(c.last), k.ID, e.words)
			if !seen[k.ID] {
				seen[k.ID] = true
				order = append(order, k)
				kinds = append(kinds, kindOf(k))
			}
		}
		a.text.table(tb)
		a.sayUnknown(t)
	}
	res.add("logs", logs)
	res.add("kinds", kinds)
	for _, k := range order {
		if k.Effect != maillog.None || a.flags.verbose > 0 {
			a.text.printf("\n%s\n", a.text.paint(bold, k.ID))
			a.sayKind(k)
		}
	}
	if len(order) > 0 {
		a.text.printf("\n")
	}
}

// heading says what was read.
func (t *logTally) heading() string {
	words := t.source
	if t.instance != "" {
		words += " (" + t.instance + ")"
	}
	if !t.since.IsZero() {
		words += " since " + stampWords(t.since)
		if t.why != "asked for" {
			words += ", the last " + t.why
		}
	}
	words += fmt.Sprintf(": %d lines, %d known.", t.lines, t.known)
	if !t.since.IsZero() && t.from.After(t.since.Add(time.Second)) {
		words += " The log begins only at " + stampWords(t.from) + "."
	}
	if len(t.unread) > 0 {
		words += " Not read to its end: " + strings.Join(t.unread, "; ") + "."
	}
	return words
}

// shownUnknown is how many unknown lines are printed; JSON has all.
const shownUnknown = 5

func (a *app) sayUnknown(t *logTally) {
	list := t.mostUnknown()
	if len(list) == 0 {
		return
	}
	a.text.printf("  About TLS, and not known, so nothing is said about them:\n")
	for i, c := range list {
		if i == shownUnknown {
			a.text.printf("  and %d more kinds; --json has them\n", len(list)-i)
			break
		}
		a.text.printf("  %6d  %s\n", c.n, shorten(c.example, 120))
	}
}

func stampWords(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}
