package journal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"postcert/deploy/atomicfile"
)

// prepare checks one write and fills what its states leave out.
func (j Journal) prepare(w Write) (Write, error) {
	if !filepath.IsAbs(w.Path) || filepath.Clean(w.Path) != w.Path {
		return w, fmt.Errorf("journal: %q is not an absolute, clean path", w.Path)
	}
	if w.Path == j.Dir || strings.HasPrefix(w.Path, j.Dir+"/") {
		return w, fmt.Errorf("journal: %s is in the journal itself", w.Path)
	}
	err := writable(w.Path, w.Before, w.After)
	if err != nil {
		return w, err
	}
	if w.Before, err = j.complete(w.Before); err != nil {
		return w, fmt.Errorf("journal: %s: %w", w.Path, err)
	}
	if w.After, err = j.complete(w.After); err != nil {
		return w, fmt.Errorf("journal: %s: %w", w.Path, err)
	}
	directory := w.Before.Kind == atomicfile.Directory || w.After.Kind == atomicfile.Directory
	if directory && w.Before.Kind != atomicfile.Absent && !w.Before.Same(w.After) {
		return w, fmt.Errorf("journal: %s: a directory can only be made", w.Path)
	}
	now, err := Capture(j.FS, w.Path)
	if err != nil {
		return w, fmt.Errorf("journal: %w", err)
	}
	if !now.Same(w.Before) {
		return w, &ChangedError{Path: w.Path, Want: w.Before.String(), Now: now.String()}
	}
	return w, nil
}

// writable refuses what would not come back from open.json as it is: JSON has
// no bytes that are not UTF-8, and encoding/json replaces them silently. The
// content of a file is base64 there and may be anything.
func writable(path string, states ...State) error {
	words := []string{path}
	for _, s := range states {
		words = append(words, s.Ref, s.Target)
		words = slices.AppendSeq(words, maps.Keys(s.Xattrs))
	}
	for _, w := range words {
		if !utf8.ValidString(w) {
			return fmt.Errorf("journal: %s: %+q is not UTF-8 and can't be written down", strings.ToValidUTF8(path, "?"), w)
		}
	}
	return nil
}

// complete sets Data from Ref or SHA256 from Data, and refuses a state that
// can't be put back or may not be written down.
func (j Journal) complete(s State) (State, error) {
	switch s.Kind {
	case atomicfile.Absent, atomicfile.Symlink, atomicfile.Directory:
		return s, nil
	case atomicfile.File:
	default:
		return s, fmt.Errorf("a %s can't be changed", s.Kind)
	}
	if s.Ref != "" {
		return j.load(s)
	}
	digest := atomicfile.Digest(s.Data)
	if s.SHA256 != "" && s.SHA256 != digest {
		return s, errors.New("the digest is not that of the content")
	}
	s.SHA256 = digest
	if HasKey(s.Data) {
		return s, ErrKeyBytes
	}
	return s, nil
}

// load reads the bytes that a state refers to.
func (j Journal) load(s State) (State, error) {
	data, err := atomicfile.ReadFile(j.FS, s.Ref, atomicfile.MaxFile)
	if err != nil {
		return s, err
	}
	switch digest := atomicfile.Digest(data); s.SHA256 {
	case digest:
	case "":
		s.SHA256 = digest
	default:
		return s, fmt.Errorf("%s is not the file that was recorded: sha256 %s, expected %s", s.Ref, digest, s.SHA256)
	}
	s.Data = data
	return s, nil
}

var keyPEM = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY`)

// HasKey tells whether data holds a private key in PEM, as it is or in base64,
// the form in which postmap -F puts it into an indexed table.
func HasKey(data []byte) bool {
	if keyPEM.Match(data) {
		return true
	}
	for _, code := range keyBase64 {
		if bytes.Contains(data, code) {
			return true
		}
	}
	return false
}

// keyBase64 is "PRIVATE KEY" in base64 at the three places where it can stand
// in a group of three bytes, without the characters that its neighbours share.
var keyBase64 = func() [][]byte {
	var all [][]byte
	for shift := range 3 {
		text := strings.Repeat("x", shift) + "PRIVATE KEY"
		code := base64.StdEncoding.EncodeToString([]byte(text))
		code = strings.TrimRight(code, "=")
		from := []int{0, 2, 3}[shift]
		all = append(all, []byte(code[from:len(code)-1]))
	}
	return all
}()

func distinct(writes []Write) error {
	var seen []string
	for _, w := range writes {
		if slices.Contains(seen, w.Path) {
			return fmt.Errorf("journal: %s is written twice", w.Path)
		}
		seen = append(seen, w.Path)
	}
	return nil
}

// encode makes open.json. That a state with Ref leaves its bytes out is the
// business of State; that none slipped through is looked at here once more.
func encode(rec record) ([]byte, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if HasKey(data) || HasKey(rec.Note) {
		return nil, ErrKeyBytes
	}
	return data, nil
}

// idPattern is what Begin makes.
var idPattern = regexp.MustCompile(`^[0-9a-f]{24}$`)

// decode reads open.json. It is ours and was written by one rename, so what
// does not fit means damage from outside: it is refused whole, never half
// believed.
func decode(data []byte, rec *record) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(rec); err != nil {
		return err
	}
	if rec.Format != format {
		return fmt.Errorf("format %d is not one that this version reads", rec.Format)
	}
	if !idPattern.MatchString(rec.ID) { // it becomes part of a file name in the history
		return fmt.Errorf("%q is not the id of a transaction", rec.ID)
	}
	for _, w := range rec.Writes {
		if !filepath.IsAbs(w.Path) || filepath.Clean(w.Path) != w.Path {
			return fmt.Errorf("%q is not an absolute, clean path", w.Path)
		}
		for _, s := range []State{w.Before, w.After} {
			if s.Kind == atomicfile.File && s.Ref == "" && atomicfile.Digest(s.Data) != s.SHA256 {
				return fmt.Errorf("the recorded content of %s is damaged", w.Path)
			}
		}
	}
	return nil
}
