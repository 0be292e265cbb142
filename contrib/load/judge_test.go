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
func (s *site) spans(first string) map[string][]span {
	out := map[string][]span{}
	now, since := first, time.Time{}
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
func (s *site) judge(r Report, records []Record) {
	t := s.t
	t.Helper()
	first := ""
	for _, rec := range records {
		if rec.Leaf != "" && rec.Shook.Before(s.deploys[0].begin) {
			first = rec.Leaf
		}
	}
	allowed := s.spans(first)
	undone := map[string]bool{}
	for _, d := range s.deploys {
		if d.status == 4 {
			undone[d.candidate] = true
		}
	}
	var c count
	for _, rec := range records {
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
			c.wrong++
			t.Errorf("%s on %s at %s presents %s, neither the old nor the new leaf", rec.Kind, rec.Address, rec.Shook.Format(time.StampMilli), rec.Leaf)
		}
	}
	s.enough(r, c)
	t.Log(s.figures(r, c))
	for _, w := range slices.Sorted(maps.Keys(r.Warnings)) {
		t.Logf("log, %d times: %s", r.Warnings[w], w)
	}
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
func (s *site) enough(r Report, c count) {
	t := s.t
	t.Helper()
	if !r.Well {
		var text strings.Builder
		r.print(&text)
		t.Errorf("the load complains:\n%s", &text)
	}
	for _, d := range s.deploys {
		if d.status == 0 && r.Leaves[d.candidate] == 0 {
			t.Errorf("the leaf of the good deploy at %s was not seen", d.begin.Format(time.TimeOnly))
		}
	}
	for _, want := range []struct {
		what string
		ok   bool
	}{
		{"50 sessions at a time", r.PeakOpen == 50},
		{"40 sessions at a time on average", r.Open >= 40},
		{"handshakes with the leaf of a deploy that was undone", c.undoneSeen > 0},
		{"sessions that live through good deploys", c.across > 0 && c.acrossMost > 1},
		{"mails on their way during good deploys", c.dataAcross > 0},
		{"reloads in the log", r.Reloads >= s.count(0)+s.count(4)},
		{"sessions in the second after a reload", r.AfterReload.N > 0},
		{"mails", r.Accepted > 0 && r.Sent == r.Accepted},
	} {
		if !want.ok {
			t.Errorf("too few: %s", want.what)
		}
	}
	// postmap(1) and its like aside, nothing pauses new connections: Postfix waits
	// for 2 s when it finds a file that was changed a moment ago.
	if limit := r.Connect.P99 + 1000; r.AfterReload.P99 > limit {
		t.Errorf("in the second after a reload the greeting takes %.0f ms (p99), more than %.0f ms", r.AfterReload.P99, limit)
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
func (s *site) figures(r Report, c count) string {
	names := map[string]int{}
	var took [2]time.Duration
	for _, d := range s.deploys {
		names[d.stage.name]++
		if d.status == 0 {
			took[0] += d.end.Sub(d.begin)
			took[1] = max(took[1], d.end.Sub(d.begin))
		}
	}
	var bad []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name != "good" {
			bad = append(bad, fmt.Sprintf("%s %d", name, names[name]))
		}
	}
	return fmt.Sprintf("R10: %d good deploys (%v on average, %v at most), %d bad (%s), %d rolled back; %d sessions in %.0f s, %.1f/s, %.1f open on average; "+
		"%d handshakes, %d leaves, %d within 1 s after their time, %d with a leaf that was undone; %d sessions lived through good deploys (%d of them sending a mail; up to %d deploys); "+
		"%d dropped, %d refused, %d with neither leaf, %d unexpected replies, %d times 454; %d mails accepted, %d lost; "+
		"greeting p50 %.1f p99 %.1f max %.1f ms, in the second after %d reloads p50 %.1f p99 %.1f max %.1f ms",
		s.count(0), (took[0] / time.Duration(max(s.count(0), 1))).Round(time.Millisecond), took[1].Round(time.Millisecond),
		len(s.deploys)-s.count(0), strings.Join(bad, ", "), s.count(4), r.Sessions, r.Seconds, r.PerSecond, r.Open,
		c.handshakes, len(r.Leaves), c.late, c.undoneSeen, c.across, c.dataAcross, c.acrossMost,
		r.Dropped, r.Refused, c.wrong+r.Foreign, r.Replies, r.Temporary, r.Accepted, len(r.Lost),
		r.Connect.P50, r.Connect.P99, r.Connect.Max, r.Reloads, r.AfterReload.P50, r.AfterReload.P99, r.AfterReload.Max)
}
