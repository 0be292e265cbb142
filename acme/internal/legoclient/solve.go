package legoclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-acme/lego/v4/acme"
)

const (
	parallel  = 8                      // requests of one Solve at a time
	takeDown  = 30 * time.Second       // for the clean-up of challenges
	grace     = 600 * time.Millisecond // for it, once the caller's context has ended
	giveBack  = 10 * time.Second       // for deactivating what a failed order leaves
	checkSize = 100                    // authorizations of one order that are looked at
)

// Solve validates every authorization of the order that is not valid yet: it puts
// up the answers, tells the CA, waits for its verdicts, and takes the answers
// down again, whatever happens.
//
// Each name that fails is reported, joined: kind ChallengeFailed for the CA's verdict,
// Local where an answer could not be put up (then no validation was asked for,
// and none is counted). Names that the CA refuses make the order worthless, so
// what is still pending of it is deactivated; after any other failure the order
// is left as it is, to be taken up again.
func (c *Client) Solve(ctx context.Context, acct Account, o Order, solver Solver) error {
	s, err := c.open(ctx, "validate", acct)
	if err != nil {
		return err
	}
	todo, err := s.pending(o, solver.way.kind())
	if err == nil && len(todo) > 0 {
		rounds := [][]job{todo}
		if solver.way.oneByOne() {
			rounds = slices.Collect(slices.Chunk(todo, 1))
		}
		for _, round := range rounds {
			if err = s.round(round, solver.way); err != nil {
				break
			}
		}
	}
	if err != nil && ctx.Err() == nil && refusedName(err) {
		s.giveBack(o)
	}
	if err != nil && ctx.Err() != nil && !refusedName(err) {
		return s.fail(canceled(ctx))
	}
	return err
}

// refusedName says whether the CA refused a name, which ends the order.
func refusedName(err error) bool {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return slices.ContainsFunc(joined.Unwrap(), refusedName)
	}
	var e *Error
	return errors.As(err, &e) && e.Kind == ChallengeFailed
}

// job is an authorization that waits for an answer.
type job struct {
	task
	authz, challenge string // URLs
	asked            bool   // the CA has been told before, by a process that ended
}

// pending looks at all authorizations of the order.
func (s *session) pending(o Order, kind string) ([]job, error) {
	if len(o.Authorizations) > checkSize {
		return nil, s.fail(&Error{Kind: Protocol, Detail: fmt.Sprintf("an order with %d authorizations", len(o.Authorizations))})
	}
	jobs := make([]*job, len(o.Authorizations))
	err := each(len(o.Authorizations), func(i int) error {
		var authz acme.Authorization
		err := s.poll(s.c.pollLimit, func() (bool, time.Duration, error) { // for what it bears
			var err error
			authz, err = s.getAuthz(o.Authorizations[i])
			return err == nil, 0, err
		})
		if err != nil {
			return err
		}
		jobs[i], err = s.job(o.Authorizations[i], authz, kind)
		return err
	})
	var todo []job
	for _, j := range jobs {
		if j != nil {
			todo = append(todo, *j)
		}
	}
	slices.SortFunc(todo, func(a, b job) int { return strings.Compare(a.identifier, b.identifier) })
	return todo, err
}

func (s *session) getAuthz(where string) (acme.Authorization, error) {
	var authz acme.Authorization
	err := s.do(func() (err error) {
		authz, err = s.core.Authorizations.Get(where)
		return err
	})
	return authz, err
}

// name is the identifier as it was ordered.
func name(authz acme.Authorization) string {
	if authz.Wildcard {
		return clean("*." + authz.Identifier.Value)
	}
	return clean(authz.Identifier.Value)
}

// job is what is to be done for an authorization; nil if nothing is.
func (s *session) job(where string, authz acme.Authorization, kind string) (*job, error) {
	switch authz.Status {
	case acme.StatusValid:
		return nil, nil
	case acme.StatusPending:
	default:
		return nil, s.verdict(where, authz)
	}
	i := slices.IndexFunc(authz.Challenges, func(ch acme.Challenge) bool { return ch.Type == kind })
	if i < 0 {
		var offered []string
		for _, ch := range authz.Challenges {
			offered = append(offered, clean(ch.Type))
		}
		return nil, s.fail(&Error{Identifier: name(authz), URL: shown(where), Kind: Local,
			Detail: fmt.Sprintf("the CA offers %s for it, and no %s", strings.Join(offered, ", "), kind)})
	}
	ch := authz.Challenges[i]
	if !tokenForm.MatchString(ch.Token) {
		return nil, s.fail(&Error{Identifier: name(authz), URL: shown(where), Kind: Protocol, Detail: "the challenge's token is malformed"})
	}
	keyAuth, err := s.core.GetKeyAuthorization(ch.Token)
	if err != nil {
		return nil, s.fail(err)
	}
	return &job{
		task:  task{identifier: name(authz), domain: strings.TrimPrefix(authz.Identifier.Value, "*."), token: ch.Token, keyAuth: keyAuth},
		authz: where, challenge: ch.URL, asked: ch.Status != acme.StatusPending,
	}, nil
}

