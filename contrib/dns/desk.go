package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/miekg/dns"
)

// A provider of lego is told a domain. It puts "_acme-challenge." before it and
// follows CNAMEs, through name servers that are a variable of package dns01. We
// know the name already. So lego's only name server is a socket of ours on
// loopback. It answers that there is no CNAME, but for names in disguise: an
// effective name without the usual first label is handed to lego as a domain
// below .effective.invalid (RFC 6761 section 6.4), and the desk answers with the
// CNAME that takes it off. All other questions, such as those for the zone, go on
// to the real servers.

const (
	disguise       = ".effective.invalid"
	challengeLabel = "_acme-challenge."
)

// domainFor is the domain that makes lego write fqdn.
func domainFor(fqdn string) string {
	name := strings.TrimSuffix(fqdn, ".")
	if rest, found := strings.CutPrefix(name, challengeLabel); found && rest != "" {
		return rest
	}
	return name + disguise
}

// value is what the TXT record holds (RFC 8555 section 8.4).
func value(keyAuth string) string {
	sum := sha256.Sum256([]byte(keyAuth))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// openDesk makes the desk lego's only name server.
func openDesk(resolvers []string) error {
	if len(resolvers) == 0 {
		c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return err
		}
		for _, s := range c.Servers {
			resolvers = append(resolvers, net.JoinHostPort(s, c.Port))
		}
	}
	if len(resolvers) == 0 {
		return fmt.Errorf("no name server is known: give --resolver")
	}
	resolvers = dns01.ParseNameservers(resolvers)
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("opening a socket on loopback for lego's questions: %w", err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(answer(q, resolvers)) // lego asks again
	})
	go func() { _ = (&dns.Server{PacketConn: conn, Handler: handler}).ActivateAndServe() }()
	return dns01.AddRecursiveNameservers([]string{conn.LocalAddr().String()})(nil)
}

func answer(q *dns.Msg, resolvers []string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	if len(q.Question) != 1 {
		return m
	}
	name := dns.CanonicalName(q.Question[0].Name)
	if q.Question[0].Qtype != dns.TypeCNAME {
		return forward(q, resolvers)
	}
	rest, hidden := strings.CutSuffix(name, disguise+".")
	if real, found := strings.CutPrefix(rest, challengeLabel); hidden && found {
		hdr := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}
		m.Answer = []dns.RR{&dns.CNAME{Hdr: hdr, Target: real + "."}}
	}
	return m
}

// forward asks the real servers, by TCP when an answer does not fit.
func forward(q *dns.Msg, resolvers []string) *dns.Msg {
	for _, server := range resolvers {
		for _, network := range []string{"udp", "tcp"} {
			reply, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, server)
			if err == nil && !reply.Truncated {
				reply.Id = q.Id
				return reply
			}
		}
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}
