package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// records are kept beside the generations, under the same names.
func (a *app) records() status.Store {
	return status.Store{Missed: a.missed, Recorded: a.touch, Path: func(instance, name string) (string, error) {
		key, err := generation.InstanceKey(instance)
		if err != nil {
			return "", err
		}
		return filepath.Join(a.conf.StateDir, "status", key, generation.FileName(name)+".json"), generation.ValidName(name)
	}}
}

// missed is what the history says of an instance since one of its records: what a
// record does not know because the run was killed before it wrote it, or because
// the record was lost.
func (a *app) missed(instance, after string) ([]status.Update, bool) {
	if a.past != nil {
		return missedOf(a.past, instance, after)
	}
	return a.readMissed(instance, after)
}

// readPast reads the history once, for a command that asks often and writes nothing.
func (a *app) readPast() {
	a.past, _ = a.readMissed("", "")
	if a.past == nil {
		a.past = []status.Update{}
	}
}

// missedOf is what follows a record in a history that was read, of one instance.
func missedOf(past []status.Update, instance, after string) (out []status.Update, found bool) {
	i := slices.IndexFunc(past, func(u status.Update) bool { return after != "" && u.History == after })
	for _, u := range past[i+1:] {
		if u.Instance == instance {
			out = append(out, u)
		}
	}
	return out, i >= 0
}

func (a *app) readMissed(instance, after string) ([]status.Update, bool) {
	e := &deploy.Engine{FS: atomicfile.OS, Instance: instance, StateDir: a.conf.StateDir, Log: a.log, Now: a.now}
	list, found, err := e.HistoryAfter(after)
	if err != nil {
		a.log.Warn("reading the history", "err", err)
		return nil, true
	}
	var out []status.Update
	for _, r := range list {
		if r.Name != "" {
			out = append(out, updateOf(r))
		}
	}
	return out, found
}

// updateOf is what a record of the history says, in the words of the status.
func updateOf(r deploy.Record) status.Update {
	reason := strings.TrimPrefix(r.Reason, "recover: ")
	up := status.Update{
		Instance: r.Instance, Name: r.Name, Time: r.Time, Leaf: r.Leaf, Generation: r.Generation, Outcome: string(r.Outcome), History: r.ID,
		Exit: exitOf(r.Outcome), ID: r.Problem, Message: r.Cause, Issued: slices.Contains(bySelf, reason), Served: servedOf(r),
	}
	switch r.Outcome {
	case deploy.Installed, deploy.NotVerified:
		up.Released = reason == "release"
		if r.Reason == reason { // of a recovered change nobody knows
			_ = up.Rehearsed.UnmarshalJSON(r.Rehearsed)
		}
	case deploy.RolledBack:
		up.ID = orText(up.ID, "rolled_back")
	case deploy.Incomplete:
		up.ID = orText(up.ID, "rollback_incomplete")
	}
	return up
}

// anyFinal tells whether one of the problems is certain to be found again.
func anyFinal(l problem.List) bool {
	return slices.ContainsFunc(l.Errors(), func(p problem.Problem) bool { return status.Final(p.ID) })
}

// inputs is a digest of what decides about a refusal: which files the pair, Postfix's
// configuration, ours and the trust anchors are, and when each was changed, and
// which program judges. Not of what they hold: one of them is a key.
func (a *app) inputs(instance string, live pairFiles) string {
	h := sha256.New()
	paths := append([]string{live.cert, live.key, filepath.Join(instance, "main.cf"), filepath.Join(instance, "master.cf")}, a.conf.Trust...)
	for _, path := range append(paths, a.flags.trust...) {
		var st syscall.Stat_t
		err := syscall.Stat(path, &st) // of what a symbolic link leads to
		fmt.Fprintln(h, path, err == nil, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim, st.Mode, st.Uid)
	}
	fmt.Fprintln(h, versionString(), len(a.conf.Raw()))
	h.Write(a.conf.Raw())
	return hex.EncodeToString(h.Sum(nil))
}

// bySelf are the reasons of changes that nobody asked for at that moment, so that
// what fails is tried again.
var bySelf = []string{"obtain", "renew", "hook"}

// keepRecords writes down what the records lack of the history, for those who read
// them and not the history.
func (a *app) keepRecords() {
	list, _ := a.missed("", "")
	done := map[[2]string]bool{}
	for _, u := range list {
		key := [2]string{u.Instance, u.Name}
		if done[key] {
			continue
		}
		done[key] = true
		if err := a.records().Keep(u.Instance, u.Name); err != nil {
			a.log.Warn("recording the status", "err", err)
		}
	}
}

