package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// acmeReport is all that -acme measured.
type acmeReport struct {
	Slack        float64           `json:"slack"`
	Certificates int               `json:"certificates"`
	Turns        map[string][]cost `json:"turns"` // of each contestant, a process for each certificate
	Batch        *cost             `json:"batch"` // all in one process
	Launcher     int64             `json:"launcher_bytes"`
	Day          *day              `json:"day"`
	Bounds       []bound           `json:"bounds"`
}

// minutesADay are the ticks of a day.
const minutesADay = 24 * 60

// dayCertificates are those of the daemon.
const dayCertificates = 20

// measureACME does what -acme asks for. Without peers it asks no program that is
// not on every host.
func measureACME(ctx context.Context, t testing.TB, s settings, peers bool, progress io.Writer) acmeReport {
	t.Helper()
	if peers {
		if err := lacking((&issuing{}).contestants(true)); err != nil {
			t.Fatal(err)
		}
	}
	binary := prepare(t, s, progress)
	i := newIssuing(t, binary)
	rep := acmeReport{Slack: s.slack, Certificates: s.certificates, Launcher: start(ctx, t, nil, "/bin/true").Own}
	rep.Turns = i.contest(ctx, s.certificates, i.contestants(peers), progress)
	fmt.Fprintf(progress, "%d certificates in one process\n", s.certificates)
	rep.Batch = new(i.batch(ctx, s.certificates))
	rep.Day = i.day(ctx, s.daily, s.ticks, progress)
	rep.Bounds = rep.bounds()
	return rep
}

// of is a series of one figure of a contestant.
func (r acmeReport) of(key string, figure func(cost) time.Duration) series {
	var out series
	for _, c := range r.Turns[key] {
		out = append(out, figure(c))
	}
	return out
}

func took(c cost) time.Duration { return c.Took }
func cpu(c cost) time.Duration  { return c.CPU }

// peak is the largest of a contestant, in bytes.
func (r acmeReport) peak(key string) int64 {
	var most int64
	for _, c := range r.Turns[key] {
		most = max(most, c.Peak)
	}
	return most
}

// requests are the median of a contestant, for one certificate.
func (r acmeReport) requests(key string) int {
	var all []int
	for _, c := range r.Turns[key] {
		all = append(all, c.Requests.sum())
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (s series) sum() time.Duration {
	var all time.Duration
	for _, d := range s {
		all += d
	}
	return all
}

func (r acmeReport) bounds() []bound {
	var out []bound
	add := func(name, unit string, value, limit float64) {
		limit *= max(r.Slack, 1)
		out = append(out, bound{name, value, limit, unit, value <= limit})
	}
	for _, peer := range []string{"lego", "certbot"} {
		if len(r.Turns[peer]) == 0 {
			continue
		}
		add("wall time / "+peer, "x", float64(r.of("postcert", took).sum())/float64(r.of(peer, took).sum()), 1)
		add("peak memory / "+peer, "x", float64(r.peak("postcert"))/float64(r.peak(peer)), 1)
	}
	add("wall time / the floor and half a second", "x", float64(r.of("postcert", took).median())/float64(r.of("floor", took).median()+allowance), 1)
	n := float64(r.requests("postcert")) // a count, which no busy machine changes
	out = append(out, bound{"requests of an order", n, maxRequests, "", n <= maxRequests})
	if r.Certificates >= 10 { // of a few, one that asks the CA a moment too early, and waits, decides
		add("all in one process / one process each", "x", float64(r.Batch.Took)/float64(r.of("postcert", took).sum()), 1)
	}
	add("peak memory of an order", "MiB", mib(r.peak("postcert")), 25)
	add("peak memory of all in one process", "MiB", mib(r.Batch.Peak), 30)
	add("daemon after a day", "MiB", mib(r.Day.End), 30)
	add("daemon at its largest", "MiB", mib(r.Day.Peak), 30)
	return out
}

// allowance is what an order may take beyond the floor, which is a few
// milliseconds of messages: a process, what it writes to disk for good, and the
// pauses between two questions to the CA.
const allowance = 500 * time.Millisecond

// maxRequests is how often an order of one name may ask the CA: the floor's eight, a
// directory and a nonce, when to renew, and once more where the CA was not done yet.
const maxRequests = 12

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (r acmeReport) missed() []string { return missed(r.Bounds) }

func (r acmeReport) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d certificates of one name, http-01, P-256, one CA; a process for each\n", r.Certificates)
	fmt.Fprintf(&b, "  %-20s %9s %9s %9s %9s %9s %9s %9s   %s\n", "", "all, s", "median ms", "min ms", "max ms", "cpu ms", "peak MiB", "requests", "x postcert: wall, cpu, peak")
	ours, oursCPU := r.of("postcert", took).sum(), r.of("postcert", cpu).sum()
	for _, who := range (&issuing{}).contestants(true) {
		s := r.of(who.key, took)
		if len(s) == 0 {
			continue
		}
		c, peak := r.of(who.key, cpu), r.peak(who.key)
		fmt.Fprintf(&b, "  %-20s %9.2f %9.0f %9.0f %9.0f ", who.title, s.sum().Seconds(), ms(s.median()), ms(s.quantile(0)), ms(s.quantile(1)))
		if peak == 0 { // inside this process
			fmt.Fprintf(&b, "%9s %9s %9d   %.2f\n", "", "", r.requests(who.key), float64(s.sum())/float64(ours))
			continue
		}
		fmt.Fprintf(&b, "%9.0f %9.1f %9d   %.2f, %.2f, %.2f\n", ms(c.median()), mib(peak), r.requests(who.key),
			float64(s.sum())/float64(ours), float64(c.sum())/float64(oursCPU), float64(peak)/float64(r.peak("postcert")))
	}
	fmt.Fprintf(&b, "  %-20s %9.2f %39.0f %9.1f %9d   %.2f, %.2f, %.2f\n", "postcert, all in one", r.Batch.Took.Seconds(), ms(r.Batch.CPU)/float64(r.Certificates), mib(r.Batch.Peak),
		r.Batch.Requests.sum()/r.Certificates, float64(r.Batch.Took)/float64(ours), float64(r.Batch.CPU)/float64(oursCPU), float64(r.Batch.Peak)/float64(r.peak("postcert")))
	fmt.Fprintf(&b, "  (no peak is below the launcher's, %.1f MiB)\n", mib(r.Launcher))
	fmt.Fprintf(&b, "daemon with %d certificates: %.1f MiB when all were ordered, %.1f MiB after %d ticks and %d turns, %.1f MiB at most\n",
		r.Day.Certificates, mib(r.Day.Begin), mib(r.Day.End), r.Day.Ticks, r.Day.Turns, mib(r.Day.Peak))
	for _, x := range r.Bounds {
		fmt.Fprintf(&b, "%s\n", x)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
