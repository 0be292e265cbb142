package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/verify/problem"
)

// certView is what people are told of one certificate, or what a monitor is. It
// holds no certificate and no clock, so that what is said of it can be tested.
type certView struct {
	name, instance string
	names          []string // that it is for
	issuer         string
	generation     int
	life           life // zero: nothing is installed
	listeners      []listenerView
	notAsked       string // why no listener was
	problems       problem.List
	last, next     eventView
}

// listenerView is one listener, and what it presents.
type listenerView struct {
	service, address, asked string // asked is the server name, "" if it makes no difference
	names, issuer           string // "" if nothing was presented
	life                    life
	verdict                 string
	level                   level
}

// eventView is what happened last, or happens next by itself.
type eventView struct {
	at    time.Time // zero: not at a time that is known
	words string
}

func (e eventView) say(now time.Time) string {
	if e.at.IsZero() {
		return e.words
	}
	return when(e.at, now) + ": " + e.words
}

func (v *certView) agrees() bool {
	return len(v.problems.Errors()) == 0 && !v.problems.Has("change_running")
}

// few is up to how many certificates each gets a paragraph; more of those that are
// as they should be share a table, unless more is asked for.
const few = 3

// showStatus prints certificates, those with problems first, then by their end.
func (a *app) showStatus(all []*certView, now time.Time) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(x, y *certView) int { return cmp.Or(rank(x)-rank(y), x.life.until.Compare(y.life.until)) })
	tb := &table{head: []string{"certificate", "left", "until", "issuer", "listeners", "last", "next"}}
	for _, v := range all {
		if len(all) > few && a.flags.verbose == 0 && len(v.problems) == 0 {
			tb.add(green, v.name, v.life.bar(now, 10)+" "+strings.TrimSuffix(v.life.left(now), " left"), v.life.until.UTC().Format(time.DateOnly), shorten(v.issuer, 20),
				fmt.Sprint(len(addresses(v.listeners))), v.last.at.UTC().Format(time.DateOnly), nextShort(v.next))
			continue
		}
		a.showCert(v, now)
	}
	if len(tb.rows) > 0 {
		a.text.printf("\n")
		a.text.table(tb)
	}
}

func rank(v *certView) int {
	switch {
	case !v.agrees():
		return 0
	case len(v.problems) > 0:
		return 1
	}
	return 2
}

func nextShort(e eventView) string {
	if e.at.IsZero() {
		return "-"
	}
	return e.at.UTC().Format(time.DateOnly)
}

func addresses(list []listenerView) []string {
	var out []string
	for _, l := range list {
		if !slices.Contains(out, l.address) {
			out = append(out, l.address)
		}
	}
	return out
}

// showCert prints one certificate: first what is wrong.
func (a *app) showCert(v *certView, now time.Time) {
	t := a.text
	t.printf("\n%s  %s\n", t.paint(bold, v.name), t.paint(faint, v.instance))
	for _, p := range grouped(v.problems) {
		a.showProblem(p)
	}
	if !v.life.until.IsZero() {
		t.printf("  names        %s\n", shorten(strings.Join(v.names, ", "), 80))
		t.printf("  installed    generation %s, by %s\n", generationWords(v.generation), v.issuer)
		t.printf("  left         %s %s, until %s\n", t.paint(v.life.level(now).colour(), v.life.bar(now, 20)), v.life.left(now), v.life.until.UTC().Format("2006-01-02 15:04 UTC"))
	}
	if v.notAsked != "" {
		t.printf("  served       not asked: %s\n", v.notAsked)
	}
	a.showListeners(v.listeners, now)
	if v.last.words != "" {
		t.printf("  last         %s\n", shorten(v.last.say(now), 118))
	}
	if v.next.words != "" {
		t.printf("  next         %s\n", v.next.say(now))
	}
}

// grouped are problems of which those that are the same of several listeners are one.
// The table below them has the listeners.
func grouped(list problem.List) problem.List {
	var out problem.List
	more := map[string]int{}
	key := func(p problem.Problem) string {
		_, what, _ := strings.Cut(p.Message, ": ")
		return p.ID + what
	}
	for _, p := range list {
		if p.ID != "served_differs" {
			out = append(out, p)
			continue
		}
		if more[key(p)]++; more[key(p)] == 1 {
			out = append(out, p)
		}
	}
	for i, p := range out {
		if n := more[key(p)] - 1; n > 0 {
			where, what, _ := strings.Cut(p.Message, ": ")
			out[i].Message = fmt.Sprintf("%s and %s: %s", where, plural(n, "other listener"), what)
		}
	}
	return out
}

func (a *app) showProblem(p problem.Problem) {
	word, colour := "ERROR  ", red
	if p.Severity == problem.Warning {
		word, colour = "warning", yellow
	}
	a.text.printf("  %s      %s [%s]\n", a.text.paint(colour, word), p.Message, p.ID)
	if p = remedied(problem.List{p})[0]; p.Remedy != "" {
		a.text.printf("               %s %s\n", a.text.paint(faint, "do:"), p.Remedy)
	}
}

func (a *app) showListeners(list []listenerView, now time.Time) {
	if len(list) == 0 {
		return
	}
	asked := slices.ContainsFunc(list, func(l listenerView) bool { return l.asked != "" })
	tb := &table{head: []string{"listener", "address", "serves", "left", "until", "issuer", "installed"}}
	if asked {
		tb.head = slices.Insert(tb.head, 2, "asked for")
	}
	for _, l := range list {
		left, until := "-", "-"
		if !l.life.until.IsZero() {
			left, until = l.life.bar(now, 8)+" "+strings.TrimSuffix(l.life.left(now), " left"), l.life.until.UTC().Format(time.DateOnly)
		}
		row := []string{l.service, l.address, orText(shorten(l.names, 32), "-"), left, until, orText(shorten(l.issuer, 20), "-"), l.verdict}
		if asked {
			row = slices.Insert(row, 2, orText(l.asked, "any name"))
		}
		tb.add(l.level.colour(), row...)
	}
	a.text.printf("\n")
	a.text.table(tb)
	a.text.printf("\n")
}
