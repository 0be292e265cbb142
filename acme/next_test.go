package acme

import (
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"testing"
	"time"

	"postcert/acme/internal/legoclient"
)

func rsaPublic(t *testing.T, n string) *rsa.PublicKey {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(n)
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(raw), E: 65537}
}

var epoch = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

func version(life time.Duration) *Version {
	return &Version{
		Number: 1, Serial: "01", Identifiers: []string{"mail.example.com"}, KeyType: EC256, Directory: "https://ca.example/dir",
		NotBefore: epoch, NotAfter: epoch.Add(life), IssuedAt: epoch, SHA256: "aa", SPKI: "bb", ARICertID: "a.b",
	}
}

// S48: lifetimes 90, 64, 45 days and 160 hours: renewed with a third left, half
// of a short life, at most 2 % of it earlier; the alarms scale.
func TestNextLifetimes(t *testing.T) {
	spec, _ := good().Normal()
	for _, c := range []struct {
		life           time.Duration
		left           time.Duration // at renewal
		warn, critical time.Duration // left
	}{
		{90 * day, 30 * day, 9 * day, 4*day + 12*time.Hour},
		{64 * day, 64 * day / 3, 64 * day / 10, 64 * day / 20},
		{45 * day, 15 * day, 4*day + 12*time.Hour, 2*day + 6*time.Hour},
		{10 * day, 10 * day / 3, day, 12 * time.Hour},
		{160 * time.Hour, 80 * time.Hour, 32 * time.Hour, 16 * time.Hour},
		{47 * day, 47 * day / 3, 47 * day / 10, 47 * day / 20},
		{24 * time.Hour, 12 * time.Hour, 24 * time.Hour / 5, 24 * time.Hour / 10},
	} {
		t.Run(c.life.String(), func(t *testing.T) {
			v := version(c.life)
			st := State{Current: v, ARIFor: v.SHA256, ARINext: v.NotAfter}
			d := Next(spec, st, v, epoch)
			ideal := v.NotAfter.Add(-c.left)
			if d.Action != None || d.Reason != ReasonLifetime || d.Due.After(ideal) || ideal.Sub(d.Due) > c.life*2/100 {
				t.Errorf("%s: due %s, want at most 2 %% before %s", d.Action, d.Due, ideal)
			}
			if again := Next(spec, st, v, epoch.Add(time.Hour)); again.Due != d.Due {
				t.Error("the jitter is drawn anew at each look")
			}
			if d.At != d.Due || d.Attempt != d.Due {
				t.Errorf("the next look is at %s and the next attempt at %s, want %s", d.At, d.Attempt, d.Due)
			}
			for _, at := range []struct {
				left     time.Duration
				action   Action
				warning  bool
				critical bool
			}{
				{v.NotAfter.Sub(d.Due) + time.Second, None, false, false}, {v.NotAfter.Sub(d.Due), Order, false, false},
				{c.warn + time.Second, Order, false, false}, {c.warn, Order, true, false},
				{c.critical + time.Second, Order, true, false}, {c.critical, Order, true, true}, {-time.Hour, Order, true, true},
			} {
				d := Next(spec, st, v, v.NotAfter.Add(-at.left))
				if d.Action != at.action || d.Warning != at.warning || d.Critical != at.critical {
					t.Errorf("%s left: %s, warning %v, critical %v; want %+v", at.left, d.Action, d.Warning, d.Critical, at)
				}
			}
		})
	}
}

// The jitter depends on the certificate, is even, and never more than 2 %.
func TestNextJitter(t *testing.T) {
	var sum float64
	for i := range 1000 {
		v := version(100 * day)
		v.SHA256 = fmt.Sprint(i)
		early := v.NotAfter.Add(-100 * day / 3).Sub(v.lifetimeDue())
		if early < 0 || early > 2*day {
			t.Fatalf("%s early", early)
		}
		sum += early.Hours()
	}
	if mean := sum / 1000; mean < 22 || mean > 26 {
		t.Errorf("%.1f hours early on average, want 24", mean)
	}
}

