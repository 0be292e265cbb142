package acme

import (
	"errors"
	"time"
)

var errTodo = errors.New("acme: not written yet")

// Store is the directory in which everything is. See the package documentation
// for its layout.
type Store struct {
	dir string
}

// Open returns the store in dir, an absolute path, usually <state_dir>/acme,
// which is made if it is missing. It refuses a directory that others than root
// and the user that we run as can change.
func Open(dir string) (*Store, error) { return nil, errTodo }

// Names are the certificates of which something is on disk, sorted.
func (s *Store) Names() ([]string, error) { return nil, errTodo }

// Normal returns s as it is used: names in lower case without a final dot,
// sorted; defaults filled in. It refuses, by id and all at once, what no CA or no
// challenge of ours can do.
func (s Spec) Normal() (Spec, error) { return s, errTodo }

// Hash tells specifications apart that an order depends on. A failure's back-off
// ends when it changes.
func (s Spec) Hash() string { return "" }

// Next says what is to be done about the certificate that spec describes. spec
// is normal, st and v come from [Manager.StateOf] (v is st.Current), now is the
// host's clock.
func (c Schedule) Next(spec Spec, st State, v *Version, now time.Time) Decision { return Decision{} }

// Classify tells what kind of failure err is. Of several failures that are
// joined, the worst counts.
func Classify(err error) Class { return ClassNone }

// Backoff is when the next attempt may be made after the failures-th failure in
// a row (from 1), of this class and with this error, at now. notAfter is the end
// of the live certificate, zero if there is none. It is pure: its jitter comes
// from its arguments.
func Backoff(class Class, failures int, err error, now, notAfter time.Time) time.Time { return now }

func (e *Error) Error() string { return "" }

// Unwrap makes problem.From find Problems, and errors.As what is below.
func (e *Error) Unwrap() []error { return []error{e.Problems, e.Err} }

// MaxSkew is how far our clock may be from the CA's before the CA's is believed.
const MaxSkew = time.Hour

// DirectoryURL is the directory of a CA by the name that people call it, and
// that of its trials ("" if it has none). ok is false for an unknown name.
func DirectoryURL(name string) (url, staging string, ok bool) { return "", "", false }
