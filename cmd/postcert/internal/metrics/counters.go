package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/lock"
)

// Counters only grow. They are kept on disk, as the processes that count end.
type Counters struct {
	Renewals map[string]int64 `json:"renewals"` // by certificate
	Failures map[string]int64 `json:"failures"` // by id of the problem
}

// maxSeries bounds what is counted: names and ids are few, but a file is no place
// to be sure of that.
const maxSeries = 10_000

// Ledger is where they are.
type Ledger struct{ Dir string }

func (l Ledger) path() string { return filepath.Join(l.Dir, "counters.json") }

// Read returns what was counted. What cannot be understood counts from 0 again, as
// Prometheus expects of a counter that was lost.
func (l Ledger) Read() (Counters, error) {
	c := Counters{Renewals: map[string]int64{}, Failures: map[string]int64{}}
	data, err := atomicfile.ReadFile(atomicfile.OS, l.path(), 4<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var on Counters
	if json.Unmarshal(data, &on) == nil {
		for name, n := range on.Renewals {
			c.Renewals[name] = n
		}
		for id, n := range on.Failures {
			c.Failures[id] = n
		}
	}
	return c, nil
}

// Count adds to what was counted.
func (l Ledger) Count(ctx context.Context, renewals, failures []string) error {
	if len(renewals)+len(failures) == 0 {
		return nil
	}
	if err := atomicfile.Private(l.Dir); err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(atomicfile.OS, l.Dir); err != nil {
		return err
	}
	held, err := lock.Acquire(ctx, filepath.Join(l.Dir, "lock"), 2*time.Second)
	if err != nil {
		return err
	}
	defer held.Release()
	c, err := l.Read()
	if err != nil {
		return err
	}
	for _, name := range renewals {
		count(c.Renewals, name)
	}
	for _, id := range failures {
		count(c.Failures, id)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if _, err := atomicfile.Sweep(atomicfile.OS, l.Dir, time.Now().Add(-time.Minute)); err != nil {
		return err
	}
	return atomicfile.Write(atomicfile.OS, l.path(), append(data, '\n'), atomicfile.Attr{Mode: 0o600})
}

func count(in map[string]int64, key string) {
	if _, known := in[key]; known || len(in) < maxSeries {
		in[key]++
	}
}