// Each rule by itself.
func TestNextRules(t *testing.T) {
	spec, _ := good().Normal()
	hash := spec.Hash()
	now := epoch.Add(30 * day)
	for _, c := range []struct {
		name    string
		life    time.Duration
		none    bool // no version
		change  func(*State, *Version, *Spec)
		sched   Schedule
		action  Action
		reason  string
		attempt time.Duration // from now
		held    string
		at      time.Duration // from now
	}{
		{name: "missing", none: true, action: Order, reason: ReasonMissing},
		{name: "fresh, ARI never asked", action: ARI, reason: ReasonLifetime, attempt: -1},
		{name: "ARI selected in the future", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(time.Hour)) }, action: None, reason: ReasonARI, attempt: time.Hour, at: time.Hour},
		{name: "ARI selected now", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now) }, action: Order, reason: ReasonARI},
		{name: "ARI of another certificate", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now); st.ARIFor = "zz" }, action: ARI, reason: ReasonLifetime, attempt: -1},
		{name: "ARI of a replaced certificate", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now); st.Replaced = v.SHA256 }, action: None, reason: ReasonLifetime, attempt: -1, at: -1},
		{name: "ARI poll due", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(day)); st.ARINext = now }, action: ARI, reason: ReasonARI, attempt: day},
		{name: "ARI poll before the renewal", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(day)); st.ARINext = now.Add(time.Hour) }, action: None, reason: ReasonARI, attempt: day, at: time.Hour},
		{name: "deadline overrides ARI", life: 33 * day, change: func(st *State, v *Version, _ *Spec) { ari(st, v, v.NotAfter.Add(-time.Hour)) }, action: Order, reason: ReasonDeadline},
		{name: "ARI after the deadline", change: func(st *State, v *Version, _ *Spec) { ari(st, v, v.NotAfter.Add(-time.Hour)) }, action: None, reason: ReasonDeadline, attempt: 51 * day, at: 51 * day},
		{name: "third ARI renewal in a day", change: func(st *State, v *Version, _ *Spec) {
			ari(st, v, now)
			st.ARIOrders = []time.Time{now.Add(-20 * time.Hour), now.Add(-time.Hour)}
		}, action: None, reason: ReasonARI, attempt: 4 * time.Hour, held: "ari", at: 4 * time.Hour},
		{name: "names changed", change: func(_ *State, _ *Version, s *Spec) { s.Identifiers = []string{"other.example.com"} }, action: Order, reason: ReasonSpec},
		{name: "key type changed", change: func(_ *State, v *Version, _ *Spec) { v.KeyType = RSA2048 }, action: Order, reason: ReasonSpec},
		{name: "profile changed", change: func(_ *State, v *Version, _ *Spec) { v.Profile = "x" }, action: Order, reason: ReasonSpec},
		{name: "CA changed", change: func(_ *State, v *Version, _ *Spec) { v.Directory = "https://b.example/" }, action: Order, reason: ReasonSpec},
		{name: "back-off", none: true, change: func(st *State, _ *Version, _ *Spec) { fail(st, ClassValidation, hash, now.Add(time.Hour)) }, action: None, reason: ReasonMissing, attempt: time.Hour, held: "validation", at: time.Hour},
		{name: "back-off is over", none: true, change: func(st *State, _ *Version, _ *Spec) { fail(st, ClassValidation, hash, now) }, action: Order, reason: ReasonMissing},
		{name: "back-off of another specification", none: true, change: func(st *State, _ *Version, _ *Spec) { fail(st, ClassRequest, "zz", now.Add(time.Hour)) }, action: Order, reason: ReasonMissing},
		{name: "rate limit of another specification", none: true, change: func(st *State, _ *Version, _ *Spec) { fail(st, ClassRateLimited, "zz", now.Add(time.Hour)) }, action: None, reason: ReasonMissing, attempt: time.Hour, held: "rate_limited", at: time.Hour},
		{name: "five orders in a week", none: true, change: func(st *State, _ *Version, _ *Spec) { st.Orders = orders(now, 5) }, action: None, reason: ReasonMissing, attempt: 2 * day, held: "cap", at: 2 * day},
		{name: "four orders in a week", none: true, change: func(st *State, _ *Version, _ *Spec) { st.Orders = orders(now, 4) }, action: Order, reason: ReasonMissing},
		{name: "guard", none: true, change: func(st *State, _ *Version, _ *Spec) { st.Guarded = now.Add(time.Minute) }, action: None, reason: ReasonMissing, attempt: time.Minute, held: "guard", at: time.Minute},
		{name: "pending", none: true, change: func(st *State, _ *Version, s *Spec) { st.Pending = pending(*s, "https://ca.example/o/1") }, action: Resume, reason: ReasonPending},
		{name: "pending passes over the cap", none: true, change: func(st *State, _ *Version, s *Spec) {
			st.Pending, st.Orders = pending(*s, "https://ca.example/o/1"), orders(now, 5)
		}, action: Resume, reason: ReasonPending},
		{name: "pending that never was an order", none: true, change: func(st *State, _ *Version, s *Spec) {
			st.Pending, st.Orders = pending(*s, ""), orders(now, 5)
		}, action: None, reason: ReasonPending, attempt: 2 * day, held: "cap", at: 2 * day},
		{name: "pending expired", none: true, change: func(st *State, _ *Version, s *Spec) {
			st.Pending = pending(*s, "https://ca.example/o/1")
			st.Pending.Expires = now
		}, action: Order, reason: ReasonPending},
		{name: "pending of another specification", change: func(st *State, v *Version, s *Spec) {
			ari(st, v, now.Add(day))
			st.Pending = pending(*s, "https://ca.example/o/1")
			st.Pending.Identifiers = []string{"x.example.com"}
		}, action: None, reason: ReasonARI, attempt: day, at: day},
		{name: "timer: due before the next run", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(11*time.Hour)) }, sched: Schedule{Interval: 12 * time.Hour}, action: Order, reason: ReasonARI},
		{name: "timer: due after the next run", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(13*time.Hour)) }, sched: Schedule{Interval: 12 * time.Hour}, action: None, reason: ReasonARI, attempt: 13 * time.Hour, at: 13 * time.Hour},
		{name: "timer: a back-off is no due time", none: true, change: func(st *State, _ *Version, _ *Spec) { fail(st, ClassNetwork, hash, now.Add(time.Hour)) }, sched: Schedule{Interval: 12 * time.Hour}, action: None, reason: ReasonMissing, attempt: time.Hour, held: "network", at: time.Hour},
		{name: "clock put back", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(day)); st.Touched = now.Add(25 * time.Hour) }, action: ARI, reason: ReasonClock, attempt: day},
		{name: "clock put back a little", change: func(st *State, v *Version, _ *Spec) { ari(st, v, now.Add(day)); st.Touched = now.Add(23 * time.Hour) }, action: None, reason: ReasonARI, attempt: day, at: day},
		{name: "skew was measured long ago", change: func(st *State, v *Version, _ *Spec) {
			ari(st, v, now.Add(3*day))
			st.Skew, st.SkewAt = -day, now.Add(-2*time.Hour)
		}, action: ARI, reason: ReasonClock, attempt: 3 * day},
		{name: "the CA's time counts", change: func(st *State, v *Version, _ *Spec) {
			ari(st, v, now.Add(day))
			st.Skew, st.SkewAt = -day, now
		}, action: Order, reason: ReasonARI, attempt: day},
		{name: "expired: no ARI", life: 20 * day, change: func(st *State, v *Version, _ *Spec) { fail(st, ClassNetwork, hash, now.Add(time.Hour)) }, action: None, reason: ReasonDeadline, attempt: time.Hour, held: "network", at: time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec
			life := c.life
			if life == 0 {
				life = 90 * day
			}
			v := version(life)
			st := State{}
			if c.none {
				v = nil
			}
			st.Current = v
			if c.change != nil {
				c.change(&st, v, &s)
			}
			d := c.sched.Next(s, st, v, now)
			if d.Action != c.action || d.Reason != c.reason || d.Held != c.held {
				t.Errorf("got %s because of %s, held by %q; want %s, %s, %q", d.Action, d.Reason, d.Held, c.action, c.reason, c.held)
			}
			if c.attempt >= 0 && !d.Attempt.Equal(now.Add(c.attempt)) {
				t.Errorf("attempt in %s, want %s", d.Attempt.Sub(now), c.attempt)
			}
			if c.at >= 0 && !d.At.Equal(now.Add(c.at)) {
				t.Errorf("next look in %s, want %s", d.At.Sub(now), c.at)
			}
			if d.At.IsZero() || d.Attempt.IsZero() || d.Attempt.Before(st.at(now)) {
				t.Errorf("no next attempt: %+v", d)
			}
		})
	}
}

