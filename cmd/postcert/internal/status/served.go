package status

import (
	"slices"
	"time"
)

// Served is what the listeners presented when they were asked last: at the end of
// a deploy, or by the daily probe.
type Served struct {
	Time      time.Time  `json:"time"`
	Agrees    bool       `json:"agrees"` // each listener that counts presents what is installed
	IDs       []string   `json:"ids"`    // of the problems, if it does not agree
	Words     string     `json:"words"`  // in one line
	Listeners []Listener `json:"listeners"`
}

// Listener is one answer.
type Listener struct {
	Service  string    `json:"service"`
	Endpoint string    `json:"endpoint"`
	SNI      string    `json:"sni"`
	KeyType  string    `json:"key_type"`
	Agrees   bool      `json:"agrees"`
	Ignored  bool      `json:"ignored,omitempty"`
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason"`
	Words    string    `json:"words"`
	Leaf     string    `json:"leaf"` // fingerprint of what was presented; "" if nothing was
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Drift is that what is there differs from what was proven, and not by our doing:
// somebody restored a file, edited a parameter back, rebuilt no table, did not
// reload.
type Drift struct {
	Since       time.Time    `json:"since"` // when it was seen first
	Seen        time.Time    `json:"seen"`  // when it was seen last
	Differences []Difference `json:"differences"`
}

// Difference is one thing that differs.
type Difference struct {
	ID        string `json:"id"`
	Words     string `json:"words"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Parameter string `json:"parameter,omitempty"`
	Service   string `json:"service,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
}

// foldServed is what an answer of the listeners changes. After an install, a
// rollback or a release nothing has drifted from it.
func (r *Record) foldServed(u Update) {
	if u.Served != nil {
		s := *u.Served
		s.IDs, s.Listeners = slices.Clone(notNil(s.IDs)), slices.Clone(notNil(s.Listeners))
		s.Time = s.Time.UTC()
		r.Served = &s
	}
	if !u.Probe {
		switch u.Outcome {
		case "installed", "unchanged", "not_verified":
			r.Drift = nil
		}
		return
	}
	if len(u.Drift) == 0 {
		r.Drift = nil
	} else {
		since := u.Time.UTC()
		if r.Drift != nil {
			since = r.Drift.Since
		}
		r.Drift = &Drift{Since: since, Seen: u.Time.UTC(), Differences: slices.Clone(u.Drift)}
	}
	if u.Issued {
		r.Issued = u.Leaf
	}
	// It was installed and could not be verified, and now it was.
	if r.Served != nil && r.Served.Agrees && u.Leaf == r.Wanted && r.LastError.Exit == exitNotVerified {
		r.LastError, r.LastSuccess = Failure{}, u.Time.UTC()
		if r.Retry == u.Leaf {
			r.Retry, r.Failures, r.NextAttempt = "", 0, time.Time{}
		}
	}
}

// exitNotVerified is the exit status of what was installed and not verified.
const exitNotVerified = 9

// ProbedAt is when the listeners were asked last; zero if never, or if that is in
// the future, because the clock was set back.
func (r *Record) ProbedAt(now time.Time) time.Time {
	if r == nil || r.Served == nil || r.Served.Time.After(now) {
		return time.Time{}
	}
	return r.Served.Time
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
