package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/lock"
)

// Store is the directory in which everything is. See the package documentation
// for its layout.
type Store struct {
	fs    atomicfile.FS
	dir   string
	locks string // always a real directory: flock(2) knows no other

	keyless bool // see Keyless
}

// Keyless is the same store for a process that lives on and must not have a key in
// its memory: it asks for states, and never reads a file with a key. What is in
// such a file is compared with its digest by those that use it.
func (s *Store) Keyless() *Store {
	k := *s
	k.keyless = true
	return &k
}

// Open returns the store in dir, an absolute path, usually <state_dir>/acme,
// which is made if it is missing. It refuses a directory that others than root
// and the user that we run as can change.
func Open(dir string) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("acme: %q is not an absolute path", dir)
	}
	s := &Store{fs: atomicfile.OS, dir: filepath.Clean(dir), locks: filepath.Join(dir, "locks")}
	if err := atomicfile.Private(s.dir); err != nil {
		return nil, err
	}
	for _, d := range []string{s.dir, s.locks} {
		if err := atomicfile.MkdirAll(s.fs, d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Names are the certificates of which something is on disk, sorted.
func (s *Store) Names() ([]string, error) {
	all, err := s.fs.ReadDir(filepath.Join(s.dir, "certs"))
	if missing(err) {
		return nil, nil
	}
	var names []string
	for _, name := range all {
		if checkName("spec_name", "", name) == nil {
			names = append(names, name)
		}
	}
	return names, err
}

func (s *Store) cert(name string, more ...string) string {
	return filepath.Join(append([]string{s.dir, "certs", fileName(name)}, more...)...)
}

// caKey names a CA on disk: its host for people, a digest of its URL for us.
func caKey(directory string) string {
	host := "ca"
	if u, err := url.Parse(directory); err == nil && u.Host != "" {
		host = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
				return r
			}
			return '_'
		}, strings.ToLower(u.Host))
	}
	if len(host) > 100 {
		host = host[:100]
	}
	sum := sha256.Sum256([]byte(directory))
	return strings.TrimLeft(host, ".") + "-" + hex.EncodeToString(sum[:4])
}

func (s *Store) ca(directory string, more ...string) string {
	return filepath.Join(append([]string{s.dir, "accounts", caKey(directory)}, more...)...)
}

func dirOf(path string) string { return filepath.Dir(path) }

// private are the attributes of every file of ours.
func private() atomicfile.Attr {
	return atomicfile.Attr{Mode: 0o600, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())} //nolint:gosec // ids fit
}

// withLock runs f while the lock is held. wait 0 waits as long as ctx lasts.
func (s *Store) withLock(ctx context.Context, name string, wait time.Duration, f func() error) error {
	if wait <= 0 {
		wait = 100 * 365 * day
	}
	l, err := lock.Acquire(ctx, filepath.Join(s.locks, name+".lock"), wait)
	if err != nil {
		return err
	}
	err = f()
	return errors.Join(err, l.Release())
}

// writeDir makes path a new directory with these files, complete or not at all.
func (s *Store) writeDir(path string, files map[string][]byte) error {
	parent := filepath.Dir(path)
	if err := atomicfile.MkdirAll(s.fs, parent); err != nil {
		return err
	}
	temp := atomicfile.TempName(parent)
	if err := s.fs.Mkdir(temp); err != nil {
		return err
	}
	for _, name := range sortedKeys(files) {
		if _, err := atomicfile.Create(s.fs, filepath.Join(temp, name), files[name], private()); err != nil {
			return err
		}
	}
	if err := s.fs.SyncDir(temp); err != nil {
		return err
	}
	if err := s.fs.Rename(temp, path); err != nil {
		return err
	}
	return s.fs.SyncDir(parent)
}

// removeDir removes a directory of files. It is renamed first, so that nobody
// meets half of it.
func (s *Store) removeDir(path string) error {
	if !atomicfile.IsTemp(path) {
		temp := atomicfile.TempName(filepath.Dir(path))
		err := s.fs.Rename(path, temp)
		if missing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.fs.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
		path = temp
	}
	names, err := s.fs.ReadDir(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.fs.Remove(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return s.fs.Remove(path)
}

// sweep removes what killed runs left in a directory: temporary files and
// directories, keys among them. The caller holds the lock under which they are
// made.
func (s *Store) sweep(dir string) error {
	names, err := s.fs.ReadDir(dir)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !atomicfile.IsTemp(path) {
			continue
		}
		info, err := s.fs.Lstat(path)
		if err == nil && info.Kind == atomicfile.Directory {
			err = s.removeDir(path)
		} else if err == nil {
			err = s.fs.Remove(path)
		}
		if err != nil && !missing(err) {
			return err
		}
	}
	return nil
}
