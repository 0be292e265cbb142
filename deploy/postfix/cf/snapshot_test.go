package cf

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// printed is a minimal output of postconf.
func printed(lines ...string) []byte {
	return []byte("mail_version = 3.7.11\n" + strings.Join(lines, "\n") + "\n")
}

func TestParse(t *testing.T) {
	main := File{"/etc/postfix/main.cf", []byte("# c\nsmtpd_tls_cert_file = /a,\n   /b\nrelayhost =\n")}
	master := File{"/etc/postfix/master.cf", []byte("# c\nsmtp inet n - y - - smtpd\n  -o syslog_name=x\n# c\n  -o { a = b  c }\n")}
	all := printed("biff = yes", "process_id = 1", "relayhost =", "smtpd_tls_cert_file = /a, /b")
	const entry = "smtp       inet  n       -       y       -       -       smtpd -o syslog_name=x -o {a=b  c}\n"
	tests := []struct {
		name         string
		main, master File
		out          Outputs
		err          string // part of it; "": none
		changed      bool
		line         int // of the ParseError
	}{
		{name: "all outputs", main: main, master: master, out: Outputs{All: all, Set: []byte("relayhost =\nsmtpd_tls_cert_file = /a, /b\nconfig_directory = /x\n"), Services: []byte(entry), Overrides: []byte("smtp/inet/a = b c\nsmtp/inet/syslog_name = x\n")}},
		{name: "only all", main: main, master: master, out: Outputs{All: all}},
		{name: "warnings in the output", main: main, master: master, out: Outputs{All: append([]byte("postconf: warning: /etc/postfix/main.cf: unused parameter: a=b\n"), all...), Services: []byte("postconf: warning: x\n" + entry), Overrides: []byte("postconf: warning: a = b\nsmtp/inet/a = b c\nsmtp/inet/syslog_name = x\n")}},
		{name: "folded", main: main, master: master, out: Outputs{All: printed("smtpd_tls_cert_file = /a,\n    /b", "relayhost =")}},
		{name: "nothing printed", main: main, master: master, err: "mail_version"},
		{name: "another value", main: main, master: master, out: Outputs{All: printed("smtpd_tls_cert_file = /c")}, changed: true},
		{name: "another value in -n", main: main, master: master, out: Outputs{All: all, Set: []byte("relayhost = x\n")}, changed: true},
		{name: "a value that is not in the file", main: main, master: master, out: Outputs{All: all, Set: []byte("biff = no\n")}, changed: true},
		{name: "another entry", main: main, master: master, out: Outputs{All: all, Services: []byte(strings.Replace(entry, "y", "n", 1))}, changed: true},
		{name: "one entry more", main: main, master: master, out: Outputs{All: all, Services: []byte(entry + "a unix - - - - - a\n")}, changed: true},
		{name: "another override", main: main, master: master, out: Outputs{All: all, Overrides: []byte("smtp/inet/a = b c\nsmtp/inet/syslog_name = y\n")}, changed: true},
		{name: "one override more", main: main, master: master, out: Outputs{All: all, Overrides: []byte("smtp/inet/a = b c\nsmtp/inet/syslog_name = x\nsmtp/inet/z = x\n")}, changed: true},
		{name: "no equals sign", main: File{"m", []byte("a = b\n\nfoo\n")}, master: master, out: Outputs{All: all}, err: "m, line 3", line: 3},
		{name: "no name", main: File{"m", []byte("= b\n")}, master: master, out: Outputs{All: all}, err: "m, line 1", line: 1},
		{name: "too few fields", main: main, master: File{"s", []byte("\nsmtp inet n - y -\n")}, out: Outputs{All: all}, err: "s, line 2", line: 2},
		{name: "NUL", main: File{"m", []byte("a = b\nc = \x00\n")}, master: master, out: Outputs{All: all}, err: "NUL", line: 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse("/etc/postfix", test.main, test.master, test.out)
			if errors.Is(err, ErrChanged) != test.changed {
				t.Fatalf("changed: got %v, want %v", err, test.changed)
			}
			if test.changed {
				return
			}
			if test.err == "" && err != nil || err != nil && !strings.Contains(err.Error(), test.err) || test.err != "" && err == nil {
				t.Fatalf("error: got %v, want %q", err, test.err)
			}
			var parse *ParseError
			if errors.As(err, &parse) && parse.Line != test.line {
				t.Errorf("line: got %d, want %d", parse.Line, test.line)
			}
			if err != nil {
				return
			}
			if s.Version != "3.7.11" || !s.Set["relayhost"] || s.Set["biff"] {
				t.Errorf("version %q, set %v", s.Version, s.Set)
			}
			v := s.Services[0]
			if v.Line != 2 || fmt.Sprint(v.Overrides) != "[{syslog_name x 3} {a b  c 5}]" {
				t.Errorf("line %d, overrides %v", v.Line, v.Overrides)
			}
		})
	}
}

