package rehearsal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"postcert/verify/probe"
)

// open tells whether s should have been proven and was not. A question that
// cannot be asked from this host says nothing.
func (s Served) open() bool {
	return s.Judged && s.Verdict != probe.Proven && s.Reason != probe.NotAsked
}

// explained tells whether the log has a complaint about each service that does
// not serve what it should.
func explained(served []Served, log []line) bool {
	return !slices.ContainsFunc(served, func(s Served) bool {
		switch s.Reason {
		case probe.OtherLeaf, probe.OtherChain, probe.NotOffered:
			return false // Postfix finds nothing wrong with that
		}
		return s.open() && len(blamed(about(log, s.tag))) == 0
	})
}

// judge says what was seen about the candidate: nil, a *RefusedError or a
// *NotRunError.
//
// The socket decides and the log explains. Only where the socket says neither
// yes nor no does the log decide: a daemon that died because of a TLS parameter
// gives no banner, and so does one that died because of a full disk.
func judge(served []Served, log []line) error {
	var refused, silent []Served
	var lines []line
	for _, s := range served {
		if !s.open() {
			continue
		}
		own := about(log, s.tag)
		if s.Verdict == probe.Contradicted || len(blamed(own)) > 0 {
			refused = append(refused, s)
			lines = append(lines, own...)
		} else {
			silent = append(silent, s)
		}
	}
	switch {
	case len(refused) > 0:
		return &RefusedError{Served: refused, Log: blamed(lines)}
	case len(silent) > 0:
		return &NotRunError{Why: fmt.Sprintf("the private Postfix gave no answer: %s", silent[0]), Log: complaints(log)}
	}
	return unasked(served)
}

// unasked refuses to call a service rehearsed of which nothing was proven
// because nothing could be asked.
func unasked(served []Served) error {
	proven := map[string]bool{}
	for _, s := range served {
		proven[s.Service] = proven[s.Service] || s.Verdict == probe.Proven
	}
	for _, s := range served {
		if s.Judged && !proven[s.Service] {
			return &NotRunError{Why: fmt.Sprintf("the question cannot be asked: %s", s)}
		}
	}
	return nil
}

// roomless adds to a *NotRunError where there is no room, if that is what the private
// Postfix complains of: its own words name files of the room at most.
func (r *room) roomless(err error) error {
	not, ok := errors.AsType[*NotRunError](err)
	if !ok {
		return err
	}
	said := strings.ToLower(strings.Join(not.Log, "\n"))
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if !strings.Contains(said, errno.Error()) {
			continue
		}
		full := &os.PathError{Op: "writing below", Path: r.dir, Err: errno}
		if not.Err == nil {
			not.Err = full
		} else {
			not.Err = fmt.Errorf("%w; %w", not.Err, full)
		}
		return not
	}
	return err
}
