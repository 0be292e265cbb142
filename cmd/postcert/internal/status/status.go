// Package status remembers, for each certificate of each instance, what was
// wanted and how the last attempt ended, so that a failure which the caller of
// a deploy hook forgot is not forgotten: "postcert status" fails until what is
// wanted is what is served.
//
// There is one small JSON file a certificate. It holds fingerprints, times and
// words, never a key. It does not say what is served now, only what was when
// somebody asked last: see [Served].
//
// A record is a memory, not a source. A run is killed between the end of its
// transaction and the writing of the record, a file is damaged, or it is of
// another version: in each case what the record lacks is in the history of the
// transactions, which is written before a transaction counts as closed. So a
// record is always read together with what the history says since, see
// [Store.Missed], and one that cannot be read is made again from the history.
//
// What fails is tried again, after waits that grow, except for a refusal that can
// only be repeated: see [Final].
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
	Refused     *Refused  `json:"refused,omitempty"` // what is not tried again until something changes

	// What the listeners presented when they were asked last, and how what is
	// there differs from what was proven; nil if nobody asked, or nothing does.
	Served *Served `json:"served,omitempty"`
	Drift  *Drift  `json:"drift,omitempty"`

	Service string `json:"service,omitempty"` // the service entry that alone reads it; "" if it is the instance's
	History string `json:"history,omitempty"` // id of the last record of the history that this one knows of

	// Where the pair came from that another client obtained, so that it can be
	// deployed again without that client, and its next hook call is known to be ours.
	Lineage string  `json:"lineage,omitempty"` // directory, links as given; "" if its files stand in one with others'
	Source  *Source `json:"source,omitempty"`  // nil: fullchain.pem and privkey.pem in Lineage, or not known
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
	ID, Message    string  // of the first problem
	Cause          string  // why it was undone
	Issued         bool    // Leaf is to be served without anybody's asking, so a failure is tried again: we obtained it, or a lineage holds it
	Final          bool    // one of the problems is Final
	Inputs         string  // what a refusal was about, see Refused; "" if not known
	From           *From   // where Leaf was read from; nil leaves what is remembered
	Service        string  // the service entry that alone reads it
	History        string  // id of the history's record of this; "" if there is none
	Served         *Served // what the listeners presented at its end; nil if that is not known
	Probe          bool    // nothing was attempted: the listeners were asked, and the differences looked for
	Drift          []Difference
}

// Store is where the records are.
type Store struct {
	// Path is the file of a certificate's record, NAME.json in a directory of
	// the instance's own. It refuses what cannot be a name.
	Path func(instance, name string) (string, error)

	// Missed is what the history says of an instance's certificates since the
	// record of it with this id, oldest first; found is false if there is no such
	// record, and all is returned. nil: there is no history.
	Missed func(instance, after string) (list []Update, found bool)

	// Recorded is told of each record that is written; nil: nobody is.
	Recorded func(instance, name string)
}

// maxRecord is more than any record has, in bytes.
const maxRecord = 1 << 20

// Read returns the record of a certificate as it is true now, or nil if there is
// none. One that cannot be understood is made again from the history; an error is
// of what cannot be read at all, and the record beside it is what the history says.
func (s Store) Read(instance, name string) (*Record, error) {
	r, err := s.read(instance, name)
	r, _ = s.catchUp(instance, name, r, nil)
	return r, err
}

// read returns the record as it was written, or nil if there is none.
func (s Store) read(instance, name string) (*Record, error) {
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
	if json.Unmarshal(data, &r) != nil || r.Version != Version {
		return nil, nil
	}
	return &r, nil
}

// catchUp folds into a record what the history knows and it does not, and u in
// place of the history's words for it, if it is among them; folded tells that. A
// record of before there were ids in it knows what happened until its own last
// time. No record, nothing to fold: nil.
func (s Store) catchUp(instance, name string, r *Record, u *Update) (_ *Record, folded bool) {
	if s.Missed == nil {
		return r, false
	}
	after, last := "", time.Time{}
	if r != nil {
		after, last = r.History, r.LastTime
	}
	list, found := s.Missed(instance, after)
	for _, missed := range list {
		own := u != nil && u.History != "" && u.History == missed.History
		if missed.Name != name || !found && !own && !missed.Time.After(last) {
			continue
		}
		if r == nil {
			r = &Record{}
		}
		if own {
			missed, folded = *u, true
		}
		r.fold(missed)
	}
	// What is not among what it lacks, it has: another run was faster.
	return r, folded || found && u != nil && u.History != ""
}

// List returns the records of an instance, by name, as Read does. One that cannot
// be read does not hide the others.
func (s Store) List(instance string) ([]*Record, error) {
	names, err := s.names(instance)
	if err != nil {
		return nil, err
	}
	var out []*Record
	for _, name := range names {
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

// names are the certificates of an instance that have a record, or ought to have
// one by the history; sorted.
func (s Store) names(instance string) ([]string, error) {
	path, err := s.Path(instance, "any")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(name, ".") {
			out = append(out, name)
		}
	}
	if s.Missed != nil {
		list, _ := s.Missed(instance, "")
		for _, u := range list {
			out = append(out, u.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
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
// of the state directory, or has just released it: the last writer wins, each
// writes a whole record, and what the other one knew is in the history.
func (s Store) Record(u Update) error {
	if s.Recorded != nil {
		s.Recorded(u.Instance, u.Name)
	}
	r, _ := s.read(u.Instance, u.Name) // an unreadable one is replaced
	r, folded := s.catchUp(u.Instance, u.Name, r, &u)
	if r == nil {
		r = &Record{}
	}
	if !folded {
		r.fold(u)
	}
	return s.write(r)
}

// Keep writes what Read made of a record, if that is more than was written before.
func (s Store) Keep(instance, name string) error {
	was, _ := s.read(instance, name)
	r, err := s.Read(instance, name)
	if r == nil || was != nil && was.History == r.History {
		return err
	}
	return s.write(r)
}

func (s Store) write(r *Record) error {
	path, err := s.Path(r.Instance, r.Name)
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
