package dns

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// nameFor is a name that the provider can write.
func nameFor(provider string) string {
	if provider == "acme-dns" {
		return cnameName
	}
	return plainName
}

func status(n int, body string) func(call) (int, string) {
	return func(call) (int, string) { return n, body }
}

// What went wrong is told apart, for each provider, and no error, however it is
// printed, holds a secret, even if the API repeats it.
func TestFailures(t *testing.T) {
	tests := []struct {
		name   string
		answer func(s scenario) func(call) (int, string)
		kind   Kind
	}{
		{"credentials refused", func(s scenario) func(call) (int, string) {
			if s.refused != nil {
				return s.refused
			}
			return status(401, `{"message":"no `+all(s.values)+`"}`)
		}, Refused},
		{"not for this zone", func(s scenario) func(call) (int, string) {
			if s.refused != nil {
				return s.refused
			}
			return status(403, `{"message":"no `+all(s.values)+`"}`)
		}, Refused},
		{"too many requests", func(scenario) func(call) (int, string) { return status(429, `{"message":"slow down"}`) }, RateLimited},
		{"server's error", func(s scenario) func(call) (int, string) { return status(500, all(s.values)) }, Unavailable},
		{"load balancer", func(scenario) func(call) (int, string) { return status(503, "<html>Bad Gateway</html>") }, Unavailable},
	}
	for _, s := range scenarios {
		for _, tt := range tests {
			t.Run(s.provider+" "+tt.name, func(t *testing.T) {
				f := newFake(t, tt.answer(s))
				f.header.Set("Retry-After", "90")
				p := f.open(s.provider, s.values)
				err := p.Present(background(t), nameFor(s.provider), keyAuth)
				if err == nil {
					t.Fatal("no error")
				}
				if got := kindOf(t, err); got != tt.kind {
					t.Errorf("kind %q, want %q: %v", got, tt.kind, err)
				}
				var e *Error
				if errors.As(err, &e) && tt.kind == RateLimited && e.RetryAfter != 90*time.Second {
					t.Errorf("retry after %v", e.RetryAfter)
				}
				silent(t, err, s.values)
			})
		}
	}
}

// all are the values of the credentials, as an API may repeat them.
func all(values map[string]string) string {
	var b strings.Builder
	for _, v := range values {
		if strings.Contains(v, "secret") {
			b.WriteString(v + " ")
		}
	}
	return b.String()
}

// silent fails the test if an error holds a secret, in its text or in what
// printing it with all its parts shows.
func silent(t *testing.T, err error, values map[string]string) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for name, v := range values {
			if !strings.Contains(v, "secret") {
				continue
			}
			if s := printed(e); strings.Contains(s, v) {
				t.Errorf("%s is in the error: %s", name, s)
			}
		}
	}
}

// A call ends within a second of its context, and the clean-up after it has its
// own time.
func TestHangingAPI(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.provider, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, status(0, ""))
			p := f.open(s.provider, s.values)
			ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := p.Present(ctx, nameFor(s.provider), keyAuth)
			if took := time.Since(start); took > 1150*time.Millisecond {
				t.Errorf("ended after %v", took)
			}
			if !errors.Is(err, context.DeadlineExceeded) || kindOf(t, err) != Canceled {
				t.Errorf("error %v", err)
			}
			select {
			case <-f.ended: // the request itself has ended
			case <-time.After(5 * time.Second):
				t.Error("the request goes on")
			}
			switch s.provider {
			case "desec":
				s.answer = desecAnswer()
			case "pdns":
				s.answer = pdnsAnswer()
			}
			f.says(s.answer)
			if err := p.CleanUp(background(t), nameFor(s.provider), keyAuth); err != nil {
				t.Errorf("clean-up: %v", err)
			}
		})
	}
}

// An API that does not answer is given up after the time limit of a request.
func TestSlowAPI(t *testing.T) {
	f := newFake(t, status(0, ""))
	p, err := New("httpreq", Options{Credentials: map[string]string{"endpoint": "https://dns.example.org"}, Timeout: 50 * time.Millisecond, base: f})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Unavailable {
		t.Errorf("error %v", err)
	}
}

// endless is a body without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type giant struct{}

func (giant) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(endless{}), Request: r}, nil
}

