// Package status remembers, for each certificate of each instance, what was
// wanted and how the last attempt ended, so that a failure which the caller of
// a deploy hook forgot is not forgotten: "postcert status" fails until what is
// wanted is what is served.
//
// There is one small JSON file a certificate. It holds fingerprints, times and
// words, never a key. It does not say what is served now: only a handshake can.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
)

// Version of the record's format.
const Version = 1

// Record is what is remembered of one certificate.
type Record struct {
	Version     int       `json:"version"`
	Instance    string    `json:"instance"` // configuration directory
	Name        string    `json:"name"`
	Wanted      string    `json:"wanted"`       // fingerprint of the leaf that was asked for last
	WantedSince time.Time `json:"wanted_since"` // when it was asked for first
	Installed   string    `json:"installed"`    // fingerprint of the leaf that was installed last
	Generation  int       `json:"generation"`
	Rehearsed   Rehearsed `json:"rehearsed"`
	LastSuccess time.Time `json:"last_success"`
	LastOutcome string    `json:"last_outcome"`
	LastTime    time.Time `json:"last_time"`
	LastError   Failure   `json:"last_error"` // of the last attempt; zero if it succeeded

	// What we obtained ourselves is deployed again until it is proven, without
	// another order. Released means that the certificate was given back since: it
	// is not ours to deploy until somebody asks for it.
	Issued      string    `json:"issued,omitempty"`      // fingerprint of the leaf that was obtained last, to be served here
	Retry       string    `json:"retry,omitempty"`       // fingerprint of the leaf that is to be deployed again; "" if none
	Failures    int       `json:"failures,omitempty"`    // deploys of Retry in a row that did not end well
	NextAttempt time.Time `json:"next_attempt,omitzero"` // when Retry is deployed again
	Released    bool      `json:"released,omitempty"`

	// Where the pair came from that another client obtained, so that it can be
	// deployed again without that client, and its next hook call is known to be ours.
	Lineage string  `json:"lineage,omitempty"` // directory, links as given; "" if its files stand in one with others'
	Source  *Source `json:"source,omitempty"`  // nil: fullchain.pem and privkey.pem in Lineage, or not known
	Service string  `json:"service,omitempty"` // the one service/type that it is for; "" for all
}

// Source are the files of a pair, where they are not fullchain.pem and privkey.pem
// of a directory.
type Source struct {
	Cert  string `json:"cert"`
	Key   string `json:"key"`
	Chain string `json:"chain,omitempty"`
}

// From is a lineage that a pair came from.
type From struct {
	Lineage string
	Source  *Source
	Service string
}

// Rehearsed is "yes", "no", or why the rehearsal did not run. In JSON, as
// everywhere in postcert, it is true, false or the reason.
type Rehearsed string

// MarshalJSON renders true, false or the reason.
func (r Rehearsed) MarshalJSON() ([]byte, error) {
	switch r {
	case "yes":
		return []byte("true"), nil
	case "no", "":
		return []byte("false"), nil
	}
	return json.Marshal(string(r))
}

// UnmarshalJSON is the reverse of MarshalJSON; "yes" and "no" are read too.
func (r *Rehearsed) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true":
		*r = "yes"
		return nil
	case "false":
		*r = "no"
		return nil
	}
	return json.Unmarshal(data, (*string)(r))
}

// Failure is how an attempt failed.
type Failure struct {
	ID      string    `json:"id"`
	Message string    `json:"message"`
	Exit    int       `json:"exit"`
	Time    time.Time `json:"time"`
}

// Update is the end of one attempt.
type Update struct {
	Instance, Name string
	Time           time.Time
	Leaf           string // fingerprint of the leaf it was about; "" if about none
	Generation     int
	Outcome        string    // a deploy.Outcome
	Released       bool      // the certificate was given back: nothing is wanted any more
	Rehearsed      Rehearsed // "" leaves the record's value
	Exit           int
	ID, Message    string // of the first problem
	Cause          string // why it was undone
	Issued         bool   // Leaf is one that we obtained, or another client for us: if this did not end well, it is tried again
	From           *From  // where Leaf was read from; nil leaves what is remembered
}

