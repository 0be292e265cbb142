package postfix

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/problem"
)

// What is added to a log is given out once, in its order: over a line that is not
// complete yet, over a log that is moved away, and one that is cut off.
func TestFollowLog(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Only25: true})
	now := time.Now()
	line := func(text string) string { return stamped(now, "postfix/smtpd[1]", text) }
	add := func(text string) {
		t.Helper()
		file, err := os.OpenFile(f.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	add(line("before"))
	l, err := f.i.FollowLog(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wants := func(want ...string) {
		t.Helper()
		lines, err := l.Lines(ctx(t))
		if got := textsOf(lines); err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	wants()
	add(line("one") + line("two")[:30])
	wants("one")
	add(line("two")[30:])
	wants("two")
	add(line("three"))
	if err := os.Rename(f.LogFile, f.LogFile+".1"); err != nil {
		t.Fatal(err)
	}
	wants("three")
	add(line("four"))
	wants("four")
	if err := os.Truncate(f.LogFile, 0); err != nil {
		t.Fatal(err)
	}
	wants()
	add(line("five"))
	wants("five")
	if l.Source() != f.LogFile {
		t.Errorf("source %q", l.Source())
	}
}

// A log that all programs write to has lines of others; a file that nobody writes to
// any more gives way to the journal.
func TestFollowLogShared(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Main: []string{"maillog_file ="}})
	dir := t.TempDir()
	file := filepath.Join(dir, "mail.log")
	now := time.Now()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(stamped(now, "postfix/smtpd[1]", "before"))
	set(t, &syslogFiles, []string{"/nowhere", file})
	set(t, &journalctlPaths, nil)
	follow := func() *LogFollower {
		t.Helper()
		l, err := f.i.FollowLog(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	wants := func(l *LogFollower, source string, want ...string) {
		t.Helper()
		lines, err := l.Lines(ctx(t))
		if got := textsOf(lines); err != nil || !slices.Equal(got, want) || l.Source() != source {
			t.Fatalf("got %q of %q, %v, want %q of %q", got, l.Source(), err, want, source)
		}
	}
	l := follow()
	write(stamped(now, "postfix/smtpd[1]", "before") + stamped(now, "postfix-two/smtpd[1]", "theirs") + stamped(now, "dovecot", "no"))
	wants(l, "")
	whole := stamped(now, "postfix/smtpd[1]", "before") + stamped(now, "postfix-two/smtpd[1]", "theirs") + stamped(now, "dovecot", "no") + stamped(now, "postfix/smtp[1]", "ours")
	write(whole)
	wants(l, file, "ours")
	f.AppendMain("syslog_name = postfix-two") // and now theirs is ours
	l = follow()
	write(whole + stamped(now, "postfix/smtp[1]", "of the first") + stamped(now, "postfix-two/smtp[1]", "of the second"))
	wants(l, file, "of the second")
	f.ReplaceMain("syslog_name = postfix-two\n", "")

	entries := filepath.Join(dir, "entries")
	entry := func(text string) string {
		return `{"__REALTIME_TIMESTAMP":"4102444800000000","SYSLOG_IDENTIFIER":"postfix/smtp","MESSAGE":"` + text + "\"}\n"
	}
	if err := os.WriteFile(entries, []byte(`{"__REALTIME_TIMESTAMP":"1000000","SYSLOG_IDENTIFIER":"postfix/smtp","MESSAGE":"before"}`+"\n"+entry("first")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/journalctl", []byte("#!/bin/sh\ncat "+entries+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	set(t, &journalctlPaths, []string{dir + "/journalctl"})
	l = follow()
	wants(l, "journal", "first")
	wants(l, "journal")
	if err := os.WriteFile(entries, []byte(entry("first")+entry("second")), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(l, "journal", "second")

	set(t, &syslogFiles, []string{"/nowhere"})
	set(t, &journalctlPaths, nil)
	if _, err := f.i.FollowLog(ctx(t)); !problem.From(err).Has("log_missing") {
		t.Errorf("got %v without any log", err)
	}
	f.ReplaceMain("maillog_file =\n", "maillog_file = /dev/stdout\n")
	if _, err := f.i.FollowLog(ctx(t)); !problem.From(err).Has("log_unreadable") {
		t.Errorf("got %v for a log that cannot be read back", err)
	}
}
