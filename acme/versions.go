package acme

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"postcert/deploy/atomicfile"
)

// The files of a version.
const (
	FilePrivateKey = "privkey.pem"
	FileCert       = "cert.pem"      // the leaf
	FileChain      = "chain.pem"     // the intermediates
	FileFullChain  = "fullchain.pem" // the leaf and the intermediates

	fileMeta     = "meta.json"
	kindVersion  = "version"
	linkLive     = "live"
	linkPrevious = "previous"
	keepVersions = 3 // and whatever live and previous point to
	maxPEM       = 1 << 20
)

// FullChain is the path of the file with the leaf and the intermediates.
func (v *Version) FullChain() string { return filepath.Join(v.Dir, FileFullChain) }

// Key is the path of the file with the private key.
func (v *Version) Key() string { return filepath.Join(v.Dir, FilePrivateKey) }

var versionPattern = regexp.MustCompile(`^([0-9]{4,9})-([0-9a-f]{1,40})$`)

// versionNumber is the number of a version by its directory; 0 for anything else.
func versionNumber(dir string) int {
	m := versionPattern.FindStringSubmatch(filepath.Base(dir))
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return n
}

func (v *Version) check() error {
	switch {
	case v.Number < 1 || v.Serial == "" || v.SHA256 == "" || v.SPKI == "" || len(v.Identifiers) == 0:
		return errors.New("it lacks what a version has")
	case !v.NotBefore.Before(v.NotAfter):
		return errors.New("its dates are the wrong way round")
	}
	return sane(v.NotBefore, v.NotAfter, v.IssuedAt)
}

// version reads one, and compares its files with their digests.
func (s *Store) version(dir string) (*Version, error) {
	v := &Version{}
	path := filepath.Join(dir, fileMeta)
	if err := s.readJSON(path, kindVersion, v, v.check); err != nil {
		if missing(err) {
			return nil, &FileError{Path: dir, Err: fmt.Errorf("it has no %s", fileMeta)}
		}
		return nil, err
	}
	if versionNumber(dir) != v.Number {
		return nil, &FileError{Path: path, Err: errors.New("it is of another version")}
	}
	for _, name := range []string{FilePrivateKey, FileCert, FileChain, FileFullChain} {
		if s.keyless && name == FilePrivateKey {
			if _, err := s.fs.Lstat(filepath.Join(dir, name)); err != nil {
				return nil, &FileError{Path: filepath.Join(dir, name), Err: err}
			}
			continue
		}
		data, err := atomicfile.ReadFile(s.fs, filepath.Join(dir, name), maxPEM)
		if err == nil && atomicfile.Digest(data) != v.Files[name] {
			err = errors.New("its content does not have its digest")
		}
		if err != nil {
			return nil, &FileError{Path: filepath.Join(dir, name), Err: err}
		}
	}
	v.Dir = dir
	return v, nil
}

// link reads the version that live or previous points to; nil if there is none.
func (s *Store) link(name, link string) (*Version, error) {
	path := s.cert(name, link)
	target, err := s.fs.Readlink(path)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if dir, base := filepath.Split(target); dir != "versions/" || !versionPattern.MatchString(base) {
		return nil, &FileError{Path: path, Err: errors.New("it does not point to a version")}
	}
	return s.version(s.cert(name, target))
}

// live is the live version; nil if there is none. A store with versions and no
// live one was cut off before its first certificate came to life, or somebody
// removed the link.
func (s *Store) live(name string) (*Version, error) { return s.link(name, linkLive) }

// numbers are the directories of all versions, by number.
func (s *Store) numbers(name string) (map[int]string, error) {
	names, err := s.fs.ReadDir(s.cert(name, "versions"))
	if err != nil && !missing(err) {
		return nil, err
	}
	found := map[int]string{}
	for _, base := range names {
		if n := versionNumber(base); n > 0 {
			found[n] = base
		}
	}
	return found, nil
}

// material is a certificate that is to be stored: key and chain, leaf first.
type material struct {
	key   []byte
	chain []*x509.Certificate
}

func (m material) files() map[string][]byte {
	var leaf, above []byte
	for i, c := range m.chain {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if i == 0 {
			leaf = block
		} else {
			above = append(above, block...)
		}
	}
	return map[string][]byte{FilePrivateKey: m.key, FileCert: leaf, FileChain: above, FileFullChain: slices.Concat(leaf, above)}
}

// addVersion stores a version, and returns it with its number and directory. One
// of the same serial number, which a killed run stored and did not make live, is
// found again.
func (s *Store) addVersion(name string, v Version, m material) (*Version, error) {
	have, err := s.numbers(name)
	if err != nil {
		return nil, err
	}
	v.Number = 1
	for n, base := range have {
		if base == versionBase(n, v.Serial) {
			old, err := s.version(s.cert(name, "versions", base))
			if err == nil && old.SHA256 == v.SHA256 && old.SPKI == v.SPKI {
				return old, nil
			}
		}
		v.Number = max(v.Number, n+1)
	}
	files := m.files()
	v.Files = map[string]string{}
	for file, data := range files {
		v.Files[file] = atomicfile.Digest(data)
	}
	if files[fileMeta], err = encode(kindVersion, v); err != nil {
		return nil, err
	}
	v.Dir = s.cert(name, "versions", versionBase(v.Number, v.Serial))
	if err := s.writeDir(v.Dir, files); err != nil {
		return nil, err
	}
	return s.version(v.Dir) // what is made live was read back from disk
}

func versionBase(number int, serial string) string { return fmt.Sprintf("%04d-%s", number, serial) }

// makeLive swaps the live link, and keeps the former one as previous. A reader
// finds the old or the new version, never neither.
func (s *Store) makeLive(name string, v *Version) error {
	was, err := s.fs.Readlink(s.cert(name, linkLive))
	target := filepath.Join("versions", filepath.Base(v.Dir))
	switch {
	case err != nil && !missing(err):
		return err
	case err == nil && was == target:
		return nil
	case err == nil:
		if err := s.symlink(s.cert(name, linkPrevious), was); err != nil {
			return err
		}
	}
	return s.symlink(s.cert(name, linkLive), target)
}

func (s *Store) symlink(path, target string) error {
	return atomicfile.Put(s.fs, path, atomicfile.State{Kind: atomicfile.Symlink, Target: target})
}

// prune removes old versions, keys included: all but the newest three and those
// that live and previous point to.
func (s *Store) prune(name string) error {
	have, err := s.numbers(name)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, link := range []string{linkLive, linkPrevious} {
		if target, err := s.fs.Readlink(s.cert(name, link)); err == nil {
			keep[filepath.Base(target)] = true
		}
	}
	sorted := slices.Sorted(maps.Keys(have))
	for i, n := range sorted {
		if i < len(sorted)-keepVersions && !keep[have[n]] {
			if err := s.removeDir(s.cert(name, "versions", have[n])); err != nil {
				return err
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
