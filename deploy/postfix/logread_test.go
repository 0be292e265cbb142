package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/problem"
)

// stamped is a line of a log at a time.
func stamped(at time.Time, tag, text string) string {
	return at.Format("Jan _2 15:04:05") + " mail " + tag + ": " + text + "\n"
}

func textsOf(lines []LogLine) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Text)
	}
	return out
}

// What logrotate(8) has moved away is read too, if it is needed, and first.
func TestReadLogFile(t *testing.T) {
	now := time.Now()
	path := filepath.Join(t.TempDir(), "mail.log")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path+".1", stamped(now.Add(-3*time.Hour), "postfix/smtpd[1]", "old")+stamped(now.Add(-2*time.Hour), "postfix/smtpd[1]", "rotated"))
	long := strings.Repeat("x", 3*longestLine)
	write(path, "no line of a log\n"+stamped(now.Add(-time.Hour), "postfix/smtpd[1]", "first")+stamped(now, "postfix/smtpd[1]", long)+strings.TrimSuffix(stamped(now, "postfix/smtpd[1]", "last"), "\n"))
	tests := []struct {
		name  string
		since time.Time
		want  []string
	}{
		{"all of one file", time.Time{}, []string{"first", "x", "last"}},
		{"since before both", now.Add(-24 * time.Hour), []string{"old", "rotated", "first", "x", "last"}},
		{"since within the rotated one", now.Add(-150 * time.Minute), []string{"rotated", "first", "x", "last"}},
		{"since within this one", now.Add(-30 * time.Minute), []string{"x", "last"}},
		{"since later", now.Add(time.Hour), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []LogLine
			r, err := ReadLogFile(ctx(t), path, tt.since, func(l LogLine) { got = append(got, l) })
			if err != nil {
				t.Fatal(err)
			}
			words := textsOf(got)
			for n, w := range words {
				if len(w) > longestLine {
					t.Errorf("a line of %d bytes", len(w))
				}
				if strings.HasPrefix(w, "xx") {
					words[n] = "x"
				}
			}
			if !slices.Equal(words, tt.want) || r.Lines != len(got) || r.Source != path {
				t.Errorf("got %q, %+v, want %q", words, r, tt.want)
			}
		})
	}
	if _, err := ReadLogFile(ctx(t), path+".none", time.Time{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a file that is not there", err)
	}
	if _, err := ReadLogFile(ctx(t), t.TempDir(), time.Time{}, nil); !problem.From(err).Has("log_unreadable") {
		t.Errorf("got %v for a directory", err)
	}
	ended, cancel := context.WithCancel(ctx(t))
	cancel()
	if _, err := ReadLogFile(ended, path, time.Time{}, func(LogLine) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v after the end", err)
	}
}

