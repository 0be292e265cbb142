package deploy

import (
	"context"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// MTA is what a transaction needs of a Postfix instance.
type MTA interface {
	// Snapshot reads the configuration as Postfix does. It fails with a
	// problem when Postfix cannot read it, because a reload would then end
	// the running master.
	Snapshot(ctx context.Context) (cf.Snapshot, error)
	// Unchanged tells whether a Snapshot would be equal to s: the bytes of both
	// files, and the version of Postfix that reads them.
	Unchanged(ctx context.Context, s cf.Snapshot) (bool, error)
	// Candidate judges changed files by postconf(1), in a private copy.
	// Values read as if the files stood in the instance's own directory.
	Candidate(ctx context.Context, main, master []byte) (cf.Snapshot, error)
	// Replace replaces main.cf or master.cf if it still holds want, keeping
	// mode, owner and attributes, under the lock that postconf(1) uses.
	Replace(ctx context.Context, path string, want, data []byte, mtime time.Time) error
	// Check runs "postfix check" and returns its warnings.
	Check(ctx context.Context) (warnings []string, err error)
	// Reload asks the master for a reload and makes sure that the same
	// master is alive after it.
	Reload(ctx context.Context) error
	// Master tells whether the instance runs.
	Master(ctx context.Context) (Master, error)
	// Restart brings a lost master back so that it outlives this process.
	Restart(ctx context.Context, was Master) error
	// LogSince returns the lines about TLS and fatal errors that the instance
	// logged since t. It explains; it never decides.
	LogSince(ctx context.Context, t time.Time) ([]string, error)
}

// Sweeper is an MTA whose Replace leaves something behind when it is killed.
type Sweeper interface {
	// SweepReplace removes what a Replace of path that was killed left beside
	// it. One that is at work is left alone.
	SweepReplace(path string) error
}

// Refresher is an MTA that can ask the master for a reload without any program
// of Postfix's: for an undo, when Reload fails or does not end.
type Refresher interface {
	// Refresh fails like Reload.
	Refresh(ctx context.Context) error
}

// TableBuilder is an MTA that can make the index of a lookup table again which
// holds copies of certificates and keys.
type TableBuilder interface {
	// BuildTable makes it from its source, or fails and leaves it as it was.
	BuildTable(ctx context.Context, table string) error
}

// Master is the state of an instance's master(8).
type Master struct {
	Running bool
	PID     int
	Unit    string // systemd unit that owns it; "" if none or unknown
	// Cgroups are its control groups, hierarchy to path: where a new one goes.
	Cgroups map[string]string
}

// Stage rehearses a candidate on a private Postfix.
type Stage interface {
	// Rehearse returns what the private Postfix presented. A *RefusedError
	// says that it did not serve the candidate; any other error, that it
	// could not be asked.
	Rehearse(ctx context.Context, r Rehearsal) ([]Presented, error)
	// Sweep ends what a killed rehearsal left.
	Sweep(ctx context.Context) error
}

// Rehearsal is what a private Postfix is to serve.
type Rehearsal struct {
	Candidate  cf.Snapshot       // configuration after the change
	Services   []Act             // what is asked
	Substitute map[string]string // live path to the staged file that will replace it
	Files      map[string][]byte // live path to what it will hold, of files without a key
}

// Act is one service of a rehearsal: what it is asked, what must come back.
type Act struct {
	Listener cf.Listener
	Service  cf.Service
	SNI      []string            // server names asked for; "" is none
	Want     map[string][][]byte // key type ("" is any) to the DER chain; nil chain: see Good
	Good     bool                // a nil chain in Want: the handshake must be good; else it is only recorded
	Auth     bool                // AUTH must be offered inside TLS, and not before
}

// Presented is what one act of a rehearsal brought.
type Presented struct {
	Service string
	Result  probe.Result
}

// RefusedError is a rehearsal in which the private Postfix came up and did not
// serve what it should.
type RefusedError struct {
	Why     string
	Log     []string // lines of the private Postfix's log
	Mixture bool     // the candidate was served; neither of its two files can be changed first
}

func (e *RefusedError) Error() string { return e.Why }
