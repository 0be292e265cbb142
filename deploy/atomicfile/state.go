package atomicfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// MaxFile is the longest file that [Capture] reads, in bytes. Configuration
// files and key files are far below; an indexed table of 10,000 names is too.
const MaxFile = 64 << 20

// State is all that can be put back of what stands at one path.
//
// The owner and times of a symbolic link and the times of a directory are not
// part of it: nothing that reads them through Postfix can tell.
type State struct {
	Kind Kind `json:"kind"`
	Attr      // of files and directories
	// Data is the content of a file. Its bytes are not part of any printed
	// or encoded form where Ref is set.
	Data []byte `json:"data,omitempty"`
	// Ref is the path of another file that holds the same bytes. A private
	// key is recorded in this way and never by its content.
	Ref string `json:"ref,omitempty"`
	// SHA256 is the digest of the content of a file, lower-case hex.
	SHA256 string `json:"sha256,omitempty"`
	// Target is where a symbolic link points.
	Target string `json:"target,omitempty"`
}

// NewFile is the state of a regular file with this content.
func NewFile(data []byte, attr Attr) State {
	return State{Kind: File, Attr: attr, Data: data, SHA256: Digest(data)}
}

// Digest is the SHA-256 of data in lower-case hex.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// String names kind and digest, never content.
func (s State) String() string {
	switch s.Kind {
	case File:
		return fmt.Sprintf("file %04o %d:%d sha256 %s", s.Mode, s.UID, s.GID, s.SHA256)
	case Directory:
		return fmt.Sprintf("directory %04o %d:%d", s.Mode, s.UID, s.GID)
	case Symlink:
		return "symlink to " + s.Target
	}
	return string(s.Kind)
}

// GoString is String: %#v shows no content either.
func (s State) GoString() string { return s.String() }

// Format is String for every verb, so that %x or %d print no content.
func (s State) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		io.WriteString(f, strconv.Quote(s.String()))
		return
	}
	io.WriteString(f, s.String())
}

// LogValue is String: a logger shows no content.
func (s State) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON leaves out content that Ref keeps.
func (s State) MarshalJSON() ([]byte, error) {
	if s.Ref != "" {
		s.Data = nil
	}
	type plain State // without this method
	return json.Marshal(plain(s))
}

// SameContent tells whether a and b are the same thing, their attributes
// aside: two files with the same bytes, two links to the same place.
func (s State) SameContent(o State) bool {
	return s.Kind == o.Kind && s.SHA256 == o.SHA256 && s.Target == o.Target
}

// Same is SameContent with mode, owner and extended attributes, but without
// the modification time.
func (s State) Same(o State) bool {
	if !s.SameContent(o) {
		return false
	}
	if s.Kind != File && s.Kind != Directory {
		return true
	}
	if s.Mode != o.Mode || s.UID != o.UID || s.GID != o.GID {
		return false
	}
	if len(s.Xattrs) != len(o.Xattrs) {
		return false
	}
	for name, value := range s.Xattrs {
		if other, ok := o.Xattrs[name]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}

// Capture reads what stands at path. That nothing does is a state, not an
// error. A device, socket or FIFO, a file of more than [MaxFile] bytes and one
// with further hard links are refused with a *[RefusedError], and so is a name
// that changes under our eyes.
func Capture(fsys FS, path string) (State, error) {
	now, err := fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{Kind: Absent}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("reading %s: %w", path, err)
	}
	switch now.Kind {
	case Symlink:
		target, err := fsys.Readlink(path)
		if err != nil {
			return State{}, fmt.Errorf("reading %s: %w", path, err)
		}
		return State{Kind: Symlink, Target: target}, nil
	case File, Directory:
		return captureOpen(fsys, path, now.Kind)
	}
	return State{}, &RefusedError{Path: path, Reason: NotRegular}
}

