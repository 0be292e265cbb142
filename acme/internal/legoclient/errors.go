package legoclient

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/go-acme/lego/v4/acme"
)

// Kind is where a failure lies.
type Kind string

const (
	// Network: no answer, or one that is no ACME: dialling, TLS, time-out, a body
	// cut short or too large, HTML where JSON is due, a redirect.
	Network Kind = "network"
	// Protocol: the CA refused with a problem document, or gave an answer that the
	// protocol forbids. Status tells its own failures (5xx) from ours.
	Protocol Kind = "protocol"
	// RateLimited: status 429, or a problem of type rateLimited with any status.
	RateLimited Kind = "rate-limited"
	// ChallengeFailed: the CA tried to validate Identifier and did not accept it.
	ChallengeFailed Kind = "challenge"
	// Local: our side: the port is taken, the webroot not writable, the DNS
	// provider refused, a value that cannot be sent. The CA saw nothing of it.
	Local Kind = "local"
	// Canceled: the caller's context ended.
	Canceled Kind = "canceled"
)

// ErrNoARI is in the chain of the error of [Client.RenewalInfo] when the
// directory names no such resource.
var ErrNoARI = errors.New("the CA offers no renewal information")

// Subproblem is one part of a problem (RFC 8555 section 6.7.1).
type Subproblem struct {
	Identifier string
	Type       string // as in Error
	Detail     string
}

// Error is every failure of this package beside misuse.
type Error struct {
	Op         string // what was asked: "new order", "validate", ...
	URL        string // of the request, without user information and query
	Identifier string // the name it is about; "" for all
	Type       string // last part of an ACME error's urn: rateLimited, malformed, ...; another problem's type as it is
	Detail     string // in words: the CA's own, for a problem
	Status     int    // HTTP; 0 if there was none
	RetryAfter time.Duration
	// Subproblems are in the CA's order.
	Subproblems []Subproblem
	Kind        Kind
	Err         error // the cause, if there is one
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Identifier != "" {
		b.WriteString(" " + e.Identifier)
	}
	if what := e.label(); what != "" {
		b.WriteString(": " + what)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	for _, s := range e.Subproblems {
		fmt.Fprintf(&b, "; %s: %s: %s", s.Identifier, s.Type, s.Detail)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " (retry after %s)", e.RetryAfter.Round(time.Second))
	}
	return b.String()
}

// label is the type and status, as far as there are such.
func (e *Error) label() string {
	switch {
	case e.Type != "" && e.Status != 0:
		return fmt.Sprintf("%s (HTTP %d)", e.Type, e.Status)
	case e.Status != 0:
		return fmt.Sprintf("HTTP %d", e.Status)
	}
	return e.Type
}

func (e *Error) Unwrap() error { return e.Err }

const (
	urn       = "urn:ietf:params:acme:error:"
	maxDetail = 2000 // bytes of a CA's sentence that are kept
)

// problemType is the last part of an ACME error's urn. A type of another
// namespace stays as it is.
func problemType(t string) string { return clean(strings.TrimPrefix(t, urn)) }

// clean makes a foreign sentence fit for a log and a terminal: one line, no
// control characters, bounded.
func clean(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "..."
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// shown is a URL for errors and logs: without user information and query, which
// may be secrets.
func shown(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// document is a problem document (RFC 7807, RFC 8555 section 6.7).
type document struct {
	Type        string `json:"type"`
	Detail      string `json:"detail"`
	Instance    string `json:"instance"`
	Subproblems []struct {
		Type       string          `json:"type"`
		Detail     string          `json:"detail"`
		Identifier acme.Identifier `json:"identifier"`
	} `json:"subproblems"`
}

// refused is the error that an answer with a status of 400 and above amounts to.
func refused(status int, body []byte) *Error {
	e := &Error{Status: status, Kind: Network}
	var d document
	if json.Unmarshal(body, &d) == nil && (d.Type != "" || d.Detail != "") {
		e.Kind = Protocol
		e.Type, e.Detail = problemType(d.Type), clean(d.Detail)
		if d.Instance != "" {
			// For userActionRequired it is the page to visit (RFC 8555 section 7.3.3).
			e.Detail = strings.TrimSpace(e.Detail + " (see " + clean(d.Instance) + ")")
		}
		for _, s := range d.Subproblems {
			e.Subproblems = append(e.Subproblems, Subproblem{clean(s.Identifier.Value), problemType(s.Type), clean(s.Detail)})
		}
	} else {
		e.Detail = "the answer is not a problem document"
	}
	if status == 429 || e.Type == "rateLimited" {
		e.Kind = RateLimited
	}
	return e
}

// problem is the error inside an order or a challenge.
func problem(p *acme.ProblemDetails, kind Kind) *Error {
	if p == nil {
		return nil
	}
	e := &Error{Type: problemType(p.Type), Detail: clean(p.Detail), Status: p.HTTPStatus, Kind: kind}
	for _, s := range p.SubProblems {
		e.Subproblems = append(e.Subproblems, Subproblem{clean(s.Identifier.Value), problemType(s.Type), clean(s.Detail)})
	}
	return e
}

// unreached is the error of a request that got no answer, or half of one. ctx is
// the caller's, so that its end is told from the CA's slowness.
func unreached(ctx context.Context, timeout time.Duration, err error) *Error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	e := &Error{Kind: Network, Err: err}
	var unknown x509.UnknownAuthorityError
	var timed net.Error
	switch {
	case errors.As(err, &unknown):
		e.Detail = "the server's certificate chains to no trusted root; acme.trust names a file with the root of such a CA"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		e.Detail = fmt.Sprintf("no complete answer within %s", timeout)
	default:
		e.Detail = clean(err.Error())
	}
	return e
}

func canceled(ctx context.Context) *Error {
	return &Error{Kind: Canceled, Detail: "canceled", Err: context.Cause(ctx)}
}

// foreign is the error for what lego made of an answer that the transport let
// through. lego quotes whole bodies; they are left out.
func foreign(ctx context.Context, err error) *Error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	var p *acme.ProblemDetails
	if errors.As(err, &p) {
		return problem(p, Protocol)
	}
	var syntax *json.SyntaxError
	var form *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &form) || strings.Contains(err.Error(), "failed to unmarshal") {
		return &Error{Kind: Network, Detail: "the answer is not the JSON that the protocol asks for"}
	}
	return &Error{Kind: Protocol, Detail: clean(err.Error()), Err: err}
}
