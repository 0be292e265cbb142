package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/deploy/program"
	"postcert/verify/certtest"
	"postcert/verify/problem"
)

// foundJSON is a finding as a program reads it.
type foundJSON struct {
	Rule, Severity, Message, Remedy string
	Edits                           []struct {
		Service, Parameter string
		New                *string
	}
	At problem.At
}

// audit runs audit and returns the findings of the one instance, by rule.
func (h *host) audit(args ...string) map[string][]foundJSON {
	h.t.Helper()
	a := h.postcert(append([]string{"audit", "--json", "--severity", "error"}, args...)...)
	if a.status != 0 && a.status != 8 {
		a.want(8)
	}
	var v struct {
		Instances []struct{ Findings []foundJSON }
	}
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil || len(v.Instances) != 1 {
		h.t.Fatalf("%v: %s%s", err, a.stdout, a.stderr)
	}
	out := map[string][]foundJSON{}
	for _, f := range v.Instances[0].Findings {
		out[f.Rule] = append(out[f.Rule], f)
	}
	return out
}

// finds fails the test unless a rule found one thing, at a file that ends so, in
// a line that has the text.
func (h *host) finds(all map[string][]foundJSON, rule, file, text string) foundJSON {
	h.t.Helper()
	for _, f := range all[rule] {
		data, err := os.ReadFile(f.At.File)
		if err != nil {
			h.t.Error(err)
		}
		lines := strings.Split(string(data), "\n")
		if f.At.Line > 0 && f.At.Line <= len(lines) && strings.HasSuffix(f.At.File, file) && strings.Contains(lines[f.At.Line-1], text) {
			return f
		}
	}
	h.t.Fatalf("no %s in a line of %s with %q, but %+v", rule, file, text, all[rule])
	return foundJSON{}
}

// remedy carries edits out by postconf(1), the way a person would, and reloads.
func (h *host) remedy(f foundJSON) {
	h.t.Helper()
	if len(f.Edits) == 0 {
		h.t.Fatalf("%s brings no edits: %s", f.Rule, f.Message)
	}
	for _, e := range f.Edits {
		switch {
		case e.Service == "" && e.New == nil:
			h.pf.Postconf("-X", e.Parameter)
		case e.Service == "":
			h.pf.Postconf("-e", e.Parameter+" = "+*e.New)
		case e.New == nil:
			h.pf.Postconf("-PX", e.Service+"/"+e.Parameter)
		default:
			h.pf.Postconf("-P", e.Service+"/"+e.Parameter+"="+*e.New)
		}
	}
	h.reload()
}

// reload reloads and waits until the new processes are there.
func (h *host) reload() {
	h.t.Helper()
	past := time.Now().Add(-time.Minute)
	for _, f := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(h.pf.ConfigDir, f), past, past); err != nil {
			h.t.Fatal(err)
		}
	}
	n := strings.Count(h.pf.Log(), "reload -- ")
	h.pf.Reload()
	for end := time.Now().Add(20 * time.Second); strings.Count(h.pf.Log(), "reload -- ") == n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatal("no reload in the log")
		}
	}
	time.Sleep(200 * time.Millisecond) // an idle smtpd may take one more session
}

// plainEHLO is the reply to EHLO in clear text, and to another command after it.
func plainEHLO(t *testing.T, addr, then string) (lines []string, reply string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewScanner(conn)
	read := func() (last string) {
		for in.Scan() {
			lines = append(lines, in.Text())
			if len(in.Text()) > 3 && in.Text()[3] == ' ' {
				return in.Text()
			}
		}
		t.Fatalf("%s: %v after %q", addr, in.Err(), lines)
		return ""
	}
	read()
	fmt.Fprint(conn, "EHLO client.example.test\r\n")
	read()
	all := lines
	fmt.Fprintf(conn, "%s\r\n", then)
	reply = read()
	fmt.Fprint(conn, "QUIT\r\n")
	return all, reply
}

