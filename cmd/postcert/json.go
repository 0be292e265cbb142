package main

import (
	"bytes"
	"encoding/json"
	"time"

	"postcert/deploy"
	"postcert/verify/keypair"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// schema names the JSON contract. Within v1 fields are added, not changed.
const schema = "postcert/v1"

// result is what a command has to say: one object, also on failure.
type result struct {
	command  string
	status   int
	problems problem.List
	fields   []field // what the command is about, in the order it was added

	views    []*certView // of status, for --nagios
	told     bool        // the text was printed as a whole: nothing is to be said after it
	headline string      // the last line of the text: what happened, the state now, what to do
}

type field struct {
	name  string
	value any
}

func (a *app) newResult(command string) *result { return &result{command: command} }

// add puts a field into the JSON object.
func (r *result) add(name string, value any) { r.fields = append(r.fields, field{name, value}) }

// problem adds what was found, once.
func (r *result) problem(p problem.Problem) {
	for _, q := range r.problems {
		if q.ID == p.ID && q.Message == p.Message {
			return
		}
	}
	r.problems = append(r.problems, p)
}

// Error makes a result travel through cobra to run.
func (r *result) Error() string { return r.command }

// MarshalJSON writes the common head, then the command's own fields.
func (r *result) MarshalJSON() ([]byte, error) {
	head := []field{
		{"schema", schema}, {"command", r.command}, {"ok", r.status == statusOK},
		{"exit", r.status}, {"problems", emptyNotNull(r.problems)},
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range append(head, r.fields...) {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// emptyNotNull keeps JSON arrays from being null.
func emptyNotNull[T any, S ~[]T](s S) S {
	if s == nil {
		return S{}
	}
	return s
}

type certificateJSON struct {
	Fingerprint string    `json:"fingerprint"`
	SPKI        string    `json:"spki"`
	Names       []string  `json:"names"`
	KeyType     string    `json:"key_type"`
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Chain       []string  `json:"chain"` // fingerprints, leaf first
}

func certificateOf(p keypair.Pair) *certificateJSON {
	if p.IsZero() {
		return nil
	}
	leaf := p.Leaf()
	c := &certificateJSON{
		Fingerprint: p.Fingerprint(), SPKI: p.SPKI(), Names: emptyNotNull(leaf.DNSNames), KeyType: p.KeyType(),
		Issuer: leaf.Issuer.String(), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
	}
	for _, x := range p.Chain() {
		c.Chain = append(c.Chain, keypair.Fingerprint(x))
	}
	return c
}

type editJSON struct {
	Service   string  `json:"service"` // "" is main.cf
	Parameter string  `json:"parameter"`
	Old       *string `json:"old"` // null: not set
	New       *string `json:"new"` // null: removed
}

type planJSON struct {
	Instance    string           `json:"instance"`
	Name        string           `json:"name"`
	Running     bool             `json:"running"`
	Unchanged   bool             `json:"unchanged"`
	Scheme      string           `json:"scheme"`
	Files       []string         `json:"files"`
	Edits       []editJSON       `json:"edits"`
	Diff        string           `json:"diff"`
	Certificate *certificateJSON `json:"certificate"`
	Dependants  []string         `json:"dependants"`
	Left        []string         `json:"left"`
	Listeners   []expectJSON     `json:"listeners"`
}

type expectJSON struct {
	Service  string     `json:"service"`
	Endpoint string     `json:"endpoint"`
	Mode     string     `json:"mode"`
	SNI      string     `json:"sni"`
	KeyType  string     `json:"key_type"`
	New      bool       `json:"new"` // is to serve the pair of this change
	Ignored  bool       `json:"ignored"`
	Accept   [][]string `json:"accept"` // chains that prove it, as fingerprints
	Baseline string     `json:"baseline"`
	Before   []string   `json:"before"` // what was presented before, as fingerprints
}

// planOf renders a plan. It holds nothing that depends on when or how often it
// is made, so that the plan of a dry run and that of the later run are equal.
func planOf(p *deploy.Plan) *planJSON {
	if p == nil {
		return nil
	}
	j := &planJSON{
		Instance: p.Instance, Name: p.Name, Running: p.Running.Running, Unchanged: p.Unchanged,
		Scheme: p.Scheme.Kind, Files: []string{}, Edits: []editJSON{}, Diff: planDiff(p),
		Certificate: certificateOf(p.Pair), Dependants: emptyNotNull(p.Scheme.Dependants),
		Left: []string{}, Listeners: []expectJSON{},
	}
	for _, f := range p.Files {
		j.Files = append(j.Files, f.Path)
	}
	for _, f := range p.Change.Files {
		if !f.Own {
			j.Files = append(j.Files, f.Path)
		}
	}
	for _, f := range p.Copies() {
		j.Files = append(j.Files, f.Path)
	}
	for _, e := range p.Edits {
		j.Edits = append(j.Edits, editJSON{e.Service, e.Parameter, e.Old, e.New})
	}
	for _, l := range p.Scheme.Left {
		j.Left = append(j.Left, l.Service+": "+l.Name+"="+l.Value)
	}
	for _, x := range p.Expect {
		j.Listeners = append(j.Listeners, expectOf(x))
	}
	return j
}

func expectOf(x deploy.Expectation) expectJSON {
	e := expectJSON{
		Service: x.Listener.ID(), Endpoint: x.Endpoint.Address, Mode: string(x.Endpoint.Mode),
		SNI: x.Endpoint.ServerName, KeyType: x.Endpoint.KeyType, New: x.New, Ignored: x.Ignore,
		Accept: [][]string{}, Baseline: string(x.Baseline.Reason), Before: emptyNotNull(x.Baseline.Fingerprints()),
	}
	for _, chain := range x.Accept {
		e.Accept = append(e.Accept, probe.Result{Raw: chain}.Fingerprints())
	}
	return e
}

type stepJSON struct {
	Step   string `json:"step"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Took   int64  `json:"took_ms"`
}

type observedJSON struct {
	Service  string        `json:"service"`
	Endpoint string        `json:"endpoint"`
	SNI      string        `json:"sni"`
	KeyType  string        `json:"key_type"`
	Verdict  probe.Verdict `json:"verdict"`
	Reason   probe.Reason  `json:"reason"`
	Attempts int           `json:"attempts"`
	Result   probe.Result  `json:"result"`
}

type transactionJSON struct {
	Outcome    deploy.Outcome   `json:"outcome"`
	Rehearsed  deploy.Rehearsed `json:"rehearsed"`
	Generation int              `json:"generation"`
	Running    bool             `json:"running"`
	Cause      string           `json:"cause"`
	Steps      []stepJSON       `json:"steps"`
	Listeners  []observedJSON   `json:"listeners"`
	Conflicts  []string         `json:"conflicts"`
	Log        []string         `json:"log"`
	ByHand     []string         `json:"by_hand,omitempty"` // what finishes a rollback that is incomplete, in order
	Time       time.Time        `json:"time"`
}

func transactionOf(r *deploy.Report) *transactionJSON {
	if r == nil {
		return nil
	}
	j := &transactionJSON{
		Outcome: r.Outcome, Rehearsed: r.Rehearsed, Generation: r.Generation, Running: r.Running,
		Cause: r.Cause, Steps: []stepJSON{}, Listeners: []observedJSON{},
		Conflicts: emptyNotNull(r.Conflicts), Log: emptyNotNull(r.Log), ByHand: byHand(r), Time: r.Time.UTC().Truncate(time.Second),
	}
	for _, s := range r.Steps {
		j.Steps = append(j.Steps, stepJSON{string(s.Step), s.Err == nil, s.Detail, s.Took.Milliseconds()})
	}
	for _, o := range r.Listeners {
		j.Listeners = append(j.Listeners, observedOf(o))
	}
	return j
}
