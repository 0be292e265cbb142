package acme

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"postcert/verify/problem"
)

// Action is what is to be done about a certificate.
type Action string

const (
	None   Action = "none"   // nothing before Decision.At
	ARI    Action = "ari"    // Manager.Refresh: ask the CA when to renew
	Order  Action = "obtain" // Manager.Obtain makes an order
	Resume Action = "resume" // Manager.Obtain goes on with an order
)

// Why an order is made, or will be.
const (
	ReasonMissing  = "missing"  // there is no certificate yet
	ReasonSpec     = "changed"  // names, key type, profile or CA are to be others
	ReasonPending  = "pending"  // an order was begun
	ReasonARI      = "ari"      // the CA proposed the instant
	ReasonLifetime = "lifetime" // the fraction of its life is used up
	ReasonDeadline = "deadline" // it must not wait any longer, whatever the CA says
	ReasonClock    = "clock"    // the clock was changed: ask the CA what time it is
)

// Decision is what [Next] answers.
type Decision struct {
	Action Action
	At     time.Time // when Action is to be done (not after now), or for None when to ask again; never zero
	Reason string    // why there is or will be an order: one of the Reason constants

	// Attempt is when the next order will be attempted: now or later, never
	// zero. Held says what holds it back although it is due: a class of failure,
	// "cap" (orders per week), "pace" (failed ones are spread over the week),
	// "guard" (failed validations) or "ari" (renewals because of ARI per day); "" if nothing does.
	Attempt time.Time
	Held    string

	Due      time.Time // when the renewal is due by ARI or lifetime; zero without a certificate
	Deadline time.Time // when it is due whatever the CA says, and the time of Warning
	Warning  bool      // the deadline has passed
	Critical bool      // half of what was left at the deadline has, or the next attempt comes too late

	Problems problem.List // warnings about the clock and the interval
}

// Schedule is how the caller keeps time.
type Schedule struct {
	// Interval is when the caller will ask again, for one that does not run
	// all the time (a timer, cron): what becomes due before is due now (RFC 9773
	// section 4.2). 0: the caller runs all the time.
	Interval time.Duration
}

// Next is Schedule{}.Next: for a caller that runs all the time.
func Next(spec Spec, st State, v *Version, now time.Time) Decision {
	return Schedule{}.Next(spec, st, v, now)
}

const (
	day  = 24 * time.Hour
	week = 7 * day

	shortLife = 10 * day // below it a certificate is renewed at half of its life

	maxOrders    = 5 // per week and set of names: what Let's Encrypt issues
	freeOrders   = 3 // of them that are made as fast as the back-off allows
	freeShort    = 2 // the same for certificates of shortLife
	maxARIOrders = 2 // per day and certificate
	maxFailures  = 3 // validations per hour and name; Let's Encrypt allows 5

	clockBack   = day       // a clock that is further before its last use was put back
	skewRecheck = time.Hour // how long a measured difference of the clocks is believed
	maxInterval = time.Hour // between two runs, for certificates of shortLife
)

// MaxSkew is how far our clock may be from the CA's before the CA's is believed.
const MaxSkew = time.Hour

// at is now by the CA's clock, if it was found to differ from ours, else by ours.
func (st State) at(now time.Time) time.Time {
	if st.Skew.Abs() > MaxSkew {
		return now.Add(-st.Skew).UTC().Round(0)
	}
	return now.UTC().Round(0)
}

// clockUnsure tells whether the CA must be asked for the time before anything is
// judged: our clock was put back, or the difference was measured long ago.
func (st State) clockUnsure(now time.Time) bool {
	if age := now.Sub(st.SkewAt); st.Skew.Abs() > MaxSkew && (age >= skewRecheck || age < -time.Minute) {
		return true
	}
	return !st.Touched.IsZero() && st.Touched.Sub(st.at(now)) > clockBack
}

