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
	Seen     Seen      `json:"seen,omitzero"`  // of another client's files, by the last pass
}

// Seen is what a pass saw of the files that another client writes. It tells whether
// there is something new for the next one.
type Seen struct {
	Content string `json:"content,omitempty"` // fingerprint of the certificates; "" if none could be read
	Look    string `json:"look,omitempty"`    // sum of what the file system says of the files
	Refused bool   `json:"refused,omitempty"` // they were not read as a pair
	Open    bool   `json:"open,omitempty"`    // the pass began with them and has not come to its end
}

// About names what is seen, as far as it matters.
func (s Seen) About() string {
	if s.Content != "" {
		return s.Content
	}
	return s.Look
}

// Changed tells whether what is seen now is worth another pass: other certificates,
// or, where no pair could be read, other files. The same certificates written again
// are not, so that what failed with them waits for its time.
func (s Seen) Changed(now Seen) bool {
	if s.Refused || now.Content == "" {
		return now.Look != s.Look
	}
	return now.Content != s.Content
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
	return t.BeginWith(name, Seen{}, now, gap)
}

// BeginWith is Begin of a pass over files of another client, as they are now.
func (t Turns) BeginWith(name string, seen Seen, now time.Time, gap func(n int) time.Duration) (Turn, error) {
	r, err := t.Read(name)
	if err != nil {
		return r, err
	}
	r.Version, r.Name, r.Began = Version, name, now.UTC()
	r.Seen = seen
	r.Failures++
	r.Next = r.Began.Add(gap(r.Failures))
	return r, t.write(r)
}

// End writes down how it ended. If nothing was left due, what was counted is
// forgotten; if it ended well and something is due all the same, it counts as the
// first.
func (t Turns) End(r Turn, now time.Time, stillDue bool) error {
	r.Ended, r.Seen.Open = now.UTC(), false
	switch {
	case !stillDue:
		r.Failures, r.Next = 0, time.Time{}
	case r.Exit == 0: // something new became due meanwhile: the wait stays short
		r.Failures = 1
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
