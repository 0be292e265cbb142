package postfix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// Lookup asks a table "type:name" for key as a daemon of this instance would
// (postmap(1), -q). found is false where the table has nothing under it.
func (i Instance) Lookup(ctx context.Context, table, key string) (value string, found bool, err error) {
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postmap"), Args: []string{"-c", i.ConfigDirectory, "-q", key, table}, Timeout: postmapTime,
	})
	var failed *program.Error
	if errors.As(err, &failed) && failed.Status == 1 && !bytes.Contains(r.Stderr, []byte("fatal:")) && !bytes.Contains(r.Stderr, []byte("error:")) {
		return "", false, nil
	}
	return strings.TrimSuffix(string(r.Stdout), "\n"), err == nil, err
}

// Index makes the index of a lookup table of this type from source, the text that
// will stand at path, in a private copy: nothing of the instance is touched. What
// postmap says against a line is a problem table_unbuildable.
func (i Instance) Index(ctx context.Context, kind, path string, source []byte) (index []byte, err error) {
	suffix, ok := IndexSuffix(kind)
	if !ok {
		return nil, fmt.Errorf("making the index of %s:%s: the type has none in one file", kind, path)
	}
	c, err := i.newCopy()
	if err != nil {
		return nil, fmt.Errorf("making a copy of the table: %w", err)
	}
	defer c.remove()
	if err := c.write("table", source); err != nil {
		return nil, fmt.Errorf("making a copy of the table: %w", err)
	}
	trial := filepath.Join(c.dir, "table")
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postmap"), Args: []string{"-c", i.ConfigDirectory, kind + ":" + trial}, Timeout: postmapTime,
	})
	if words := objections(string(r.Stderr), trial, err); words != "" {
		return nil, problem.New("table_unbuildable", problem.At{File: path}, "the table %s:%s cannot be built: %s", kind, path, strings.ReplaceAll(words, trial, path))
	}
	return atomicfile.Read(trial+suffix, maxTable)
}

// objections are what postmap says against lines of a source, or why it failed.
// Of a key that is there twice it says which entry counts, which is no fault.
func objections(stderr, source string, err error) string {
	var said []string
	for line := range strings.Lines(stderr) {
		if err == nil && (!strings.Contains(line, source) || strings.Contains(line, "duplicate entry")) {
			continue
		}
		said = append(said, strings.TrimPrefix(strings.TrimSpace(line), "postmap: "))
	}
	if err != nil && len(said) == 0 {
		return err.Error()
	}
	return strings.Join(said, "; ")
}

// IndexSuffix is what the name of a table's index ends in, "" for a type that
// needs none. ok is false for a type whose tables are no text files of keys and
// values that we could edit.
func IndexSuffix(kind string) (suffix string, ok bool) {
	switch kind {
	case "hash", "btree":
		return ".db", true
	case "lmdb", "cdb":
		return "." + kind, true
	case "texthash":
		return "", true
	}
	return "", false
}

// Waiting is a recipient whose mail waits in the queue, and why.
type Waiting struct {
	QueueID   string    `json:"queue_id"`
	Queue     string    `json:"queue"` // deferred, active, ...
	Arrived   time.Time `json:"arrived"`
	Recipient string    `json:"recipient"`
	Reason    string    `json:"reason"` // in Postfix's words
}

// Queue lists who waits in the queue with a reason (postqueue(1), -j, Postfix 3.1
// and newer): limit recipients at most.
func (i Instance) Queue(ctx context.Context, limit int) ([]Waiting, error) {
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postqueue"), Args: []string{"-c", i.ConfigDirectory, "-j"}, Timeout: postmapTime, Output: maxTable,
	})
	if err != nil {
		return nil, err
	}
	var out []Waiting
	for line := range bytes.Lines(r.Stdout) {
		var m struct {
			Queue      string `json:"queue_name"`
			ID         string `json:"queue_id"`
			Arrival    int64  `json:"arrival_time"`
			Recipients []struct {
				Address string `json:"address"`
				Reason  string `json:"delay_reason"`
			} `json:"recipients"`
		}
		if json.Unmarshal(line, &m) != nil {
			continue // the last line of an output that was cut off
		}
		for _, to := range m.Recipients {
			if to.Reason != "" && len(out) < limit {
				out = append(out, Waiting{m.ID, m.Queue, time.Unix(m.Arrival, 0).UTC(), to.Address, to.Reason})
			}
		}
	}
	return out, nil
}
