package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"postcert/deploy/postfix/postfixtest"
)

// What policy test says of each level is what Postfix does with a mail at that level:
// for a receiver without TLS, with a self-signed certificate, with a trusted one, and
// with a trusted one of other names.
func TestRunbookPolicyTestSaysWhatPostfixDoes(t *testing.T) {
	levels := []string{"none", "may", "encrypt", "verify", "secure"}
	var entries, domains []string
	for _, l := range levels {
		entries, domains = append(entries, "{"+l+".example="+l+"}"), append(domains, l+".example")
	}
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_policy_maps = inline:{" + strings.Join(entries, " ") + "}"}}, "")
	s.pf.AppendMain("smtp_tls_CAfile = " + s.trust)
	s.pf.Reload()
	s.mx.ReplaceMain("relay_domains = "+domain+", other.example", "relay_domains = "+strings.Join(domains, ", "))
	s.mx.Reload()
	s.hosts(append(domains, mxName)...)
	self := filepath.Join(s.dir, "self.pem")
	postfixtest.WritePair(t, self, append([]string{mxName}, domains...)...)
	for _, receiver := range []struct{ name, cert string }{
		{"no TLS", ""}, {"self-signed", self}, {"trusted", s.mxCert(t, append(domains, mxName)...)}, {"other names", s.mxCert(t, "wrong.example")},
	} {
		if receiver.cert != "" {
			s.serve(receiver.cert)
		}
		for _, level := range levels {
			a := s.postcert("policy", "test", level+".example", "--json")
			test := a.json()["test"].(map[string]any)
			var said map[string]any
			for _, l := range test["levels"].([]any) {
				if m := l.(map[string]any); m["in_force"] == true {
					said = m
				}
			}
			log := s.send(level + ".example")
			did := "in_clear"
			if strings.Contains(log, "TLS connection established") {
				did = "encrypted"
			}
			if strings.Contains(log, "status=deferred") {
				did = "deferred"
			}
			if said["level"] != level || said["outcome"] != did {
				t.Errorf("%s, %s: policy test says %v, and Postfix did %s:\n%s", receiver.name, level, said, did, log)
			}
			if words, ok := strings.CutPrefix(said["words"].(string), "deferred: "); ok {
				words, _, _ = strings.Cut(words, ":")
				if !strings.Contains(log, words) {
					t.Errorf("%s, %s: the log has no %q:\n%s", receiver.name, level, words, log)
				}
			}
			if want := map[bool]int{true: 8, false: 0}[did == "deferred"]; a.status != want {
				t.Errorf("%s, %s: exit status %d, want %d", receiver.name, level, a.status, want)
			}
		}
	}
}

// hosts adds names that lead to the receiver.
func (s *sender) hosts(names ...string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(receiverHost + " " + strings.Join(names, " ") + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// policy test finds the key that Postfix looks up: through a transport, a relayhost,
// a parent of the domain; and prints the dialogue with TLS and without.
func TestPolicyTestFindsTheKey(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{
		"relayhost = [relay.example]", "transport_maps = inline:{{other.example=smtp:[mx.example.org]:25} {.sub.example=:sub.relay}}", "smtp_tls_security_level = may",
		"smtp_tls_policy_maps = inline:{[mx.example.org]:25=encrypt}"}}, "")
	cert := filepath.Join(s.dir, "mx.pem")
	postfixtest.WritePair(t, cert, mxName)
	s.serve(cert)
	s.postcert("policy", "test", "other.example").want(0).says("[mx.example.org]:25").says("under the key [mx.example.org]:25").
		says("> STARTTLS").says("250-STARTTLS").says("without").says("in force")
	s.postcert("policy", "test", domain).want(0).says("[relay.example]").says("relayhost names it").says("the level of all")
	s.postcert("policy", "test", "a.sub.example").want(8).says("sub.relay")
	s.postcert("policy", "test", "a b").want(2)
	s.sends("other.example", "Untrusted TLS connection established to mx.example.org", "status=sent")
}

