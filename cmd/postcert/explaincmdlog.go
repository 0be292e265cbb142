package main

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"postcert/deploy"
	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/verify/maillog"
)

// logTally counts the lines of one log.
type logTally struct {
	source   string
	instance string
	since    time.Time // zero: all
	why      string    // of since: "deploy of NAME", "asked for", "all"
	from     time.Time // of the oldest line in the log
	unread   []string  // why older parts of it were not read

	lines   int // that were read
	known   int
	counts  map[countKey]*count
	kinds   map[string]maillog.Kind
	unknown map[string]*count // lines about TLS that are not known, by their text without numbers

	services map[string][]string // of a tag: the services of master.cf that log with it
}

// countKey is what lines are counted by.
type countKey struct{ service, kind string }

// count is how often and when.
type count struct {
	key         countKey
	n           int
	first, last time.Time // zero where lines have no time
	example     string
}

// maxUnknown bounds how many different unknown lines are kept.
const maxUnknown = 100

func newLogTally(source string) *logTally {
	return &logTally{source: source, why: "all", counts: map[countKey]*count{}, kinds: map[string]maillog.Kind{}, unknown: map[string]*count{}}
}

func (c *count) add(l maillog.Line) {
	c.n++
	if c.example == "" {
		c.example = l.Text
	}
	if !l.Time.IsZero() && (c.first.IsZero() || l.Time.Before(c.first)) {
		c.first = l.Time
	}
	if l.Time.After(c.last) {
		c.last = l.Time
	}
}

func (t *logTally) add(l maillog.Line) {
	t.lines++
	e, ok := maillog.Recognise(l)
	if !ok {
		t.addUnknown(l)
		return
	}
	t.known++
	key := countKey{t.service(l), e.Kind.ID}
	if t.counts[key] == nil {
		t.counts[key] = &count{key: key}
		t.kinds[e.Kind.ID] = e.Kind
	}
	t.counts[key].add(l)
}

func (t *logTally) addUnknown(l maillog.Line) {
	if !maillog.AboutTLS(l) {
		return
	}
	form := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, l.Text)
	if t.unknown[form] == nil {
		if len(t.unknown) == maxUnknown {
			return
		}
		t.unknown[form] = &count{key: countKey{service: t.service(l)}}
	}
	t.unknown[form].add(l)
}

// service is what people call the service that a line is of: its name in
// master.cf where one service alone has the tag, else all that have it; else what
// the tag says.
func (t *logTally) service(l maillog.Line) string {
	if ids := t.services[l.Tag]; len(ids) > 0 {
		return strings.Join(ids, " ")
	}
	return orText(l.Tag, "-")
}

// sorted are the counts, the worst effect first, then the most frequent.
func (t *logTally) sorted() []*count {
	var out []*count
	for _, c := range t.counts {
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y *count) int {
		return cmp.Or(
			cmp.Compare(t.kinds[x.key.kind].Effect.Rank(), t.kinds[y.key.kind].Effect.Rank()),
			cmp.Compare(y.n, x.n), cmp.Compare(x.key.service, y.key.service), cmp.Compare(x.key.kind, y.key.kind))
	})
	return out
}

// mostUnknown are the unknown lines, the most frequent first.
func (t *logTally) mostUnknown() []*count {
	var out []*count
	for _, c := range t.unknown {
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y *count) int { return cmp.Or(cmp.Compare(y.n, x.n), cmp.Compare(x.example, y.example)) })
	return out
}

// bad tells whether TLS was off or a service answered nobody.
func (t *logTally) bad() bool {
	for _, k := range t.kinds {
		if k.Effect.Rank() <= maillog.TLSOff.Rank() {
			return true
		}
	}
	return false
}

func (a *app) tallyFile(ctx context.Context, path string, from since) ([]*logTally, error) {
	t := newLogTally(path)
	switch from.words {
	case "", "all":
	case "deploy":
		return nil, usagef("--since deploy is for the log of an instance; with FILE, write a time")
	default:
		t.since, t.why = from.at, "asked for"
	}
	r, err := postfix.ReadLogFile(ctx, path, t.since, t.add)
	t.from, t.unread = r.From, r.Unread
	return []*logTally{t}, err
}

func (a *app) tallyInstances(ctx context.Context, from since, res *result) ([]*logTally, error) {
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return nil, err
	}
	a.blame(res, unread)
	var out []*logTally
	for _, s := range sites {
		t := newLogTally("")
		t.instance = s.instance.ConfigDirectory
		if err := t.begin(s, from); err != nil {
			return nil, err
		}
		// Without it services are called by their tags: the log of an instance whose
		// configuration is broken is wanted most.
		if snapshot, err := s.instance.Snapshot(ctx); err == nil {
			t.services = servicesByTag(snapshot)
		}
		r, err := s.instance.ReadLog(ctx, t.since, t.add)
		if err != nil {
			return nil, err
		}
		t.source, t.from, t.unread = r.Source, r.From, r.Unread
		out = append(out, t)
	}
	return out, nil
}

// begin sets from when the log of an instance is read.
func (t *logTally) begin(s *site, from since) error {
	switch from.words {
	case "all":
		return nil
	case "", "deploy":
	default:
		t.since, t.why = from.at, "asked for"
		return nil
	}
	records, err := s.engine.History()
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(records) {
		switch r.Outcome {
		case deploy.Installed, deploy.NotVerified, deploy.RolledBack, deploy.Incomplete:
			t.since, t.why = r.Time, "deploy of "+r.Name
			return nil
		}
	}
	return nil
}

// servicesByTag are the services that take connections, by the tag with which they
// log: syslog_name and the program.
func servicesByTag(s cf.Snapshot) map[string][]string {
	out := map[string][]string{}
	for _, v := range s.Services {
		if v.Type != "inet" && v.Type != "pass" {
			continue
		}
		tag := s.Effective(v.ID(), "syslog_name") + "/" + path.Base(v.Command)
		out[tag] = append(out[tag], v.ID())
	}
	return out
}
