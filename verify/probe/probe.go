// Package probe asks one mail server, in one connection, which certificate it
// presents.
//
// Handshake opens the connection, speaks just enough SMTP (RFC 5321, STARTTLS
// of RFC 3207) or IMAP (RFC 9051) to reach TLS, or starts with TLS at once
// (RFC 8314), completes the handshake, says goodbye and reports what it saw.
// Open does the same and leaves the session open, because only sessions held
// at the same time are served by different smtpd processes. Compare holds a
// result against the certificates that should be served.
//
// The package observes; it does not trust. No certificate is verified: an
// expired, self-signed or foreign one is what the caller wants to see. What the
// handshake does prove is that the server has the private key of the leaf it
// presented.
//
// # What goes wrong has a name
//
// A Result always has a Reason. It is about what the server did, not about what
// should follow: that a listener refuses connections says nothing about its
// certificate, while "454 4.7.0 TLS not available" does. Compare knows the
// difference, and so does the caller that decides about an undo.
//
// # Manners
//
// Postfix mails its postmaster a transcript of a session that ended in an
// error, and drops clients that talk out of turn. So a probe waits for the
// whole greeting, sends one command at a time, does not ask for STARTTLS where
// it was not offered, and leaves with QUIT, inside TLS where TLS was reached.
//
// # Limits
//
// Each call ends by its deadline and keeps a bounded amount of what the server
// sends, whatever the server does. A call leaves no goroutine behind.
//
// crypto/tls has no anonymous and no finite-field Diffie-Hellman cipher suites,
// no SSLv3, and no SHA-1 signatures in TLS 1.2; a server that has nothing else
// answers, or gets, an alert here. TLS 1.0, RC4, 3DES and RSA key exchange are
// enabled, so that an old server can be seen. crypto/tls also cannot choose the
// type of the server's key in TLS 1.3: see Endpoint.KeyType.
package probe

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"time"
)

// DefaultTimeout bounds a call whose Endpoint names no time limit. It is longer
// than what a healthy Postfix may need for its greeting: 2 s for a main.cf that
// was just edited, 6 s for postscreen_greet_wait, 5 s for a slow PTR lookup.
const DefaultTimeout = 15 * time.Second

// Mode is when TLS starts.
type Mode string

const (
	STARTTLS Mode = "starttls" // after a command in plain text; the default
	Implicit Mode = "implicit" // at once; postconf(5) smtpd_tls_wrappermode = yes
)

// Protocol is what is spoken around TLS.
type Protocol string

const (
	SMTP Protocol = "smtp" // the default
	IMAP Protocol = "imap"
)

// The key types that can be asked for.
const (
	RSA   = "rsa"
	ECDSA = "ecdsa"
)

// Endpoint is one question: whom to ask, and how.
type Endpoint struct {
	Network    string   // "tcp" (the default), "tcp4", "tcp6" or "unix"
	Address    string   // host:port, or the path of a socket
	Mode       Mode     // "" is STARTTLS
	Protocol   Protocol // "" is SMTP
	ServerName string   // the SNI to send, a DNS name; "" sends none

	// KeyType asks for a certificate of this type: "" (whatever the server
	// prefers), RSA or ECDSA. In TLS 1.2 the cipher suites select it. A server
	// that does not speak TLS 1.2 is asked by openssl(1); without that the
	// answer is NotAsked.
	KeyType string

	// ProxyProtocol sends a PROXY protocol version 2 header with the command
	// LOCAL first, as a load balancer's health check does. A listener with
	// postconf(5) smtpd_upstream_proxy_protocol = haproxy does not answer
	// without one.
	ProxyProtocol bool

	Timeout    time.Duration // for the whole call; 0 is DefaultTimeout
	Transcript io.Writer     // gets the dialogue, "> EHLO ..", "< 220 .."; nil for none
	OpenSSL    string        // absolute path of openssl(1); "" if there is none
}

func (e Endpoint) withDefaults() Endpoint {
	if e.Network == "" {
		e.Network = "tcp"
	}
	if e.Mode == "" {
		e.Mode = STARTTLS
	}
	if e.Protocol == "" {
		e.Protocol = SMTP
	}
	if e.Timeout <= 0 {
		e.Timeout = DefaultTimeout
	}
	return e
}

// Reason is how a call ended. The values are part of the JSON contract.
type Reason string