// Of several files that logrotate(8) has made those are read that are needed, from
// the oldest on, compressed by gzip(1) or not, whether it numbers or dates them.
func TestReadLogFileRotated(t *testing.T) {
	now := time.Now()
	for _, names := range [][]string{{"", ".1", ".2.gz", ".3.gz"}, {"", ".1.gz", ".2.gz", ".3.gz"}, {"", "-20260103", "-20260102.gz", "-20260101.gz"}} {
		path := filepath.Join(t.TempDir(), "mail.log")
		for n, name := range names {
			plain := strings.TrimSuffix(path+name, ".gz")
			line := stamped(now.AddDate(0, 0, -7*n), "postfix/smtpd[1]", fmt.Sprint(n))
			if err := os.WriteFile(plain, []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
			if plain == path+name {
				continue
			}
			if out, err := exec.Command("gzip", plain).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		// Of another log, and none that is named so.
		for _, name := range []string{path + "-errors", path + ".1.bak", filepath.Dir(path) + "/mail.logs-20260104"} {
			if err := os.WriteFile(name, []byte(stamped(now, "postfix/smtpd[1]", "no")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for days, want := range map[int]string{0: "0", 3: "0", 10: "1 0", 17: "2 1 0", 100: "3 2 1 0"} {
			var got []LogLine
			if _, err := ReadLogFile(ctx(t), path, now.AddDate(0, 0, -days), func(l LogLine) { got = append(got, l) }); err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(textsOf(got), " "); text != want {
				t.Errorf("%q, %d days: %q, want %q", names, days, text, want)
			}
		}
		if err := os.WriteFile(path+names[2], []byte("no gzip"), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []LogLine
		r, err := ReadLogFile(ctx(t), path, now.AddDate(0, 0, -100), func(l LogLine) { got = append(got, l) })
		if err != nil || len(r.Unread) != 1 || !strings.Contains(r.Unread[0], names[2]) || strings.Join(textsOf(got), " ") != "1 0" {
			t.Errorf("damaged: %q, %+v, %v", textsOf(got), r, err)
		}
	}
}

// A real Postfix's own log, of this instance alone.
func TestReadLog(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Only25: true})
	begin := time.Now()
	f.Start()
	f.WaitLog("daemon started")
	var got []LogLine
	r, err := f.i.ReadLog(ctx(t), begin, func(l LogLine) { got = append(got, l) })
	if err != nil || r.Source != f.LogFile || !slices.ContainsFunc(got, func(l LogLine) bool {
		return l.Program == "master" && l.PID != 0 && l.Host != "" && strings.HasPrefix(l.Text, "daemon started")
	}) {
		t.Errorf("got %+v, %v, %v", got, r, err)
	}
}

func TestReadLogShared(t *testing.T) {
	now := time.Now()
	f := newFixture(t, postfixtest.Options{Main: []string{"maillog_file ="}})
	dir := t.TempDir()
	file := filepath.Join(dir, "mail.log")
	shared := stamped(now, "postfix/smtpd[1]", "ours") + stamped(now, "postfix-two/smtpd[1]", "theirs") + stamped(now, "dovecot", "no")
	if err := os.WriteFile(file, []byte(shared), 0o600); err != nil {
		t.Fatal(err)
	}
	journal := `#!/bin/sh
echo "$*" >` + dir + `/args
echo '{"__REALTIME_TIMESTAMP":"4102444800000000","_HOSTNAME":"mail","SYSLOG_PID":"12","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":"of the journal"}'
echo '{"__REALTIME_TIMESTAMP":"4102444800000000","SYSLOG_IDENTIFIER":"postfix-two/smtpd","MESSAGE":"theirs"}'
echo '{"__REALTIME_TIMESTAMP":"1000000","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":"before"}'
`
	if err := os.WriteFile(dir+"/journalctl", []byte(journal), 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(since time.Time) ([]LogLine, LogRead, error) {
		var got []LogLine
		r, err := f.i.ReadLog(ctx(t), since, func(l LogLine) { got = append(got, l) })
		return got, r, err
	}
	set(t, &journalctlPaths, nil)
	set(t, &syslogFiles, []string{"/nowhere", file})
	if got, r, err := read(now.Add(-time.Hour)); err != nil || !slices.Equal(textsOf(got), []string{"ours"}) || r.Source != file || r.Lines != 1 {
		t.Errorf("got %+v, %+v, %v", got, r, err)
	}
	// A file that nobody has written to since, and no journal: an answer all the same.
	if got, r, err := read(now.Add(time.Hour)); err != nil || len(got) != 0 || r.Source != file {
		t.Errorf("got %+v, %+v, %v", got, r, err)
	}
	set(t, &journalctlPaths, []string{dir + "/journalctl"})
	got, r, err := read(now.Add(time.Hour))
	if err != nil || len(got) != 1 || got[0].Text != "of the journal" || got[0].PID != 12 || got[0].Host != "mail" || r.Source != "journal" || r.Lines != 1 || !r.From.IsZero() {
		t.Errorf("got %+v, %+v, %v", got, r, err)
	}
	if args, err := os.ReadFile(dir + "/args"); err != nil || !bytes.Contains(args, []byte("--since=@")) || !bytes.Contains(args, []byte("SYSLOG_FACILITY=2")) {
		t.Errorf("journalctl was called with %q, %v", args, err)
	}
	set(t, &syslogFiles, []string{"/nowhere"})
	set(t, &journalctlPaths, nil)
	if _, _, err := read(now); !problem.From(err).Has("log_missing") {
		t.Errorf("got %v without any log", err)
	}
	f.ReplaceMain("maillog_file =\n", "maillog_file = /dev/stdout\n")
	if _, _, err := read(now); !problem.From(err).Has("log_unreadable") {
		t.Errorf("got %v for a log that cannot be read back", err)
	}
}