func ari(st *State, v *Version, selected time.Time) {
	st.ARIFor, st.Selected, st.Window = v.SHA256, selected, &Window{selected.Add(-time.Hour), selected.Add(time.Hour)}
	st.ARINext = v.NotAfter
}

func fail(st *State, class Class, hash string, next time.Time) {
	st.Failures, st.Class, st.SpecHash, st.NextAttempt = 1, class, hash, next
}

// orders are n orders, the oldest five days ago.
func orders(now time.Time, n int) (out []time.Time) {
	for i := range n {
		out = append(out, now.Add(-5*day+time.Duration(i)*time.Hour))
	}
	return out
}

func pending(s Spec, url string) *Pending {
	return &Pending{Directory: s.Directory, AccountURI: "https://ca.example/a/1", Identifiers: s.Identifiers, KeyType: s.KeyType, Profile: s.Profile, SPKI: "x", OrderURL: url}
}

// A next attempt that comes after the end is an alarm, whatever is left.
func TestNextAlarm(t *testing.T) {
	spec, _ := good().Normal()
	v := version(90 * day)
	now := v.NotAfter.Add(-20 * day)
	st := State{Current: v}
	fail(&st, ClassRateLimited, "", v.NotAfter.Add(time.Hour))
	if d := Next(spec, st, v, now); !d.Critical || d.Warning {
		t.Errorf("got %+v, want critical", d)
	}
	st.NextAttempt = v.NotAfter.Add(-time.Hour)
	if d := Next(spec, st, v, now); d.Critical {
		t.Errorf("got %+v, want no alarm", d)
	}
	short := version(160 * time.Hour)
	d := Schedule{Interval: 12 * time.Hour}.Next(spec, State{Current: short}, short, epoch)
	if !d.Problems.Has("interval_too_long") {
		t.Errorf("a timer of 12 h for a certificate of 160 h: %v", d.Problems)
	}
}