// Store is where the records are.
type Store struct {
	// Path is the file of a certificate's record, NAME.json in a directory of
	// the instance's own. It refuses what cannot be a name.
	Path func(instance, name string) (string, error)
}

// maxRecord is more than any record has, in bytes.
const maxRecord = 1 << 20

// Read returns the record of a certificate, or nil if there is none.
func (s Store) Read(instance, name string) (*Record, error) {
	path, err := s.Path(instance, name)
	if err != nil {
		return nil, err
	}
	// What is no file of ours is not followed, not waited for and not read.
	data, err := atomicfile.ReadFile(atomicfile.OS, path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &r, nil
}

// List returns the records of an instance, by name. One that cannot be read is
// an error, as in Read.
func (s Store) List(instance string) ([]*Record, error) {
	path, err := s.Path(instance, "any")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []*Record
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		r, rerr := s.Read(instance, name)
		if err = errors.Join(err, rerr); r != nil {
			out = append(out, r)
		}
	}
	return out, err
}

// All returns the records of all instances. What cannot be read is passed over.
func (s Store) All() []*Record {
	var out []*Record
	s.each(func(r *Record) { out = append(out, r) })
	return out
}

// Instances are the configuration directories of those instances that have a
// record of a certificate. What cannot be read is passed over.
func (s Store) Instances(name string) []string {
	var out []string
	s.each(func(r *Record) {
		if r.Name == name {
			out = append(out, r.Instance)
		}
	})
	return out
}

// Names are the certificates of which there is a record, sorted, each once.
func (s Store) Names() []string {
	var out []string
	s.each(func(r *Record) { out = append(out, r.Name) })
	slices.Sort(out)
	return slices.Compact(out)
}

// each reads the records of all instances.
func (s Store) each(f func(*Record)) {
	any, err := s.Path("/any", "any")
	if err != nil {
		return
	}
	dirs, _ := os.ReadDir(filepath.Dir(filepath.Dir(any)))
	for _, d := range dirs {
		dir := filepath.Join(filepath.Dir(filepath.Dir(any)), d.Name())
		files, _ := os.ReadDir(dir)
		for _, e := range files {
			data, err := atomicfile.ReadFile(atomicfile.OS, filepath.Join(dir, e.Name()), maxRecord)
			var r Record
			if err == nil && strings.HasSuffix(e.Name(), ".json") && json.Unmarshal(data, &r) == nil && r.Name != "" {
				f(&r)
			}
		}
	}
}

// Record folds the end of an attempt into the record. The caller holds the lock
// of the state directory, or has just released it: the last writer wins, and
// each writes a whole record.
func (s Store) Record(u Update) error {
	r, err := s.Read(u.Instance, u.Name)
	if err != nil || r == nil {
		// An unreadable record is replaced: it is a memory, not a source.
		r = &Record{}
	}
	r.fold(u)
	path, err := s.Path(u.Instance, u.Name)
	if err != nil {
		return err
	}
	return write(path, r)
}

// Begin writes down that a pair is about to be deployed, for one who may be killed
// in the middle of it: unless an Update follows, it is deployed again after wait.
func (s Store) Begin(u Update, wait time.Duration) error {
	r, err := s.Read(u.Instance, u.Name)
	if err != nil || r == nil {
		r = &Record{}
	}
	r.Version, r.Instance, r.Name = Version, u.Instance, u.Name
	r.foldFrom(u)
	if r.Retry != u.Leaf {
		r.Failures = 0
	}
	r.Issued, r.Retry, r.Released = u.Leaf, u.Leaf, false
	r.NextAttempt = u.Time.UTC().Add(wait)
	path, err := s.Path(u.Instance, u.Name)
	if err != nil {
		return err
	}
	return write(path, r)
}

