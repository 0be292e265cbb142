package cf

import (
	"errors"
	"strings"
	"testing"
)

const (
	newEntry   = "submission inet n - y - - smtpd -o smtpd_tls_security_level=encrypt -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
	newWritten = "submission inet  n       -       y       -       -       smtpd\n  -o smtpd_tls_security_level=encrypt\n  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
	example    = "#submission inet n       -       y       -       -       smtpd\n#  -o syslog_name=postfix/submission\n#     a note\n#\t-o a=b\n"
)

// TestAddEntry: where a new entry goes and how it is written; and taken back, the
// file is what it was, byte for byte.
func TestAddEntry(t *testing.T) {
	tests := []struct{ name, before, after string }{
		{"at the end", "smtp inet n - y - - smtpd\n", "smtp inet n - y - - smtpd\n" + newWritten + "\n"},
		{"no newline there", "smtp inet n - y - - smtpd", "smtp inet n - y - - smtpd\n" + newWritten},
		{"empty", "", newWritten + "\n"},
		{"behind the example", "smtp inet n - y - - smtpd\n" + example + "# text\npickup unix n - y 60 1 pickup\n",
			"smtp inet n - y - - smtpd\n" + example + newWritten + "\n# text\npickup unix n - y 60 1 pickup\n"},
		{"the example is the end", "smtp inet n - y - - smtpd\n" + strings.TrimSuffix(example, "\n"), "smtp inet n - y - - smtpd\n" + example + newWritten},
		{"half a comment", "smtp inet n - y - - smtpd\n" + example + "  -o x=y\npickup unix n - y 60 1 pickup\n",
			"smtp inet n - y - - smtpd\n" + example + "  -o x=y\npickup unix n - y 60 1 pickup\n" + newWritten + "\n"},
		{"of another service", "#submissions inet n - y - - smtpd\n#127.0.0.1:submission inet n - y - - smtpd\n# submission inet n - y - - smtpd\n",
			"#submissions inet n - y - - smtpd\n#127.0.0.1:submission inet n - y - - smtpd\n# submission inet n - y - - smtpd\n" + newWritten + "\n"},
		{"carriage returns", "smtp inet n - y - - smtpd\r\n", "smtp inet n - y - - smtpd\r\n" + strings.ReplaceAll(newWritten, "\n", "\r\n") + "\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e, err := AddEntry(newEntry)
			if err != nil {
				t.Fatal(err)
			}
			traced, _, after, err := Trace(nil, []byte(test.before), []Edit{e})
			if err != nil || string(after) != test.after {
				t.Fatalf("%v: got\n%s\nwant\n%s", err, after, test.after)
			}
			for _, back := range []Edit{traced[0].Inverse(), e.Inverse()} {
				if _, undone, err := Apply(nil, after, []Edit{back}); err != nil || string(undone) != test.before {
					t.Errorf("undone (patch %v): %v: got\n%q\nwant\n%q", back.Redo != nil, err, undone, test.before)
				}
			}
			if _, _, err := Apply(nil, after, []Edit{e}); !isConflict(err) {
				t.Errorf("added twice: %v", err)
			}
		})
	}
}

func isConflict(err error) bool {
	var c *ConflictError
	return errors.As(err, &c)
}