func TestGiantAnswer(t *testing.T) {
	p, err := New("desec", Options{Credentials: map[string]string{"token": "x"}, base: giant{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Unavailable || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("error %v", err)
	}
}

// Credentials do not follow a redirect, nor go out in clear text.
func TestRedirect(t *testing.T) {
	f := newFake(t, status(307, ""))
	f.header.Set("Location", "https://elsewhere.example/present")
	p := f.open("httpreq", map[string]string{"endpoint": "https://dns.example.org", "password": "httpreq-password-secret"})
	if err := p.Present(background(t), plainName, keyAuth); err == nil {
		t.Error("no error")
	}
	if calls := f.took(); len(calls) != 1 {
		t.Errorf("requests: %v", calls)
	}
}

func TestClearText(t *testing.T) {
	for _, tt := range []struct {
		provider string
		values   map[string]string
		fine     bool
	}{
		{"httpreq", map[string]string{"endpoint": "http://dns.example.org"}, false},
		{"httpreq", map[string]string{"endpoint": "http://127.0.0.1:8080"}, true},
		{"httpreq", map[string]string{"endpoint": "http://[::1]:8080/x"}, true},
		{"httpreq", map[string]string{"endpoint": "http://localhost:8080/x"}, true},
		{"httpreq", map[string]string{"endpoint": "http://localhost.example.org/"}, false},
		{"httpreq", map[string]string{"endpoint": "ftp://127.0.0.1/"}, false},
		{"httpreq", map[string]string{"endpoint": "https://user:secret@dns.example.org"}, false},
		{"httpreq", map[string]string{"endpoint": "dns.example.org"}, false},
		{"httpreq", map[string]string{"endpoint": "https://dns.example.org/", "mode": "RAW"}, false},
		{"pdns", map[string]string{"api_url": "http://ns1.example.org:8081", "api_key": "k"}, false},
		{"pdns", map[string]string{"api_url": "http://ns1.example.org:8081", "api_key": "k", "allow_http": "yes"}, true},
		{"pdns", map[string]string{"api_url": "http://127.0.0.1:8081", "api_key": "k"}, true},
		{"desec", map[string]string{"endpoint": "http://desec.io/api/v1/", "token": "k"}, false},
		{"acme-dns", map[string]string{"api_base": "http://auth.example.org", "username": "u", "password": "p", "subdomain": "s"}, false},
	} {
		_, err := New(tt.provider, Options{Credentials: tt.values})
		if (err == nil) != tt.fine {
			t.Errorf("%s %v: %v", tt.provider, tt.values, err)
		}
		if err != nil && (kindOf(t, err) != Configuration || strings.Contains(err.Error(), "user:secret")) {
			t.Errorf("%s %v: %v", tt.provider, tt.values, err)
		}
	}
}

// A removal that a provider of lego only logs is an error; what is gone already
// is none.
func TestCleanUpThatFails(t *testing.T) {
	s := scenarios[0] // cloudflare swallows the error
	f := newFake(t, s.answer)
	for _, tt := range []struct {
		status int
		fine   bool
	}{{500, false}, {403, false}, {404, true}} {
		p := f.open(s.provider, s.values)
		f.says(s.answer)
		if err := p.Present(background(t), plainName, keyAuth); err != nil {
			t.Fatal(err)
		}
		f.says(func(c call) (int, string) {
			if c.method == http.MethodDelete {
				return tt.status, `{"success":false,"errors":[{"code":1,"message":"no"}]}`
			}
			return s.answer(c)
		})
		if err := p.CleanUp(background(t), plainName, keyAuth); (err == nil) != tt.fine {
			t.Errorf("status %d: %v", tt.status, err)
		}
	}
}

// After a Present that failed, CleanUp has nothing to complain of; for a record
// that this provider has never made it looks, where it can.
func TestCleanUpOfNothing(t *testing.T) {
	for _, s := range scenarios {
		f := newFake(t, status(500, ""))
		p := f.open(s.provider, s.values)
		if err := p.Present(background(t), nameFor(s.provider), keyAuth); err == nil {
			t.Fatalf("%s: no error", s.provider)
		}
		switch s.provider {
		case "desec":
			s.answer = desecAnswer()
		case "pdns":
			s.answer = pdnsAnswer()
		}
		f.says(s.answer)
		if err := p.CleanUp(background(t), nameFor(s.provider), keyAuth); err != nil {
			t.Errorf("%s: %v", s.provider, err)
		}
	}
}

// OVH is asked for the record that another process has made.
func TestCleanUpOfAnotherProcess(t *testing.T) {
	s := scenarios[1]
	f := newFake(t, func(c call) (int, string) {
		switch {
		case strings.Contains(c.url, "/record?"):
			return 200, "[1,2]"
		case strings.HasSuffix(c.url, "/record/1"):
			return 200, `{"id":1,"target":"\"other\""}`
		case strings.HasSuffix(c.url, "/record/2") && c.method == http.MethodGet:
			return 200, `{"id":2,"target":"\"` + Value(keyAuth) + `\""}`
		}
		return s.answer(c)
	})
	p := f.open(s.provider, s.values)
	if err := p.CleanUp(background(t), plainName, keyAuth); err != nil {
		t.Fatal(err)
	}
	compare(t, f.took(), []want{{"DELETE https://ca.api.ovh.com/1.0/domain/zone/{zone}/record/2", ""}, {"POST https://ca.api.ovh.com/1.0/domain/zone/{zone}/refresh", ""}}, s, plainName, "example.com")
}

// The environment changes nothing: every variable of these providers in lego, and
// lego's own, are set to nonsense.
func TestEnvironment(t *testing.T) {
	for _, d := range definitions {
		for _, f := range d.all() {
			for _, name := range f.Lego {
				t.Setenv(name, "nonsense")
				t.Setenv(name+"_FILE", "/nonexistent")
			}
		}
	}
	for _, name := range []string{"CLOUDFLARE_BASE_URL", "DO_API_URL", "OVH_ACCESS_TOKEN", "LEGO_DISABLE_CNAME_SUPPORT", "LEGO_EXPERIMENTAL_DNS_TCP_ONLY",
		"LEGO_DEBUG_DNS_API_HTTP_CLIENT", "LEGO_DEBUG_CLIENT_VERBOSE_ERROR", "LEGO_CA_CERTIFICATES", "LEGO_CA_SERVER_NAME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		value := "true"
		if strings.HasSuffix(name, "PROXY") {
			value = "http://192.0.2.1:3128"
		}
		t.Setenv(name, value)
	}
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	t.Run("again", TestPresentAndCleanUp)
	os.Stdout = stdout
	w.Close()
	if said, _ := io.ReadAll(r); len(said) > 0 {
		t.Errorf("requests were printed: %.200s", said)
	}
	if transport, ok := newBase().(*http.Transport); !ok || transport.Proxy != nil {
		t.Error("a proxy from the environment would be used")
	}
}
