package acme

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/acme/internal/legoclient"
)

// faults are what R25 has the CA do, each for a while.
func faults() []acmetest.Fault {
	html := http.Header{"Content-Type": {"text/html"}}
	return []acmetest.Fault{
		{},
		{Kind: acmetest.NewOrder, Status: 503, Header: html, Body: "<html>busy</html>", Count: 1},
		{Kind: acmetest.NewOrder, Problem: "rateLimited", Status: 429, Header: http.Header{"Retry-After": {"1"}}, Count: 1},
		{Kind: acmetest.Directory, Status: 500, Count: 1},
		{Kind: acmetest.Finalize, Problem: "serverInternal", Status: 500, Count: 1},
		{Kind: acmetest.NewOrder, Lost: true, Count: 1},
		{Kind: acmetest.Finalize, Lost: true, Count: 1},
		{Kind: acmetest.Certificate, Truncate: 200, Count: 1},
		{Kind: acmetest.Certificate, Giant: 1 << 30, Count: 1},
		{Kind: acmetest.Order, Giant: 1 << 30, Count: 1},
		{Kind: acmetest.Authz, Slow: 2 * time.Millisecond, Count: 1},
		{Kind: acmetest.Order, Edit: func([]byte) []byte { return []byte(`{"status":"invalid","identifiers":[]}`) }, Count: 1, Skip: 1},
		{Kind: acmetest.Authz, Status: 503, Header: html, Body: "<html>", Count: 2},
		{Kind: acmetest.NewNonce, Status: 500, Count: 1},
		{Kind: acmetest.NewOrder, Truncate: 40, Count: 1},
		{Kind: acmetest.RenewalInfo, Status: 500, Problem: "serverInternal"},
		{Kind: acmetest.RenewalInfo, Status: 200, Body: "null"},
		{Kind: acmetest.Certificate, Status: 404, Problem: "malformed", Count: 1},
		{Kind: acmetest.Finalize, Problem: "badCSR", Status: 400, Count: 1},
		{Kind: acmetest.Challenge, Status: 500, Count: 1},
	}
}

// R25: 200 issuances while half of the nonces are refused and something else goes
// wrong at each: no wrong certificate is installed, nothing is asked in a loop,
// no order is lost. Most are by a CA that uses every valid authorization again, the
// rest by one that uses none, sleeps before it validates, and now and then sends a
// byte at a time.
func TestProofR25(t *testing.T) {
	ca := acmetest.Options{NonceReject: 50, AuthzReuse: 100, AlternateRoots: 2, ChainLength: 3}
	t.Run("reuse", func(t *testing.T) { weather(t, ca, faults(), 178, 10*time.Second) })
	ca.AuthzReuse, ca.Sleep = 0, 2
	slow := acmetest.Fault{Kind: acmetest.Order, Slow: 100 * time.Millisecond, Count: 1}
	slower := acmetest.Fault{Kind: acmetest.Directory, Slow: 100 * time.Millisecond, Count: 1}
	t.Run("no reuse", func(t *testing.T) { weather(t, ca, append(faults(), slow, slower), 22, 4*time.Second) })
}

// weather is so many issuances from such a CA, with one fault after the other, each
// host three times.
func weather(t *testing.T, o acmetest.Options, list []acmetest.Fault, issuances int, timeout time.Duration) {
	w := newWorld(t, o)
	w.register(t)
	w.Log = nil
	s := &storm{world: w, serials: map[string]bool{}}
	w.Now = func() time.Time { return time.Now().Add(s.ahead) }
	w.Timeout = timeout
	var one *legoclient.Client // for all, as a Manager has it
	w.dial = func(c legoclient.Config) (_ ca, err error) {
		if one == nil {
			one, err = legoclient.New(c)
		}
		return unskewed{one}, err
	}
	hosts := (issuances + 2) / 3 // so that each has other faults each time
	for i := range issuances {
		w.spec.Name = fmt.Sprintf("host%d", i%hosts)
		w.spec.Identifiers = []string{fmt.Sprintf("host%d.example.test", i%hosts)}
		w.spec.KeyPolicy = []KeyPolicy{KeyReuse, KeyStaged}[i%2]
		s.issue(t, i, list[i%len(list)])
	}
	t.Logf("R25: %d issuances in %d attempts with %d failures; at most %d requests in one; %d requests",
		issuances, s.attempts, s.failures, s.most, len(w.ca.Requests()))
	if len(s.serials) != issuances {
		t.Errorf("%d certificates were stored for %d issuances", len(s.serials), issuances)
	}
	// With half of the nonces refused each signed request is made twice on average.
	if s.most > 75 {
		t.Errorf("%d requests in one attempt is a loop", s.most)
	}
	for _, name := range []string{"host0", "host7"} {
		st, err := w.State(name)
		if err != nil || st.Pending != nil {
			t.Errorf("%s: %v, pending %+v", name, err, st.Pending)
		}
		opensslReads(t, st.Current)
	}
}