// verdict is the error of an authorization that has failed, with the CA's own
// words from the challenge that it tried.
func (s *session) verdict(where string, authz acme.Authorization) error {
	e := &Error{Detail: fmt.Sprintf("the authorization is %s", clean(authz.Status))}
	for _, ch := range authz.Challenges {
		if ch.Error != nil {
			e = problem(ch.Error, ChallengeFailed)
		}
	}
	e.Kind, e.Identifier, e.URL = ChallengeFailed, name(authz), shown(where)
	return s.fail(e)
}

// round presents the jobs' answers, has them validated and takes them down.
func (s *session) round(jobs []job, w way) error {
	tasks := make([]task, len(jobs))
	for i, j := range jobs {
		tasks[i] = j.task
	}
	down, err := w.present(s.ctx, tasks)
	if err == nil {
		err = each(len(jobs), func(i int) error { return s.validate(jobs[i]) })
	} else {
		err = local("challenge", "", err)
	}
	late, cancel := graceful(s.ctx, takeDown, grace)
	defer cancel()
	if e := down(late); e != nil {
		s.c.log.Warn("taking down the answer to a challenge", "challenge", w.kind(), "err", redact(e.Error()))
	}
	return err
}

// validate tells the CA that the answer is there, and waits for its verdict.
func (s *session) validate(j job) error {
	if err := s.tell(j); err != nil {
		return named(err, j.identifier)
	}
	var authz acme.Authorization
	err := s.poll(s.c.pollLimit, func() (bool, time.Duration, error) {
		got, err := s.getAuthz(j.authz)
		if err != nil {
			return false, 0, err
		}
		authz = got
		return authz.Status != acme.StatusPending, s.t.retryAfter(j.authz), nil
	})
	if err != nil {
		return named(err, j.identifier)
	}
	if authz.Status != acme.StatusValid {
		return s.verdict(j.authz, authz)
	}
	return nil
}

// tell starts the validation. If it is not known whether the CA heard it, the
// authorization says; only a challenge that is still pending is started again.
func (s *session) tell(j job) error {
	started := j.asked
	return s.poll(s.c.pollLimit, func() (bool, time.Duration, error) {
		if started {
			return true, 0, nil
		}
		err := s.do(func() error {
			_, err := s.core.Challenges.New(j.challenge)
			return err
		})
		if _, again := passing(err); again {
			if authz, e := s.getAuthz(j.authz); e == nil {
				started = !slices.ContainsFunc(authz.Challenges, func(ch acme.Challenge) bool {
					return ch.URL == j.challenge && ch.Status == acme.StatusPending
				})
			}
		}
		return err == nil, 0, err
	})
}

func named(err error, identifier string) error {
	var e *Error
	if !errors.As(err, &e) || e.Identifier != "" {
		return err
	}
	with := *e
	with.Identifier = identifier
	return &with
}

// giveBack deactivates what is still pending of a failed order, so that it does
// not count against the account. A failure to do so is not one of the order.
func (s *session) giveBack(o Order) {
	ctx, cancel := context.WithTimeout(s.ctx, giveBack)
	defer cancel()
	late, err := s.c.open(ctx, "deactivate authorization", s.acct)
	if err != nil {
		return
	}
	err = each(len(o.Authorizations), func(i int) error {
		where := o.Authorizations[i]
		authz, err := late.getAuthz(where)
		if err != nil || authz.Status != acme.StatusPending {
			return err
		}
		return late.do(func() error { return late.core.Authorizations.Deactivate(where) })
	})
	if err != nil {
		s.c.log.Debug("deactivating the authorizations of a failed order", "err", redact(err.Error()))
	}
}

// each runs f for 0 to n-1, a few at a time, and joins the errors in that order.
func each(n int, f func(int) error) error {
	errs := make([]error, n)
	room := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			errs[i] = f(i)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
