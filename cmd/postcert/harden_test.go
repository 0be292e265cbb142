package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/deploy/program"
)

// runbookHost is a host as Debian installs it, before its administrator has read the
// runbook: a certificate, port 25 alone, and Debian's comments about submission.
func runbookHost(t *testing.T, main ...string) *host {
	t.Helper()
	return newHost(t, postfixtest.Options{Only25: true, Main: append([]string{"smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth"}, main...)})
}

// sasl runs Debian's Dovecot as the SASL service of Postfix: its socket is in
// Postfix's queue directory, and every user has the password "secret".
func (h *host) sasl() (stop func()) {
	h.t.Helper()
	postfixtest.Need(h.t, "dovecot", "doveadm")
	dir, err := os.MkdirTemp("/run", "dovecot")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	socket := filepath.Join(h.pf.QueueDir, "private", "auth")
	conf := filepath.Join(dir, "dovecot.conf")
	h.write(conf, []byte(strings.NewReplacer("DIR", dir, "SOCKET", socket).Replace(`base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
protocols =
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  unix_listener SOCKET {
    mode = 0660
    user = postfix
    group = postfix
  }
}
`)))
	cmd := exec.Command("/usr/sbin/dovecot", "-F", "-c", conf)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
			_ = os.Remove(socket)
		}
		ended = true
	}
	h.t.Cleanup(func() { stop(); _ = os.RemoveAll(dir) })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return stop
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			h.t.Fatalf("Dovecot makes no socket\n%s%s", &said, log)
		}
	}
}

// talk is a session with a server by openssl s_client, inside TLS.
type talk struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Reader
	cmd  *exec.Cmd
	said string
}

func talkTo(t *testing.T, addr string, args ...string) *talk {
	t.Helper()
	args = append([]string{"s_client", "-connect", addr, "-quiet", "-crlf", "-no_ticket"}, args...)
	if addr != postfixtest.Submissions {
		args = append(args, "-starttls", "smtp")
	}
	c := &talk{t: t, cmd: exec.Command("openssl", args...)}
	c.cmd.Env = append(os.Environ(), program.NoAuthorities...)
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(30*time.Second, func() { _ = c.cmd.Process.Kill() })
	t.Cleanup(func() { limit.Stop(); _ = c.in.Close(); _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	c.out = bufio.NewReader(out)
	return c
}

// says sends a line and returns the reply whose first line has the given beginning.
func (c *talk) says(line, want string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatalf("%s: %v after\n%s", line, err, c.said)
	}
	reply, begun := "", false
	for {
		text, err := c.out.ReadString('\n')
		c.said += text
		if err != nil {
			c.t.Fatalf("%s: %v, want %s after\n%s", line, err, want, c.said)
		}
		begun = begun || strings.HasPrefix(text, want)
		if begun {
			reply += text
		}
		if begun && len(text) > 3 && text[3] == ' ' {
			return reply
		}
		if !begun && len(text) > 3 && (text[0] == '5' || text[0] == '4') {
			c.t.Fatalf("%s: %s, want %s", line, text, want)
		}
	}
}

// plain is what a server answers to lines without TLS, by a socket of our own.
func plain25(t *testing.T, addr string, lines ...string) []string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	read := func() string {
		all := ""
		for {
			text, err := r.ReadString('\n')
			all += text
			if err != nil || len(text) > 3 && text[3] == ' ' {
				return all
			}
		}
	}
	out := []string{read()}
	for _, l := range lines {
		fmt.Fprintf(conn, "%s\r\n", l)
		out = append(out, read())
	}
	return out
}

// Runbook "Inbound: require TLS on submission" and "Cipher and protocol hardening":
// the profile is the runbook's list and no more; AUTH is refused before TLS and taken
// inside it, on 587 and on 465; mail comes in there, and its Received: clause tells
// (S65). Undone, both files are what they were, byte for byte (runbook "Rollback").
func TestRunbookHarden(t *testing.T) {
	h := runbookHost(t)
	h.sasl()
	before := h.pf.Files()
	h.postcert("harden", "--profile", "runbook", "--dry-run").want(0).says("+smtpd_tls_auth_only = yes").says("left out     runbook_smtpd_tls_eecdh_grade").says("nothing was changed")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("a dry run changed: %s", d)
	}
	h.postcert("harden", "--profile", "runbook").want(0).says("harden --undo").says("submissions/inet")
	want := map[string]string{
		"smtp_tls_security_level": "may", "smtp_tls_note_starttls_offer": "yes", "smtpd_tls_security_level": "may", "smtpd_tls_auth_only": "yes",
		"smtpd_tls_loglevel": "1", "smtpd_tls_received_header": "yes", "smtpd_tls_mandatory_ciphers": "high",
		"smtpd_tls_exclude_ciphers": "aNULL, MD5, DES, 3DES, RC4, EXPORT, eNULL", "tls_preempt_cipherlist": "yes",
	}
	for name, value := range want {
		if got := h.pf.Postconf("-h", name); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
	if n := len(changed(before["main.cf"].Data, h.pf.Main())); n != len(want)-2 { // two were so
		t.Errorf("%d lines of main.cf changed", n)
	}
	options := "-o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
	for id, want := range map[string]string{"submission/inet": "-o smtpd_tls_security_level=encrypt " + options, "submissions/inet": "-o smtpd_tls_security_level=encrypt -o smtpd_tls_wrappermode=yes " + options} {
		got := strings.Join(strings.Fields(h.pf.Postconf("-M", id)), " ")
		if got != strings.TrimSuffix(id, "/inet")+" inet n - n - - smtpd "+want {
			t.Errorf("%s is %q", id, got)
		}
	}
	h.authOnlyInside()
	h.postcert("harden", "--profile", "runbook").want(0).says("unchanged")
	h.postcert("harden", "--undo").want(0)
	if string(h.pf.Main()) != string(before["main.cf"].Data) || string(h.pf.Master()) != string(before["master.cf"].Data) {
		t.Errorf("undone they are\n%s%s", h.pf.Main(), h.pf.Master())
	}
	h.postcert("harden", "--undo", "--json").refuses(3, "harden_not_ours")
}

