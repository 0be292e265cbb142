package legoclient

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// TestFaults: what a failing server answers to an order is told as what it is, at
// once, and nothing is ordered twice.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	soon := time.Now().Add(90 * time.Second).UTC()
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	tests := []struct {
		name  string
		fault acmetest.Fault
		kind  Kind
		typ   string
		after time.Duration
	}{
		{"429", acmetest.Fault{Status: 429, Problem: "rateLimited", Detail: "too many certificates (5)"}, RateLimited, "rateLimited", 0},
		{"429 in seconds", acmetest.Fault{Status: 429, Problem: "rateLimited", Header: header("Retry-After", "120")}, RateLimited, "rateLimited", 2 * time.Minute},
		{"429 with a date", acmetest.Fault{Status: 429, Problem: "rateLimited", Header: header("Retry-After", soon.Format(http.TimeFormat))}, RateLimited, "rateLimited", 90 * time.Second},
		{"429 with an old date", acmetest.Fault{Status: 429, Problem: "rateLimited", Header: header("Retry-After", soon.Format("Monday, 02-Jan-06 15:04:05 GMT"))}, RateLimited, "rateLimited", 90 * time.Second},
		{"429 HTML", acmetest.Fault{Status: 429, Body: "<html>", Header: header("Retry-After", "9")}, RateLimited, "", 9 * time.Second},
		{"503 rate limit", acmetest.Fault{Status: 503, Problem: "rateLimited", Header: header("Retry-After", "30")}, RateLimited, "rateLimited", 30 * time.Second},
		{"503 HTML", acmetest.Fault{Status: 503, Body: "<html>Service Unavailable</html>", Header: header("Retry-After", "60")}, Network, "", time.Minute},
		{"500", acmetest.Fault{Status: 500, Problem: "serverInternal"}, Protocol, "serverInternal", 0},
		{"403", acmetest.Fault{Status: 403, Problem: "unauthorized", Detail: "account is deactivated"}, Protocol, "unauthorized", 0},
		{"409", acmetest.Fault{Status: 409, Problem: "alreadyReplaced"}, Protocol, "alreadyReplaced", 0},
		{"302", acmetest.Fault{Status: 302, Header: header("Location", "/elsewhere")}, Network, "", 0},
		{"HTML", acmetest.Fault{Status: 200, Body: "<html>"}, Network, "", 0},
		{"truncated", acmetest.Fault{Truncate: 40}, Network, "", 0},
		{"truncated refusal", acmetest.Fault{Status: 400, Problem: "malformed", Truncate: 10}, Network, "", 0},
		{"lost", acmetest.Fault{Lost: true}, Network, "", 0},
		{"1 GiB", acmetest.Fault{Giant: 1 << 30}, Network, "", 0},
		{"1 GiB refusal", acmetest.Fault{Status: 500, Giant: 1 << 30}, Network, "", 0},
		{"slowly", acmetest.Fault{Slow: 50 * time.Millisecond}, Network, "", 0},
		{"never", acmetest.Fault{Delay: time.Minute}, Network, "", 0},
		{"another name", acmetest.Fault{Edit: func(b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), "mail.example.test", "evil.example.test"))
		}}, Protocol, "", 0},
	}
	hasty := *w.client
	hasty.cfg.Timeout = 600 * time.Millisecond
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Kind = acmetest.NewOrder
			defer w.Fault(tt.fault)()
			before, began := w.Count(acmetest.NewOrder), time.Now()
			_, err := hasty.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: []string{"mail.example.test"}, Profile: "classic"})
			e := failure(t, err)
			if e.Kind != tt.kind || e.Type != tt.typ || (e.RetryAfter-tt.after).Abs() > time.Second || e.Op != "new order" {
				t.Errorf("got %+v", e)
			}
			if tt.fault.Status >= 300 && tt.fault.Giant == 0 && e.Status != tt.fault.Status {
				t.Errorf("status %d, want %d", e.Status, tt.fault.Status)
			}
			if strings.Contains(err.Error(), "html") {
				t.Errorf("the error quotes the body: %v", err)
			}
			if n := w.Count(acmetest.NewOrder) - before; n != 1 {
				t.Errorf("%d orders", n)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestGiantMemory: a body without end takes no memory.
func TestGiantMemory(t *testing.T) {
	w := start(t, acmetest.Options{})
	for _, f := range []acmetest.Fault{{Kind: acmetest.Order, Giant: 1 << 30}, {Kind: acmetest.Order, Giant: 1 << 30, Status: 503}} {
		o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
		remove := w.Fault(f)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if _, err := w.client.Order(t.Context(), w.acct, o.URL); failure(t, err).Kind != Network {
			t.Errorf("got %v", err)
		}
		runtime.ReadMemStats(&after)
		remove()
		if got := after.TotalAlloc - before.TotalAlloc; got > 24<<20 {
			t.Errorf("%d MiB were allocated, by the server and us", got>>20)
		}
	}
}

// TestFaultyNonce: what goes wrong about the nonce keeps its kind.
func TestFaultyNonce(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	remove := w.Fault(acmetest.Fault{Kind: acmetest.NewNonce, Status: 429, Header: http.Header{"Retry-After": {"5"}}})
	w.client.wire.forget()
	_, err := w.client.Lookup(t.Context(), w.acct.Key)
	if e := failure(t, err); e.Kind != RateLimited || e.Status != 429 || e.RetryAfter != 5*time.Second {
		t.Errorf("got %+v", e)
	}
	remove()
	remove = w.Fault(acmetest.Fault{Kind: acmetest.NewNonce, Header: http.Header{"Replay-Nonce": {}}})
	w.client.wire.forget()
	if _, err := w.client.Lookup(t.Context(), w.acct.Key); err == nil {
		t.Error("a request without a nonce")
	}
	remove()
	if _, err := w.client.Lookup(t.Context(), w.acct.Key); err != nil {
		t.Error(err)
	}
}

// TestBadNonces: one in two refused is no failure; all refused is one, soon.
func TestBadNonces(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{NonceReject: 50})
	w.verified(w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}}), "mail.example.test")
	defer w.Fault(acmetest.Fault{Kind: acmetest.NewAccount, Problem: "badNonce"})()
	before, began := w.Count(acmetest.NewAccount), time.Now()
	_, err := w.client.Lookup(t.Context(), w.acct.Key)
	if failure(t, err).Type != "badNonce" {
		t.Errorf("got %v", err)
	}
	if n, took := w.Count(acmetest.NewAccount)-before, time.Since(began); n != nonceTries || took > 8*time.Second || took < 2*time.Second {
		t.Errorf("%d tries in %s", n, took)
	}
}

