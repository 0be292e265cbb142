package postfix

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"postcert/verify/maillog"
	"postcert/verify/problem"
)

// LogFollower reads what an instance logs from now on, in the order in which it is
// logged: see [Instance.FollowLog].
type LogFollower struct {
	begin  time.Time
	files  []*followed // that may be the log; one, if maillog_file names it
	shared bool        // others write to it too
	name   string      // syslog_name, of the lines in a shared log
	source string      // of the lines so far, "" before the first
	seen   int         // lines of the journal that were given out
}

// followed is a log file, read up to a place.
type followed struct {
	path string
	file *os.File // nil: it does not exist yet
	rest []byte   // of a line that is not complete
}

// FollowLog begins to follow the log of the instance: what Lines returns was logged
// after this call. It is found as ReadLog finds it. Errors: log_missing and
// log_unreadable, as of ReadLog.
func (i Instance) FollowLog(ctx context.Context) (*LogFollower, error) {
	v, err := i.values(ctx, "maillog_file", "syslog_name", "multi_instance_name")
	if err != nil {
		return nil, err
	}
	l := &LogFollower{begin: time.Now(), name: v["syslog_name"]}
	paths := syslogFiles
	if path := v["maillog_file"]; path != "" {
		if strings.HasPrefix(path, "/dev/") {
			return nil, problem.New("log_unreadable", problem.At{File: i.MainPath(), Parameter: "maillog_file"}, "maillog_file is %s, which cannot be read back", path)
		}
		paths = []string{path}
	} else {
		l.shared = true
	}
	for _, path := range paths {
		f := &followed{path: path}
		if err := f.open(io.SeekEnd); err != nil {
			l.Close()
			return nil, err
		}
		l.files = append(l.files, f)
	}
	if l.shared && journalctl() == "" && !slices.ContainsFunc(l.files, func(f *followed) bool { return f.file != nil }) {
		return nil, problem.New("log_missing", problem.At{}, "this host has no mail log: neither maillog_file, nor %s, nor journalctl(1)", strings.Join(syslogFiles, ", "))
	}
	return l, nil
}

// Source is where lines came from: the path of a file, "journal", or "" as long as
// there was none.
func (l *LogFollower) Source() string { return l.source }

// Close ends it.
func (l *LogFollower) Close() {
	for _, f := range l.files {
		if f.file != nil {
			f.file.Close()
		}
	}
}

// Lines are those that were logged since the last call. Of several logs that a host
// may have, the first that has a line of this instance is the one; a file is looked
// at before the journal.
func (l *LogFollower) Lines(ctx context.Context) ([]LogLine, error) {
	for _, f := range l.files {
		if l.source != "" && l.source != f.path {
			continue
		}
		lines, err := f.lines()
		if err != nil {
			return nil, err
		}
		if lines = l.ours(lines); len(lines) > 0 {
			l.source = f.path
			return lines, nil
		}
	}
	path := journalctl()
	if !l.shared || path == "" || l.source != "" && l.source != journalSource {
		return nil, nil
	}
	var all []LogLine
	if _, err := readJournal(ctx, path, l.begin, func(line LogLine) { all = append(all, line) }); err != nil {
		return nil, err
	}
	all = l.ours(slices.DeleteFunc(all, func(line LogLine) bool { return line.Time.Before(l.begin) }))
	lines := all[min(l.seen, len(all)):]
	if l.seen = len(all); len(lines) > 0 {
		l.source = journalSource
	}
	return lines, nil
}

func (l *LogFollower) ours(lines []LogLine) []LogLine {
	if !l.shared {
		return lines
	}
	return ofInstance(lines, l.name)
}

const journalSource = "journal"

// journalctl is the path of journalctl(1), "" if the host has none.
func journalctl() string {
	if n := slices.IndexFunc(journalctlPaths, isFile); n >= 0 {
		return journalctlPaths[n]
	}
	return ""
}

// open opens the file, if there is one, at its beginning or end.
func (f *followed) open(whence int) error {
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was logged yet
	}
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if fi, err := file.Stat(); err != nil || !fi.Mode().IsRegular() {
		file.Close()
		return errors.Join(err, problem.New("log_unreadable", problem.At{File: f.path}, "%s is not a regular file", f.path))
	}
	if _, err := file.Seek(0, whence); err != nil {
		file.Close()
		return fmt.Errorf("reading the log: %w", err)
	}
	f.file, f.rest = file, nil
	return nil
}

// lines are the complete lines that were added. When the file was moved away
// (logrotate(8), postfix logrotate) its end is read, and the new one from its
// beginning; one that was cut off is read from its beginning, too.
func (f *followed) lines() ([]LogLine, error) {
	if f.file == nil {
		if err := f.open(io.SeekStart); err != nil || f.file == nil {
			return nil, err
		}
	}
	out, err := f.read()
	if err != nil {
		return out, err
	}
	now, err := os.Stat(f.path)
	if err != nil {
		return out, nil // moved away, and not there again yet
	}
	was, err := f.file.Stat()
	if err != nil {
		return out, fmt.Errorf("reading the log: %w", err)
	}
	at, _ := f.file.Seek(0, io.SeekCurrent)
	if os.SameFile(now, was) && at <= was.Size() {
		return out, nil
	}
	f.file.Close()
	f.file = nil
	if err := f.open(io.SeekStart); err != nil || f.file == nil {
		return out, err
	}
	more, err := f.read()
	return append(out, more...), err
}

// read reads to the end of the file.
func (f *followed) read() ([]LogLine, error) {
	var out []LogLine
	now := time.Now()
	b := bufio.NewReaderSize(f.file, longestLine)
	for {
		part, err := b.ReadSlice('\n')
		f.rest = append(f.rest, part[:min(len(part), max(0, longestLine-len(f.rest)))]...)
		if err == nil {
			if line, ok := maillog.ParseLine(string(bytes.TrimRight(f.rest, "\r\n")), now); ok {
				out = append(out, line)
			}
			f.rest = f.rest[:0]
			continue
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		return out, fmt.Errorf("reading the log: %w", err)
	}
}
