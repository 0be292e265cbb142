package acmetest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// browser trusts the CA's directory.
func browser(t *testing.T, c *CA) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.Roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

func get(t *testing.T, c *CA) (int, string, error) {
	t.Helper()
	resp, err := browser(t, c).Get(c.URL)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// TestNew: a CA for a program, without a test; when it is closed nothing is left.
func TestNew(t *testing.T) {
	before := os.Getenv("PEBBLE_VA_NOSLEEP")
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if status, body, err := get(t, c); err != nil || status != 200 || !strings.Contains(body, "newOrder") {
		t.Errorf("got %d %s, %v", status, body, err)
	}
	raw, err := os.ReadFile(c.RootsFile)
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(raw) {
		t.Errorf("%s: %v", c.RootsFile, err)
	}
	if os.Getenv("PEBBLE_VA_NOSLEEP") != before {
		t.Error("the environment has changed")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(c.RootsFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
	for _, addr := range []string{strings.TrimSuffix(strings.TrimPrefix(c.URL, "https://"), "/dir"), c.DNS.Addr} {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			t.Errorf("%s still answers", addr)
		}
	}
}

// TestSeveral: two in one process are two, their name servers as well.
func TestSeveral(t *testing.T) {
	a, b := Start(t, Options{}), Start(t, Options{NonceReject: 10, AlternateRoots: 1, ChainLength: 2})
	if a.URL == b.URL || a.HTTPPort == b.HTTPPort || a.TLSPort == a.HTTPPort || a.DNS.Addr == b.DNS.Addr {
		t.Errorf("%+v, %+v", a, b)
	}
	a.DNS.AddTXT("x.test", "a")
	b.DNS.AddTXT("x.test", "b")
	for addr, want := range map[string]string{a.DNS.Addr: "a", b.DNS.Addr: "b"} {
		if got := ask(t, addr, "x.test", dns.TypeTXT); len(got.Answer) != 1 || got.Answer[0].(*dns.TXT).Txt[0] != want {
			t.Errorf("%s: %v", addr, got.Answer)
		}
	}
	if b.RootName(0) == b.RootName(1) || len(b.IssuersPEM()) == 0 {
		t.Error("no alternate root")
	}
}

func ask(t *testing.T, addr, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m, err := dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype), addr)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDNS(t *testing.T) {
	d := Start(t, Options{}).DNS
	if _, port, _ := net.SplitHostPort(d.Addr); os.Getuid() == 0 && port != "53" {
		t.Errorf("the name server is at %s", d.Addr)
	}
	d.SetAddr("six.example.test", "2001:db8::1", "192.0.2.1")
	d.SetAddr("none.example.test")
	d.SetCNAME("alias.example.test", "six.example.test")
	d.SetFailing("broken.example.test", true)
	tests := []struct {
		name  string
		qtype uint16
		want  string // the last answer, in part
		n     int
	}{
		{"any.example.test", dns.TypeA, "127.0.0.1", 1}, {"any.example.test", dns.TypeAAAA, "", 0},
		{"six.example.test", dns.TypeAAAA, "2001:db8::1", 1}, {"six.example.test", dns.TypeA, "192.0.2.1", 1},
		{"none.example.test", dns.TypeA, "", 0}, {"ALIAS.example.test", dns.TypeA, "192.0.2.1", 2},
		{"alias.example.test", dns.TypeCNAME, "six.example.test.", 1}, {"example.test", dns.TypeSOA, nameserver, 1},
		{"www.example.test", dns.TypeSOA, "", 0}, {"example.test", dns.TypeNS, nameserver, 1},
	}
	for _, tt := range tests {
		got := ask(t, d.Addr, tt.name, tt.qtype)
		if len(got.Answer) != tt.n || tt.n > 0 && !strings.Contains(got.Answer[tt.n-1].String(), tt.want) {
			t.Errorf("%s %s: %v", tt.name, dns.TypeToString[tt.qtype], got.Answer)
		}
	}
	if got := ask(t, d.Addr, "broken.example.test", dns.TypeA); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", got)
	}
	d.AddTXT("t.test", "1")
	d.AddTXT("t.test", "2")
	d.RemoveTXT("T.test.", "1")
	if got := d.TXT(); len(got) != 1 || len(got["t.test."]) != 1 || got["t.test."][0] != "2" {
		t.Errorf("got %v", got)
	}
	d.SetLag(time.Hour)
	if got := ask(t, d.Addr, "t.test", dns.TypeTXT); len(got.Answer) != 0 {
		t.Errorf("got %v", got.Answer)
	}
	if asked := d.Asked(); asked[len(asked)-1] != "TXT t.test." {
		t.Errorf("asked %q", asked)
	}
}

// TestFaults: what a fault is said to do is what a client meets.
func TestFaults(t *testing.T) {
	c := Start(t, Options{})
	_, whole, err := get(t, c)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		fault  Fault
		status int
		body   string
		fails  bool
	}{
		{"status", Fault{Status: 503, Body: "<html>"}, 503, "<html>", false},
		{"problem", Fault{Problem: "rateLimited", Status: 429, Detail: `a "b"`}, 429, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"a \"b\"","status":429}`, false},
		{"edit", Fault{Edit: func([]byte) []byte { return []byte("x") }}, 200, "x", false},
		{"truncated", Fault{Truncate: 10}, 200, whole[:10], true},
		{"lost", Fault{Lost: true}, 0, "", true},
		{"giant", Fault{Giant: 3 << 20}, 200, strings.Repeat(" ", 3<<20), false},
		{"slow", Fault{Slow: time.Millisecond, Status: 200, Body: "abc"}, 200, "abc", false},
		{"another kind", Fault{Kind: NewOrder, Status: 500}, 200, whole, false},
		{"another method", Fault{Method: "POST", Status: 500}, 200, whole, false},
		{"another path", Fault{Path: "/other", Status: 500}, 200, whole, false},
	}
	for _, tt := range tests {
		remove := c.Fault(tt.fault)
		status, body, err := get(t, c)
		if status != tt.status || body != tt.body || (err != nil) != tt.fails {
			t.Errorf("%s: got %d %.60q, %v", tt.name, status, body, err)
		}
		remove()
	}
	if status, _, err := get(t, c); status != 200 || err != nil {
		t.Errorf("after all: %d, %v", status, err)
	}
}

func TestFaultCounts(t *testing.T) {
	tests := []struct {
		fault Fault
		want  string
	}{
		{Fault{}, "xxxxxxxx"}, {Fault{Count: 2}, "xx......"}, {Fault{Skip: 3}, "...xxxxx"},
		{Fault{Skip: 1, Count: 1}, ".x......"}, {Fault{Percent: 25}, "...x...x"}, {Fault{Percent: 50, Count: 2}, ".x.x...."},
	}
	for _, tt := range tests {
		c := Start(t, Options{})
		tt.fault.Status = 500
		c.Fault(tt.fault)
		got := ""
		for range len(tt.want) {
			if status, _, _ := get(t, c); status == 500 {
				got += "x"
			} else {
				got += "."
			}
		}
		if got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.fault, got, tt.want)
		}
		if n := c.Count(Directory); n != len(tt.want) {
			t.Errorf("%d requests are known", n)
		}
	}
}

func TestPorts(t *testing.T) {
	c := Start(t, Options{HTTPPort: 23456})
	if c.HTTPPort != 23456 {
		t.Errorf("got %d", c.HTTPPort)
	}
	// Both families of the port are free for the client under test.
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(c.TLSPort)))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if resp := c.Requests(); len(resp) != 0 {
		t.Errorf("got %v", resp)
	}
}
