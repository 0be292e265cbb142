package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// span is a time in which a leaf may be presented.
type span struct{ from, to time.Time }

// grace is for what a process of Postfix had begun when a deploy ended: an idle
// process may take one more connection before it learns of the reload.
const grace = time.Second

// spans says when each leaf may be presented: that of a good deploy from its
// beginning to the end of the next good one; that of a deploy which is undone
// from its beginning to its end; that of a refused one never.
func (s *site) spans() map[string][]span {
	out := map[string][]span{}
	now, since := s.first, time.Time{}
	for _, d := range s.deploys {
		switch d.status {
		case 0:
			out[now] = append(out[now], span{since, d.end})
			now, since = d.candidate, d.begin
		case 4:
			out[d.candidate] = append(out[d.candidate], span{d.begin, d.end})
		}
	}
	out[now] = append(out[now], span{since, time.Now()})
	return out
}

// count is what the judge counted.
type count struct {
	handshakes, late, wrong int
	acrossMost, across      int // deploys that one session lived through; sessions that lived through any
	dataAcross              int // of them, those that were sending a mail
	undoneSeen              int // handshakes with a leaf of a deploy that was undone
}

// judge compares each handshake of the load with what may be presented at its
// time, and fails the test if one is wrong or the load did not see enough.
func (s *site) judge(lasting, short outcome) {
	t := s.t
	t.Helper()
	allowed, undone := s.spans(), map[string]bool{}
	for _, d := range s.deploys {
		if d.status == 4 {
			undone[d.candidate] = true
		}
	}
	var c count
	for _, rec := range slices.Concat(lasting.records, short.records) {
		c.session(s, rec)
		if rec.Leaf == "" {
			continue
		}
		c.handshakes++
		if undone[rec.Leaf] {
			c.undoneSeen++
		}
		within := func(grace time.Duration) bool {
			return slices.ContainsFunc(allowed[rec.Leaf], func(a span) bool {
				return !rec.Shook.Before(a.from) && !rec.Begin.After(a.to.Add(grace))
			})
		}
		switch {
		case within(0):
		case within(grace):
			c.late++
		default:
			if c.wrong++; c.wrong > 10 {
				break // the rest is the same
			}
			t.Errorf("%s on %s at %s presents %s, neither the old nor the new leaf", rec.Kind, rec.Address, rec.Shook.Format(time.StampMilli), rec.Leaf)
		}
	}
	s.enough(lasting, short, c)
	t.Log(s.figures(lasting.report, short.report, c))
	bare := s.after(s.bare, short.records)
	t.Logf("R10: greeting in the second after %d bare reloads p50 %.1f p99 %.1f max %.1f ms (%d sessions)", len(s.bare), bare.P50, bare.P99, bare.Max, bare.N)
	for _, w := range slices.Sorted(maps.Keys(short.report.Warnings)) {
		t.Logf("log, %d times: %s", short.report.Warnings[w], w)
	}
}

// after is how long sessions waited for the greeting that began in the second
// after one of the reloads.
func (s *site) after(reloads []time.Time, records []Record) Latency {
	var ms []float64
	for _, rec := range records {
		if rec.Connect > 0 && slices.ContainsFunc(reloads, func(at time.Time) bool {
			return !rec.Begin.Before(at) && rec.Begin.Sub(at) < time.Second
		}) {
			ms = append(ms, rec.Connect)
		}
	}
	return latency(ms)
}

// session counts the good deploys that a session lived through.
func (c *count) session(s *site, rec Record) {
	n := 0
	for _, d := range s.deploys {
		if d.status == 0 && rec.Begin.Before(d.begin) && rec.End.After(d.end) {
			n++
		}
	}
	if n > 0 {
		c.across++
		if strings.HasSuffix(rec.Kind, "/"+string(slow)) {
			c.dataAcross++
		}
	}
	c.acrossMost = max(c.acrossMost, n)
}

