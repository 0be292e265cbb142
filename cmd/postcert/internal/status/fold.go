package status

import "time"

// fold is what one attempt changes in a record.
func (r *Record) fold(u Update) {
	r.Version, r.Instance, r.Name = Version, u.Instance, u.Name
	if u.History != "" {
		r.History = u.History
	}
	r.foldServed(u)
	if u.Probe {
		return
	}
	r.LastOutcome, r.LastTime = u.Outcome, u.Time.UTC()
	// A pair that was refused is nobody's wish any more: what is served stays
	// right, and the error is remembered.
	if u.Leaf != "" && r.Wanted != u.Leaf && u.Outcome != "refused" {
		r.Wanted, r.WantedSince = u.Leaf, u.Time.UTC()
	}
	if u.Released {
		r.Wanted, r.WantedSince, r.Installed, r.Generation = "", time.Time{}, "", 0
	}
	r.foldRetry(u)
	if u.Rehearsed != "" {
		r.Rehearsed = u.Rehearsed
	}
	switch u.Outcome {
	case "installed", "unchanged", "not_verified":
		if u.Leaf != "" {
			r.Installed, r.Service = u.Leaf, u.Service
		}
		if u.Generation > 0 {
			r.Generation = u.Generation
		}
	}
	r.foldFrom(u)
	if u.Exit == 0 {
		r.LastSuccess, r.LastError = u.Time.UTC(), Failure{}
		return
	}
	r.LastError = Failure{ID: u.ID, Message: u.Message, Exit: u.Exit, Time: u.Time.UTC()}
	if r.LastError.Message == "" {
		r.LastError.Message = u.Cause
	}
}

// foldRetry is what one attempt changes in what is tried again: a failure of what
// is to be served by itself begins or lengthens the wait, any success ends it,
// because somebody has chosen what is to be served. A failure of something else
// leaves it. What is refused for good waits for nothing but a change.
func (r *Record) foldRetry(u Update) {
	if u.Issued && u.Leaf != "" {
		r.Issued = u.Leaf
	}
	switch {
	case u.Exit == 0:
		r.Retry, r.Failures, r.NextAttempt, r.Refused = "", 0, time.Time{}, nil
		r.Released = u.Released
	case u.Issued:
		// Of what could not be read the leaf may not be known: it is what it was.
		if u.Leaf != "" && r.Retry != u.Leaf {
			r.Retry, r.Failures = u.Leaf, 0
		}
		r.Failures++
		if u.Exit == exitRefused && u.Final && u.Inputs != "" {
			r.refuse(u)
			return
		}
		r.Refused, r.NextAttempt = nil, u.Time.UTC().Add(RetryGap(r.Failures))
	}
}

// refuse remembers what only a change can help.
func (r *Record) refuse(u Update) {
	since := u.Time.UTC()
	if r.Refused != nil && r.Refused.Inputs == u.Inputs && r.Refused.ID == u.ID {
		since = r.Refused.Since
	}
	r.NextAttempt = time.Time{}
	r.Refused = &Refused{ID: u.ID, Message: u.Message, Since: since, Inputs: u.Inputs}
}

// retryGaps are the waits after 1, 2, ... deploys that did not end well. Each
// attempt may reload production twice, so they become long.
var retryGaps = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, MaxRetryGap}

// MaxRetryGap is the longest of them.
const MaxRetryGap = 6 * time.Hour

// RetryGap is the wait before the next deploy after n that did not end well.
func RetryGap(n int) time.Duration {
	return retryGaps[min(max(n, 1), len(retryGaps))-1]
}

// RetryAt is when what failed is deployed again, zero if nothing is by the time
// alone. A clock that was set back makes it no further away than the longest wait.
func (r *Record) RetryAt(now time.Time) time.Time {
	if r == nil || r.NextAttempt.IsZero() {
		return time.Time{}
	}
	if r.NextAttempt.Sub(now) > MaxRetryGap {
		return now
	}
	return r.NextAttempt
}

// Waits tells that what failed would be tried again, were it not that the same
// inputs can only be refused again.
func (r *Record) Waits(inputs string) bool {
	return r != nil && r.Refused != nil && r.Refused.Inputs == inputs
}
