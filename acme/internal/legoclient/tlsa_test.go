package legoclient

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// tlsaServer answers for _25._tcp names of a zone, and returns its address.
func tlsaServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	record := func(s string) dns.RR {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Error(err)
		}
		return rr
	}
	const rdata = " 60 IN TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		switch name := q.Question[0].Name; {
		case q.Question[0].Qtype != dns.TypeTLSA:
			m.Rcode = dns.RcodeRefused
		case name == "_25._tcp.dane.example.":
			m.Answer = []dns.RR{record(name + rdata)}
		case name == "_25._tcp.alias.example.":
			m.Answer = []dns.RR{record(name + " 60 IN CNAME tlsa.example."), record("tlsa.example." + rdata)}
		case name == "_25._tcp.dangling.example.":
			m.Answer = []dns.RR{record(name + " 60 IN CNAME nowhere.example.")}
		case name == "_25._tcp.nothing.example.":
			m.Rcode = dns.RcodeNameError
		case name == "_25._tcp.broken.example.":
			m.Rcode = dns.RcodeServerFailure
		case name == "_25._tcp.silent.example.":
			return
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
	return conn.LocalAddr().String()
}

func TestHasTLSA(t *testing.T) {
	server := tlsaServer(t)
	for _, tt := range []struct {
		host string
		want bool
		err  bool
	}{
		{"dane.example", true, false},
		{"alias.example", true, false},
		{"dangling.example", false, false},
		{"nothing.example", false, false},
		{"plain.example", false, false}, // no data
		{"broken.example", false, true},
		{"silent.example", false, true},
		{"*.example", false, true},
	} {
		t.Run(tt.host, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := HasTLSA(ctx, tt.host, []string{server})
			if got != tt.want || (err != nil) != tt.err {
				t.Errorf("got %v, %v; want %v, an error %v", got, err, tt.want, tt.err)
			}
		})
	}
}