// enough fails the test if the load complains, or has not seen what it is there
// to see.
func (s *site) enough(lasting, short outcome, c count) {
	t := s.t
	t.Helper()
	for _, r := range []Report{lasting.report, short.report} {
		if !r.Well {
			var text strings.Builder
			r.print(&text)
			t.Errorf("the load complains:\n%s", &text)
		}
	}
	for _, d := range s.deploys {
		if d.status == 0 && short.report.Leaves[d.candidate] == 0 {
			t.Errorf("the leaf of the good deploy at %s was not seen", d.begin.Format(time.TimeOnly))
		}
	}
	through, mails := 0, 0 // sessions that lived through everything, mails that were on their way
	for _, rec := range lasting.records {
		if rec.Begin.Before(s.bare[0]) && rec.End.After(s.deploys[len(s.deploys)-1].end) {
			through++
			if strings.HasSuffix(rec.Kind, "/"+string(slow)) {
				mails += len(rec.Queued)
			}
		}
	}
	r := short.report
	for _, want := range []struct {
		what string
		ok   bool
	}{
		{"sessions that live through everything", through == 8 && len(lasting.records) == 8},
		{"mails that are on their way through everything", mails > 0},
		{"sessions at a time", lasting.report.PeakOpen+r.PeakOpen == 50},
		{"sessions at a time on average", r.Open >= 35},
		{"handshakes with the leaf of a deploy that was undone", c.undoneSeen > 0},
		{"sessions that live through good deploys", c.across >= 8 && c.dataAcross > 0},
		{"reloads in the log", r.Reloads >= s.count(0)+s.count(4)},
		{"sessions in the second after a reload", r.AfterReload.N > 0},
		{"mails", r.Accepted > 0 && r.Sent == r.Accepted},
	} {
		if !want.ok {
			t.Errorf("too few: %s", want.what)
		}
	}
}

// count is how many deploys ended with a status.
func (s *site) count(status int) int {
	n := 0
	for _, d := range s.deploys {
		if d.status == status {
			n++
		}
	}
	return n
}

// figures is the line for the README.
func (s *site) figures(lasting, short Report, c count) string {
	names := map[string]int{}
	var took []float64
	unverified := 0
	for _, d := range s.deploys {
		names[d.stage.name]++
		if d.unverified {
			unverified++
		}
		if d.status == 0 {
			took = append(took, milliseconds(d.end.Sub(d.begin)))
		}
	}
	var bad []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name != "good" {
			bad = append(bad, fmt.Sprintf("%s %d", name, names[name]))
		}
	}
	t, a := latency(took), short.AfterReload
	return fmt.Sprintf("R10: %d good deploys (p50 %.0f p99 %.0f max %.0f ms; %d with exit status 9), %d bad (%s), %d rolled back; %d sessions in %.0f s, %.1f/s, %.1f open on average; "+
		"%d handshakes, %d leaves, %d within 1 s after their time, %d with a leaf that was undone; %d sessions lived through good deploys, %d of them sending a mail, up to %d deploys; "+
		"%d dropped, %d refused, %d with neither leaf, %d unexpected replies, %d times 454; %d mails accepted, %d lost; "+
		"greeting p50 %.1f p99 %.1f max %.1f ms, in the second after %d reloads p50 %.1f p99 %.1f max %.1f ms",
		len(took), t.P50, t.P99, t.Max, unverified, len(s.deploys)-len(took), strings.Join(bad, ", "), s.count(4),
		lasting.Sessions+short.Sessions, short.Seconds, short.PerSecond, lasting.Open+short.Open,
		c.handshakes, len(short.Leaves), c.late, c.undoneSeen, c.across, c.dataAcross, c.acrossMost,
		lasting.Dropped+short.Dropped, lasting.Refused+short.Refused, c.wrong+lasting.Foreign+short.Foreign,
		lasting.Replies+short.Replies, lasting.Temporary+short.Temporary, lasting.Accepted+short.Accepted, len(lasting.Lost)+len(short.Lost),
		short.Connect.P50, short.Connect.P99, short.Connect.Max, short.Reloads, a.P50, a.P99, a.Max)
}
