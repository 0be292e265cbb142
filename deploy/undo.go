package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/journal"
	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// phaseDone marks a journal whose change is proven, or accepted as not
// verified: a run that dies after it has only the closing left to do.
//
// phaseReload marks one that has asked the master for a reload: a master that
// is lost after it may have been lost by us, and is started again.
const (
	phaseReload = "reload"
	phaseDone   = "done"
)

// note is what an undo needs to know besides the writes. It is kept in the
// journal, so that a later process can finish what this one began; it holds no
// key.
type note struct {
	Instance   string            `json:"instance"`
	Name       string            `json:"name"`
	Reason     string            `json:"reason"`
	Generation int               `json:"generation"`
	Leaf       string            `json:"leaf"` // fingerprint of the leaf that was to be served
	Running    bool              `json:"running"`
	Unit       string            `json:"unit"`
	Cgroups    map[string]string `json:"cgroups"`
	Configures bool              `json:"configures"`
	Boot       string            `json:"boot"` // kernel's id of the boot it happened in
	Edits      []cf.Edit         `json:"edits"`
	Baseline   []baseline        `json:"baseline"`
	Companions []companionNote   `json:"companions,omitempty"`
	Files      map[string]string `json:"files"` // SHA-256 of main.cf and master.cf before the change, in hex, by path
	Time       time.Time         `json:"time"`
}

// baseline is one question whose answer an undo must bring back.
type baseline struct {
	Service  string     `json:"service"`
	Type     string     `json:"type"`
	Endpoint question   `json:"endpoint"`
	Accept   [][][]byte `json:"accept"`
	Sessions int        `json:"sessions"`
}

// RolledBackError says that a change was undone, and why. The previous state
// is served, and proven to be.
type RolledBackError struct{ Cause error }

func (e *RolledBackError) Error() string { return "rolled back: " + e.Cause.Error() }
func (e *RolledBackError) Unwrap() error { return e.Cause }

// IncompleteError says that an undo did not succeed, or could not be proven.
// The journal is kept.
type IncompleteError struct {
	Cause error // why the change was undone
	Undo  error // what went wrong with the undo
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("the rollback is incomplete: %v (rolling back because: %v)", e.Undo, e.Cause)
}

func (e *IncompleteError) Unwrap() []error { return []error{e.Cause, e.Undo} }

// undo puts back what commit changed and proves that the baseline is served
// again. It goes on when the command is cancelled.
func (r *run) undo(ctx context.Context, cause error) error {
	limit := 2*r.deadline(true) + time.Minute
	ctx, cancel := undoContext(ctx, limit)
	defer cancel()
	r.report.Cause = cause.Error()
	if lines, err := r.MTA.LogSince(ctx, r.began); err == nil {
		r.report.Log = append(r.report.Log, lines...)
	}
	if err := r.revert(ctx, r.plan.note(r.gen.Number, r.began)); err != nil {
		r.report.Outcome = Incomplete
		return &IncompleteError{Cause: cause, Undo: err}
	}
	if r.tx == nil {
		r.sweep()
	}
	return &RolledBackError{Cause: cause}
}

// revert undoes the open transaction that n belongs to. It may be called again
// after it failed, by another process.
//
// What was there is put back, read and proven before what was made goes: until
// the master has read its former overrides, the processes that it starts look for
// the files that the change named.
func (r *run) revert(ctx context.Context, n note) error {
	made := false
	err := r.takeBack(func() (conflicts []journal.Conflict, err error) {
		if !n.Running {
			return r.tx.Undo()
		}
		conflicts, made, err = r.tx.Restore()
		return conflicts, err
	})
	if err != nil {
		// The files that stand there are serveable, old or new: a master that
		// is gone is started with them, because mail matters more.
		if m, merr := r.MTA.Master(ctx); merr == nil && !m.Running {
			err = errors.Join(err, r.restore(ctx, n))
		}
		return err
	}
	err = r.restore(ctx, n)
	r.restoreCompanions(ctx, n)
	if err != nil {
		return err
	}
	if err := r.reprove(ctx, n); err != nil {
		return err
	}
	if made {
		if err := r.takeBack(r.tx.Undo); err != nil {
			return err
		}
	}
	r.report.Outcome = RolledBack
	if err := r.close(nil); err != nil {
		r.warnOpen(err)
	}
	return nil
}