// zone answers for names of a test as a validating resolver does. What it returns
// sets other records.
func (s *sender) zone(authentic bool, records ...string) (set func(records ...string)) {
	s.t.Helper()
	var now atomic.Pointer[[]dns.RR]
	set = func(records ...string) {
		s.t.Helper()
		var known []dns.RR
		for _, r := range records {
			rr, err := dns.NewRR(r)
			if err != nil {
				s.t.Fatal(err)
			}
			known = append(known, rr)
		}
		now.Store(&known)
	}
	set(records...)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.AuthenticatedData, m.RecursionAvailable = authentic, true
		for _, rr := range *now.Load() {
			if strings.EqualFold(rr.Header().Name, q.Question[0].Name) && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if len(m.Answer) == 0 {
			m.Ns = append(m.Ns, &dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 1}, Ns: "ns.", Mbox: "root.", Minttl: 1})
		}
		_ = w.WriteMsg(m) // the asker asks again
	})
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		s.t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: handler}
	go func() { _ = server.ActivateAndServe() }() // ends with Shutdown
	s.t.Cleanup(func() { _ = server.Shutdown() })
	conf := filepath.Join(s.t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:2 trust-ad\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", conf, "/etc/resolv.conf").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.t.Cleanup(func() { _ = exec.Command("umount", "/etc/resolv.conf").Run() })
	return set
}

// DANE: with a resolver that validates it is set, and the receiver must match its
// TLSA record; policy test says before what Postfix does after.
func TestOutboundDane(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true}, "")
	cert := s.mxCert(t, mxName)
	s.serve(cert)
	data, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	key, rest := pem.Decode(data)
	leaf, _ := pem.Decode(rest)
	if key == nil || leaf == nil {
		t.Fatal("no leaf")
	}
	c, err := x509.ParseCertificate(leaf.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	digest := hex.EncodeToString(sum[:])
	wrong := strings.Repeat("00", 32)
	s.pf.ReplaceMain("disable_dns_lookups = yes\n", "")
	s.postcert("outbound", "dane").want(3).says("dane_no_dnssec").says("smtp_dns_support_level")
	s.pf.AppendMain("smtp_dns_support_level = dnssec")
	s.postcert("outbound", "dane").want(3).says("dane_no_dnssec").says("/etc/resolv.conf")
	s.zone(true, domain+". 60 IN MX 10 "+mxName+".", mxName+". 60 IN A "+receiverHost,
		fmt.Sprintf("_25._tcp.%s. 60 IN TLSA 3 1 1 %s", mxName, digest),
		"other.example. 60 IN MX 10 relay.example.", "relay.example. 60 IN A "+receiverHost,
		"_25._tcp.relay.example. 60 IN TLSA 3 1 1 "+wrong,
		"foreign.example. 60 IN MX 10 "+mxName+".")
	s.postcert("outbound", "dane").want(0)
	s.postcert("policy", "test", domain).want(0).says("verified by TLSA records")
	s.sends(domain, "Verified TLS connection established to "+mxName, "status=sent")
	s.postcert("policy", "test", "other.example").want(8).says("Server certificate not verified")
	s.sends("other.example", "status=deferred", "Server certificate not verified")

	// The certificate has the MX host's name: enough for verify, and for secure only
	// where that is a name of the domain's own.
	s.postcert("trust", "set", s.trust).want(0)
	s.postcert("outbound", "verify").want(0)
	s.postcert("policy", "test", "foreign.example").want(0).says("covers " + mxName)
	s.sends("foreign.example", "Verified TLS connection established to "+mxName)
	s.postcert("outbound", "secure").want(0)
	s.postcert("policy", "test", domain).want(0).says("covers ." + domain)
	s.sends(domain, "Verified TLS connection established to "+mxName, "status=sent")
	s.postcert("policy", "test", "foreign.example").want(8).says("covers none of foreign.example, .foreign.example")
	s.sends("foreign.example", "status=deferred", "Server certificate not verified")
}

// A resolver that does not validate is none for DANE.
func TestOutboundDaneNotValidated(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_dns_support_level = dnssec"}}, "")
	s.pf.ReplaceMain("disable_dns_lookups = yes\n", "")
	s.zone(false)
	s.postcert("outbound", "dane-only").want(3).says("not marked as validated")
}
