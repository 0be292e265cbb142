package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// script is a CA for what the real one will not do: issue in the past, be down
// for a week, revoke all, deliver what was not asked for. It keeps what it was
// asked, which is the oracle of the tests.
type script struct {
	clock  func() time.Time // the CA's own
	life   time.Duration
	down   func() bool
	window func(leaf *x509.Certificate) (legoclient.RenewalInfo, error) // nil: 1/3 left, 1/2 of a short life, 2 % wide
	refuse []string                                                     // names that don't validate
	edit   func(*x509.Certificate)                                      // changes what is issued
	order  func(legoclient.OrderRequest) error                          // an error for a new order
	other  crypto.PublicKey                                             // a key to certify instead of the one asked for
	terms  string
	// step is called before each request ("NewOrder") and after it was done
	// ("NewOrder done"). An error is what the client sees.
	step func(string) error

	asked    []string
	accounts map[string]string // thumbprint to URI
	orders   map[string]*scripted
	made     []time.Time // when orders were made
	issued   int
	bySerial map[string]*x509.Certificate
	replaced map[string]bool
}

type scripted struct {
	legoclient.Order
	chain []*x509.Certificate
}

var errDown = &legoclient.Error{Op: "script", Kind: legoclient.Network, Detail: "connection refused"}

func newScript(clock func() time.Time, life time.Duration) *script {
	return &script{clock: clock, life: life, accounts: map[string]string{}, orders: map[string]*scripted{},
		bySerial: map[string]*x509.Certificate{}, replaced: map[string]bool{}, terms: "https://ca.example/terms"}
}

// at runs one request.
func (s *script) at(ctx context.Context, name string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return &legoclient.Error{Op: name, Kind: legoclient.Canceled, Err: err}
	}
	s.asked = append(s.asked, name)
	if s.down != nil && s.down() {
		return errDown
	}
	if s.step != nil {
		if err := s.step(name); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if s.step != nil {
		return s.step(name + " done")
	}
	return nil
}

func (s *script) count(name string) int {
	n := 0
	for _, a := range s.asked {
		if a == name {
			n++
		}
	}
	return n
}

func refusal(typ string, status int) error {
	return &legoclient.Error{Op: "script", Kind: legoclient.Protocol, Type: typ, Status: status}
}

func (s *script) Directory(ctx context.Context) (d legoclient.Directory, err error) {
	err = s.at(ctx, "Directory", func() error {
		d = legoclient.Directory{Terms: s.terms, ARI: true, KeyChange: true, Profiles: map[string]string{"classic": "x", "shortlived": "y"}}
		return nil
	})
	return d, err
}

func (s *script) Register(ctx context.Context, key crypto.Signer, r legoclient.Registration) (uri string, err error) {
	err = s.at(ctx, "Register", func() error {
		if s.terms != "" && !r.AgreeTerms {
			return refusal("userActionRequired", 403)
		}
		tp := thumbprint(key.Public())
		if s.accounts[tp] == "" {
			s.accounts[tp] = fmt.Sprintf("https://ca.example/acct/%d", len(s.accounts)+1)
		}
		uri = s.accounts[tp]
		return nil
	})
	if err != nil {
		return "", err
	}
	return uri, nil
}

func (s *script) Lookup(ctx context.Context, key crypto.Signer) (uri string, err error) {
	err = s.at(ctx, "Lookup", func() error {
		if uri = s.accounts[thumbprint(key.Public())]; uri == "" {
			return refusal("accountDoesNotExist", 400)
		}
		return nil
	})
	return uri, err
}

func (s *script) known(a legoclient.Account) error {
	if uri := s.accounts[thumbprint(a.Key.Public())]; uri == "" || uri != a.URI {
		return refusal("accountDoesNotExist", 400)
	}
	return nil
}

func (s *script) AccountInfo(ctx context.Context, a legoclient.Account) (i legoclient.AccountInfo, err error) {
	err = s.at(ctx, "AccountInfo", func() error { i.Status = "valid"; return s.known(a) })
	return i, err
}

func (s *script) UpdateContact(ctx context.Context, a legoclient.Account, _ []string) error {
	return s.at(ctx, "UpdateContact", func() error { return s.known(a) })
}