// storm is what was seen in R25.
type storm struct {
	*world
	// ahead is how far the clock was moved, over each back-off, so that the
	// schedule is the real one. The CA's Date then differs, which is not looked at.
	ahead                            time.Duration
	attempts, failures, most, orders int
	serials                          map[string]bool
}

// issue obtains one certificate under a fault, in as many attempts as that takes.
func (s *storm) issue(t *testing.T, i int, f acmetest.Fault) {
	t.Helper()
	remove := s.ca.Fault(f)
	if f.Kind == "" {
		remove()
	}
	for try := 0; ; try++ {
		before := len(s.ca.Requests())
		r, err := s.Obtain(t.Context(), s.spec, Options{Force: true})
		s.attempts++
		s.most = max(s.most, len(s.ca.Requests())-before)
		if err == nil {
			right(t, s.world, r, s.serials)
			break
		}
		var e *Error
		if !errors.As(err, &e) || e.Next.IsZero() || try > 9 {
			t.Fatalf("issuance %d, attempt %d: %v", i, try, err)
		}
		s.failures++
		if try > 1 {
			t.Logf("issuance %d, attempt %d: %v", i, try, err)
		}
		s.ahead += max(0, e.Next.Sub(s.Now())) + time.Second
	}
	if f.Kind != "" {
		remove()
	}
	// An order is lost only where nobody can go on with it: its URL was never
	// heard of, or the CA calls it invalid, or refuses its request.
	now := created(s.world)
	if made := now - s.orders; made > 1 && !f.Lost && f.Truncate == 0 && f.Edit == nil && f.Problem != "badCSR" {
		t.Errorf("issuance %d: %d orders were made under the fault %+v", i, made, f)
	}
	s.orders = now
}

// created is the number of orders that the CA has made and told us of.
func created(w *world) int {
	n := 0
	for _, r := range w.ca.Requests() {
		if r.Kind == acmetest.NewOrder && r.Status == http.StatusCreated {
			n++
		}
	}
	return n
}

// right: what is live is what the CA issued for this name, newly.
func right(t *testing.T, w *world, r Result, serials map[string]bool) {
	t.Helper()
	leaf, err := w.Leaf(w.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != w.spec.Identifiers[0] || serials[r.Version.Serial] {
		t.Fatalf("wrong install: %v, serial %s", leaf.DNSNames, r.Version.Serial)
	}
	serials[r.Version.Serial] = true
	key, err := w.Store.readKey(r.Key)
	if err != nil || spki(key.Public()) != spki(leaf.PublicKey) {
		t.Fatalf("wrong key: %v", err)
	}
	if _, err := os.Stat(r.FullChain); err != nil {
		t.Fatal(err)
	}
}

// unskewed is a CA whose Date is taken for ours, and whose orders do not expire
// because our clock is ahead.
type unskewed struct{ *legoclient.Client }

func (u unskewed) Directory(ctx context.Context) (legoclient.Directory, error) {
	d, err := u.Client.Directory(ctx)
	d.Skew = 0
	return d, err
}

func (u unskewed) NewOrder(ctx context.Context, a legoclient.Account, r legoclient.OrderRequest) (legoclient.Order, error) {
	o, err := u.Client.NewOrder(ctx, a, r)
	o.Expires = time.Time{}
	return o, err
}
