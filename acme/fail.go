package acme

import (
	"errors"
	"strings"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/lock"
	"postcert/verify/problem"
)

// failure gives any error the form that a Manager returns: an *Error with at
// least one problem. Nil stays nil.
func failure(err error) error {
	if err == nil {
		return nil
	}
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	e := &Error{Class: Classify(err), Err: err}
	for _, leaf := range leaves(err) {
		e.Problems = append(e.Problems, problemsOf(leaf)...)
	}
	if len(e.Problems.Errors()) == 0 {
		e.Problems = append(e.Problems, problem.New("acme_failed", problem.At{}, "%v", err))
	}
	return e
}

// problemsOf gives one failure its id.
func problemsOf(err error) problem.List {
	var theirs *legoclient.Error
	var held *lock.HeldError
	var file *FileError
	switch {
	case errors.As(err, &theirs):
		return problem.List{problemOfCA(theirs)}
	case errors.As(err, &held):
		return problem.List{problem.New("acme_busy", problem.At{File: held.Path}, "%v", held)}
	case errors.As(err, &file):
		return file.problems()
	case Classify(err) == ClassCanceled:
		return problem.List{problem.New("acme_canceled", problem.At{}, "ended before it was done: %v", err)}
	}
	if list := problem.From(err); list != nil {
		return list
	}
	return problem.List{problem.New("acme_failed", problem.At{}, "%v", err)}
}

// problemOfCA gives a failure of the CA, or of our side of a challenge, its id. The
// sentence of the CA names what it is about.
func problemOfCA(e *legoclient.Error) problem.Problem {
	at := problem.At{}
	switch classOfCA(e) {
	case ClassCanceled:
		return problem.New("acme_canceled", at, "ended before it was done: %v", e)
	case ClassNetwork:
		return problem.New("ca_unreachable", at, "the CA did not answer as it should: %v", e)
	case ClassRateLimited:
		return problem.New("ca_rate_limited", at, "the CA asks to wait: %v", e)
	case ClassPaused:
		return problem.New("ca_paused", at, "the CA has stopped orders until somebody visits its page: %v", e)
	case ClassValidation:
		return problem.New("validation_failed", at, "the CA could not validate %s: %v", orAll(e.Identifier), e)
	case ClassAccount:
		return problem.New("account_refused", at, "the CA refuses the account: %v", e)
	case ClassLocal:
		return problem.New("challenge_failed", at, "the challenge for %s could not be answered: %v", orAll(e.Identifier), e)
	case ClassPending:
		return problem.New("order_pending", at, "the CA has not finished the order: %v", e)
	case ClassReplaces:
		return problem.New("order_refused", at, "the CA says that the certificate was replaced already: %v", e)
	default:
		return problem.New("order_refused", at, "the CA refuses what is asked for: %v", e)
	}
}

func orAll(name string) string {
	if name == "" {
		return "a name"
	}
	return name
}

// caType is the type of the CA's refusal, if err is one.
func caType(err error) string {
	var e *legoclient.Error
	if errors.As(err, &e) && (e.Kind == legoclient.Protocol || e.Kind == legoclient.RateLimited) {
		return e.Type
	}
	return ""
}

// oneLine is an error for State.LastError: one line, bounded.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 1000 {
		s = s[:1000] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
