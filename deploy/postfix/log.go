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
	"postcert/verify/maillog"
)

// LogLine is one line of a mail log.
type LogLine = maillog.Line

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

// parseLog reads the lines that maillog.ParseLine knows. Others are left out.
func parseLog(data []byte, now time.Time) []LogLine {
	var out []LogLine
	for line := range strings.Lines(string(data)) {
		if l, ok := maillog.ParseLine(strings.TrimSuffix(line, "\n"), now); ok {
			out = append(out, l)
		}
	}
	return out
}

// parseJournal reads journalctl --output=json: one object per line. A message
// that is no text is an array of numbers there and is left out.
func parseJournal(data []byte) []LogLine {
	var out []LogLine
	for line := range bytes.Lines(data) {
		if l, ok := journalLine(line); ok {
			out = append(out, l)
		}
	}
	return out
}

func journalLine(line []byte) (LogLine, bool) {
	var e struct {
		Time string `json:"__REALTIME_TIMESTAMP"` // microseconds
		Host string `json:"_HOSTNAME"`
		Tag  string `json:"SYSLOG_IDENTIFIER"`
		PID  string `json:"SYSLOG_PID"`
		Text string `json:"MESSAGE"`
	}
	if json.Unmarshal(line, &e) != nil {
		return LogLine{}, false
	}
	us, err := strconv.ParseInt(e.Time, 10, 64)
	if err != nil {
		return LogLine{}, false
	}
	pid, _ := strconv.Atoi(e.PID) // 0 if the program did not give it
	return LogLine{Time: time.UnixMicro(us), Host: e.Host, Tag: e.Tag, Program: filepath.Base(e.Tag), PID: pid, Text: e.Text}, true
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