func TestReplaces(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	names := []string{"mail.example.test"}
	id, err := CertID(w.issue(w.http(), OrderRequest{Identifiers: names}).Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	if o := w.order(OrderRequest{Identifiers: names, Replaces: id}); o.Replaces != id {
		t.Errorf("the order replaces %q, want %q", o.Replaces, id)
	}
	w.issue(w.http(), OrderRequest{Identifiers: names, Replaces: id})
	before := w.Count(acmetest.NewOrder)
	_, err = w.client.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: names, Profile: "classic", Replaces: id})
	if e := failure(t, err); e.Type != "alreadyReplaced" || e.Status != 409 {
		t.Errorf("got %+v", e)
	}
	if n := w.Count(acmetest.NewOrder) - before; n != 1 {
		t.Errorf("%d orders: the refusal was not reported but tried again", n)
	}
	if _, err = w.client.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: names, Profile: "classic", Replaces: "bm9uZQ.AQ"}); failure(t, err).Kind != Protocol {
		t.Errorf("got %v", err)
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	_, err := w.client.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: []string{"a.example.test"}, Profile: "tlsclient"})
	if e := failure(t, err); e.Type != "invalidProfile" || !strings.Contains(e.Detail, "classic, shortlived, tlsserver") {
		t.Errorf("got %+v", e)
	}
	if n := w.Count(acmetest.NewOrder); n != 0 {
		t.Errorf("%d orders", n)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	bad := [][]string{nil, {""}, {"Mail.example.test"}, {"mail.example.test."}, {"a.test", "a.test"}, {"bücher.example.test"},
		{"a b.test"}, {"a\n.test"}, {"::0001"}, {strings.Repeat("a.", 130) + "test"}}
	for _, names := range bad {
		if _, err := w.client.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: names, Profile: "classic"}); failure(t, err).Kind != Local {
			t.Errorf("%q: %v", names, err)
		}
	}
	if n := w.Count(acmetest.NewOrder); n != 0 {
		t.Errorf("%d orders", n)
	}
}

