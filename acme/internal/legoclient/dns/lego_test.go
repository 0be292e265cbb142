package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/miekg/dns"
)

// What lego finds out about the domain that it is handed is the name, the value
// and the zone that we have decided on.
func TestDesk(t *testing.T) {
	deaf()
	d, err := theDesk()
	must(t, err)
	for _, tt := range []struct{ fqdn, zone string }{
		{plainName, "example.com."},
		{cnameName, "example.net."},
		{"_acme-challenge._acme-challenge.example.com.", "example.com."},
		{"_acme-challenge.example.com.", "_acme-challenge.example.com."}, // a zone of its own
		{"_acme-challenge.x.effective.invalid.example.com.", "example.com."},
		{"d420c923-bbd7-4056-ab64-c3ca54c9b3cf.auth.example.org.", "auth.example.org."},
		{strings.Repeat(strings.Repeat("a", 57)+".", 3) + "example.com.", "example.com."},
	} {
		done := d.serve(tt.zone)
		info := dns01.GetChallengeInfo(domainFor(tt.fqdn), keyAuth)
		if info.EffectiveFQDN != tt.fqdn || info.Value != Value(keyAuth) {
			t.Errorf("%s: lego writes %s %s", tt.fqdn, info.EffectiveFQDN, info.Value)
		}
		if zone, err := dns01.FindZoneByFqdn(tt.fqdn); err != nil || zone != tt.zone {
			t.Errorf("%s: zone %q, %v", tt.fqdn, zone, err)
		}
		done()
		if zone, err := dns01.FindZoneByFqdn(tt.fqdn); err == nil {
			t.Errorf("%s: %s is remembered", tt.fqdn, zone)
		}
	}
}

// The zone is where the resolvers say, found by walking up if they do not say
// at once.
func TestFindZone(t *testing.T) {
	broken := freePort(t)
	tests := []struct {
		name, fqdn string
		answer     func(q *dns.Msg) *dns.Msg // nil: the usual resolver
		want       string
		kind       Kind
	}{
		{"told in the authority section", plainName, nil, "example.com.", 0},
		{"apex", "example.com.", nil, "example.com.", 0},
		{"found by walking", plainName, func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Name == "mail.example.com." {
				m.Answer = []dns.RR{soa("mail.example.com.")}
			}
			return m
		}, "mail.example.com.", 0},
		{"an alias on the way", plainName, func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "www.example.org."}}
			m.Ns = []dns.RR{soa("example.org.")} // of the target, not of the name
			if q.Question[0].Name == "example.com." {
				m.Answer, m.Ns = []dns.RR{soa("example.com.")}, nil
			}
			return m
		}, "example.com.", 0},
		{"no such domain", "_acme-challenge.example.xyz.", func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			m.Ns = []dns.RR{soa("xyz.")} // the registry's
			return m
		}, "", NoZone},
		{"refused", plainName, func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) }, "", Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := resolver(t)
			if tt.answer != nil {
				server = udpServer(t, tt.answer)
			}
			// The first server does not answer.
			zone, err := findZone(background(t), tt.fqdn, []string{fmt.Sprintf("127.0.0.1:%d", broken), server})
			if zone != tt.want {
				t.Errorf("zone %q, %v", zone, err)
			}
			var f *fault
			if tt.want == "" && (!errors.As(err, &f) || f.kind != tt.kind) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func soa(zone string) dns.RR {
	return &dns.SOA{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns." + zone, Mbox: "hostmaster." + zone}
}

func udpServer(t *testing.T, answer func(*dns.Msg) *dns.Msg) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if m := answer(q); m != nil {
			_ = w.WriteMsg(m)
		}
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().String()
}

// A resolver that does not answer does not hold the caller.
func TestSilentResolver(t *testing.T) {
	f := newFake(t, ok("{}"))
	p, err := New("digitalocean", Options{Credentials: map[string]string{"token": "t"}, base: f, Resolvers: []string{udpServer(t, func(*dns.Msg) *dns.Msg { return nil })}})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = p.Present(ctx, plainName, keyAuth)
	if took := time.Since(start); took > time.Second || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after %v: %v", took, err)
	}
	if calls := f.took(); len(calls) > 0 {
		t.Errorf("requests: %v", calls)
	}
}

// slow is a backend that knows no context, as some of lego's when they sleep.
type slow struct {
	mu     sync.Mutex
	inside int
	most   int
	free   chan struct{}
}

func (s *slow) present(_ context.Context, r record) error {
	s.mu.Lock()
	s.inside++
	s.most = max(s.most, s.inside)
	s.mu.Unlock()
	if r.keyAuth == "panic" {
		panic("out of range")
	}
	<-s.free
	s.mu.Lock()
	s.inside--
	s.mu.Unlock()
	return nil
}

func (s *slow) cleanUp(context.Context, record) error { return nil }

func slowProvider(s *slow) *provider {
	p := &provider{name: "slow", back: s, way: &transport{}, redact: newRedactor(nil), turn: make(chan struct{}, 1), failed: map[string]bool{}}
	p.turn <- struct{}{}
	return p
}

// Who does not know the context is left behind, and nobody else is let in until it
// has ended.
func TestCallThatKnowsNoContext(t *testing.T) {
	s := &slow{free: make(chan struct{})}
	p := slowProvider(s)
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		start := time.Now()
		err := p.Present(ctx, plainName, keyAuth)
		if took := time.Since(start); took > time.Second || kindOf(t, err) != Canceled {
			t.Errorf("after %v: %v", took, err)
		}
		cancel()
	}
	close(s.free)
	must(t, p.CleanUp(background(t), plainName, keyAuth))
	var all sync.WaitGroup
	for i := range 20 {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := p.Present(background(t), plainName, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	if s.most != 1 {
		t.Errorf("%d at the same time", s.most)
	}
}

// A library that panics ends its call, not the daemon.
func TestPanic(t *testing.T) {
	s := &slow{free: make(chan struct{})}
	close(s.free)
	p := slowProvider(s)
	if err := p.Present(background(t), plainName, "panic"); err == nil || !strings.Contains(err.Error(), "panic: out of range") {
		t.Errorf("error %v", err)
	}
	must(t, p.Present(background(t), plainName, keyAuth))
}

// A call whose context has ended already does nothing.
func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, s := range scenarios {
		f := newFake(t, s.answer)
		p := f.open(s.provider, s.values)
		if err := p.Present(ctx, nameFor(s.provider), keyAuth); err == nil || kindOf(t, err) != Canceled || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", s.provider, err)
		}
		if calls := f.took(); len(calls) > 0 {
			t.Errorf("%s: requests %v", s.provider, calls)
		}
	}
}