func TestSource(t *testing.T) {
	main := "# c\na = 1\nb = 2\n\n  3\na = 4\n"
	master := "# c\nsmtp inet n - y - - smtpd -o x=1\n# c\n  -o b=5 -o c=6\n  -o b=7\n"
	s, err := Parse("/d", File{"/d/main.cf", []byte(main)}, File{"/d/master.cf", []byte(master)}, Outputs{All: printed("d = x")})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		service, name, file string
		line                int
	}{
		{"", "a", "/d/main.cf", 6}, {"", "b", "/d/main.cf", 3}, {"", "d", "", 0}, {"", "nothing", "", 0},
		{"smtp/inet", "a", "/d/main.cf", 6}, {"smtp/inet", "b", "/d/master.cf", 5}, {"smtp/inet", "x", "/d/master.cf", 2}, {"smtp/inet", "c", "/d/master.cf", 4},
		{"smtp/unix", "b", "/d/main.cf", 3},
	}
	for _, test := range tests {
		file, line := s.Source(test.service, test.name)
		if file != test.file || line != test.line {
			t.Errorf("%s %s: got %s:%d, want %s:%d", test.service, test.name, file, line, test.file, test.line)
		}
	}
}

func TestIsOf(t *testing.T) {
	s := Snapshot{Version: "3.7.11", Main: File{"m", []byte("a")}, Master: File{"s", []byte("b")}}
	for _, tt := range []struct {
		version, main, master string
		want                  bool
	}{
		{"3.7.11", "a", "b", true},
		{"3.7.12", "a", "b", false},
		{"3.7.11", "ab", "", false},
		{"3.7.11", "", "ab", false},
		{"3.7.11", "a", "b\n", false},
		{"3.7.11", "A", "b", false},
	} {
		if got := s.IsOf(tt.version, []byte(tt.main), []byte(tt.master)); got != tt.want {
			t.Errorf("%q %q %q: %t, want %t", tt.version, tt.main, tt.master, got, tt.want)
		}
	}
}

func TestExpandErrors(t *testing.T) {
	values := map[string]string{"loop": "$loop", "a": "$b", "b": "${a}", "deep": "${{$deep} == {} ? {x} : {y}}", "grow": "$grow2$grow2", "one": "1"}
	for i := range 60 {
		values[fmt.Sprint("g", i)] = fmt.Sprintf("$g%d$g%d", i+1, i+1)
	}
	values["g60"] = "x"
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for _, value := range []string{"$loop", "$a", "$deep", "$g0", "$", "a $ b", "${", "${a", "$(a", "${}", "$()", "${a-b}", "${a b}", "${{a} ~ {b}}", "${{a} == b}", "${{a} ==}", "${{a} == {b} x}", "${{a} == {b} ? {c} x}", "${{a} == {b} ? {c} : {d} x}", "${{3} <level {x}}", "${{3} <foo {4}}", "${{3} <level {3.6.1.2}}", "${nofn{x}}", "${domain_to_ascii{ü}}", "${{99999999999999999999} < {1}}"} {
		if got, err := expand(value, lookup); err == nil {
			t.Errorf("%q: expanded to %q, want an error", value, got)
		}
	}
	for value, want := range map[string]string{"${domain_to_ascii{ $one.example }}": "1.example", "${domain_to_utf8{a.example}}": "a.example"} {
		if got, err := expand(value, lookup); got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", value, got, err, want)
		}
	}
}

