package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"postcert/acme"
	"postcert/deploy"
	"postcert/deploy/lock"
	"postcert/deploy/postfix"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// The exit statuses. They are a contract: see EXIT STATUS in the help of each
// command.
const (
	statusOK          = 0
	statusFailed      = 1
	statusUsage       = 2
	statusRefused     = 3
	statusRolledBack  = 4
	statusIncomplete  = 5
	statusCA          = 6
	statusBusy        = 7
	statusNo          = 8
	statusNotVerified = 9
	statusForeign     = 42 // acmetool: a hook that has no answer to the event
	statusInterrupted = 130
	statusTerminated  = 143
)

// precedence orders the statuses of several results of one call: the first
// that occurred is the one returned.
var precedence = []int{
	statusIncomplete, statusRolledBack, statusFailed, statusCA, statusRefused,
	statusNotVerified, statusBusy, statusNo, statusUsage, statusOK,
}

// worse is the status of two results of one call. That a signal ended it hides
// everything but an undo that is incomplete.
func worse(a, b int) int {
	switch {
	case a == statusOK, b > 128 && a != statusIncomplete:
		return b
	case a > 128 || b == statusOK:
		return a
	case slices.Index(precedence, b) < slices.Index(precedence, a):
		return b
	}
	return a
}

// errNo is a question whose answer is no (exit status 8); it carries no
// problem of its own.
var errNo = errors.New("the answer is no")

// errNotVerified is a change that is installed and could not be verified.
var errNotVerified = errors.New("installed, not verified")

// advise is the only place that knows exit statuses. It reads the facts an
// error carries; problems with their remedies are added to what is said.
func advise(err error) (status int, problems problem.List) {
	problems = remedied(problem.From(err))
	status = statusOf(err, problems)
	// How an undo ended is said also when its cause is a problem with an id.
	undone := status == statusRolledBack || status == statusIncomplete
	if err != nil && (len(problems.Errors()) == 0 || undone) && status != statusNo && status != statusNotVerified && status != statusForeign {
		problems = append(problems, remedied(problem.List{describe(err)})...)
	}
	return status, problems
}

func statusOf(err error, problems problem.List) int {
	var (
		incomplete *deploy.IncompleteError
		rolledBack *deploy.RolledBackError
		refused    *deploy.RefusedError
		held       *lock.HeldError
		stale      *deploy.StaleError
		changed    *postfix.ChangedError
		sig        signalError
		usage      usageError
		ca         *acme.Error
	)
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &incomplete):
		return statusIncomplete
	case errors.As(err, &sig):
		// A signal never hides an incomplete undo; a completed one it does.
		if sig.signal == syscall.SIGINT {
			return statusInterrupted
		}
		return statusTerminated
	case errors.As(err, &rolledBack):
		return statusRolledBack
	case errors.As(err, &usage), hasPrefix(problems, "hook_unrecognised", "hook_ambiguous", "hook_incomplete", "config_unknown", "config_type", "config_value", "config_missing",
		"config_unreadable", "config_documents", "config_writable", "config_syntax", "instance_", "usage",
		"acme_directory_unknown", "acme_trust_unreadable", "dns_provider_unknown", "dns_credentials"):
		return statusUsage
	case errors.As(err, &held), errors.As(err, &stale), errors.As(err, &changed):
		return statusBusy
	case errors.As(err, &ca) && ca.Class != acme.ClassRefused:
		return statusCA
	case errors.As(err, &refused), len(problems.Errors()) > 0:
		return statusRefused
	case errors.Is(err, errNo):
		return statusNo
	case errors.Is(err, errNotVerified):
		return statusNotVerified
	case errors.Is(err, errForeign):
		return statusForeign
	}
	return statusFailed
}

func hasPrefix(l problem.List, prefixes ...string) bool {
	for _, p := range l.Errors() {
		for _, x := range prefixes {
			if strings.HasPrefix(p.ID, x) {
				return true
			}
		}
	}
	return false
}

