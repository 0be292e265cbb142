package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"postcert/deploy/atomicfile"
)

// Turn remembers the turns of one certificate: the passes of "postcert renew" over
// it. It is written when a pass begins and when it ends, so that one which never
// ends, because something kills it each time, is counted as well: a daemon that is
// started again and again must not begin one at each start.
type Turn struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"` // of the last pass that came to its end
	Failures int       `json:"failures"`       // passes in a row that left something due, or did not end
	Next     time.Time `json:"next,omitzero"`  // with Failures: not before
	Leaf     string    `json:"leaf"`           // fingerprint of the live certificate that the last pass took to its listeners, or tried to
	Exit     int       `json:"exit"`           // of the last pass that came to its end
	Message  string    `json:"message"`        // the first thing that went wrong in it; "" if nothing did
}

// Turns is where they are.
type Turns struct {
	Path func(name string) (string, error) // the file of one certificate; refuses what cannot be a name
}

// Read returns the turns of a certificate, zero if there were none. One that
// cannot be understood is none: it is a memory, not a source.
func (t Turns) Read(name string) (Turn, error) {
	path, err := t.Path(name)
	if err != nil {
		return Turn{}, err
	}
	data, err := atomicfile.ReadFile(atomicfile.OS, path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return Turn{}, nil
	}
	if err != nil {
		return Turn{}, err
	}
	var r Turn
	if json.Unmarshal(data, &r) != nil || r.Version != Version {
		return Turn{}, nil
	}
	return r, nil
}

// Begin writes down that a pass begins: if it never ends, the next one is not
// before now+gap(n) after n such passes.
func (t Turns) Begin(name string, now time.Time, gap func(n int) time.Duration) (Turn, error) {
	r, err := t.Read(name)
	if err != nil {
		return r, err
	}
	r.Version, r.Name, r.Began = Version, name, now.UTC()
	r.Failures++
	r.Next = r.Began.Add(gap(r.Failures))
	return r, t.write(r)
}

// End writes down how it ended. If nothing was left due, what was counted is
// forgotten.
func (t Turns) End(r Turn, now time.Time, stillDue bool) error {
	r.Ended = now.UTC()
	if !stillDue {
		r.Failures, r.Next = 0, time.Time{}
	}
	return t.write(r)
}

func (t Turns) write(r Turn) error {
	path, err := t.Path(r.Name)
	if err != nil {
		return err
	}
	if err := write(path, r); err != nil {
		return fmt.Errorf("remembering the turn of %s: %w", r.Name, err)
	}
	return nil
}

// NotBefore is when the next pass may begin, zero for at once. A clock that was
// set back makes it no further away than it was when it was written.
func (r Turn) NotBefore(now time.Time) time.Time {
	if r.Failures == 0 || r.Next.Sub(now) > r.Next.Sub(r.Began) {
		return time.Time{}
	}
	return r.Next
}
