package cf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need skips a test whose programs are not installed, and fails it in CI.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", p)
			}
			t.Skipf("%s is not installed", p)
		}
	}
}

// configuration writes the two files into a new directory. Their mtime is in
// the past, so that postconf does not wait for a hot main.cf.
func configuration(t testing.TB, main, master string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, main, master)
	return dir
}

func write(t testing.TB, dir, main, master string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	for name, data := range map[string]string{"main.cf": main, "master.cf": master} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
}

func postconf(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("postconf", append([]string{"-c", dir}, args...)...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("postconf %q: %v: %s", args, err, stderr.Bytes())
	}
	return out
}

// snapshot parses a directory with everything postconf says about it.
func snapshot(t testing.TB, dir string) Snapshot {
	t.Helper()
	read := func(name string) File {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return File{path, data}
	}
	s, err := Parse(dir, read("main.cf"), read("master.cf"), Outputs{
		All: postconf(t, dir), Set: postconf(t, dir, "-n"), Expanded: postconf(t, dir, "-x"),
		Services: postconf(t, dir, "-M"), Overrides: postconf(t, dir, "-P"),
	})
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return s
}

// snapshotOf is snapshot of two texts.
func snapshotOf(t testing.TB, main, master string) Snapshot {
	t.Helper()
	return snapshot(t, configuration(t, main, master))
}

// agree compares our expansion with postconf -x and -Px, for every parameter.
func agree(t *testing.T, dir string) {
	t.Helper()
	s := snapshot(t, dir)
	if len(s.Expanded) < 500 {
		t.Fatalf("postconf -x: %d parameters", len(s.Expanded))
	}
	s.Parameters["process_id"] = s.Expanded["process_id"] // debugger_command has it
	for name, want := range s.Expanded {
		if got := s.Effective("", name); got != want {
			t.Errorf("%s: got %q, postconf -x says %q", name, got, want)
		}
	}
	for key, want := range parameters(postconf(t, dir, "-Px")) {
		i := strings.LastIndexByte(key, '/')
		if got := s.Effective(key[:i], key[i+1:]); got != want {
			t.Errorf("%s: got %q, postconf -Px says %q", key, got, want)
		}
	}
}

const stockMaster = `smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
submissions inet n      -       y       -       -       smtpd
  -o syslog_name=postfix/submissions
  -o smtpd_tls_wrappermode=yes
pickup    unix  n       -       y       60      1       pickup
smtp      unix  -       -       y       -       -       smtp
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=postfix/$service_name
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
`

const stockMain = `# See /usr/share/postfix/main.cf.dist
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
compatibility_level = 3.6

# TLS parameters
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may

smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may

myhostname = mail.example.com
mydestination = $myhostname, localhost
inet_interfaces = all
inet_protocols = all
`

func TestExpansionAgreesWithPostconf(t *testing.T) {
	need(t, "postconf")
	tests := []struct{ name, main, master string }{
		{"empty main.cf", "", stockMaster},
		{"stock", stockMain, stockMaster},
		{"macro forms", `a = A
e =
b = $a-${a}-$(a)
c = ${a?yes}${e?no}${a:no}${e:empty}${undefined:undef}$undefined
d = ${a?{x y}:{z}} ${e?{x}:{z w}} ${a ? {sp} : {no}} ${ a }
f = $$a $$$a a$$ ${a?$$b}
g = ${{$a} == {A} ? {eq} : {ne}}${{$a} != {A} ? {x}}${{2} < {10} ? {num} : {str}}${{2x} < {10x} ? {num} : {str}}
h = ${{a} <= {b}} ${{b} >= {c}} ${{b} > {a}:{no}} ${{$a}=={A}?{tight}:{x}}
i = ${{$compatibility_level} >=level {3.6} ? {new} : {old}} ${{3.10} <level {3.9} ? {x} : {ok}}
j = ${a?${e:${b}}} ${{${a}} == {${b?A}} ? {${{x} == {x} ? {deep}}} : {no}}
k = ${a??foo:{b}ar}
l = ${a?a}b} $(a?(x)y)
m = a	b   c
  d
# comment
  e
smtpd_banner = $b $c $d $f $g $h $i $j $k $l $m
header_checks = $b $c $d $f $g $h $i $j $k $l $m $undefined
virtual_alias_maps = hash:/etc/$process_name, hash:$mail_name
smtpd_restriction_classes = rc1
rc1 = $a, reject
`, stockMaster},
		{"services", `cert = /etc/$service_name.pem
sub_cert = /etc/sub.pem
smtpd_tls_cert_file = $cert
mua_client = permit_mynetworks,
   reject
`, `smtp inet n - y - - smtpd
  -o smtpd_tls_cert_file=$sub_cert
  -o { smtpd_client_restrictions = $mua_client }
  -o smtpd_tls_key_file=${smtpd_tls_cert_file}.key
  -o {smtpd_recipient_restrictions=permit_mynetworks,   reject}
# comment inside
  -o cert=/etc/$process_name
127.0.0.1:2525 inet n - y - - smtpd -v -o smtpd_tls_cert_file=/etc/$service_name -ocleanup_service_name=x
submission inet n - - - - smtpd -vo smtpd_banner=vo -v
  -o { smtpd_tls_cert_file = ${{$service_name} == {submission} ? {/a b} : {/c}} } -o smtpd_milters=
`},
		{"odd files", "# no newline at the end\n\nmyhostname=a.example\r\nmydomain = \t example \r\nmynetworks\n = 127.0.0.0/8,\n\n # c\n  [::1]/128\nrelayhost =\nmyhostname = b.example\nmydestination = x # y", stockMaster},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { agree(t, configuration(t, test.main, test.master)) })
	}
}

func TestDefaultsAgreeWithPostconf(t *testing.T) {
	need(t, "postconf")
	compared := 0
	for _, file := range []string{"/etc/postfix", "/usr/share/postfix"} {
		main, err := os.ReadFile(filepath.Join(file, "main.cf.proto"))
		if err != nil {
			main, err = os.ReadFile(filepath.Join(file, "main.cf.dist"))
		}
		if err != nil {
			continue
		}
		master, err := os.ReadFile(filepath.Join(file, "master.cf.proto"))
		if err != nil {
			master, err = os.ReadFile(filepath.Join(file, "master.cf.dist"))
		}
		if err != nil {
			continue
		}
		dir := configuration(t, string(main), string(master))
		agree(t, dir)
		compared++
	}
	if compared == 0 {
		t.Error("no sample files of a Postfix package were found")
	}
}

func postconfStatus(dir string, args ...string) (string, error) {
	cmd := exec.Command("postconf", append([]string{"-c", dir}, args...)...)
	out, err := cmd.Output()
	return string(out), err
}

func patch(t testing.TB, path, diff string) {
	t.Helper()
	cmd := exec.Command("patch", "-s", "--binary", path)
	cmd.Stdin = strings.NewReader(diff)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("patch: %v: %s\n%s", err, out, diff)
	}
}
