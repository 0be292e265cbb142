package legoclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// queryTimeout is for one question to one server.
const queryTimeout = 3 * time.Second

// resolver asks recursive name servers. Nothing in it is global, unlike lego's,
// and /etc/resolv.conf is read when it is made, not when the process started.
type resolver struct {
	servers []string // address:port
	port    string   // where authoritative servers listen
}

// answerError is an answer that is neither a success nor NXDOMAIN.
type answerError struct {
	name  string
	rcode int
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the name servers answer %s for %s", dns.RcodeToString[e.rcode], e.name)
}

func newResolver(servers []string) (*resolver, error) {
	r := &resolver{port: "53"}
	if len(servers) == 0 {
		// Without the file nobody can be asked, and what is asked for is optional.
		if conf, err := dns.ClientConfigFromFile("/etc/resolv.conf"); err == nil {
			servers = conf.Servers
		}
	}
	for _, s := range servers {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = s, "53"
			if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
				host = s[1 : len(s)-1]
			}
		}
		if host == "" {
			return nil, &Error{Op: "dns", Kind: Local, Detail: fmt.Sprintf("%q is no address of a name server", clean(s))}
		}
		r.servers = append(r.servers, net.JoinHostPort(host, port))
	}
	return r, nil
}

// ask returns the answer of the first server that has one; NXDOMAIN is one.
func (r *resolver) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	err := errors.New("no name server is known")
	for _, server := range r.servers {
		var msg *dns.Msg
		m, e := exchange(ctx, server, name, qtype, true)
		if e == nil {
			if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
				return m, nil
			}
			msg = m
			e = &answerError{name, msg.Rcode}
		}
		var known *answerError
		if !errors.As(err, &known) { // an answer says more than silence
			err = e
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// exchange asks one server, by UDP and, if the answer is cut, by TCP. It ends with
// ctx, which the library's own calls do not.
func exchange(ctx context.Context, server, name string, qtype uint16, recursive bool) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.RecursionDesired = recursive
	q.SetEdns0(1232, false)
	for _, network := range []string{"udp", "tcp"} {
		m, err := exchangeBy(ctx, network, server, q)
		if err != nil {
			return nil, err
		}
		if !m.Truncated || network == "tcp" {
			return m, nil
		}
	}
	return nil, errors.New("unreachable")
}

func exchangeBy(ctx context.Context, network, server string, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	client := &dns.Client{Net: network, Timeout: queryTimeout}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	m, _, err := client.ExchangeWithConnContext(ctx, q, conn)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// authorities are the name servers of the zone that name is in: host name to
// addresses.
func (r *resolver) authorities(ctx context.Context, name string) (map[string][]string, error) {
	zone, err := r.zone(ctx, name)
	if err != nil {
		return nil, err
	}
	msg, err := r.ask(ctx, zone, dns.TypeNS)
	if err != nil {
		return nil, err
	}
	servers := make(map[string][]string)
	for _, rr := range msg.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok || len(servers) == maxServers {
			continue
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			m, err := r.ask(ctx, ns.Ns, qtype)
			if err != nil {
				continue
			}
			for _, rr := range m.Answer {
				switch a := rr.(type) {
				case *dns.A:
					servers[ns.Ns] = append(servers[ns.Ns], net.JoinHostPort(a.A.String(), r.port))
				case *dns.AAAA:
					servers[ns.Ns] = append(servers[ns.Ns], net.JoinHostPort(a.AAAA.String(), r.port))
				}
			}
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("no name server of %s is known", zone)
	}
	return servers, nil
}

// maxServers bounds how many name servers of a zone are asked.
const maxServers = 13

// zone is the apex above name: the nearest ancestor with a SOA record.
func (r *resolver) zone(ctx context.Context, name string) (string, error) {
	name = dns.CanonicalName(name)
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		msg, err := r.ask(ctx, name[off:], dns.TypeSOA)
		if err != nil {
			return "", err
		}
		for _, rr := range msg.Answer {
			if soa, ok := rr.(*dns.SOA); ok && dns.CanonicalName(soa.Hdr.Name) == name[off:] {
				return name[off:], nil
			}
		}
	}
	return "", fmt.Errorf("no zone of %s is known", name)
}
