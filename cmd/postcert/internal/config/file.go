package config

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"postcert/verify/problem"
)

// readFile reads the configuration once, through one descriptor, and judges who
// could have written it. The error is a problem.Problem; one with fs.ErrNotExist
// behind it is told apart by the second result.
func readFile(path string) (data []byte, absent bool, problems problem.List) {
	at := problem.At{File: path}
	unreadable := func(format string, args ...any) problem.List {
		return problem.List{problem.New("config_unreadable", at, format, args...)}
	}
	// O_NONBLOCK: opening a FIFO must not wait for someone to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.IsNotExist(err), unreadable("reading the configuration: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, unreadable("reading the configuration: %v", err)
	}
	if !info.Mode().IsRegular() {
		return nil, false, unreadable("%s is not a regular file", path)
	}
	if reason := othersWrite(info, false); reason != "" {
		problems = append(problems, problem.New("config_writable", at, "%s %s", path, reason))
	}
	problems = append(problems, directories(path)...)
	if data, err = io.ReadAll(io.LimitReader(f, MaxSize+1)); err != nil {
		return nil, false, unreadable("reading the configuration: %v", err)
	}
	return data, false, problems
}

// directories judges the directory of path, and all above it: whoever may write
// to one of them can put another file there. Where path is a symlink, both the
// link and its target must be safe. The file has been opened before this look;
// who could exchange it in between is who is looked for.
func directories(path string) problem.List {
	abs, err := filepath.Abs(path)
	if err != nil {
		return problem.List{problem.New("config_unreadable", problem.At{File: path}, "reading the configuration: %v", err)}
	}
	chains := []string{filepath.Dir(abs)}
	if target, err := filepath.EvalSymlinks(abs); err == nil && filepath.Dir(target) != chains[0] {
		chains = append(chains, filepath.Dir(target))
	}
	for _, dir := range chains {
		// A sticky directory such as /tmp keeps others from replacing what is
		// not theirs, so it may be an ancestor; the directory itself may not.
		for sticky := false; ; sticky = true {
			info, err := os.Stat(dir)
			if err != nil {
				return problem.List{problem.New("config_unreadable", problem.At{File: path}, "reading the configuration: %v", err)}
			}
			if reason := othersWrite(info, sticky); reason != "" {
				return problem.List{problem.New("config_writable", problem.At{File: path}, "%s: the directory %s %s", path, dir, reason)}
			}
			if dir == filepath.Dir(dir) {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return nil
}

// othersWrite says why somebody other than root may write to what info
// describes; "" if nobody may. A user who is not root is trusted with the files
// of their own, as they gain nothing by that. The mask of a POSIX ACL shows in
// the group bits, so an ACL that lets others write is seen too.
func othersWrite(info fs.FileInfo, sticky bool) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "has no owner that could be judged"
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Sprintf("belongs to user %d, not to root", stat.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 && !(sticky && info.Mode()&fs.ModeSticky != 0) {
		return fmt.Sprintf("may be written by others than root (mode %04o)", info.Mode().Perm())
	}
	return ""
}