// The instant is drawn once, stays while the window does, and is even over what
// is left of the window.
func TestSelected(t *testing.T) {
	v := version(90 * day)
	w := legoclient.RenewalInfo{Start: epoch.Add(59 * day), End: epoch.Add(61 * day), RetryAfter: 6 * time.Hour}
	var st State
	st.Current = v
	st.heard(w, v, epoch, 0.25)
	first := st.Selected
	if want := w.Start.Add(12 * time.Hour); !first.Equal(want) {
		t.Errorf("drew %s, want %s", first, want)
	}
	for i := range 100 {
		st.heard(w, v, epoch.Add(time.Duration(i)*day/2), 0.9)
		if !st.Selected.Equal(first) {
			t.Fatalf("drawn anew at look %d", i)
		}
	}
	moved := w
	moved.End = moved.End.Add(time.Hour)
	st.heard(moved, v, epoch, 0)
	if !st.Selected.Equal(w.Start) {
		t.Errorf("another window: %s", st.Selected)
	}
	current := legoclient.RenewalInfo{Start: epoch.Add(-day), End: epoch.Add(day)}
	st.heard(current, v, epoch, 0)
	if !st.Selected.Equal(epoch) {
		t.Errorf("a window that has begun: %s", st.Selected)
	}
	past := legoclient.RenewalInfo{Start: epoch.Add(-2 * time.Hour), End: epoch.Add(-time.Hour)}
	st.heard(past, v, epoch, 0.5)
	if !st.Selected.Equal(epoch) {
		t.Errorf("a window that is over: %s", st.Selected)
	}
	for _, c := range []struct{ asked, want time.Duration }{{0, 6 * time.Hour}, {time.Second, time.Minute}, {time.Hour, time.Hour}, {90 * day, day}} {
		w.RetryAfter = c.asked
		st.heard(w, v, epoch, 0)
		if got := st.ARINext.Sub(epoch); got != c.want {
			t.Errorf("Retry-After %s: again in %s, want %s", c.asked, got, c.want)
		}
	}
}

// Windows that were not made for this certificate are no answer.
func TestWindowPlausible(t *testing.T) {
	v := version(90 * day)
	for name, c := range map[string]struct {
		start, end time.Duration
		ok         bool
	}{
		"good":                      {59 * day, 61 * day, true},
		"the past":                  {-2 * time.Hour, -30 * time.Minute, true},
		"before the certificate":    {-3 * time.Hour, -2 * time.Hour, false},
		"after its end":             {91 * day, 92 * day, false},
		"at its end":                {90 * day, 92 * day, false},
		"2090":                      {60 * 365 * day, 61 * 365 * day, false},
		"empty":                     {day, day, false},
		"the wrong way round":       {2 * day, day, false},
		"from the beginning of all": {-10000 * day, 10000 * day, true},
	} {
		err := plausible(legoclient.RenewalInfo{Start: epoch.Add(c.start), End: epoch.Add(c.end)}, v)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
