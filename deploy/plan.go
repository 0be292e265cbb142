package deploy

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix/cf"
	"postcert/verify"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Plan is what a Change means for one instance: what will be written, and what
// every listener must present afterwards. It is a value; making it touches
// nothing of production.
type Plan struct {
	Instance   string // configuration directory
	Name       string // certificate name
	Change     Change
	Pair       keypair.Pair // as it will be installed: without a root
	Before     cf.Snapshot
	Candidate  cf.Snapshot // configuration after the change; equal to Before for a file switch
	Main       []byte      // main.cf after the change
	Master     []byte      // master.cf after the change
	Scheme     cf.Scheme
	Edits      []cf.Edit
	Files      []PlannedFile // files of the certificate, in the order they are written
	Companions []Companion   // those that get the certificate too
	Listeners  []cf.Listener
	Former     []Expectation // what was asked before the change, and answered
	Expect     []Expectation // what is asked after it
	Problems   problem.List
	Unchanged  bool // installed, configured and served already
	Running    Master
	Obsolete   []string // files of ours that nothing names once this is proven

	host    cf.Host
	settled bool // the candidate is made: Files count as holding the pair
}

// PlannedFile is one file of the certificate.
type PlannedFile struct {
	Path string
	Part Part
	Attr *atomicfile.Attr // owner and mode; nil: those of our own files
}

// Copies are the files that companions get.
func (p *Plan) Copies() []PlannedFile {
	var out []PlannedFile
	for _, c := range p.Companions {
		out = append(out, c.Export.files()...)
	}
	return out
}

// Part is what of a pair a file holds.
type Part string

const (
	PartPostfix   Part = "postfix"   // key, leaf, intermediates
	PartFullchain Part = "fullchain" // leaf, intermediates
	PartKey       Part = "key"
)

func (p Part) of(pair keypair.Pair) []byte {
	switch p {
	case PartFullchain:
		return pair.Fullchain()
	case PartKey:
		return pair.PrivateKey()
	}
	return pair.Postfix()
}

// Configures tells whether the plan edits main.cf or master.cf.
func (p *Plan) Configures() bool { return len(p.Edits) > 0 }

// Plan decides what c means, or says in problems why it is refused. The error
// is a problem.List in that case, and the plan is returned as far as it got.
func (e *Engine) Plan(ctx context.Context, c Change) (*Plan, error) {
	before, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Instance: before.Dir, Change: c, Before: before, Candidate: before,
		Main: before.Main.Data, Master: before.Master.Data, Pair: c.Pair, host: e.Host}
	if p.Running, err = e.MTA.Master(ctx); err != nil {
		return p, err
	}
	if !c.plain() {
		p.Name = e.chooseName(before, c)
		if err := generation.ValidName(p.Name); err != nil {
			return p, problem.List{problem.New("name_invalid", problem.At{}, "%v", err)}
		}
		p.Name = generation.FileName(p.Name)
	}
	p.Listeners = before.Listeners(e.Host)
	p.decideScheme(e.now())
	p.Companions = e.companions(p)
	if c.Release && len(e.Companions) > 0 {
		p.Problems = append(p.Problems, problem.Warn("companion_left", problem.At{Service: e.Companions[0].Name},
			"%s keeps the copies of the certificate that it has: what it used before is not known here", e.Companions[0].Name))
	}
	p.Former = p.expectations(before)
	if p.Running.Running {
		if p.survivable(); p.Problems.Has("listener_not_bindable") || p.Problems.Has("config_broken") {
			return p, p.Problems.Err() // who answers there may not be Postfix: not worth asking
		}
		e.baseline(ctx, p)
	}
	p.judge(e.now())
	if err := p.Problems.Err(); err != nil {
		return p, err
	}
	if err := e.candidate(ctx, p); err != nil {
		return p, err
	}
	if p.addsEntries(); p.Problems.Err() != nil {
		return p, p.Problems.Err()
	}
	if lost := p.losesTLS(p.Candidate); lost != nil && !c.plain() && !c.Release {
		p.Problems = append(p.Problems, problem.New("tls_lost", problem.At{Service: lost.Service}, "%v", lost))
		return p, p.Problems.Err()
	}
	p.settleExpectations()
	p.Obsolete = p.obsolete()
	e.foresee(p)
	p.Unchanged = p.agrees()
	return p, p.Problems.Err()
}

