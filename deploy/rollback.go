package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"postcert/deploy/generation"
	"postcert/deploy/lock"
	"postcert/deploy/postfix/cf"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// State is what one certificate looks like now.
type State struct {
	Name       string
	File       string // the file that Postfix reads
	Generation int    // 0 if the file is none of ours
	Pair       keypair.Pair
	Err        error          // why Pair is zero
	Known      map[string]int // the generations that are kept, by the fingerprint of their leaf
	Listeners  []Observation
	Running    bool
	Open       bool // an interrupted transaction waits for recover
	Busy       bool // or it is not interrupted: somebody is at it right now

	Tables problem.List // tables by server name of the instance that serve what was there before
}

// Listeners are the questions that a proof would ask now, without expecting
// anything in particular.
func (e *Engine) Listeners(ctx context.Context) ([]Expectation, error) {
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Instance: s.Dir, Before: s, Candidate: s, Listeners: s.Listeners(e.Host), Companions: e.Companions}
	return p.expectations(s), nil
}

// States asks what is installed and served now, for each certificate that the
// instance reads from our directory. It changes nothing and takes no lock.
func (e *Engine) States(ctx context.Context) ([]State, error) {
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	m, err := e.MTA.Master(ctx)
	if err != nil {
		return nil, err
	}
	_, tx, err := e.openTransaction(ctx)
	if err != nil {
		return nil, err
	}
	busy := false
	if tx != nil {
		_, busy = lock.Held(e.lockPath())
	}
	var tables problem.List
	for _, t := range staleTables(s) {
		tables = append(tables, t.problem())
	}
	listeners := s.Listeners(e.Host)
	var out []State
	for _, name := range names(s, listeners) {
		st := e.state(s, name)
		st.Running, st.Open, st.Busy, st.Tables = m.Running, tx != nil, busy, tables
		if m.Running && !st.Pair.IsZero() {
			st.Listeners = e.served(ctx, s, listeners, st)
		}
		out = append(out, st)
	}
	return out, nil
}

// names are the certificates that some service reads from our directory.
func names(s cf.Snapshot, listeners []cf.Listener) []string {
	var out []string
	services := []string{""}
	for _, l := range listeners {
		services = append(services, l.ID())
	}
	for _, id := range services {
		for _, f := range certificateFiles(s, id) {
			if n, ok := nameOf(s.Dir, f); ok && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// pairName is the base of a file of the layout "pair": see pairPath.
var pairName = regexp.MustCompile(`^(.+)-[0-9a-f]{12}\.(?:fullchain|privkey)$`)

// nameOf is the certificate's name, if path is a file of ours.
func nameOf(dir, path string) (string, bool) {
	if filepath.Dir(path) != filepath.Join(dir, Directory) || !strings.HasSuffix(path, ".pem") {
		return "", false
	}
	base := strings.TrimSuffix(filepath.Base(path), ".pem")
	if m := pairName.FindStringSubmatch(base); m != nil {
		return m[1], true
	}
	return base, true
}

// state reads what is installed under a name.
func (e *Engine) state(s cf.Snapshot, name string) State {
	st := State{Name: name, File: filepath.Join(s.Dir, Directory, name+".pem"), Known: map[string]int{}}
	gens, err := e.Store.List(s.Dir, name)
	if err != nil {
		st.Err = err
		return st
	}
	for _, g := range slices.Backward(gens) {
		if g.Number == 0 {
			continue
		}
		pair, err := e.pairOf(g)
		if err != nil {
			continue
		}
		if st.Known[pair.Fingerprint()] == 0 {
			st.Known[pair.Fingerprint()] = g.Number
		}
		if st.Generation > 0 {
			continue
		}
		if p := installedAs(s, name, pair); p != "" {
			st.File, st.Generation, st.Pair = p, g.Number, pair
		}
	}
	if st.Generation > 0 {
		return st
	}
	data, err := readInstalled(st.File)
	if err == nil {
		st.Pair, err = keypair.ParseInstalled(keypair.Input{Name: st.File, Data: data})
	}
	st.Err = err
	return st
}

// installedAs is the file that holds the pair, in either layout.
func installedAs(s cf.Snapshot, name string, pair keypair.Pair) string {
	if path := filepath.Join(s.Dir, Directory, name+".pem"); holds(path, pair.Postfix()) {
		return path
	}
	if path := pairPath(s.Dir, name, pair, PartFullchain); holds(path, pair.Fullchain()) {
		return path
	}
	return ""
}

// pairPath names a file of the layout "pair", by the pair it holds.
func pairPath(dir, name string, pair keypair.Pair, part Part) string {
	kind := "fullchain"
	if part == PartKey {
		kind = "privkey"
	}
	return filepath.Join(dir, Directory, fmt.Sprintf("%s-%s.%s.pem", name, pair.Fingerprint()[:12], kind))
}

// obsolete are the files that the layout "pair" wrote for earlier pairs of this
// name and that neither configuration file names after the change. Their
// bytes are in the store; a key that nothing reads must not stay behind.
func (p *Plan) obsolete() []string {
	dir := filepath.Join(p.Instance, Directory)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // there is none yet
	}
	var out []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, ok := strings.CutPrefix(e.Name(), p.Name+"-")
		id, kind, _ := strings.Cut(id, ".")
		named := bytes.Contains(p.Main, []byte(e.Name())) || bytes.Contains(p.Master, []byte(e.Name()))
		writing := slices.ContainsFunc(p.Files, func(f PlannedFile) bool { return f.Path == path })
		if ok && len(id) == 12 && (kind == "fullchain.pem" || kind == "privkey.pem") && !named && !writing {
			out = append(out, path)
		}
	}
	return out
}

// served asks the listeners whose service reads the certificate's file.
func (e *Engine) served(ctx context.Context, s cf.Snapshot, listeners []cf.Listener, st State) []Observation {
	p := &Plan{Instance: s.Dir, Name: st.Name, Before: s, Candidate: s, Pair: st.Pair, Listeners: listeners}
	for _, l := range listeners {
		if slices.Contains(certificateFiles(s, l.ID()), st.File) {
			p.Scheme.Services = append(p.Scheme.Services, l.ID())
		}
	}
	if len(p.Scheme.Services) > 0 {
		p.Companions = e.companions(p)
	}
	var ask []Expectation
	for _, x := range p.expectations(s) {
		if kt := x.Endpoint.KeyType; x.New && (kt == "" || kt == st.Pair.KeyType()) {
			x.Accept = [][][]byte{rawChain(st.Pair.Chain())}
			ask = append(ask, x)
		}
	}
	return proof{prober: e.Prober}.observeOnce(ctx, ask)
}

func (e *Engine) pairOf(g generation.Generation) (keypair.Pair, error) {
	data, err := readInstalled(g.Postfix())
	if err != nil {
		return keypair.Pair{}, err
	}
	defer clear(data)
	return keypair.ParseInstalled(keypair.Input{Name: g.Postfix(), Data: data})
}

// Rollback is the change that installs an earlier generation again: number to,
// or, with 0, the one before the present one. It was judged when it was
// installed first, so it is not judged again.
func (e *Engine) Rollback(ctx context.Context, name string, to int) (Change, error) {
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return Change{}, err
	}
	if name, err = e.onlyName(s, name); err != nil {
		return Change{}, err
	}
	gens, err := e.Store.List(s.Dir, name)
	if err != nil {
		return Change{}, err
	}
	g, err := pick(gens, e.state(s, name).Generation, to, name)
	if err != nil {
		return Change{}, err
	}
	pair, err := e.pairOf(g)
	if err != nil {
		return Change{}, fmt.Errorf("reading generation %d: %w", g.Number, err)
	}
	return Change{Reason: fmt.Sprintf("rollback to %d", g.Number), Name: name, Pair: pair, Source: g.Postfix(), Generation: g.Number,
		Service: e.readBy(s, name)}, nil
}

