package legoclient

import (
	"context"
	"errors"
	"time"
)

const (
	firstPause  = 250 * time.Millisecond
	longPause   = 2 * time.Second  // in the first minute
	lastPause   = 5 * time.Second  // after it
	maxPause    = 30 * time.Second // whatever the server asks for
	pollBearing = 4                // failed answers in a row that a wait bears
)

// pause is how long to wait before asking again: what the server asked for,
// within limits, or else a little more than the last time. It is never nothing.
func pause(last, asked, waited time.Duration) time.Duration {
	if asked > 0 {
		return min(max(asked, firstPause), maxPause)
	}
	limit := longPause
	if waited > time.Minute {
		limit = lastPause
	}
	return min(max(last*3/2, firstPause), limit)
}

// passing says whether the failure may be gone at the next try.
func passing(err error) (time.Duration, bool) {
	var e *Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.RetryAfter, e.Kind == Network || e.Kind == RateLimited || e.Kind == Protocol && e.Status >= 500
}

// poll asks until look says done, for at most limit. look returns what the
// server's Retry-After was.
func (s *session) poll(limit time.Duration, look func() (bool, time.Duration, error)) error {
	var last, waited time.Duration
	failed := 0
	for {
		done, asked, err := look()
		if done || s.ctx.Err() != nil && err != nil {
			return err
		}
		if err != nil {
			after, again := passing(err)
			if failed++; !again || failed > pollBearing || after > maxPause {
				return err
			}
			asked = after
		} else {
			failed = 0
		}
		if waited >= limit {
			if err != nil {
				return err
			}
			return s.fail(&Error{Kind: Network, Detail: "nothing has changed for " + limit.String()})
		}
		last = pause(last, asked, waited)
		if !sleep(s.ctx, last) {
			return s.fail(canceled(s.ctx))
		}
		waited += last
	}
}

// graceful returns a context for taking down what was put up. It lives for whole,
// and when ctx ends, for grace from then on.
func graceful(ctx context.Context, whole, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), whole)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() { stop(); cancel() }
}