// chooseName is the name of the certificate: the one asked for; the one that
// the instance already serves from our directory; the lineage's; the leaf's
// first DNS name.
func (e *Engine) chooseName(s cf.Snapshot, c Change) string {
	if c.Name != "" {
		return c.Name
	}
	for _, f := range certificateFiles(s, c.Service) {
		if name, ok := nameOf(s.Dir, f); ok {
			return name
		}
	}
	if c.Lineage != "" {
		return c.Lineage
	}
	if !c.Pair.IsZero() && len(c.Pair.Leaf().DNSNames) > 0 {
		return generation.FileName(c.Pair.Leaf().DNSNames[0])
	}
	return ""
}

// decideScheme chooses the files and the edits that carry the certificate.
func (p *Plan) decideScheme(now time.Time) {
	p.Edits = slices.Clone(p.Change.Edits)
	if p.Pair.IsZero() {
		return
	}
	dir := filepath.Join(p.Before.Dir, Directory)
	t := cf.Target{
		Path: filepath.Join(dir, p.Name+".pem"), KeyType: p.Pair.KeyType(),
		Names:  p.Pair.Leaf().DNSNames,
		Enable: p.Change.Enable, Service: p.Change.Service, AdoptOverrides: p.Change.AdoptOverrides,
		Layout: string(p.Change.Layout), SNINames: sniNames(p.Before),
		Look: look(p.Change.Policy.Anchors, now),
	}
	p.Files = []PlannedFile{{Path: t.Path, Part: PartPostfix}}
	switch p.Change.Layout {
	case LayoutPair:
		t.CertPath = pairPath(p.Before.Dir, p.Name, p.Pair, PartFullchain)
		t.KeyPath = pairPath(p.Before.Dir, p.Name, p.Pair, PartKey)
		p.Files = []PlannedFile{{Path: t.KeyPath, Part: PartKey}, {Path: t.CertPath, Part: PartFullchain}}
	case LayoutKeep:
		p.Files = nil
	}
	p.Scheme = p.Before.CertificateEdits(t)
	p.Edits = append(p.Edits, p.Scheme.Edits...)
	p.Problems = append(p.Problems, p.Scheme.Problems...)
	if p.Change.Layout == LayoutKeep && len(p.Problems.Errors()) == 0 {
		p.keepMustHold()
	}
}

// keepMustHold refuses a pair that is not the one which the files in effect
// hold: the layout "keep" edits nothing, so there is nothing it could do.
func (p *Plan) keepMustHold() {
	for _, id := range p.Scheme.Services {
		if held := onDisk(p.Before, id, nil)[p.Pair.KeyType()]; !sameChain(held, rawChain(p.Pair.Chain())) {
			p.Problems = append(p.Problems, problem.New("keep_differs", problem.At{Service: id},
				"layout keep changes no file, and what %s reads (%s) is another certificate than the given one",
				id, strings.Join(certificateFiles(p.Before, id), ", ")))
			return
		}
	}
}

// judge asks verify whether the pair is fit, against the names and the leaf
// that are served until now.
func (p *Plan) judge(now time.Time) {
	if p.Pair.IsZero() || !p.Change.Judge {
		return
	}
	pol := p.Change.Policy
	pol.At = now
	pol.Served, pol.ServedAt = p.servedLeaves(pol.Anchors, now)
	host := p.Before.Effective("", "myhostname")
	if len(pol.Names) == 0 && len(pol.Served) == 0 {
		pol.Names = []string{host}
	} else if !verify.Covers(p.Pair.Leaf(), host) {
		p.Problems = append(p.Problems, problem.Warn("helo_name_not_covered", problem.At{Parameter: "myhostname"},
			"the certificate does not cover myhostname (%s), the name Postfix greets with", host))
	}
	p.Problems = append(p.Problems, verify.Pair(p.Pair, pol)...)
}

