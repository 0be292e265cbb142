package probe

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
)

func TestReadReply(t *testing.T) {
	many := strings.Repeat("250-x\r\n", maxLines-1) + "250 x\r\n"
	for _, tt := range []struct {
		name string
		in   string
		want string // code and last text
		n    int    // lines
		bad  bool   // a protocol error
		eof  bool
	}{
		{name: "one line", in: "220 hello\r\n", want: "220 hello", n: 1},
		{name: "code alone", in: "250\r\n", want: "250", n: 1},
		{name: "line feed alone", in: "250-a\n250 b\n", want: "250 b", n: 2},
		{name: "what follows is left", in: "250 a\r\n250 b\r\n", want: "250 a", n: 1},
		{name: "empty texts", in: "250-\r\n250 \r\n", want: "250", n: 2},
		{name: "most lines", in: many, want: "250 x", n: maxLines},
		{name: "one line more", in: "250-x\r\n" + many, bad: true},
		{name: "longest line", in: "220 " + strings.Repeat("x", maxLine-5) + "\r\n", want: "220 " + strings.Repeat("x", maxLine-5), n: 1},
		{name: "longer line", in: "220 " + strings.Repeat("x", maxLine-3) + "\n", bad: true},
		{name: "control characters", in: "220 a\x1b[2J\x00\x9b\xffb\r\n", want: "220 a?[2J???b", n: 1},
		{name: "empty line", in: "\r\n", bad: true},
		{name: "short line", in: "22\r\n", bad: true},
		{name: "no separator", in: "220x\r\n", bad: true},
		{name: "code below 200", in: "199 x\r\n", bad: true},
		{name: "code above 599", in: "600 x\r\n", bad: true},
		{name: "letters", in: "2a0 x\r\n", bad: true},
		{name: "another code follows", in: "250-a\r\n220 b\r\n", bad: true},
		{name: "nothing", in: "", eof: true},
		{name: "line without end", in: "220 x", eof: true},
		{name: "reply without end", in: "220-x\r\n", eof: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := readReply(newLineReader(strings.NewReader(tt.in)), func(string) {})
			var proto *protocolError
			if errors.As(err, &proto) != tt.bad || errors.Is(err, io.EOF) != tt.eof {
				t.Fatalf("got %v", err)
			}
			if err == nil && (r.String() != tt.want || len(r.lines) != tt.n) {
				t.Errorf("got %q in %d lines, want %q in %d", r, len(r.lines), tt.want, tt.n)
			}
		})
	}
}

func TestEnhancedCode(t *testing.T) {
	for text, want := range map[string]string{
		"4.7.0 TLS not available": "4.7.0", "4.3.0": "4.3.0", "TLS": "", "4.7 x": "", "4.x.0 y": "", "..": "", "": "",
	} {
		if got := (reply{code: 454, lines: []string{text}}).enhanced(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzReply: a reply that is accepted is bounded, printable and of one code;
// one that is not is an error; and reading takes no more than it must.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"220 mail.example.com ESMTP Postfix\r\n", "220-a\r\n220 b\r\n", "250-x\r\n250-STARTTLS\r\n250 SIZE 1\r\n",
		"454 4.7.0 TLS not available due to local problem\r\n", "454 4.3.0 Try again later\r\n", "421 4.7.0 x Error: too many connections\r\n",
		"250-\x1b\r\n250", "999 x\r\n", strings.Repeat("250-x\r\n", 200), strings.Repeat("2", 3000),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		in0 := &countingReader{r: strings.NewReader(in)}
		lines := 0
		r, err := readReply(newLineReader(in0), func(string) { lines++ })
		if in0.n > maxLines*(maxLine+2)+1024 || lines > maxLines {
			t.Errorf("read %d bytes, %d lines", in0.n, lines)
		}
		if err != nil {
			return
		}
		if r.code < 200 || r.code > 599 || len(r.lines) == 0 {
			t.Errorf("accepted %+v", r)
		}
		for _, l := range append(r.lines, r.String()) {
			if len(l) > 2*maxLine+4 || strings.ContainsFunc(l, unicode.IsControl) {
				t.Errorf("accepted the line %q", l)
			}
		}
		for _, p := range []Phase{Greeting, Hello, StartTLS} {
			if got := judge(p, r); got == OK && r.code >= 400 || got == TLSNotAvailable && r.code != 454 {
				t.Errorf("%s: %q is %s", p, r, got)
			}
		}
	})
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
