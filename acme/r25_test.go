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
// no order is lost.
func TestProofR25(t *testing.T) {
	w := newWorld(t, acmetest.Options{NonceReject: 50, AuthzReuse: 70, AlternateRoots: 2, ChainLength: 3})
	w.register(t)
	w.Log = nil
	// The clock is moved over each back-off and each week, so that the schedule is
	// the real one. The CA's Date then differs: that is not what is looked at.
	var ahead time.Duration
	w.Now = func() time.Time { return time.Now().Add(ahead) }
	w.Timeout = 2 * time.Second
	dial := func(c legoclient.Config) (ca, error) {
		real, err := legoclient.New(c)
		return unskewed{real}, err
	}
	w.dial = dial
	list := faults()
	const issuances = 200
	attempts, failures, most := 0, 0, 0
	serials := map[string]bool{}
	for i := range issuances {
		w.spec.Name = fmt.Sprintf("host%d", i%20)
		w.spec.Identifiers = []string{fmt.Sprintf("host%d.example.test", i%20)}
		w.spec.KeyPolicy = []KeyPolicy{KeyReuse, KeyStaged}[i%2]
		if i%20 == 0 {
			ahead += 8 * day // a week's orders are forgotten
		}
		remove := w.ca.Fault(list[i%len(list)])
		if list[i%len(list)].Kind == "" {
			remove()
			remove = func() {}
		}
		for try := 0; ; try++ {
			before := len(w.ca.Requests())
			r, err := w.Obtain(t.Context(), w.spec, Options{Force: true})
			attempts++
			most = max(most, len(w.ca.Requests())-before)
			if err == nil {
				right(t, w, r, serials)
				break
			}
			var e *Error
			if !errors.As(err, &e) || e.Next.IsZero() || try > 6 {
				t.Fatalf("issuance %d, attempt %d: %v", i, try, err)
			}
			failures++
			ahead += max(0, e.Next.Sub(w.Now())) + time.Second
		}
		remove()
	}
	t.Logf("%d issuances in %d attempts with %d failures; at most %d requests in one; %d requests",
		issuances, attempts, failures, most, len(w.ca.Requests()))
	if len(serials) != issuances {
		t.Errorf("%d certificates were stored for %d issuances", len(serials), issuances)
	}
	// Of 20 faults four leave an order that nobody can go on with: its URL was never
	// heard of (two), or the CA calls it invalid, or refuses its request.
	made := 0
	for _, r := range w.ca.Requests() {
		if r.Kind == acmetest.NewOrder && r.Status == http.StatusCreated {
			made++
		}
	}
	if made > issuances+issuances/len(list)*4 {
		t.Errorf("%d orders were made for %d issuances: some were lost", made, issuances)
	}
	// With half of the nonces refused each signed request is made twice on average.
	if most > 150 {
		t.Errorf("%d requests in one attempt is a loop", most)
	}
	for _, name := range []string{"host0", "host19"} {
		st, err := w.State(name)
		if err != nil || st.Pending != nil {
			t.Errorf("%s: %v, pending %+v", name, err, st.Pending)
		}
		opensslReads(t, st.Current)
	}
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

// unskewed is a CA whose Date is taken for ours.
type unskewed struct{ *legoclient.Client }

func (u unskewed) Directory(ctx context.Context) (legoclient.Directory, error) {
	d, err := u.Client.Directory(ctx)
	d.Skew = 0
	return d, err
}
