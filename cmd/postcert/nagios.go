package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcert/verify/problem"
)

// The answer of "status --nagios" follows the Monitoring Plugins Development
// Guidelines (https://www.monitoring-plugins.org/doc/guidelines.html): one line,
// "POSTCERT WORD - message | performance data", and the exit status 0, 1, 2 or 3.

// maxLine is the longest line that is printed; Nagios reads 4 KB (section 2.3), and
// NRPE of before version 3 passes on 1 KB.
const maxLine = 4000

// most is how many problems are told in the line.
const most = 4

// level is how bad it is: a problem is critical, a warning a warning, and one that
// says that nothing could be found out is unknown.
func (v *certView) level(now time.Time) level {
	out := levelOK
	if !v.life.until.IsZero() {
		out = v.life.level(now)
	}
	for _, l := range v.listeners {
		out = max(out, l.level)
	}
	for _, p := range v.problems {
		out = max(out, levelOf(p))
	}
	return out
}

func levelOf(p problem.Problem) level {
	if p.Severity == problem.Warning {
		return levelWarning
	}
	return levelCritical
}

// nagiosLine is the answer to a monitor. err is why there is none.
func nagiosLine(res *result, err error, now time.Time) (string, level) {
	status, problems := advise(err)
	if err != nil && status != statusNo && status != statusNotVerified {
		id := "failed"
		if e := problems.Errors(); len(e) > 0 {
			id = e[0].ID
		}
		if id == "name_unknown" {
			return oneLine(levelCritical, problems.Errors()[0].Message, nil), levelCritical
		}
		return oneLine(levelUnknown, fmt.Sprintf("%v [%s]", firstError(err, problems), id), nil), levelUnknown
	}
	worst := levelOK
	if err != nil && len(res.problems) == 0 {
		worst = levelCritical // nothing is installed
	}
	var words []string
	all := grouped(res.problems)
	slices.SortStableFunc(all, func(p, q problem.Problem) int { return int(levelOf(q)) - int(levelOf(p)) })
	for _, p := range all {
		worst = max(worst, levelOf(p))
		words = append(words, p.Message+" ["+p.ID+"]")
	}
	for _, v := range res.views {
		worst = max(worst, v.level(now))
	}
	if n := len(words) - most; n > 0 {
		words = append(words[:most], fmt.Sprintf("and %s", plural(n, "more problem")))
	}
	if len(words) == 0 {
		words = []string{strings.TrimPrefix(res.headline, "NO: ")}
	}
	if len(all) == 0 && len(res.views) > 0 {
		words = []string{goodWords(res.views, now)}
	}
	return oneLine(worst, strings.Join(words, "; "), perfdata(res.views, now)), worst
}

func firstError(err error, l problem.List) error {
	if e := l.Errors(); len(e) > 0 {
		return e[0]
	}
	return err
}

// goodWords say how many certificates are as they should be, and which is the next
// to expire.
func goodWords(views []*certView, now time.Time) string {
	next, listeners := views[0], 0
	for _, v := range views {
		listeners += len(addresses(v.listeners))
		if v.life.until.Before(next.life.until) {
			next = v
		}
	}
	certs := "1 certificate"
	if len(views) > 1 {
		certs = fmt.Sprintf("%d certificates", len(views))
	}
	return fmt.Sprintf("%s served and proven on %d listeners; %s has %s", certs, listeners, next.name, next.life.left(now))
}

// oneLine puts the parts together. What is in the message comes from certificates,
// servers and files too: it can neither end the line nor begin the other part.
func oneLine(l level, message string, perf []string) string {
	word := []string{"OK", "WARNING", "UNKNOWN", "CRITICAL"}[l]
	data := strings.Join(perf, " ")
	message = clean(message)
	if room := maxLine - len(data) - len("POSTCERT CRITICAL -  | "); len(message) > room {
		message = strings.ToValidUTF8(message[:max(room-3, 0)], "") + "..."
	}
	line := "POSTCERT " + word + " - " + message
	if data != "" {
		line += " | " + data
	}
	return line
}

// clean makes one line of a text, without the character that ends the message.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '|':
			return '/'
		case r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 || r == 0x85:
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// perfdata are the days that are left (section 2.6): of each certificate that is
// installed, and of what each listener presents, with the alarms as ranges below
// which it is raised, and the whole life as the most. Where that is too much for a
// line, the listeners are left out, then the certificates that live longest.
func perfdata(views []*certView, now time.Time) []string {
	var certs, all []string
	room := maxLine * 3 / 4
	for _, v := range slices.SortedStableFunc(slices.Values(views), func(x, y *certView) int { return x.life.until.Compare(y.life.until) }) {
		name := shorten(clean(v.name), 100)
		if slices.ContainsFunc(views, func(w *certView) bool { return w != v && w.name == v.name }) {
			name += " " + v.instance
		}
		if !v.life.until.IsZero() {
			item := days(name, v.life, now)
			if room -= len(item) + 1; room > 0 {
				certs = append(certs, item)
			}
			all = append(all, item)
		}
		for _, addr := range addresses(v.listeners) {
			if l, ok := shortest(v.listeners, addr, now); ok {
				all = append(all, days(name+" "+shorten(clean(addr), 60), l, now))
			}
		}
	}
	if len(strings.Join(all, " ")) > maxLine*3/4 {
		return certs
	}
	return all
}

// shortest is the life that ends first of what one address presents.
func shortest(list []listenerView, addr string, now time.Time) (life, bool) {
	var out life
	for _, l := range list {
		if l.address == addr && !l.life.until.IsZero() && (out.until.IsZero() || l.life.until.Before(out.until)) {
			out = l.life
		}
	}
	return out, !out.until.IsZero()
}

// days is one item: 'label'=value;warning;critical;minimum;maximum. An expired
// certificate has less than none.
func days(label string, l life, now time.Time) string {
	n := func(d time.Duration) string { return strconv.FormatFloat(d.Hours()/24, 'f', 2, 64) }
	warning, critical := l.alarms()
	label = strings.NewReplacer("'", "''", "=", "_").Replace(clean(label))
	return fmt.Sprintf("'%s'=%s;%s:;%s:;;%s", label, n(l.until.Sub(now)), n(warning), n(critical), n(l.until.Sub(l.from)))
}

// sayNagios prints the line and makes its status the command's.
func (a *app) sayNagios(res *result, err error) *result {
	line, worst := nagiosLine(res, err, a.now())
	fmt.Fprintln(a.stdout, line)
	res.status = map[level]int{levelOK: 0, levelWarning: 1, levelCritical: 2, levelUnknown: 3}[worst]
	return res
}
