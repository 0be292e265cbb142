package legoclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"
)

const (
	maxBody    = 1 << 20  // bytes of a good answer: a chain with its intermediates is below 20 KiB
	maxRefusal = 64 << 10 // bytes of an answer that refuses
	maxHeader  = 64 << 10 // bytes of the header of an answer
	redirects  = 3        // that the GET of the directory may take
)

// transport is the way of one operation to the CA. It reads each answer to its
// end, within the limits of time and size, before anybody sees it, and returns
// all but a success as an *Error. So lego, above it, meets only good answers. A
// request for the directory or for a nonce is answered from what the Client's
// operations share, if it can be.
type transport struct {
	ctx       context.Context // the operation's
	wire      *wire
	purse     string
	timeout   time.Duration // of a request and its answer
	agent     string
	directory string
	now       func() time.Time

	mu      sync.Mutex
	answers map[string]answer // the last one by URL
	nonce   *Error            // why the last HEAD, which is for a nonce, failed
}

// answer is what a caller may want to know of an answer that lego has read.
type answer struct {
	header http.Header
	at     time.Time // ours, when the header came
}

func newTransport(ctx context.Context, cfg Config, w *wire, purse string) *transport {
	return &transport{
		ctx: ctx, wire: w, purse: purse, timeout: cfg.Timeout, agent: cfg.UserAgent, directory: cfg.Directory, now: cfg.Now,
		answers: make(map[string]answer),
	}
}

// client is for one api.New, which wraps what it gets.
func (t *transport) client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: t.redirect}
}

// redirect follows a few for the directory, over TLS only. Anything else is a
// request that was meant, and signed, for the URL it went to.
func (t *transport) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > redirects {
		return &Error{URL: shown(via[0].URL.String()), Kind: Network, Detail: fmt.Sprintf("more than %d redirects", redirects)}
	}
	if req.URL.Scheme != "https" {
		return &Error{URL: shown(via[0].URL.String()), Kind: Network, Detail: "a redirect to " + shown(req.URL.String()) + ", which has no TLS"}
	}
	return nil
}

// nonceForm is RFC 8555 section 6.5.1: base64url without padding.
var nonceForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,512}$`)

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if resp := t.shared(req); resp != nil {
		return resp, nil
	}
	resp, err := t.roundTrip(req)
	var failed *Error
	if errors.As(err, &failed) && (failed.Kind == Network || failed.Status >= 500) {
		t.wire.forget()
	}
	if req.Method == http.MethodHead {
		t.mu.Lock()
		t.nonce = nil
		errors.As(err, &t.nonce)
		t.mu.Unlock()
	}
	return resp, err
}

// shared is an answer that needs no request; nil if there is none.
func (t *transport) shared(req *http.Request) *http.Response {
	switch {
	case t.ctx.Err() != nil:
	case req.Method == http.MethodHead: // nothing but a nonce is asked for so
		return t.wire.spend(req, t.purse)
	case req.Method == http.MethodGet && req.URL.String() == t.directory:
		resp, a := t.wire.directory(req)
		if resp != nil {
			t.record(t.directory, a)
		}
		return resp
	}
	return nil
}

func (t *transport) refusedNonce() *Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nonce
}

func (t *transport) roundTrip(req *http.Request) (*http.Response, error) {
	// The context of req is lego's, which is none.
	ctx, cancel := context.WithTimeout(t.ctx, t.timeout)
	defer cancel()
	where := req.URL.String()
	ours := req.Clone(ctx)
	if ours.Header.Get("User-Agent") == "" {
		// RFC 8555 section 6.1 asks for one; lego's GET of renewal information has none.
		ours.Header.Set("User-Agent", t.agent)
	}
	resp, err := t.wire.base.RoundTrip(ours)
	if err != nil {
		return nil, at(where, unreached(t.ctx, t.timeout, err))
	}
	defer resp.Body.Close()
	now := t.now()
	if req.Method == http.MethodPost {
		defer t.wire.earn(resp.Header, t.purse)
	}
	t.record(where, answer{resp.Header, now})
	limit := int64(maxBody)
	if resp.StatusCode >= 300 {
		limit = maxRefusal
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case resp.StatusCode >= 300:
		return t.failed(req, resp, body, now)
	case err != nil:
		e := unreached(t.ctx, t.timeout, err)
		e.Status = resp.StatusCode
		return nil, at(where, e)
	case int64(len(body)) > limit:
		return nil, at(where, &Error{Kind: Network, Status: resp.StatusCode, Detail: fmt.Sprintf("the answer has more than %d bytes", limit)})
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	if t.follows(req) {
		t.wire.keepDirectory(body, answer{resp.Header, now})
	}
	return resp, nil
}

// failed is for an answer with a status of 300 and above.
func (t *transport) failed(req *http.Request, resp *http.Response, body []byte, now time.Time) (*http.Response, error) {
	where := req.URL.String()
	if t.ctx.Err() != nil {
		return nil, at(where, canceled(t.ctx))
	}
	if resp.StatusCode < 400 {
		if t.follows(req) {
			resp.Body = http.NoBody
			return resp, nil
		}
		target := ""
		if to, err := resp.Location(); err == nil {
			target = " to " + shown(to.String())
		}
		return nil, at(where, &Error{Kind: Network, Status: resp.StatusCode, Detail: "a redirect" + target + ", which is not followed"})
	}
	e := refused(resp.StatusCode, body)
	e.RetryAfter = answered(resp.Header, now)
	if e.Type == "badNonce" {
		t.wire.empty(t.purse)
	}
	return nil, at(where, e)
}

// follows says whether req fetches the directory, or what it redirected to.
func (t *transport) follows(req *http.Request) bool {
	if req.Method != http.MethodGet {
		return false
	}
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req.URL.String() == t.directory
}

func at(where string, e *Error) *Error {
	if e.URL == "" {
		e.URL = shown(where)
	}
	return e
}

func (t *transport) record(where string, a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[where] = a
}

func (t *transport) answer(where string) answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answers[where]
}

// retryAfter is what the last good answer of that URL asked for; 0 for nothing.
func (t *transport) retryAfter(where string) time.Duration {
	a := t.answer(where)
	return answered(a.header, a.at)
}

// secure refuses a URL that is not https, as RFC 8555 section 6.1 does.
func secure(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return &Error{Op: "directory", Kind: Local, Detail: fmt.Sprintf("%q is not a URL", shown(raw))}
	}
	if u.Scheme != "https" {
		return &Error{Op: "directory", URL: shown(raw), Kind: Local, Detail: fmt.Sprintf("%s is without TLS, and ACME is https only", shown(raw))}
	}
	return nil
}
