package acme

import (
	"fmt"
	"time"
)

const (
	// maxRetryAfter bounds what a CA can ask for; Let's Encrypt's longest is a
	// week. A header of a year would be an outage.
	maxRetryAfter = 8 * day
	// networkRetryAfter bounds it for failures that use up nothing at the CA.
	networkRetryAfter = 6 * time.Hour
)

// The waits after the first, second, ... failure of a class; the last one stays.
var (
	waitNetwork    = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}
	waitLocal      = []time.Duration{2 * time.Minute, 10 * time.Minute, time.Hour}
	waitValidation = []time.Duration{15 * time.Minute, time.Hour, 4 * time.Hour, day}
	waitLimited    = []time.Duration{time.Hour, 4 * time.Hour, day}
	waitDaily      = []time.Duration{day}
)

// Backoff is when the next attempt may be made after the failures-th failure in
// a row (from 1), of this class and with this error, at now. notAfter is the end
// of the live certificate, zero if there is none. It is pure: its jitter comes
// from its arguments, and only ever makes it later, by at most 5 %.
//
//	network, pending  Retry-After, else 1 min, 5 min, 15 min, 1 h: they use up nothing
//	rate_limited      what the CA said; if it said nothing, 1 h, 4 h, 1 d
//	validation        15 min, 1 h, 4 h, 1 d, but never more than 1/8 of what is left, and never below 15 min
//	local             2 min, 10 min, 1 h: the CA is not involved
//	paused, account, request, refused, bad_cert   daily: a person must act, or another specification
//	replaces, canceled   at once
func Backoff(class Class, failures int, err error, now, notAfter time.Time) time.Time {
	var wait time.Duration
	switch class {
	case ClassNone, ClassCanceled, ClassReplaces:
		return now
	case ClassNetwork, ClassPending:
		wait = min(retryAfter(err, now), networkRetryAfter)
		if wait <= 0 {
			wait = nth(waitNetwork, failures)
		}
		wait = max(wait, time.Second)
	case ClassRateLimited:
		wait = retryAfter(err, now)
		if wait <= 0 {
			wait = nth(waitLimited, failures)
		}
		return now.Add(wait + jitter(min(wait, 20*time.Minute), class, failures, now) + time.Second)
	case ClassLocal:
		wait = nth(waitLocal, failures)
	case ClassValidation:
		wait = nth(waitValidation, failures)
		if left := notAfter.Sub(now); !notAfter.IsZero() && left > 0 {
			wait = min(wait, max(left/8, waitValidation[0]))
		}
	default:
		wait = nth(waitDaily, failures)
	}
	return now.Add(wait + jitter(wait, class, failures, now))
}

// nth is the wait after the n-th failure.
func nth(waits []time.Duration, n int) time.Duration {
	return waits[max(0, min(n, len(waits))-1)]
}

// jitter spreads hosts that failed together.
func jitter(wait time.Duration, class Class, failures int, now time.Time) time.Duration {
	return time.Duration(spread(fmt.Sprint(class, failures, now.UnixNano())) * 0.05 * float64(wait))
}
