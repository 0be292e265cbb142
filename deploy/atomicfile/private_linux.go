package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Private tells whether only root, or the user that we run as, decides what is
// in the directory at path: it, every directory above it and every symbolic
// link on the way belong to one of them and can be written by nobody else. A
// sticky directory above it passes (/tmp), because nobody can replace another's
// entry there. What does not exist yet is in nobody's hand. The answer is nil
// or a *[RefusedError] with [Foreign].
//
// Who keeps a journal in a directory that somebody else can write lets him say
// what is to be undone; who makes files there, lets him say where they lie.
func Private(path string) error {
	todo := elements(path)
	for at, links := "/", 0; ; {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("examining %s: %w", path, err)
		}
		if why := foreign(info, len(todo) == 0); why != "" {
			return &RefusedError{Path: path, Reason: Foreign, Detail: at + " " + why}
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if links++; err != nil || links > maxLinks {
				return fmt.Errorf("examining %s: %w", path, errors.Join(err, syscall.ELOOP))
			}
			todo = append(elements(target), todo...)
			if at = filepath.Dir(at); filepath.IsAbs(target) {
				at = "/"
			}
		}
		if len(todo) == 0 {
			return nil
		}
		at, todo = filepath.Join(at, todo[0]), todo[1:]
	}
}

// foreign says why one element of a path is in the hand of others, or "".
func foreign(info fs.FileInfo, last bool) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !ok:
		return "has no owner that can be read"
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("belongs to user %d", st.Uid)
	case mode&fs.ModeSymlink != 0, mode.Perm()&0o022 == 0, mode&fs.ModeSticky != 0 && !last:
		return ""
	}
	return fmt.Sprintf("has mode %04o and can be written by others", mode.Perm())
}