// insideEHLO is what openssl s_client is told inside TLS.
func insideEHLO(t *testing.T, addr string, mode postfixtest.Mode) string {
	t.Helper()
	args := []string{"s_client", "-quiet", "-crlf", "-connect", addr}
	if mode == postfixtest.StartTLS {
		args = append(args, "-starttls", "smtp")
	}
	cmd := exec.Command("openssl", args...)
	cmd.Env = append(os.Environ(), program.NoAuthorities...)
	cmd.Stdin = strings.NewReader("EHLO client.example.test\nQUIT\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// authService is Dovecot's authentication service, for smtpd: any password is right.
func (h *host) authService() {
	h.t.Helper()
	h.authServiceWith("nopassword=y")
}

// authServiceWith is one with other arguments for its database of one password.
func (h *host) authServiceWith(args string) {
	h.t.Helper()
	postfixtest.Need(h.t, "dovecot")
	dir, err := os.MkdirTemp("/run", "auth")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	socket := filepath.Join(h.pf.QueueDir, "private", "auth")
	conf := filepath.Join(dir, "dovecot.conf")
	h.write(conf, fmt.Appendf(nil, `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols =
ssl = no
auth_mechanisms = plain login
passdb {
  driver = static
  args = %[3]s
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  unix_listener %[2]s {
    mode = 0660
    user = postfix
    group = postfix
  }
}
`, dir, socket, args))
	cmd := exec.Command("/usr/sbin/dovecot", "-F", "-c", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			h.t.Fatalf("no authentication service: %s", log)
		}
	}
}

// sasl are the lines of main.cf that ask it.
var sasl = []string{"smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth"}

// S21: a typo that switches TLS off is found by its line, and by what the listener
// answers; with the remedy openssl is served again.
func TestAuditS21Typo(t *testing.T) {
	for _, line := range badProtocols {
		t.Run(line, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{Main: []string{line}})
			if _, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); err == nil {
				t.Fatal("the typo is no hindrance")
			}
			all := h.audit()
			f := h.finds(all, "protocols_invalid", "main.cf", line)
			if b := h.finds(all, "tls_broken", "master.cf", "smtp"); !strings.Contains(b.Message, "454") || b.At.Endpoint != postfixtest.SMTP {
				t.Errorf("tls_broken: %+v", b)
			}
			if len(h.audit("--no-handshakes")["tls_broken"]) > 0 {
				t.Error("a listener was asked with --no-handshakes")
			}
			h.postcert("audit").want(8).says("protocols_invalid").says(fmt.Sprintf("main.cf:%d", f.At.Line))
			h.remedy(f)
			if _, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); err != nil {
				t.Errorf("with the remedy: %v", err)
			}
			if left := h.audit(); len(left["protocols_invalid"])+len(left["tls_broken"]) > 0 {
				t.Errorf("still found: %+v", left)
			}
		})
	}
}

// levelSeen is what a client sees of a port's level: does it offer STARTTLS, does it
// insist, and is openssl served.
func levelSeen(t *testing.T, addr string) string {
	t.Helper()
	lines, reply := plainEHLO(t, addr, "MAIL FROM:<a@example.test>")
	offered := slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, "STARTTLS") })
	_, err := postfixtest.ServedLeaf(t, addr, postfixtest.StartTLS)
	switch {
	case !offered && err != nil && strings.HasPrefix(reply, "250"):
		return "none"
	case offered && err == nil && strings.HasPrefix(reply, "250"):
		return "may"
	case offered && err == nil && strings.HasPrefix(reply, "530"):
		return "encrypt"
	}
	return fmt.Sprintf("offered %v, MAIL %q, openssl %v", offered, reply, err)
}

// S62: the equivalent of obsolete parameters, in main.cf and by -o, leaves each
// port at its level: by what a client meets, and by postconf.
func TestAuditS62Obsolete(t *testing.T) {
	h := newHost(t, postfixtest.Options{SMTPD: []string{
		"smtp inet n - n - - smtpd",
		"26 inet n - n - - smtpd", "  -o smtpd_use_tls=no",
		"587 inet n - n - - smtpd", "  -o smtpd_enforce_tls=yes",
	}, Only25: true})
	h.pf.ReplaceMain("smtpd_tls_security_level = may", "smtpd_use_tls = yes")
	h.reload()
	ports := map[string]string{"127.0.0.1:25": "may", "127.0.0.1:26": "none", "127.0.0.1:587": "encrypt"}
	for addr, want := range ports {
		if got := levelSeen(t, addr); got != want {
			t.Fatalf("before, %s is at %s, want %s", addr, got, want)
		}
	}
	all := h.audit()
	h.finds(all, "deprecated_level", "master.cf", "smtpd_use_tls=no")
	h.finds(all, "deprecated_level", "master.cf", "smtpd_enforce_tls=yes")
	h.remedy(h.finds(all, "deprecated_level", "main.cf", "smtpd_use_tls = yes"))
	for addr, want := range ports {
		if got := levelSeen(t, addr); got != want {
			t.Errorf("after, %s is at %s, want %s", addr, got, want)
		}
	}
	for command, want := range map[string]string{
		"-h smtpd_tls_security_level":          "may",
		"-P 26/inet/smtpd_tls_security_level":  "26/inet/smtpd_tls_security_level = none",
		"-P 587/inet/smtpd_tls_security_level": "587/inet/smtpd_tls_security_level = encrypt",
		"-n smtpd_use_tls":                     "",
		"-P */inet/smtpd_use_tls":              "",
		"-P */inet/smtpd_enforce_tls":          "",
	} {
		if got := h.pf.Postconf(strings.Fields(command)...); got != want {
			t.Errorf("postconf %s prints %q, want %q", command, got, want)
		}
	}
	if left := h.audit()["deprecated_level"]; len(left) > 0 {
		t.Errorf("still found: %+v", left)
	}
}

