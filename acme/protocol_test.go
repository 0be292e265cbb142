package acme

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/atomicfile/crashfs"
	"postcert/verify/problem"
)

func ready(t *testing.T, life time.Duration) *bench {
	t.Helper()
	b := newBench(t, life)
	if err := b.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// What the CA delivers is not what was asked for: it is put aside with its
// reason and never live, and the old one stays.
func TestQuarantine(t *testing.T) {
	other, err := newKey(EC256)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*script)
		words string
	}{
		"more names":      {func(s *script) { s.edit = func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "x.example") } }, "x.example"},
		"other names":     {func(s *script) { s.edit = func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} } }, "x.example"},
		"no names":        {func(s *script) { s.edit = func(c *x509.Certificate) { c.DNSNames = nil } }, "asked for"},
		"an address more": {func(s *script) { s.edit = func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} } }, "asked for"},
		"another key":     {func(s *script) { s.other = other.Public() }, "key"},
		"a client's": {func(s *script) {
			s.edit = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
		}, "servers"},
		"a CA": {func(s *script) {
			s.edit = func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }
		}, "CA"},
		"the future":       {func(s *script) { s.edit = func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(5 * time.Hour) } }, "valid from"},
		"the past":         {func(s *script) { s.edit = func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(30 * time.Minute) } }, "expired"},
		"seconds":          {func(s *script) { s.edit = func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Second) } }, "can't be meant"},
		"a hundred years":  {func(s *script) { s.edit = func(c *x509.Certificate) { c.NotAfter = c.NotBefore.AddDate(90, 0, 0) } }, "can't be meant"},
		"not short-lived":  {func(s *script) { s.edit = func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(90 * day) } }, "short"},
		"no issuer behind": {nil, "chain"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ready(t, 6*day)
				b.spec.Profile = "shortlived"
				first := b.must(t, Options{})
				if c.spoil != nil {
					c.spoil(b.ca)
				} else {
					b.dial = func(legoclient.Config) (ca, error) { return wrongIssuer{skewed{b.ca, b}}, nil }
				}
				for i := range 5 {
					e := b.mustFail(t, Options{Force: true}, map[bool]Class{true: ClassBadCert, false: ClassRefused}[i < 4])
					if i < 4 && (!e.Problems.Has("certificate_refused") || !strings.Contains(e.Error(), c.words)) {
						t.Errorf("got %v, want %q", e, c.words)
					}
				}
				st, err := b.State(b.spec.Name)
				if err != nil || st.Current.SHA256 != first.Version.SHA256 || st.Pending != nil || st.Failures != 4 {
					t.Fatalf("state %+v, %v", st, err)
				}
				have, err := b.Store.quarantines(b.spec.Name)
				if err != nil || !slices.Equal(have, []int{2, 3, 4}) {
					t.Errorf("quarantines %v %v, want the last three", have, err)
				}
				tree := fmt.Sprint(b.fs.Tree(memory + "/certs/mail/quarantine-4"))
				if !strings.Contains(tree, fileReason) || !strings.Contains(tree, FileFullChain) {
					t.Errorf("the quarantine holds %s", tree)
				}
			})
		})
	}
}

// wrongIssuer delivers the leaf with a chain that did not issue it.
type wrongIssuer struct{ skewed }

func (w wrongIssuer) Download(ctx context.Context, a legoclient.Account, url, p string) (legoclient.Chain, error) {
	c, err := w.skewed.Download(ctx, a, url, p)
	if len(c.Certificates) > 1 {
		other := newScript(time.Now, day)
		key, _ := newKey(EC256)
		der, _ := request(key, []string{"x.example"})
		csr, _ := x509.ParseCertificateRequest(der)
		c.Certificates = []*x509.Certificate{c.Certificates[0], other.issue(csr)[0]}
	}
	return c, err
}

