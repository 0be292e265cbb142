package postfix

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// How a line is read is tested with verify/maillog.
func TestParseLog(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 30, 0, time.UTC)
	got := parseLog([]byte("Jan  2 00:00:01 mail postfix/smtpd[12]: warning: x\nnot a time at all: x\n\n"+
		"2026-01-02T00:00:02+00:00 mail postfix/master[1]: reload"), now)
	if len(got) != 2 || got[0].String() != "postfix/smtpd: warning: x" || got[1].Program != "master" {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte("Jan  2 00:00:01 mail postfix/smtpd[12]: warning: x\n"))
	f.Add([]byte("2026-01-02T00:00:01+02:00 mail postfix/smtpd[12]: x"))
	f.Add([]byte(`{"__REALTIME_TIMESTAMP":"1","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":[1,2]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, l := range append(parseLog(data, time.Now()), parseJournal(data)...) {
			if len(l.Text) > len(data) {
				t.Errorf("%+v is more than was there", l)
			}
		}
	})
}

func TestLogSince(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Only25: true})
	begin := time.Now()
	long := begin.Add(-time.Hour).Format("Jan _2 15:04:05") + " mail postfix/smtpd[1]: warning: long ago\n"
	if err := os.WriteFile(f.LogFile, []byte(strings.Repeat(long, 40000)), 0o600); err != nil { // larger than what is read
		t.Fatal(err)
	}
	if err := os.WriteFile(f.cert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Start()
	if _, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); err == nil {
		t.Error("an unreadable certificate was served")
	}
	f.WaitLog("disabling TLS support")
	lines, err := f.i.LogSince(ctx(t), begin)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(lines, func(l LogLine) bool {
		return l.Program == "smtpd" && strings.HasPrefix(l.Text, "warning: ") && strings.Contains(l.Text, "disabling TLS support")
	}) {
		t.Errorf("got %v", lines)
	}
	if slices.ContainsFunc(lines, func(l LogLine) bool { return strings.Contains(l.Text, "long ago") }) {
		t.Error("got lines of before")
	}
	if later, err := f.i.LogSince(ctx(t), time.Now().Add(2*time.Second)); err != nil || len(later) != 0 {
		t.Errorf("got %v, %v, want nothing", later, err)
	}
}

// Without maillog_file the log is the host's: only this instance's lines count.
func TestLogSinceShared(t *testing.T) {
	now := time.Now()
	stamp := now.Format("Jan _2 15:04:05")
	shared := stamp + " mail postfix/smtpd[1]: warning: ours\n" +
		stamp + " mail postfix-two/smtpd[1]: warning: theirs\n" + stamp + " mail dovecot: warning: no\n"
	tests := []struct {
		name, instance string
		want           string
	}{
		{"primary", "", "ours"},
		{"named", "postfix-two", "theirs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{Name: tt.instance, Main: []string{"maillog_file ="}})
			file := filepath.Join(t.TempDir(), "mail.log")
			if err := os.WriteFile(file, []byte(shared), 0o600); err != nil {
				t.Fatal(err)
			}
			set(t, &syslogFiles, []string{"/nowhere", file})
			lines, err := f.i.LogSince(ctx(t), now)
			if err != nil || len(lines) != 1 || lines[0].Text != "warning: "+tt.want {
				t.Errorf("got %v, %v, want %q", lines, err, tt.want)
			}
		})
	}
}

func TestLogSinceJournal(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Main: []string{"maillog_file ="}})
	dir := t.TempDir()
	script := `#!/bin/sh
echo "$*" >` + dir + `/args
echo '{"__REALTIME_TIMESTAMP":"4102444800000000","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":"warning: ours"}'
echo '{"__REALTIME_TIMESTAMP":"4102444800000000","SYSLOG_IDENTIFIER":"postfix-two/smtpd","MESSAGE":"warning: theirs"}'
echo '{"__REALTIME_TIMESTAMP":"1000000","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":"warning: before"}'
echo '{"__REALTIME_TIMESTAMP":"4102444800000000","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":[255,1]}'
`
	if err := os.WriteFile(dir+"/journalctl", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	set(t, &syslogFiles, nil)
	set(t, &journalctlPaths, []string{dir + "/journalctl"})
	lines, err := f.i.LogSince(ctx(t), time.Unix(1700000000, 5))
	if err != nil || len(lines) != 1 || lines[0].Text != "warning: ours" {
		t.Errorf("got %v, %v", lines, err)
	}
	args, err := os.ReadFile(dir + "/args")
	if err != nil || !strings.Contains(string(args), "--since=@1700000000 SYSLOG_FACILITY=2") {
		t.Errorf("journalctl was called with %q, %v", args, err)
	}
	if err := os.WriteFile(dir+"/journalctl", []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.i.LogSince(ctx(t), time.Now()); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want journalctl's failure", err)
	}
}

// set sets a variable of the package for the test's time.
func set[T any](t *testing.T, v *T, to T) {
	t.Helper()
	before := *v
	*v = to
	t.Cleanup(func() { *v = before })
}
