package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// Severity is how much a finding matters.
type Severity string

const (
	// Error: TLS or mail does not work, or a secret is exposed, now.
	Error Severity = "error"
	// Warning: it works, and against what Postfix or an RFC advises.
	Warning Severity = "warning"
	// Info: worth knowing; nothing is wrong.
	Info Severity = "info"
)

// Severities are all of them, the worst first.
var Severities = []Severity{Error, Warning, Info}

// AtLeast tells whether s is as bad as t or worse.
func (s Severity) AtLeast(t Severity) bool {
	return slices.Index(Severities, s) <= slices.Index(Severities, t)
}

// Rule is one question about a configuration.
type Rule struct {
	ID       string // stable once released
	Title    string // what is wrong if it fires, in a few words
	Why      string // why that matters, in one sentence
	Cite     string // who says so: a postconf(5) parameter, a README of Postfix, an RFC
	Severity Severity
	Since    string // first version of Postfix it holds for, such as "3.6"; "" is all
	Until    string // first version it does not hold for any more; "" is none
	Retired  string // why a profile leaves it out of versions it does not hold for

	check func(*view) []*Finding
}

// Holds tells whether the rule is about a version of Postfix (mail_version).
func (r Rule) Holds(version string) bool {
	return (r.Since == "" || !before(version, r.Since)) && (r.Until == "" || before(version, r.Until))
}

// Finding is one thing that a rule found.
type Finding struct {
	Rule    *Rule
	Message string     // what was found
	At      problem.At // where: parameter, service, file and line, endpoint
	Advice  string     // what to do about it, in one line
	Remedy  []cf.Edit  // the same as edits; none if somebody has to decide
}

// Run asks the rules that hold for the snapshot's version. The answer depends on
// nothing but its arguments: worst first, then by place and rule.
func Run(s cf.Snapshot, f Facts, rules []Rule) []*Finding {
	v := newView(s, f)
	var out []*Finding
	for _, r := range rules {
		if !r.Holds(s.Version) {
			continue
		}
		for _, x := range r.check(v) {
			x.Rule = &r
			out = append(out, x)
		}
	}
	slices.SortStableFunc(out, func(a, b *Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(Severities, a.Rule.Severity), slices.Index(Severities, b.Rule.Severity)),
			cmp.Compare(a.At.File, b.At.File), cmp.Compare(a.At.Line, b.At.Line),
			cmp.Compare(a.Rule.ID, b.Rule.ID), cmp.Compare(a.At.Service, b.At.Service), cmp.Compare(a.Message, b.Message))
	})
	return out
}

// before compares two versions of Postfix by their first two numbers: a
// development snapshot, 3.12-20260821, counts as what it becomes.
func before(a, b string) bool {
	am, an := majorMinor(a)
	bm, bn := majorMinor(b)
	return am < bm || am == bm && an < bn
}

func majorMinor(version string) (major, minor int) {
	first, rest, _ := strings.Cut(version, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	// What is no number counts as 0: a version nobody knows is an old one.
	major, _ = strconv.Atoi(first)
	minor, _ = strconv.Atoi(rest)
	return major, minor
}

// found makes a finding with what was found.
func found(at problem.At, advice, format string, args ...any) *Finding {
	return &Finding{Message: fmt.Sprintf(format, args...), At: at, Advice: advice}
}

// with adds the edits that carry out the advice.
func (f *Finding) with(edits ...cf.Edit) *Finding {
	f.Remedy = edits
	return f
}
