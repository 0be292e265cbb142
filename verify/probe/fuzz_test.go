package probe

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// FuzzDialogue: whatever a server says, the way to TLS ends after a bounded
// number of bytes and commands; it is open only after the words that open it,
// and with nothing behind them; and what is told of it is one printable line.
// A form feed separates what is said before a command from what comes after it.
func FuzzDialogue(f *testing.F) {
	for _, s := range []string{
		"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n\fp1 OK begin\r\n", "* OK ready\r\n\f* CAPABILITY IMAP4rev1\r\np1 OK begin\r\nx",
		"* PREAUTH hello\r\n", "* BYE too many\r\n", "* OK x\r\n\fp1 NO not now\r\n\f* BYE\r\np2 OK\r\n", "* OK x\r\n\fp1 BAD what\r\n", "* OK x\r\n\fp2 OK\r\n", "* \r\n",
		"220 mail ESMTP\r\n\f250-mail\r\n250 STARTTLS\r\n\f220 2.0.0 Ready\r\n", "220 mail ESMTP\r\n\f250 mail\r\n\f221 bye\r\n",
		"220-a\r\n220 b\r\n\f250-x\r\n250 starttls\r\n\f220 go\r\ninjected\r\n", "220 a\r\n\f250-x\r\n250 STARTTLS\r\n220 early\r\n\f220 go\r\n",
		"220 a\r\n\f250-x\r\n250 STARTTLS\r\n\f454 4.7.0 TLS not available\r\n", "421 4.7.0 too many\r\n", "\x1b[2J\r\n", strings.Repeat("* OK x\r\n", 200),
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	opened := map[bool]*regexp.Regexp{
		true:  regexp.MustCompile(`(?im)^p1[ \t]+OK`),
		false: regexp.MustCompile(`(?im)^250.STARTTLS[^\n]*\n(250[^\n]*\n)*220`),
	}
	f.Fuzz(func(t *testing.T, in string, imap bool) {
		conn := &turns{left: strings.Split(in, "\f")}
		in = strings.ReplaceAll(in, "\f", "")
		e := Endpoint{Protocol: SMTP}
		if imap {
			e.Protocol = IMAP
		}
		d := newDialogue(e, conn)
		var last answer
		var err error
		var phase Phase
		for _, s := range steps(e.Protocol) {
			phase = s.phase
			if last, err = d.ask(s); err != nil || last.reason != OK {
				break
			}
		}
		if strings.ContainsFunc(last.detail, unicode.IsControl) || len(last.detail) > 2*maxDetail {
			t.Fatalf("told as %q", last.detail)
		}
		if err == nil && phase == StartTLS && last.reason == OK && (!opened[imap].MatchString(in) || d.in.buffered()) {
			t.Fatalf("TLS is begun after %q", in)
		}
		if err == nil && last.reason == "" {
			t.Fatalf("no reason for %q", in)
		}
		if last.inSync {
			d.quit()
		}
		if limit := 4 * (maxLines*(maxLine+2) + 1024); conn.n > limit || bytes.Count(conn.said.Bytes(), []byte("\r\n")) > 3 {
			t.Fatalf("read %d bytes, said %q", conn.n, conn.said.Bytes())
		}
	})
}

// turns is a connection to a server that says one thing after the other: the
// first at once, the next when a command came.
type turns struct {
	left []string
	n    int // bytes read
	said bytes.Buffer
}

func (c *turns) Read(p []byte) (int, error) {
	if c.left[0] == "" {
		return 0, io.EOF
	}
	n := copy(p, c.left[0])
	c.left[0] = c.left[0][n:]
	c.n += n
	return n, nil
}

func (c *turns) Write(p []byte) (int, error) {
	if len(c.left) > 1 {
		c.left[1] = c.left[0] + c.left[1]
		c.left = c.left[1:]
	}
	return c.said.Write(p)
}