// exitOf is the exit status of a change by how it ended.
func exitOf(o deploy.Outcome) int {
	switch o {
	case deploy.Installed, deploy.Unchanged:
		return statusOK
	case deploy.NotVerified:
		return statusNotVerified
	case deploy.Refused:
		return statusRefused
	case deploy.RolledBack:
		return statusRolledBack
	case deploy.Incomplete:
		return statusIncomplete
	}
	return statusFailed
}

// servedOf is what the listeners presented at the end of a change, nil if nobody
// asked them.
func servedOf(r deploy.Record) *status.Served {
	if len(r.Listeners) == 0 {
		return nil
	}
	s := &status.Served{Time: r.Time, Agrees: r.Outcome == deploy.Installed || r.Outcome == deploy.Unchanged}
	for _, l := range r.Listeners {
		s.Listeners = append(s.Listeners, status.Listener{
			Service: l.Service, Endpoint: l.Endpoint, SNI: l.SNI, KeyType: l.KeyType, Agrees: l.Verdict == probe.Proven,
			Verdict: string(l.Verdict), Reason: string(l.Reason), Leaf: l.Leaf,
		})
	}
	return s
}

// served is what the listeners presented when they were asked, nil if nobody asked.
func (a *app) served(obs []deploy.Observation) *status.Served {
	if len(obs) == 0 {
		return nil
	}
	s := &status.Served{Time: a.now(), Agrees: true, Words: "served and proven on " + listenerWords(&deploy.Report{Listeners: obs})}
	proven := 0
	for _, o := range obs {
		x := o.Expectation
		l := status.Listener{
			Service: x.Listener.ID(), Endpoint: x.Endpoint.Address, SNI: x.Endpoint.ServerName, KeyType: x.Endpoint.KeyType, Ignored: x.Ignore,
			Agrees: o.Verdict == probe.Proven, Verdict: string(o.Verdict), Reason: string(o.Reason), Words: o.Words(), Leaf: o.Result.Leaf(),
		}
		if len(o.Result.Chain) > 0 {
			l.NotAfter = o.Result.Chain[0].NotAfter.UTC()
		}
		if proven++; !l.Agrees {
			proven--
			s.Agrees = s.Agrees && x.Ignore
		}
		s.Listeners = append(s.Listeners, l)
	}
	if s.Agrees = s.Agrees && proven > 0; !s.Agrees {
		s.Words, s.IDs = firstWords(s), []string{"served_differs"}
	}
	return s
}

// recordStatus remembers how a change ended, so that status can fail until
// what is wanted is served. A dry run is nobody's wish.
func (a *app) recordStatus(s *site, r *deploy.Report, err error) {
	up, ok := a.statusUpdate(s, r, err)
	if !ok {
		return
	}
	switch r.Outcome {
	case deploy.Installed, deploy.Unchanged, deploy.NotVerified:
		// A person chose it and it is in place: from now on its renewals are taken
		// from there. One that was refused is nobody's wish.
		if a.from != nil {
			up.From, up.Issued = a.from, true
		}
	}
	if werr := a.records().Record(up); werr != nil {
		a.log.Warn("recording the status", "err", werr)
	}
}

// statusUpdate is what there is to remember of a change's end; false if nothing.
func (a *app) statusUpdate(s *site, r *deploy.Report, err error) (status.Update, bool) {
	if a.flags.dryRun || r == nil || r.Plan == nil || r.Plan.Name == "" {
		return status.Update{}, false
	}
	st, problems := advise(err)
	id := ""
	if e := problems.Errors(); len(e) > 0 {
		id = e[0].ID
	}
	up := status.Update{
		Instance: s.instance.ConfigDirectory, Name: r.Plan.Name, Time: a.now(), Outcome: string(r.Outcome),
		Exit: st, ID: id, Generation: r.Generation, Cause: r.Cause, Leaf: r.Leaf, History: r.ID, Service: r.Plan.Change.Service,
		Served: a.served(r.Listeners), Inputs: s.inputs, Final: anyFinal(problems),
	}
	if !r.Plan.Pair.IsZero() {
		up.Leaf = r.Plan.Pair.Fingerprint()
	}
	if e := problems.Errors(); len(e) > 0 {
		up.Message = e[0].Message
	}
	switch r.Outcome {
	case deploy.Installed, deploy.NotVerified:
		up.Released = r.Plan.Change.Release
		if !r.Recovered { // or nobody knows
			up.Rehearsed = rehearsedWords(r.Rehearsed)
		}
	}
	return up, true
}

func rehearsedWords(r deploy.Rehearsed) status.Rehearsed {
	switch {
	case r.OK:
		return "yes"
	case r.Reason == "":
		return "no"
	}
	return status.Rehearsed(r.Reason)
}
