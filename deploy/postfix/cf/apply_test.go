package cf

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// change is one edit of a corpus row; nil value removes.
type change struct{ service, name, value string }

const removed = "\x00removed"

func (c change) edit(s Snapshot) Edit {
	if c.value == removed {
		return s.Edit(c.service, c.name, nil)
	}
	return s.Edit(c.service, c.name, &c.value)
}

type row struct {
	name, main, master string
	changes            []change
	wantMain           string // whole file; "": not compared
	wantMaster         string
	inexact            bool // the inverse brings the value back, not the place
}

const onePort = "smtp inet n - y - - smtpd\n"

func set(name, value string) []change        { return []change{{"", name, value}} }
func setIn(svc, name, value string) []change { return []change{{svc, name, value}} }
func unset(svc, name string) []change        { return []change{{svc, name, removed}} }

// corpus is what people write into the two files.
var corpus = []row{
	{name: "plain", main: "smtpd_tls_cert_file = /a\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file = /b\n"},
	{name: "no blanks", main: "smtpd_tls_cert_file=/a\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file=/b\n"},
	{name: "tabs", main: "smtpd_tls_cert_file\t=\t/a\t\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file\t=\t/b\t\n"},
	{name: "aligned", main: "smtpd_tls_cert_file    =   /a\nx = 1\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file    =   /b\nx = 1\n"},
	{name: "no final newline", main: "biff = no\nsmtpd_tls_cert_file = /a", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "biff = no\nsmtpd_tls_cert_file = /b"},
	{name: "added without final newline", main: "biff = no", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "biff = no\nsmtpd_tls_cert_file = /b"},
	{name: "added to an empty file", main: "", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file = /b\n"},
	{name: "added to comments", main: "# c\n\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "# c\n\nsmtpd_tls_cert_file = /b\n"},
	{name: "added behind its relative", main: "smtpd_tls_cert_file = /a\n# rest\nbiff = no\n", changes: set("smtpd_tls_key_file", "/k"), wantMain: "smtpd_tls_cert_file = /a\nsmtpd_tls_key_file = /k\n# rest\nbiff = no\n"},
	{name: "added behind the last relative", main: "smtpd_tls_a = 1\nsmtpd_tls_security_level=may\nbiff = no\n", changes: set("smtpd_tls_key_file", "/k"), wantMain: "smtpd_tls_a = 1\nsmtpd_tls_security_level=may\nsmtpd_tls_key_file=/k\nbiff = no\n"},
	{name: "added behind a multi-line relative", main: "smtpd_tls_chain_files = /a,\n  # second\n  /b\n\n  # end\nbiff = no\n", changes: set("smtpd_tls_security_level", "may"), wantMain: "smtpd_tls_chain_files = /a,\n  # second\n  /b\nsmtpd_tls_security_level = may\n\n  # end\nbiff = no\n"},
	{name: "one word is no relation", main: "smtpd_banner = x\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_banner = x\nbiff = no\nsmtpd_tls_cert_file = /b\n"},
	{name: "CRLF", main: "biff = no\r\nsmtpd_tls_cert_file = /a\r\nx = 1\r\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "biff = no\r\nsmtpd_tls_cert_file = /b\r\nx = 1\r\n"},
	{name: "CRLF added", main: "biff = no\r\nsmtpd_tls_cert_file = /a\r\n", changes: set("smtpd_tls_key_file", "/b"), wantMain: "biff = no\r\nsmtpd_tls_cert_file = /a\r\nsmtpd_tls_key_file = /b\r\n"},
	{name: "CRLF multi-line", main: "mynetworks = 127.0.0.0/8\r\n  [::1]/128\r\nbiff = no\r\n", changes: set("mynetworks", "127.0.0.1"), wantMain: "mynetworks = 127.0.0.1\r\nbiff = no\r\n"},
	{name: "duplicate, last wins", main: "smtpd_tls_cert_file = /a\nbiff = no\nsmtpd_tls_cert_file = /b\n", changes: set("smtpd_tls_cert_file", "/c"), wantMain: "smtpd_tls_cert_file = /a\nbiff = no\nsmtpd_tls_cert_file = /c\n"},
	{name: "multi-line to one line", main: "mynetworks = 127.0.0.0/8\n  [::1]/128\nbiff = no\n", changes: set("mynetworks", "127.0.0.1"), wantMain: "mynetworks = 127.0.0.1\nbiff = no\n"},
	{name: "comment inside", main: "mynetworks = 127.0.0.0/8\n# v6\n  [::1]/128\nbiff = no\n", changes: set("mynetworks", "127.0.0.1"), wantMain: "mynetworks = 127.0.0.1\n# v6\nbiff = no\n"},
	{name: "blanks and comments inside", main: "mynetworks = 127.0.0.0/8\n\n  # v6\n\t[::1]/128,\n\n# more\n  10.0.0.0/8\n# behind\n", changes: set("mynetworks", "127.0.0.1"), wantMain: "mynetworks = 127.0.0.1\n\n  # v6\n\n# more\n# behind\n"},
	{name: "value on the second line", main: "smtpd_tls_cert_file =\n    /a\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file =\n    /b\nbiff = no\n"},
	{name: "value on later lines", main: "smtpd_tls_chain_files =\n    /a,\n    /b\nbiff = no\n", changes: set("smtpd_tls_chain_files", "/c"), wantMain: "smtpd_tls_chain_files = /c\nbiff = no\n"},
	{name: "equals on the second line", main: "smtpd_tls_cert_file\n  = /a\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file\n  = /b\nbiff = no\n"},
	{name: "equals and value on later lines", main: "mynetworks\n  = 127.0.0.0/8\n  10.0.0.0/8\nbiff = no\n", changes: set("mynetworks", "127.0.0.1"), wantMain: "mynetworks = 127.0.0.1\nbiff = no\n"},
	{name: "multi-line at the end without newline", main: "biff = no\nmynetworks = 127.0.0.0/8\n  10.0.0.0/8", changes: set("mynetworks", "127.0.0.1"), wantMain: "biff = no\nmynetworks = 127.0.0.1"},
	{name: "from empty", main: "smtpd_tls_cert_file =\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file = /b\nbiff = no\n"},
	{name: "from empty without blanks", main: "smtpd_tls_cert_file=\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file=/b\nbiff = no\n"},
	{name: "from empty with a blank behind", main: "smtpd_tls_cert_file = \nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b")},
	{name: "to empty", main: "smtpd_tls_eccert_file = /a\nbiff = no\n", changes: set("smtpd_tls_eccert_file", ""), wantMain: "smtpd_tls_eccert_file =\nbiff = no\n"},
	{name: "to empty, tab", main: "smtpd_tls_eccert_file =\t/a\nbiff = no\n", changes: set("smtpd_tls_eccert_file", "")},
	{name: "to empty on the second line", main: "smtpd_tls_eccert_file =\n  /a\nbiff = no\n", changes: set("smtpd_tls_eccert_file", "")},
	{name: "text that looks like a comment", main: "smtpd_tls_cert_file = /a # mine\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "smtpd_tls_cert_file = /b\n"},
	{name: "a line that looks like a parameter", main: "mynetworks = 127.0.0.0/8\n smtpd_tls_cert_file=/a\n", changes: set("smtpd_tls_cert_file", "/b")},
	{name: "commented out", main: "#smtpd_tls_cert_file = /a\nbiff = no\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "#smtpd_tls_cert_file = /a\nbiff = no\nsmtpd_tls_cert_file = /b\n"},
	{name: "double blanks in a value", main: "smtpd_banner = a  b\n", changes: set("smtpd_banner", "c  d"), wantMain: "smtpd_banner = c  d\n"},
	{name: "reference", main: "smtpd_tls_cert_file = /a\nsmtpd_tls_key_file = /k\n", changes: set("smtpd_tls_key_file", "$smtpd_tls_cert_file"), wantMain: "smtpd_tls_cert_file = /a\nsmtpd_tls_key_file = $smtpd_tls_cert_file\n"},
	{name: "two edits", main: "smtpd_tls_key_file = /k\nsmtpd_tls_cert_file = /a\n", changes: []change{{"", "smtpd_tls_cert_file", "/b"}, {"", "smtpd_tls_key_file", "$smtpd_tls_cert_file"}}, wantMain: "smtpd_tls_key_file = $smtpd_tls_cert_file\nsmtpd_tls_cert_file = /b\n"},
	{name: "dependants move", main: "cert = /a\nsmtpd_tls_cert_file = $cert\nsmtp_tls_cert_file = $smtpd_tls_cert_file\n", changes: set("smtpd_tls_cert_file", "/b")},
	{name: "old setting in comments around", main: "# cert\n\n  # indented comment\nsmtpd_tls_cert_file = /a\n\t\n   \n# end", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "# cert\n\n  # indented comment\nsmtpd_tls_cert_file = /b\n\t\n   \n# end"},
	{name: "blank text before the first line", main: "   orphan = 1\nsmtpd_tls_cert_file = /a\n", changes: set("smtpd_tls_cert_file", "/b"), wantMain: "   orphan = 1\nsmtpd_tls_cert_file = /b\n"},
	{name: "removed", main: "biff = no\nsmtpd_tls_cert_file = /a\nx = 1\n", changes: unset("", "smtpd_tls_cert_file"), wantMain: "biff = no\nx = 1\n", inexact: true},
	{name: "removed twice", main: "smtpd_tls_cert_file = /a\nx = 1\nsmtpd_tls_cert_file = /b\n", changes: unset("", "smtpd_tls_cert_file"), wantMain: "x = 1\n", inexact: true},
	{name: "removed over lines", main: "mynetworks = 127.0.0.0/8\n# v6\n  [::1]/128\nx = 1\n", changes: unset("", "mynetworks"), wantMain: "# v6\nx = 1\n", inexact: true},
	{name: "removed at the end without newline", main: "x = 1\nbiff = no", changes: unset("", "biff"), wantMain: "x = 1"},
	{name: "unicode", main: "# Zertifikat für München\nsmtpd_banner = Grüße\nsmtpd_tls_cert_file = /ü.pem\n", changes: set("smtpd_tls_cert_file", "/ß.pem"), wantMain: "# Zertifikat für München\nsmtpd_banner = Grüße\nsmtpd_tls_cert_file = /ß.pem\n"},

	{name: "override", master: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/a\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/b\n"},
	{name: "override inline", master: "smtp inet n - y - - smtpd -o smtpd_tls_cert_file=/a -o smtpd_milters=\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd -o smtpd_tls_cert_file=/b -o smtpd_milters=\n"},
	{name: "override glued", master: "smtp inet n - y - - smtpd -osmtpd_tls_cert_file=/a\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd -osmtpd_tls_cert_file=/b\n"},
	{name: "override behind flags", master: "smtp inet n - y - - smtpd -vo smtpd_tls_cert_file=/a -D\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd -vo smtpd_tls_cert_file=/b -D\n"},
	{name: "override in braces", master: "smtp inet n - y - - smtpd\n  -o { smtpd_tls_cert_file = /a }\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n  -o { smtpd_tls_cert_file = /b }\n"},
	{name: "override in tight braces", master: "smtp inet n - y - - smtpd\n  -o {smtpd_tls_cert_file=/a}\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n  -o {smtpd_tls_cert_file=/b}\n"},
	{name: "override gets blanks", master: "smtp inet n - y - - smtpd\n  -o smtpd_client_restrictions=reject\n", changes: setIn("smtp/inet", "smtpd_client_restrictions", "permit_mynetworks, reject"), wantMaster: "smtp inet n - y - - smtpd\n  -o { smtpd_client_restrictions = permit_mynetworks, reject }\n"},
	{name: "override loses blanks", master: "smtp inet n - y - - smtpd\n  -o { smtpd_client_restrictions = permit_mynetworks, reject }\n", changes: setIn("smtp/inet", "smtpd_client_restrictions", "reject"), wantMaster: "smtp inet n - y - - smtpd\n  -o { smtpd_client_restrictions = reject }\n"},
	{name: "override over lines", master: "smtp inet n - y - - smtpd\n  -o { smtpd_client_restrictions = permit_mynetworks,\n     reject }\n  -o smtpd_milters=\n", changes: setIn("smtp/inet", "smtpd_client_restrictions", "reject"), inexact: true},
	{name: "override glued gets blanks", master: "smtp inet n - y - - smtpd -osmtpd_banner=x\n", changes: setIn("smtp/inet", "smtpd_banner", "a b"), wantMaster: "smtp inet n - y - - smtpd -o { smtpd_banner = a b }\n"},
	{name: "override with nested macro", master: "smtp inet n - y - - smtpd -o smtpd_tls_cert_file=/a\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "${{$service_name} == {smtp} ? {/b} : {/c}}")},
	{name: "override to empty", master: "smtp inet n - y - - smtpd -o smtpd_tls_eccert_file=/a\n", changes: setIn("smtp/inet", "smtpd_tls_eccert_file", ""), wantMaster: "smtp inet n - y - - smtpd -o smtpd_tls_eccert_file=\n"},
	{name: "override in braces to empty", master: "smtp inet n - y - - smtpd -o { smtpd_tls_eccert_file = /a }\n", changes: setIn("smtp/inet", "smtpd_tls_eccert_file", "")},
	{name: "override from empty", master: "smtp inet n - y - - smtpd -o smtpd_tls_eccert_file= -v\n", changes: setIn("smtp/inet", "smtpd_tls_eccert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd -o smtpd_tls_eccert_file=/b -v\n"},
	{name: "override added", master: "smtp inet n - y - - smtpd\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/b\n"},
	{name: "override added in style", master: "smtp inet n - y - - smtpd\n\t-o smtpd_milters=\n# c\n\t-o syslog_name=x\n#\t-o out=1\npickup unix n - y 60 1 pickup\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n\t-o smtpd_milters=\n# c\n\t-o syslog_name=x\n\t-o smtpd_tls_cert_file=/b\n#\t-o out=1\npickup unix n - y 60 1 pickup\n"},
	{name: "override added with blanks", master: "smtp inet n - y - - smtpd\n", changes: setIn("smtp/inet", "smtpd_banner", "a b"), wantMaster: "smtp inet n - y - - smtpd\n  -o { smtpd_banner = a b }\n"},
	{name: "override added before arguments", master: "x unix - n n - - pipe -v\n  flags=D user=x argv=/bin/true -o a=b\n", changes: setIn("x/unix", "syslog_name", "y"), wantMaster: "x unix - n n - - pipe -v -o syslog_name=y\n  flags=D user=x argv=/bin/true -o a=b\n"},
	{name: "override added without final newline", master: "smtp inet n - y - - smtpd", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/b"},
	{name: "override removed", master: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/a\n  -o smtpd_milters=\n", changes: unset("smtp/inet", "smtpd_tls_cert_file"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_milters=\n", inexact: true},
	{name: "override removed inline", master: "smtp inet n - y - - smtpd -o smtpd_tls_cert_file=/a -o smtpd_milters=\n", changes: unset("smtp/inet", "smtpd_tls_cert_file"), wantMaster: "smtp inet n - y - - smtpd -o smtpd_milters=\n", inexact: true},
	{name: "override removed at a line's start", master: "smtp inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/a -o smtpd_milters=\n", changes: unset("smtp/inet", "smtpd_tls_cert_file"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_milters=\n", inexact: true},
	{name: "override removed, all of them", master: "smtp inet n - y - - smtpd -o smtpd_milters=a -o smtpd_milters=b\n  -o smtpd_milters=c -v\n", changes: unset("smtp/inet", "smtpd_milters"), wantMaster: "smtp inet n - y - - smtpd\n  -v\n", inexact: true},
	{name: "override removed behind flags", master: "smtp inet n - y - - smtpd -vo smtpd_tls_cert_file=/a -D\n", changes: unset("smtp/inet", "smtpd_tls_cert_file"), wantMaster: "smtp inet n - y - - smtpd -v -D\n", inexact: true},
	{name: "override twice, last wins", master: "smtp inet n - y - - smtpd -o smtpd_milters=a\n  -o smtpd_milters=b\n", changes: setIn("smtp/inet", "smtpd_milters", "c"), wantMaster: "smtp inet n - y - - smtpd -o smtpd_milters=a\n  -o smtpd_milters=c\n"},
	{name: "override in the right service", master: "smtp inet n - y - - smtpd\n  -o smtpd_milters=a\nsmtp unix - - y - - smtp\n  -o smtpd_milters=a\n127.0.0.1:smtp inet n - y - - smtpd\n  -o smtpd_milters=a\n", changes: setIn("smtp/unix", "smtpd_milters", "b"), wantMaster: "smtp inet n - y - - smtpd\n  -o smtpd_milters=a\nsmtp unix - - y - - smtp\n  -o smtpd_milters=b\n127.0.0.1:smtp inet n - y - - smtpd\n  -o smtpd_milters=a\n"},
	{name: "fields over lines", master: "smtp inet n\n  - y - -\n  smtpd -o smtpd_milters=a\n", changes: setIn("smtp/inet", "smtpd_milters", "b"), wantMaster: "smtp inet n\n  - y - -\n  smtpd -o smtpd_milters=b\n"},
	{name: "override CRLF", master: "smtp inet n - y - - smtpd\r\n  -o smtpd_milters=a\r\npickup unix n - y 60 1 pickup\r\n", changes: setIn("smtp/inet", "smtpd_tls_cert_file", "/b"), wantMaster: "smtp inet n - y - - smtpd\r\n  -o smtpd_milters=a\r\n  -o smtpd_tls_cert_file=/b\r\npickup unix n - y 60 1 pickup\r\n"},
	{name: "both files", main: "mua = reject\nsmtpd_tls_cert_file = /a\n", master: "smtp inet n - y - - smtpd\n  -o smtpd_client_restrictions=$mua\n  -o smtpd_tls_cert_file=/a\n", changes: []change{{"", "smtpd_tls_cert_file", "/b"}, {"smtp/inet", "smtpd_tls_cert_file", "$smtpd_tls_dcert_file"}}},
}

func TestApplyCorpus(t *testing.T) {
	need(t, "postconf")
	for _, r := range corpus {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			judge(t, r)
		})
	}
}

// judge carries out a row and asks postconf what came of it.
func judge(t *testing.T, r row) {
	t.Helper()
	if r.master == "" {
		r.master = onePort
	}
	dir := configuration(t, r.main, r.master)
	before := snapshot(t, dir)
	var edits []Edit
	for _, c := range r.changes {
		edits = append(edits, c.edit(before))
	}
	main, master, err := Apply([]byte(r.main), []byte(r.master), edits)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if got := string(main); r.wantMain != "" && got != r.wantMain {
		t.Errorf("main.cf: got %q, want %q", got, r.wantMain)
	}
	if got := string(master); r.wantMaster != "" && got != r.wantMaster {
		t.Errorf("master.cf: got %q, want %q", got, r.wantMaster)
	}
	untouched(t, r, string(main), string(master))
	after := snapshot(t, configuration(t, string(main), string(master)))
	planned(t, before, after, edits)
	likePostconf(t, r, after)
	inverse(t, r, edits, main, master)
}

// untouched: lines that do not belong to a changed parameter are the same.
func untouched(t *testing.T, r row, main, master string) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range r.changes {
		names[c.name] = true
	}
	keep := func(file string) (out []string) {
		mine := false
		for line := range strings.Lines(strings.ReplaceAll(file, "\r\n", "\n")) {
			line = strings.TrimSuffix(line, "\n")
			text := strings.TrimSpace(line)
			if text != "" && text[0] != '#' && line == strings.TrimLeft(line, " \t") {
				name, _, _ := strings.Cut(line, "=")
				mine = names[strings.TrimSpace(name)]
			}
			if !mine || text == "" || text[0] == '#' {
				out = append(out, line)
			}
		}
		return out
	}
	if a, b := keep(r.main), keep(main); !slices.Equal(a, b) {
		t.Errorf("main.cf: other lines changed: %q, were %q", b, a)
	}
	others := func(file string) (out []string) {
		var text string
		for _, l := range logicalLines(file) {
			text = l.text
			if !slices.ContainsFunc(r.changes, func(c change) bool {
				name, kind, _ := strings.Cut(c.service, "/")
				return strings.HasPrefix(normal(text)+" ", name+" "+kind+" ")
			}) {
				out = append(out, text)
			}
		}
		return out
	}
	if a, b := others(r.master), others(master); !slices.Equal(a, b) {
		t.Errorf("master.cf: other entries changed: %q, were %q", b, a)
	}
	comments := func(file string) (out []string) {
		for line := range strings.Lines(file) {
			if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
				out = append(out, line)
			}
		}
		return out
	}
	if a, b := comments(r.master), comments(master); !slices.Equal(a, b) {
		t.Errorf("master.cf: comments changed: %q, were %q", b, a)
	}
}

// planned: postconf reads exactly the planned difference, and what it reads is
// what the plan foretold.
func planned(t *testing.T, before, after Snapshot, edits []Edit) {
	t.Helper()
	values, services := maps.Clone(before.settings), before.byID()
	for _, e := range edits {
		if got := after.Effective(e.Service, e.Parameter); e.New != nil {
			if want := before.assume(edits).Effective(e.Service, e.Parameter); got != want {
				t.Errorf("%s: effective %q, want %q", e, got, want)
			}
		}
		switch {
		case e.Service != "":
			v := services[e.Service]
			v.Overrides = withOverride(v.Overrides, e)
			services[e.Service] = v
		case e.New == nil:
			delete(values, e.Parameter)
		default:
			values[e.Parameter] = setting{value: *e.New}
		}
	}
	for _, name := range union(values, after.settings) {
		a, ok := values[name]
		b, found := after.settings[name]
		if ok != found || normal(a.value) != normal(b.value) {
			t.Errorf("main.cf: %s is %q (%v), want %q (%v)", name, b.value, found, a.value, ok)
		}
	}
	for id, v := range after.byID() {
		if !maps.Equal(v.overrides(), services[id].overrides()) || v.fields() != services[id].fields() {
			t.Errorf("%s: got %q %q, want %q %q", id, v.fields(), v.overrides(), services[id].fields(), services[id].overrides())
		}
	}
	if slices.ContainsFunc(edits, func(e Edit) bool { return e.New == nil }) {
		return
	}
	assumed := before.assume(edits)
	var want []string
	for name := range before.Expanded {
		if before.Effective("", name) != assumed.Effective("", name) && !ignored[name] {
			want = append(want, ":"+name)
		}
	}
	var got []string
	for _, d := range Differences(before, after) {
		if d.Service == "" {
			got = append(got, ":"+d.Parameter)
		}
	}
	slices.Sort(want)
	// A parameter of the user's own that nothing names is unknown to postconf.
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("postconf -x differs in %q, planned %q", got, want)
	}
}

// likePostconf: postconf's own editor arrives at the same values.
func likePostconf(t *testing.T, r row, after Snapshot) {
	t.Helper()
	end := func(s string) string { // 3.7 glues to a last line without a newline
		if s != "" && !strings.HasSuffix(s, "\n") {
			return s + "\n"
		}
		return s
	}
	dir := configuration(t, end(r.main), end(r.master))
	for _, c := range r.changes {
		args := []string{"-e", c.name + "=" + c.value}
		switch {
		case c.service == "" && c.value == removed:
			args = []string{"-X", c.name}
		case c.service != "" && c.value == removed:
			args = []string{"-PX", c.service + "/" + c.name}
		case c.service != "":
			args = []string{"-P", c.service + "/" + c.name + "=" + c.value}
			if strings.ContainsAny(c.value, " ") {
				return // postconf refuses values with blanks
			}
		}
		postconf(t, dir, args...)
	}
	write(t, dir, mustRead(t, dir, "main.cf"), mustRead(t, dir, "master.cf"))
	for _, d := range Differences(snapshot(t, dir), after) {
		t.Errorf("postconf's editor: %+v", d)
	}
}

// inverse: the edits undone restore the bytes.
func inverse(t *testing.T, r row, edits []Edit, main, master []byte) {
	t.Helper()
	var back []Edit
	for _, e := range slices.Backward(edits) {
		back = append(back, e.Inverse())
	}
	a, b, err := Apply(main, master, back)
	if err != nil {
		t.Errorf("inverse: %v", err)
		return
	}
	if (string(a) != r.main || string(b) != r.master) && !r.inexact {
		t.Errorf("inverse: got %q and %q, want %q and %q", a, b, r.main, r.master)
	}
	if again, _, err := Apply([]byte(r.main), []byte(r.master), back); err == nil && len(again) > 0 && len(edits) == 1 && deref(edits[0].Old) != deref(edits[0].New) {
		t.Errorf("inverse applied to the original: no conflict")
	}
}

// TestApplyGenerated puts files together from fragments.
func TestApplyGenerated(t *testing.T) {
	need(t, "postconf")
	random := rand.New(rand.NewPCG(20261120, 1))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for i := range 60 {
		r := row{name: fmt.Sprint(i), inexact: false}
		nl := pick("\n", "\n", "\n", "\r\n")
		for range 2 + random.IntN(8) {
			name := pick("smtpd_tls_cert_file", "smtpd_tls_key_file", "smtpd_tls_chain_files", "myhostname", "mynetworks", "relayhost", "smtpd_banner", "smtp_tls_cert_file")
			r.main += pick("", "# comment"+nl, nl, "   # indented = x"+nl) + name + pick(" = ", "=", "\t=  ", " =", "= ")
			r.main += pick("", "/a", "/a, /b", "a"+nl+"  b", nl+"\t/c", "$mail_name", "a,"+nl+"# in"+nl+"  b"+nl+nl+" c", "x # y") + pick("", "", " ", "\t") + nl
		}
		for n, service := range []string{"smtp", "submission", "465", "127.0.0.1:10025"} {
			r.master += pick("", "# comment"+nl) + service + pick("  inet n - y - - smtpd", " inet\tn\t-\tn\t-\t-\tsmtpd -v", " inet n -"+nl+"  y - - smtpd")
			for range random.IntN(4) {
				r.master += pick(" ", nl+"  ", nl+"\t", nl+"# c"+nl+"   ") + pick("-o ", "-o"+"  ") + pick("smtpd_milters", "smtpd_tls_cert_file", "smtpd_tls_security_level", "syslog_name") + pick("=", "=", "=x", "=$service_name", "=y")
			}
			if r.master += nl; n == 2 && pick("a", "b") == "a" {
				r.master += "pickup unix n - y 60 1 pickup" + nl
			}
		}
		if pick("a", "b", "c") == "a" {
			r.main, r.master = strings.TrimRight(r.main, "\r\n"), strings.TrimRight(r.master, "\r\n")
		}
		value := pick("/new", "", "$myhostname", "/new, /other", "a  b")
		r.changes = []change{{"", pick("smtpd_tls_cert_file", "mynetworks", "relayhost", "smtpd_tls_chain_files"), value}}
		r.changes = append(r.changes, change{pick("smtp", "submission", "465", "127.0.0.1:10025") + "/inet", pick("smtpd_tls_cert_file", "smtpd_milters"), pick("/new", "", "$service_name", "a, b")})
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			judge(t, r)
			if t.Failed() {
				t.Logf("main.cf %q, master.cf %q, changes %q", r.main, r.master, r.changes)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	p := func(s string) *string { return &s }
	const main, master = "a = 1\n", "smtp inet n - y - - smtpd\n  -o b=2\n"
	tests := []struct {
		name     string
		edit     Edit
		conflict bool
	}{
		{"another value", Edit{Parameter: "a", Old: p("2"), New: p("3")}, true},
		{"not set", Edit{Parameter: "c", Old: p("2"), New: p("3")}, true},
		{"set meanwhile", Edit{Parameter: "a", New: p("3")}, true},
		{"removed meanwhile", Edit{Parameter: "c", Old: p("")}, true},
		{"override of another value", Edit{Service: "smtp/inet", Parameter: "b", Old: p("3"), New: p("4")}, true},
		{"override set meanwhile", Edit{Service: "smtp/inet", Parameter: "b", New: p("4")}, true},
		{"no such service", Edit{Service: "smtps/inet", Parameter: "b", New: p("4")}, false},
		{"line break", Edit{Parameter: "a", Old: p("1"), New: p("2\nc = 3")}, false},
		{"line break in an override", Edit{Service: "smtp/inet", Parameter: "b", Old: p("2"), New: p("2\nc")}, false},
		{"carriage return", Edit{Parameter: "a", Old: p("1"), New: p("2\rc")}, false},
		{"NUL", Edit{Parameter: "a", Old: p("1"), New: p("2\x00c")}, false},
		{"leading blank", Edit{Parameter: "a", Old: p("1"), New: p(" 2")}, false},
		{"trailing blank", Edit{Parameter: "a", Old: p("1"), New: p("2\t")}, false},
		{"comment", Edit{Parameter: "a", Old: p("1"), New: p("2 # two")}, false},
		{"comment alone", Edit{Parameter: "a", Old: p("1"), New: p("#2")}, false},
		{"open brace in an override", Edit{Service: "smtp/inet", Parameter: "b", Old: p("2"), New: p("{")}, false},
		{"closing brace with blanks", Edit{Service: "smtp/inet", Parameter: "b", Old: p("2"), New: p("x } y")}, false},
		{"no name", Edit{New: p("1")}, false},
		{"name with blanks", Edit{Parameter: "a b", New: p("1")}, false},
		{"text that is another parameter", Edit{Parameter: "a", Old: p("1"), New: p("2"), NewText: "a = 2\nc = 3"}, false},
		{"text that is another value", Edit{Parameter: "a", Old: p("1"), New: p("2"), NewText: "a = 3"}, false},
		{"text that is another option", Edit{Service: "smtp/inet", Parameter: "b", Old: p("2"), New: p("3"), NewText: "b=3\nx inet n - y - - smtpd"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b, err := Apply([]byte(main), []byte(master), []Edit{test.edit})
			if err == nil {
				t.Fatalf("accepted: %q %q", a, b)
			}
			var conflict *ConflictError
			if got := errors.As(err, &conflict); got != test.conflict {
				t.Errorf("conflict: got %v, want %v (%v)", got, test.conflict, err)
			}
		})
	}
}

func mustRead(t testing.TB, dir, name string) string {
	t.Helper()
	out, err := exec.Command("cat", filepath.Join(dir, name)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