// Next says what is to be done about the certificate that spec describes. spec
// is normal, st and v come from [Manager.StateOf] (v is st.Current), now is the
// host's clock.
func (c Schedule) Next(spec Spec, st State, v *Version, now time.Time) Decision {
	t := st.at(now)
	d := Decision{Action: None}
	d.judge(spec, st, v, t)
	if v != nil && v.NotAfter.Sub(v.NotBefore) < shortLife && c.Interval > maxInterval {
		d.Problems = append(d.Problems, problem.Warn("interval_too_long", problem.At{}, "a certificate that lives %s needs a look at least every %s, not every %s",
			v.NotAfter.Sub(v.NotBefore).Round(time.Hour), maxInterval, c.Interval))
	}
	if st.Skew.Abs() > MaxSkew {
		d.Problems = append(d.Problems, problem.Warn("clock_off", problem.At{}, "the clock of this host differs from the CA's by %s; the CA's is used", st.Skew.Round(time.Second)))
	}
	gate, held := st.gate(spec, &d, t)
	d.Attempt = latest(d.Due, gate, t)
	if gate.After(t) && !d.Due.After(gate) {
		d.Held = held
	}
	if v != nil && d.Attempt.After(v.NotAfter) {
		d.Critical = true
	}
	wake := d.Attempt
	switch next := st.nextARI(spec, v, t); {
	case st.clockUnsure(now):
		d.Action, d.Reason, wake = ARI, ReasonClock, t
	case !d.Due.After(t.Add(c.Interval)) && !gate.After(t):
		d.Action, d.Attempt, wake = Order, t, t
		if st.resumable(spec, t) {
			d.Action = Resume
		}
	case !next.IsZero() && !next.After(t):
		d.Action, wake = ARI, t
	case !next.IsZero() && next.Before(wake):
		wake = next
	}
	d.At = wake.Add(now.UTC().Round(0).Sub(t)) // by the host's clock again
	return d
}

// judge fills in when an order is due, why, and how late it is.
func (d *Decision) judge(spec Spec, st State, v *Version, t time.Time) {
	d.Due = t
	if v != nil {
		life := v.NotAfter.Sub(v.NotBefore)
		margin := deadlineMargin(life)
		d.Deadline = v.NotAfter.Add(-margin)
		d.Warning = !t.Before(d.Deadline)
		d.Critical = !t.Before(v.NotAfter.Add(-margin / 2))
	}
	switch {
	case st.Pending != nil && spec.fits(st.Pending):
		d.Reason = ReasonPending
	case v == nil:
		d.Reason = ReasonMissing
	case spec.differs(v):
		d.Reason = ReasonSpec
	default:
		d.Due, d.Reason = v.lifetimeDue(), ReasonLifetime
		if selected, ok := st.selected(v); ok {
			d.Due, d.Reason = selected, ReasonARI
		}
		if d.Due.After(d.Deadline) || d.Warning {
			d.Due, d.Reason = d.Deadline, ReasonDeadline
		}
	}
}

// deadlineMargin is how much must be left of a life, whatever the CA says.
func deadlineMargin(life time.Duration) time.Duration {
	if life < shortLife {
		return life / 5
	}
	return max(life/10, day)
}

// lifetimeDue is when a renewal is due without the CA's word: with 1/3 of the
// life left, 1/2 of a short one, and up to 2 % of it earlier. The certificate's
// fingerprint decides how much, so that hosts differ and restarts do not.
func (v *Version) lifetimeDue() time.Time {
	life := v.NotAfter.Sub(v.NotBefore)
	return LifetimeDue(v.NotBefore, v.NotAfter).Add(-time.Duration(spread(v.SHA256) * float64(life) * 0.02))
}

// LifetimeDue is when a certificate is to be renewed by its age alone: with 1/3 of
// its life left, 1/2 of a short one. Other clients hold it so, too.
func LifetimeDue(notBefore, notAfter time.Time) time.Time {
	life := notAfter.Sub(notBefore)
	if life < shortLife {
		return notAfter.Add(-life / 2)
	}
	return notAfter.Add(-life / 3)
}

// selected is the instant that was drawn in the CA's window, if there is one for
// this certificate.
func (st State) selected(v *Version) (time.Time, bool) {
	ok := st.ARIFor == v.SHA256 && st.Window != nil && !st.Selected.IsZero() && st.Replaced != v.SHA256
	return st.Selected, ok
}

