package acmetest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/letsencrypt/pebble/v2/core"
)

// The kinds of requests, for Fault and Request.
const (
	Directory   = "directory"
	NewNonce    = "newNonce"
	NewAccount  = "newAccount"
	AccountKind = "account"
	NewOrder    = "newOrder"
	Order       = "order"
	Finalize    = "finalize"
	Authz       = "authz"
	Challenge   = "challenge"
	Certificate = "certificate"
	RevokeCert  = "revokeCert"
	KeyChange   = "keyChange"
	RenewalInfo = "renewalInfo"
)

// kinds are Pebble's paths.
var kinds = []struct{ prefix, kind string }{
	{"/dir", Directory}, {"/nonce-plz", NewNonce}, {"/sign-me-up", NewAccount}, {"/my-account/", AccountKind},
	{"/order-plz", NewOrder}, {"/my-order/", Order}, {"/finalize-order/", Finalize}, {"/authZ/", Authz},
	{"/chalZ/", Challenge}, {"/certZ/", Certificate}, {"/revoke-cert", RevokeCert},
	{"/rollover-account-key", KeyChange}, {"/draft-ietf-acme-ari-03/renewalInfo", RenewalInfo},
}

func kind(path string) string {
	for _, k := range kinds {
		if strings.HasPrefix(path, k.prefix) {
			return k.kind
		}
	}
	return ""
}

// Request is one that the CA got.
type Request struct {
	At        time.Time
	Method    string
	Path      string
	Kind      string
	UserAgent string
	Payload   string // of the JWS
	Status    int    // of the answer; 0: none, or it is still under way
}

// Fault is something that goes wrong. It is for the requests that have all of
// Kind, Method and Path, as far as they are set; of faults that fit, the one that
// was added first happens.
//
// The answer is Status, Header and Body; or with Problem a problem document of
// that type; or if none of these is set, Pebble's own, changed by Edit.
type Fault struct {
	Kind   string
	Method string
	Path   string // a part of it
	Skip   int    // so many requests pass unharmed
	Count  int    // so many are harmed; 0: all
	// Percent harms only so many of 100, evenly spread; 0: all.
	Percent int

	Delay   time.Duration // before anything happens
	Status  int
	Header  http.Header
	Body    string
	Problem string // rateLimited, ...
	Detail  string
	Edit    func(body []byte) []byte

	Lost     bool          // Pebble does what was asked, and the connection breaks before the answer
	Truncate int           // the answer ends after so many bytes, by a broken connection; 0: no
	Giant    int64         // the body is so many bytes, whatever else is set
	Slow     time.Duration // between two bytes of the body
}

// front is what stands before Pebble.
type front struct {
	mu       sync.Mutex
	faults   []*fault
	requests []*Request
}

type fault struct {
	Fault
	seen, done int
}

// Fault adds a fault.
func (c *CA) Fault(f Fault) (remove func()) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	added := &fault{Fault: f}
	c.front.faults = append(c.front.faults, added)
	return func() {
		c.front.mu.Lock()
		defer c.front.mu.Unlock()
		c.front.faults = slices.DeleteFunc(c.front.faults, func(f *fault) bool { return f == added })
	}
}

// Requests are all requests so far, in order of arrival.
func (c *CA) Requests() []Request {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	all := make([]Request, len(c.front.requests))
	for i, r := range c.front.requests {
		all[i] = *r
	}
	return all
}

// Count is the number of requests of that kind so far.
func (c *CA) Count(kind string) int {
	n := 0
	for _, r := range c.Requests() {
		if r.Kind == kind {
			n++
		}
	}
	return n
}

// arrived writes r down and finds the fault for it, or nil.
func (f *front) arrived(r *Request) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	for _, x := range f.faults {
		if x.Kind != "" && x.Kind != r.Kind || x.Method != "" && x.Method != r.Method || !strings.Contains(r.Path, x.Path) ||
			x.Count > 0 && x.done == x.Count {
			continue
		}
		x.seen++
		if x.seen <= x.Skip {
			continue
		}
		if n := x.seen - x.Skip; x.Percent > 0 && n*x.Percent/100 == (n-1)*x.Percent/100 {
			continue
		}
		x.done++
		copied := x.Fault
		return &copied
	}
	return nil
}

func (f *front) ended(r *Request, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.Status = status
}

