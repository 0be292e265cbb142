package acme

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"math/rand/v2"
	"time"

	"postcert/acme/internal/legoclient"
)

// ca is what a Manager needs of a certificate authority: legoclient.Client, or a
// script in tests. Every error of it is a *legoclient.Error or several joined.
type ca interface {
	Directory(ctx context.Context) (legoclient.Directory, error)
	Register(ctx context.Context, key crypto.Signer, r legoclient.Registration) (string, error)
	Lookup(ctx context.Context, key crypto.Signer) (string, error)
	AccountInfo(ctx context.Context, a legoclient.Account) (legoclient.AccountInfo, error)
	UpdateContact(ctx context.Context, a legoclient.Account, contact []string) error
	ChangeKey(ctx context.Context, a legoclient.Account, next crypto.Signer) error
	RenewalInfo(ctx context.Context, certID string) (legoclient.RenewalInfo, error)
	NewOrder(ctx context.Context, a legoclient.Account, r legoclient.OrderRequest) (legoclient.Order, error)
	Order(ctx context.Context, a legoclient.Account, url string) (legoclient.Order, error)
	Solve(ctx context.Context, a legoclient.Account, o legoclient.Order, s legoclient.Solver) error
	Finalize(ctx context.Context, a legoclient.Account, o legoclient.Order, csr []byte) (legoclient.Order, error)
	Await(ctx context.Context, a legoclient.Account, url string, want ...string) (legoclient.Order, error)
	Download(ctx context.Context, a legoclient.Account, url, preferredChain string) (legoclient.Chain, error)
	Revoke(ctx context.Context, a legoclient.Account, leaf *x509.Certificate, reason uint) error
}

// clientKey is what distinguishes the clients of a Manager.
type clientKey struct {
	directory, agent string
	roots            [sha256.Size]byte
	timeout          time.Duration
}

// connect returns the client of a CA, the same one each time. It makes no request.
func (m *Manager) connect(directory string, roots []byte) (ca, error) {
	trust, err := pool(roots)
	if err != nil {
		return nil, err
	}
	cfg := legoclient.Config{Directory: directory, Roots: trust, UserAgent: m.UserAgent, Timeout: m.Timeout, Now: m.now, Log: m.Log}
	if m.dial != nil {
		return m.dial(cfg)
	}
	key := clientKey{directory, m.UserAgent, sha256.Sum256(roots), m.Timeout}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.clients[key]; ok {
		return c, nil
	}
	c, err := legoclient.New(cfg)
	if err != nil {
		return nil, err
	}
	if m.clients == nil {
		m.clients = map[clientKey]*legoclient.Client{}
	}
	m.clients[key] = c
	return c, nil
}

func (m *Manager) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func (m *Manager) log() *slog.Logger {
	if m.Log != nil {
		return m.Log
	}
	return slog.New(slog.DiscardHandler)
}

// draw is a random number from 0 to below 1.
func (m *Manager) draw() float64 {
	if m.random != nil {
		return m.random()
	}
	return rand.Float64()
}

func (m *Manager) staging(directory string) string {
	if m.Staging != nil {
		return m.Staging(directory)
	}
	return StagingURL(directory)
}

// lockCA runs f while this process is the only one that orders at a CA.
func (m *Manager) lockCA(ctx context.Context, directory string, f func() error) error {
	return m.Store.withLock(ctx, "account-"+caKey(directory), m.LockWait, f)
}

func (m *Manager) lockCert(ctx context.Context, name string, f func() error) error {
	return m.Store.withLock(ctx, "cert-"+fileName(name), m.LockWait, f)
}

// lockSolve keeps challenges apart: there is one port 80 on a host.
func (m *Manager) lockSolve(ctx context.Context, f func() error) error {
	return m.Store.withLock(ctx, "solve", m.LockWait, f)
}
