package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"postcert/deploy/journal"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// Record is one line of the history: what was done, and how it ended. Its JSON
// is part of the contract of "postcert history --json".
type Record struct {
	ID         string           `json:"id"`
	Time       time.Time        `json:"time"`
	Instance   string           `json:"instance"`
	Name       string           `json:"name"`
	Reason     string           `json:"reason"`
	Source     string           `json:"source"`
	Outcome    Outcome          `json:"outcome"`
	Generation int              `json:"generation"`
	Leaf       string           `json:"leaf"` // fingerprint; "" if the change was about no pair
	Rehearsed  json.RawMessage  `json:"rehearsed"`
	Cause      string           `json:"cause"`             // why it was refused or undone
	Problem    string           `json:"problem,omitempty"` // id of the first problem that refused it
	Took       int64            `json:"took_ms"`
	Listeners  []ListenerRecord `json:"listeners"`
}

// ListenerRecord is how one listener answered in the end.
type ListenerRecord struct {
	Service  string        `json:"service"`
	Endpoint string        `json:"endpoint"`
	SNI      string        `json:"sni"`
	KeyType  string        `json:"key_type"`
	Verdict  probe.Verdict `json:"verdict"`
	Reason   probe.Reason  `json:"reason"`
	Leaf     string        `json:"leaf"`
}

// RehearsedWords is the record's "rehearsed" for people.
func (r Record) RehearsedWords() string {
	switch s := string(r.Rehearsed); s {
	case "true":
		return "yes"
	case "false", "":
		return "no"
	}
	return "no: " + string(r.Rehearsed)
}

// History returns the records of this engine's instance, oldest first.
func (e *Engine) History() ([]Record, error) {
	raw, err := e.journalFor(context.Background(), nil).Records()
	if err != nil {
		return nil, err
	}
	return e.historyOf(raw)
}

// HistoryAfter returns the records of this engine's instance since the one with
// this id, oldest first. found is false if there is none with it, and all are
// returned.
//
// A change that was interrupted while it was closed has a record already, and none
// of its own end yet: it is left out.
func (e *Engine) HistoryAfter(id string) (out []Record, found bool, err error) {
	j := e.journalFor(context.Background(), nil)
	open, err := j.Open() // first: what is closed in between has its final record
	if err != nil {
		return nil, false, err
	}
	raw, found, err := j.RecordsAfter(id)
	if err != nil {
		return nil, false, err
	}
	out, err = e.historyOf(slices.DeleteFunc(raw, func(r journal.Record) bool { return open != nil && r.ID == open.ID() }))
	return out, found, err
}

// historyOf are the records of this engine's instance, oldest first.
func (e *Engine) historyOf(raw []journal.Record) (out []Record, err error) {
	for _, entry := range slices.Backward(raw) {
		var r Record
		if err := json.Unmarshal(entry.Detail, &r); err != nil {
			return nil, fmt.Errorf("reading the history: %w", err)
		}
		r.ID = entry.ID
		if e.Instance == "" || r.Instance == e.Instance {
			out = append(out, r)
		}
	}
	return out, nil
}

// remember adds a record of a change that ended before it had a journal. What
// was unchanged is not worth one; a transaction's own record was written when
// it was closed. A history that cannot be written changes no outcome.
func (r *run) remember(err error) {
	if r.dry || r.report.Outcome != Refused && r.report.Outcome != Failed {
		return
	}
	data, jerr := json.Marshal(r.record(err))
	if jerr == nil {
		r.report.ID, jerr = r.journalFor(context.Background(), nil).Remember(string(r.report.Outcome), data)
	}
	if jerr != nil {
		r.report.ID = ""
		r.logger().Warn("writing the history", "err", jerr)
	}
}

func (r *run) record(err error) Record {
	p := r.plan
	rec := Record{
		Time: r.now().UTC(), Instance: p.Instance, Name: p.Name, Reason: p.Change.Reason, Source: p.Change.Source,
		Outcome: r.report.Outcome, Generation: r.report.Generation, Cause: r.report.Cause, Listeners: []ListenerRecord{},
	}
	rec.Rehearsed, _ = r.report.Rehearsed.MarshalJSON()
	rec.Leaf = r.report.Leaf // of a recovered change
	if !p.Pair.IsZero() {
		rec.Leaf = p.Pair.Fingerprint()
	}
	if errs := problem.From(err).Errors(); len(errs) > 0 {
		rec.Problem = errs[0].ID
	}
	if rec.Cause == "" && err != nil {
		rec.Cause = err.Error()
	}
	for _, s := range r.steps { // the report gets them only after the journal was closed
		rec.Took += s.Took.Milliseconds()
	}
	for _, o := range r.report.Listeners {
		rec.Listeners = append(rec.Listeners, ListenerRecord{
			Service: o.Expectation.Listener.ID(), Endpoint: o.Expectation.Endpoint.Address, SNI: o.Expectation.Endpoint.ServerName,
			KeyType: o.Expectation.Endpoint.KeyType, Verdict: o.Verdict, Reason: o.Reason, Leaf: o.Result.Leaf(),
		})
	}
	return rec
}
