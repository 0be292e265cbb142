package dns

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxBody is how much of an answer is read. The longest that is needed is a list
// of the records of one zone.
const maxBody = 4 << 20

// answer is what is remembered of the last request.
type answer struct {
	status int
	method string
	after  time.Duration // Retry-After
	failed bool          // no answer came
}

// transport is the way to a provider's API. lego's providers know no context, so
// the context of the call that is under way is bound here; calls of one provider
// follow each other, so there is only one.
//
// It also refuses to carry credentials over plain HTTP to another host, reads
// answers whole, with limits of size and time, and remembers what came.
type transport struct {
	base      http.RoundTripper
	timeout   time.Duration // of one request
	userAgent string        // for requests that have none
	plain     bool          // http:// is allowed to any host

	mu   sync.Mutex
	ctx  context.Context
	last answer
}

// newBase is the real network: no proxy and no other setting comes from the
// environment.
func newBase() http.RoundTripper {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   15 * time.Second,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// begin binds what follows to ctx and forgets what was.
func (t *transport) begin(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx, t.last = ctx, answer{}
}

func (t *transport) seen() answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

func (t *transport) saw(a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = a
}

// client is an http.Client on t. Redirects are not followed: Go would take custom
// headers, such as X-API-Key, to the other host.
func (t *transport) client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	call := t.ctx
	t.mu.Unlock()
	if call == nil {
		call = context.Background()
	}
	if err := secure(req.URL, t.plain); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(call, t.timeout)
	defer cancel()
	defer context.AfterFunc(req.Context(), cancel)()
	req = req.Clone(ctx)
	if req.Header.Get("User-Agent") == "" && t.userAgent != "" {
		req.Header.Set("User-Agent", t.userAgent)
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		t.saw(answer{method: req.Method, failed: true})
		return nil, err
	}
	a := answer{method: req.Method, status: resp.StatusCode}
	if v := resp.Header.Get("Retry-After"); v != "" {
		a.after = retryAfter(v, time.Now())
	}
	t.saw(a)
	return t.whole(resp, a)
}

// whole reads the body while the limits of the request hold.
func (t *transport) whole(resp *http.Response, a answer) (*http.Response, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	if err != nil {
		a.failed = true
		t.saw(a)
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// secure refuses what would send credentials in clear text to another host.
func secure(u *url.URL, plain bool) error {
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		if plain || loopback(u.Hostname()) {
			return nil
		}
		return faulty(Configuration, "http:// is for addresses of this host only; https:// is needed for "+u.Hostname())
	}
	return faulty(Configuration, "neither an https:// nor an http:// URL")
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// parseBase checks the URL of an API that the operator has given.
func parseBase(s string, plain bool) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, faulty(Configuration, "not a URL with a host") // the value is not repeated: it may hold a password
	}
	if u.User != nil {
		return nil, faulty(Configuration, "user and password do not belong into the URL")
	}
	return u, secure(u, plain)
}

// api is a JSON API for the providers that are our own.
type api struct {
	client *http.Client
	header http.Header
}

// do sends in as JSON, unless it is nil, and decodes the answer into out, unless
// that is nil. An answer that is no success is an error with its status and the
// first words of its body.
func (a api) do(ctx context.Context, method, target string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	for name, values := range a.header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return a.send(req, out)
}

func (a api) send(req *http.Request, out any) error {
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body) // the transport has bounded it
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &statusError{req.Method, req.URL.Path, resp.StatusCode, strings.TrimSpace(string(data))}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return faulty(Unavailable, fmt.Sprintf("%s %s: the answer is not the JSON that was expected", req.Method, req.URL.Path))
	}
	return nil
}

// statusError is an answer other than 2xx.
type statusError struct {
	method, path string
	status       int
	body         string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s %s: status %d", e.method, e.path, e.status)
	if e.body != "" {
		s += ": " + e.body
	}
	return s
}

func escapePath(s string) string  { return url.PathEscape(s) }
func escapeQuery(s string) string { return url.QueryEscape(s) }

// basicAuth is the tail of an HTTP basic authentication with an empty user: enough
// to recognise a password that is alone in it.
func basicAuth(s string) string { return base64.StdEncoding.EncodeToString([]byte(":" + s)) }
