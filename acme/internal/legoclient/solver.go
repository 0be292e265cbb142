package legoclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
)

// The challenge types (RFC 8555 section 8, RFC 8737).
const (
	HTTP01    = "http-01"
	TLSALPN01 = "tls-alpn-01"
	DNS01     = "dns-01"
)

// Challenge is how we show that a name is ours.
type Challenge struct {
	Type string // http-01, tls-alpn-01, dns-01

	// Listen is the address of our own server for http-01 and tls-alpn-01:
	// "host:port", the host an IP address, or empty for all of both families. ""
	// is ":80" and ":443". The CA always comes to those ports; another one is for
	// a proxy or a port forwarding in front. The port is taken only while
	// challenges are answered.
	Listen string
	// Webroot is for http-01 instead of a server of ours: the directory that a
	// web server on port 80 publishes as "/".
	Webroot string

	DNS DNSProvider // for dns-01
	// Propagation is how long a TXT record may take to be on all name servers of
	// its zone; 0: what the provider says. The wait ends as soon as it is seen
	// there, and lasts for all of it if they cannot be asked.
	Propagation time.Duration
	// Resolvers are asked for CNAMEs and name servers: "address" or
	// "address:port". None: those of /etc/resolv.conf, as it is by then.
	Resolvers []string
	// DisableCNAME writes the record to _acme-challenge.<name>, even if that is an
	// alias for something else.
	DisableCNAME bool
}

// DNSProvider writes TXT records. fqdn is the effective name, after CNAMEs, with
// the final dot. keyAuth is the key authorization, whose digest is the record's
// value (RFC 8555 section 8.4). CleanUp is called for every Present that was
// tried, with the same arguments.
//
// A provider may also have
//
//	Check(ctx context.Context, fqdn string) error    // are the credentials accepted? Solver.Check asks
//	Sequential() bool                                // one record at a time
type DNSProvider interface {
	Present(ctx context.Context, fqdn, keyAuth string) error
	CleanUp(ctx context.Context, fqdn, keyAuth string) error
	Timeout() (timeout, interval time.Duration)
}

// Solver answers challenges of one type. It keeps no state between calls of
// [Client.Solve].
type Solver struct{ way way }

// task is one name to be validated.
type task struct {
	identifier string // as ordered: a wildcard with its *.
	domain     string // without it
	token      string
	keyAuth    string
}

// way is one method of answering.
type way interface {
	kind() string
	// check says what would fail for the names.
	check(ctx context.Context, names []string) error
	// present makes all answers visible to the CA. What down takes down is
	// everything that was put up, and it is never nil.
	present(ctx context.Context, tasks []task) (down func(context.Context) error, err error)
	// oneByOne says that tasks must not be presented together.
	oneByOne() bool
}

// NewSolver returns the solver for ch; it touches nothing.
func NewSolver(ch Challenge) (Solver, error) {
	bad := func(format string, args ...any) (Solver, error) {
		return Solver{}, &Error{Op: "challenge", Kind: Local, Detail: fmt.Sprintf(format, args...)}
	}
	switch ch.Type {
	case HTTP01:
		if ch.Webroot != "" && ch.Listen != "" {
			return bad("http-01 with a server of its own and a webroot as well")
		}
		if ch.Webroot != "" {
			return Solver{webroot{ch.Webroot}}, nil
		}
		addr, err := listenAddr(ch.Listen, "80")
		return Solver{httpServer{addr}}, err
	case TLSALPN01:
		addr, err := listenAddr(ch.Listen, "443")
		return Solver{alpnServer{addr}}, err
	case DNS01:
		if ch.DNS == nil {
			return bad("dns-01 without a DNS provider")
		}
		return Solver{dnsWay{ch}}, nil
	}
	return bad("no challenge is called %q, only %s, %s and %s", clean(ch.Type), HTTP01, TLSALPN01, DNS01)
}

// listenAddr is a checked listen address.
func listenAddr(addr, port string) (string, error) {
	if addr == "" {
		return ":" + port, nil
	}
	host, given, err := net.SplitHostPort(addr)
	if err == nil && host != "" && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
		err = fmt.Errorf("%q is no IP address", host)
	}
	if err == nil {
		_, err = net.LookupPort("tcp", given)
	}
	if err != nil {
		return "", &Error{Op: "challenge", Kind: Local, Detail: fmt.Sprintf("%q is no address to listen on: %v", clean(addr), err), Err: err}
	}
	return addr, nil
}

// Check says what would fail if names were ordered now, one Error of kind Local
// for each thing, joined: a port that is taken and by whom, a webroot that cannot
// be written, a DNS provider that refuses the credentials, a name that this type
// of challenge cannot validate. It makes no request to the CA.
func (s Solver) Check(ctx context.Context, names []string) error {
	var all []error
	var fit []string
	for _, name := range names {
		if why := unfit(s.way.kind(), name); why != "" {
			all = append(all, &Error{Op: "challenge", Identifier: clean(name), Kind: Local, Detail: why})
			continue
		}
		fit = append(fit, name)
	}
	if len(fit) > 0 || len(names) == 0 {
		all = append(all, s.way.check(ctx, fit))
	}
	return errors.Join(all...)
}

// unfit says why a challenge type cannot validate the name; "" if it can.
func unfit(kind, name string) string {
	switch {
	case strings.HasPrefix(name, "*.") && kind != DNS01:
		return "a wildcard can be validated by dns-01 only, not by " + kind
	case net.ParseIP(name) != nil && kind == DNS01:
		return "an IP address cannot be validated by dns-01"
	}
	return ""
}

// tokenForm: base64url, at least 128 bits, and bounded, as it becomes a file name
// (RFC 8555 section 8.3).
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9_-]{16,200}$`)

// local is the error of our own side.
func local(op, identifier string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Identifier: identifier, Kind: Local, Detail: clean(err.Error()), Err: err}
}
