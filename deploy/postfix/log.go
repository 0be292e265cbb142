package postfix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcert/deploy/program"
)

// LogLine is one line of a mail log.
type LogLine struct {
	Time    time.Time // to the second where the log has no more
	Tag     string    // syslog_name and program, "postfix/submission/smtpd"
	Program string    // the last part of Tag, "smtpd"
	Text    string    // "warning: ..."
}

func (l LogLine) String() string { return l.Tag + ": " + l.Text }

const (
	logTail    = 1 << 20 // bytes read from the end of a log file
	logMax     = 500     // lines returned
	journalMax = 4 << 20 // bytes read of journalctl's output

	logTime = 5 * time.Second // for finding the log and reading it
)

// syslogFiles are where syslog daemons put the mail log: Debian, Red Hat.
var syslogFiles = []string{"/var/log/mail.log", "/var/log/maillog"}

var journalctlPaths = []string{"/usr/bin/journalctl", "/bin/journalctl"}

// LogSince are the lines that this instance logged at or after t, oldest
// first, 500 of them at most, the last ones. They come from maillog_file if it
// is set, else from syslog's file, else from the journal. Clocks of logs have
// seconds, so a line may be up to a second older than t.
//
// Logs explain. They prove nothing: they name no certificate, they may be
// rotated, filtered or written late.
func (i Instance) LogSince(ctx context.Context, t time.Time) ([]LogLine, error) {
	t = t.Truncate(time.Second)
	// What only explains must not hold up an undo.
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	v, err := i.values(ctx, "maillog_file", "syslog_name", "multi_instance_name")
	if err != nil {
		// main.cf is what is broken, and then the log is wanted most. Who
		// cannot read main.cf logs to syslog.
		v = map[string]string{}
	}
	if path := v["maillog_file"]; strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/dev/") {
		data, err := tail(path, logTail)
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		return last(since(parseLog(data, time.Now()), t)), nil
	}
	lines, err := sharedLog(ctx, t)
	return last(ofInstance(since(lines, t), v["syslog_name"])), err
}

// sharedLog reads a log that all programs of the host write to.
func sharedLog(ctx context.Context, t time.Time) ([]LogLine, error) {
	for _, path := range syslogFiles {
		fi, err := os.Stat(path)
		// A file that nobody has written to since is of a syslog that is gone.
		if err != nil || fi.ModTime().Before(t) {
			continue
		}
		data, err := tail(path, logTail)
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		return parseLog(data, time.Now()), nil
	}
	for _, path := range journalctlPaths {
		if !isFile(path) {
			continue
		}
		r, err := program.Run(ctx, program.Command{
			Path: path, Output: journalMax, Timeout: logTime,
			Args: []string{"--output=json", "--no-pager", "--quiet", "--lines=2000",
				"--since=@" + strconv.FormatInt(t.Unix(), 10), "SYSLOG_FACILITY=2"},
		})
		if err != nil {
			return nil, fmt.Errorf("reading the journal: %w", err)
		}
		return parseJournal(r.Stdout), nil
	}
	return nil, nil
}

// tail is the end of a file, from the beginning of a line.
func tail(path string, keep int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was logged yet
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	from := fi.Size() - keep
	if from < 0 {
		from = 0
	}
	data, err := io.ReadAll(io.NewSectionReader(f, from, keep))
	if err != nil {
		return nil, err
	}
	if from > 0 {
		if n := bytes.IndexByte(data, '\n'); n >= 0 {
			data = data[n+1:]
		}
	}
	return data, nil
}

// parseLog reads lines of syslog's traditional form, "Nov 20 21:00:00 HOST
// TAG[PID]: TEXT", in local time, and of its newer one, which begins with an
// RFC 3339 time. Others are left out.
func parseLog(data []byte, now time.Time) []LogLine {
	var out []LogLine
	for line := range strings.Lines(string(data)) {
		if l, ok := parseLine(strings.TrimSuffix(line, "\n"), now); ok {
			out = append(out, l)
		}
	}
	return out
}

func parseLine(line string, now time.Time) (LogLine, bool) {
	const stamp = "Jan _2 15:04:05"
	var when time.Time
	rest := line
	if len(line) > len(stamp) && line[len(stamp)] == ' ' {
		if t, err := time.ParseInLocation(stamp, line[:len(stamp)], now.Location()); err == nil {
			when, rest = withYear(t, now), line[len(stamp)+1:]
		}
	}
	if when.IsZero() {
		first, r, ok := strings.Cut(line, " ")
		t, err := time.Parse(time.RFC3339Nano, first)
		if !ok || err != nil {
			return LogLine{}, false
		}
		when, rest = t, r
	}
	_, rest, ok := strings.Cut(rest, " ") // the host
	tag, text, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 {
		return LogLine{}, false
	}
	tag, _, _ = strings.Cut(tag, "[")
	return newLine(when, tag, text), true
}

// withYear gives a time without a year the one that makes it the latest that
// is not in the future, but for a clock's jitter.
func withYear(t, now time.Time) time.Time {
	t = time.Date(now.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
	if t.After(now.Add(24 * time.Hour)) {
		t = time.Date(now.Year()-1, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
	}
	return t
}

// parseJournal reads journalctl --output=json: one object per line. A message
// that is no text is an array of numbers there and is left out.
func parseJournal(data []byte) []LogLine {
	var out []LogLine
	for line := range bytes.Lines(data) {
		var e struct {
			Time string `json:"__REALTIME_TIMESTAMP"` // microseconds
			Tag  string `json:"SYSLOG_IDENTIFIER"`
			Text string `json:"MESSAGE"`
		}
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		us, err := strconv.ParseInt(e.Time, 10, 64)
		if err != nil {
			continue
		}
		out = append(out, newLine(time.UnixMicro(us), e.Tag, e.Text))
	}
	return out
}

func newLine(t time.Time, tag, text string) LogLine {
	return LogLine{Time: t, Tag: tag, Program: filepath.Base(tag), Text: text}
}

func since(lines []LogLine, t time.Time) []LogLine {
	return slices.DeleteFunc(lines, func(l LogLine) bool { return l.Time.Before(t) })
}

// ofInstance keeps the lines whose tag begins with the instance's syslog_name,
// which postconf(5) makes the name of the instance by default.
func ofInstance(lines []LogLine, name string) []LogLine {
	if name == "" {
		name = "postfix"
	}
	return slices.DeleteFunc(lines, func(l LogLine) bool {
		return l.Tag != name && !strings.HasPrefix(l.Tag, name+"/")
	})
}

func last(lines []LogLine) []LogLine {
	if len(lines) > logMax {
		lines = lines[len(lines)-logMax:]
	}
	return lines
}