// Each failure of the CA: its class, what is kept of the order, how many orders
// are made when it is over.
func TestFailures(t *testing.T) {
	limited := &legoclient.Error{Kind: legoclient.RateLimited, Type: "rateLimited", Status: 429, RetryAfter: 3 * time.Hour}
	for _, c := range []struct {
		name   string
		at     string // step at which err happens, once
		err    error
		class  Class
		orders int // made when it has succeeded afterwards
		wait   time.Duration
	}{
		{"directory down", "Directory", errDown, ClassNetwork, 1, time.Minute},
		{"new order: 500", "NewOrder", refusal("serverInternal", 500), ClassNetwork, 1, time.Minute},
		{"new order: answer lost", "NewOrder done", errDown, ClassNetwork, 2, time.Minute},
		{"new order: 429", "NewOrder", limited, ClassRateLimited, 1, 3 * time.Hour},
		{"new order: paused", "NewOrder", &legoclient.Error{Kind: legoclient.RateLimited, Type: "rateLimited", Status: 429, Detail: "visit https://x.example/unpause"}, ClassPaused, 1, day},
		{"new order: refused", "NewOrder", refusal("rejectedIdentifier", 400), ClassRequest, 1, day},
		{"new order: new terms", "NewOrder", refusal("userActionRequired", 403), ClassAccount, 1, day},
		{"solve: port busy", "Solve", &legoclient.Error{Kind: legoclient.Local, Identifier: "mail.example.com"}, ClassLocal, 1, 2 * time.Minute},
		{"solve: network", "Solve", errDown, ClassNetwork, 1, time.Minute},
		{"solve: answer lost", "Solve done", errDown, ClassNetwork, 1, time.Minute},
		{"finalize: network", "Finalize", errDown, ClassNetwork, 1, time.Minute},
		{"finalize: answer lost", "Finalize done", errDown, ClassNetwork, 1, time.Minute},
		{"finalize: bad CSR", "Finalize", refusal("badCSR", 400), ClassRequest, 2, day},
		{"download: network", "Download", errDown, ClassNetwork, 1, time.Minute},
		{"download: 404", "Download", refusal("malformed", 404), ClassPending, 1, time.Minute},
		{"download: 429", "Download", limited, ClassRateLimited, 1, 3 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ready(t, 90*day)
				once := true
				b.ca.step = func(s string) error {
					if s == c.at && once {
						once = false
						return c.err
					}
					return nil
				}
				e := b.mustFail(t, Options{}, c.class)
				wait := time.Until(e.Next)
				if wait < c.wait || wait > c.wait+c.wait/20+time.Minute {
					t.Errorf("next attempt in %s, want %s", wait, c.wait)
				}
				// At once again, by a new process: nothing is asked.
				asked := len(b.ca.asked)
				b.boot(t)
				_, err := b.Obtain(t.Context(), b.spec, Options{})
				held := "order_backoff"
				if c.class == ClassRateLimited {
					held = "ca_rate_limited"
				} else if c.class == ClassPaused {
					held = "ca_paused"
				}
				if !problem.From(err).Has(held) || len(b.ca.asked) != asked {
					t.Errorf("got %v after %d requests, want none", err, len(b.ca.asked)-asked)
				}
				if c.class == ClassRateLimited || c.class == ClassPaused {
					if b.mustFail(t, Options{Force: true}, c.class); len(b.ca.asked) != asked {
						t.Error("Force passed over what the CA said")
					}
				}
				time.Sleep(time.Until(e.Next))
				r := b.must(t, Options{})
				if !r.Renewed || len(b.ca.made) != c.orders || b.ca.issued != 1 {
					t.Errorf("%d orders made, %d certificates issued; want %d, 1", len(b.ca.made), b.ca.issued, c.orders)
				}
			})
		})
	}
}

// S47: a daemon that is restarted all the time makes at most the allowed orders
// in a week, whatever fails, and asks nothing in between.
func TestS47RestartLoop(t *testing.T) {
	for name, spoil := range map[string]func(*script){
		"nothing fails":    func(*script) {},
		"validation fails": func(s *script) { s.refuse = []string{"mail.example.com"} },
		"bad certificate":  func(s *script) { s.edit = func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} } },
		"answers are lost": func(s *script) { s.step = lose("NewOrder done") },
		"finalize is lost": func(s *script) { s.step = lose("Finalize done") },
		"429 without a time": func(s *script) {
			s.order = func(legoclient.OrderRequest) error {
				return &legoclient.Error{Kind: legoclient.RateLimited, Status: 429}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ready(t, 90*day)
				spoil(b.ca)
				end := time.Now().Add(week)
				for time.Now().Before(end) {
					b.boot(t)
					_, err := b.Obtain(t.Context(), b.spec, Options{})
					st, serr := b.StateOf(b.spec)
					if serr != nil {
						t.Fatal(serr)
					}
					if d := Next(mustNormal(t, b.spec), st, st.Current, b.now()); d.Attempt.IsZero() || err != nil && !d.Attempt.After(time.Now()) {
						t.Fatalf("no next attempt is shown after %v: %+v", err, d)
					}
					time.Sleep(10 * time.Minute)
				}
				if n := len(b.ca.made); n > 5 {
					t.Errorf("%d orders in a week", n)
				}
				if n := len(b.ca.asked); n > 400 {
					t.Errorf("%d requests in a week", n)
				}
			})
		})
	}
}

