package acme

import (
	"context"
	"errors"
	"time"

	"postcert/acme/internal/legoclient"
)

const (
	minPoll     = time.Minute
	maxPoll     = day
	defaultPoll = 6 * time.Hour
	ariTries    = 3 // of a failure that may pass soon, before the long wait
)

// Refresh asks the CA when it would like the live certificate to be renewed and
// writes down the answer, or that there was none. It also notes what time the CA
// says it is. It returns the State in either case; the error is of disk, locks or
// ctx, never the CA's.
func (m *Manager) Refresh(ctx context.Context, spec Spec) (State, error) {
	spec, err := spec.Normal()
	if err != nil {
		return State{}, failure(err)
	}
	var st State
	err = m.lockCert(ctx, spec.Name, func() error {
		if st, err = m.stateOf(spec, m.now()); err != nil {
			return err
		}
		c, err := m.connect(spec.Directory, spec.Roots)
		if err != nil {
			return err
		}
		dir, err := c.Directory(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := m.now()
		if err != nil {
			// The time of the attempt is noted as well, so that it is not made in a
			// loop.
			st.SkewAt = now.UTC().Round(0)
			st.ariFailed(err, st.at(now))
		} else {
			st.measured(dir.Skew, now)
			m.ask(ctx, c, dir.ARI && (st.Current == nil || st.Current.Directory == spec.Directory), &st)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		st.touch(st.at(now))
		return m.Store.writeState(spec.Name, st)
	})
	return st, failure(err)
}

// ask asks for the window of the live certificate and draws an instant in it.
func (m *Manager) ask(ctx context.Context, c ca, offered bool, st *State) {
	t := st.at(m.now())
	v := st.Current
	switch {
	case v == nil:
		return
	case !offered || v.ARICertID == "":
		st.forget(v)
		st.ARINext = t.Add(maxPoll)
		return
	case !t.Before(v.NotAfter) || st.Replaced == v.SHA256:
		return
	}
	info, err := c.RenewalInfo(ctx, v.ARICertID)
	if err == nil {
		err = plausible(info, v)
	}
	if err != nil {
		st.ariFailed(err, t)
		return
	}
	st.heard(info, v, t, m.draw())
	m.log().Debug("renewal window", "start", info.Start, "end", info.End, "selected", st.Selected)
}

// plausible judges a window: one that lies outside the certificate's life was not
// made for it.
func plausible(info legoclient.RenewalInfo, v *Version) error {
	switch {
	case !info.Start.Before(info.End):
		return errors.New("the window ends before it begins")
	case !info.Start.Before(v.NotAfter):
		return errors.New("the window begins after the certificate's end")
	case !info.End.After(v.NotBefore.Add(-time.Hour)):
		return errors.New("the window ends before the certificate's beginning")
	}
	return nil
}

// forget drops what is known of another certificate's window.
func (st *State) forget(v *Version) {
	if st.ARIFor != v.SHA256 {
		st.Window, st.Selected, st.Explanation, st.ARIFailures, st.ARIError = nil, time.Time{}, "", 0, ""
	}
	st.ARIFor = v.SHA256
}

// heard takes a window over. draw is a random number from 0 to below 1. The
// instant is drawn once for each window: drawing at each look would drift to the
// window's beginning.
func (st *State) heard(info legoclient.RenewalInfo, v *Version, t time.Time, draw float64) {
	st.forget(v)
	w := Window{info.Start.UTC(), info.End.UTC()}
	if st.Window == nil || !st.Window.Start.Equal(w.Start) || !st.Window.End.Equal(w.End) || st.Selected.IsZero() {
		from := latest(w.Start, t)
		st.Selected = t // a window that has passed
		if from.Before(w.End) {
			st.Selected = from.Add(time.Duration(draw * float64(w.End.Sub(from)))).Truncate(time.Second)
		}
	}
	st.Window, st.Explanation = &w, info.Explanation
	st.ARIFailures, st.ARIError = 0, ""
	wait := info.RetryAfter
	if wait <= 0 {
		wait = defaultPoll
	}
	st.ARINext = t.Add(min(max(wait, minPoll), maxPoll))
}

// ariFailed notes that there was no usable answer. A window from before stays.
func (st *State) ariFailed(err error, t time.Time) {
	if st.Current != nil {
		st.forget(st.Current)
	}
	st.ARIFailures++
	st.ARIError = oneLine(err)
	wait := defaultPoll
	if Classify(err) == ClassNetwork && st.ARIFailures <= ariTries {
		wait = time.Minute << (2 * (st.ARIFailures - 1)) // 1, 4, 16 min
	}
	if asked := retryAfter(err, t); asked > 0 {
		wait = max(wait, min(asked, maxPoll))
	}
	st.ARINext = t.Add(wait)
}
