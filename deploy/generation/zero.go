package generation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"postcert/deploy/atomicfile"
)

// Original is generation 0: what was there before the first adoption.
type Original struct {
	Format     int            `json:"format"`   // set by Zero
	Instance   string         `json:"instance"` // set by Zero
	Name       string         `json:"name"`     // set by Zero
	Created    time.Time      `json:"created"`  // UTC; set by Zero if zero
	Parameters []Parameter    `json:"parameters"`
	Files      []OriginalFile `json:"files"`
}

// Parameter is the value of one Postfix parameter; nil is not set.
type Parameter struct {
	Service string  `json:"service,omitempty"` // service/type of a -o override; "" is main.cf
	Name    string  `json:"name"`
	Value   *string `json:"value"`
}

// OriginalFile is one path. Its content, which may be a private key, is a file
// of mode 0600 in the generation and not part of any encoding.
type OriginalFile struct {
	Path  string           `json:"path"`
	State atomicfile.State `json:"state"`
}

// Zero stores generation 0 of name, or returns the one that is there: it is
// made at the first adoption and stays for ever, whatever later adoptions find.
// The states of files in the result refer to their copies by Ref.
func (s Store) Zero(instance, name string, o Original) (Original, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return Original{}, err
	}
	if have, err := s.GetZero(instance, name); !errors.Is(err, ErrNotFound) {
		return have, err
	}
	if err := writable(o); err != nil {
		return Original{}, err
	}
	if err := atomicfile.MkdirAll(s.FS, base); err != nil {
		return Original{}, fmt.Errorf("generation: %w", err)
	}
	o.Format, o.Instance, o.Name = 1, instance, FileName(name)
	if o.Created.IsZero() {
		o.Created = s.now().UTC()
	}
	if o.Parameters == nil {
		o.Parameters = []Parameter{}
	}
	dir := filepath.Join(base, number(0))
	files, recorded := copies(dir, o.Files)
	o.Files = recorded
	encoded, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return Original{}, fmt.Errorf("generation: %w", err)
	}
	if err := s.store(dir, append(files, content{fileMeta, encoded}, content{fileStaged, nil})); err != nil {
		return Original{}, err
	}
	return s.GetZero(instance, name)
}

// writable refuses what would not come back as it is: JSON has no bytes that
// are not UTF-8, and encoding/json replaces them silently.
func writable(o Original) error {
	var words []string
	for _, p := range o.Parameters {
		words = append(words, p.Service, p.Name)
		if p.Value != nil {
			words = append(words, *p.Value)
		}
	}
	for _, f := range o.Files {
		words = append(words, f.Path, f.State.Target)
		words = slices.AppendSeq(words, maps.Keys(f.State.Xattrs))
	}
	for _, w := range words {
		if !utf8.ValidString(w) {
			return fmt.Errorf("generation: %+q is not UTF-8 and can't be written down", w)
		}
	}
	return nil
}

// copies are the files of generation 0, and what is recorded of them.
func copies(dir string, in []OriginalFile) ([]content, []OriginalFile) {
	var files []content
	out := []OriginalFile{}
	for i, f := range in {
		if f.State.Kind == atomicfile.File {
			name := fmt.Sprintf("file-%03d", i)
			files = append(files, content{name, f.State.Data})
			f.State.SHA256 = atomicfile.Digest(f.State.Data)
			f.State.Ref = filepath.Join(dir, name)
			f.State.Data = nil
		}
		out = append(out, f)
	}
	return files, out
}

// GetZero returns generation 0 of name, the content of its files included, or
// an error that is [ErrNotFound]. Content that is not what was stored is a
// *[DamagedError].
func (s Store) GetZero(instance, name string) (Original, error) {
	base, err := s.base(instance, name)
	if err != nil {
		return Original{}, err
	}
	dir := filepath.Join(base, number(0))
	path := filepath.Join(dir, fileMeta)
	data, err := atomicfile.ReadFile(s.FS, path, maxMeta)
	if errors.Is(err, fs.ErrNotExist) {
		return Original{}, fmt.Errorf("%w: number 0 of %s", ErrNotFound, name)
	}
	var o Original
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		return Original{}, &DamagedError{Path: path, Err: err}
	}
	for i := range o.Files {
		state := &o.Files[i].State
		if state.Kind != atomicfile.File {
			continue
		}
		// The store may have been moved since: what counts is the name.
		state.Ref = filepath.Join(dir, filepath.Base(state.Ref))
		state.Data, err = atomicfile.ReadFile(s.FS, state.Ref, atomicfile.MaxFile)
		if err == nil && atomicfile.Digest(state.Data) != state.SHA256 {
			err = errors.New("its digest is not the recorded one")
		}
		if err != nil {
			return Original{}, &DamagedError{Path: state.Ref, Err: err}
		}
	}
	return o, nil
}

// DropZero removes generation 0 once it has been put back for good, so that a
// later adoption makes a new one.
func (s Store) DropZero(instance, name string) error {
	base, err := s.base(instance, name)
	if err != nil {
		return err
	}
	return s.drop(filepath.Join(base, number(0)))
}
