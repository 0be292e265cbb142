package keypair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"postcert/verify/problem"
)

// Source says where a pair is. Either Tar or Cert is set.
type Source struct {
	Cert  string // path; may hold everything
	Key   string // path; "" = in Cert
	Chain string // path; "" = in Cert, or none; completes a leaf-only Cert

	Tar     io.Reader // a tar stream of the files of a lineage
	TarName string    // what messages call it; "" = "tar stream"

	// Foreign marks paths that came from a hook's environment or from a watched
	// directory, where somebody else may have chosen them: a file, link or
	// directory on the way that another user could have changed refuses them. A
	// path that the caller was given by root itself earns a warning instead.
	Foreign bool
}

// Read reads the sources, each once, and parses them. The list is of warnings;
// the error is a problem.List, or nil. It does not wait for what is not a
// regular file: a FIFO, a device, a socket and a directory are refused unopened.
func Read(ctx context.Context, s Source) (Pair, problem.List, error) {
	if s.Tar != nil {
		return readTar(ctx, s)
	}
	var inputs [3]Input
	var warnings problem.List
	paths := [3]string{s.Cert, s.Key, s.Chain}
	for i, path := range paths {
		if path == "" && i > 0 || i > 0 && path == s.Cert {
			continue
		}
		if err := ctx.Err(); err != nil {
			return Pair{}, nil, listed(problem.New("input_unreadable", problem.At{File: path}, "reading %s: %v", path, err))
		}
		data, doubts, err := readFile(path, s.Foreign)
		if err != nil {
			return Pair{}, nil, listed(err)
		}
		inputs[i] = Input{Name: path, Data: data}
		warnings = append(warnings, doubts...)
	}
	p, more, err := Parse(inputs[0], inputs[1], inputs[2])
	if err == nil {
		// Only now it is known that there is a key in it.
		holder := s.Key
		if holder == "" {
			holder = s.Cert
		}
		warnings = append(warnings, keyMode(holder)...)
	}
	return p, append(warnings, more...), err
}

// readFile reads one regular file of at most MaxBytes through one descriptor.
func readFile(path string, foreign bool) ([]byte, problem.List, error) {
	at := problem.At{File: path}
	// Opening a device can act on it, so it is asked before what it is; that it
	// still is that is asked of the descriptor.
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, cannotRead(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, problem.New("input_not_regular", at, "%s is %s, not a regular file", path, kind(info.Mode()))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, cannotRead(path, err)
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, nil, cannotRead(path, err)
	}
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, nil, cannotRead(path, err)
	}
	switch {
	case !opened.Mode().IsRegular():
		return nil, nil, problem.New("input_not_regular", at, "%s is %s, not a regular file", path, kind(opened.Mode()))
	case st.Type == procMagic || st.Type == sysfsMagic:
		return nil, nil, problem.New("input_not_regular", at, "%s is made by the kernel, not a file on disk", path)
	case opened.Size() > MaxBytes:
		return nil, nil, problem.New("input_too_large", at, "%s has %d bytes; at most %d are read", path, opened.Size(), MaxBytes)
	}
	doubts, err := trusted(path, opened, foreign)
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, nil, cannotRead(path, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, doubts, nil
}

// statfs(2) f_type of file systems whose regular files are not data.
const (
	procMagic  = 0x9fa0
	sysfsMagic = 0x62656572
)

func cannotRead(path string, err error) error {
	id := "input_unreadable"
	if errors.Is(err, fs.ErrNotExist) {
		id = "input_missing"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return problem.New(id, problem.At{File: path}, "reading %s: %v", path, err)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return fmt.Sprintf("of type %s", m.Type())
}

// keyMode warns of a private key that others than its owner can read.
func keyMode(path string) problem.List {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return problem.List{problem.Warn("key_perms", problem.At{File: path}, "%s holds a private key and has mode %04o: others than its owner can use it", path, info.Mode().Perm())}
}