// servedLeaves are the trusted, unexpired leaves that the services of this
// change present now, and where, if not everywhere. Only those set requirements:
// a self-signed or expired certificate has nobody relying on it, and one at a
// listener that is left out is somebody else's.
func (p *Plan) servedLeaves(a verify.Anchors, now time.Time) ([]*x509.Certificate, map[*x509.Certificate]string) {
	var out []*x509.Certificate
	at := map[*x509.Certificate]string{}
	seen := map[string]bool{}
	asked := slices.DeleteFunc(slices.Clone(p.Former), func(x Expectation) bool { return !x.New || x.Ignore || len(x.Baseline.Chain) == 0 })
	for _, x := range asked {
		chain := x.Baseline.Chain
		if seen[x.Baseline.Leaf()] {
			continue
		}
		seen[x.Baseline.Leaf()] = true
		if verify.Trusted(chain, a, now) == nil {
			out = append(out, chain[0])
		}
		if !everywhere(asked, x.Baseline.Leaf()) {
			at[chain[0]] = x.Endpoint.Address
		}
	}
	return out, at
}

// everywhere tells whether each address that was asked presents this leaf to at
// least one of the questions.
func everywhere(asked []Expectation, leaf string) bool {
	presents := map[string]bool{}
	for _, x := range asked {
		presents[x.Endpoint.Address] = presents[x.Endpoint.Address] || x.Baseline.Leaf() == leaf
	}
	for _, yes := range presents {
		if !yes {
			return false
		}
	}
	return true
}

// candidate edits copies of both files and lets postconf judge them. The plan
// invariant: the configuration before and after differs in the planned
// parameters and in those that follow them by reference, and in nothing else.
func (e *Engine) candidate(ctx context.Context, p *Plan) error {
	if len(p.Edits) == 0 {
		return nil
	}
	var err error
	if p.Main, p.Master, err = cf.Apply(p.Before.Main.Data, p.Before.Master.Data, p.Edits); err != nil {
		return fmt.Errorf("editing a copy of the configuration: %w", err)
	}
	if list := unwritable(p.Before, p.Edits); list != nil {
		p.Problems = append(p.Problems, list...)
		return list
	}
	if p.Candidate, err = e.MTA.Candidate(ctx, p.Main, p.Master); err != nil {
		return err
	}
	for _, d := range cf.Differences(p.Before, p.Candidate) {
		if !p.planned(d) {
			p.Problems = append(p.Problems, problem.New("plan_invariant", problem.At{Parameter: d.Parameter, Service: d.Service},
				"the edit would also change %s from %q to %q, which is not planned", d.Parameter, d.Before, d.After))
		}
	}
	return p.Problems.Err()
}

// unwritable refuses edits of values that are not UTF-8. The journal and
// generation 0 keep them as JSON, which has no other bytes: an undo would put
// back another value than the one that was there.
func unwritable(s cf.Snapshot, edits []cf.Edit) problem.List {
	var out problem.List
	for _, ed := range edits {
		if !slices.ContainsFunc(wordsOf(ed), func(w string) bool { return !utf8.ValidString(w) }) {
			continue
		}
		at := problem.At{Parameter: ed.Parameter, Service: ed.Service}
		at.File, at.Line = s.Source(ed.Service, ed.Parameter)
		out = append(out, problem.New("value_not_utf8", at, "%s, line %d: the value of %s is not UTF-8, so it could not be put back as it is",
			filepath.Base(at.File), at.Line, ed.Parameter))
	}
	return out
}

// wordsOf are the texts of an edit.
func wordsOf(ed cf.Edit) []string {
	out := []string{ed.Service, ed.Parameter, ed.OldText, ed.NewText}
	for _, v := range []*string{ed.Old, ed.New} {
		if v != nil {
			out = append(out, *v)
		}
	}
	return out
}

func (p *Plan) planned(d cf.Difference) bool {
	for _, ed := range p.Edits {
		if ed.Parameter == d.Parameter && (ed.Service == d.Service || ed.Service == "") || ed.IsEntry() && ed.Service == d.Service {
			return true
		}
	}
	if p.follows(d) {
		return true
	}
	return slices.Contains(p.Scheme.Dependants, d.Parameter) || slices.Contains(p.Scheme.Dependants, d.Service+":"+d.Parameter)
}

// follows tells that a parameter moved because its value, which nobody edited,
// names an edited one.
func (p *Plan) follows(d cf.Difference) bool {
	asked := p.Change.Release || p.Pair.IsZero() && len(p.Change.Edits) > 0
	return asked && p.Before.Parameters[d.Parameter] == p.Candidate.Parameters[d.Parameter]
}
