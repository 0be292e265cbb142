package rehearsal

import (
	"context"
	"errors"
	"sync"
	"time"

	"postcert/verify/probe"
)

// parallel bounds the handshakes under way.
const parallel = 8

// question is one handshake. Services of one group share the answer.
type question struct {
	group    int
	sni, key string
}

// errDied ends the handshakes with a service whose daemon has died: master(8)
// starts no other for a minute.
var errDied = errors.New("its daemon died")

// ask makes every handshake once, in parallel, and holds the answers against
// what each service expects.
func (s Stage) ask(ctx context.Context, c Candidate, r *room, groups []group) []Served {
	answers := s.handshakes(ctx, r, groups, questions(c, groups))
	var out []Served
	byService := make([]int, len(c.Services))
	for n, g := range groups {
		for _, i := range g.services {
			byService[i] = n
		}
	}
	for i, service := range c.Services {
		n := byService[i]
		for _, sni := range orEmpty(service.SNI) {
			for _, key := range orEmpty(service.KeyTypes) {
				answer := answers[question{n, sni, key}]
				result := answer.Result
				served := Served{Service: service.ID, SNI: sni, KeyType: key, Result: result, Reason: result.Reason, tag: groups[n].tag, Before: result.Extensions, Inside: answer.inside}
				want := service.Want
				if c.Expect != nil {
					want = c.Expect(service, sni, key)
				}
				if want != nil {
					served.Judged = true
					served.Verdict, served.Reason = probe.Compare(result, want)
				} else if service.AnyChain {
					served.Judged = true
					served.Verdict, served.Reason = anyChain(result)
				}
				out = append(out, served)
			}
		}
	}
	return out
}

// anyChain takes each good handshake for a proof.
func anyChain(r probe.Result) (probe.Verdict, probe.Reason) {
	if r.Reason == probe.OK || r.Reason == probe.Unreadable {
		return probe.Proven, probe.OK
	}
	return probe.Compare(r, nil)
}

// answer is that of one question.
type answer struct {
	probe.Result
	inside []string // the reply to EHLO inside TLS, of a service that is asked for AUTH
}

// questions are the distinct ones, in order.
func questions(c Candidate, groups []group) []question {
	var out []question
	seen := map[question]bool{}
	for n, g := range groups {
		for _, i := range g.services {
			for _, sni := range orEmpty(c.Services[i].SNI) {
				for _, key := range orEmpty(c.Services[i].KeyTypes) {
					q := question{n, sni, key}
					if !seen[q] {
						out = append(out, q)
					}
					seen[q] = true
				}
			}
		}
	}
	return out
}

func (s Stage) handshakes(ctx context.Context, r *room, groups []group, asked []question) map[question]answer {
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		answers = make(map[question]answer, len(asked))
		slots   = make(chan struct{}, parallel)
	)
	for _, q := range asked {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			result := s.handshake(ctx, r, groups[q.group], q)
			mu.Lock()
			defer mu.Unlock()
			answers[q] = result
		})
	}
	wg.Wait()
	return answers
}

// handshake asks one question, unless and until the service has died.
func (s Stage) handshake(ctx context.Context, r *room, g group, q question) answer {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gone := r.log.gone(g)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-gone:
			// Let a reply that is on its way arrive.
			select {
			case <-time.After(settle / 3):
				cancel(errDied)
			case <-stop:
			}
		case <-stop:
		}
	}()
	e := probe.Endpoint{
		Network: "unix", Address: r.address(g), ServerName: q.sni, KeyType: q.key,
		Timeout: s.Timeout, OpenSSL: s.OpenSSL,
	}
	if g.implicit {
		e.Mode = probe.Implicit
	}
	var inside []string
	if g.sasl != nil {
		// Twice: smtpd(8) whose SASL has no mechanism dies in the first session
		// inside TLS, and it is the second that gets no answer.
		s.extensions(ctx, e)
		inside = s.extensions(ctx, e)
	}
	result := s.Handshake(ctx, e)
	if context.Cause(ctx) == errDied && result.Reason != probe.OK {
		result.Detail = errDied.Error()
	}
	return answer{result, inside}
}

// extensions are the lines of the reply to EHLO inside TLS, nil if none came.
func (s Stage) extensions(ctx context.Context, e probe.Endpoint) []string {
	session, _ := probe.Open(ctx, e)
	defer session.Close()
	lines, err := session.Extensions(ctx)
	if err != nil {
		return nil
	}
	return append([]string{}, lines...)
}
