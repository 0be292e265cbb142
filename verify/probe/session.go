package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// ProxyLocal is the PROXY protocol version 2 header of a connection that the
// proxy itself made: signature, version 2 and command LOCAL, address family
// unspecified, no addresses (the PROXY protocol, section 2.2: "the connection
// was established on purpose by the proxy without being relayed").
const ProxyLocal = "\r\n\r\n\x00\r\nQUIT\n" + "\x20\x00\x00\x00"

// Session is a conversation that reached TLS and is held open. It is not safe
// for concurrent use.
type Session struct {
	endpoint Endpoint
	conn     net.Conn
	tls      *tls.Conn
	greeted  bool // the greeting was read, where it comes inside TLS
}

// Close says goodbye and closes the connection. It takes at most 5 seconds. A
// nil Session can be closed.
func (s *Session) Close() { s.leave(context.Background()) }

func (s *Session) leave(ctx context.Context) {
	if s == nil || s.conn == nil {
		return
	}
	defer func() {
		_ = s.conn.Close()
		s.conn = nil
	}()
	ctx, cancel := context.WithTimeout(ctx, goodbyeTime)
	defer cancel()
	defer bind(ctx, s.conn)()
	d := newDialogue(s.endpoint, s.tls)
	if !s.greet(d) {
		return
	}
	d.quit()
	_ = s.tls.CloseWrite()
}

// greet reads the greeting if it is still to come; where TLS comes first it is
// inside. postconf(5) smtpd_forbid_unauth_pipelining: who does not wait for it is
// told off. It tells whether the server takes a command.
func (s *Session) greet(d *dialogue) bool {
	if s.endpoint.Mode != Implicit || s.greeted {
		return true
	}
	s.greeted = true
	acknowledge(s.conn)
	a, err := d.ask(step{Greeting, ""})
	return err == nil && a.inSync
}

// Extensions asks an SMTP server inside TLS for its service extensions (RFC 5321
// section 4.1.1.1) and returns the lines of its reply behind the first, such as
// "AUTH PLAIN LOGIN". RFC 3207 section 4.2: what it said before TLS counts no
// more. A nil Session, which openssl(1) left, cannot be asked.
func (s *Session) Extensions(ctx context.Context) ([]string, error) {
	if s == nil || s.conn == nil || s.endpoint.Protocol != SMTP {
		return nil, errors.New("probe: no SMTP session to ask")
	}
	ctx, cancel := context.WithTimeout(ctx, s.endpoint.Timeout)
	defer cancel()
	defer bind(ctx, s.conn)()
	d := newDialogue(s.endpoint, s.tls)
	if !s.greet(d) {
		return nil, errors.New("probe: the server takes no command inside TLS")
	}
	r, err := d.askSMTP("EHLO " + ehloName)
	if err != nil {
		return nil, err
	}
	if reason := judge(Hello, r); reason != OK {
		return nil, errors.New("probe: EHLO inside TLS: " + brief(r.String()))
	}
	return append([]string{}, r.lines[1:]...), nil
}

// acknowledge lets the kernel acknowledge at once what has come. After the
// handshake the server sends session tickets and the greeting; it holds the
// greeting back until the tickets are acknowledged (RFC 896), which our kernel
// puts off for 40 ms in the hope that we have something to say, too.
func acknowledge(conn net.Conn) {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // it only saves time
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
		})
	}
}

// open connects and goes as far as TLS. The Result has no Endpoint and no Took.
func open(ctx context.Context, e Endpoint) (*Session, Result) {
	if r, ok := askable(e); !ok {
		return nil, r
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, e.Network, e.Address)
	if err != nil {
		reason, detail := judgeError(ctx, err)
		return nil, Result{Reason: reason, Detail: detail, Phase: Connecting}
	}
	s, r := converse(ctx, e, conn)
	if s == nil {
		_ = conn.Close()
	}
	return s, r
}

// askable refuses a question that makes no sense.
func askable(e Endpoint) (Result, bool) {
	r := Result{Reason: NotAsked, Phase: Connecting}
	switch e.Network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		r.Detail = fmt.Sprintf("unknown network %q", e.Network)
		return r, false
	}
	switch {
	case e.Mode != STARTTLS && e.Mode != Implicit:
		r.Detail = fmt.Sprintf("unknown mode %q", e.Mode)
	case e.Protocol != SMTP && e.Protocol != IMAP:
		r.Detail = fmt.Sprintf("unknown protocol %q", e.Protocol)
	case e.KeyType != "" && e.KeyType != RSA && e.KeyType != ECDSA:
		r.Detail = fmt.Sprintf("cannot ask for a key of type %q", e.KeyType)
	default:
		return r, true
	}
	return r, false
}

// converse speaks on conn. It leaves conn open and without a deadline.
func converse(ctx context.Context, e Endpoint, conn net.Conn) (*Session, Result) {
	r, done := preamble(ctx, e, conn)
	if done {
		return nil, r
	}
	release := bind(ctx, conn)
	defer release()
	offered := r.Extensions
	c, r := handshake(ctx, e, conn)
	r.Extensions = offered
	if c == nil {
		return nil, r
	}
	if e.Transcript != nil {
		fmt.Fprintf(e.Transcript, "* %s %s\n", tls.VersionName(r.Protocol), tls.CipherSuiteName(r.Cipher))
	}
	return &Session{endpoint: e, conn: conn, tls: c}, r
}

// preamble is what comes before TLS. done is true if TLS was not reached.
func preamble(ctx context.Context, e Endpoint, conn net.Conn) (r Result, done bool) {
	release := bind(ctx, conn)
	r, inSync := plain(ctx, e, conn)
	release()
	if r.Reason != OK && inSync {
		ctx, cancel := context.WithTimeout(ctx, goodbyeTime)
		defer cancel()
		defer bind(ctx, conn)()
		newDialogue(e, conn).quit()
	}
	return r, r.Reason != OK
}

// plain sends the PROXY header and speaks in plain text until TLS may start.
// inSync tells whether the server would take another command.
func plain(ctx context.Context, e Endpoint, conn net.Conn) (r Result, inSync bool) {
	if e.ProxyProtocol {
		if _, err := io.WriteString(conn, ProxyLocal); err != nil {
			r.Reason, r.Detail = judgeError(ctx, err)
			r.Phase = Greeting
			return r, false
		}
	}
	if e.Mode == Implicit {
		return Result{Reason: OK, Phase: Handshaking}, false
	}
	d := newDialogue(e, conn)
	var offered []string
	for _, s := range steps(e.Protocol) {
		a, err := d.ask(s)
		if s.phase == Hello && len(a.lines) > 0 {
			offered = a.lines[1:]
		}
		r = Result{Reason: a.reason, Detail: a.detail, Phase: s.phase, Extensions: offered}
		if err != nil {
			r.Reason, r.Detail = judgeError(ctx, err)
			if s.phase == Greeting && r.Reason == Timeout && !d.in.got && !errors.Is(ctx.Err(), context.Canceled) {
				r.Reason = NoBanner
			}
			return r, false
		}
		if a.reason != OK {
			return r, a.inSync
		}
	}
	return r, true
}
