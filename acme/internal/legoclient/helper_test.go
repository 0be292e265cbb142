package legoclient

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// world is a CA, a client and an account.
type world struct {
	*acmetest.CA
	t      *testing.T
	client *Client
	acct   Account
}

func start(t *testing.T, o acmetest.Options) *world {
	t.Helper()
	ca := acmetest.Start(t, o)
	w := &world{CA: ca, t: t, client: client(t, ca)}
	w.acct.Key = newKey(t)
	if o.EAB == nil {
		uri, err := w.client.Register(t.Context(), w.acct.Key, Registration{AgreeTerms: true, Contact: []string{"mailto:admin@example.test"}})
		if err != nil {
			t.Fatal(err)
		}
		w.acct.URI = uri
	}
	return w
}

func client(t *testing.T, ca *acmetest.CA) *Client {
	t.Helper()
	c, err := New(Config{Directory: ca.URL, Roots: ca.Roots, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t *testing.T, key crypto.Signer, names ...string) []byte {
	t.Helper()
	template := &x509.CertificateRequest{}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// http is the solver for http-01 with our own server.
func (w *world) http() Solver {
	return solver(w.t, Challenge{Type: HTTP01, Listen: "127.0.0.1:" + strconv.Itoa(w.HTTPPort)})
}

func (w *world) alpn() Solver {
	return solver(w.t, Challenge{Type: TLSALPN01, Listen: "127.0.0.1:" + strconv.Itoa(w.TLSPort)})
}

func solver(t *testing.T, ch Challenge) Solver {
	t.Helper()
	s, err := NewSolver(ch)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) order(r OrderRequest) Order {
	w.t.Helper()
	if r.Profile == "" {
		r.Profile = "tlsserver" // Pebble picks one at random otherwise
	}
	o, err := w.client.NewOrder(w.t.Context(), w.acct, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// issue goes the whole way.
func (w *world) issue(s Solver, r OrderRequest) Chain {
	w.t.Helper()
	chain, err := issue(w.t.Context(), w.t, w.client, w.acct, s, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return chain
}

func issue(ctx context.Context, t *testing.T, c *Client, acct Account, s Solver, r OrderRequest) (Chain, error) {
	t.Helper()
	if r.Profile == "" {
		r.Profile = "tlsserver"
	}
	o, err := c.NewOrder(ctx, acct, r)
	if err != nil {
		return Chain{}, fmt.Errorf("NewOrder: %w", err)
	}
	if err := c.Solve(ctx, acct, o, s); err != nil {
		return Chain{}, fmt.Errorf("Solve: %w", err)
	}
	if o, err = c.Await(ctx, acct, o.URL, "ready"); err != nil {
		return Chain{}, fmt.Errorf("Await ready: %w", err)
	}
	if o, err = c.Finalize(ctx, acct, o, csr(t, newKey(t), r.Identifiers...)); err != nil {
		return Chain{}, fmt.Errorf("Finalize: %w", err)
	}
	if o, err = c.Await(ctx, acct, o.URL, "valid"); err != nil {
		return Chain{}, fmt.Errorf("Await valid: %w", err)
	}
	chain, err := c.Download(ctx, acct, o.Certificate, "")
	if err != nil {
		return Chain{}, fmt.Errorf("Download: %w", err)
	}
	return chain, nil
}

// failure is the first *Error in err.
func failure(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	return e
}

// zone is a DNS provider that writes to the CA's name server.
type zone struct {
	dns *acmetest.DNS

	mu      sync.Mutex
	calls   []string
	timeout time.Duration
	err     error // of Present
	hang    bool  // Present and CleanUp know no context
}

func (z *zone) note(call, fqdn string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls = append(z.calls, call+" "+fqdn)
}

func digest(keyAuth string) string {
	sum := sha256.Sum256([]byte(keyAuth))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (z *zone) Present(_ context.Context, fqdn, keyAuth string) error {
	z.note("present", fqdn)
	if z.err != nil {
		return z.err
	}
	z.dns.AddTXT(fqdn, digest(keyAuth))
	if z.hang {
		time.Sleep(3 * time.Second)
	}
	return nil
}

func (z *zone) CleanUp(_ context.Context, fqdn, keyAuth string) error {
	z.note("cleanup", fqdn)
	z.dns.RemoveTXT(fqdn, digest(keyAuth))
	if z.hang {
		time.Sleep(3 * time.Second)
	}
	return nil
}

func (z *zone) Timeout() (timeout, interval time.Duration) {
	if z.timeout == 0 {
		return 10 * time.Second, time.Second
	}
	return z.timeout, time.Second
}

// mustBeFree fails if somebody listens on the port.
func mustBeFree(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Errorf("the port is still taken: %v", err)
		return
	}
	l.Close()
}
