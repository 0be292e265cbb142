package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/daemon"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/verify"
	"postcert/verify/problem"
)

// probeJSON is one look at whether what was proven is still there.
type probeJSON struct {
	Instance string         `json:"instance"`
	Name     string         `json:"name"`
	Agrees   bool           `json:"agrees"`
	Repaired bool           `json:"repaired"`
	Left     string         `json:"left"` // why nobody looked now; "" if somebody did
	Served   *status.Served `json:"served,omitempty"`
	Drift    *status.Drift  `json:"drift,omitempty"`
}

// proven tells that the record says of a certificate that it was installed, and
// that nothing else is wanted: it is not to be deployed, but to be looked after.
func proven(rec *status.Record, leaf string) bool {
	return rec != nil && leaf != "" && rec.Installed == leaf && rec.Wanted == leaf && rec.Retry == ""
}

// proving says on whose behalf prove asks.
type proving struct {
	issued    bool // it is to be served without anybody's asking
	scheduled bool // nobody is there who has mended something
}

// prove asks whether what was proven last is still installed, configured and
// served. What differs is told, and repaired if the configuration says so. The
// record is written. The report is nil if nothing could be asked.
func (a *app) prove(ctx context.Context, s *site, rec *status.Record, why proving, res *result) (rep *deploy.Report, repaired bool, err error) {
	c, err := s.engine.Again(ctx, rec.Name, rec.Installed)
	if err != nil {
		return nil, false, err
	}
	c.Service = orText(c.Service, rec.Service)
	// Whose certificate an override names, and that it is a good one, is asked of a
	// plan that judges nothing else.
	if c.Policy.Anchors, err = verify.LoadAnchors(append(append([]string{}, a.conf.Trust...), a.flags.trust...)); err != nil {
		return nil, false, err
	}
	c = a.change(s, c)
	rep, drift, err := a.compared(ctx, s, rec, why, c)
	switch {
	case drift != nil && s.settings.Drift == config.DriftRepair && !(why.scheduled && repairFailed(rec, a.now())):
		rep, err = a.repair(ctx, s, rec, why, c, drift, res)
		return rep, err == nil, err
	case drift != nil:
		driftRemedies(drift.Differences, rec)
		a.tellDrift(drift.Differences, problem.Error, res)
		return rep, false, errNo
	case err == nil && rep.Outcome == deploy.NotVerified:
		return rep, false, errNotVerified
	}
	return rep, false, err
}

// compared asks once whether what a change installs is there, and remembers it.
func (a *app) compared(ctx context.Context, s *site, rec *status.Record, why proving, c deploy.Change) (*deploy.Report, *deploy.DriftError, error) {
	c.Prove = true
	rep, err := s.engine.Run(ctx, deploy.Chosen(c), lockWait, nil)
	if rep == nil {
		return nil, nil, err
	}
	var drift *deploy.DriftError
	if err != nil && !errors.As(err, &drift) {
		return rep, nil, err
	}
	a.recordProbe(s, rec, why.issued, rep, drift)
	return rep, drift, nil
}

// repairAgain is how long a repair that failed is not tried again by itself: each
// may reload Postfix twice.
const repairAgain = 20 * time.Hour

// repairFailed tells whether what differs now was tried to be repaired, not long
// ago, and was not.
func repairFailed(rec *status.Record, now time.Time) bool {
	return rec.Drift != nil && rec.LastError.Exit != 0 && rec.LastError.Exit != statusBusy &&
		rec.LastTime.After(rec.Drift.Since) && now.Before(rec.LastTime.Add(repairAgain)) && !now.Before(rec.LastTime)
}

// repair puts back what was proven: tables are built again, and where more than
// those differs it is installed once more.
func (a *app) repair(ctx context.Context, s *site, rec *status.Record, why proving, c deploy.Change, drift *deploy.DriftError, res *result) (*deploy.Report, error) {
	a.tellDrift(drift.Differences, problem.Warning, res)
	others := slices.DeleteFunc(slices.Clone(drift.Differences), func(p problem.Problem) bool { return p.ID == "drift_table" })
	if len(others) < len(drift.Differences) {
		built, err := s.engine.BuildTables(ctx)
		for _, table := range built {
			a.text.printf("  repaired     %s was built again\n", table)
		}
		if err != nil && len(others) == 0 {
			return nil, err
		}
		a.blame(res, err) // and does not keep the certificate from being put back
	}
	if len(others) == 0 {
		rep, drift, err := a.compared(ctx, s, rec, why, c)
		if drift != nil {
			a.tellDrift(drift.Differences, problem.Error, res)
			err = errNo
		}
		return rep, err
	}
	s.engine.Progress = a.progress(s.engine.Progress)
	rep, err := s.engine.Run(ctx, deploy.Chosen(c), lockWait, nil)
	if rep == nil {
		return nil, err
	}
	for _, p := range rep.Problems {
		res.problem(p)
	}
	a.showReport(rep)
	a.text.printf("  %s\n", headline(rep, err, false))
	a.recordStatus(s, rep, withCause(ctx, err))
	if err == nil && rep.Outcome == deploy.NotVerified {
		err = errNotVerified
	}
	return rep, err
}