func captureOpen(fsys FS, path string, kind Kind) (State, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return State{}, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close() // opened for reading: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return State{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if info.Kind != kind {
		return State{}, &RefusedError{Path: path, Reason: Raced}
	}
	s := State{Kind: kind, Attr: Attr{Mode: info.Mode, UID: info.UID, GID: info.GID}}
	if kind == File {
		if err := onlyName(fsys, path, f); err != nil {
			return State{}, err
		}
		s.MTime = info.MTime
		if s.Data, err = readAll(f, path, info.Size, MaxFile); err != nil {
			return State{}, err
		}
		s.SHA256 = Digest(s.Data)
	}
	if s.Xattrs, err = f.Xattrs(); err != nil {
		return State{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return s, nil
}

// readAll reads at most max bytes. size is a hint only: files of proc(5) say 0.
func readAll(r io.Reader, path string, size, max int64) ([]byte, error) {
	tooLarge := &RefusedError{Path: path, Reason: TooLarge, Detail: fmt.Sprintf("more than %d bytes", max)}
	if size > max {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > max {
		return nil, tooLarge
	}
	return data, nil
}

// Put makes path what s says, forced to disk, each kind by one atomic step.
// Unlike [Write] it replaces a symbolic link by a file and a file by a link:
// its caller has captured what is there and means it. A directory is made, or
// given its attributes; removing one that is not empty is an error.
func Put(fsys FS, path string, s State) error {
	switch s.Kind {
	case File:
		return replace(fsys, path, s.Data, s.Attr)
	case Symlink:
		return putSymlink(fsys, path, s.Target)
	case Directory:
		return putDirectory(fsys, path, s.Attr)
	case Absent:
		if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", path, err)
		}
		return SyncParent(fsys, path)
	}
	return fmt.Errorf("writing %s: a %s can't be put back", path, s.Kind)
}

// SyncParent forces to disk what the directory of path says about it. If there
// is no such directory, there is nothing to force.
func SyncParent(fsys FS, path string) error {
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func putSymlink(fsys FS, path, target string) error {
	temp := TempName(filepath.Dir(path))
	if err := fsys.Symlink(target, temp); err != nil {
		return fmt.Errorf("linking %s: %w", path, err)
	}
	if err := fsys.Rename(temp, path); err != nil {
		return fmt.Errorf("linking %s: %w", path, errors.Join(err, discard(fsys, temp)))
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("linking %s: %w", path, err)
	}
	return nil
}

func putDirectory(fsys FS, path string, attr Attr) error {
	if err := fsys.Mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making %s: %w", path, err)
	}
	f, err := fsys.Open(path)
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	err = setDirectory(f, attr)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	return nil
}

// setDirectory leaves the extended attributes of a directory alone unless some
// are wanted: a default ACL that it inherited is the administrator's policy.
func setDirectory(f FileHandle, attr Attr) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Kind != Directory {
		return syscall.ENOTDIR
	}
	if err := setOwner(f, attr); err != nil {
		return err
	}
	if err := f.Chmod(attr.Mode); err != nil {
		return err
	}
	for name, value := range attr.Xattrs {
		if err := f.SetXattr(name, value); err != nil {
			return err
		}
	}
	return f.Sync()
}

// Read returns the content of the regular file at path, through one
// descriptor, and not more than max bytes of it. It follows symbolic links,
// as those of a certificate client's live directory; it does not wait for a
// FIFO, and refuses what is no regular file or too long with a
// *[RefusedError]. Who may have written the file is the caller's question.
func Read(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, bare(err))
	}
	defer f.Close() // opened for reading: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, &RefusedError{Path: path, Reason: NotRegular}
	}
	return readAll(f, path, info.Size(), max)
}

// ReadFile is [Read] through an [FS]: it follows no symbolic link in the last
// element of path and refuses a file with further hard links, so what it
// returns was put there by somebody who can write the directory and the file.
func ReadFile(fsys FS, path string, max int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close() // opened for reading: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if info.Kind != File {
		return nil, &RefusedError{Path: path, Reason: NotRegular}
	}
	if err := onlyName(fsys, path, f); err != nil {
		return nil, err
	}
	return readAll(f, path, info.Size, max)
}

// bare takes the path out of an error that names it a second time.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
