package acme

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
)

const (
	kindState  = "state"
	kindLedger = "ledger"
	kindOrder  = "order"

	fileState  = "state.json"
	fileLedger = "ledger.json"
	fileOrder  = "order.json"
	fileCSR    = "csr.der"
	fileNext   = "next.key"
	fileReason = "reason.json"

	dirPending     = "pending"
	quarantine     = "quarantine-"
	keepQuarantine = 3
)

func (st *State) check() error {
	if st.Window != nil {
		if err := sane(st.Window.Start, st.Window.End); err != nil {
			return err
		}
	}
	if st.Failures < 0 || st.ARIFailures < 0 || !st.Class.valid() {
		return errors.New("it counts failures of no kind")
	}
	if err := sane(st.ARIOrders...); err != nil {
		return err
	}
	return sane(st.Selected, st.ARINext, st.LastFailure, st.NextAttempt, st.SkewAt, st.Touched)
}

// state reads all that is known about a certificate, its versions included.
func (s *Store) state(name string) (State, error) {
	var st State
	if err := s.readJSON(s.cert(name, fileState), kindState, &st, st.check); err != nil && !missing(err) {
		return State{}, err
	}
	var err error
	if st.Current, err = s.live(name); err != nil {
		return State{}, err
	}
	// A damaged previous version is nobody's need: it is reported by its absence.
	st.Previous, _ = s.link(name, linkPrevious)
	if st.Pending, err = s.pending(name); err != nil {
		return State{}, err
	}
	return st, nil
}

func (s *Store) writeState(name string, st State) error {
	return s.writeJSON(s.cert(name, fileState), kindState, st)
}

// ledger is what was asked of one CA, as the CA counts it: orders by set of
// names, failed validations by name.
type ledger struct {
	Directory string                 `json:"directory"`
	Orders    map[string][]time.Time `json:"orders"`   // by setHash
	Failures  map[string][]time.Time `json:"failures"` // by name
}

