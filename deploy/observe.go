package deploy

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// Expectation is one question that the proof asks, and the answers it takes:
// a listener's address, a server name, a key type.
type Expectation struct {
	Listener cf.Listener
	Endpoint probe.Endpoint
	// Accept holds the chains that prove it, DER, leaf first. There is more
	// than one where a service is left alone: then what it served before is
	// right, and so is what its files hold now.
	Accept   [][][]byte
	New      bool         // the service is to serve the pair of this change
	Baseline probe.Result // what it presented before
	Added    bool         // the change adds the service, so there was nothing before
	Ignore   bool         // named by --ignore-listener: told, never judged
	Sessions int          // held open at once: 3, or fewer if the service has fewer processes
}

// wasBroken tells that the listener did not serve TLS before the change, so
// that it can neither be contradicted nor demanded.
func (x Expectation) wasBroken() bool {
	return x.Baseline.Reason != probe.OK && x.Baseline.Reason != probe.Unreadable && !x.Added
}

// Observation is the last answer to an Expectation and what it means.
type Observation struct {
	Expectation Expectation
	Result      probe.Result
	Verdict     probe.Verdict
	Reason      probe.Reason // why it is not proven
	Attempts    int
}

// Agrees tells that the listener presents what it should, or need not.
func (o Observation) Agrees() bool { return o.Verdict == probe.Proven || o.Expectation.Ignore }

// baselineObservations are the answers of before the change, judged by what is
// expected after it.
func (p *Plan) baselineObservations() []Observation {
	out := make([]Observation, len(p.Expect))
	for i, x := range p.Expect {
		v, why := judge(x.Baseline, x.Accept)
		out[i] = Observation{Expectation: x, Result: x.Baseline, Verdict: v, Reason: why, Attempts: 1}
	}
	return out
}

// judge compares one answer with the answers that are taken.
func judge(r probe.Result, accept [][][]byte) (probe.Verdict, probe.Reason) {
	if r.Reason == probe.OK && len(accept) == 0 {
		return probe.Proven, probe.OK
	}
	verdict, reason := probe.NotVerified, r.Reason
	for i, want := range accept {
		v, why := probe.Compare(r, want)
		if v == probe.Proven {
			return v, why
		}
		if i == 0 {
			verdict, reason = v, why
		}
	}
	return verdict, reason
}

// Prober asks one endpoint n times at once, all sessions open together, so
// that n different processes answer.
type Prober interface {
	Handshakes(ctx context.Context, e probe.Endpoint, n int) []probe.Result
}

// sessions is how many handshakes are held open together for one verdict.
const sessions = 3

// proof is how long and how often listeners are asked.
type proof struct {
	prober   Prober
	deadline time.Duration
}

// observe asks all expectations until each is proven or the deadline passes.
// Listeners are asked side by side; the questions to one listener in turn,
// because its process limit may be small.
func (p proof) observe(ctx context.Context, want []Expectation) []Observation {
	out := make([]Observation, len(want))
	groups := map[string][]int{}
	for i, x := range want {
		groups[x.Endpoint.Address] = append(groups[x.Endpoint.Address], i)
	}
	until := time.Now().Add(p.deadline)
	var wg sync.WaitGroup
	for _, group := range groups {
		wg.Go(func() {
			for _, i := range group {
				out[i] = p.one(ctx, want[i], until)
			}
		})
	}
	wg.Wait()
	return out
}

// one asks one expectation. After the deadline it asks twice more: a listener
// is contradicted only by two answers in a row after it, because the last
// processes of before a reload may still answer until then.
func (p proof) one(ctx context.Context, x Expectation, until time.Time) Observation {
	o := Observation{Expectation: x}
	wait, limit := 100*time.Millisecond, min(max(2*x.Baseline.Took, firstPatience), patience)
	for late := 0; ; o.Attempts++ {
		o.Result, o.Verdict, o.Reason = p.ask(ctx, x, limit)
		limit = p.nextLimit(x, limit, until)
		if o.Verdict == probe.Proven || x.Ignore || ctx.Err() != nil {
			break
		}
		if x.wasBroken() && p.settled(o, until) {
			break
		}
		if time.Now().After(until) {
			if late++; late >= 2 {
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(wait, max(time.Until(until), 50*time.Millisecond))):
		}
		wait = min(wait*2, 2*time.Second)
	}
	o.Attempts++
	return o
}

// nextLimit is how long the next handshake may take. Near the deadline and
// after it that is less, so that a silent listener does not make a proof much
// longer than its deadline.
func (p proof) nextLimit(x Expectation, limit time.Duration, until time.Time) time.Duration {
	return min(2*limit, patience, max(time.Until(until), latePatience, min(2*x.Baseline.Took, patience)))
}

// settled tells that a listener which was broken before answers in the same
// way after a few attempts: nothing is gained by asking until the deadline.
func (p proof) settled(o Observation, until time.Time) bool {
	return o.Attempts >= 4 && o.Result.Reason == o.Expectation.Baseline.Reason || time.Now().After(until)
}

// How long one handshake may take: little at first, unless it took long before
// the change too, because a process of before the reload may have taken some of
// the sessions, and master(8), which still counts it as idle, starts none for
// the others until it ends. It ends when its session does, so giving up early is
// what brings the answer.
const (
	firstPatience = time.Second
	latePatience  = 5 * time.Second
	patience      = 15 * time.Second
)

func (p proof) ask(ctx context.Context, x Expectation, limit time.Duration) (probe.Result, probe.Verdict, probe.Reason) {
	x.Endpoint.Timeout = limit
	worst := -1
	var res probe.Result
	var verdict probe.Verdict
	var reason probe.Reason
	order := []probe.Verdict{probe.Proven, probe.NotVerified, probe.Contradicted}
	for _, r := range p.prober.Handshakes(ctx, x.Endpoint, max(x.Sessions, 1)) {
		v, why := judge(r, x.Accept)
		if rank := slices.Index(order, v); rank > worst {
			worst, res, verdict, reason = rank, r, v, why
		}
	}
	return res, verdict, reason
}

// observeOnce asks each expectation once, by one handshake.
func (p proof) observeOnce(ctx context.Context, want []Expectation) []Observation {
	out := make([]Observation, len(want))
	var wg sync.WaitGroup
	for i, x := range want {
		wg.Go(func() {
			r := p.prober.Handshakes(ctx, x.Endpoint, 1)[0]
			v, why := judge(r, x.Accept)
			out[i] = Observation{Expectation: x, Result: r, Verdict: v, Reason: why, Attempts: 1}
		})
	}
	wg.Wait()
	return out
}

// sessionsFor is how many sessions of a service can be open at once: master(5)
// starts no more processes than the maxproc field says; "-" is
// default_process_limit, 0 is no limit.
func sessionsFor(s cf.Snapshot, id string) int {
	limit := s.Effective("", "default_process_limit")
	if svc, ok := s.Service(id); ok && svc.ProcessLimit != "-" {
		limit = svc.ProcessLimit
	}
	if n, err := strconv.Atoi(limit); err == nil && n > 0 {
		return min(n, sessions)
	}
	return sessions
}