// S63: what an administrator gets wrong about ports, each with file and line; and
// nothing is changed.
func TestAuditS63Ports(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: sasl, SMTPD: []string{
		"smtp inet n - n - - smtpd", "  -o smtpd_tls_security_level=encrypt",
		"587 inet n - n - - smtpd", "  -o smtpd_sasl_auth_enable=yes", "  -o smtpd_tls_security_level=may",
		"465 inet n - n - - smtpd", "#submission inet n - n - - smtpd", "  -o smtpd_tls_auth_only=yes",
	}, Address: "all"})
	h.authService()
	h.reload()
	before := h.pf.Files()
	all := h.audit()
	h.finds(all, "smtp_encrypt", "master.cf", "smtpd_tls_security_level=encrypt")
	h.finds(all, "submission_not_encrypted", "master.cf", "smtpd_tls_security_level=may")
	h.finds(all, "submissions_no_wrapper", "master.cf", "465 inet")
	h.finds(all, "service_half_commented", "master.cf", "smtpd_tls_auth_only=yes")
	lines, _ := plainEHLO(t, postfixtest.Submission, "NOOP")
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "AUTH PLAIN") }) {
		t.Fatalf("no AUTH before TLS: %q", lines)
	}
	auth := all["auth_before_tls"]
	if len(auth) != 1 || !strings.Contains(auth[0].Message, "as the reply to EHLO shows") || auth[0].At.Endpoint != postfixtest.Submission {
		t.Fatalf("auth_before_tls: %+v", auth)
	}
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}

	h.remedy(auth[0])
	if lines, _ = plainEHLO(t, postfixtest.Submission, "NOOP"); strings.Contains(strings.Join(lines, "\n"), "AUTH") {
		t.Errorf("with the remedy there still is AUTH before TLS: %q", lines)
	}
	if in := insideEHLO(t, postfixtest.Submission, postfixtest.StartTLS); !strings.Contains(in, "AUTH PLAIN") {
		t.Errorf("with the remedy there is no AUTH inside TLS: %s", in)
	}
	if left := h.audit()["auth_before_tls"]; len(left) > 0 {
		t.Errorf("still found: %+v", left)
	}
}

// A SASL backend that is gone: smtpd_sasl_auth_enable is right, and no AUTH is
// offered inside TLS.
func TestAuditNoAuthInside(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: sasl, SMTPD: []string{
		"smtp inet n - n - - smtpd",
		"465 inet n - n - - smtpd", "  -o smtpd_tls_wrappermode=yes", "  -o smtpd_sasl_auth_enable=yes", "  -o smtpd_discard_ehlo_keywords=auth",
	}})
	h.authService()
	h.reload()
	f := h.audit()["submission_no_auth"]
	if len(f) != 1 || !strings.Contains(f[0].Message, "inside TLS") || f[0].At.Endpoint != postfixtest.Submissions {
		t.Fatalf("submission_no_auth: %+v", f)
	}
	h.pf.ReplaceMaster("  -o smtpd_discard_ehlo_keywords=auth\n", "")
	h.reload()
	if in := insideEHLO(t, postfixtest.Submissions, postfixtest.Implicit); !strings.Contains(in, "AUTH PLAIN") {
		t.Fatalf("no AUTH inside TLS: %s", in)
	}
	if left := h.audit()["submission_no_auth"]; len(left) > 0 {
		t.Errorf("still found: %+v", left)
	}
}

