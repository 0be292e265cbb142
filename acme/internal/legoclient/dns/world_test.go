package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The names of all tests: one below a zone, and one where a CNAME has led.
const (
	plainName = "_acme-challenge.mail.example.com."
	cnameName = "mail-example-com.acme.example.net."
	keyAuth   = "token-of-the-ca.thumbprint-of-the-account"
)

// resolver is a recursive name server for the zones example.com and example.net.
func resolver(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.ToLower(q.Question[0].Name)
		m.Rcode = dns.RcodeNameError
		for _, zone := range []string{"example.com.", "example.net."} {
			soa := &dns.SOA{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns." + zone, Mbox: "hostmaster." + zone, Refresh: 3600}
			if name == zone {
				m.Rcode, m.Answer = dns.RcodeSuccess, []dns.RR{soa}
			} else if dns.IsSubDomain(zone, name) {
				m.Ns = []dns.RR{soa}
			}
		}
		_ = w.WriteMsg(m)
	})
	started := make(chan struct{})
	server := &dns.Server{PacketConn: conn, Handler: handler, NotifyStartedFunc: func() { close(started) }}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().String()
}

// call is one request to a provider's API, as it was meant to go out.
type call struct {
	method, url string
	header      http.Header
	body        string
}

func (c call) String() string { return strings.TrimSpace(c.method + " " + c.url + " " + c.body) }

// fake is a provider's API: a server on loopback to which every request goes,
// whatever host it names.
type fake struct {
	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	calls  []call
	answer func(c call) (status int, body string) // status 0: no answer until the request ends
	header http.Header                            // of each answer
	came   chan struct{}                          // a request without an answer has come
	ended  chan struct{}                          // and has ended
}

func newFake(t testing.TB, answer func(call) (int, string)) *fake {
	f := &fake{t: t, answer: answer, header: http.Header{}, came: make(chan struct{}, 10), ended: make(chan struct{}, 10)}
	f.server = httptest.NewTLSServer(f)
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c := call{r.Method, r.Header.Get("X-Meant-For") + r.URL.RequestURI(), r.Header.Clone(), strings.TrimSpace(string(body))}
	f.mu.Lock()
	f.calls = append(f.calls, c)
	status, text := f.answer(c)
	f.mu.Unlock()
	if status == 0 {
		f.came <- struct{}{}
		<-r.Context().Done()
		f.ended <- struct{}{}
		panic(http.ErrAbortHandler) // to return is to answer with 200, which may still arrive
	}
	for name, values := range f.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// RoundTrip implements http.RoundTripper.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Meant-For", r.URL.Scheme+"://"+r.URL.Host)
	r.URL.Scheme, r.URL.Host = "https", strings.TrimPrefix(f.server.URL, "https://")
	return f.server.Client().Transport.RoundTrip(r)
}

// took returns the calls since the last time, one per line.
func (f *fake) took() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fake) says(answer func(call) (int, string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// open makes a provider that talks to f.
func (f *fake) open(name string, values map[string]string) Provider {
	f.t.Helper()
	p, err := New(name, Options{Credentials: values, Resolvers: []string{resolver(f.t)}, base: f})
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// kindOf is the kind of an error of this package.
func kindOf(t testing.TB, err error) Kind {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v is no *Error", err, err)
	}
	return e.Kind
}

// secretFile writes a file as ReadCredentials wants it.
func secretFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// printed is all that printing v in any way shows.
func printed(v any) string { return fmt.Sprintf("%v %+v %#v", v, v, v) }
