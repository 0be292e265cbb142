package acmetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DNS is a name server, recursive and authoritative in one: every domain of two
// labels is a zone whose only name server it is. Names that nothing is set for
// resolve to 127.0.0.1.
//
// It takes the place of challtestsrv, which knows neither SOA nor NS, and whose
// handler is one per process.
type DNS struct {
	// Addr is where it answers, UDP and TCP. Its port is 53 where that is allowed, so
	// that a client that asks authoritative servers finds it.
	Addr string

	servers []*dns.Server

	mu      sync.Mutex
	a       map[string][]string // also AAAA
	cname   map[string]string
	txt     map[string][]txtRecord
	failing map[string]bool
	lag     time.Duration
	asked   []string
}

type txtRecord struct {
	value string
	since time.Time
}

// nameserver is the name of every zone's only name server.
const nameserver = "ns.acmetest.test."

func startDNS(addr string) (*DNS, error) {
	d := &DNS{a: make(map[string][]string), cname: make(map[string]string), txt: make(map[string][]txtRecord), failing: make(map[string]bool)}
	var err error
	for try := range 20 {
		wanted := addr
		switch {
		case addr != "":
		case try < 10: // an address of our own, so that port 53 is free whoever else runs
			wanted = fmt.Sprintf("127.%d.%d.%d:53", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
		default:
			wanted = "127.0.0.1:0"
		}
		if err = d.listen(wanted); err == nil {
			return d, nil
		}
	}
	return nil, err
}

func (d *DNS) listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		l.Close()
		return err
	}
	d.Addr = l.Addr().String()
	d.servers = []*dns.Server{{Listener: l, Handler: d}, {PacketConn: p, Handler: d}}
	var started sync.WaitGroup
	for _, s := range d.servers {
		started.Add(1)
		s.NotifyStartedFunc = started.Done
		go func() { _ = s.ActivateAndServe() }()
	}
	started.Wait()
	return nil
}

func (d *DNS) close() {
	for _, s := range d.servers {
		_ = s.Shutdown()
	}
}

// SetAddr makes the addresses of name those; none: it has none.
func (d *DNS) SetAddr(name string, addresses ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.a[dns.CanonicalName(name)] = append([]string{}, addresses...)
}

// SetCNAME makes name an alias; "" ends that.
func (d *DNS) SetCNAME(name, target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.cname, dns.CanonicalName(name))
	if target != "" {
		d.cname[dns.CanonicalName(name)] = dns.CanonicalName(target)
	}
}

// AddTXT adds a TXT record.
func (d *DNS) AddTXT(name, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	d.txt[name] = append(d.txt[name], txtRecord{value, time.Now()})
}

// RemoveTXT removes the records with that value.
func (d *DNS) RemoveTXT(name, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	d.txt[name] = slices.DeleteFunc(d.txt[name], func(r txtRecord) bool { return r.value == value })
	if len(d.txt[name]) == 0 {
		delete(d.txt, name)
	}
}

// TXT are all TXT records, name to values, also those that are not visible yet.
func (d *DNS) TXT() map[string][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string][]string)
	for name, records := range d.txt {
		for _, r := range records {
			all[name] = append(all[name], r.value)
		}
	}
	return all
}

// SetLag makes TXT records visible only that long after they were added.
func (d *DNS) SetLag(lag time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lag = lag
}

// SetFailing makes every question for name fail with SERVFAIL.
func (d *DNS) SetFailing(name string, failing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing[dns.CanonicalName(name)] = failing
}

// Asked are the questions so far: "TXT _acme-challenge.example.test.".
func (d *DNS) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	if len(r.Question) == 1 {
		d.answer(m, r.Question[0])
	} else {
		m.Rcode = dns.RcodeFormatError
	}
	_ = w.WriteMsg(m)
}

func (d *DNS) answer(m *dns.Msg, q dns.Question) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := dns.CanonicalName(q.Name)
	d.asked = append(d.asked, dns.TypeToString[q.Qtype]+" "+name)
	for range 8 {
		if d.failing[name] {
			m.Rcode = dns.RcodeServerFailure
			return
		}
		target, alias := d.cname[name]
		if !alias {
			break
		}
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: target})
		if q.Qtype == dns.TypeCNAME {
			return
		}
		name = target
	}
	apex := dns.CountLabel(name) == 2
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		d.addresses(m, name, q.Qtype)
	case dns.TypeTXT:
		for _, r := range d.txt[name] {
			if time.Since(r.since) >= d.lag {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{r.value}})
			}
		}
	case dns.TypeNS:
		if apex {
			m.Answer = append(m.Answer, &dns.NS{Hdr: header(name, dns.TypeNS), Ns: nameserver})
		}
	case dns.TypeSOA:
		if apex {
			m.Answer = append(m.Answer, &dns.SOA{Hdr: header(name, dns.TypeSOA), Ns: nameserver, Mbox: "hostmaster." + name, Serial: 1, Refresh: 1, Retry: 1, Expire: 1, Minttl: 1})
		}
	}
}

func (d *DNS) addresses(m *dns.Msg, name string, qtype uint16) {
	values, set := d.a[name]
	if name == nameserver {
		host, _, _ := net.SplitHostPort(d.Addr)
		values, set = []string{host}, true
	}
	if !set {
		values = []string{"127.0.0.1"}
	}
	for _, value := range values {
		ip := net.ParseIP(value)
		switch is6 := strings.Contains(value, ":"); {
		case qtype == dns.TypeA && !is6:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(name, qtype), A: ip})
		case qtype == dns.TypeAAAA && is6:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(name, qtype), AAAA: ip})
		}
	}
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: 1}
}
