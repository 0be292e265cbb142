package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// What a server may send in one reply. RFC 5321 section 4.5.3.1.5 allows 512
// octets in a line, Postfix sends up to 2048; nobody has a reason to send more
// than a few dozen lines.
const (
	maxLine   = 2048
	maxLines  = 128
	maxDetail = 512
)

var (
	errLongLine  = errors.New("line longer than 2048 octets")
	errManyLines = errors.New("reply of more than 128 lines")
)

// protocolError is something a server of the protocol would not say.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

// reply is one SMTP reply: a code and the texts of its lines.
type reply struct {
	code  int
	lines []string // without code, separator and line end; printable
}

// String is the reply as one line: the code and its last text, which is where
// servers put the reason.
func (r reply) String() string {
	if len(r.lines) == 0 {
		return fmt.Sprintf("%03d", r.code)
	}
	return strings.TrimSpace(fmt.Sprintf("%03d %s", r.code, r.lines[len(r.lines)-1]))
}

// enhanced is the enhanced status code (RFC 2034) of the last line, "4.7.0",
// or "".
func (r reply) enhanced() string {
	if len(r.lines) == 0 {
		return ""
	}
	word, _, _ := strings.Cut(r.lines[len(r.lines)-1], " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 {
		return ""
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return ""
		}
	}
	return word
}

// has tells whether one of the lines contains s, whatever its case.
func (r reply) has(s string) bool {
	for _, l := range r.lines {
		if strings.Contains(strings.ToLower(l), strings.ToLower(s)) {
			return true
		}
	}
	return false
}

// offers tells whether an EHLO reply lists an extension. Keywords do not depend
// on case and may have parameters (RFC 5321 section 4.1.1.1); the first line is
// the server's name.
func (r reply) offers(keyword string) bool {
	for i, l := range r.lines {
		word, _, _ := strings.Cut(l, " ")
		if i > 0 && strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// lineReader reads lines of bounded length. It never buffers more than one
// kilobyte beyond a line.
type lineReader struct {
	r   *bufio.Reader
	got bool // at least one byte came
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 1024)}
}

// line returns the next line, printable and without its end. A line feed alone
// ends a line too: a probe is not a relay, nothing can be smuggled through it.
func (l *lineReader) line() (string, error) {
	var b []byte
	for {
		c, err := l.r.ReadByte()
		if err != nil {
			return "", err
		}
		l.got = true
		if c == '\n' {
			return printable(strings.TrimSuffix(string(b), "\r")), nil
		}
		if len(b) == maxLine {
			return "", &protocolError{errLongLine.Error()}
		}
		b = append(b, c)
	}
}

// buffered tells whether bytes are waiting that nobody asked for.
func (l *lineReader) buffered() bool { return l.r.Buffered() > 0 }

// readReply reads one SMTP reply, of one or several lines (RFC 5321 section
// 4.2.1). each is called with every line as it comes.
func readReply(l *lineReader, each func(string)) (reply, error) {
	var r reply
	for len(r.lines) < maxLines {
		s, err := l.line()
		if err != nil {
			return r, err
		}
		each(s)
		code, more, text, ok := parseLine(s)
		if !ok || (len(r.lines) > 0 && code != r.code) {
			return r, &protocolError{fmt.Sprintf("not an SMTP reply: %q", brief(s))}
		}
		r.code = code
		r.lines = append(r.lines, text)
		if !more {
			return r, nil
		}
	}
	return r, &protocolError{errManyLines.Error()}
}

// parseLine splits a reply line: "250-text" is followed by more, "250 text" and
// "250" are the last.
func parseLine(s string) (code int, more bool, text string, ok bool) {
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9' {
		return 0, false, "", false
	}
	code = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if len(s) == 3 {
		return code, false, "", true
	}
	if s[3] != ' ' && s[3] != '-' {
		return 0, false, "", false
	}
	return code, s[3] == '-', s[4:], true
}

// printable replaces what could steer a terminal or break a line of a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// brief shortens a server's words to what fits a message.
func brief(s string) string {
	if len(s) <= maxDetail {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetail], "") + "..."
}

// The step of the dialogue that a reply answers decides what the reply means.
func judge(p Phase, r reply) Reason {
	// Postfix anvil(8) limits: "421 4.7.0 .. Error: too many connections from",
	// "454 4.7.0 Error: too many new TLS sessions from".
	if r.code >= 400 && r.code < 500 && r.has("too many") {
		return RateLimited
	}
	switch {
	case r.code == 421:
		return ShuttingDown
	case p == Greeting && r.code == 220, p == Hello && r.code == 250, p == StartTLS && r.code == 220:
		return OK
	case p == StartTLS && r.code == 454:
		return judge454(r)
	// RFC 5321 section 4.2.4: not implemented, not recognised, out of order.
	case p != Greeting && r.code >= 500 && r.code <= 504:
		return NotOffered
	case r.code >= 400:
		return Refused
	}
	return ProtocolError
}

// judge454 tells the two things apart that Postfix answers to STARTTLS with the
// same code: "454 4.7.0 TLS not available due to local problem" is about the
// certificate, "454 4.3.0 Try again later" is about a milter. Other servers
// send no enhanced code, or another one, but name TLS.
func judge454(r reply) Reason {
	switch {
	case r.has("TLS"), r.enhanced() == "4.7.0":
		return TLSNotAvailable
	case r.enhanced() == "4.3.0":
		return MilterUnavailable
	}
	return Refused
}