// S66: a client certificate for servers only is reported, and left alone.
func TestAuditS66ClientCertificate(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	l := h.lineage(certtest.Leaf{})
	h.pf.AppendMain("smtp_tls_security_level = may", "smtp_tls_cert_file = "+filepath.Join(l, "fullchain.pem"), "smtp_tls_key_file = "+filepath.Join(l, "privkey.pem"))
	out, err := exec.Command("openssl", "x509", "-in", filepath.Join(l, "fullchain.pem"), "-noout", "-purpose").Output()
	if err != nil || !strings.Contains(string(out), "SSL client : No") {
		t.Fatalf("for openssl it is a client's: %v %s", err, out)
	}
	h.untouched(func() {
		if f := h.finds(h.audit(), "client_cert_purpose", "main.cf", "smtp_tls_cert_file"); len(f.Edits) > 0 {
			t.Errorf("it brings edits: %+v", f.Edits)
		}
	})
}

// Files about which Postfix says nothing: modes, directories, copies.
func TestAuditKeys(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	dir := filepath.Join(h.pf.Dir, "keys")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(h.pf.Postconf("-xh", "smtpd_tls_cert_file"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "mail.pem")
	h.write(key, pem)
	h.write(key+".bak", pem)
	h.write(key+".old", []byte("no key here"))
	h.pf.AppendMain("smtpd_tls_chain_files = " + key)
	rules := []string{"key_readable", "key_group_readable", "key_directory", "key_encrypted", "cert_unusable", "key_backup", "cert_legacy_ignored"}
	expect := func(what string, want ...string) {
		t.Helper()
		all := h.audit("--no-handshakes")
		for _, r := range rules {
			if (len(all[r]) > 0) != slices.Contains(want, r) {
				t.Errorf("%s: %s: %+v", what, r, all[r])
			}
		}
	}
	always := []string{"key_backup", "cert_legacy_ignored"}
	expect("as it should be", always...)
	if copies := h.audit("--no-handshakes")["key_backup"]; len(copies) != 1 || copies[0].At.File != key+".bak" {
		t.Errorf("copies: %+v", copies) // the other one has no key in it
	}
	stage := func(what, undo string, want ...string) {
		t.Helper()
		sh(t, "%s", what)
		expect(what, append(want, always...)...)
		sh(t, "%s", undo)
	}
	stage("chmod 644 "+key, "chmod 600 "+key, "key_readable")
	stage("chmod 640 "+key+"; chgrp postfix "+key, "chmod 600 "+key, "key_group_readable")
	stage("chmod 777 "+dir, "chmod 755 "+dir, "key_directory")
	stage("chown postfix "+dir, "chown root "+dir, "key_directory")
	stage("mv "+key+" "+key+".x", "mv "+key+".x "+key, "cert_unusable")
	sh(t, "%s", "openssl pkey -in "+key+" -aes128 -passout pass:x -out "+key+".enc && openssl x509 -in "+key+" >>"+key+".enc && mv "+key+" "+key+".x && mv "+key+".enc "+key)
	expect("encrypted", append([]string{"key_encrypted"}, always...)...)
	a := h.postcert("audit", "--json", "--no-handshakes").want(8)
	for line := range strings.Lines(string(pem)) {
		if line = strings.TrimSpace(line); len(line) == 64 && strings.Contains(a.stdout+a.stderr, line) {
			t.Error("a line of a key or certificate in the output")
		}
	}
}

// S61: a policy table whose index is older than its source, and an entry that this
// Postfix refuses.
func TestAuditS61PolicyTable(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	policy := filepath.Join(h.pf.ConfigDir, "tls_policy")
	h.write(policy, []byte("good.example.test encrypt\nbad.example.test secure enable_rpk=yes\n"))
	h.pf.AppendMain("smtp_tls_security_level = may", "smtp_tls_policy_maps = hash:"+policy)
	all := h.audit("--no-handshakes")
	h.finds(all, "table_unreadable", "main.cf", "smtp_tls_policy_maps")
	h.finds(all, "policy_invalid", "tls_policy", "enable_rpk")
	h.finds(all, "outbound_no_trust", "main.cf", "smtp_tls_security_level")
	sh(t, "postmap -c %s hash:%s", h.pf.ConfigDir, policy)
	if all = h.audit("--no-handshakes"); len(all["table_unreadable"])+len(all["table_stale"]) > 0 {
		t.Errorf("after postmap: %+v", all)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(policy, later, later); err != nil {
		t.Fatal(err)
	}
	f := h.finds(h.audit("--no-handshakes"), "table_stale", "main.cf", "smtp_tls_policy_maps")
	if f.Remedy != "postmap hash:"+policy {
		t.Errorf("remedy %q", f.Remedy)
	}
	h.pf.AppendMain("tls_server_sni_maps = nonsense:" + policy)
	h.finds(h.audit("--no-handshakes"), "table_type_missing", "main.cf", "nonsense")
}
