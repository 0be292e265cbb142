package legoclient

import (
	"errors"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// leaves are all *Error below err.
func leaves(err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	var e *Error
	if errors.As(err, &e) {
		return []*Error{e}
	}
	return nil
}

// TestSolveRefused: names that the CA cannot validate are told each by itself; the
// good one is not among them, and what was pending is given back.
func TestSolveRefused(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	names := []string{"a.example.test", "b.example.test", "good.example.test"}
	w.DNS.SetAddr("a.example.test", "127.0.0.99")
	w.DNS.SetAddr("b.example.test")
	o := w.order(OrderRequest{Identifiers: names})
	began := time.Now()
	err := w.client.Solve(t.Context(), w.acct, o, w.http())
	var got []string
	for _, e := range leaves(err) {
		got = append(got, e.Identifier+" "+e.Type)
		if e.Kind != ChallengeFailed || e.Detail == "" || e.URL == "" || e.Op != "validate" {
			t.Errorf("got %+v", e)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"a.example.test connection", "b.example.test connection"}) {
		t.Errorf("got %q", got)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s", took)
	}
	mustBeFree(t, w.HTTPPort)
	if got, err := w.client.Order(t.Context(), w.acct, o.URL); err != nil || got.Status != "invalid" {
		t.Errorf("the order: %+v, %v", got, err)
	}
}

// TestSolveGivesBack: the authorization that was not tried is deactivated.
func TestSolveGivesBack(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	w.DNS.SetAddr("a.example.test", "127.0.0.99")
	o := w.order(OrderRequest{Identifiers: []string{"a.example.test", "z.example.test"}})
	// The second challenge is never started.
	s := solver(t, Challenge{Type: HTTP01, Listen: "127.0.0.1:" + strconv.Itoa(w.HTTPPort)})
	s.way = single{s.way}
	if err := w.client.Solve(t.Context(), w.acct, o, s); failure(t, err).Kind != ChallengeFailed {
		t.Fatalf("got %v", err)
	}
	deactivated := 0
	for _, r := range w.Requests() {
		if r.Kind == acmetest.Authz && strings.Contains(r.Payload, "deactivated") {
			deactivated++
		}
	}
	if deactivated != 1 {
		t.Errorf("%d authorizations were deactivated, want 1", deactivated)
	}
	// By hand, too.
	o = w.order(OrderRequest{Identifiers: []string{"y.example.test"}})
	if err := w.client.Deactivate(t.Context(), w.acct, o.Authorizations[0]); err != nil {
		t.Error(err)
	}
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); failure(t, err).Detail != "the authorization is deactivated" {
		t.Errorf("got %v", err)
	}
}

// single presents one by one.
type single struct{ way }

func (single) oneByOne() bool { return true }

// TestSolveLocal: what fails on our side costs no validation, and the order lives.
func TestSolveLocal(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(w.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	broken := &zone{dns: w.DNS, err: errors.New("the API says no")}
	tests := map[string]struct {
		solver Solver
		want   string
	}{
		"port":     {w.http(), "held by legoclient.test"},
		"provider": {solver(t, Challenge{Type: DNS01, DNS: broken, Resolvers: []string{w.DNS.Addr}}), "the API says no"},
		"webroot":  {solver(t, Challenge{Type: HTTP01, Webroot: t.TempDir() + "/none"}), "no such file"},
	}
	for name, tt := range tests {
		o := w.order(OrderRequest{Identifiers: []string{"a.example.test", "b.example.test"}})
		err := w.client.Solve(t.Context(), w.acct, o, tt.solver)
		if e := failure(t, err); e.Kind != Local || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := w.client.Order(t.Context(), w.acct, o.URL); err != nil || got.Status != "pending" {
			t.Errorf("%s: the order: %+v, %v", name, got, err)
		}
	}
	if n := w.Count(acmetest.Challenge); n != 0 {
		t.Errorf("%d validations were asked for", n)
	}
	// A provider that failed half-way is asked to clean up.
	if !slices.Contains(broken.calls, "cleanup _acme-challenge.a.example.test.") {
		t.Errorf("got %q", broken.calls)
	}
}

// TestSolveAsked: a challenge that an earlier process has started is not started
// again, but answered and awaited.
func TestSolveAsked(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	answer := make(chan []byte, 1)
	w.Fault(acmetest.Fault{Kind: acmetest.Authz, Count: 1, Edit: func(b []byte) []byte {
		answer <- b
		return []byte(processing.ReplaceAllString(string(b), `$1"status": "processing"`))
	}})
	// Nothing was really started, so the verdict is put into the CA's mouth.
	w.Fault(acmetest.Fault{Kind: acmetest.Authz, Skip: 1, Edit: func(b []byte) []byte {
		return []byte(strings.ReplaceAll(string(b), `"pending"`, `"valid"`))
	}})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Errorf("%v, with %s", err, <-answer)
	}
	if n := w.Count(acmetest.Challenge); n != 0 {
		t.Errorf("started again: %d", n)
	}
}