func (s *script) ChangeKey(ctx context.Context, a legoclient.Account, next crypto.Signer) error {
	return s.at(ctx, "ChangeKey", func() error {
		if err := s.known(a); err != nil {
			return err
		}
		delete(s.accounts, thumbprint(a.Key.Public()))
		s.accounts[thumbprint(next.Public())] = a.URI
		return nil
	})
}

func (s *script) RenewalInfo(ctx context.Context, id string) (info legoclient.RenewalInfo, err error) {
	err = s.at(ctx, "RenewalInfo", func() error {
		leaf := s.bySerial[id]
		if leaf == nil {
			return refusal("malformed", 404)
		}
		if s.window != nil {
			info, err = s.window(leaf)
			return err
		}
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		ideal := leaf.NotAfter.Add(-life / 3)
		if life < 10*day {
			ideal = leaf.NotAfter.Add(-life / 2)
		}
		info = legoclient.RenewalInfo{Start: ideal.Add(-life / 100), End: ideal.Add(life / 100), RetryAfter: 6 * time.Hour}
		return nil
	})
	return info, err
}

func (s *script) NewOrder(ctx context.Context, a legoclient.Account, r legoclient.OrderRequest) (o legoclient.Order, err error) {
	err = s.at(ctx, "NewOrder", func() error {
		if err := s.known(a); err != nil {
			return err
		}
		if s.order != nil {
			if err := s.order(r); err != nil {
				return err
			}
		}
		if r.Replaces != "" && (s.bySerial[r.Replaces] == nil || s.replaced[r.Replaces]) {
			return refusal("alreadyReplaced", 409)
		}
		o = legoclient.Order{URL: fmt.Sprintf("https://ca.example/order/%d", len(s.orders)+1), Status: "pending", Finalize: "https://ca.example/f",
			Identifiers: r.Identifiers, Profile: r.Profile, Replaces: r.Replaces, Expires: s.clock().Add(7 * day)}
		s.orders[o.URL] = &scripted{Order: o}
		s.made = append(s.made, s.clock())
		return nil
	})
	if err != nil {
		return legoclient.Order{}, err
	}
	return o, nil
}

func (s *script) Order(ctx context.Context, _ legoclient.Account, url string) (o legoclient.Order, err error) {
	err = s.at(ctx, "Order", func() error {
		have := s.orders[url]
		if have == nil || have.Status != "valid" && s.clock().After(have.Expires) {
			return refusal("malformed", 404)
		}
		o = have.Order
		return nil
	})
	return o, err
}

func (s *script) Solve(ctx context.Context, _ legoclient.Account, o legoclient.Order, _ legoclient.Solver) error {
	return s.at(ctx, "Solve", func() error {
		have := s.orders[o.URL]
		var failed []error
		for _, name := range have.Identifiers {
			if slices.Contains(s.refuse, name) {
				failed = append(failed, &legoclient.Error{Op: "validate", Kind: legoclient.ChallengeFailed, Identifier: name, Type: "connection", Status: 400, Detail: "timeout during connect"})
			}
		}
		if failed != nil {
			have.Status = "invalid"
			return errors.Join(failed...)
		}
		have.Status = "ready"
		return nil
	})
}

func (s *script) Finalize(ctx context.Context, _ legoclient.Account, o legoclient.Order, der []byte) (out legoclient.Order, err error) {
	err = s.at(ctx, "Finalize", func() error {
		have := s.orders[o.URL]
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || have.Status != "ready" && have.Status != "valid" {
			return refusal("badCSR", 400)
		}
		if have.Status == "ready" {
			have.chain = s.issue(csr)
			have.Status, have.Certificate = "valid", have.URL+"/cert"
			if have.Replaces != "" {
				s.replaced[have.Replaces] = true
			}
		}
		out = have.Order
		return nil
	})
	if err != nil {
		return legoclient.Order{}, err
	}
	return out, nil
}

func (s *script) Await(ctx context.Context, _ legoclient.Account, url string, _ ...string) (o legoclient.Order, err error) {
	err = s.at(ctx, "Await", func() error {
		o = s.orders[url].Order
		if o.Status == "invalid" {
			return &legoclient.Error{Op: "await order", Kind: legoclient.Protocol, Detail: "invalid"}
		}
		return nil
	})
	return o, err
}

