package legoclient

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-acme/lego/v4/acme/api"
)

// Config says which CA, and how it is reached.
type Config struct {
	Directory string           // https URL
	Roots     *x509.CertPool   // of the directory's own TLS; nil: the system's
	UserAgent string           // "" is "postcert"
	Timeout   time.Duration    // of one HTTP request with its answer; 0: 30 s
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: nothing is logged
}

// Client is one CA, for one run of a program: what its operations share (see the
// package's documentation) is for minutes. It may be used from several goroutines
// and for several accounts.
type Client struct {
	cfg       Config
	log       *slog.Logger
	wire      *wire
	pollLimit time.Duration // of one wait for the CA
}

// New makes no request. A directory without TLS is refused.
func New(cfg Config) (*Client, error) {
	if err := secure(cfg.Directory); err != nil {
		return nil, err
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "postcert"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	} else {
		legoLogger.to.Store(log)
	}
	return &Client{cfg: cfg, log: log, wire: newWire(cfg), pollLimit: 15 * time.Minute}, nil
}

// Account is a registered account: its key and its URL at the CA. The key is an
// *rsa.PrivateKey, or an *ecdsa.PrivateKey on P-256 or P-384.
type Account struct {
	Key crypto.Signer
	URI string
}

// Directory is what the CA says of itself (RFC 8555 section 7.1.1).
type Directory struct {
	URL         string
	Terms       string // URL of the terms of service; "" for none
	Website     string
	CAA         []string          // names for CAA records
	Profiles    map[string]string // name to description; empty if the CA has none
	EABRequired bool              // new accounts need an external account binding
	ARI         bool              // there is renewal information (RFC 9773)
	KeyChange   bool              // account keys can be changed
	Skew        time.Duration     // our clock minus the CA's Date, to the second; 0 if it sent none
}

// Directory is the CA's directory, not older than some minutes.
func (c *Client) Directory(ctx context.Context) (Directory, error) {
	s, err := c.open(ctx, "directory", Account{})
	if err != nil {
		return Directory{}, err
	}
	d := s.core.GetDirectory()
	return Directory{
		URL: c.cfg.Directory, Terms: d.Meta.TermsOfService, Website: d.Meta.Website,
		CAA: d.Meta.CaaIdentities, Profiles: d.Meta.Profiles, EABRequired: d.Meta.ExternalAccountRequired,
		ARI: d.RenewalInfo != "", KeyChange: d.KeyChangeURL != "", Skew: skew(s.t.answer(c.cfg.Directory)),
	}, nil
}

// skew is our clock minus the server's. Date has whole seconds, rounded down, so
// half a second is put back.
func skew(a answer) time.Duration {
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return 0
	}
	return a.at.Sub(date.Add(500 * time.Millisecond)).Round(time.Second)
}

// session is one operation: its context, and what it was answered.
type session struct {
	c    *Client
	ctx  context.Context
	op   string
	acct Account
	t    *transport
	core *api.Core
}

// open begins an operation, with a request for the directory if it is not known.
// acct may be empty for what needs no signature, and may lack its URI for what is
// signed by the key itself.
func (c *Client) open(ctx context.Context, op string, acct Account) (*session, error) {
	s := &session{c: c, ctx: ctx, op: op, acct: acct, t: newTransport(ctx, c.cfg, c.wire, purse(acct.Key))}
	if acct.Key != nil && !signs(acct.Key) {
		return nil, s.fail(&Error{Kind: Local, Detail: "an account key is RSA, or ECDSA on P-256 or P-384"})
	}
	if ctx.Err() != nil {
		return nil, s.fail(canceled(ctx))
	}
	core, err := api.New(s.t.client(), c.cfg.UserAgent, c.cfg.Directory, acct.URI, acct.Key)
	if err != nil {
		c.wire.forget() // a directory that lego can't read is none
		return nil, s.fail(err)
	}
	s.core = core
	return s, nil
}

// signs says whether ACME has an algorithm for the key that lego knows.
func signs(key crypto.Signer) bool {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k.N.BitLen() >= 2048
	case *ecdsa.PrivateKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384()
	}
	return false
}

// fail gives err the form of this package.
func (s *session) fail(err error) error {
	e := *s.foreign(err)
	if e.Op == "" {
		e.Op = s.op
	}
	return &e
}

// foreign is like the function of that name. The JOSE library forgets what kind of
// error kept it from a nonce, and the transport remembers.
func (s *session) foreign(err error) *Error {
	var ours *Error
	if !errors.As(err, &ours) && strings.Contains(err.Error(), "nonce") {
		if e := s.t.refusedNonce(); e != nil {
			return e
		}
	}
	return foreign(s.ctx, err)
}

const (
	nonceTries = 20 // with one in two refused, one request in a million fails
	nonceFree  = 3  // repetitions without a pause
)

// do makes one signed request by f, and repeats it with another nonce as long as
// the CA refuses the nonce (RFC 8555 section 6.5). lego's own repetition knows no
// context; it never sees the refusal.
func (s *session) do(f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if err == nil {
			return nil
		}
		e := s.foreign(err)
		if e.Type != "badNonce" || try == nonceTries {
			return s.fail(e)
		}
		if try > nonceFree {
			if !sleep(s.ctx, min(50*time.Millisecond<<(try-nonceFree), 250*time.Millisecond)) {
				return s.fail(canceled(s.ctx))
			}
		}
	}
}

// sleep waits; false if ctx ended it.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
