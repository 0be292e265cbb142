// Package acmetest is a CA for tests: Pebble, Let's Encrypt's own test server, in
// this process, with a name server, and a front that misbehaves on request.
//
//	ca := acmetest.Start(t, acmetest.Options{})
//	client, err := legoclient.New(legoclient.Config{Directory: ca.URL, Roots: ca.Roots})
//
// All of it listens on loopback addresses, on ports of its own, so packages can
// be tested at the same time. Every name resolves to 127.0.0.1; the CA validates
// http-01 at ca.HTTPPort and tls-alpn-01 at ca.TLSPort, where the client under
// test has to listen, and dns-01 by asking ca.DNS.
//
// A program that needs a CA uses New and Close instead of Start.
//
// Oracles that do not depend on the client are [CA.Requests], what it asked for
// in order, [CA.Count], and what [DNS] holds.
//
// What is particular to Pebble: a new one has new roots and knows no certificate
// of an earlier one. Without a profile in the order it picks one at random. Two
// goroutines of its validation never end.
package acmetest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Options configures a CA; the zero value is a good one.
type Options struct {
	// EAB are external accounts, key identifier to HMAC key. If there is one, the CA
	// demands a binding.
	EAB map[string][]byte
	// Profiles replaces LetsEncrypt, the default.
	Profiles map[string]Profile
	// ChainLength is the number of intermediates; 0 is 1. Let's Encrypt's ECDSA chain
	// has 3, and so four certificates in all.
	ChainLength int
	// AlternateRoots is the number of other chains that are offered.
	AlternateRoots int
	// NonceReject is how many of 100 good nonces are refused, AuthzReuse for how many
	// of 100 names a valid authorization is used again.
	NonceReject, AuthzReuse int
	// Sleep is the number of seconds below which the CA waits, at random, before it
	// validates; 0: it does not wait.
	Sleep int
	// RetryAfterAuthz and RetryAfterOrder are seconds that Pebble asks to wait in
	// answers about what is being processed; 0: it does not ask.
	RetryAfterAuthz, RetryAfterOrder int
	// HTTPPort and TLSPort are where validation goes to; 0: a free port.
	HTTPPort, TLSPort int
	// Listen is the address of the directory; "": a free port of 127.0.0.1.
	Listen string
	// DNSListen is the address of the name server; "": port 53 of a random loopback
	// address, or if that is not allowed a free port of 127.0.0.1.
	DNSListen string
	// Dir is where RootsFile is written; "": a temporary directory, removed by Close.
	Dir string
	// Directory may change what the directory says, e.g. delete "renewalInfo".
	Directory func(map[string]any)
	// Log is where Pebble tells what it does; nil: nowhere.
	Log io.Writer
}

// Profile is a certificate profile.
type Profile struct {
	Description string
	Validity    time.Duration
	CommonName  bool // the first name becomes the subject's common name
}

// LetsEncrypt are its profiles at the end of 2026.
var LetsEncrypt = map[string]Profile{
	"classic":    {"the default", 90 * 24 * time.Hour, true},
	"tlsserver":  {"for servers", 45 * 24 * time.Hour, false},
	"shortlived": {"six days", 160 * time.Hour, false},
}

// CA is a running CA.
type CA struct {
	URL       string         // of the directory
	Roots     *x509.CertPool // of the directory's own TLS
	RootsFile string         // the same as PEM
	// HTTPPort and TLSPort are where the CA comes to validate: on 127.0.0.1, unless
	// DNS says another address.
	HTTPPort, TLSPort int
	DNS               *DNS

	options Options
	db      *db.MemoryStore
	ca      *ca.CAImpl
	pebble  http.Handler
	server  *http.Server
	front   front
	remove  string
	closed  sync.Once
	done    sync.WaitGroup
}

