package dns

import (
	"fmt"
	"time"
)

// Kind says whose turn it is after a failure.
type Kind int

const (
	// Failed is any other failure: the provider said no for a reason of its own.
	Failed Kind = iota
	// Configuration is an unknown provider, a value that is missing or malformed,
	// a program that is not to be trusted. No request was made.
	Configuration
	// Refused means that the provider does not accept the credentials, or not for
	// this zone.
	Refused
	// NoZone means that no zone of the name was found, or not at this provider.
	NoZone
	// RateLimited means that the provider asks to come back later.
	RateLimited
	// Unavailable means that the provider could not be reached, did not answer in
	// time, or answered with a server's error.
	Unavailable
	// Canceled means that the context ended first.
	Canceled
)

var kindNames = [...]string{"failed", "configuration", "credentials refused", "no zone", "rate limited", "unavailable", "canceled"}

// String is the kind in words.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Error is every failure of a provider. It holds no value of the credentials.
type Error struct {
	Provider   string
	Op         string // "present", "clean up", "check", "configure"
	FQDN       string // "" if it is not about a name
	Kind       Kind
	Status     int           // last HTTP status; 0 if there was none
	RetryAfter time.Duration // what the provider asked for; 0: nothing
	Err        error
}

func (e *Error) Error() string {
	s := "DNS provider " + e.Provider + ": " + e.Op
	if e.FQDN != "" {
		s += " " + e.FQDN
	}
	if e.Kind != Failed {
		s += ": " + e.Kind.String()
	}
	if e.Status != 0 {
		s += fmt.Sprintf(" (HTTP status %d)", e.Status)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns what is behind e; for Canceled, the context's error.
func (e *Error) Unwrap() error { return e.Err }