var (
	tokenField = regexp.MustCompile(`"token": "[^"]*"`)
	// The status of a challenge, which is further in than the authorization's.
	processing = regexp.MustCompile(`(\n {9})"status": "pending"`)
)

// TestSolveBears: answers that fail in passing do not end an order, and no
// challenge is started twice.
func TestSolveBears(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	w.Fault(acmetest.Fault{Kind: acmetest.Authz, Count: 2, Status: 503})
	w.Fault(acmetest.Fault{Kind: acmetest.Challenge, Count: 1, Status: 503})
	w.Fault(acmetest.Fault{Kind: acmetest.Challenge, Count: 1, Lost: true})
	w.Fault(acmetest.Fault{Kind: acmetest.Challenge, Status: 403, Problem: "malformed"})
	if err := w.client.Solve(t.Context(), w.acct, o, w.http()); err != nil {
		t.Error(err)
	}
	if n := w.Count(acmetest.Challenge); n != 2 {
		t.Errorf("%d requests to start the validation, want 2", n)
	}
	// A refusal is none of those.
	o = w.order(OrderRequest{Identifiers: []string{"smtp.example.test"}})
	before := w.Count(acmetest.Challenge)
	err := w.client.Solve(t.Context(), w.acct, o, w.http())
	if e := failure(t, err); e.Type != "malformed" || e.Identifier != "smtp.example.test" {
		t.Errorf("got %+v", e)
	}
	if n := w.Count(acmetest.Challenge) - before; n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestSolveNothing(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{AuthzReuse: 100})
	names := []string{"mail.example.test"}
	w.issue(w.http(), OrderRequest{Identifiers: names})
	before := w.Count(acmetest.Challenge)
	// All is valid still; the port is not even opened.
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(w.HTTPPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.issue(w.http(), OrderRequest{Identifiers: names})
	if n := w.Count(acmetest.Challenge) - before; n != 0 {
		t.Errorf("%d challenges", n)
	}
}

// TestSolveWildcard: what a challenge cannot validate is told before anything is
// put up.
func TestSolveWildcard(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	o := w.order(OrderRequest{Identifiers: []string{"*.example.test", "example.test"}})
	err := w.client.Solve(t.Context(), w.acct, o, w.http())
	if e := failure(t, err); e.Kind != Local || e.Identifier != "*.example.test" || !strings.Contains(e.Detail, "dns-01") {
		t.Errorf("got %+v", e)
	}
	if n := w.Count(acmetest.Challenge); n != 0 {
		t.Errorf("%d challenges", n)
	}
}

func TestSolveAddress(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, s := range []Solver{w.http(), w.alpn()} {
		chain := w.issue(s, OrderRequest{Identifiers: []string{"127.0.0.1"}, Profile: "shortlived"})
		if ips := chain.Certificates[0].IPAddresses; len(ips) != 1 || !ips[0].Equal(net.IPv4(127, 0, 0, 1)) {
			t.Errorf("got %v", ips)
		}
	}
}

// TestSolveManyNames: 40 names at once, each answered by the one server.
func TestSolveManyNames(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{NonceReject: 20})
	var names []string
	for i := range 40 {
		names = append(names, "n"+strconv.Itoa(i)+".example.test")
	}
	began := time.Now()
	w.verified(w.issue(w.http(), OrderRequest{Identifiers: names}), names...)
	t.Logf("40 names in %s, %d requests", time.Since(began).Round(time.Millisecond), len(w.Requests()))
}

// TestSolveTokens: a token that is a path or the like is never used.
func TestSolveTokens(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, token := range []string{"../../../etc/cron.d/x", "", "short", strings.Repeat("a", 300), "abcdefghijklmnop\\n", "abcdefghijklmnopq/"} {
		o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
		remove := w.Fault(acmetest.Fault{Kind: acmetest.Authz, Edit: func(b []byte) []byte {
			return tokenField.ReplaceAll(b, []byte(`"token": "`+token+`"`))
		}})
		err := w.client.Solve(t.Context(), w.acct, o, solver(t, Challenge{Type: HTTP01, Webroot: t.TempDir()}))
		if failure(t, err).Kind != Protocol {
			t.Errorf("%q: %v", token, err)
		}
		remove()
	}
}
