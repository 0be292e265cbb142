package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/lock"
)

// memoryVersion is that of the files' format.
const memoryVersion = 1

// maxMemory is more than any of the files has, in bytes.
const maxMemory = 1 << 20

// lockWait is how long the memory may be in use by another process, which holds it
// for a few milliseconds and sends nothing meanwhile.
const lockWait = 2 * time.Second

// Store is where the memory is: a file for each certificate and instance, and one
// with the times of what each target was sent in the last day.
type Store struct {
	Dir  string                                      // state_dir/notify
	Path func(instance, name string) (string, error) // of one memory, below Dir; refuses what cannot be a name
}

func (s Store) lock(ctx context.Context) (*lock.Lock, error) {
	// Who can write there would decide what is told, and what we write.
	if err := atomicfile.Private(s.Dir); err != nil {
		return nil, err
	}
	if err := atomicfile.MkdirAll(atomicfile.OS, s.Dir); err != nil {
		return nil, err
	}
	return lock.Acquire(ctx, filepath.Join(s.Dir, "lock"), lockWait)
}

// read returns what was told of one subject. What cannot be understood is nothing:
// somebody may hear it twice, which is better than never.
func (s Store) read(instance, name string) (Memory, error) {
	m := Memory{Version: memoryVersion, Instance: instance, Name: name}
	path, err := s.Path(instance, name)
	if err != nil {
		return m, err
	}
	var on Memory
	ok, err := readJSON(path, &on)
	if err != nil || !ok || on.Version != memoryVersion {
		return m, err
	}
	on.Instance, on.Name = instance, name
	return on, nil
}

// keep is write, unless that changes nothing: a thousand passes over the same
// failure write once a day.
func (s Store) keep(was, next Memory) error {
	a, err1 := json.Marshal(was)
	b, err2 := json.Marshal(next)
	if err1 == nil && err2 == nil && bytes.Equal(a, b) {
		return nil
	}
	return s.write(next)
}

// write keeps a memory, or removes one in which nothing is left.
func (s Store) write(m Memory) error {
	path, err := s.Path(m.Instance, m.Name)
	if err != nil {
		return err
	}
	for target, told := range m.Told {
		if len(told) == 0 {
			delete(m.Told, target)
		}
	}
	if len(m.Since) == 0 && len(m.Told) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return writeJSON(path, m)
}

// sent are the times at which each target was sent something, of the last day.
type sent struct {
	Version int                    `json:"version"`
	Targets map[string][]time.Time `json:"targets"`
}

func (s Store) sentPath() string { return filepath.Join(s.Dir, "sent.json") }

func (s Store) readSent(now time.Time) (sent, error) {
	var l sent
	_, err := readJSON(s.sentPath(), &l)
	next := sent{Version: memoryVersion, Targets: map[string][]time.Time{}}
	for target, times := range l.Targets {
		for _, at := range times {
			if now.Sub(at) < day && !at.After(now) {
				next.Targets[target] = append(next.Targets[target], at)
			}
		}
	}
	return next, err
}

// readJSON reads a file into v; false if there is none, or none that is JSON.
func readJSON(path string, v any) (bool, error) {
	data, err := atomicfile.ReadFile(atomicfile.OS, path, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return json.Unmarshal(data, v) == nil, nil
}

// writeJSON makes v the content of a file, as a whole.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := atomicfile.MkdirAll(atomicfile.OS, dir); err != nil {
		return err
	}
	// What a run left that was killed right here.
	if _, err := atomicfile.Sweep(atomicfile.OS, dir, time.Now().Add(-time.Minute)); err != nil {
		return err
	}
	if err := atomicfile.Write(atomicfile.OS, path, append(data, '\n'), atomicfile.Attr{Mode: 0o600}); err != nil {
		return fmt.Errorf("remembering what was told: %w", err)
	}
	return nil
}
