package rehearsal

import (
	"regexp"
	"testing"
	"unicode/utf8"
)

// FuzzLog: whatever a daemon logs, a line of it is readable text and no longer
// than what came; and one as Postfix writes it is taken apart right.
func FuzzLog(f *testing.F) {
	f.Add("Nov 20 22:00:01 mail rehearsal/submission/smtpd[12]: warning: TLS library problem: x", "rehearsal/submission", "smtpd", "warning", "cannot load certificate: a]: b", "3.7.11")
	f.Add("<22>rehearsal/smtpd[1]: fatal: open /a: No such file", "rehearsal", "master", "", "SSL_accept error from unix-socket", "3.4-20190227")
	f.Add("", "rehearsal-smtp", "smtpd", "warning", "cannot load certificate: a]: b", "3.7.11")
	f.Add("\xff]: \x00", "a", "b", "panic", "", "x.y")
	word := regexp.MustCompile(`^[^ /\[\]]+$`)
	f.Fuzz(func(t *testing.T, raw, tag, program, severity, text, version string) {
		l := parse(raw)
		if len(l.tag)+len(l.program)+len(l.severity)+len(l.text) > 3*len(raw) || !utf8.ValidString(l.String()) {
			t.Fatalf("%q is %+v", raw, l)
		}
		blames(l, []string{tag})
		if supported(version) == nil && version != "" && (version[0] < '0' || version[0] > '9') && version[0] != '+' {
			t.Fatalf("Postfix %q is supported", version)
		}
		if !word.MatchString(tag) || !word.MatchString(program) || !printableASCII(tag+program+text) || len(text) == 0 || lineSeverity.MatchString(text) {
			return
		}
		head, want := "", ""
		switch severity {
		case "warning", "error", "fatal", "panic":
			head, want = severity+": ", severity
		}
		l = parse("Nov 20 22:00:01 mail " + tag + "/" + program + "[12]: " + head + text)
		if l.tag != tag || l.program != program || l.severity != want || l.text != text {
			t.Fatalf("%q, %q, %q, %q is %+v", tag, program, head, text, l)
		}
	})
}

var lineSeverity = regexp.MustCompile(`^(warning|error|fatal|panic): `)

func printableASCII(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
