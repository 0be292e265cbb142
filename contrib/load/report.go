package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Report is what load says at its end, and its JSON.
type Report struct {
	Well      bool           `json:"well"`
	Seconds   float64        `json:"seconds"`
	Sessions  int            `json:"sessions"`
	PerSecond float64        `json:"sessions_per_second"`
	Open      float64        `json:"open"`      // sessions at a time, on average
	PeakOpen  int            `json:"peak_open"` // at most
	Kinds     map[string]int `json:"kinds"`
	Leaves    map[string]int `json:"leaves"` // handshakes by leaf

	Connect     Latency `json:"connect"`
	AfterReload Latency `json:"connect_after_reload"` // of sessions that began in the second after one
	Reloads     int     `json:"reloads"`

	Refused    int `json:"refused"`
	Dropped    int `json:"dropped"`
	Handshakes int `json:"handshakes_failed"`
	Foreign    int `json:"handshakes_with_another_leaf"`
	Replies    int `json:"unexpected_replies"`
	Temporary  int `json:"replies_454"` // of them

	Accepted  int            `json:"mails_accepted"`
	Sent      int            `json:"mails_logged_as_sent"` // of those; only with -maillog
	Lost      []string       `json:"mails_lost"`           // queue ids; only with -maillog
	Warnings  map[string]int `json:"warnings"`             // in the log
	Followed  bool           `json:"log_followed"`
	LogFailed string         `json:"log_failed,omitempty"`
	Faults    []Record       `json:"faults"` // the first sessions that failed
}

// Latency is the distribution of a time, in milliseconds.
type Latency struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

func latency(ms []float64) Latency {
	if len(ms) == 0 {
		return Latency{}
	}
	slices.Sort(ms)
	at := func(share float64) float64 { return ms[int(share*float64(len(ms)-1)+0.5)] }
	return Latency{N: len(ms), P50: at(0.50), P99: at(0.99), Max: ms[len(ms)-1]}
}

// report sums up. The log must have settled.
func (t *tally) report(took time.Duration, log *mailLog) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	log.mu.Lock()
	defer log.mu.Unlock()
	r := Report{
		Seconds: took.Seconds(), Sessions: t.count, PerSecond: float64(t.count) / took.Seconds(),
		Open: t.total.Seconds() / took.Seconds(), PeakOpen: t.peak, Kinds: t.kinds, Leaves: t.leaves,
		Refused: t.results[Refused], Dropped: t.results[Dropped], Handshakes: t.results[Handshake],
		Replies: t.results[Reply], Temporary: t.temporary, Foreign: t.foreign,
		Accepted: len(t.queued), Faults: t.faults, Reloads: len(log.reloads),
		Warnings: log.warned, Followed: log.path != "", Lost: log.lost,
	}
	if r.Followed {
		r.Sent = r.Accepted - len(r.Lost)
	}
	if log.err != nil {
		r.LogFailed = log.err.Error()
	}
	all, after := make([]float64, 0, len(t.connects)), []float64{}
	for _, c := range t.connects {
		all = append(all, c.ms)
		if slices.ContainsFunc(log.reloads, func(reload time.Time) bool {
			since := c.at.Sub(reload)
			return since >= 0 && since < time.Second
		}) {
			after = append(after, c.ms)
		}
	}
	r.Connect, r.AfterReload = latency(all), latency(after)
	r.Well = r.Sessions > 0 && r.Refused+r.Dropped+r.Handshakes+r.Foreign+r.Replies+len(r.Lost) == 0 && r.LogFailed == ""
	return r
}

// print says it to people.
func (r Report) print(w io.Writer) {
	fmt.Fprintf(w, "%d sessions in %.0f s: %.1f per second, %.1f open at a time, %d at most\n", r.Sessions, r.Seconds, r.PerSecond, r.Open, r.PeakOpen)
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(w, "  %-16s %8d\n", kind, r.Kinds[kind])
	}
	fmt.Fprintf(w, "leaves presented: %d\n", len(r.Leaves))
	for _, leaf := range slices.Sorted(maps.Keys(r.Leaves)) {
		fmt.Fprintf(w, "  %s %8d\n", leaf, r.Leaves[leaf])
	}
	fmt.Fprintf(w, "time to the greeting: p50 %.1f ms, p99 %.1f ms, at most %.1f ms\n", r.Connect.P50, r.Connect.P99, r.Connect.Max)
	if r.Followed {
		a := r.AfterReload
		fmt.Fprintf(w, "in the second after each of %d reloads: p50 %.1f ms, p99 %.1f ms, at most %.1f ms (%d sessions)\n", r.Reloads, a.P50, a.P99, a.Max, a.N)
		fmt.Fprintf(w, "mails: %d accepted, %d logged as sent, %d lost\n", r.Accepted, r.Sent, len(r.Lost))
	} else {
		fmt.Fprintf(w, "mails: %d accepted\n", r.Accepted)
	}
	fmt.Fprintf(w, "failures: %d refused, %d dropped, %d handshakes failed, %d with another leaf, %d unexpected replies, %d of them 454\n",
		r.Refused, r.Dropped, r.Handshakes, r.Foreign, r.Replies, r.Temporary)
	for _, f := range r.Faults {
		fmt.Fprintf(w, "  %s %s %s: %s %s %s\n", f.End.Format(time.TimeOnly), f.Kind, f.Address, f.Result, f.Said, f.Leaf)
	}
	for _, id := range r.Lost[:min(len(r.Lost), maxFaults)] {
		fmt.Fprintf(w, "  accepted and not logged as sent: %s\n", id)
	}
	if r.LogFailed != "" {
		fmt.Fprintln(w, " ", r.LogFailed)
	}
}
