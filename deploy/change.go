package deploy

import (
	"context"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Layout is where the pair lives and which parameters name it.
type Layout string

const (
	// LayoutAuto follows the scheme in effect, with key and chain in one file.
	LayoutAuto Layout = "auto"
	// LayoutPair keeps the key out of smtpd_tls_cert_file: two files named by
	// generation, switched by one replacement of main.cf.
	LayoutPair Layout = "pair"
	// LayoutKeep edits nothing: what main.cf names is judged and proven.
	LayoutKeep Layout = "keep"
)

// RehearsalMode says what happens when the rehearsal could not run. One that
// ran and was refused always stops the change.
type RehearsalMode string

const (
	RehearsalAuto     RehearsalMode = "auto"     // a mere file switch may go on
	RehearsalRequired RehearsalMode = "required" // nothing goes on
	RehearsalOff      RehearsalMode = "off"      // --no-rehearsal
)

// Change is what is wanted of one instance. The zero value of each field is
// the strict choice.
type Change struct {
	Reason string       // for the history: "install-cert", "rollback", ...
	Name   string       // certificate name; "" lets the plan choose
	Pair   keypair.Pair // zero: a change of configuration only
	Source string       // where the pair was read from, for the history
	Edits  []cf.Edit    // further edits of main.cf and master.cf

	Layout    Layout
	Rehearsal RehearsalMode
	Service   string // only this service/type gets the pair
	Enable    bool   // also set smtpd_tls_security_level = may where it is empty
	Judge     bool   // judge the pair by Policy; a rollback was judged before

	Prove      bool // nothing is changed: whether it is installed, configured and served is the question
	Generation int  // the pair is this generation already; 0: it is staged as a new one
	Release    bool // Edits give the certificate back to the files of before
	Policy     verify.Policy

	Files   []FileChange // other files, such as lookup tables: in place before main.cf names them
	Confirm Confirmation // asked after the proof; its error undoes the change; nil: nothing more to ask
	Auth    []string     // services that must offer AUTH inside TLS, and not before, in the rehearsal

	Lineage         string   // the lineage's name, the second choice for Name
	AdoptOverrides  bool     // change -o overrides that name a stale file
	IgnoreListeners []string // addresses that are neither proven nor a reason to undo
	SNI             []string // server names asked for besides none
}

// FileChange is a file without a key that is written in the same transaction as
// the edits of main.cf: the text of a lookup table, its index, a bundle of trust
// anchors. Before is what the caller found, and the change is refused when
// something else stands there by then. An undo puts it back.
type FileChange struct {
	Path          string // absolute, symbolic links followed
	Before, After atomicfile.State
	Own           bool // a record of our own, which is in no diff
}

// Confirmation asks Postfix whether it has what was wanted, when the change is in
// place and the listeners are proven. now is the configuration as it is read then.
type Confirmation func(ctx context.Context, now cf.Snapshot) error

// plain tells a change that is about no certificate: it has no name, and what the
// listeners present is to be the same as before.
func (c Change) plain() bool { return c.Pair.IsZero() && !c.Release }

// Rehearsed tells whether the private Postfix served the candidate. In JSON it
// is true, false, or the reason why the rehearsal did not run.
type Rehearsed struct {
	OK     bool
	Reason string // why it did not run; "" with OK false: it was not asked for
}

// MarshalJSON renders true, false or the reason.
func (r Rehearsed) MarshalJSON() ([]byte, error) {
	switch {
	case r.OK:
		return []byte("true"), nil
	case r.Reason == "":
		return []byte("false"), nil
	}
	return jsonString(r.Reason)
}

// Outcome is how a transaction ended.
type Outcome string

const (
	Unchanged   Outcome = "unchanged"    // already installed and served everywhere
	Installed   Outcome = "installed"    // committed and proven
	NotVerified Outcome = "not_verified" // committed; at least one listener could not be verified
	Refused     Outcome = "refused"      // certificate, plan or rehearsal; nothing was touched
	Failed      Outcome = "failed"       // another failure before the commit; nothing was touched
	RolledBack  Outcome = "rolled_back"  // committed, undone, and the baseline is proven again
	Incomplete  Outcome = "incomplete"   // the undo could not be completed or proven; the journal is kept
	Planned     Outcome = "planned"      // a dry run
	Drifted     Outcome = "drifted"      // of a Change.Prove: what is there differs from what was proven; nothing was touched
)

// Report is what a transaction did. It is filled as far as it went also when
// an error is returned beside it.
type Report struct {
	ID         string // of its record in the history; "" if there is none
	Outcome    Outcome
	Plan       *Plan
	Rehearsed  Rehearsed
	Generation int
	Steps      []Event
	Listeners  []Observation // what each listener presents now
	Problems   problem.List
	Log        []string // lines of the instance's mail log that explain a failure
	Conflicts  []string // what the undo met that somebody else had changed
	Cause      string   // why a transaction was undone
	Recovered  bool     // of a change that another run had begun
	Leaf       string   // of a recovered change: fingerprint of the leaf that was to be served
	Running    bool     // Postfix was running at the end
	Time       time.Time
}