// authOnlyInside fails the test unless 587 and 465 take a password inside TLS only,
// and mail from who gave it, with a Received: clause that tells of TLS.
func (h *host) authOnlyInside() {
	t := h.t
	t.Helper()
	login := base64.StdEncoding.EncodeToString([]byte("\x00user\x00secret"))
	said := plain25(t, postfixtest.Submission, "EHLO c.example.test", "AUTH PLAIN "+login)
	if strings.Contains(said[1], "AUTH") || !strings.Contains(said[1], "STARTTLS") || strings.HasPrefix(said[2], "235") {
		t.Errorf("before TLS: %q", said)
	}
	for _, addr := range []string{postfixtest.Submission, postfixtest.Submissions} {
		c := talkTo(t, addr)
		if got := c.says("EHLO c.example.test", "250-"+hostName); !strings.Contains(got, "AUTH PLAIN LOGIN") {
			t.Errorf("%s inside TLS: %q", addr, got)
		}
		c.says("MAIL FROM:<user@example.test>", "250")
		c.says("RCPT TO:<a@elsewhere.example>", "554")
		c = talkTo(t, addr)
		c.says("EHLO c.example.test", "250-"+hostName)
		c.says("AUTH PLAIN "+login, "235")
		c.says("MAIL FROM:<user@example.test>", "250")
		c.says("RCPT TO:<a@elsewhere.example>", "250")
		c.says("DATA", "354")
		c.says("Subject: x\n\nx\n.", "250")
		c.says("QUIT", "221")
	}
}

// S65: mail through 25, 587 and 465 has a Received: clause with the version and the
// cipher of TLS, which is read in the message as Postfix has queued it.
func TestS65Received(t *testing.T) {
	h := runbookHost(t, "header_checks = static:HOLD")
	h.sasl()
	h.postcert("harden", "--profile", "runbook").want(0)
	login := base64.StdEncoding.EncodeToString([]byte("\x00user\x00secret"))
	for _, addr := range []string{postfixtest.SMTP, postfixtest.Submission, postfixtest.Submissions} {
		c := talkTo(t, addr)
		c.says("EHLO c.example.test", "250-"+hostName)
		if addr != postfixtest.SMTP {
			c.says("AUTH PLAIN "+login, "235")
		}
		c.says("MAIL FROM:<user@example.test>", "250")
		c.says("RCPT TO:<a@elsewhere.example>", "250")
		c.says("DATA", "354")
		reply := c.says("Subject: x\n\nx\n.", "250")
		id := strings.TrimSpace(reply[strings.LastIndexByte(strings.TrimSpace(reply), ' '):])
		text := ""
		for end := time.Now().Add(10 * time.Second); !strings.Contains(text, "Received:") && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			out, _ := exec.Command("postcat", "-c", h.pf.ConfigDir, "-q", id).CombinedOutput()
			text = string(out)
		}
		if !strings.Contains(text, "(using TLSv1.3 with cipher ") || !strings.Contains(text, "with ESMTPS") {
			t.Errorf("%s: %s", addr, text)
		}
	}
}

// Without a SASL service the runbook's two services would take 587 and 465 down:
// refused, with the lines for Dovecot and Cyrus; all else is done when asked for.
func TestHardenWithoutSASL(t *testing.T) {
	h := runbookHost(t)
	h.untouchedOn25(func() {
		h.postcert("harden", "--profile", "runbook", "--json").refuses(3, "sasl_missing")
		h.postcert("harden", "--profile", "runbook", "--dry-run").want(3).says("unix_listener").says("saslauthd").says("--without-submission")
	})
	master := h.pf.Master()
	h.postcert("harden", "--profile", "runbook", "--without-submission").want(0).says("left as it is by --without-submission")
	if h.pf.Postconf("-h", "smtpd_tls_auth_only") != "yes" || string(h.pf.Master()) != string(master) {
		t.Error("not the rest, or more than it")
	}
	stop := h.sasl()
	h.postcert("harden", "--profile", "runbook").want(0)
	h.authOnlyInside()
	stop()
	h.postcert("harden", "--profile", "runbook").want(0).says("unchanged")
}