// TestInvalidOrder: an order that fails while it is awaited is told at once.
func TestInvalidOrder(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	names := []string{"mail.example.test"}
	o := w.order(OrderRequest{Identifiers: names})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	const failed = `{"status":"invalid","identifiers":[{"type":"dns","value":"mail.example.test"}],"error":{"type":"urn:ietf:params:acme:error:caa","detail":"CAA record for\nexample.test","status":403}}`
	defer w.Fault(acmetest.Fault{Kind: acmetest.Order, Skip: 3, Status: 200, Body: failed})()
	defer w.Fault(acmetest.Fault{Kind: acmetest.Order, Edit: func(b []byte) []byte {
		return []byte(strings.ReplaceAll(strings.ReplaceAll(string(b), `"valid"`, `"processing"`), `"ready"`, `"processing"`))
	}})()
	began := time.Now()
	o, err := w.client.Await(t.Context(), w.acct, o.URL)
	e := failure(t, err)
	if e.Type != "caa" || e.Detail != "CAA record for example.test" || e.Status != 403 || o.Status != "invalid" || o.Err == nil {
		t.Errorf("got %+v and %+v", e, o)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("told after %s", took)
	}
	remove := w.Fault(acmetest.Fault{Kind: acmetest.Finalize, Status: 200, Body: failed})
	defer remove()
	if _, err := w.client.Finalize(t.Context(), w.acct, Order{URL: o.URL, Finalize: w.order(OrderRequest{Identifiers: names}).Finalize}, csr(t, newKey(t), names...)); failure(t, err).Type != "caa" {
		t.Errorf("finalize: %v", err)
	}
}

// TestBadCSR: the CA's word on the request comes back.
func TestBadCSR(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Finalize(t.Context(), w.acct, o, csr(t, newKey(t), "other.example.test")); failure(t, err).Kind != Protocol {
		t.Errorf("got %v", err)
	}
}