func (l *ledger) check() error {
	for _, m := range []map[string][]time.Time{l.Orders, l.Failures} {
		for _, times := range m {
			if err := sane(times...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) ledger(directory string) (ledger, error) {
	l := ledger{Directory: directory}
	err := s.readJSON(s.ca(directory, fileLedger), kindLedger, &l, l.check)
	if missing(err) {
		err = nil
	}
	if err != nil {
		return l, err
	}
	if l.Directory != directory {
		return l, &FileError{Path: s.ca(directory, fileLedger), Err: fmt.Errorf("it is about %q", brief(l.Directory))}
	}
	if l.Orders == nil {
		l.Orders = map[string][]time.Time{}
	}
	if l.Failures == nil {
		l.Failures = map[string][]time.Time{}
	}
	return l, nil
}

// changeLedger reads, changes and writes the ledger, without what no longer
// counts. The caller holds the CA's lock.
func (s *Store) changeLedger(directory string, t time.Time, change func(*ledger)) error {
	l, err := s.ledger(directory)
	if err != nil {
		return err
	}
	change(&l)
	expire(l.Orders, t.Add(-week))
	expire(l.Failures, t.Add(-time.Hour))
	return s.writeJSON(s.ca(directory, fileLedger), kindLedger, l)
}

func expire(m map[string][]time.Time, before time.Time) {
	for k, times := range m {
		times = slices.DeleteFunc(times, before.After)
		if m[k] = times; len(times) == 0 {
			delete(m, k)
		}
	}
}

// guarded is when all of the names may be validated again.
func (l ledger) guarded(names []string, t time.Time) time.Time {
	var last time.Time
	for _, name := range names {
		last = latest(last, guarded(l.Failures[name], t))
	}
	return last
}

// seen adds to st what the ledger says about the names of spec.
func (l ledger) seen(st *State, spec Spec, t time.Time) {
	st.Orders = slices.Clone(l.Orders[setHash(spec.Identifiers)])
	st.Orders = slices.DeleteFunc(st.Orders, t.Add(-week).After)
	slices.SortFunc(st.Orders, time.Time.Compare)
	st.Guarded = l.guarded(spec.Identifiers, t)
}

func (p *Pending) check() error {
	switch {
	case p.Directory == "" || p.AccountURI == "" || len(p.Identifiers) == 0 || p.SPKI == "":
		return errors.New("it lacks what an order has")
	case p.OrderURL != "" && !strings.HasPrefix(p.OrderURL, "https://"):
		return errors.New("the order's URL is not https")
	}
	return sane(p.Created, p.Expires)
}

// pending reads the order that was begun; nil if there is none.
func (s *Store) pending(name string) (*Pending, error) {
	p := &Pending{}
	err := s.readJSON(s.cert(name, dirPending, fileOrder), kindOrder, p, p.check)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// pendingKey reads the key and the request of the order that was begun.
func (s *Store) pendingKey(name string, p *Pending) (crypto.Signer, []byte, error) {
	path := s.cert(name, dirPending, FilePrivateKey)
	key, err := s.readKey(path)
	if err != nil {
		return nil, nil, err
	}
	if spki(key.Public()) != p.SPKI {
		return nil, nil, &FileError{Path: path, Err: errors.New("it is not the key of the order beside it")}
	}
	csr, err := atomicfile.ReadFile(s.fs, s.cert(name, dirPending, fileCSR), maxKey)
	return key, csr, err
}

// begin puts key, request and description of an order on disk, before the CA
// hears of it.
func (s *Store) begin(name string, p Pending, key crypto.Signer, csr []byte) error {
	if err := s.removeDir(s.cert(name, dirPending)); err != nil {
		return err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return err
	}
	order, err := encode(kindOrder, p)
	if err != nil {
		return err
	}
	return s.writeDir(s.cert(name, dirPending), map[string][]byte{FilePrivateKey: encoded, fileCSR: csr, fileOrder: order})
}

func (s *Store) writePending(name string, p Pending) error {
	return s.writeJSON(s.cert(name, dirPending, fileOrder), kindOrder, p)
}

// putAside turns the pending order into a quarantine: what the CA delivered and
// why it was refused, with the key it was ordered for.
func (s *Store) putAside(name string, chain []byte, reason any) error {
	data, err := json.MarshalIndent(reason, "", "  ")
	if err != nil {
		return fmt.Errorf("acme: %w", err)
	}
	for file, content := range map[string][]byte{FileFullChain: chain, fileReason: data} {
		if err := s.writeFile(s.cert(name, dirPending, file), content); err != nil {
			return err
		}
	}
	have, err := s.quarantines(name)
	if err != nil {
		return err
	}
	n := 1
	if len(have) > 0 {
		n = have[len(have)-1] + 1
	}
	if err := s.fs.Rename(s.cert(name, dirPending), s.cert(name, fmt.Sprint(quarantine, n))); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.cert(name)); err != nil {
		return err
	}
	for len(have) >= keepQuarantine {
		if err := s.removeDir(s.cert(name, fmt.Sprint(quarantine, have[0]))); err != nil {
			return err
		}
		have = have[1:]
	}
	return nil
}

// quarantines are the numbers of those there are, ascending.
func (s *Store) quarantines(name string) ([]int, error) {
	names, err := s.fs.ReadDir(s.cert(name))
	if err != nil && !missing(err) {
		return nil, err
	}
	var found []int
	for _, base := range names {
		var n int
		if c, err := fmt.Sscanf(base, quarantine+"%d", &n); err == nil && c == 1 && base == fmt.Sprint(quarantine, n) {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found, nil
}

// clean removes what killed runs left of a certificate. The caller holds its
// lock.
func (s *Store) clean(name string) error {
	for _, dir := range []string{s.cert(name), s.cert(name, "versions"), s.cert(name, dirPending)} {
		if err := s.sweep(dir); err != nil {
			return err
		}
	}
	return nil
}

// touch notes that st is written at t, a time by State.at, and moves what was
// written while the clock was ahead of it back by as much.
func (st *State) touch(t time.Time) {
	if ahead := st.Touched.Sub(t); !st.Touched.IsZero() && ahead > clockBack {
		for _, x := range []*time.Time{&st.ARINext, &st.NextAttempt, &st.LastFailure} {
			if !x.IsZero() && x.After(t) {
				*x = x.Add(-ahead)
			}
		}
	}
	st.Touched = t
}

// measured notes the difference of the clocks, at now by ours.
func (st *State) measured(skew time.Duration, now time.Time) {
	st.SkewAt = now.UTC().Round(0)
	st.Skew = 0
	if skew.Abs() > MaxSkew {
		st.Skew = skew
	}
}

func (s *Store) nextKeyPath(name string) string { return filepath.Join(s.cert(name), fileNext) }
