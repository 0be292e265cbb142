package notify

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// messageIDs make each event one that can be asked for, whatever its words are in
// a later version (MESSAGE_ID of systemd.journal-fields(7)).
var messageIDs = map[Event]string{
	Failure:    "f6249c3e38d44c80b38496e7be3a756c",
	Rollback:   "ebbb17c7859b418da9459b1958b69d31",
	Incomplete: "a1b8009cd1574569aaed3dd090dc988a",
	Expiry:     "c9cac7bf2692451dbba288b9067f9484",
	Drift:      "512f54ab6f0e44bea178db16d9ee1c0a",
}

// journalSocket is where systemd-journald takes messages with fields, if it is
// the one that reads the system's log socket; else "". A line that goes there
// arrives in the same places as one by syslog(3), forwarding to syslog included.
func journalSocket(logSocket string) string {
	resolved, err := filepath.EvalSymlinks(logSocket)
	if err != nil || filepath.Base(resolved) != "dev-log" {
		return ""
	}
	path := filepath.Join(filepath.Dir(resolved), "socket")
	if fi, err := os.Stat(path); err != nil || fi.Mode().Type() != os.ModeSocket {
		return ""
	}
	return path
}

// journal sends the line with its facts as fields, by journald's native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). The library for it, which the
// daemon uses for sd_notify(3), waits for ever for a journald that hangs.
func (m MailLog) journal(ctx context.Context, path string, i Item) error {
	d := net.Dialer{Timeout: logWait}
	c, err := d.DialContext(ctx, "unixgram", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(logWait))
	_, err = c.Write(journalMessage(i))
	return err
}

// journalMessage is an item as journald wants it. The first fields are those that
// syslog has; see the README of contrib/prometheus for ours.
func journalMessage(i Item) []byte {
	var b bytes.Buffer
	field := func(name, value string) {
		if value == "" {
			return
		}
		value = cut(strings.ToValidUTF8(value, " "), maxText)
		if !strings.Contains(value, "\n") {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
			return
		}
		fmt.Fprintf(&b, "%s\n", name)
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
		b.WriteString(value + "\n")
	}
	field("MESSAGE", severityWord(i)+i.Line())
	field("PRIORITY", fmt.Sprint(severity(i)))
	field("SYSLOG_FACILITY", fmt.Sprint(facilityMail))
	field("SYSLOG_IDENTIFIER", tag)
	field("SYSLOG_PID", fmt.Sprint(os.Getpid()))
	field("MESSAGE_ID", messageIDs[i.Event])
	field("POSTCERT_EVENT", string(i.Event))
	field("POSTCERT_PHASE", string(i.Phase))
	field("POSTCERT_CERTIFICATE", i.Name)
	field("POSTCERT_INSTANCE", i.Instance)
	field("POSTCERT_PROBLEM", i.ID)
	field("POSTCERT_HAPPENED", i.What)
	field("POSTCERT_SERVED", i.State)
	field("POSTCERT_NEXT", i.Do)
	if !i.Since.IsZero() {
		field("POSTCERT_SINCE", i.Since.UTC().Format(time.RFC3339))
	}
	return b.Bytes()
}
