package legoclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// ours are the stacks of goroutines that run code of this package, but tests.
func ours() []string {
	buf := make([]byte, 4<<20)
	var found []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for line := range strings.SplitSeq(stack, "\n") {
			if strings.Contains(line, "/acme/internal/legoclient/") && !strings.Contains(line, "_test.go") {
				found = append(found, stack)
				break
			}
		}
	}
	return found
}

// mustEnd fails if a goroutine of ours is left after a second.
func mustEnd(t *testing.T) {
	t.Helper()
	var left []string
	for range 100 {
		if left = ours(); len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left:\n%s", len(left), left[0])
}

// cancelAt begins an issuance with the given solver, and ends its context when the
// n-th request is under way, which the CA then never answers. It returns false if
// there is no n-th request.
func (w *world) cancelAt(n int, s Solver) bool {
	w.t.Helper()
	before := len(w.Requests())
	defer w.Fault(acmetest.Fault{Skip: n - 1, Count: 1, Delay: time.Minute})()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := issue(ctx, w.t, w.client, w.acct, s, OrderRequest{Identifiers: []string{"mail.example.test", "smtp.example.test"}})
		result <- err
	}()
	for len(w.Requests())-before < n {
		select {
		case err := <-result:
			if err != nil {
				w.t.Errorf("%d: %v", n, err)
			}
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	cancel()
	select {
	case err := <-result:
		if failure(w.t, err).Kind != Canceled {
			w.t.Errorf("%d: got %v", n, err)
		}
		if took := time.Since(began); took > time.Second {
			w.t.Errorf("%d: returned after %s", n, took)
		}
	case <-time.After(5 * time.Second):
		w.t.Fatalf("%d: not back after 5 s", n)
	}
	return true
}

// TestCancelHTTP: whichever request is under way when the context ends, the call
// is back within a second, and nothing of it is left.
func TestCancelHTTP(t *testing.T) {
	w := start(t, acmetest.Options{})
	n := 1
	for w.cancelAt(n, w.http()) {
		mustBeFree(t, w.HTTPPort)
		mustEnd(t)
		n++
	}
	if n < 10 {
		t.Errorf("only %d requests", n)
	}
	t.Logf("%d requests", n-1)
}

func TestCancelALPN(t *testing.T) {
	w := start(t, acmetest.Options{})
	n := 5
	for ; n < 11 && w.cancelAt(n, w.alpn()); n++ {
		mustBeFree(t, w.TLSPort)
		mustEnd(t)
	}
}

func TestCancelDNS(t *testing.T) {
	w := start(t, acmetest.Options{})
	s := solver(t, Challenge{Type: DNS01, DNS: &zone{dns: w.DNS}, Resolvers: []string{w.DNS.Addr}})
	n := 4 // before, it is as for http-01
	for w.cancelAt(n, s) {
		if left := w.DNS.TXT(); len(left) > 0 {
			t.Errorf("%d: left over: %v", n, left)
		}
		mustEnd(t)
		n++
	}
	if n < 10 {
		t.Errorf("only %d requests", n)
	}
}

// TestCancelElsewhere: the context ends where no request of the CA is under way.
func TestCancelElsewhere(t *testing.T) {
	t.Run("between polls", func(t *testing.T) {
		w := start(t, acmetest.Options{})
		w.Fault(acmetest.Fault{Kind: acmetest.Authz, Header: http.Header{"Retry-After": {"20"}}, Edit: func(b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), `"valid"`, `"pending"`))
		}})
		w.canceled(t, w.http(), 1500*time.Millisecond)
		mustBeFree(t, w.HTTPPort)
	})
	t.Run("while a record spreads", func(t *testing.T) {
		w := start(t, acmetest.Options{})
		w.DNS.SetLag(time.Hour)
		w.canceled(t, solver(t, Challenge{Type: DNS01, DNS: &zone{dns: w.DNS, timeout: time.Minute}, Resolvers: []string{w.DNS.Addr}}), time.Second)
		if left := w.DNS.TXT(); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
	t.Run("while a resolver is silent", func(t *testing.T) {
		w := start(t, acmetest.Options{})
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		w.canceled(t, solver(t, Challenge{Type: DNS01, DNS: &zone{dns: w.DNS}, Resolvers: []string{p.LocalAddr().String()}}), 500*time.Millisecond)
	})
	t.Run("in a provider that knows no context", func(t *testing.T) {
		w := start(t, acmetest.Options{})
		z := &zone{dns: w.DNS, hang: true}
		s := solver(t, Challenge{Type: DNS01, DNS: z, Resolvers: []string{w.DNS.Addr}})
		w.canceled(t, s, 500*time.Millisecond)
		if left := w.DNS.TXT(); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
	t.Run("before anything", func(t *testing.T) {
		w := start(t, acmetest.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := len(w.Requests())
		if _, err := w.client.Directory(ctx); failure(t, err).Kind != Canceled {
			t.Errorf("got %v", err)
		}
		if len(w.Requests()) != before {
			t.Error("a request was made")
		}
	})
}

// canceled ends the context of a Solve after some time.
func (w *world) canceled(t *testing.T, s Solver, after time.Duration) {
	t.Helper()
	o := w.order(OrderRequest{Identifiers: []string{"mail.example.test"}})
	cause := fmt.Errorf("the operator wants to go home")
	ctx, cancel := context.WithCancelCause(t.Context())
	var began time.Time
	time.AfterFunc(after, func() {
		began = time.Now()
		cancel(cause)
	})
	err := w.client.Solve(ctx, w.acct, o, s)
	if e := failure(t, err); e.Kind != Canceled || e.Err != cause {
		t.Errorf("got %+v", e)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("returned after %s", took)
	}
	// The order can be taken up again.
	if got, err := w.client.Order(t.Context(), w.acct, o.URL); err != nil || got.Status != "pending" && got.Status != "ready" {
		t.Errorf("got %+v, %v", got, err)
	}
}
