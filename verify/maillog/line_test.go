package maillog

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 1, 2, 0, 0, 30, 0, zone)
	at := func(y, m, d, h, min, s int) time.Time { return time.Date(y, time.Month(m), d, h, min, s, 0, zone) }
	tests := []struct {
		name, line        string
		want              Line
		service, severity string
		queueID, message  string
	}{
		{"traditional", "Jan  2 00:00:01 mail postfix/smtpd[12]: warning: x: y",
			Line{at(2026, 1, 2, 0, 0, 1), "mail", "postfix/smtpd", "smtpd", 12, "warning: x: y"}, "", "warning", "", "x: y"},
		{"last year", "Dec 31 23:59:59 mail postfix/submission/smtpd[3]: fatal: x",
			Line{at(2025, 12, 31, 23, 59, 59), "mail", "postfix/submission/smtpd", "smtpd", 3, "fatal: x"}, "submission", "fatal", "", "x"},
		{"RFC 3339", "2026-01-02T00:00:01.250000+02:00 mail postfix-two/relay/smtp[1]: 1A2B3C4D: x",
			Line{at(2026, 1, 2, 0, 0, 1).Add(250 * time.Millisecond), "mail", "postfix-two/relay/smtp", "smtp", 1, "1A2B3C4D: x"}, "relay", "", "1A2B3C4D", "x"},
		{"no pid", "Jan  2 00:00:01 mail postfix/postfix-script: x",
			Line{at(2026, 1, 2, 0, 0, 1), "mail", "postfix/postfix-script", "postfix-script", 0, "x"}, "", "", "", "x"},
		{"no head", "postfix/smtpd[7]: NOQUEUE: x", Line{Tag: "postfix/smtpd", Program: "smtpd", PID: 7, Text: "NOQUEUE: x"}, "", "", "", "x"},
		{"text", "  454 4.7.0 TLS not available: x\r\n", Line{Text: "454 4.7.0 TLS not available: x"}, "", "", "", "454 4.7.0 TLS not available: x"},
		{"long queue id", "4XyZ1234567890: warning: x", Line{Text: "4XyZ1234567890: warning: x"}, "", "", "4XyZ1234567890", "warning: x"},
		{"a word is no queue id", "warning: haproxy: x", Line{Text: "warning: haproxy: x"}, "", "warning", "", "haproxy: x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Parse(tt.line, now)
			if !got.Time.Equal(tt.want.Time) {
				t.Errorf("time: got %v, want %v", got.Time, tt.want.Time)
			}
			got.Time, tt.want.Time = time.Time{}, time.Time{}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			for _, x := range [][2]string{{got.Service(), tt.service}, {got.Severity(), tt.severity}, {got.QueueID(), tt.queueID}, {got.Message(), tt.message}} {
				if x[0] != x[1] {
					t.Errorf("got %q, want %q", x[0], x[1])
				}
			}
		})
	}
	for _, line := range []string{"", "x", "Jan  2 00:00:01", "Jan  2 00:00:01 mail", "Jan  2 00:00:01 mail x", "no time: x", "\x00\xff"} {
		if got, ok := ParseLine(line, now); ok {
			t.Errorf("%q: got %+v, want nothing", line, got)
		}
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, text string
		want          map[string]string // nil: no match
	}{
		{"a {x} b", "a 1 b", fields{"x": "1"}},
		{"a {x} b", "a 1 2 b", nil},
		{"a {x} b", "a  b", nil},
		{"a {x...} b", "a 1 2 b", fields{"x": "1 2"}},
		{"a {x...}", "a ", fields{"x": ""}},
		{"*b*", "abc", fields{}},
		{"*b", "abc", nil},
		{"a", "a", fields{}},
		{"a", "ab", nil},
		{"{x}: -1", "c[::1]: -1", fields{"x": "c[::1]"}},
		{"{x}: b", "a: b: b", nil}, // the place would hold a space
		{"{x...}: {y}: b", "a: b: b", fields{"x": "a", "y": "b"}},
	}
	for _, tt := range tests {
		got, ok := compile(tt.pattern).match(tt.text)
		if ok != (tt.want != nil) {
			t.Errorf("%q on %q: matched %v", tt.pattern, tt.text, ok)
		}
		for name, want := range tt.want {
			if got[name] != want {
				t.Errorf("%q on %q: %s is %q, want %q", tt.pattern, tt.text, name, got[name], want)
			}
		}
	}
}

func FuzzRecognise(f *testing.F) {
	for _, s := range samples {
		f.Add(s.line)
		f.Add("Jan  2 00:00:01 mail postfix/smtpd[12]: " + s.line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := Parse(text, testNow)
		if !strings.Contains(text, l.Message()) || !strings.Contains(text, l.Tag) || !strings.Contains(text, l.QueueID()) {
			t.Errorf("%q: %+v has what the line has not", text, l)
		}
		e, ok := Recognise(l)
		if ok != (e.Kind.ID != "") {
			t.Errorf("%q: known %v, kind %q", text, ok, e.Kind.ID)
		}
		for name, v := range e.Fields {
			if !strings.Contains(l.Message(), v) {
				t.Errorf("%q: %s is %q", text, name, v)
			}
		}
		_ = e.Summary()
	})
}
