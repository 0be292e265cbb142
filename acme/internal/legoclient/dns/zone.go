package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// resolvConf names the recursive servers of this host (resolv.conf(5)). It is read
// when it is needed, not once: the daemon lives for months.
const resolvConf = "/etc/resolv.conf"

// queryTimeout bounds one question to one name server.
const queryTimeout = 5 * time.Second

// findZone returns the name of the zone that holds fqdn, with its final dot, as
// the recursive servers see it: the owner of the SOA record in the answer, or in
// the authority section of the answer that there is no such record there (RFC
// 2308 section 3). A server that sends neither is asked for the parent.
func findZone(ctx context.Context, fqdn string, resolvers []string) (string, error) {
	servers, err := recursive(resolvers)
	if err != nil {
		return "", err
	}
	for _, i := range dns.Split(fqdn) {
		name := fqdn[i:]
		reply, err := ask(ctx, servers, name, dns.TypeSOA)
		if err != nil {
			return "", &fault{kind: Unavailable, err: fmt.Errorf("looking for the zone of %s: %w", fqdn, err)}
		}
		if zone := soaOwner(reply, name); zone != "" {
			return zone, nil
		}
	}
	return "", faulty(NoZone, fmt.Sprintf("no zone of %s is known to %s", fqdn, strings.Join(servers, ", ")))
}

// soaOwner is the zone that reply names for name; "" if none. The root and a
// top-level domain are not a zone in which anybody writes: that answer means that
// the domain does not exist.
func soaOwner(reply *dns.Msg, name string) string {
	for _, rr := range append(append([]dns.RR{}, reply.Answer...), reply.Ns...) {
		soa, ok := rr.(*dns.SOA)
		if !ok {
			continue
		}
		owner := dns.CanonicalName(soa.Hdr.Name)
		if dns.IsSubDomain(owner, name) && dns.CountLabel(owner) > 1 {
			return owner
		}
	}
	return ""
}

// recursive are the servers to be asked, host:port.
func recursive(given []string) ([]string, error) {
	port := "53"
	if len(given) == 0 {
		c, err := dns.ClientConfigFromFile(resolvConf)
		if err != nil {
			return nil, &fault{kind: Configuration, err: err}
		}
		given, port = c.Servers, c.Port
	}
	if len(given) == 0 {
		return nil, faulty(Configuration, resolvConf+" names no server")
	}
	servers := make([]string, 0, len(given))
	for _, s := range given {
		servers = append(servers, withPort(s, port))
	}
	return servers, nil
}

// withPort adds the port to a host that has none.
func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// ask puts one question to the servers, one after the other, until one answers:
// that there is such a name, or that there is none.
func ask(ctx context.Context, servers []string, name string, kind uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(name, kind)
	m.SetEdns0(1232, false)
	var failures []error
	for _, server := range servers {
		reply, err := exchange(ctx, m, server)
		if err == nil && (reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError) {
			return reply, nil
		}
		if err == nil {
			err = fmt.Errorf("%s answers %s", server, dns.RcodeToString[reply.Rcode])
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// exchange asks by UDP, and by TCP when the answer does not fit or none comes.
func exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	reply, err := (&transaction{network: "udp", server: server}).do(ctx, m)
	if err != nil || reply.Truncated {
		return (&transaction{network: "tcp", server: server}).do(ctx, m)
	}
	return reply, nil
}

// transaction is one message to a server and its answer, with a signature if
// there is a secret.
type transaction struct {
	network, server string
	secret          map[string]string // TSIG: base64 by the name of the key
	timeout         time.Duration     // 0: queryTimeout
}

// do ends when ctx does: the library looks at the deadline only.
func (t *transaction) do(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	limit := t.timeout
	if limit <= 0 {
		limit = queryTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := &dns.Client{Net: t.network, TsigSecret: t.secret, Timeout: limit}
	conn, err := c.DialContext(ctx, t.server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reply, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", t.server, ctx.Err())
	}
	if err != nil {
		return reply, fmt.Errorf("%s: %w", t.server, err)
	}
	return reply, nil
}
