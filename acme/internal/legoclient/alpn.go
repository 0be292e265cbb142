package legoclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// acmeTLS is the protocol that the CA offers (RFC 8737 section 6.2).
const acmeTLS = "acme-tls/1"

// acmeIdentifier is the extension with the digest of the key authorization (RFC
// 8737 section 6.1).
var acmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// alpnServer answers tls-alpn-01: a handshake, and nothing after it. It speaks no
// HTTP, so nothing else of the process can be reached through it.
type alpnServer struct{ addr string }

func (alpnServer) kind() string   { return TLSALPN01 }
func (alpnServer) oneByOne() bool { return false }

func (a alpnServer) check(ctx context.Context, _ []string) error { return canListen(ctx, a.addr) }

func (a alpnServer) present(ctx context.Context, tasks []task) (func(context.Context) error, error) {
	nothing := func(context.Context) error { return nil }
	certs := make(map[string]*tls.Certificate, len(tasks))
	for _, t := range tasks {
		cert, err := challengeCert(t.domain, t.keyAuth)
		if err != nil {
			return nothing, local("challenge", t.identifier, err)
		}
		certs[serverName(t.domain)] = cert
	}
	l, err := listen(ctx, a.addr)
	if err != nil {
		return nothing, err
	}
	server := &handshakes{listener: l, open: make(map[net.Conn]bool), config: &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{acmeTLS},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			// NextProtos alone accepts a client that offers no protocol at all.
			cert := certs[strings.ToLower(hello.ServerName)]
			if cert == nil || len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acmeTLS {
				return nil, errors.New("no such challenge")
			}
			return cert, nil
		},
	}}
	server.all.Go(server.accept)
	return server.down, nil
}

// serverName is the SNI that the CA uses: for an IP address its reverse name (RFC
// 8738 section 6).
func serverName(domain string) string {
	if net.ParseIP(domain) != nil {
		if reverse, err := dns.ReverseAddr(domain); err == nil {
			return strings.TrimSuffix(reverse, ".")
		}
	}
	return domain
}

// handshakes is a TLS server that hangs up after the handshake.
type handshakes struct {
	listener net.Listener
	config   *tls.Config
	all      sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

func (h *handshakes) accept() {
	for {
		conn, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: others close theirs
			continue
		}
		if !h.add(conn) {
			return
		}
		h.all.Go(func() {
			defer h.remove(conn)
			_ = conn.SetDeadline(time.Now().Add(serverTimeout))
			server := tls.Server(conn, h.config)
			if server.Handshake() == nil {
				_ = server.CloseWrite()
			}
		})
	}
}

func (h *handshakes) add(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		conn.Close()
		return false
	}
	h.open[conn] = true
	return true
}

func (h *handshakes) remove(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, conn)
	conn.Close()
}

// down ends the server and what is under way.
func (h *handshakes) down(context.Context) error {
	err := h.listener.Close()
	h.mu.Lock()
	h.closed = true
	for conn := range h.open {
		conn.Close()
	}
	h.mu.Unlock()
	h.all.Wait()
	return err
}

// challengeCert is the self-signed certificate of RFC 8737 section 3: the one
// name, and the digest in a critical extension.
func challengeCert(domain, keyAuth string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(keyAuth))
	value, err := asn1.Marshal(digest[:])
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:    big.NewInt(1),
		Subject:         pkix.Name{CommonName: "ACME challenge"},
		NotBefore:       time.Now().Add(-time.Hour),
		NotAfter:        time.Now().Add(24 * time.Hour),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: acmeIdentifier, Critical: true, Value: value}},
	}
	if ip := net.ParseIP(domain); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{domain}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
