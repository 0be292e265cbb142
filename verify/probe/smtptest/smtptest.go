// Package smtptest is an SMTP server inside the test process, in the manner of
// net/http/httptest: it greets, offers STARTTLS or speaks TLS at once, presents
// the certificate it was last given, and misbehaves exactly where it is told.
//
// A test describes the server with a Script, which can be changed while the
// server runs, and looks afterwards at the Sessions: what the client sent,
// whether it waited for its turn, and whether it said goodbye.
package smtptest

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Point is a place in a session where a Fault can strike.
type Point string

const (
	Greeting  Point = "greeting"  // in place of the greeting; in Implicit mode inside TLS
	Hello     Point = "hello"     // in place of the reply to EHLO
	StartTLS  Point = "starttls"  // in place of the reply to STARTTLS
	Handshake Point = "handshake" // in place of the server's side of the handshake
	Quit      Point = "quit"      // in place of the reply to QUIT
)

// Script is how a server behaves. The zero Script with a certificate is a
// server without faults that offers STARTTLS.
type Script struct {
	Implicit  bool        // TLS from the first byte
	WantProxy bool        // reads a PROXY protocol header first, and declines without one
	TLS       *tls.Config // limits and the like; the certificates are those of SetCertificates
	Greeting  string      // "" is "220 smtptest.invalid ESMTP"; lines are separated by \n
	Hello     string      // "" is a reply that offers STARTTLS
	StartTLS  string      // "" is "220 2.0.0 Ready to start TLS"
	Faults    map[Point]Fault
}

// Session is what one client did.
type Session struct {
	Commands  []string // as received, in order; those inside TLS begin with "tls:"
	Proxy     bool     // a PROXY header with the command LOCAL came first
	Handshake bool     // TLS was established
	Resumed   bool     // by a session ticket
	SNI       string
	Quit      bool // the client said QUIT
	QuitTLS   bool // inside TLS
	EarlyTalk bool // the client sent something while it was not its turn
	Ended     bool // the session is over
}

// Server is a running server.
type Server struct {
	Network string // "tcp" or "unix"
	Addr    string // host:port, or the path of the socket

	listener net.Listener
	stop     chan struct{} // closed at the end: faults return
	running  sync.WaitGroup

	mu       sync.Mutex
	script   Script
	certs    []tls.Certificate
	sessions []*Session
	conns    map[net.Conn]bool
}

// Start runs a server on a free port of 127.0.0.1 until the test ends.
func Start(t testing.TB, s Script, certs ...tls.Certificate) *Server {
	t.Helper()
	return listen(t, "tcp", "127.0.0.1:0", s, certs)
}

// StartOn runs a server on an address of the caller's choice: network "tcp",
// "tcp6" or "unix". The address "" of a UNIX socket is one in a new directory.
func StartOn(t testing.TB, network, address string, s Script, certs ...tls.Certificate) *Server {
	t.Helper()
	if network == "unix" && address == "" {
		address = filepath.Join(t.TempDir(), "smtp")
	}
	return listen(t, network, address, s, certs)
}

func listen(t testing.TB, network, address string, s Script, certs []tls.Certificate) *Server {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatalf("smtptest: %v", err)
	}
	srv := &Server{
		Network: network, Addr: l.Addr().String(), listener: l, stop: make(chan struct{}),
		script: s, certs: certs, conns: map[net.Conn]bool{},
	}
	srv.running.Add(1)
	go srv.accept()
	t.Cleanup(srv.Close)
	return srv
}

// Close ends the server and every session, and waits until they are gone. It
// can be called more than once.
func (s *Server) Close() {
	s.mu.Lock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	_ = s.listener.Close()
	s.running.Wait()
}

// SetCertificates changes what is presented in sessions from now on. Several
// certificates are chosen from by server name and key type, as crypto/tls does.
func (s *Server) SetCertificates(certs ...tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certs = certs
}

// SetScript changes the behaviour in sessions from now on.
func (s *Server) SetScript(script Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// Sessions is what clients did until now, in the order in which they came.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Session, len(s.sessions))
	for i, x := range s.sessions {
		out[i] = *x
		out[i].Commands = append([]string(nil), x.Commands...)
	}
	return out
}

// Last waits until every session is over and returns the last one.
func (s *Server) Last(t testing.TB) Session {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		all := s.Sessions()
		over := len(all) > 0
		for _, x := range all {
			over = over && x.Ended
		}
		if over {
			return all[len(all)-1]
		}
		if time.Now().After(end) {
			t.Fatalf("smtptest: no session, or one that does not end: %+v", all)
		}
	}
}

func (s *Server) accept() {
	defer s.running.Done()
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		select {
		case <-s.stop:
			s.mu.Unlock()
			_ = c.Close()
			return
		default:
		}
		s.conns[c] = true
		x := &Session{}
		s.sessions = append(s.sessions, x)
		cfg := tlsConfig(s.script, s.certs)
		v := &visit{server: s, script: s.script, config: cfg, session: x, raw: c, conn: c}
		s.running.Add(1)
		s.mu.Unlock()
		go s.serve(v)
	}
}

func (s *Server) serve(v *visit) {
	defer s.running.Done()
	v.run()
	_ = v.raw.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, v.raw)
	v.session.Ended = true
}

func tlsConfig(s Script, certs []tls.Certificate) *tls.Config {
	cfg := &tls.Config{}
	if s.TLS != nil {
		cfg = s.TLS.Clone()
	}
	if len(certs) > 0 {
		cfg.Certificates = certs
	}
	// One key for all sessions of a server: a client that wants to resume can,
	// and the Session shows it.
	cfg.SetSessionTicketKeys([][32]byte{{1}})
	return cfg
}
