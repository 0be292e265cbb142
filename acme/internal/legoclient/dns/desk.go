package dns

import (
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/miekg/dns"
)

// A provider of lego is told a domain, not the name of a record. It puts
// "_acme-challenge." before it, follows CNAMEs and looks for the zone, all of it
// through name servers that are one variable of package dns01, without a context
// and with a cache. We know the record and its zone already, and they must not
// be found out anew, and differently, at clean-up.
//
// So lego asks us. Its only name server is the desk, a socket on loopback that
// answers from a table: what is written now, and in which zone. A name that does
// not begin with "_acme-challenge." is where a CNAME leads; its domain is handed
// to lego in disguise, and the desk answers with the CNAME that takes it off.

// disguise marks a domain that stands for a name without the usual first label.
// .invalid never exists (RFC 6761 section 6.4).
const disguise = ".effective.invalid"

const challengeLabel = "_acme-challenge."

// domainFor is the domain that makes lego write fqdn.
func domainFor(fqdn string) string {
	name := strings.TrimSuffix(fqdn, ".")
	if rest, found := strings.CutPrefix(name, challengeLabel); found && rest != "" {
		return rest
	}
	return name + disguise
}

// desk answers lego's questions.
type desk struct {
	mu    sync.Mutex
	zones map[string]int // zones of the names that are being written, and how often
}

var (
	openDesk = sync.OnceValues(newDesk)
	theDesk  = func() (*desk, error) { return openDesk() }
)

// newDesk opens the socket, for the life of the process, and makes it lego's only
// name server. Nothing else may set dns01's servers.
func newDesk() (*desk, error) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a socket on loopback for lego's questions: %w", err)
	}
	d := &desk{zones: map[string]int{}}
	server := &dns.Server{PacketConn: conn, Handler: d}
	go func() { _ = server.ActivateAndServe() }()
	if err := dns01.AddRecursiveNameservers([]string{conn.LocalAddr().String()})(nil); err != nil {
		return nil, err
	}
	return d, nil
}

// serve makes zone known until the returned function is called.
func (d *desk) serve(zone string) (done func()) {
	zone = dns.CanonicalName(zone)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zones[zone]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.zones[zone]--; d.zones[zone] == 0 {
			delete(d.zones, zone)
		}
	}
}

// ServeDNS implements dns.Handler.
func (d *desk) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if len(q.Question) == 1 {
		if rr := d.answer(q.Question[0]); rr != nil {
			m.Answer = []dns.RR{rr}
		}
	}
	_ = w.WriteMsg(m) // lego asks again
}

func (d *desk) answer(q dns.Question) dns.RR {
	name := dns.CanonicalName(q.Name)
	// A TTL and a refresh of 0 keep lego from remembering.
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
	switch q.Qtype {
	case dns.TypeCNAME:
		real, hidden := strings.CutSuffix(name, disguise+".")
		if real, found := strings.CutPrefix(real, challengeLabel); hidden && found {
			return &dns.CNAME{Hdr: hdr, Target: real + "."}
		}
	case dns.TypeSOA:
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.zones[name] > 0 {
			return &dns.SOA{Hdr: hdr, Ns: "ns.invalid.", Mbox: "hostmaster.invalid."}
		}
	}
	return nil
}
