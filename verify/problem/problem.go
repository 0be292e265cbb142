// Package problem gives everything that postcert can find wrong one form: a
// stable id, a severity, a sentence of facts, and the place it concerns.
//
// The packages that judge (verify, verify/keypair, deploy, deploy/postfix)
// return problems; they do not advise. The command that talks to a person adds
// the remedy and decides the exit status, in one table keyed by the id. So an
// id, once released, never changes its meaning, while sentences may improve.
package problem

import (
	"errors"
	"fmt"
	"strings"
)

// Severity says whether a problem stops what was asked for.
type Severity string

const (
	Error   Severity = "error"   // refuses
	Warning Severity = "warning" // is told, and does not refuse
)

// At is the place a problem concerns. Fields that do not apply are empty.
type At struct {
	File      string `json:"file,omitempty"`
	Block     int    `json:"block,omitempty"`     // PEM block in File, from 1
	Line      int    `json:"line,omitempty"`      // line in File, from 1
	Parameter string `json:"parameter,omitempty"` // a postconf(5) parameter name
	Service   string `json:"service,omitempty"`   // service/type, as postconf -M takes it
	Endpoint  string `json:"endpoint,omitempty"`  // address:port that was asked
	SNI       string `json:"sni,omitempty"`       // server name that was asked for
}

// Problem is one thing found. It is an error, so that it can travel as one.
type Problem struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
	Remedy   string   `json:"remedy"` // what to do next; set by the command, from ID
	At       At       `json:"at"`
}

// New returns a problem that refuses.
func New(id string, at At, format string, args ...any) Problem {
	return Problem{ID: id, Severity: Error, Message: fmt.Sprintf(format, args...), At: at}
}

// Warn returns a problem that is told and does not refuse.
func Warn(id string, at At, format string, args ...any) Problem {
	return Problem{ID: id, Severity: Warning, Message: fmt.Sprintf(format, args...), At: at}
}

// Error is the message, without id and place: messages name their place.
func (p Problem) Error() string { return p.Message }

// List is what one judgement found, in the order it was found.
type List []Problem

// Error joins the messages of the problems that refuse.
func (l List) Error() string {
	var b []string
	for _, p := range l.Errors() {
		b = append(b, p.Message)
	}
	return strings.Join(b, "; ")
}

// Err is the list as an error, or nil if nothing in it refuses.
func (l List) Err() error {
	if len(l.Errors()) == 0 {
		return nil
	}
	return l
}

// Errors are the problems that refuse.
func (l List) Errors() List { return l.filter(Error) }

// Warnings are the problems that do not refuse.
func (l List) Warnings() List { return l.filter(Warning) }

// Has tells whether a problem with this id is in the list.
func (l List) Has(id string) bool {
	for _, p := range l {
		if p.ID == id {
			return true
		}
	}
	return false
}

func (l List) filter(s Severity) List {
	var out List
	for _, p := range l {
		if p.Severity == s {
			out = append(out, p)
		}
	}
	return out
}

// From returns the problems an error carries: a Problem, a List, or either of
// them wrapped. It returns nil for an error that carries none.
func From(err error) List {
	var l List
	if errors.As(err, &l) {
		return l
	}
	var p Problem
	if errors.As(err, &p) {
		return List{p}
	}
	return nil
}
