package acme

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// daemon is what the daemon does: it looks at the state, does what Next says, and
// sleeps until Next says again, never longer than a minute of the host's clock;
// here, minutes in which nothing is due are passed over.
type daemon struct {
	*bench
	t       *testing.T
	awake   func(time.Time) bool // by the CA's time; nil: always
	restart bool                 // before every look
	jump    map[time.Duration]time.Duration
	oneShot time.Duration // a timer's interval instead
	expired time.Duration // how long a certificate was past its end while the CA could be reached
	reached bool
	looks   int
}

// run lives for d by the true clock.
func (d *daemon) run(span time.Duration) {
	d.t.Helper()
	begin := d.ca.clock()
	spec := mustNormal(d.t, d.spec)
	last := begin
	for {
		now := d.ca.clock()
		if now.Sub(begin) >= span {
			return
		}
		for at, by := range d.jump {
			if now.Sub(begin) >= at {
				d.skew += by
				delete(d.jump, at)
			}
		}
		if d.awake != nil && !d.awake(now) {
			time.Sleep(10 * time.Minute)
			continue
		}
		if d.restart {
			interval := d.Interval
			d.boot(d.t)
			d.Interval = interval
		}
		wake := d.look(spec, now, now.Sub(last))
		last = now
		switch {
		case d.oneShot > 0:
			wake = d.oneShot
		default:
			wake = min(max(wake, time.Minute), 6*time.Hour)
		}
		time.Sleep(wake)
	}
}

// look is one tick; it returns how long nothing is to be done.
func (d *daemon) look(spec Spec, now time.Time, since time.Duration) time.Duration {
	d.looks++
	st, err := d.StateOf(spec)
	if err != nil {
		d.t.Fatal(err)
	}
	reachable := d.ca.down == nil || !d.ca.down()
	if v := st.Current; v != nil && now.After(v.NotAfter) && reachable && d.reached {
		d.expired += since // and not what one tick of a few minutes after an outage is
	}
	d.reached = reachable
	dec := Schedule{Interval: d.oneShot}.Next(spec, st, st.Current, d.now())
	if dec.Attempt.IsZero() || dec.At.IsZero() {
		d.t.Fatalf("no next attempt is shown: %+v", dec)
	}
	switch dec.Action {
	case ARI:
		if _, err := d.Refresh(d.t.Context(), spec); err != nil {
			d.t.Fatal(err)
		}
		if st, err = d.StateOf(spec); err != nil {
			d.t.Fatal(err)
		}
		if again := Next(spec, st, st.Current, d.now()); again.Action == ARI && !again.At.After(d.now()) {
			d.t.Fatalf("asked, and asks again at once: %+v", again)
		}
	case Order, Resume:
		if _, err := d.Obtain(d.t.Context(), spec, Options{}); err != nil && len(problem.From(err)) == 0 {
			d.t.Fatal(err)
		}
	}
	if st, err = d.StateOf(spec); err != nil {
		d.t.Fatal(err)
	}
	return Schedule{Interval: d.oneShot}.Next(spec, st, st.Current, d.now()).At.Sub(d.now())
}

