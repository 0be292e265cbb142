package acme

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// year lives through a year of validations that fail at some times, with the rules
// alone: no CA, no disk. It returns when orders were made, and how often the
// certificate had come to its end.
func year(life time.Duration, tick time.Duration, bad func(time.Time) bool) (orders []time.Time, expired int) {
	spec := good()
	spec, _ = spec.Normal()
	now := epoch
	issue := func(n int) *Version {
		v := version(life)
		v.SHA256, v.ARICertID = fmt.Sprintf("%064d", n), ""
		v.NotBefore, v.NotAfter = now, now.Add(life)
		return v
	}
	st := State{Current: issue(0)}
	var failures []time.Time
	for end := now.Add(365 * day); now.Before(end); {
		d := Next(spec, st, st.Current, now)
		if d.Action == Order {
			orders = append(orders, now)
			st.Orders = append(st.Orders, now)
			if bad(now) {
				failures = append(failures, now)
				st.Failures, st.Class, st.SpecHash = st.Failures+1, ClassValidation, spec.Hash()
				st.NextAttempt = Backoff(ClassValidation, st.Failures, nil, now, st.Current.NotAfter)
				st.Guarded = guarded(failures, now)
			} else {
				if now.After(st.Current.NotAfter) {
					expired++
				}
				st.Failures, st.Class, st.NextAttempt, st.Current = 0, "", time.Time{}, issue(len(orders))
			}
		}
		now = now.Add(max(tick, Next(spec, st, st.Current, now).At.Sub(now)))
	}
	return orders, expired
}

// A certificate of a short life outlives every outage of validation that lasts less
// than a day, be it every other day, in whatever phase, with five orders a week.
func TestPaceOfShortLives(t *testing.T) {
	type world struct {
		name string
		bad  func(time.Time) bool
	}
	var worlds []world
	for phase := range 96 {
		shift := time.Duration(phase) * 30 * time.Minute
		worlds = append(worlds, world{fmt.Sprint("every other day, from ", shift), func(now time.Time) bool {
			return now.Add(shift).Unix()/86400%2 == 0
		}})
	}
	for seed := range 100 {
		dice, bad, last := rand.New(rand.NewPCG(7, uint64(seed))), map[int64]bool{}, epoch.Unix()/86400-1
		shift := time.Duration(dice.IntN(86400)) * time.Second
		worlds = append(worlds, world{fmt.Sprint("on any day, never two in a row, ", seed), func(now time.Time) bool {
			today := now.Add(shift).Unix() / 86400
			for ; last < today; last++ {
				bad[last+1] = !bad[last] && dice.IntN(10) > 1
			}
			return bad[today]
		}})
	}
	most := 0
	for _, life := range []time.Duration{160 * time.Hour, 7 * day, 9*day + 23*time.Hour} {
		for _, tick := range []time.Duration{time.Minute, time.Hour} {
			for _, w := range worlds {
				orders, expired := year(life, tick, w.bad)
				if expired > 0 {
					t.Errorf("%s, validation fails %s, a look every %s: expired %d times", life, w.name, tick, expired)
				}
				inWindow(t, orders, week, maxOrders)
				most = max(most, len(orders))
			}
		}
	}
	t.Logf("at most %d orders in a year", most)
}
