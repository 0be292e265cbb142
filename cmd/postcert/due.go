package main

import (
	"errors"
	"slices"
	"time"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/daemon"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/keypair"
)

// due is what is next about every certificate: for the daemon, which asks again
// and again, and holds nothing in memory that the disk does not know; and the files
// of other clients, which it watches. No key is read for it.
func (a *app) due(now time.Time) (out []daemon.Task, sources []keypair.Source, wrong error) {
	list, wrong := a.wishes(nil)
	for _, w := range list {
		turn, err := a.turns().Read(w.name)
		wrong = errors.Join(wrong, err)
		t := daemon.Task{Name: w.name, Account: "deploy " + w.name}
		if w.source == config.SourceACME {
			t.Account = "account " + w.spec.Directory + " " + w.spec.Account
		}
		var s glimpse
		fresh := false
		if w.foreign() {
			s = a.lookAt(w, turn)
			t.About, fresh = s.seen.About(), turn.Seen.Changed(s.seen)
		}
		if s.src.Cert != "" {
			sources = append(sources, s.src)
		}
		t.At, t.Why = a.dueOf(w, s, turn, now)
		// What is new does not wait for what failed with the old.
		if floor := turn.NotBefore(now); floor.After(t.At) && !fresh {
			t.At, t.Why = floor, t.Why+", again"
		}
		out = append(out, t)
	}
	for _, rec := range a.lookedAfter(list) {
		t := daemon.Task{Name: rec.Name, Account: "deploy " + rec.Name, At: a.probeDue(rec, now), Why: "daily proof"}
		if i := slices.IndexFunc(out, func(other daemon.Task) bool { return other.Name == t.Name }); i < 0 {
			out = append(out, t)
		} else if t.At.Before(out[i].At) {
			out[i] = t // of another instance
		}
	}
	return out, sources, wrong
}

// dueOf is when one certificate has its next turn, and for what: an order or a
// question to the CA, a deploy that is to be tried again, the daily proof.
func (a *app) dueOf(w wish, s glimpse, turn status.Turn, now time.Time) (time.Time, string) {
	var at time.Time
	var why string
	sooner := func(t time.Time, words string) { // of what is due already, the first that is named
		if t.Before(now) {
			t = now
		}
		if at.IsZero() || t.Before(at) {
			at, why = t, words
		}
	}
	leaf := turn.Leaf
	if w.source == config.SourceACME {
		var t time.Time
		var words string
		t, words, leaf = a.orderDue(w, now)
		sooner(t, words)
	} else if t, words := s.due(turn, now); !t.IsZero() {
		sooner(t, words)
	}
	if leaf != turn.Leaf {
		sooner(now, "deploy")
	}
	list, known := a.targets(w)
	if !known {
		list = a.recordedTargets(w)
	}
	for _, t := range list {
		rec, err := a.records().Read(t.directory, w.name)
		if err != nil || rec == nil {
			continue
		}
		if again := rec.RetryAt(now); !again.IsZero() {
			sooner(again, "deploy again")
		}
		if rec.Refused != nil && !rec.Waits(a.inputs(t.directory, a.filesOf(w))) {
			sooner(now, "deploy, because something was changed")
		}
		if rec.Served != nil && !rec.Served.Agrees && !rec.Released {
			sooner(a.probeDue(rec, now), "another look at the listeners")
		}
	}
	sooner(dailyAt(turn, now), "daily proof")
	return at, why
}

// dailyAt is the next daily turn after the last one. A turn that ended in the
// future ended before the clock was set back.
func dailyAt(turn status.Turn, now time.Time) time.Time {
	if turn.Ended.After(now) {
		return daemon.Daily(turn.Name, now)
	}
	return daemon.Daily(turn.Name, turn.Ended)
}

// orderDue is when the CA is to be asked for something next, and the fingerprint
// of the live certificate.
func (a *app) orderDue(w wish, now time.Time) (time.Time, string, string) {
	m, err := a.manager()
	if err != nil {
		return now, "the state cannot be read", ""
	}
	st, err := m.StateOf(w.spec)
	if err != nil {
		return now, "the state cannot be read", ""
	}
	leaf := ""
	if st.Current != nil {
		leaf = st.Current.SHA256
	}
	d := acme.Next(w.spec, st, st.Current, now)
	words := orText(nextWords[d.Reason], d.Reason)
	if d.Action == acme.ARI || d.Action == acme.None && d.At.Before(d.Attempt) {
		words = "a question to the CA"
	}
	return d.At, words, leaf
}

// filesOf are the files of the pair that a wish is about now.
func (a *app) filesOf(w wish) pairFiles {
	if w.source != config.SourceACME {
		return w.watched()
	}
	m, err := a.manager()
	if err != nil {
		return pairFiles{}
	}
	st, err := m.StateOf(w.spec)
	if err != nil || st.Current == nil {
		return pairFiles{}
	}
	return lineageFiles(st.Current.Dir)
}

// recordedTargets are the instances that have a record of a certificate.
func (a *app) recordedTargets(w wish) []target {
	var out []target
	for _, dir := range a.records().Instances(w.name) {
		out = append(out, target{dir})
	}
	return out
}