// Start is New for a test, with Close at its end.
func Start(t testing.TB, o Options) *CA {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// New starts a CA.
func New(o Options) (*CA, error) {
	c := &CA{options: o}
	if err := c.start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *CA) start() error {
	var err error
	if c.DNS, err = startDNS(c.options.DNSListen); err != nil {
		return err
	}
	if c.HTTPPort, err = port(c.options.HTTPPort); err != nil {
		return err
	}
	if c.TLSPort, err = port(c.options.TLSPort); err != nil {
		return err
	}
	if err := c.makePebble(); err != nil {
		return err
	}
	if c.options.Dir == "" {
		if c.remove, err = os.MkdirTemp("", "acmetest"); err != nil {
			return err
		}
		c.options.Dir = c.remove
	}
	return c.serve()
}

// ports that the kernel gives to nobody by itself, so that no connection of
// another test takes one between our look and the client's listening.
func port(wanted int) (int, error) {
	if wanted != 0 {
		return wanted, nil
	}
	for range 100 {
		p := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", ":"+strconv.Itoa(p))
		if err == nil {
			l.Close()
			return p, nil
		}
	}
	return 0, errors.New("acmetest: no free port")
}

// environment guards the variables by which alone Pebble can be told some things.
var environment sync.Mutex

func (c *CA) makePebble() error {
	environment.Lock()
	defer environment.Unlock()
	noSleep := "1"
	if c.options.Sleep > 0 {
		noSleep = "0"
	}
	for name, value := range map[string]string{
		"PEBBLE_VA_NOSLEEP":      noSleep,
		"PEBBLE_VA_SLEEPTIME":    strconv.Itoa(c.options.Sleep),
		"PEBBLE_WFE_NONCEREJECT": strconv.Itoa(c.options.NonceReject),
		"PEBBLE_AUTHZREUSE":      strconv.Itoa(c.options.AuthzReuse),
	} {
		before, was := os.LookupEnv(name)
		if err := os.Setenv(name, value); err != nil {
			return err
		}
		defer func() {
			if was {
				os.Setenv(name, before)
			} else {
				os.Unsetenv(name)
			}
		}()
	}
	out := c.options.Log
	if out == nil {
		out = io.Discard
	}
	logger := log.New(out, "pebble ", log.LstdFlags)
	profiles := make(map[string]ca.Profile)
	source := c.options.Profiles
	if source == nil {
		source = LetsEncrypt
	}
	for name, p := range source {
		profiles[name] = ca.Profile{Description: p.Description, PromoteCommonName: p.CommonName, ValidityPeriod: uint64(p.Validity / time.Second)}
	}
	c.db = db.NewMemoryStore()
	for kid, key := range c.options.EAB {
		if err := c.db.AddExternalAccountKeyByID(kid, base64.RawURLEncoding.EncodeToString(key)); err != nil {
			return err
		}
	}
	c.ca = ca.New(logger, c.db, "", "ecdsa", c.options.AlternateRoots, max(c.options.ChainLength, 1), profiles)
	validation := va.New(logger, c.HTTPPort, c.TLSPort, true, c.DNS.Addr, c.db)
	face := wfe.New(logger, c.db, validation, c.ca, []string{"ca.test"}, true, len(c.options.EAB) > 0, c.options.RetryAfterAuthz, c.options.RetryAfterOrder)
	c.pebble = face.Handler()
	return nil
}

// serve puts the front before Pebble, with TLS of a root of its own.
func (c *CA) serve() error {
	listen := c.options.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	config, root, err := serverTLS()
	if err != nil {
		return err
	}
	c.Roots = x509.NewCertPool()
	c.Roots.AddCert(root)
	c.RootsFile = filepath.Join(c.options.Dir, "acme-roots.pem")
	if err := os.WriteFile(c.RootsFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o644); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	c.URL = "https://" + l.Addr().String() + wfe.DirectoryPath
	c.server = &http.Server{Handler: http.HandlerFunc(c.handle), TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	c.done.Go(func() { _ = c.server.ServeTLS(l, "", "") })
	return nil
}

// Close ends the CA and its name server.
func (c *CA) Close() error {
	var err error
	c.closed.Do(func() {
		if c.server != nil {
			err = c.server.Close()
		}
		c.done.Wait()
		if c.DNS != nil {
			c.DNS.close()
		}
		if c.remove != "" {
			err = errors.Join(err, os.RemoveAll(c.remove))
		}
	})
	return err
}

// Issuers are the roots that certificates of this CA chain to.
func (c *CA) Issuers() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.IssuersPEM())
	return pool
}

// IssuersPEM are the same roots, that of the default chain first.
func (c *CA) IssuersPEM() []byte {
	var all bytes.Buffer
	for i := range c.ca.GetNumberOfRootCerts() {
		all.Write(c.ca.GetRootCert(i).PEM())
	}
	return all.Bytes()
}

// RootName is the common name of root i, for a preferred chain; 0 is the default.
func (c *CA) RootName(i int) string { return c.ca.GetRootCert(i).Cert.Subject.CommonName }

// SetRenewalInfo makes answer, which may be nonsense, what the CA says of the
// renewal of leaf.
func (c *CA) SetRenewalInfo(leaf *x509.Certificate, answer string) error {
	return c.db.SetARIResponse(leaf.SerialNumber, answer)
}

// Window is an answer for SetRenewalInfo.
func Window(start, end time.Time) string {
	return fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
}

// Revoked says whether the CA has leaf revoked.
func (c *CA) Revoked(leaf *x509.Certificate) bool {
	return c.db.GetRevokedCertificateBySerial(leaf.SerialNumber) != nil
}
