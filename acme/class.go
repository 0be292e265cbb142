package acme

import (
	"time"

	"postcert/verify/problem"
)

// Class is a kind of failure. It decides when the next attempt may be made.
type Class string

const (
	ClassNone        Class = ""
	ClassNetwork     Class = "network"      // the CA was not reached, or did not answer as one
	ClassRateLimited Class = "rate_limited" // the CA told us to wait
	ClassPaused      Class = "paused"       // the CA stopped us until a person acts
	ClassValidation  Class = "validation"   // the CA could not validate a name
	ClassAccount     Class = "account"      // the account is missing, refused, or its terms have changed
	ClassRequest     Class = "request"      // the CA refuses what is asked for
	ClassReplaces    Class = "replaces"     // the CA refuses that it replaces another certificate
	ClassLocal       Class = "local"        // our side: a port is busy, a directory or a DNS provider refuses
	ClassBadCert     Class = "bad_cert"     // what was issued is not what was asked for
	ClassRefused     Class = "refused"      // we refuse: a key change, too many orders
	ClassPending     Class = "pending"      // the CA has not finished the order yet
	ClassCanceled    Class = "canceled"     // the caller ended it; no failure
)

// Error is a failure of a Manager: what happened, by id and name, and when it
// may be tried again.
type Error struct {
	Class    Class
	Problems problem.List // one for each name or cause; at least one
	// Next is when the next attempt may be made; it is on disk already. Zero for
	// operations that keep no back-off.
	Next time.Time
	Err  error // what it was made of; may be nil
}
