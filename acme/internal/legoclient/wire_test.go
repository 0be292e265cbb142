package legoclient

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// strange is a client with a clock of its own, which counts its connections.
func (w *world) strange() (c *Client, clock *atomic.Int64, dials *atomic.Int64) {
	w.t.Helper()
	clock, dials = new(atomic.Int64), new(atomic.Int64)
	c, err := New(Config{Directory: w.URL, Roots: w.Roots, Timeout: 5 * time.Second, Now: func() time.Time {
		return time.Now().Add(time.Duration(clock.Load()))
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	dial := c.wire.base.DialContext
	c.wire.base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, address)
	}
	return c, clock, dials
}

// An order asks for the directory and for a nonce once each, on one connection.
func TestShared(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	c, _, dials := w.strange()
	before, dirs, nonces := len(w.Requests()), w.Count(acmetest.Directory), w.Count(acmetest.NewNonce)
	for range 3 {
		chain, err := issue(t.Context(), t, c, w.acct, w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}})
		if err != nil {
			t.Fatal(err)
		}
		w.verified(chain, "mail.example.test")
	}
	if n := w.Count(acmetest.Directory) - dirs; n != 1 {
		t.Errorf("%d requests for the directory, want 1", n)
	}
	if n := w.Count(acmetest.NewNonce) - nonces; n != 1 {
		t.Errorf("%d requests for a nonce, want 1", n)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	// Of several names at once as well.
	names := []string{"a.example.test", "b.example.test", "c.example.test", "d.example.test", "e.example.test", "f.example.test"}
	for range 2 {
		chain, err := issue(t.Context(), t, c, w.acct, w.http(), OrderRequest{Identifiers: names})
		if err != nil {
			t.Fatal(err)
		}
		w.verified(chain, names...)
	}
	for _, r := range w.Requests()[before:] {
		if r.Status >= 400 { // such as a nonce that was spent twice
			t.Errorf("%s was answered with %d", r.Kind, r.Status)
		}
	}
	t.Logf("%d requests for 5 orders, %d of them for nonces", len(w.Requests())-before, w.Count(acmetest.NewNonce)-nonces)
}

// What is shared is shared for minutes: a clock that goes on, or back, makes it old.
func TestSharedAge(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	c, clock, _ := w.strange()
	look := func(to time.Duration, dirs, nonces int) {
		t.Helper()
		clock.Store(int64(to))
		d, n := w.Count(acmetest.Directory), w.Count(acmetest.NewNonce)
		if _, err := c.Lookup(t.Context(), w.acct.Key); err != nil {
			t.Fatal(err)
		}
		if d, n = w.Count(acmetest.Directory)-d, w.Count(acmetest.NewNonce)-n; d != dirs || n != nonces {
			t.Errorf("at %s: the directory was asked for %d times, want %d; a nonce %d times, want %d", to, d, dirs, n, nonces)
		}
	}
	look(0, 1, 1)
	look(0, 0, 0)
	look(directoryAge-time.Minute, 0, 0)
	look(directoryAge, 1, 0) // the last nonce is a minute old
	look(2*directoryAge, 1, 1)
	look(-time.Hour, 1, 1)
	look(-time.Hour, 0, 0)
	look(400*24*time.Hour, 1, 1)
}