const (
	OK                Reason = "ok"                 // the handshake was completed
	Refused           Reason = "refused"            // no connection, or the server declined to talk (5xx, 4xx) for a reason that is not TLS
	NoBanner          Reason = "no_banner"          // connected; not one byte came
	Closed            Reason = "closed"             // the server ended the connection
	ShuttingDown      Reason = "shutting_down"      // 421, or BYE in IMAP
	TLSNotAvailable   Reason = "tls_not_available"  // 454 that is about TLS: Postfix could not load its certificate
	MilterUnavailable Reason = "milter_unavailable" // 454 4.3.0: Postfix could not ask a milter
	RateLimited       Reason = "rate_limited"       // too many connections or TLS sessions from here
	NotOffered        Reason = "not_offered"        // no STARTTLS in the EHLO reply, or STARTTLS is an unknown command
	HandshakeFailed   Reason = "handshake_failed"   // an alert, or what came was not a valid handshake
	Unreadable        Reason = "unreadable"         // certificates came that crypto/tls refuses to read and OpenSSL serves
	Timeout           Reason = "timeout"            // the deadline passed, or the context ended
	ProtocolError     Reason = "protocol_error"     // the server does not speak the protocol
	NotAsked          Reason = "not_asked"          // this question cannot be asked from here

	// Only from Compare:
	OtherLeaf  Reason = "other_leaf"  // another leaf was presented
	OtherChain Reason = "other_chain" // the leaf is right, what follows it is not
)

// Phase is how far a call came. It tells a connection that was closed before
// the greeting from one that was closed during the handshake.
type Phase string

const (
	Connecting   Phase = "connect"
	Greeting     Phase = "greeting"  // waiting for the banner
	Hello        Phase = "hello"     // EHLO
	StartTLS     Phase = "starttls"  // the STARTTLS command
	Handshaking  Phase = "handshake" // TLS
	Established  Phase = "established"
	AskedOpenSSL Phase = "openssl" // openssl(1) was asked
)

// Result is what was seen.
type Result struct {
	Endpoint Endpoint
	Reason   Reason
	Detail   string // the server's words, the name of the alert, or the local error
	Phase    Phase  // how far the call came

	// Extensions are the lines of the reply to EHLO before TLS, without the first;
	// nil if there was none. Not part of the JSON.
	Extensions []string

	Chain    []*x509.Certificate // as presented, leaf first; empty if one of Raw cannot be parsed
	Raw      [][]byte            // DER as presented; also after a handshake that failed later
	Protocol uint16              // crypto/tls.VersionTLS12, ...; 0 if unknown
	Cipher   uint16              // crypto/tls.TLS_..., the IANA number; 0 if unknown
	Took     time.Duration       // until the answer was known; a goodbye inside TLS is not counted

	alert uint8 // the alert the server sent, if HandshakeFailed is about one
}

// Leaf is the fingerprint of the first certificate presented, or "".
func (r Result) Leaf() string {
	if len(r.Raw) == 0 {
		return ""
	}
	return fingerprint(r.Raw[0])
}

// Fingerprints are the fingerprints of what was presented, in order: lower-case
// hexadecimal SHA-256 of the DER.
func (r Result) Fingerprints() []string {
	out := make([]string, len(r.Raw))
	for i, der := range r.Raw {
		out[i] = fingerprint(der)
	}
	return out
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Handshake asks e once and leaves politely. It always returns a Result with a
// Reason, and returns by the deadline of e or the end of ctx, whichever is
// first.
func Handshake(ctx context.Context, e Endpoint) Result {
	ctx, cancel := context.WithTimeout(ctx, e.withDefaults().Timeout)
	defer cancel()
	s, r := Open(ctx, e)
	s.leave(ctx)
	return r
}

// Open asks e once and keeps the session open. The caller closes it with Close.
//
// The session is nil unless the Reason is OK, and also when openssl(1) had to
// be asked, whose sessions cannot be held. Closing a nil Session is allowed.
// The context and the time limit of e concern Open only, not the session.
func Open(ctx context.Context, e Endpoint) (*Session, Result) {
	e = e.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	start := time.Now()
	s, r := open(ctx, e)
	if askOpenSSL(e, r) {
		r = viaOpenSSL(ctx, e, r)
	}
	r.Endpoint = e
	r.Took = time.Since(start)
	return s, r
}
