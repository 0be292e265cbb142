package acme

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/lock"
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

// severity orders the classes: of several failures in one, the one that needs
// the longest wait or a person decides.
var severity = []Class{
	ClassNone, ClassCanceled, ClassReplaces, ClassPending, ClassNetwork, ClassLocal, ClassValidation,
	ClassRequest, ClassRefused, ClassBadCert, ClassAccount, ClassRateLimited, ClassPaused,
}

func (c Class) valid() bool { return slices.Contains(severity, c) }

// Error is a failure of a Manager: what happened, by id and name, and when it
// may be tried again.
type Error struct {
	Class    Class
	Problems problem.List // one for each name or cause; at least one
	// Next is when the next attempt may be made; it is on disk already. Zero for
	// operations that keep no back-off.
	Next time.Time
	Err  error // what it was made of; may be nil

	held bool // nothing was tried: it is no failure to be counted
}

func (e *Error) Error() string { return e.Problems.Error() }

// Unwrap makes problem.From find Problems, and errors.As what is below.
func (e *Error) Unwrap() []error {
	all := []error{e.Problems}
	if e.Err != nil {
		all = append(all, e.Err)
	}
	return all
}

// leaves are the errors that err is made of and that carry a class: ours and the
// client's, and otherwise the innermost ones.
func leaves(err error) []error {
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case nil:
		return nil
	case *Error, *legoclient.Error, *lock.HeldError:
		return []error{err}
	case interface{ Unwrap() []error }:
		var all []error
		for _, sub := range e.Unwrap() {
			all = append(all, leaves(sub)...)
		}
		return all
	case interface{ Unwrap() error }:
		if sub := e.Unwrap(); sub != nil {
			return leaves(sub)
		}
	}
	return []error{err}
}

// Classify tells what kind of failure err is. Of several failures that are
// joined, the worst counts.
func Classify(err error) Class {
	worst := ClassNone
	for _, leaf := range leaves(err) {
		if c := classOf(leaf); slices.Index(severity, c) > slices.Index(severity, worst) {
			worst = c
		}
	}
	return worst
}

func classOf(err error) Class {
	var ours *Error
	var theirs *legoclient.Error
	var path *fs.PathError
	var refused problem.List
	switch {
	case errors.As(err, &ours):
		return ours.Class
	case errors.As(err, &theirs):
		return classOfCA(theirs)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ClassCanceled
	case errors.As(err, &refused):
		return ClassRefused
	case errors.As(err, &path):
		return ClassLocal
	}
	return ClassLocal
}

// classOfCA judges one failure of the CA or the way to it (RFC 8555 section 6.7).
func classOfCA(e *legoclient.Error) Class {
	switch e.Kind {
	case legoclient.Canceled:
		return ClassCanceled
	case legoclient.Local:
		return ClassLocal
	case legoclient.Network:
		return ClassNetwork
	case legoclient.RateLimited:
		return rateClass(e)
	case legoclient.ChallengeFailed:
		if e.Type == "rateLimited" {
			return rateClass(e)
		}
		return ClassValidation
	}
	switch e.Type {
	case "rateLimited":
		return rateClass(e)
	case "serverInternal", "badNonce":
		return ClassNetwork
	case "connection", "dns", "tls", "incorrectResponse", "caa", "dnssec":
		return ClassValidation
	case "accountDoesNotExist", "externalAccountRequired", "userActionRequired", "unauthorized":
		return ClassAccount
	case "alreadyReplaced":
		return ClassReplaces
	case "orderNotReady":
		return ClassPending
	}
	if e.Status >= 500 {
		return ClassNetwork
	}
	return ClassRequest
}

// rateClass tells a limit that passes from a pause that a person must end. Let's
// Encrypt says both with status 429 and type rateLimited; a pause has no
// Retry-After and names a page to visit.
func rateClass(e *legoclient.Error) Class {
	if e.RetryAfter > 0 || retryText.MatchString(e.Detail) || !strings.Contains(e.Detail, "https://") || !strings.Contains(e.Detail, "pause") {
		return ClassRateLimited
	}
	return ClassPaused
}

// retryText is how Let's Encrypt says in words when a limit ends.
var retryText = regexp.MustCompile(`retry after (\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}) UTC`)

// retryAfter is the longest wait that the CA asks for anywhere in err; zero for
// none.
func retryAfter(err error, now time.Time) time.Duration {
	var longest time.Duration
	for _, leaf := range leaves(err) {
		var e *legoclient.Error
		if !errors.As(leaf, &e) {
			continue
		}
		longest = max(longest, e.RetryAfter)
		if m := retryText.FindStringSubmatch(e.Detail); m != nil && e.RetryAfter <= 0 {
			if at, perr := time.Parse(time.DateTime, m[1]); perr == nil {
				longest = max(longest, at.Sub(now))
			}
		}
	}
	return min(longest, maxRetryAfter)
}