// readBy is the service that alone reads a certificate; "" if main.cf names it,
// or nothing does.
func (e *Engine) readBy(s cf.Snapshot, name string) string {
	reads := func(service string) bool {
		return slices.ContainsFunc(certificateFiles(s, service), func(f string) bool {
			n, ours := nameOf(s.Dir, f)
			return ours && n == name
		})
	}
	if reads("") {
		return ""
	}
	for _, l := range s.Listeners(e.Host) {
		if reads(l.ID()) {
			return l.ID()
		}
	}
	return ""
}

// onlyName is the certificate meant when none was named.
func (e *Engine) onlyName(s cf.Snapshot, name string) (string, error) {
	have := names(s, s.Listeners(e.Host))
	switch {
	case name != "":
		return name, nil
	case len(have) == 1:
		return have[0], nil
	case len(have) == 0:
		return "", problem.List{problem.New("name_unknown", problem.At{}, "no certificate of postcert is in use on %s", s.Dir)}
	}
	return "", problem.List{problem.New("name_ambiguous", problem.At{}, "several certificates are in use on %s: %s", s.Dir, strings.Join(have, ", "))}
}

// pick chooses the generation to go back to.
func pick(gens []generation.Generation, current, to int, name string) (generation.Generation, error) {
	var numbers []string
	best := generation.Generation{}
	for _, g := range gens {
		if g.Number == 0 {
			continue
		}
		numbers = append(numbers, fmt.Sprint(g.Number))
		if g.Number == to || to == 0 && g.Number < current && g.Number > best.Number {
			best = g
		}
	}
	if best.Number > 0 {
		return best, nil
	}
	have := strings.Join(numbers, ", ")
	switch {
	case len(numbers) == 0:
		return best, problem.List{problem.New("generation_unknown", problem.At{}, "there is no generation of %s", name)}
	case to != 0:
		return best, problem.List{problem.New("generation_unknown", problem.At{}, "there is no generation %d of %s; there are %s", to, name, have)}
	case current == 0:
		return best, problem.List{problem.New("generation_unknown", problem.At{}, "what is installed as %s is none of the generations %s; name one", name, have)}
	}
	return best, problem.List{problem.New("generation_unknown", problem.At{}, "generation %d of %s is the oldest that is kept", current, name)}
}

// releaseReason is the reason of a Release, by which a recovery knows it.
const releaseReason = "release"

// Release is the change that points Postfix at the files again that it read
// before the first adoption. It reverses our edits one by one, comparing each
// with what stands there, so that what others changed since is kept.
func (e *Engine) Release(ctx context.Context, name string) (Change, error) {
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return Change{}, err
	}
	if name, err = e.onlyName(s, name); problem.From(err).Has("name_unknown") {
		return Change{}, problem.List{problem.New("not_adopted", problem.At{}, "the configuration in %s names no certificate of postcert, so there is nothing to give back", s.Dir)}
	} else if err != nil {
		return Change{}, err
	}
	edits, err := e.adoption(s, name)
	if err != nil {
		return Change{}, err
	}
	return Change{Reason: releaseReason, Name: name, Edits: edits, Release: true}, nil
}
