package delivery

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Message is a mail that can be found again.
type Message struct {
	From, To Address
	Mark     string    // nobody else's: NewMark
	Host     string    // that sends it, for the Message-ID
	Time     time.Time // of day
}

// NewMark is 16 random hexadecimal digits.
func NewMark() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand: it never returns an error
	return hex.EncodeToString(b[:])
}

// ID is the Message-ID, with its angle brackets (RFC 5322 section 3.6.4).
func (m Message) ID() string {
	return fmt.Sprintf("<postcert-%s@%s>", m.Mark, m.Host)
}

// Subject is how a person finds it.
func (m Message) Subject() string { return "postcert send-test " + m.Mark }

// Bytes is the mail with line feeds alone, as sendmail(1) takes it. That nothing
// answers it by itself is what Auto-Submitted asks for (RFC 3834 section 5).
func (m Message) Bytes() []byte {
	var b strings.Builder
	for _, h := range [][2]string{
		{"From", m.From.String()}, {"To", m.To.String()}, {"Subject", m.Subject()}, {"Date", m.Time.Format(time.RFC1123Z)},
		{"Message-ID", m.ID()}, {"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=us-ascii"},
	} {
		fmt.Fprintf(&b, "%s: %s\n", h[0], h[1])
	}
	fmt.Fprintf(&b, "\nThis is a test that \"postcert send-test\" has sent from\n%s.\nNothing has to be done with it.\n", m.Host)
	return []byte(b.String())
}