// Simulated years: every lifetime with every trouble. Never expired while the CA
// could be reached, never more than five orders in a week for the names, the
// next attempt always shown, and no more requests than a good guest makes.
func TestProofYears(t *testing.T) {
	type trouble struct {
		name   string
		stage  func(*daemon)
		orders float64 // at most so many times those that lifetimes need
	}
	troubles := []trouble{
		{name: "none", stage: func(*daemon) {}, orders: 1.05},
		{name: "restarts", stage: func(d *daemon) { d.restart = true }, orders: 1.05},
		{name: "nights", stage: func(d *daemon) { d.awake = func(now time.Time) bool { return now.Hour() >= 8 && now.Hour() < 20 } }, orders: 1.2},
		{name: "week down", stage: func(d *daemon) {
			d.ca.down = func() bool { h := d.ca.clock().YearDay(); return h%60 < 7 }
		}, orders: 1.2},
		{name: "clock set back a year", stage: func(d *daemon) { d.jump = map[time.Duration]time.Duration{100 * day: -365 * day} }, orders: 1.05},
		{name: "clock set back and forth", stage: func(d *daemon) {
			d.jump = map[time.Duration]time.Duration{50 * day: -365 * day, 120 * day: 365 * day, 200 * day: 365 * day, 260 * day: -365 * day}
		}, orders: 1.05},
		{name: "mass revocation", stage: func(d *daemon) {
			bad := d.ca.clock().Add(150 * day)
			d.ca.window = func(leaf *x509.Certificate) (legoclient.RenewalInfo, error) {
				if now := d.ca.clock(); leaf.NotBefore.Before(bad) && now.After(bad) {
					return legoclient.RenewalInfo{Start: now.Add(-time.Hour), End: now.Add(-time.Minute)}, nil
				}
				return ordinary(leaf), nil
			}
		}, orders: 1.3},
		{name: "no ARI", stage: func(d *daemon) {
			d.ca.window = func(*x509.Certificate) (legoclient.RenewalInfo, error) {
				return legoclient.RenewalInfo{}, refusal("", 404)
			}
		}, orders: 1.1},
		{name: "ARI far too late", stage: func(d *daemon) {
			d.ca.window = func(leaf *x509.Certificate) (legoclient.RenewalInfo, error) {
				return legoclient.RenewalInfo{Start: leaf.NotAfter.Add(-2 * time.Minute), End: leaf.NotAfter.Add(time.Hour)}, nil
			}
		}, orders: 1.05},
		{name: "ARI always now", stage: func(d *daemon) {
			d.ca.window = func(leaf *x509.Certificate) (legoclient.RenewalInfo, error) {
				return legoclient.RenewalInfo{Start: leaf.NotBefore, End: leaf.NotBefore.Add(time.Minute)}, nil
			}
		}, orders: 1000},
		{name: "validation fails every other day", stage: func(d *daemon) { d.flap(d.ca) }, orders: 5},
		{name: "validation fails from noon to noon", stage: func(d *daemon) {
			d.fails(d.ca, func(now time.Time) bool { return now.Add(12*time.Hour).Unix()/86400%2 == 0 })
		}, orders: 5},
		{name: "validation fails on any day, never two in a row", stage: func(d *daemon) {
			seed := [32]byte{byte(d.ca.life / time.Hour)}
			dice, bad, last := rand.New(rand.NewChaCha8(seed)), map[int64]bool{}, int64(0)
			d.fails(d.ca, func(now time.Time) bool {
				today := now.Unix() / 86400
				for ; last < today; last++ {
					bad[last+1] = !bad[last] && dice.IntN(4) > 0
				}
				return bad[today]
			})
		}, orders: 5},
		{name: "the same with trials", stage: func(d *daemon) {
			d.flap(d.ca)
			trial, dial := newScript(d.ca.clock, 90*day), d.dial
			d.flap(trial)
			d.Staging = func(string) string { return "https://trial.example/dir" }
			d.dial = func(c legoclient.Config) (ca, error) {
				if c.Directory == "https://trial.example/dir" {
					return trial, nil
				}
				return dial(c)
			}
		}, orders: 2},
	}
	for _, life := range []time.Duration{90 * day, 64 * day, 45 * day, 160 * time.Hour} {
		for _, c := range troubles {
			t.Run(fmt.Sprint(life, " ", c.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &daemon{bench: newBench(t, life), t: t}
					if err := d.register(t.Context()); err != nil {
						t.Fatal(err)
					}
					d.must(t, Options{})
					begin := d.ca.clock()
					c.stage(d)
					d.run(365 * day)
					used := life * 2 / 3
					if life < shortLife {
						used = life / 2
					}
					need := float64(d.ca.clock().Sub(begin))/float64(used) + 2
					if n := float64(len(d.ca.made)); n > need*c.orders || n < need*0.6 {
						t.Errorf("%v orders in a year, about %.0f are needed", n, need)
					}
					inWindow(t, d.ca.made, week, 5)
					if d.expired > 0 {
						t.Errorf("expired for %s while the CA could be reached", d.expired)
					}
					if n := d.ca.count("RenewalInfo"); n > 365*24 {
						t.Errorf("%d polls of ARI", n)
					}
					t.Logf("R11: %d orders, %d ARI polls, %d requests, %d looks", len(d.ca.made), d.ca.count("RenewalInfo"), len(d.ca.asked), d.looks)
				})
			})
		}
	}
}

// flap makes validations fail on every other day.
func (d *daemon) flap(s *script) {
	d.fails(s, func(now time.Time) bool { return now.YearDay()%2 == 0 })
}

// fails makes validations fail at some times.
func (d *daemon) fails(s *script, at func(time.Time) bool) {
	s.step = func(string) error {
		s.refuse = nil
		if at(s.clock()) {
			s.refuse = d.spec.Identifiers
		}
		return nil
	}
}

func ordinary(leaf *x509.Certificate) legoclient.RenewalInfo {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	left := life / 3
	if life < shortLife {
		left = life / 2
	}
	ideal := leaf.NotAfter.Add(-left)
	return legoclient.RenewalInfo{Start: ideal.Add(-life / 100), End: ideal.Add(life / 100), RetryAfter: 6 * time.Hour}
}
