package postfix

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcert/deploy/program"
	"postcert/verify/maillog"
	"postcert/verify/problem"
)

// LogRead says what ReadLog read.
type LogRead struct {
	Source string    // the path of a file, or "journal"
	Lines  int       // that were given to the caller
	Unread []string  // why an older part of the log, moved away by logrotate(8), could not be read to its end
	From   time.Time // of the oldest line that a file has, older than asked for or not; zero if it has none, and for the journal
}

const (
	longestLine = 16 << 10        // bytes; what is longer is cut
	journalTime = 5 * time.Minute // for a journal of months on a slow disk
)

// ReadLog gives f each line that this instance has logged at or after since,
// oldest first: from maillog_file if it is set, else from syslog's file and the one
// before it, else from the journal. It keeps no more than one line in memory, so
// the log may be large. LogSince is for the few last lines of a transaction.
func (i Instance) ReadLog(ctx context.Context, since time.Time, f func(LogLine)) (LogRead, error) {
	v, err := i.values(ctx, "maillog_file", "syslog_name", "multi_instance_name")
	if err != nil {
		v = map[string]string{} // see LogSince
	}
	switch path := v["maillog_file"]; {
	case strings.HasPrefix(path, "/dev/"):
		return LogRead{}, problem.New("log_unreadable", problem.At{File: i.MainPath(), Parameter: "maillog_file"}, "maillog_file is %s, which cannot be read back", path)
	case path != "":
		return ReadLogFile(ctx, path, since, f)
	}
	ours := func(l LogLine) bool { return len(ofInstance([]LogLine{l}, v["syslog_name"])) > 0 }
	return readShared(ctx, since, ours, f)
}

// readShared reads a log that all programs of the host write to.
func readShared(ctx context.Context, since time.Time, ours func(LogLine) bool, f func(LogLine)) (LogRead, error) {
	count := 0
	only := func(l LogLine) {
		if ours(l) {
			count++
			f(l)
		}
	}
	idle := ""
	for _, path := range syslogFiles {
		fi, err := os.Stat(path)
		if err != nil {
			continue
		}
		if fi.ModTime().Before(since) { // perhaps of a syslog that is gone
			idle = path
			continue
		}
		r, err := ReadLogFile(ctx, path, since, only)
		r.Lines = count
		return r, err
	}
	for _, path := range journalctlPaths {
		if isFile(path) {
			r, err := readJournal(ctx, path, since, only)
			r.Lines = count
			return r, err
		}
	}
	if idle != "" {
		r, err := ReadLogFile(ctx, idle, since, only)
		r.Lines = count
		return r, err
	}
	return LogRead{}, problem.New("log_missing", problem.At{}, "this host has no mail log: neither maillog_file, nor %s, nor journalctl(1)", strings.Join(syslogFiles, ", "))
}

// ReadLogFile gives f each line of a log file at or after since; the zero time is
// all of them. As long as what is read begins later than since, what logrotate(8)
// has moved away before is read too, and first; a damaged part of that is left out
// and named.
func ReadLogFile(ctx context.Context, path string, since time.Time, f func(LogLine)) (LogRead, error) {
	r, files := LogRead{Source: path}, []string{path}
	if !since.IsZero() {
		for _, older := range rotated(path) {
			first, err := firstTime(files[len(files)-1])
			if err != nil && !errors.Is(err, os.ErrNotExist) && len(files) == 1 {
				return r, err
			}
			if err != nil && len(files) > 1 || !first.IsZero() && !first.After(since) {
				break // what is damaged is told below
			}
			files = append(files, older)
		}
	}
	for n, file := range slices.Backward(files) {
		switch err := r.file(ctx, file, since, f); {
		case err == nil, n > 0 && errors.Is(err, os.ErrNotExist):
		case n == 0 || ctx.Err() != nil:
			return r, err
		default: // the younger parts are what is wanted most
			r.Unread = append(r.Unread, err.Error())
		}
	}
	return r, nil
}

// dated is what logrotate's dateext appends, and a compressed file's end.
var dated = regexp.MustCompile(`^-[0-9]{8}(-[0-9]+)?(\.gz)?$`)

