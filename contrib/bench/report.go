package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	Slack     float64    `json:"slack"`
	Sync      series     `json:"fsync_ns"`
	Idle      *contest   `json:"idle"`
	Hot       *contest   `json:"hot,omitempty"`
	Footprint *footprint `json:"footprint"`
	Renewals  series     `json:"renewals_ns,omitempty"`
	Bounds    []bound    `json:"bounds"`
}

// bound is one figure and the most that it may be.
type bound struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Limit float64 `json:"limit"` // with the slack
	Unit  string  `json:"unit"`
	OK    bool    `json:"ok"`
}

// pause is what Postfix's own programs wait at most for a file that was just
// edited (dict_load_file_xt): nobody is faster than that on a hot host.
const pause = 2 * time.Second

func (r report) bounds() []bound {
	var out []bound
	add := func(name, unit string, value, limit float64) {
		limit *= max(r.Slack, 1)
		out = append(out, bound{name, value, limit, unit, value <= limit})
	}
	ratio := func(c *contest, to string) float64 {
		return float64(c.Series["postcert"].median()) / float64(c.Series[to].median())
	}
	add("renewal / the runbook by hand", "x", ratio(r.Idle, "by_hand"), 0.25)
	add("renewal / the runbook without the pause", "x", ratio(r.Idle, "no_pause"), 1.2)
	add("renewal / the floor at its best", "x", float64(r.Idle.Series["postcert"].median())/float64(r.Idle.Series["floor"].quantile(0)), 2)
	if r.Hot != nil {
		waited := r.Idle.Series["postcert"].median() + pause
		add("hot: renewal / idle renewal and the pause", "x", float64(r.Hot.Series["postcert"].median())/float64(waited), 1.2)
	}
	const mib = 1 << 20
	f := r.Footprint
	add("peak memory of a renewal", "MiB", float64(f.Peak)/mib, 25)
	// A few milliseconds are lost to any neighbour: with slack the best one counts.
	typical := 0.5
	if r.Slack > 1 {
		typical = 0
	}
	add("postcert version, warm", "ms", ms(f.Warm.quantile(typical)), 8)
	add("postcert version, pages dropped", "ms", ms(f.Cold.quantile(typical)), 30)
	add("static binary", "MiB", float64(f.Binary)/mib, 20)
	if len(r.Renewals) > 0 {
		add("renewal, p50", "ms", ms(r.Renewals.quantile(0.5)), 2000)
		add("renewal, p99", "ms", ms(r.Renewals.quantile(0.99)), 15000)
	}
	return out
}

func (r report) missed() []string { return missed(r.Bounds) }

func missed(all []bound) []string {
	var out []string
	for _, b := range all {
		if !b.OK {
			out = append(out, b.String())
		}
	}
	return out
}

func (b bound) String() string {
	verdict := "ok"
	if !b.OK {
		verdict = "MISSED"
	}
	return fmt.Sprintf("%-42s %8.2f %-4s at most %8.2f   %s", b.Name, b.Value, b.Unit, b.Limit, verdict)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r report) print(w io.Writer) error {
	var b strings.Builder
	for _, c := range []struct {
		title string
		*contest
	}{{"idle host", r.Idle}, {"hot host: main.cf and master.cf just edited", r.Hot}} {
		if c.contest == nil {
			continue
		}
		fmt.Fprintf(&b, "%s, %d rounds, milliseconds\n", c.title, c.Rounds)
		for _, who := range (&host{}).contestants() {
			s, found := c.Series[who.key]
			if !found {
				continue
			}
			fmt.Fprintf(&b, "  %-30s median %7.0f   min %7.0f   max %7.0f   %5.2f x postcert\n", who.title,
				ms(s.median()), ms(s.quantile(0)), ms(s.quantile(1)), ms(s.median())/ms(c.Series["postcert"].median()))
		}
	}
	fmt.Fprintf(&b, "one fsync here: median %.2f ms, max %.2f ms\n", ms(r.Sync.median()), ms(r.Sync.quantile(1)))
	if f := r.Footprint; f != nil {
		fmt.Fprintf(&b, "peak memory %.1f MiB (launcher %.1f MiB); version warm %.1f to %.1f ms, cold %.1f to %.1f ms\n",
			float64(f.Peak)/(1<<20), float64(f.Launcher)/(1<<20), ms(f.Warm.quantile(0)), ms(f.Warm.quantile(1)), ms(f.Cold.quantile(0)), ms(f.Cold.quantile(1)))
	}
	if s := r.Renewals; len(s) > 0 {
		fmt.Fprintf(&b, "%d renewals: p50 %.0f ms, p99 %.0f ms, max %.0f ms\n", len(s), ms(s.quantile(0.5)), ms(s.quantile(0.99)), ms(s.quantile(1)))
	}
	for _, x := range r.Bounds {
		fmt.Fprintf(&b, "%s\n", x)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
