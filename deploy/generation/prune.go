package generation

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
)

// Prune removes all but the newest keep generations of name (at least 1), and
// returns the numbers that it removed. Those in proven, above all the last
// proven one and any that an open transaction refers to, stay whatever keep
// says and count towards it; so does generation 0, which does not count.
func (s Store) Prune(instance, name string, keep int, proven ...int) ([]int, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return nil, err
	}
	numbers, err := s.numbers(base)
	if err != nil {
		return nil, err
	}
	var gone []int
	for _, n := range superseded(numbers, keep, proven) {
		if err := s.drop(filepath.Join(base, number(n))); err != nil {
			return gone, err
		}
		gone = append(gone, n)
	}
	return gone, nil
}

// superseded decides what Prune removes: the oldest first, until keep are left.
func superseded(numbers []int, keep int, proven []int) []int {
	surplus := len(numbers) - max(keep, 1)
	var out []int
	for i, n := range numbers {
		if surplus <= 0 {
			break
		}
		if i == len(numbers)-1 || slices.Contains(proven, n) {
			continue
		}
		out = append(out, n)
		surplus--
	}
	return out
}

// Discard removes a generation that was staged and never installed. That it is
// gone already is no error.
func (s Store) Discard(g Generation) error {
	base, err := s.base(g.Instance, g.Name)
	if err != nil {
		return err
	}
	if g.Number < 1 {
		return fmt.Errorf("generation: number %d is not one that can be discarded", g.Number)
	}
	return s.drop(filepath.Join(base, number(g.Number)))
}

// drop takes a generation away by one rename, so that no half of it is ever
// seen, and then removes its files.
func (s Store) drop(dir string) error {
	base := filepath.Dir(dir)
	temp := atomicfile.TempName(base)
	err := s.FS.Rename(dir, temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.FS.SyncDir(base)
	}
	if err == nil {
		err = s.removeTree(temp)
	}
	if err != nil {
		return fmt.Errorf("generation: removing %s: %w", dir, err)
	}
	return nil
}

// removeTree removes a directory of files.
func (s Store) removeTree(dir string) error {
	names, err := s.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.FS.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := s.FS.Remove(dir); err != nil {
		return err
	}
	return s.FS.SyncDir(filepath.Dir(dir))
}

// Sweep removes what killed runs left anywhere in the store: directories that
// were to become a generation or were one, not changed since before. The
// caller holds the host's lock.
func (s Store) Sweep(before time.Time) error {
	return s.eachName(func(base string) error { return s.sweepName(base, before) })
}

// eachName calls f with the directory of each name of each instance, and goes
// on after an error.
func (s Store) eachName(f func(base string) error) error {
	instances, err := s.FS.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	var errs []error
	for _, instance := range instances {
		if strings.HasPrefix(instance, ".") {
			continue // of the engine: no instance has such a key
		}
		names, err := s.FS.ReadDir(filepath.Join(s.Dir, instance))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range names {
			errs = append(errs, f(filepath.Join(s.Dir, instance, name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	return nil
}

func (s Store) sweepName(base string, before time.Time) error {
	entries, err := s.FS.ReadDir(base)
	if err != nil {
		return err
	}
	// Generation 0 is the one in which a file is ever replaced: see ExtendZero.
	if _, err := atomicfile.Sweep(s.FS, filepath.Join(base, number(0)), before); err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(base, entry)
		if !atomicfile.IsTemp(path) {
			continue
		}
		info, err := s.FS.Lstat(path)
		if err != nil {
			return err
		}
		if info.Kind != atomicfile.Directory || info.MTime.After(before) {
			continue
		}
		// The rename to this name may be in memory only, after a kill: then a power
		// cut brings back the former name, of a directory without its files.
		if err := s.FS.SyncDir(base); err != nil {
			return err
		}
		if err := s.removeTree(path); err != nil {
			return err
		}
	}
	return nil
}