// Nonces stay with the account in whose answers they came.
func TestSharedAccounts(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	c, _, dials := w.strange()
	other := newKey(t)
	if _, err := c.Register(t.Context(), other, Registration{AgreeTerms: true}); err != nil {
		t.Fatal(err)
	}
	for i, key := range []Account{w.acct, {Key: other}, w.acct} {
		before := w.Count(acmetest.NewNonce)
		if _, err := c.Lookup(t.Context(), key.Key); err != nil {
			t.Fatal(err)
		}
		if n := w.Count(acmetest.NewNonce) - before; n != []int{1, 0, 0}[i] {
			t.Errorf("%d: %d requests for a nonce", i, n)
		}
	}
	if purse(w.acct.Key) == purse(other) || purse(nil) != "" {
		t.Error("two accounts have one purse")
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	for name, have := range c.wire.purses {
		for _, o := range have {
			for other, theirs := range c.wire.purses {
				for _, p := range theirs {
					if name != other && o.value == p.value {
						t.Error("a nonce is in two purses")
					}
				}
			}
		}
	}
}

// A CA that fails to answer is asked for everything anew, also for a connection.
func TestSharedForgets(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, f := range []acmetest.Fault{
		{Kind: acmetest.NewAccount, Status: http.StatusServiceUnavailable, Body: "<html>", Count: 1},
		{Kind: acmetest.NewAccount, Lost: true, Count: 1},
		{Kind: acmetest.NewAccount, Truncate: 1, Count: 1},
		{Kind: acmetest.NewAccount, Status: 500, Problem: "serverInternal", Count: 1},
		{Kind: acmetest.NewAccount, Status: 500, Problem: "serverInternal", Count: 1, Header: http.Header{nonceHeader: {"\x00"}}},
	} {
		c, _, dials := w.strange()
		if _, err := c.Lookup(t.Context(), w.acct.Key); err != nil {
			t.Fatal(err)
		}
		remove := w.Fault(f)
		if _, err := c.Lookup(t.Context(), w.acct.Key); err == nil {
			t.Errorf("%+v: no failure", f)
		}
		remove()
		dirs, conns := w.Count(acmetest.Directory), dials.Load()
		if _, err := c.Lookup(t.Context(), w.acct.Key); err != nil {
			t.Error(err)
		}
		if w.Count(acmetest.Directory) != dirs+1 || dials.Load() != conns+1 {
			t.Errorf("%+v: %d requests for the directory, %d connections", f, w.Count(acmetest.Directory)-dirs, dials.Load()-conns)
		}
	}
}

// The CA's refusal of a nonce empties the purse: it would refuse those of the same
// age as well. That costs a request each otherwise.
func TestSharedBadNonce(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	c, _, _ := w.strange()
	if _, err := c.Lookup(t.Context(), w.acct.Key); err != nil {
		t.Fatal(err)
	}
	name := purse(w.acct.Key)
	for range maxPurse + 5 {
		c.wire.earn(http.Header{nonceHeader: {"forgotten"}}, name)
	}
	if n := len(c.wire.purses[name]); n != maxPurse {
		t.Errorf("%d nonces are kept, want %d", n, maxPurse)
	}
	before := len(w.Requests())
	if _, err := c.Lookup(t.Context(), w.acct.Key); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Requests()) - before; n != 2 {
		t.Errorf("%d requests, want 2: with the nonce that is refused, and with the one of the refusal", n)
	}
	if n := len(c.wire.purses[name]); n != 1 {
		t.Errorf("%d nonces are left, want the one of the last answer", n)
	}
	// The newest first, and nothing that is no nonce.
	for _, value := range []string{"older", "newer", "", "no nonce", "no\x00ne", "=", strings.Repeat("a", 600)} {
		c.wire.earn(http.Header{nonceHeader: {value}}, name)
	}
	if got := c.wire.spend(nil, name); got == nil || got.Header.Get(nonceHeader) != "newer" {
		t.Errorf("spent is %v", got)
	}
}

// A server that hangs up between two operations does no harm, be it for a
// request that may not be repeated.
func TestSharedHangUp(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	c, _, dials := w.strange()
	var last atomic.Pointer[net.Conn]
	dial := c.wire.base.DialContext
	c.wire.base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		last.Store(&conn)
		return conn, err
	}
	for i := range 3 {
		if _, err := c.NewOrder(t.Context(), w.acct, OrderRequest{Identifiers: []string{"mail.example.test"}, Profile: "tlsserver"}); err != nil {
			t.Fatal(err)
		}
		if n := dials.Load(); n != int64(i+1) {
			t.Errorf("%d connections, want %d", n, i+1)
		}
		if conn, ok := (*last.Load()).(*net.TCPConn); ok {
			_ = conn.CloseRead() // what our side sees of a server that hangs up
		}
		time.Sleep(50 * time.Millisecond)
	}
}