func lose(step string) func(string) error {
	return func(s string) error {
		if s == step {
			return errDown
		}
		return nil
	}
}

func mustNormal(t *testing.T, s Spec) Spec {
	t.Helper()
	n, err := s.Normal()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Not even a person's Force validates a name four times within an hour.
func TestForceGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		b.spec.Identifiers = []string{"mail.example.com", "bad.example.com"}
		b.ca.refuse = []string{"bad.example.com"}
		for range maxFailures {
			e := b.mustFail(t, Options{Force: true}, ClassValidation)
			if !strings.Contains(e.Error(), "bad.example.com") || strings.Contains(e.Error(), "mail.example.com") {
				t.Errorf("the failing name is not the one that is told: %v", e)
			}
			time.Sleep(time.Minute)
		}
		if e := b.mustFail(t, Options{Force: true}, ClassRefused); !e.Problems.Has("order_guard") {
			t.Errorf("got %v, want the guard", e)
		}
		if n := b.ca.count("Solve"); n != 3 || len(b.ca.made) != 3 {
			t.Errorf("%d validations", n)
		}
		// Another certificate with that name is held as well.
		b.spec.Name, b.spec.Identifiers = "other", []string{"bad.example.com"}
		b.mustFail(t, Options{Force: true}, ClassRefused)
	})
}

// After a failed validation the trial directory is asked first; production is
// not asked until that succeeds.
func TestTrialFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		trial := newScript(b.ca.clock, 90*day)
		b.Staging = func(string) string { return "https://trial.example/dir" }
		dial := b.dial
		b.dial = func(c legoclient.Config) (ca, error) {
			if c.Directory == "https://trial.example/dir" {
				return trial, nil
			}
			return dial(c)
		}
		b.ca.refuse, trial.refuse = []string{"mail.example.com"}, []string{"mail.example.com"}
		e := b.mustFail(t, Options{}, ClassValidation)
		for range 6 {
			time.Sleep(time.Until(e.Next))
			e = b.mustFail(t, Options{}, ClassValidation)
		}
		if len(b.ca.made) != 1 || len(trial.made) != 6 {
			t.Errorf("%d orders and %d trials, want 1 and 6", len(b.ca.made), len(trial.made))
		}
		b.ca.refuse, trial.refuse = nil, nil
		time.Sleep(time.Until(e.Next))
		if r := b.must(t, Options{}); !r.Renewed || len(b.ca.made) != 2 {
			t.Errorf("%+v after %d orders", r, len(b.ca.made))
		}
	})
}

// Without Replaces once more, and never again for that certificate.
func TestReplaces(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		sent []bool
		ok   bool
	}{
		{"409", refusal("alreadyReplaced", 409), []bool{true, false, false}, true},
		{"unknown serial", refusal("malformed", 400), []bool{true, false, true}, true},
		{"gone", refusal("malformed", 404), []bool{true, false, true}, true},
		{"another account's", refusal("unauthorized", 403), []bool{true, false, true}, true},
		{"not found, in Pebble's words", refusal("serverInternal", 500), []bool{true, false, true}, true},
		{"a CA that is overloaded", refusal("serverInternal", 503), []bool{true, true}, false},
		{"a refusal that has nothing to do with it", refusal("rejectedIdentifier", 400), []bool{true, true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ready(t, 90*day)
				b.must(t, Options{})
				var sent []bool
				b.ca.order = func(r legoclient.OrderRequest) error {
					sent = append(sent, r.Replaces != "")
					if r.Replaces != "" && (len(sent) == 1 || !c.ok) {
						return c.err
					}
					return nil
				}
				b.ca.step = func(s string) error {
					if s == "Solve" && len(sent) == 2 {
						return errDown // so that the same certificate is replaced by another order
					}
					return nil
				}
				_, err := b.Obtain(t.Context(), b.spec, Options{Force: true})
				if err == nil {
					t.Fatal("no failure")
				}
				if c.ok {
					// Drop the order, so that a new one is made for the same certificate.
					if err := b.Store.removeDir(b.Store.cert("mail", dirPending)); err != nil {
						t.Fatal(err)
					}
				}
				_, err = b.Obtain(t.Context(), b.spec, Options{Force: true})
				if (err == nil) != c.ok || !slices.Equal(sent, c.sent) {
					t.Errorf("sent %v, want %v (%v)", sent, c.sent, err)
				}
			})
		})
	}
}