// Forget drops the record of a certificate that was begun and never installed.
func (s Store) Forget(instance, name string) error {
	r, err := s.Read(instance, name)
	if err != nil || r == nil || r.Installed != "" || r.LastOutcome != "" {
		return err
	}
	path, err := s.Path(instance, name)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// foldFrom remembers where a pair came from.
func (r *Record) foldFrom(u Update) {
	if u.From != nil {
		r.Lineage, r.Source, r.Service = u.From.Lineage, u.From.Source, u.From.Service
	}
}

// write makes v the content of path, as a whole.
func write(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := atomicfile.MkdirAll(atomicfile.OS, dir); err != nil {
		return err
	}
	// What a run left that was killed right here. A younger file may be the one
	// that another run is about to rename.
	if _, err := atomicfile.Sweep(atomicfile.OS, dir, time.Now().Add(-time.Minute)); err != nil {
		return err
	}
	return atomicfile.Write(atomicfile.OS, path, append(data, '\n'), atomicfile.Attr{Mode: 0o600})
}

// fold is what one attempt changes in a record.
func (r *Record) fold(u Update) {
	r.Version, r.Instance, r.Name = Version, u.Instance, u.Name
	r.LastOutcome, r.LastTime = u.Outcome, u.Time.UTC()
	// A pair that was refused is nobody's wish any more: what is served stays
	// right, and the error is remembered.
	if u.Leaf != "" && r.Wanted != u.Leaf && u.Outcome != "refused" {
		r.Wanted, r.WantedSince = u.Leaf, u.Time.UTC()
	}
	if u.Released {
		r.Wanted, r.WantedSince, r.Installed, r.Generation = "", time.Time{}, "", 0
	}
	r.foldRetry(u)
	r.foldFrom(u)
	if u.Rehearsed != "" {
		r.Rehearsed = u.Rehearsed
	}
	switch u.Outcome {
	case "installed", "unchanged", "not_verified":
		if u.Leaf != "" {
			r.Installed = u.Leaf
		}
		if u.Generation > 0 {
			r.Generation = u.Generation
		}
	}
	if u.Exit == 0 {
		r.LastSuccess, r.LastError = u.Time.UTC(), Failure{}
		return
	}
	r.LastError = Failure{ID: u.ID, Message: u.Message, Exit: u.Exit, Time: u.Time.UTC()}
	if r.LastError.Message == "" {
		r.LastError.Message = u.Cause
	}
}

// foldRetry is what one attempt changes in what is tried again: a failure of what
// we obtained begins or lengthens the wait, any success ends it, because somebody
// has chosen what is to be served. A failure of something else leaves it.
func (r *Record) foldRetry(u Update) {
	if u.Issued && u.Leaf != "" {
		r.Issued = u.Leaf
	}
	switch {
	case u.Exit == 0:
		r.Retry, r.Failures, r.NextAttempt = "", 0, time.Time{}
		r.Released = u.Released
	case u.Issued && u.Leaf != "":
		if r.Retry != u.Leaf {
			r.Failures = 0
		}
		r.Retry = u.Leaf
		r.Failures++
		r.NextAttempt = u.Time.UTC().Add(RetryGap(r.Failures))
	}
}

// retryGaps are the waits after 1, 2, ... deploys that did not end well. Each
// attempt may reload production twice, so they become long.
var retryGaps = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, MaxRetryGap}

// MaxRetryGap is the longest of them.
const MaxRetryGap = 6 * time.Hour

// RetryGap is the wait before the next deploy after n that did not end well.
func RetryGap(n int) time.Duration {
	return retryGaps[min(max(n, 1), len(retryGaps))-1]
}

// RetryAt is when what failed is deployed again, zero if nothing is. A clock that
// was set back makes it no further away than the longest wait.
func (r *Record) RetryAt(now time.Time) time.Time {
	if r == nil || r.Retry == "" {
		return time.Time{}
	}
	if r.NextAttempt.Sub(now) > MaxRetryGap {
		return now
	}
	return r.NextAttempt
}

// Settled tells whether a leaf is what was installed last, with nothing left to be
// tried again.
func (r *Record) Settled(leaf string) bool {
	return r != nil && leaf != "" && r.Installed == leaf && r.Retry == ""
}

// Words says in one line how the last attempt ended.
func (r *Record) Words() string {
	when := r.LastTime.Format(time.DateTime)
	if r.LastError.Exit == 0 {
		return fmt.Sprintf("%s: %s, rehearsed: %s", when, r.LastOutcome, r.Rehearsed)
	}
	return fmt.Sprintf("%s: %s (%s)", when, r.LastOutcome, r.LastError.Message)
}