// rotated are the files that logrotate(8) has made of path, the youngest first:
// path.1, path.2.gz and so on, or with dateext path-20260131.gz. Other compressions
// than gzip's are not read.
func rotated(path string) []string {
	var out []string
	for n := 1; ; n++ {
		numbered := fmt.Sprintf("%s.%d", path, n)
		if !isFile(numbered) {
			numbered += ".gz"
		}
		if !isFile(numbered) {
			break
		}
		out = append(out, numbered)
	}
	if len(out) > 0 {
		return out
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil // the file itself will tell
	}
	for _, e := range slices.Backward(entries) { // sorted by name, which is by date
		if end, ok := strings.CutPrefix(e.Name(), filepath.Base(path)); ok && dated.MatchString(end) {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return out
}

var errFirst = errors.New("the first line is enough")

// firstTime is the time of the first line of a log file, zero if it has none.
func firstTime(path string) (first time.Time, err error) {
	err = eachLine(context.Background(), path, func(line string) error {
		if l, ok := maillog.ParseLine(line, time.Now()); ok {
			first = l.Time
			return errFirst
		}
		return nil
	})
	if errors.Is(err, errFirst) {
		err = nil
	}
	return first, err
}

func (r *LogRead) file(ctx context.Context, path string, since time.Time, f func(LogLine)) error {
	now := time.Now()
	return eachLine(ctx, path, func(line string) error {
		if l, ok := maillog.ParseLine(line, now); ok {
			r.take(l, since, f)
		}
		return nil
	})
}

// take counts a line and hands it on if it is late enough.
func (r *LogRead) take(l LogLine, since time.Time, f func(LogLine)) {
	if r.From.IsZero() || l.Time.Before(r.From) {
		r.From = l.Time
	}
	// The clock of a log may have seconds only.
	if !l.Time.Before(since.Truncate(time.Second)) {
		r.Lines++
		f(l)
	}
}

// eachLine calls f with each line of a regular file.
func eachLine(ctx context.Context, path string, f func(string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer file.Close()
	if fi, err := file.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, problem.New("log_unreadable", problem.At{File: path}, "%s is not a regular file", path))
	}
	if !strings.HasSuffix(path, ".gz") {
		return EachLine(ctx, file, f)
	}
	text, err := gzip.NewReader(file)
	if err != nil {
		return problem.New("log_unreadable", problem.At{File: path}, "%s cannot be decompressed: %v", path, err)
	}
	if err := EachLine(ctx, text, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// EachLine calls f with each line of r, without its end, and cut off after 16 KiB.
// It ends with the first error of f.
func EachLine(ctx context.Context, r io.Reader, f func(string) error) error {
	b := bufio.NewReaderSize(r, longestLine)
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := b.ReadSlice('\n')
		text := strings.TrimRight(string(line), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = b.ReadSlice('\n') // the rest of a line that is too long
		}
		if len(line) > 0 {
			if ferr := f(text); ferr != nil {
				return ferr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
	}
}

// readJournal reads what syslog(3) clients of the facility mail have logged.
func readJournal(ctx context.Context, journalctl string, since time.Time, f func(LogLine)) (LogRead, error) {
	r := LogRead{Source: "journal"}
	args := []string{"--output=json", "--no-pager", "--quiet", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_HOSTNAME"}
	if !since.IsZero() {
		args = append(args, "--since=@"+strconv.FormatInt(since.Unix(), 10))
	}
	w := &lineWriter{f: func(line []byte) {
		if l, ok := journalLine(line); ok {
			r.take(l, since, f)
		}
	}}
	_, err := program.Run(ctx, program.Command{Path: journalctl, Args: append(args, "SYSLOG_FACILITY=2"), Timeout: journalTime, Stdout: w})
	if err != nil {
		return r, fmt.Errorf("reading the journal: %w", err)
	}
	w.end()
	r.From = time.Time{} // what is older was not asked for
	return r, nil
}

// lineWriter splits what is written to it into lines; of a line that is too long
// the rest is dropped.
type lineWriter struct {
	f    func(line []byte)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, after, ended := bytes.Cut(p, []byte("\n"))
		w.rest = append(w.rest, line[:min(len(line), max(0, longestLine-len(w.rest)))]...)
		if !ended {
			return n, nil
		}
		w.end()
		p = after
	}
}

func (w *lineWriter) end() {
	if len(w.rest) > 0 {
		w.f(w.rest)
	}
	w.rest = w.rest[:0]
}
