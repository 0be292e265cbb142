package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// journald starts a systemd-journald of its own, with an empty /etc and a /run in
// dir, and returns its log socket.
func journald(t *testing.T, dir string) string {
	t.Helper()
	const script = `set -e
mount -t tmpfs none /var/log
mount --bind "$1" /run
mount -t tmpfs none /etc
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
exec /lib/systemd/systemd-journald`
	if err := os.MkdirAll(filepath.Join(dir, "systemd/journal"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--kill-child", "--fork", "sh", "-c", script, "sh", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(); _ = cmd.Wait() })
	socket := filepath.Join(dir, "systemd/journal/dev-log")
	for last := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unixgram", socket); err == nil {
			c.Close()
			return socket
		}
		if time.Now().After(last) {
			t.Fatal("journald does not listen")
		}
	}
}

// journalctl asks for the entries that match, until there are n.
func journalctl(t *testing.T, dir string, n int, match ...string) (entries []map[string]any) {
	t.Helper()
	args := append([]string{"--directory", filepath.Join(dir, "log/journal"), "-o", "json", "--no-pager"}, match...)
	for last := time.Now().Add(10 * time.Second); len(entries) < n && time.Now().Before(last); time.Sleep(20 * time.Millisecond) {
		out, _ := exec.Command("journalctl", args...).Output() // fails as long as there is no journal
		entries = nil
		for line := range strings.Lines(string(out)) {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e)
		}
	}
	if len(entries) != n {
		t.Errorf("journalctl %q has %d entries, want %d", match, len(entries), n)
	}
	return entries
}

// The real journald has each fact in a field of its own, by which journalctl finds
// the line, and the line itself in the mail log as before.
func TestJournald(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "journal") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := MailLog{Socket: filepath.Join(dir, "log-link"), Postfix: func() Postfix { return Postfix{CommandDirectory: "/nowhere"} }}
	if err := os.Symlink(journald(t, dir), m.Socket); err != nil {
		t.Fatal(err)
	}
	first := notice().Items[0]
	first.What = "the key is another one\nPRIORITY=0\n" + hostile
	last := Item{Phase: Ends, Event: Rollback, Name: "b.example.com", Instance: "/etc/postfix-b"}
	if err := m.Send(t.Context(), notice(first, last)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		match []string
		want  map[string]string
	}{
		{[]string{"POSTCERT_CERTIFICATE=mail.example.com"}, map[string]string{
			"MESSAGE": severityWord(first) + first.Line(), "PRIORITY": "3", "SYSLOG_FACILITY": "2", "SYSLOG_IDENTIFIER": "postcert",
			"MESSAGE_ID": messageIDs[Failure], "POSTCERT_EVENT": "failure", "POSTCERT_PHASE": "begins", "POSTCERT_INSTANCE": "/etc/postfix",
			"POSTCERT_PROBLEM": "key_mismatch", "POSTCERT_SERVED": first.State, "POSTCERT_NEXT": first.Do, "POSTCERT_SINCE": "2026-03-01T12:00:00Z",
		}},
		{[]string{"-t", "postcert", "-p", "info..info", "--facility=mail"}, map[string]string{
			"PRIORITY": "6", "MESSAGE_ID": messageIDs[Rollback], "POSTCERT_PHASE": "ends", "POSTCERT_INSTANCE": "/etc/postfix-b",
		}},
	} {
		for _, e := range journalctl(t, dir, 1, tt.match...) {
			for k, want := range tt.want {
				if fmt.Sprint(e[k]) != want {
					t.Errorf("%q: %s is %q, want %q", tt.match, k, e[k], want)
				}
			}
		}
	}
	journalctl(t, dir, 2, "SYSLOG_IDENTIFIER=postcert") // nothing twice
	ids := map[string]bool{}
	for _, e := range []Event{Failure, Rollback, Incomplete, Expiry, Drift} {
		ids[messageIDs[e]] = true
	}
	if len(ids) != 5 || ids[""] {
		t.Errorf("not an id for each event: %v", messageIDs)
	}
}

// A journald that does not take the message is not waited for longer than a
// moment, and the line goes the old way.
func TestJournaldHangs(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "journal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listen := func(name string) *net.UnixConn {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	listen("socket")
	old := listen("dev-log")
	m := MailLog{Socket: filepath.Join(dir, "dev-log"), Postfix: func() Postfix { return Postfix{CommandDirectory: "/nowhere"} }}
	start := time.Now()
	for time.Since(start) < logWait/2 { // until the socket is full
		if m.journal(t.Context(), filepath.Join(dir, "socket"), notice().Items[0]) != nil {
			break
		}
	}
	if err := m.Send(t.Context(), notice()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < logWait || took > 3*logWait {
		t.Errorf("took %s", took)
	}
	buf := make([]byte, 2000)
	if n, err := old.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "<19>") {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