// TestNestingAsPostfix: the limit is at the same depth as in Postfix.
func TestNestingAsPostfix(t *testing.T) {
	need(t, "postconf")
	chain := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "n%d = $n%d\n", i, i+1)
		}
		fmt.Fprintf(&b, "n%d = end\nsmtpd_banner = $n0\n", n)
		return b.String()
	}
	for n := 90; n < 105; n++ {
		dir := configuration(t, chain(n), onePort)
		out, err := postconfStatus(dir, "-xh", "smtpd_banner")
		main := File{dir + "/main.cf", []byte(chain(n))}
		s, perr := Parse(dir, main, File{dir + "/master.cf", []byte(onePort)}, Outputs{All: printed()})
		if perr != nil {
			t.Fatal(perr)
		}
		got, eerr := expand("$n0", s.lookup("")) // the value of smtpd_banner
		if (err == nil) != (eerr == nil) {
			t.Errorf("%d levels: postconf %q, %v; ours %q, %v", n, out, err, got, eerr)
		}
	}
}

func TestDifferences(t *testing.T) {
	need(t, "postconf")
	main := "cert = /a\nsmtpd_tls_cert_file = $cert\n"
	master := "smtp inet n - y - - smtpd\n  -o smtpd_tls_key_file=$smtpd_tls_cert_file -o smtpd_milters=\npickup unix n - y 60 1 pickup\n"
	tests := []struct{ name, main, master, want string }{
		{"nothing", main, master, ""},
		{"comments, blanks and order", "# c\nsmtpd_tls_cert_file =\n  $cert\ncert=/a", "# c\npickup unix n - y 60 1 pickup\nsmtp   inet n - y - - smtpd -o smtpd_milters= -o {smtpd_tls_key_file=$smtpd_tls_cert_file}\n", ""},
		{"a value and its dependants", "cert = /b\nsmtpd_tls_cert_file = $cert\n", master, ":cert=/a>/b :smtpd_tls_cert_file=/a>/b :smtpd_tls_key_file=/a>/b :tlsproxy_tls_cert_file=/a>/b :tlsproxy_tls_key_file=/a>/b smtp/inet:smtpd_tls_key_file=/a>/b"},
		{"a parameter that nothing names any more", "cert = /a\nsmtpd_tls_cert_file = /b\n", master, ":smtpd_tls_cert_file=/a>/b :smtpd_tls_key_file=/a>/b :tlsproxy_tls_cert_file=/a>/b :tlsproxy_tls_key_file=/a>/b smtp/inet:smtpd_tls_key_file=/a>/b"},
		{"an override", main, strings.Replace(master, "smtpd_milters=", "smtpd_milters=x", 1), "smtp/inet:smtpd_milters=>x"},
		{"an override goes, the value stays", main, strings.Replace(master, " -o smtpd_milters=", "", 1), "smtp/inet:smtpd_milters=>"},
		{"a field", main, strings.Replace(master, "60", "61", 1), "pickup/unix:=n - y 60 1 pickup>n - y 61 1 pickup"},
		{"an argument", main, strings.Replace(master, "smtpd\n", "smtpd -v\n", 1), "smtp/inet:=n - y - - smtpd>n - y - - smtpd -v"},
		{"a service goes", main, strings.Replace(master, "pickup unix n - y 60 1 pickup\n", "", 1), "pickup/unix:=n - y 60 1 pickup>"},
		{"a service comes", main, master + "x unix - - - - - smtpd -o a=b\n", "x/unix:=>- - - - - smtpd x/unix:a=>b"},
	}
	// The stock main.cf of Postfix, and so that of some distributions, names the
	// process id, which is another one in each run of postconf.
	const stock = "debugger_command = PATH=/bin ddd $daemon_directory/$process_name $process_id & sleep 5\n"
	tests = append(tests, tests[0])
	tests[len(tests)-1].name, tests[len(tests)-1].main = "a process id", main+stock
	before := snapshotOf(t, main+stock, master)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(test.main, stock) {
				test.main = strings.TrimSuffix(test.main, "\n") + "\n" + stock
			}
			var got []string
			for _, d := range Differences(before, snapshotOf(t, test.main, test.master)) {
				got = append(got, fmt.Sprintf("%s:%s=%s>%s", d.Service, d.Parameter, d.Before, d.After))
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %q, want %q", strings.Join(got, " "), test.want)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintln(&b, i)
		}
		return b.String()
	}
	tests := []struct{ name, before, after, want string }{
		{"equal", "a\n", "a\n", ""},
		{"one line", lines(10), strings.Replace(lines(10), "5\n", "five\n", 1), "@@ -3,7 +3,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"},
		{"added at the end", "a\nb\n", "a\nb\nc\n", "@@ -1,2 +1,3 @@\n a\n b\n+c\n"},
		{"from nothing", "", "a\n", "@@ -0,0 +1,1 @@\n+a\n"},
		{"to nothing", "a\n", "", "@@ -1,1 +0,0 @@\n-a\n"},
		{"two places", lines(20), strings.Replace(strings.Replace(lines(20), "\n2\n", "\ntwo\n", 1), "\n15\n", "\n", 1), "@@ -1,6 +1,6 @@\n 0\n 1\n-2\n+two\n 3\n 4\n 5\n@@ -13,7 +13,6 @@\n 12\n 13\n 14\n-15\n 16\n 17\n 18\n"},
		{"no newline at the end", "a\nb", "a\nc\n", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want != "" {
				want = "--- main.cf\n+++ main.cf\n" + want
			}
			if got := Diff("main.cf", []byte(test.before), []byte(test.after)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestDiffApplies: patch(1) makes the new file of it.
func TestDiffApplies(t *testing.T) {
	need(t, "patch")
	for _, r := range corpus {
		s, err := Parse("/d", File{"m", []byte(r.main)}, File{"s", []byte(r.master)}, Outputs{All: printed()})
		if err != nil {
			t.Fatal(err)
		}
		var edits []Edit
		for _, c := range r.changes {
			edits = append(edits, c.edit(s))
		}
		main, master, err := Apply(s.Main.Data, s.Master.Data, edits)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		for _, pair := range [][2]string{{r.main, string(main)}, {r.master, string(master)}} {
			path := t.TempDir() + "/file"
			if err := os.WriteFile(path, []byte(pair[0]), 0o600); err != nil {
				t.Fatal(err)
			}
			if diff := Diff(path, []byte(pair[0]), []byte(pair[1])); diff != "" {
				patch(t, path, diff)
			}
			if got := mustRead(t, "", path); got != pair[1] {
				t.Errorf("%s: patched to %q, want %q", r.name, got, pair[1])
			}
		}
	}
}

// What is overridden is what a Postfix program warns of: postmap reads main.cf
// as the daemons do.
func TestOverridden(t *testing.T) {
	need(t, "postconf", "postmap")
	main := "mydomain = a.test\nmyhostname = m.a.test\nmydomain=a.test\n# c\nmyhostname = n.a.test\nmyhostname =\n  m.a.test\nbiff = {no}\nbiff = no\n"
	dir := configuration(t, main, "")
	cmd := exec.Command("postmap", "-c", dir, "-q", "x", "inline:{x=y}")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("postmap: %v: %s", err, out)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`overriding earlier entry: (\w+)=`).FindAllSubmatch(out, -1) {
		want = append(want, string(m[1]))
	}
	for _, o := range snapshot(t, dir).Overridden() {
		got = append(got, o.Name)
	}
	if !slices.Equal(got, want) || len(want) < 2 {
		t.Errorf("overridden %q, postmap warns of %q:\n%s", got, want, out)
	}
}
