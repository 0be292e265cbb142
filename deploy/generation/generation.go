// Package generation keeps key and chain on disk: each version that was ever
// to be installed is a generation, numbered, complete and never changed.
//
//	<dir>/<instance>/<name>/000007/postfix.pem   0600: key, leaf, intermediates
//	                               meta.json     0600: see [Meta]
//	                               staged        until [Store.Keep]: not installed yet
//
// A generation comes into being by one rename of a directory whose files are
// on disk already, so there is no moment at which half of one exists. The file
// that Postfix reads is a copy made by package journal, which refers to
// postfix.pem for the bytes of a private key instead of recording them: hence
// a generation must not go while a transaction that names it is open.
//
// Generation 0 is something else. It keeps what was there before the first
// adoption, parameter values and copies of files, so that it can be put back
// at any later time; it is made once and never pruned. See [Store.Zero].
//
// The package knows bytes and names. What a certificate is, the caller tells it
// in [Meta].
package generation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"postcert/deploy/atomicfile"
)

// FilePostfix is the name of the file with key, leaf and intermediates.
const FilePostfix = "postfix.pem"

const (
	fileMeta = "meta.json"
	maxMeta  = 1 << 20
	maxPEM   = 1 << 20
)

// ErrNotFound says that there is no such generation.
var ErrNotFound = errors.New("generation: not found")

// DamagedError says that a generation does not contain what was stored.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

// Meta is what is known of a generation besides its bytes. Nothing in it is
// secret. Stage sets the fields that say so.
type Meta struct {
	Format   int       `json:"format"`   // set by Stage
	Instance string    `json:"instance"` // set by Stage: the configuration directory
	Name     string    `json:"name"`     // set by Stage
	Number   int       `json:"number"`   // set by Stage
	Created  time.Time `json:"created"`  // UTC; set by Stage if zero
	SHA256   string    `json:"sha256"`   // set by Stage: digest of postfix.pem, hex

	Fingerprint string    `json:"fingerprint"` // hex SHA-256 of the leaf's DER
	KeyType     string    `json:"key_type"`    // rsa, ecdsa, ed25519
	Names       []string  `json:"names"`       // subjectAltName of the leaf
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	// Source is where the pair came from, such as a lineage's directory. It
	// makes the next call of that client's hook ours.
	Source string          `json:"source,omitempty"`
	Extra  json.RawMessage `json:"extra,omitempty"` // the caller's own
}

// Generation is one of them.
type Generation struct {
	Instance string // configuration directory
	Name     string
	Number   int
	Dir      string // absolute
	Meta     Meta
}

// Postfix is the path of the file with key, leaf and intermediates.
func (g Generation) Postfix() string { return filepath.Join(g.Dir, FilePostfix) }

// Store is the directory of all generations. The caller holds the host's lock
// during all calls that change something.
type Store struct {
	FS  atomicfile.FS
	Dir string // absolute: <state_dir>/generations
	Now func() time.Time
}

func (s Store) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// base is the directory of one name's generations.
func (s Store) base(instance, name string) (string, error) {
	if err := ValidName(name); err != nil {
		return "", err
	}
	key, err := InstanceKey(instance)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.Dir, key, FileName(name)), nil
}

// Stage stores pem, in the form of postfix.pem, as the next generation of name,
// on disk, read again and compared. On an error nothing of it stays, and a kill
// leaves nothing but a directory that [Store.Sweep] removes.
func (s Store) Stage(instance, name string, pem []byte, meta Meta) (Generation, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return Generation{}, err
	}
	if len(pem) == 0 || len(pem) > maxPEM {
		return Generation{}, fmt.Errorf("generation: %d bytes can't be a key and a chain", len(pem))
	}
	if err := atomicfile.MkdirAll(s.FS, base); err != nil {
		return Generation{}, fmt.Errorf("generation: %w", err)
	}
	numbers, err := s.numbers(base)
	if err != nil {
		return Generation{}, err
	}
	next := 1
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	} else if err := s.syncAbove(base); err != nil {
		return Generation{}, err
	}
	meta.Format, meta.Instance, meta.Name, meta.Number = 1, instance, FileName(name), next
	meta.SHA256 = atomicfile.Digest(pem)
	if meta.Created.IsZero() {
		meta.Created = s.now().UTC()
	}
	if meta.Names == nil {
		meta.Names = []string{}
	}
	g := Generation{Instance: instance, Name: meta.Name, Number: next, Dir: filepath.Join(base, number(next)), Meta: meta}
	encoded, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return Generation{}, fmt.Errorf("generation: %w", err)
	}
	if err := s.store(g.Dir, []content{{FilePostfix, pem}, {fileMeta, encoded}, {fileStaged, nil}}); err != nil {
		return Generation{}, err
	}
	if err := s.Check(g); err != nil {
		return Generation{}, errors.Join(err, s.drop(g.Dir))
	}
	return g, nil
}