// takeBack is a step of an undo, after which the report has its conflicts.
func (r *run) takeBack(undo func() ([]journal.Conflict, error)) error {
	return r.step(StepUndo, func() (string, error) {
		conflicts, err := undo()
		r.report.Conflicts = nil
		for _, c := range conflicts {
			r.report.Conflicts = append(r.report.Conflicts, conflictWords(c))
		}
		return "", err
	})
}

func conflictWords(c journal.Conflict) string {
	if c.Resolved {
		return c.Path + " was changed by somebody else meanwhile; their change is kept, ours is taken out"
	}
	return fmt.Sprintf("%s was left as it is: %v", c.Path, c.Err)
}

// restore makes the running instance read the restored files: by a reload, or,
// if the master is lost, by starting it again. An instance that did not run
// before is left alone.
func (r *run) restore(ctx context.Context, n note) error {
	if !n.Running {
		return nil
	}
	return r.step(StepRestore, func() (string, error) {
		m, err := r.MTA.Master(ctx)
		if err != nil || m.Running {
			// Where the master cannot be looked at it may run all the same.
			var how string
			rerr := r.survives(ctx, n, m)
			if rerr == nil {
				how, rerr = r.reload(ctx)
			}
			if rerr == nil {
				return how, nil
			}
			err = errors.Join(err, rerr)
			if m, rerr = r.MTA.Master(ctx); rerr != nil || m.Running {
				return "", err
			}
		}
		if rerr := r.MTA.Restart(ctx, Master{Running: true, Unit: n.Unit, Cgroups: n.Cgroups}); rerr != nil {
			return "", errors.Join(err, rerr)
		}
		return "started again", nil
	})
}

// survives refuses the reload of an undo at which the master would end because
// of what somebody wrote into the configuration meanwhile. The files are
// restored then; the running master starts its next processes with them.
func (r *run) survives(ctx context.Context, n note, m Master) error {
	if n.asBefore() {
		return nil // the master has run with it; and postconf may be what is broken
	}
	// A postconf that hangs must not hold up the undo.
	short, cancel := context.WithTimeout(ctx, undoReload)
	defer cancel()
	s, err := r.MTA.Snapshot(short)
	if err != nil {
		if problem.From(err).Has("config_broken") {
			return err
		}
		return nil // not known: the reload will tell
	}
	return deadly(s, r.Host, m.PID).Err()
}