// nextARI is when to ask the CA for a window; zero: not at all. RFC 9773 section
// 4.3: not after expiry, and not after the certificate was replaced.
func (st State) nextARI(spec Spec, v *Version, t time.Time) time.Time {
	switch {
	case v == nil || v.ARICertID == "" || !t.Before(v.NotAfter) || st.Replaced == v.SHA256 || v.Directory != spec.Directory:
		return time.Time{}
	case st.ARIFor != v.SHA256 || st.ARINext.IsZero():
		return t
	}
	return st.ARINext
}

// resumable tells whether there is an order to go on with.
func (st State) resumable(spec Spec, t time.Time) bool {
	p := st.Pending
	return p != nil && p.OrderURL != "" && spec.fits(p) && (p.Expires.IsZero() || t.Before(p.Expires))
}

// gate is before when no order may be attempted, and what says so.
func (st State) gate(spec Spec, d *Decision, t time.Time) (time.Time, string) {
	var gate time.Time
	var held string
	hold := func(until time.Time, why string) {
		if until.After(gate) {
			gate, held = until, why
		}
	}
	if st.backingOff(spec) {
		hold(st.NextAttempt, string(st.Class))
	}
	if !st.Guarded.IsZero() {
		hold(st.Guarded, "guard")
	}
	if !st.resumable(spec, t) {
		hold(capped(st.Orders, t), "cap")
		if st.Failures > 0 && (st.Class == ClassValidation || st.Class == ClassBadCert) {
			hold(st.paced(t), "pace")
		}
	}
	if v := st.Current; v != nil && d.Reason == ReasonARI {
		// Only renewals that the CA pulled forward are counted: those at their
		// time are what ARI is for.
		if due := v.lifetimeDue(); d.Due.Before(due) {
			hold(earliest(ariCapped(st.ARIOrders, t), due), "ari")
		}
	}
	return gate, held
}

// paced spreads what is left of a week's orders once the first few have failed.
//
// Those of a long life are spread evenly, so that what is repaired in the middle of
// the week is not held up to its end. One of a short life needs two or three orders
// a week if all goes well, and has time for three attempts a day apart between its
// renewal being due and its end. So its retries are a day apart: then it outlives
// any outage of validation of a day, be it every other day, within the week's orders.
func (st State) paced(t time.Time) time.Time {
	var recent []time.Time
	for _, at := range st.Orders {
		if at.Add(week).After(t) {
			recent = append(recent, earliest(at, t))
		}
	}
	n := len(recent)
	v := st.Current
	short := v != nil && v.NotAfter.Sub(v.NotBefore) < shortLife
	free := freeOrders
	if short {
		free = freeShort
	}
	if n < free || n >= maxOrders {
		return time.Time{}
	}
	slices.SortFunc(recent, time.Time.Compare)
	oldest, newest := recent[0], recent[n-1]
	if short {
		return newest.Add(day)
	}
	return newest.Add(oldest.Add(week).Sub(newest) / time.Duration(maxOrders-n+1))
}

// backingOff tells whether the last failure still counts. Another specification
// may succeed where this one failed; what the CA said about rates holds for both.
func (st State) backingOff(spec Spec) bool {
	return st.Failures > 0 && (st.SpecHash == spec.Hash() || st.Class == ClassRateLimited)
}

// capped is when one more order may be made for a set of names. Times after t,
// which a changed clock leaves, count as t.
func capped(orders []time.Time, t time.Time) time.Time { return nthNewest(orders, maxOrders, week, t) }

func ariCapped(orders []time.Time, t time.Time) time.Time {
	return nthNewest(orders, maxARIOrders, day, t)
}

// guarded is when a name may be validated again.
func guarded(failures []time.Time, t time.Time) time.Time {
	return nthNewest(failures, maxFailures, time.Hour, t)
}

// nthNewest is when fewer than n of the times will be within the last period;
// zero: they are fewer already.
func nthNewest(times []time.Time, n int, period time.Duration, t time.Time) time.Time {
	var recent []time.Time
	for _, x := range times {
		if x.After(t) {
			x = t
		}
		if x.Add(period).After(t) {
			recent = append(recent, x)
		}
	}
	if len(recent) < n {
		return time.Time{}
	}
	slices.SortFunc(recent, time.Time.Compare)
	return recent[len(recent)-n].Add(period)
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// spread maps a text to a number from 0 to below 1, evenly.
func spread(text string) float64 {
	sum := sha256.Sum256([]byte(text))
	return float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
}
