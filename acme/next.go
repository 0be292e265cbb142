package acme

import (
	"time"

	"postcert/verify/problem"
)

// Action is what is to be done about a certificate.
type Action string

const (
	None   Action = "none"   // nothing before Decision.At
	ARI    Action = "ari"    // Manager.Refresh: ask the CA when to renew
	Order  Action = "obtain" // Manager.Obtain makes an order
	Resume Action = "resume" // Manager.Obtain goes on with an order
)

// Why an order is made, or will be.
const (
	ReasonMissing  = "missing"  // there is no certificate yet
	ReasonSpec     = "changed"  // names, key type, profile or CA are to be others
	ReasonPending  = "pending"  // an order was begun
	ReasonARI      = "ari"      // the CA proposed the instant
	ReasonLifetime = "lifetime" // the fraction of its life is used up
	ReasonDeadline = "deadline" // it must not wait any longer, whatever the CA says
	ReasonClock    = "clock"    // the clock was changed: ask the CA what time it is
)

// Decision is what [Next] answers.
type Decision struct {
	Action Action
	At     time.Time // when Action is to be done (not after now), or for None when to ask again; never zero
	Reason string    // why there is or will be an order: one of the Reason constants

	// Attempt is when the next order will be attempted: now or later, never
	// zero. Held says what holds it back although it is due: a class of failure,
	// "cap" (orders per week), "guard" (failed validations) or "ari" (renewals
	// because of ARI per day); "" if nothing does.
	Attempt time.Time
	Held    string

	Due      time.Time // when the renewal is due by ARI or lifetime; zero without a certificate
	Deadline time.Time // when it is due whatever the CA says, and the time of Warning
	Warning  bool      // the deadline has passed
	Critical bool      // half of what was left at the deadline has, or the next attempt comes too late

	Problems problem.List // warnings about the clock and the interval
}

// Schedule is how the caller keeps time.
type Schedule struct {
	// Interval is when the caller will ask again, for one that does not run
	// all the time (a timer, cron): what becomes due before is due now (RFC 9773
	// section 4.2). 0: the caller runs all the time.
	Interval time.Duration
}

// Next is Schedule{}.Next: for a caller that runs all the time.
func Next(spec Spec, st State, v *Version, now time.Time) Decision {
	return Schedule{}.Next(spec, st, v, now)
}