// describe gives an error without an id of its own one by its kind.
func describe(err error) problem.Problem {
	var (
		incomplete *deploy.IncompleteError
		rolledBack *deploy.RolledBackError
		refused    *deploy.RefusedError
		held       *lock.HeldError
		stale      *deploy.StaleError
		changed    *postfix.ChangedError
		usage      usageError
		sig        signalError
		prog       *program.Error
	)
	id := "failed"
	switch {
	case errors.As(err, &incomplete):
		id = "rollback_incomplete"
	case errors.As(err, &rolledBack):
		id = "rolled_back"
	case errors.As(err, &refused) && refused.Mixture:
		id = "mixture_refused"
	case errors.As(err, &refused):
		id = "rehearsal_refused"
	case errors.As(err, &held):
		id = "busy"
	case errors.As(err, &stale), errors.As(err, &changed):
		id = "plan_stale"
	case errors.As(err, &usage):
		id = "usage"
	case errors.As(err, &sig):
		id = "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		id = "timeout"
	case noRoom(err):
		id = "disk_full"
	case errors.Is(err, syscall.EROFS):
		id = "read_only"
	case errors.Is(err, os.ErrPermission):
		id = "permission"
	case errors.As(err, &prog) && errors.Is(prog.Err, os.ErrNotExist):
		id = "program_missing"
	case errors.As(err, &prog):
		id = "program_failed"
	}
	return problem.New(id, place(err), "%v", err)
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// place is the listener that an undo is about, if it is about one; or the
// directory that has no room.
func place(err error) problem.At {
	var contradicted *deploy.ContradictedError
	if !errors.As(err, &contradicted) || len(contradicted.Observations) == 0 {
		return problem.At{File: fullDirectory(err)}
	}
	x := contradicted.Observations[0].Expectation
	return problem.At{Service: x.Listener.ID(), Endpoint: x.Endpoint.Address, SNI: x.Endpoint.ServerName}
}

// fullDirectory is the directory in which there was no room, "" if that was not
// the reason. What was to become a directory is none: the one above it is.
func fullDirectory(err error) string {
	var at *fs.PathError
	if !errors.As(err, &at) || !noRoom(at.Err) {
		return ""
	}
	dir := filepath.Dir(at.Path)
	for dir != filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// remedied fills in what to do about each problem.
func remedied(l problem.List) problem.List {
	out := slices.Clone(l)
	for i, p := range out {
		if p.Remedy == "" {
			out[i].Remedy = remedy(p)
		}
	}
	return out
}

// say ends a command: it turns err into problems and a status and prints the
// result once, as JSON or as text. What cannot be printed is a failure of the
// command only if nothing else failed.
func (a *app) say(res *result, err error) *result {
	status, problems := advise(err)
	res.status = worse(res.status, status)
	for _, p := range problems {
		res.problem(p)
	}
	res.problems = remedied(res.problems)
	if a.flags.json {
		out, jerr := json.Marshal(res)
		if jerr != nil {
			fmt.Fprintf(a.stderr, "postcert: writing JSON: %v\n", jerr)
			res.status = statusFailed
			return res
		}
		fmt.Fprintf(a.stdout, "%s\n", out)
		return res
	}
	if !res.told {
		a.sayText(res)
	}
	return res
}

// sayText prints problems to standard error, then the headline.
func (a *app) sayText(res *result) {
	t := &text{w: a.stderr, colour: isTerminal(a.stderr)}
	for _, p := range res.problems {
		word, colour := "error", red
		if p.Severity == problem.Warning {
			if a.flags.quiet {
				continue
			}
			word, colour = "warning", yellow
		}
		t.printf("%s %s [%s]\n", t.paint(colour, word+":"), p.Message, p.ID)
		if p.Remedy != "" {
			t.printf("       %s %s\n", t.paint(faint, "do:"), p.Remedy)
		}
	}
	if res.headline == "" {
		return
	}
	w, quiet := a.stdout, a.flags.quiet
	if res.status != statusOK {
		w, quiet = a.stderr, false
	}
	(&text{w: w, quiet: quiet}).printf("%s\n", res.headline)
}