// S49: the CA says "now". The certificate is renewed in the same run, once, and
// when it says so of every new one, at most twice a day and five times a week.
func TestS49MassRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		b.must(t, Options{})
		time.Sleep(3 * day)
		bad := 1
		b.ca.window = func(leaf *x509.Certificate) (legoclient.RenewalInfo, error) {
			if b.ca.issued <= bad {
				return legoclient.RenewalInfo{Start: time.Now().Add(-time.Hour), End: time.Now().Add(-30 * time.Minute), Explanation: "https://ca.example/incident"}, nil
			}
			return legoclient.RenewalInfo{Start: leaf.NotAfter.Add(-31 * day), End: leaf.NotAfter.Add(-29 * day)}, nil
		}
		st, err := b.Refresh(t.Context(), b.spec)
		if err != nil || st.Explanation == "" {
			t.Fatalf("%+v %v", st, err)
		}
		r := b.must(t, Options{})
		if !r.Renewed || r.Reason != ReasonARI {
			t.Fatalf("not renewed: %+v", r)
		}
		for range 20 {
			if r := b.must(t, Options{}); r.Renewed {
				t.Fatal("an extra order afterwards")
			}
			time.Sleep(time.Hour)
		}
		bad = 1000 // every certificate from now on
		end := time.Now().Add(week)
		for time.Now().Before(end) {
			if _, err := b.Refresh(t.Context(), b.spec); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Obtain(t.Context(), b.spec, Options{}); err != nil && Classify(err) != ClassRefused {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		inWindow(t, b.ca.made, week, 5)
		inWindow(t, b.ca.made[1:], day, 2)
	})
}

// inWindow: never more than n times within a period.
func inWindow(t *testing.T, times []time.Time, period time.Duration, n int) {
	t.Helper()
	for i := range times {
		if i+n < len(times) && times[i+n].Sub(times[i]) < period {
			t.Errorf("%d orders within %s: %v", n+1, times[i+n].Sub(times[i]), times[i:i+n+1])
		}
	}
}

// An account that the CA has lost is registered again once, with the same key.
func TestAccountLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		first := b.must(t, Options{})
		before, _ := b.Account(t.Context(), AccountSpec{Directory: b.spec.Directory}, false)
		clear(b.ca.accounts)
		b.ca.accounts["x"], b.ca.accounts["y"] = "https://ca.example/acct/8", "https://ca.example/acct/9"
		r := b.must(t, Options{Force: true})
		after, err := b.Account(t.Context(), AccountSpec{Directory: b.spec.Directory}, true)
		if err != nil || after.URI == before.URI || after.Thumbprint != before.Thumbprint || after.Status != "valid" {
			t.Errorf("%+v became %+v (%v)", before, after, err)
		}
		if r.Version.AccountURI != after.URI || r.Version.SPKI != first.Version.SPKI {
			t.Errorf("%+v", r.Version)
		}
		clear(b.ca.accounts)
		if e := b.mustFail(t, Options{Force: true}, ClassAccount); !e.Problems.Has("account_lost") || b.ca.count("Register") != 2 {
			t.Errorf("registered a third time: %v", e)
		}
	})
}

// A certificate that is on disk and was not made live is found, even if the CA
// has forgotten its order.
func TestLanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		b.fs.Before = func(op crashfs.Op) error {
			if op.Name == "symlink" {
				return errKilled
			}
			return nil
		}
		e := b.mustFail(t, Options{}, ClassLocal)
		b.fs.Before = nil
		clear(b.ca.orders)
		time.Sleep(time.Until(e.Next))
		if r := b.must(t, Options{}); !r.Resumed || b.ca.issued != 1 || len(b.ca.made) != 1 {
			t.Errorf("%+v after %d orders", r, len(b.ca.made))
		}
	})
}

// A clock that was set forward a year makes everything look expired: the CA's
// time is asked for before anything is ordered.
func TestClockForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		b.must(t, Options{})
		b.skew = 365 * day
		for range 3 {
			r := b.must(t, Options{})
			if r.Renewed || !r.Warnings.Has("clock_off") {
				t.Errorf("%+v", r)
			}
		}
		if len(b.ca.made) != 1 {
			t.Errorf("%d orders", len(b.ca.made))
		}
	})
}

// What the CA has refused to make is not counted as an order.
func TestRefusedIsNoOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ready(t, 90*day)
		b.ca.order = func(legoclient.OrderRequest) error { return refusal("serverInternal", 500) }
		begin := time.Now()
		for range 8 {
			e := b.mustFail(t, Options{}, ClassNetwork)
			time.Sleep(time.Until(e.Next))
		}
		b.ca.order = nil
		if r := b.must(t, Options{}); !r.Renewed || time.Since(begin) > day {
			t.Errorf("%+v after %s", r, time.Since(begin))
		}
	})
}
