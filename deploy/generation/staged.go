package generation

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"postcert/deploy/atomicfile"
)

// fileStaged stands in a generation that no change has kept yet. It comes with
// the generation, by the same rename, so a run that is killed between storing
// a pair and installing it leaves nothing that looks like a generation that was
// ever served: [Store.SweepStaged] tells it by this file.
const fileStaged = "staged"

// Keep makes the generations of name, generation 0 included, ones that stay:
// the change that stored them has happened.
func (s Store) Keep(instance, name string) error {
	base, err := s.base(instance, name)
	if err != nil {
		return err
	}
	numbers, err := s.numbers(base)
	if err != nil {
		return err
	}
	for i, n := range append(numbers, 0) {
		dir := filepath.Join(base, number(n))
		err := s.FS.Remove(filepath.Join(dir, fileStaged))
		// A run that was killed here may have removed the file, and not forced
		// that to disk: then a power cut brings it back, and the generation, which
		// is served, is swept. Only the newest and generation 0 can be in question.
		if errors.Is(err, fs.ErrNotExist) && i < len(numbers)-1 {
			continue
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = s.FS.SyncDir(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("generation: keeping %s: %w", dir, err)
		}
	}
	return nil
}

// SweepStaged removes the generations that were stored for a change which did
// not happen. The caller holds the host's lock, and no journal is open: one
// may refer to such a generation.
func (s Store) SweepStaged() error {
	return s.eachName(func(base string) error {
		entries, err := s.FS.ReadDir(base)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			dir := filepath.Join(base, entry)
			if _, err := s.FS.Lstat(filepath.Join(dir, fileStaged)); err != nil || atomicfile.IsTemp(dir) {
				continue
			}
			if err := s.drop(dir); err != nil {
				return err
			}
		}
		return nil
	})
}
