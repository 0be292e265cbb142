package acme

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

// format is the version of our files. One that is higher was written by a later
// postcert, and guessing at it could lose what it says.
const format = 1

const maxJSON = 1 << 20 // bytes of one file

// envelope is what every JSON file of ours is: a format, what it is about, and a
// digest, so that a damaged disk is noticed and not believed.
type envelope struct {
	Format int             `json:"format"`
	Kind   string          `json:"kind"`
	SHA256 string          `json:"sha256"` // of data, without white space
	Data   json.RawMessage `json:"data"`
}

// FileError says that a file of the store can't be used. Nothing is changed: the
// file stays as it is.
type FileError struct {
	Path  string
	Later bool // written by a later version of postcert
	Err   error
}

func (e *FileError) Error() string {
	if e.Later {
		return fmt.Sprintf("%s was written by a later version of postcert: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// problems gives the error its id.
func (e *FileError) problems() problem.List {
	at := problem.At{File: e.Path}
	if e.Later {
		return problem.List{problem.New("acme_state_later", at, "%v", e)}
	}
	return problem.List{problem.New("acme_state_damaged", at, "%v", e)}
}

// encode writes v as the content of a file.
func encode(kind string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	sum := sha256.Sum256(data)
	out, err := json.MarshalIndent(envelope{format, kind, hex.EncodeToString(sum[:]), data}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	return append(out, '\n'), nil
}

// decode reads what encode wrote into v, a pointer, and judges it by check.
func decode(kind string, raw []byte, v any, check func() error) error {
	var e envelope
	if err := strict(raw, &e); err != nil {
		var head struct {
			Format int `json:"format"`
		}
		// A later format may have other members.
		if json.Unmarshal(raw, &head) == nil && head.Format > format {
			return &FileError{Later: true, Err: fmt.Errorf("format %d", head.Format)}
		}
		return &FileError{Err: err}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.Data); err != nil {
		return &FileError{Err: err}
	}
	sum := sha256.Sum256(compact.Bytes())
	switch {
	case e.Format > format:
		return &FileError{Later: true, Err: fmt.Errorf("format %d", e.Format)}
	case e.Format < 1:
		return &FileError{Err: fmt.Errorf("format %d", e.Format)}
	case e.Kind != kind:
		return &FileError{Err: fmt.Errorf("it is about %q, not %q", brief(e.Kind), kind)}
	case e.SHA256 != hex.EncodeToString(sum[:]):
		return &FileError{Err: errors.New("its content does not have its digest")}
	}
	if err := strict(e.Data, v); err != nil {
		return &FileError{Err: err}
	}
	if err := check(); err != nil {
		return &FileError{Err: err}
	}
	return nil
}

// strict decodes one JSON value with the members that we know, and nothing
// behind it.
func strict(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind its end")
	}
	return nil
}

// readJSON reads a file of the store; fs.ErrNotExist if there is none.
func (s *Store) readJSON(path, kind string, v any, check func() error) error {
	raw, err := atomicfile.ReadFile(s.fs, path, maxJSON)
	if err != nil {
		return err
	}
	err = decode(kind, raw, v, check)
	var damaged *FileError
	if errors.As(err, &damaged) {
		damaged.Path = path
	}
	return err
}

func (s *Store) writeJSON(path, kind string, v any) error {
	data, err := encode(kind, v)
	if err != nil {
		return err
	}
	return s.writeFile(path, data)
}

// writeFile replaces a file, readable by us only and forced to disk.
func (s *Store) writeFile(path string, data []byte) error {
	if err := atomicfile.MkdirAll(s.fs, dirOf(path)); err != nil {
		return err
	}
	return atomicfile.Write(s.fs, path, data, private())
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// sane bounds the times that are read: what is out of it came from no clock.
func sane(times ...time.Time) error {
	for _, t := range times {
		if !t.IsZero() && (t.Year() < 1970 || t.Year() > 9999) {
			return fmt.Errorf("the time %s can't be", t)
		}
	}
	return nil
}
