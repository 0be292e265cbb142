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
func FuzzDialogue(f *testing.F) {
	for _, s := range []string{
		"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\np1 OK begin\r\n", "* OK ready\r\n* CAPABILITY IMAP4rev1\r\np1 OK begin\r\nx",
		"* PREAUTH hello\r\n", "* BYE too many\r\n", "* OK x\r\np1 NO not now\r\n", "* OK x\r\np1 BAD what\r\n", "* OK x\r\np2 OK\r\n", "* \r\n",
		"220 mail ESMTP\r\n250-mail\r\n250 STARTTLS\r\n220 2.0.0 Ready\r\n", "220 mail ESMTP\r\n250 mail\r\n", "220-a\r\n220 b\r\n250-x\r\n250 starttls\r\n220 go\r\ninjected\r\n",
		"421 4.7.0 too many\r\n", "\x1b[2J\r\n", strings.Repeat("* OK x\r\n", 200),
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	opened := map[bool]*regexp.Regexp{
		true:  regexp.MustCompile(`(?im)^p1[ \t]+OK`),
		false: regexp.MustCompile(`(?im)^250.STARTTLS[^\n]*\n(250[^\n]*\n)*220`),
	}
	f.Fuzz(func(t *testing.T, in string, imap bool) {
		conn := &spoken{countingReader: countingReader{r: strings.NewReader(in)}}
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

// spoken is a connection on which the server has said everything already.
type spoken struct {
	countingReader
	said bytes.Buffer
}

func (s *spoken) Write(p []byte) (int, error) { return s.said.Write(p) }

var _ io.ReadWriter = (*spoken)(nil)