// TestEntryOfOthers: an entry that somebody has changed since is not ours to
// remove; one that was only laid out anew is.
func TestEntryOfOthers(t *testing.T) {
	e, _ := AddEntry(newEntry)
	traced, _, after, err := Trace(nil, []byte("smtp inet n - y - - smtpd\n"), []Edit{e})
	if err != nil {
		t.Fatal(err)
	}
	back := []Edit{traced[0].Inverse()}
	more := strings.Replace(string(after), "=encrypt\n", "=encrypt\n  -o syslog_name=x\n", 1)
	if _, _, err := Apply(nil, []byte(more), back); !isConflict(err) {
		t.Errorf("an entry with another option: %v", err)
	}
	wide := strings.Replace(string(after), "smtpd\n  -o", "smtpd\n# of theirs\n\t-o", 1) + "pickup unix n - y 60 1 pickup\n"
	_, undone, err := Apply(nil, []byte(wide), back)
	if want := "smtp inet n - y - - smtpd\n# of theirs\npickup unix n - y 60 1 pickup\n"; strings.Contains(string(undone), "submission") || err == nil && !strings.Contains(string(undone), "# of theirs") {
		t.Errorf("laid out anew: %v: %q, want %q", err, undone, want)
	}
	if _, _, err := Apply(nil, []byte("smtp inet n - y - - smtpd\n"), back); !isConflict(err) {
		t.Errorf("an entry that is gone: %v", err)
	}
	for _, bad := range []string{"", "submission inet n - y - - ", "a inet n - y - - smtpd\nb inet n - y - - smtpd", " submission inet n - y - - smtpd", "#submission inet n - y - - smtpd", "s inet n - y - - smtpd -o"} {
		if e, err := AddEntry(bad); err == nil {
			t.Errorf("%q is %+v", bad, e)
		}
	}
}

// TestTraceUndone: what Trace has seen is undone byte for byte, at once and when
// others have edited around it; what they changed themselves is a conflict.
func TestTraceUndone(t *testing.T) {
	v := func(s string) *string { return &s }
	main := "# head\na = 1\nmynetworks = 127.0.0.1,\n# in it\n  10.0.0.0/8\nb   =2 # x\na = 3\nlast = x"
	tests := []struct {
		name  string
		edits []Edit
	}{
		{"a removed line in the middle", []Edit{{Parameter: "b", Old: v("2 # x")}}},
		{"of several lines", []Edit{{Parameter: "mynetworks", Old: v("127.0.0.1,  10.0.0.0/8")}}},
		{"set twice", []Edit{{Parameter: "a", Old: v("3")}}},
		{"the last one", []Edit{{Parameter: "last", Old: v("x")}}},
		{"neighbours", []Edit{{Parameter: "b", Old: v("2 # x"), New: v("4")}, {Parameter: "mynetworks", Old: v("127.0.0.1,  10.0.0.0/8"), New: v("x")}, {Parameter: "b_2", New: v("y")}, {Parameter: "b", Old: v("4")}}},
		{"all of it", []Edit{{Parameter: "a", Old: v("3")}, {Parameter: "b", Old: v("2 # x")}, {Parameter: "last", Old: v("x")}, {Parameter: "mynetworks", Old: v("127.0.0.1, 10.0.0.0/8")}, {Parameter: "new", New: v("1")}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			traced, after, _, err := Trace([]byte(main), nil, test.edits)
			if err != nil {
				t.Fatal(err)
			}
			undo := func(data string) (string, error) {
				out := []byte(data)
				var err error
				for i := len(traced) - 1; i >= 0 && err == nil; i-- {
					out, _, err = Apply(out, nil, []Edit{traced[i].Inverse()})
				}
				return string(out), err
			}
			if got, err := undo(string(after)); err != nil || got != main {
				t.Errorf("at once: %v:\n%s\nwant\n%s", err, got, main)
			}
			around := func(s string) string { return "theirs = 1\n" + s + "\ntheirs_too = 2\n" }
			if got, err := undo(around(string(after))); err != nil || got != around(main) {
				t.Errorf("with others around it: %v:\n%s\nwant\n%s", err, got, around(main))
			}
		})
	}
	traced, after, _, err := Trace([]byte(main), nil, []Edit{{Parameter: "b", Old: v("2 # x"), New: v("4")}})
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Replace(string(after), "=4", "=5", 1)
	if _, _, err := Apply([]byte(theirs), nil, []Edit{traced[0].Inverse()}); !isConflict(err) {
		t.Errorf("another value since: %v", err)
	}
}