func (c *CA) handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	entry := &Request{At: time.Now(), Method: r.Method, Path: r.URL.Path, Kind: kind(r.URL.Path), UserAgent: r.UserAgent(), Payload: payload(body)}
	f := c.front.arrived(entry)
	if f == nil {
		f = &Fault{}
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		}
	}
	if entry.Kind == NewOrder {
		c.settle(entry.Payload)
	}
	answer := c.answer(f, r, entry.Kind)
	if f.Lost {
		panic(http.ErrAbortHandler)
	}
	c.front.ended(entry, answer.Code)
	f.send(w, answer)
}

// settle comes after Pebble has written down that an order's certificate was
// replaced, as the race detector sees it. Pebble writes that under the lock of the
// replaced order, after it has said that the new one is valid, and reads it for the
// next order without the lock.
func (c *CA) settle(newOrder string) {
	var o struct{ Replaces string }
	if json.Unmarshal([]byte(newOrder), &o) != nil {
		return
	}
	_, serial, _ := strings.Cut(o.Replaces, ".")
	raw, err := base64.RawURLEncoding.DecodeString(serial)
	if err != nil || len(raw) == 0 {
		return
	}
	c.index(raw)
	if replaced, err := c.db.GetOrderByIssuedSerial(hex.EncodeToString(raw)); err == nil {
		replaced.RLock()
		_ = replaced.IsReplaced
		replaced.RUnlock()
	}
}

// index makes Pebble find the order of a certificate by the serial number as RFC
// 9773 section 4.1 wants it: the bytes of the DER integer. Pebble files it without
// the zero that these begin with where the next bit is set, so that one certificate
// of 256 could not be replaced.
func (c *CA) index(serial []byte) {
	if serial[0] != 0 {
		return
	}
	filed, err := c.db.GetOrderByIssuedSerial(hex.EncodeToString(serial[1:]))
	if _, found := c.db.GetOrderByIssuedSerial(hex.EncodeToString(serial)); err != nil || found == nil {
		return
	}
	again := &core.Order{Order: filed.Order, ID: filed.ID, AccountID: filed.AccountID, CertificateObject: &core.Certificate{ID: hex.EncodeToString(serial)}}
	if err := c.db.AddOrderByIssuedSerial(again); err != nil {
		panic(err) // it has a certificate
	}
}

func payload(body []byte) string {
	var jws struct{ Payload string }
	if json.Unmarshal(body, &jws) != nil {
		return ""
	}
	raw, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	return string(raw)
}

// answer is the fault's, or Pebble's.
func (c *CA) answer(f *Fault, r *http.Request, kind string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	switch {
	case f.Problem != "":
		status := f.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		answer.Header().Set("Content-Type", "application/problem+json")
		answer.Code = status
		fmt.Fprintf(answer.Body, `{"type":"urn:ietf:params:acme:error:%s","detail":%q,"status":%d}`, f.Problem, f.Detail, status)
	case f.Status != 0:
		answer.Code = f.Status
		answer.Body.WriteString(f.Body)
	case f.Giant > 0:
	default:
		c.pebble.ServeHTTP(answer, r)
		if kind == Directory && c.options.Directory != nil {
			c.edit(answer)
		}
		if f.Edit != nil {
			answer.Body = bytes.NewBuffer(f.Edit(answer.Body.Bytes()))
		}
	}
	for name, values := range f.Header {
		answer.Header()[http.CanonicalHeaderKey(name)] = values
	}
	return answer
}

func (c *CA) edit(answer *httptest.ResponseRecorder) {
	var dir map[string]any
	if json.Unmarshal(answer.Body.Bytes(), &dir) != nil {
		return
	}
	c.options.Directory(dir)
	raw, _ := json.Marshal(dir)
	answer.Body = bytes.NewBuffer(raw)
}

// send writes the answer as the fault will have it.
func (f *Fault) send(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	flush := func() { _ = http.NewResponseController(w).Flush() }
	body := answer.Body.Bytes()
	switch {
	case f.Giant > 0:
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for left := f.Giant; left > 0; left -= int64(len(chunk)) {
			if _, err := w.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
				return
			}
		}
	case f.Truncate > 0:
		_, _ = w.Write(body[:min(f.Truncate, len(body))])
		flush()
		panic(http.ErrAbortHandler)
	case f.Slow > 0:
		for i := range body {
			if _, err := w.Write(body[i : i+1]); err != nil {
				return
			}
			flush()
			time.Sleep(f.Slow)
		}
	default:
		_, _ = w.Write(body)
	}
}