// syncAbove forces to disk the directories that lead to base. A run that was
// killed may have made them and not come so far, and whoever finds them there
// can't tell.
func (s Store) syncAbove(base string) error {
	for _, dir := range []string{filepath.Dir(base), s.Dir} {
		if err := s.FS.SyncDir(dir); err != nil {
			return fmt.Errorf("generation: %w", err)
		}
	}
	return atomicfile.SyncParent(s.FS, s.Dir)
}

type content struct {
	name string
	data []byte
}

// store makes the directory dir with these files by one rename.
func (s Store) store(dir string, files []content) error {
	base := filepath.Dir(dir)
	temp := atomicfile.TempName(base)
	if err := s.FS.Mkdir(temp); err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	err := s.fillTemp(temp, files)
	if err == nil {
		err = s.FS.Rename(temp, dir)
	}
	if err != nil {
		return fmt.Errorf("generation: %w", errors.Join(err, s.removeTree(temp)))
	}
	if err := s.FS.SyncDir(base); err != nil {
		return fmt.Errorf("generation: %w", errors.Join(err, s.drop(dir)))
	}
	return nil
}

func (s Store) fillTemp(temp string, files []content) error {
	owner, err := s.FS.Lstat(temp)
	if err != nil {
		return err
	}
	attr := atomicfile.Attr{Mode: 0o600, UID: owner.UID, GID: owner.GID}
	for _, f := range files {
		if _, err := atomicfile.Create(s.FS, filepath.Join(temp, f.name), f.data, attr); err != nil {
			return err
		}
	}
	return s.FS.SyncDir(temp)
}

// Check reads a generation again and compares it with its meta data. The error
// is a *[DamagedError].
func (s Store) Check(g Generation) error {
	data, err := atomicfile.ReadFile(s.FS, g.Postfix(), maxPEM)
	if err != nil {
		return &DamagedError{Path: g.Postfix(), Err: err}
	}
	if digest := atomicfile.Digest(data); digest != g.Meta.SHA256 {
		return &DamagedError{Path: g.Postfix(), Err: fmt.Errorf("sha256 %s, expected %s", digest, g.Meta.SHA256)}
	}
	return nil
}

// ReadPostfix returns the bytes of postfix.pem, compared with the digest that
// was stored. They hold a private key.
func (s Store) ReadPostfix(g Generation) ([]byte, error) {
	if err := s.Check(g); err != nil {
		return nil, err
	}
	return atomicfile.ReadFile(s.FS, g.Postfix(), maxPEM)
}

func number(n int) string { return fmt.Sprintf("%06d", n) }

// numbers lists the generations in a directory, ascending, 0 not among them.
func (s Store) numbers(base string) ([]int, error) {
	names, err := s.FS.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("generation: %w", err)
	}
	var all []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n > 0 && number(n) == name {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Get returns generation n of name, or an error that is [ErrNotFound]. Of its
// files only the meta data is read; see [Store.Check].
func (s Store) Get(instance, name string, n int) (Generation, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return Generation{}, err
	}
	g := Generation{Instance: instance, Name: FileName(name), Number: n, Dir: filepath.Join(base, number(n))}
	path := filepath.Join(g.Dir, fileMeta)
	data, err := atomicfile.ReadFile(s.FS, path, maxMeta)
	if errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("%w: number %d of %s", ErrNotFound, n, name)
	}
	if err == nil {
		err = json.Unmarshal(data, &g.Meta)
	}
	if err == nil && (g.Meta.Number != n || g.Meta.Name != g.Name) {
		err = fmt.Errorf("it describes number %d of %s", g.Meta.Number, g.Meta.Name)
	}
	if err != nil {
		return g, &DamagedError{Path: path, Err: err}
	}
	return g, nil
}

// List returns the generations of name, oldest first, without generation 0.
// Damaged ones are left out and reported together in the error, beside the
// rest.
func (s Store) List(instance, name string) ([]Generation, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return nil, err
	}
	numbers, err := s.numbers(base)
	if err != nil {
		return nil, err
	}
	var all []Generation
	var errs []error
	for _, n := range numbers {
		g, err := s.Get(instance, name, n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, g)
	}
	return all, errors.Join(errs...)
}

// Latest returns the generation with the highest number, or [ErrNotFound].
func (s Store) Latest(instance, name string) (Generation, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return Generation{}, err
	}
	numbers, err := s.numbers(base)
	if err != nil {
		return Generation{}, err
	}
	if len(numbers) == 0 {
		return Generation{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return s.Get(instance, name, numbers[len(numbers)-1])
}

// Names lists the names that have generations on an instance, sorted.
func (s Store) Names(instance string) ([]string, error) {
	key, err := InstanceKey(instance)
	if err != nil {
		return nil, err
	}
	names, err := s.FS.ReadDir(filepath.Join(s.Dir, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("generation: %w", err)
	}
	return slices.DeleteFunc(names, func(n string) bool { return ValidName(n) != nil }), nil
}