// asBefore tells whether main.cf and master.cf are what they were before the
// change, byte for byte.
func (n note) asBefore() bool {
	for path, want := range n.Files {
		data, err := os.ReadFile(path)
		if err != nil || digest(data) != want {
			return false
		}
	}
	return len(n.Files) > 0
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// undoReload is how long an undo waits for "postfix reload", which takes a
// fraction of a second, before it does without: each second more is one in
// which clients may meet what is being undone.
const undoReload = 10 * time.Second

// reload makes the master read the restored files, if need be by a signal.
func (r *run) reload(ctx context.Context) (how string, err error) {
	direct, ok := r.MTA.(Refresher)
	if !ok {
		return "reload", r.MTA.Reload(ctx)
	}
	short, cancel := context.WithTimeout(ctx, undoReload)
	defer cancel()
	if err = r.MTA.Reload(short); err == nil {
		return "reload", nil
	}
	if m, merr := r.MTA.Master(ctx); merr == nil && !m.Running {
		return "", err
	}
	if derr := direct.Refresh(ctx); derr != nil {
		return "", errors.Join(err, derr)
	}
	r.report.Problems = append(r.report.Problems, problem.Warn("reload_by_signal", problem.At{File: r.plan.Instance},
		"postfix reload did not work, so the master was sent SIGHUP instead: %v", err))
	return "SIGHUP", nil
}

// reprove asks every listener that served TLS before whether it serves the
// same again.
func (r *run) reprove(ctx context.Context, n note) error {
	want := n.expectations()
	if !n.Running {
		want = slices.DeleteFunc(want, func(x Expectation) bool { return !x.companion() })
	}
	if len(want) == 0 {
		return nil
	}
	return r.step(StepReprove, func() (string, error) {
		p := proof{prober: r.Prober, deadline: r.deadline(true)}
		r.report.Listeners = p.observe(ctx, want)
		for _, o := range r.report.Listeners {
			if o.Verdict != probe.Proven {
				return summary(r.report.Listeners), &ContradictedError{Observations: []Observation{o}}
			}
		}
		return summary(r.report.Listeners), nil
	})
}

func (n note) expectations() []Expectation {
	out := make([]Expectation, len(n.Baseline))
	for i, b := range n.Baseline {
		out[i] = Expectation{Endpoint: b.Endpoint.endpoint(), Accept: b.Accept, Sessions: b.Sessions, Baseline: probe.Result{Reason: probe.OK}}
		out[i].Listener.Service, out[i].Listener.Type = b.Service, b.Type
	}
	return out
}

// note describes the plan for an undo: what was served, and by which files.
func (p *Plan) note(generation int, began time.Time) note {
	n := note{
		Instance: p.Instance, Name: p.Name, Reason: p.Change.Reason, Generation: generation,
		Running: p.Running.Running, Unit: p.Running.Unit, Cgroups: p.Running.Cgroups, Configures: p.Configures(),
		Time: began, Boot: bootID(), Edits: p.Edits, Files: map[string]string{},
	}
	for _, f := range []cf.File{p.Before.Main, p.Before.Master} {
		n.Files[f.Path] = digest(f.Data)
	}
	if !p.Pair.IsZero() {
		n.Leaf = p.Pair.Fingerprint()
	}
	for _, c := range p.Companions {
		n.Companions = append(n.Companions, companionNote{Name: c.Name, Reload: c.Reload})
	}
	for _, x := range p.Former {
		if x.Ignore || x.wasBroken() {
			continue
		}
		n.Baseline = append(n.Baseline, baseline{
			Service: x.Listener.Service, Type: x.Listener.Type, Endpoint: question(x.Endpoint), Sessions: x.Sessions,
			Accept: p.before(x),
		})
	}
	return n
}

// before are the chains that x took before the change: what it presented, and
// what its files held, which a process started since may have read.
func (p *Plan) before(x Expectation) [][][]byte {
	if x.companion() {
		return [][][]byte{x.Baseline.Raw}
	}
	return unchangedChains(x, onDisk(p.Before, x.Listener.ID(), nil))
}

// Recover settles what a run that died left behind: an open transaction is
// closed if it was proven and undone otherwise; rehearsals and temporary files
// are swept. The caller holds the lock. A second call finds nothing to do. The
// report is nil when nothing was open.
func (e *Engine) Recover(ctx context.Context) (*Report, error) {
	if e.Stage != nil {
		if err := e.Stage.Sweep(ctx); err != nil {
			e.logger().Warn("sweeping rehearsals", "err", err)
		}
	}
	if err := e.Store.Sweep(atomicfile.Ever); err != nil {
		e.logger().Warn("sweeping generations", "err", err)
	}
	n, tx, err := e.openTransaction(ctx)
	if err != nil {
		return nil, err
	}
	var rep *Report
	if tx != nil {
		if rep, err = e.settle(ctx, n, tx); err != nil {
			return rep, err
		}
	}
	e.sweepClosed()
	return rep, nil
}

// sweepClosed removes what only an open journal would need: generations and
// keys that were stored for a change which did not happen, half written records.
func (e *Engine) sweepClosed() {
	if err := e.Store.SweepStaged(); err != nil {
		e.logger().Warn("sweeping staged generations", "err", err)
	}
	if err := e.journalFor(context.Background(), nil).Sweep(); err != nil {
		e.logger().Warn("sweeping the journal", "err", err)
	}
	e.dropKeys()
	if e.Instance == "" {
		return
	}
	// Closed transactions leave nothing there. But a file system may bring back the
	// former name of a file that was renamed (seen on btrfs), and here it has a key.
	if _, err := atomicfile.Sweep(e.FS, filepath.Join(e.Instance, Directory), atomicfile.Ever); err != nil {
		e.logger().Warn("sweeping beside the certificate", "err", err)
	}
}

// sweepReplace removes what a Replace that was killed left beside main.cf and
// master.cf.
func (r *run) sweepReplace() {
	s, ok := r.MTA.(Sweeper)
	if !ok {
		return
	}
	for _, path := range r.tx.Paths() {
		if name := filepath.Base(path); name != "main.cf" && name != "master.cf" {
			continue
		}
		if err := s.SweepReplace(path); err != nil {
			r.logger().Warn("sweeping beside a configuration file", "file", path, "err", err)
		}
	}
}

// openTransaction is the transaction that an earlier run left open, if any.
func (e *Engine) openTransaction(ctx context.Context) (note, *journal.Tx, error) {
	var n note
	tx, err := e.journalFor(ctx, nil).Open()
	if err != nil || tx == nil {
		return n, nil, err
	}
	if err := json.Unmarshal(tx.Note(), &n); err != nil {
		return n, nil, fmt.Errorf("the open journal: %w", err)
	}
	// Open once more with what the note tells: where main.cf is, and which
	// edits of it are ours.
	own := *e
	own.Instance = n.Instance
	tx, err = own.journalFor(context.WithoutCancel(ctx), n.Edits).Open()
	return n, tx, err
}

// OpenInstance is the configuration directory of the instance whose change was
// interrupted; "" if there is none.
func (e *Engine) OpenInstance(ctx context.Context) (string, error) {
	n, _, err := e.openTransaction(ctx)
	return n.Instance, err
}

func (e *Engine) settle(ctx context.Context, n note, tx *journal.Tx) (*Report, error) {
	r := &run{Engine: e, recorder: recorder{progress: e.Progress}, tx: tx, began: n.Time,
		plan:   &Plan{Instance: n.Instance, Name: n.Name, Change: Change{Reason: "recover: " + n.Reason, Release: n.Reason == releaseReason}},
		report: &Report{Generation: n.Generation, Recovered: true, Leaf: n.Leaf, Cause: "an earlier run ended in the middle of it"}}
	r.report.Plan = r.plan
	r.sweepReplace()
	if tx.Phase() == phaseDone {
		r.report.Outcome = Installed
		err := r.finish()
		r.report.Steps, r.report.Time = r.steps, e.now()
		return r.report, err
	}
	cause := errors.New(r.report.Cause)
	ctx, cancel := undoContext(ctx, 2*e.deadline(true)+time.Minute)
	defer cancel()
	// Postfix may have been stopped since, at boot for one: then the files are
	// all there is to restore.
	if m, err := e.MTA.Master(ctx); err == nil && !m.Running && (n.Boot != bootID() || tx.Phase() != phaseReload) {
		n.Running = false
	}
	if n.Boot != bootID() {
		n.leaveStopped(ctx)
	}
	err := r.revert(ctx, n)
	if err == nil && r.tx != nil {
		err = r.report.Problems // to close it is what a recovery is for
	}
	r.report.Steps, r.report.Time = r.steps, e.now()
	if err != nil {
		r.report.Outcome = Incomplete
		err = &IncompleteError{Cause: cause, Undo: err}
	}
	return r.report, err
}

// bootID tells boots apart.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// question is a probe.Endpoint as the journal keeps it.
type question probe.Endpoint

func (q question) endpoint() probe.Endpoint { return probe.Endpoint(q) }

type questionJSON struct {
	Network    string         `json:"network"`
	Address    string         `json:"address"`
	Mode       probe.Mode     `json:"mode"`
	ServerName string         `json:"sni"`
	KeyType    string         `json:"key_type"`
	Proxy      bool           `json:"proxy"`
	Protocol   probe.Protocol `json:"protocol,omitempty"`
}

// MarshalJSON keeps what is asked, not how long.
func (q question) MarshalJSON() ([]byte, error) {
	return json.Marshal(questionJSON{q.Network, q.Address, q.Mode, q.ServerName, q.KeyType, q.ProxyProtocol, q.Protocol})
}

// UnmarshalJSON is the reverse of MarshalJSON.
func (q *question) UnmarshalJSON(data []byte) error {
	var j questionJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*q = question{Network: j.Network, Address: j.Address, Mode: j.Mode, ServerName: j.ServerName, KeyType: j.KeyType, ProxyProtocol: j.Proxy, Protocol: j.Protocol}
	return nil
}