// TestAwaitBears: a wait survives a few failed answers, and no more.
func TestAwaitBears(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	w.Fault(acmetest.Fault{Kind: acmetest.Order, Count: 1, Status: 503, Body: "<html>"})
	w.Fault(acmetest.Fault{Kind: acmetest.Order, Count: 1, Lost: true})
	w.Fault(acmetest.Fault{Kind: acmetest.Order, Count: 1, Status: 200, Body: "<html>"})
	if o, err := w.client.Await(t.Context(), w.acct, o.URL, "ready"); err != nil || o.Status != "ready" {
		t.Errorf("got %+v, %v", o, err)
	}
	remove := w.Fault(acmetest.Fault{Kind: acmetest.Order, Status: 503})
	before := w.Count(acmetest.Order)
	if _, err := w.client.Await(t.Context(), w.acct, o.URL, "ready"); failure(t, err).Status != 503 {
		t.Errorf("got %v", err)
	}
	if n := w.Count(acmetest.Order) - before; n != pollBearing+1 {
		t.Errorf("%d requests", n)
	}
	remove()
	// What no later answer will change ends it at once.
	w.Fault(acmetest.Fault{Kind: acmetest.Order, Status: 403, Problem: "unauthorized"})
	before = w.Count(acmetest.Order)
	if _, err := w.client.Await(t.Context(), w.acct, o.URL, "ready"); failure(t, err).Type != "unauthorized" {
		t.Errorf("got %v", err)
	}
	if n := w.Count(acmetest.Order) - before; n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestAwaitEnds: an order that never moves ends the wait, without hurry.
func TestAwaitEnds(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	c := *w.client
	c.pollLimit = time.Second
	before := w.Count(acmetest.Order)
	got, err := c.Await(t.Context(), w.acct, o.URL, "ready")
	if e := failure(t, err); e.Kind != Network || got.Status != "pending" {
		t.Errorf("got %+v, %+v", e, got)
	}
	if n := w.Count(acmetest.Order) - before; n > 6 {
		t.Errorf("%d requests in a second", n)
	}
	// An order that was never solved is not finalized.
	if _, err := c.Finalize(t.Context(), w.acct, o, csr(t, newKey(t), "mail.example.test")); err == nil {
		t.Error("finalized")
	}
}

func TestPause(t *testing.T) {
	tests := []struct{ last, asked, waited, want time.Duration }{
		{0, 0, 0, firstPause}, {time.Second, 0, 0, 1500 * time.Millisecond}, {2 * time.Second, 0, 0, longPause},
		{2 * time.Second, 0, 2 * time.Minute, 3 * time.Second}, {10 * time.Second, 0, time.Hour, lastPause},
		{0, time.Second, 0, time.Second}, {0, time.Hour, 0, maxPause}, {0, time.Nanosecond, 0, firstPause},
		{time.Minute, 3 * time.Second, 0, 3 * time.Second},
	}
	for _, tt := range tests {
		if got := pause(tt.last, tt.asked, tt.waited); got != tt.want {
			t.Errorf("pause(%s, %s, %s) = %s, want %s", tt.last, tt.asked, tt.waited, got, tt.want)
		}
	}
}

// TestRetryAfterBounded: a server that asks for an hour is asked again sooner, one
// that asks for nothing not at once.
func TestRetryAfterBounded(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{RetryAfterAuthz: 1, RetryAfterOrder: 1})
	w.Fault(acmetest.Fault{Kind: acmetest.Authz, Header: http.Header{"Retry-After": {"0"}}})
	w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}})
	if n := w.Count(acmetest.Authz); n > 6 {
		t.Errorf("%d requests for one authorization", n)
	}
}

func TestDownloadBad(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Finalize(t.Context(), w.acct, o, csr(t, newKey(t), "mail.example.test")); err != nil {
		t.Fatal(err)
	}
	o, err := w.client.Await(t.Context(), w.acct, o.URL)
	if err != nil {
		t.Fatal(err)
	}
	edits := map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"HTML":  func([]byte) []byte { return []byte("<html>") },
		"half":  func(b []byte) []byte { return b[:len(b)-40] },
		"with a key": func(b []byte) []byte {
			return append(b, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...)
		},
		"with words":   func(b []byte) []byte { return append([]byte("subject: CN=x\n"), b...) },
		"twenty":       func(b []byte) []byte { return []byte(strings.Repeat(string(b), 20)) },
		"broken DER":   func(b []byte) []byte { return []byte(strings.Replace(string(b), "MII", "MIJ", 1)) },
		"two megabyte": func(b []byte) []byte { return append(b, make([]byte, 2<<20)...) },
	}
	for name, edit := range edits {
		remove := w.Fault(acmetest.Fault{Kind: acmetest.Certificate, Edit: edit})
		chain, err := w.client.Download(t.Context(), w.acct, o.Certificate, "")
		if err == nil || len(chain.Certificates) > 0 || failure(t, err).Kind != Network {
			t.Errorf("%s: got %d certificates, %v", name, len(chain.Certificates), err)
		}
		remove()
	}
	if _, err := w.client.Download(t.Context(), w.acct, o.Certificate, ""); err != nil {
		t.Error(err)
	}
	var e *Error
	if _, err := w.client.Download(t.Context(), w.acct, o.Certificate+"x", ""); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("got %v", err)
	}
}
