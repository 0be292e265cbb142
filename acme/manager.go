package acme

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// TLSA is what DNS says about the keys of a host's mail service.
type TLSA string

const (
	TLSANone    TLSA = "none"    // authenticated or plain: there is no TLSA record
	TLSAPresent TLSA = "present" // there is one, so a key change needs care
	TLSAUnknown TLSA = "unknown" // DNS did not answer
)

// LookupTLSA asks the name servers of /etc/resolv.conf.
func LookupTLSA(ctx context.Context, host string) (TLSA, error) {
	switch published, err := legoclient.HasTLSA(ctx, host, nil); {
	case err != nil:
		return TLSAUnknown, err
	case published:
		return TLSAPresent, nil
	}
	return TLSANone, nil
}

// Manager does what [Next] says. Its fields must not change while it is in use;
// its methods may be called concurrently, also by other processes on the same
// directory. Each takes locks in the order account, certificate, solving, and
// waits for them as long as ctx lasts or LockWait.
//
// Every error is an *[Error], and every method returns within a second of the
// end of its ctx.
type Manager struct {
	Store     *Store
	UserAgent string           // "" is "postcert"
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: nowhere
	LockWait  time.Duration    // 0: as long as ctx lasts
	Timeout   time.Duration    // of one HTTP request; 0: 30 s

	// Interval is that of [Schedule]: what becomes due before the caller runs
	// again is done now.
	Interval time.Duration

	// TLSA asks for _25._tcp.<host>. Before a key change each name of the
	// certificate is asked for, and any answer but TLSANone refuses the change
	// without [Options.AllowKeyChange]. Nil is TLSAUnknown.
	TLSA func(ctx context.Context, host string) (TLSA, error)

	// Staging returns the URL of a CA's directory for trials, "" if it has none.
	// Nil: those of the well-known CAs.
	Staging func(directory string) string

	// Addresses resolves a name for Preflight, Local are the addresses of this
	// host. Nil: the system's.
	Addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	Local     func() ([]netip.Addr, error)

	// clients are kept for what their operations share.
	mu      sync.Mutex
	clients map[clientKey]*legoclient.Client

	dial   func(legoclient.Config) (ca, error)   // nil: legoclient.New
	solver func(Spec) (legoclient.Solver, error) // nil: newSolver
	random func() float64                        // nil: math/rand
	fsType func(dir string) uint32               // nil: statfs(2)
}

// AccountSpec is an account that somebody wants.
type AccountSpec struct {
	Directory string   // https URL
	Roots     []byte   // PEM: trust anchors of the directory's own TLS; nil: the system's
	Label     string   // "" is "default"
	Contact   []string // e-mail addresses, without mailto:
	KeyType   KeyType  // "" is EC256

	// AgreeTerms is the operator's consent to the CA's terms of service, whose
	// URL an error about them names.
	AgreeTerms bool

	EABKeyID string // external account binding (RFC 8555 section 7.3.4)
	EABFile  string // file with the HMAC key in base64url; read for a registration, never stored
}

// AccountState is an account that exists.
type AccountState struct {
	Directory    string    `json:"directory"`
	Label        string    `json:"label"`
	URI          string    `json:"uri"`
	Contact      []string  `json:"contact"`
	Terms        string    `json:"terms"` // URL of the terms that were agreed to; "" if the CA has none
	AgreedAt     time.Time `json:"agreed_at,omitzero"`
	EABKeyID     string    `json:"eab_kid,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	KeyType      KeyType   `json:"key_type"`
	Thumbprint   string    `json:"thumbprint"`            // RFC 7638, as CAs and dns-01 delegations show it
	Reregistered time.Time `json:"reregistered,omitzero"` // when the CA had lost it and it was registered anew

	Status   string `json:"-"` // by the CA: "valid", "deactivated", "revoked"; "" if it was not asked
	NewTerms string `json:"-"` // URL of terms that differ from Terms; "" if it was not asked or they are the same
	Created  bool   `json:"-"` // this call registered it
	Rolling  bool   `json:"-"` // a key rollover was begun and is not settled
}

// Options of one Obtain.
type Options struct {
	// Force orders although nothing is due, and in spite of a back-off. It does
	// not pass over what the CA told us (rate limits, pauses) and our own guards
	// (orders per week, failed validations per hour).
	Force bool

	// DryRun makes a whole order at the CA's directory for trials and stores
	// nothing but the account there.
	DryRun bool
	// DryRunDirectory is used instead, "" for the CA's own.
	DryRunDirectory string
	DryRunRoots     []byte // PEM, as Spec.Roots, for DryRunDirectory

	// AllowKeyChange accepts that the certificate's key changes although a TLSA
	// record may name the present one. With KeyStaged it puts the next key to
	// use.
	AllowKeyChange bool
}

// Result is what Obtain did.
type Result struct {
	Version *Version // the live one; with DryRun the one that was not kept
	// Paths of the live version's directory and files; "" with DryRun.
	Dir, FullChain, Key string

	Renewed   bool      // a version was stored by this call
	Resumed   bool      // by an order that was begun before
	Next      time.Time // when the next order will be attempted
	Reason    string    // why it was ordered: one of the Reason constants, or "force"
	OrderURL  string
	KeyChange bool // the key differs from that of the version before

	Warnings problem.List
}