func (s *script) Download(ctx context.Context, _ legoclient.Account, url, _ string) (c legoclient.Chain, err error) {
	err = s.at(ctx, "Download", func() error {
		c = legoclient.Chain{Certificates: s.orders[strings.TrimSuffix(url, "/cert")].chain}
		return nil
	})
	return c, err
}

func (s *script) Revoke(ctx context.Context, _ legoclient.Account, _ *x509.Certificate, _ uint) error {
	return s.at(ctx, "Revoke", func() error { return nil })
}

// issuer is one intermediate for all scripts, valid for centuries.
var issuer = sync.OnceValue(func() (i struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}) {
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Script R1"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3, 4},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	above := *template
	above.Subject.CommonName = "Script Root"
	der, err := x509.CreateCertificate(rand.Reader, template, &above, &i.key.PublicKey, i.key)
	if err != nil {
		panic(err)
	}
	i.cert, err = x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return i
})

func (s *script) issue(csr *x509.CertificateRequest) []*x509.Certificate {
	s.issued++
	begin := s.clock().UTC().Add(-time.Hour).Truncate(time.Second)
	sum := sha256.Sum256(fmt.Appendf(nil, "%d", s.issued))
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(sum[:8]), DNSNames: csr.DNSNames, NotBefore: begin, NotAfter: begin.Add(s.life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if s.edit != nil {
		s.edit(template)
	}
	key := csr.PublicKey
	if s.other != nil {
		key = s.other
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer().cert, key, issuer().key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	if id, err := legoclient.CertID(leaf); err == nil {
		s.bySerial[id] = leaf
	}
	return []*x509.Certificate{leaf, issuer().cert}
}

// bench is a Manager with a script, a clock and a file system in memory.
type bench struct {
	*Manager
	ca   *script
	fs   *crashfs.FS
	spec Spec
	skew time.Duration // our clock minus the CA's
}

const memory = "/state/acme"

func newBench(t *testing.T, life time.Duration) *bench {
	t.Helper()
	b := &bench{fs: crashfs.New(), spec: good()}
	b.ca = newScript(func() time.Time { return time.Now().UTC() }, life)
	b.boot(t)
	return b
}

// boot is a new process on the same directory.
func (b *bench) boot(t *testing.T) {
	t.Helper()
	if err := atomicfile.MkdirAll(b.fs, memory); err != nil {
		t.Fatal(err)
	}
	b.Manager = &Manager{
		Store:  &Store{fs: b.fs, dir: memory, locks: t.TempDir()},
		Now:    func() time.Time { return b.ca.clock().Add(b.skew) },
		dial:   func(legoclient.Config) (ca, error) { return skewed{b.ca, b}, nil },
		solver: func(Spec) (legoclient.Solver, error) { return legoclient.Solver{}, nil },
		TLSA:   func(context.Context, string) (TLSA, error) { return TLSANone, nil },
	}
}

// skewed tells the difference of the clocks, as the client does.
type skewed struct {
	*script
	b *bench
}

func (s skewed) Directory(ctx context.Context) (legoclient.Directory, error) {
	d, err := s.script.Directory(ctx)
	d.Skew = s.b.skew
	return d, err
}

func (b *bench) register(ctx context.Context) error {
	_, err := b.Register(ctx, AccountSpec{Directory: b.spec.Directory, Contact: []string{"admin@example.com"}, AgreeTerms: true})
	return err
}

func (b *bench) must(t *testing.T, o Options) Result {
	t.Helper()
	r, err := b.Obtain(t.Context(), b.spec, o)
	if err != nil {
		t.Fatalf("obtain: %v", err)
	}
	return r
}

// mustFail obtains and expects a class.
func (b *bench) mustFail(t *testing.T, o Options, want Class) *Error {
	t.Helper()
	_, err := b.Obtain(t.Context(), b.spec, o)
	var e *Error
	if !errors.As(err, &e) || e.Class != want {
		t.Fatalf("got %v, want class %s", err, want)
	}
	return e
}
