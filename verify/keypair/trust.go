package keypair

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"postcert/verify/problem"
)

// maxLinks is how many symbolic links one path may go through; the kernel's own
// limit is 40.
const maxLinks = 40

// trusted asks whether only root, or whom we run as, can have decided what path
// leads to: every directory, link and file on the way must belong to one of
// them and be writable by nobody else. A sticky directory (/tmp) passes, since
// nobody can replace another's entry in it, but not for a file of several hard
// links, which anybody may have linked there. The answer is a warning, or an
// error where the path is foreign.
func trusted(path string, opened fs.FileInfo, foreign bool) (problem.List, error) {
	doubt, err := doubtOf(path, opened)
	if err != nil {
		return nil, cannotRead(path, err)
	}
	if doubt == "" {
		return nil, nil
	}
	at := problem.At{File: path}
	if foreign {
		return nil, problem.New("input_untrusted_path", at, "%s is not to be trusted: %s", path, doubt)
	}
	return problem.List{problem.Warn("input_untrusted_path", at, "%s: %s", path, doubt)}, nil
}

// doubtOf walks path component by component, through links, from the root. ""
// means that nothing speaks against it.
func doubtOf(path string, opened fs.FileInfo) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	todo := strings.Split(abs[1:], "/")
	at, links, shared := "/", 0, false
	for {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		if why := doubtOfOne(at, info); why != "" {
			return why, nil
		}
		shared = shared || info.IsDir() && info.Mode().Perm()&0o022 != 0
		if info.Mode()&fs.ModeSymlink != 0 {
			if links++; links > maxLinks {
				return "", errors.New("too many symbolic links")
			}
			target, err := os.Readlink(at)
			if err != nil {
				return "", err
			}
			todo = append(strings.Split(target, "/"), todo...)
			at = filepath.Dir(at)
			if filepath.IsAbs(target) {
				at = "/"
			}
		} else if len(todo) == 0 {
			return lastDoubt(at, info, opened, shared), nil
		}
		if len(todo) > 0 {
			// Join cleans: "" and "." stay, ".." goes up, after its links are resolved.
			at, todo = filepath.Join(at, todo[0]), todo[1:]
		}
	}
}

func doubtOfOne(at string, info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "its owner cannot be read"
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("%s belongs to user %d", at, st.Uid)
	case info.Mode()&fs.ModeSymlink != 0, info.IsDir() && info.Mode()&fs.ModeSticky != 0:
		return ""
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Sprintf("%s has mode %04o and can be written by others than its owner", at, info.Mode().Perm())
	}
	return ""
}

// lastDoubt judges the end of the walk: it must be the file that was opened.
func lastDoubt(at string, info, opened fs.FileInfo, shared bool) string {
	if !os.SameFile(info, opened) {
		return "it was replaced while it was being read"
	}
	if st, ok := opened.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && shared {
		return fmt.Sprintf("%s is one of %d hard links, below a directory that all can write to", at, st.Nlink)
	}
	return ""
}
