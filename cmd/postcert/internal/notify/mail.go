package notify

import (
	"bytes"
	"context"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"strings"
	"time"

	"postcert/deploy/program"
)

// Mail is a mail through the local Postfix.
//
// It is given to sendmail(1), which puts it into the queue also while Postfix does
// not run: if it is Postfix that is broken, the mail waits there. The envelope
// sender is empty, as that of a bounce, so that nothing comes back and nothing
// answers; RFC 3834 asks for it.
type Mail struct {
	Postfix func() Postfix
	To      string // an address, or a local name such as postmaster
	On      func(what string) bool
}

func (m Mail) ID() string { return "mail:" + m.To }

func (m Mail) Wants(what string) bool { return m.On == nil || m.On(what) }

// Send hands the mail to the queue.
func (m Mail) Send(ctx context.Context, n Notice) error {
	p := m.Postfix()
	path := p.SendmailPath
	if path == "" {
		path = "/usr/sbin/sendmail"
	}
	// The recipient is an argument behind "--", not a header that is read (-t):
	// nothing in the text can add another.
	args := []string{"-i", "-f", "", "--", m.To}
	if p.ConfigDirectory != "" {
		args = append([]string{"-C", p.ConfigDirectory}, args...)
	}
	_, err := program.Run(ctx, program.Command{Path: path, Args: args, Stdin: bytes.NewReader(m.message(n)), Timeout: sendLimit})
	if err != nil {
		return fmt.Errorf("the mail to %s: %w", m.To, err)
	}
	return nil
}

// message is the mail as it is handed over. Postfix adds what is missing, such as
// the Message-ID. Each header is one line of ASCII whatever the texts contain: that
// is what plain and the Q encoding (RFC 2047) are for.
func (m Mail) message(n Notice) []byte {
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, value) }
	header("From", "postcert <postmaster>") // of $myorigin
	header("To", m.To)
	header("Subject", encoded(n.Subject()))
	header("Date", n.Time.UTC().Format(time.RFC1123Z))
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(n.Text())) // a bytes.Buffer takes all
	_ = q.Close()
	return bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
}

// encoded is text for a header, folded where it had to be encoded.
func encoded(s string) string {
	words := strings.Fields(mime.QEncoding.Encode("utf-8", s))
	if !strings.HasPrefix(words[0], "=?") {
		return strings.Join(words, " ")
	}
	return strings.Join(words, "\n ") // RFC 2047 section 2: one encoded word a line
}
