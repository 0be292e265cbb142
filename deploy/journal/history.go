package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
)

// KeepRecords is how many records the history keeps.
const KeepRecords = 200

// Record is one closed transaction: a file of the history. The note that Begin
// was given is not in it: only an undo needs that, and it may be large, as it
// holds what every listener served.
type Record struct {
	ID     string          `json:"id"`
	Begun  time.Time       `json:"begun"`  // UTC
	Closed time.Time       `json:"closed"` // UTC
	Phase  string          `json:"phase"`  // the last one marked
	Result string          `json:"result"`
	Detail json.RawMessage `json:"detail,omitempty"`
	Writes []Changed       `json:"writes"`
}

// Changed is one path of a [Record]: what stood there and what was written, as
// kind, attributes and digest.
type Changed struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

func (tx *Tx) entry(result string, detail json.RawMessage) Record {
	r := Record{
		ID: tx.rec.ID, Begun: tx.rec.Begun, Closed: tx.j.now().UTC(), Phase: tx.phase,
		Result: result, Detail: detail, Writes: []Changed{},
	}
	for _, w := range tx.rec.Writes {
		r.Writes = append(r.Writes, Changed{Path: w.Path, Before: w.Before.String(), After: w.After.String()})
	}
	return r
}

// recordTime is the beginning of a record's name. By it the names sort, in the
// order in which the records were made.
const recordTime = "20060102T150405.000000000Z"

// recordName is the time of beginning, and the same each time the same
// transaction is closed. When the clock was put back since the last of the
// records that are there, it is the time after that one's: the order is what
// tells which records are the oldest, and what happened last.
func recordName(r Record, there []string) string {
	for _, name := range there {
		if strings.HasSuffix(name, "-"+r.ID+".json") {
			return name
		}
	}
	name := r.Begun.UTC().Format(recordTime) + "-" + r.ID + ".json"
	if len(there) == 0 || name > there[len(there)-1] {
		return name
	}
	last, _, _ := strings.Cut(there[len(there)-1], "-")
	t, err := time.Parse(recordTime, last)
	if err != nil {
		return name // somebody else's file
	}
	return t.Add(time.Nanosecond).Format(recordTime) + "-" + r.ID + ".json"
}

// remember adds a record and drops the oldest.
func (j Journal) remember(r Record) error {
	if j.History == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if HasKey(data) {
		return ErrKeyBytes
	}
	if err := atomicfile.MkdirAll(j.FS, j.History); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if _, err := atomicfile.Sweep(j.FS, j.History, atomicfile.Ever); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	names, err := j.recordNames()
	if err != nil {
		return err
	}
	name := recordName(r, names)
	if err := atomicfile.Write(j.FS, filepath.Join(j.History, name), data, j.private()); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if !slices.Contains(names, name) {
		names = append(names, name)
	}
	for len(names) > KeepRecords {
		if err := j.FS.Remove(filepath.Join(j.History, names[0])); err != nil {
			return fmt.Errorf("history: %w", err)
		}
		names = names[1:]
	}
	return nil
}

// recordNames lists the history, oldest first.
func (j Journal) recordNames() ([]string, error) {
	names, err := j.FS.ReadDir(j.History)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasSuffix(name, ".json") || strings.HasPrefix(name, ".")
	})
	slices.Sort(names)
	return names, nil
}

// Records returns the history, newest first. Files that can't be read as
// records are left out and reported together in the error, beside the rest.
func (j Journal) Records() ([]Record, error) {
	all, _, err := j.RecordsAfter("")
	return all, err
}

// RecordsAfter returns what the history says since the record with this id, newest
// first, as Records does. Only those files are read. found is false if there is no
// such record, any more or yet: then it returns all.
func (j Journal) RecordsAfter(id string) (all []Record, found bool, err error) {
	if _, err := j.FS.Lstat(j.History); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("history: %w", err)
	}
	names, err := j.recordNames()
	if err != nil {
		return nil, false, err
	}
	if id != "" {
		if i := slices.IndexFunc(names, func(name string) bool { return strings.HasSuffix(name, "-"+id+".json") }); i >= 0 {
			names, found = names[i+1:], true
		}
	}
	slices.Reverse(names)
	var errs []error
	for _, name := range names {
		path := filepath.Join(j.History, name)
		var r Record
		data, err := atomicfile.ReadFile(j.FS, path, maxRecord)
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("history: %s: %w", path, err))
			continue
		}
		all = append(all, r)
	}
	return all, found, errors.Join(errs...)
}