// driftRemedies are what to do about what differs, with the names in it.
func driftRemedies(list problem.List, rec *status.Record) {
	for i, p := range list {
		switch p.ID {
		case "drift_file", "drift_parameter":
			list[i].Remedy = fmt.Sprintf("put back what was proven: postcert rollback %s --to %d; if it was meant: postcert install-cert, or postcert release %[1]s", rec.Name, rec.Generation)
		}
	}
}

// tellDrift says what differs: as an error, or, if it is repaired, as a warning.
func (a *app) tellDrift(list problem.List, severity problem.Severity, res *result) {
	for _, p := range list {
		p.Severity = severity
		res.problem(p)
		a.text.printf("  %s %s\n", a.text.paint(yellow, "differs     "), p.Message)
	}
}

// recordProbe remembers what the listeners presented, and what differs.
func (a *app) recordProbe(s *site, rec *status.Record, issued bool, rep *deploy.Report, drift *deploy.DriftError) {
	up := status.Update{
		Instance: s.instance.ConfigDirectory, Name: rec.Name, Time: a.now(), Leaf: rec.Installed, Probe: true, Issued: issued, Served: a.served(rep.Listeners),
	}
	if up.Served == nil {
		up.Served = &status.Served{Time: a.now()}
	}
	switch {
	case drift != nil:
		for _, p := range drift.Differences {
			up.Served.IDs = append(up.Served.IDs, p.ID)
			up.Drift = append(up.Drift, status.Difference{ID: p.ID, Words: p.Message, File: p.At.File, Line: p.At.Line,
				Parameter: p.At.Parameter, Service: p.At.Service, Endpoint: p.At.Endpoint})
		}
		up.Served.Agrees, up.Served.Words = false, drift.Differences[0].Message
	case !rep.Running:
		up.Served.Agrees, up.Served.IDs, up.Served.Words = false, []string{"not_running"}, "Postfix is not running"
	case rep.Outcome == deploy.NotVerified:
		up.Served.Agrees, up.Served.IDs = false, []string{"served_differs"}
		up.Served.Words = "not every listener could be asked: " + firstWords(up.Served)
	default:
		up.Served.Words = "served and proven on " + listenerWords(rep)
	}
	if err := a.records().Record(up); err != nil {
		a.log.Warn("recording the status", "err", err)
	}
}

// firstWords are those of the first listener that does not agree.
func firstWords(s *status.Served) string {
	for _, l := range s.Listeners {
		if !l.Agrees && !l.Ignored {
			return fmt.Sprintf("%s on %s: %s", l.Service, l.Endpoint, l.Words)
		}
	}
	return "none has TLS"
}

// againAfter is when listeners are asked again that did not agree: what somebody
// mends is to be known the same hour, not the next day.
const againAfter = time.Hour

// probeDue is when a certificate has its next daily probe.
func (a *app) probeDue(rec *status.Record, now time.Time) time.Time {
	last := rec.ProbedAt(now)
	switch {
	case last.IsZero():
		return now
	case !rec.Served.Agrees:
		return last.Add(againAfter)
	}
	return daemon.Daily(rec.Name, last)
}

// lookAfter proves a certificate that nothing else has to be done about.
func (a *app) lookAfter(ctx context.Context, s *site, rec *status.Record, o passOptions, res *result) probeJSON {
	v := probeJSON{Instance: rec.Instance, Name: rec.Name}
	if o.scheduled && a.probeDue(rec, a.now()).After(a.now()) {
		v.Left = "it was proven at its last turn"
		a.text.printf("  left alone   %s: %s\n", v.Instance, v.Left)
		return v
	}
	rep, repaired, err := a.prove(ctx, s, rec, proving{scheduled: o.scheduled}, res)
	v.Repaired = repaired
	switch {
	case rep == nil:
	case rep.Outcome == deploy.Unchanged:
		v.Agrees = true
		a.text.printf("  served       proven on %s\n", listenerWords(rep))
	case rep.Outcome == deploy.Installed: // again
		v.Agrees = true
	case errors.Is(err, errNotVerified) && !rep.Running:
		res.problem(problem.New("not_running", problem.At{File: v.Instance}, "Postfix is not running"))
		err = errNo
	case errors.Is(err, errNotVerified):
		for _, o := range rep.Listeners {
			a.notProven(o, res)
		}
		err = errNo
	}
	a.blame(res, err)
	if now, err := a.records().Read(rec.Instance, rec.Name); err == nil && now != nil {
		v.Served, v.Drift = now.Served, now.Drift
	}
	return v
}

// notProven says what a listener presents instead of what is installed.
func (a *app) notProven(o deploy.Observation, res *result) {
	x := o.Expectation
	if o.Agrees() {
		return
	}
	res.problem(problem.New("served_differs", problem.At{Service: x.Listener.ID(), Endpoint: x.Endpoint.Address, SNI: x.Endpoint.ServerName},
		"%s on %s: %s", x.Listener.ID(), x.Endpoint.Address, o.Words()))
}
