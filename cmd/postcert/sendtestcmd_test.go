package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// trialOf is what send-test said about its mail.
func (a answer) trialOf() sendTestJSON {
	a.t.Helper()
	var v struct {
		Mail sendTestJSON `json:"mail"`
	}
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		a.t.Fatalf("%v in %q (%s)", err, a.stdout, a.stderr)
	}
	return v.Mail
}

// sendTest runs send-test, and fails the test unless it ends with this status and
// this outcome.
func (h *host) sendTest(status int, outcome string, args ...string) sendTestJSON {
	h.t.Helper()
	a := h.postcert(append([]string{"send-test", "--json"}, args...)...).want(status)
	j := a.trialOf()
	if j.Outcome != outcome {
		h.t.Fatalf("outcome %q, want %q\n%s\n%s", j.Outcome, outcome, a.stdout, h.pf.Log())
	}
	return j
}

// inQueue are the queue ids that postqueue(1) lists.
func (h *host) inQueue() []string {
	h.t.Helper()
	out, err := exec.Command("postqueue", "-c", h.pf.ConfigDir, "-j").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(out)) {
		var m struct {
			ID string `json:"queue_id"`
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			h.t.Fatalf("%v in %q", err, line)
		}
		ids = append(ids, m.ID)
	}
	return ids
}

// Runbook "Send an email": what send-test says of a mail is what the receiver's own
// log has of it, for each kind of receiver and level.
func TestRunbookSendTest(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may", "smtp_tls_policy_maps = inline:{other.example=secure}"}}, "")
	s.mx.AppendMain("smtpd_tls_loglevel = 1")
	self := filepath.Join(s.dir, "self.pem")
	postfixtest.WritePair(t, self, mxName)
	for _, tt := range []struct {
		name, cert, to, outcome, trust string
		anchors                        bool
		status                         int
	}{
		{"in clear", "", domain, "delivered_in_clear", "", false, 8},
		{"untrusted", self, domain, "delivered_tls", "Untrusted", false, 0},
		{"trusted", s.mxCert(t, "wrong.example"), domain, "delivered_tls", "Trusted", true, 0},
		{"verified", s.mxCert(t, "other.example"), "other.example", "delivered_tls", "Verified", true, 0},
	} {
		if tt.cert != "" {
			s.serve(tt.cert)
		}
		if tt.anchors && s.pf.Postconf("-h", "smtp_tls_CAfile") == "" {
			s.pf.AppendMain("smtp_tls_CAfile = " + s.trust)
			s.pf.Reload()
		}
		from := len(s.mx.Log())
		j := s.sendTest(tt.status, tt.outcome, "--to", "user@"+tt.to)
		if len(j.Deliveries) != 1 || j.Deliveries[0].Trust != tt.trust || j.Deliveries[0].Recipient != "user@"+tt.to || len(j.InQueue) != 0 {
			t.Errorf("%s: %+v", tt.name, j)
		}
		log := s.mx.Log()[from:]
		if !strings.Contains(log, "message-id="+j.MessageID) {
			t.Errorf("%s: the receiver does not have the mail:\n%s", tt.name, log)
		}
		if over := strings.Contains(log, "TLS connection established from"); over != (tt.trust != "") {
			t.Errorf("%s: TLS by the receiver's log is %v:\n%s", tt.name, over, log)
		}
		if tt.trust != "" && !strings.Contains(log, j.Deliveries[0].Protocol+" with cipher "+j.Deliveries[0].Cipher+" ") {
			t.Errorf("%s: the receiver has another session than %s, %s:\n%s", tt.name, j.Deliveries[0].Protocol, j.Deliveries[0].Cipher, log)
		}
	}
	s.postcert("send-test", "--to", "user@"+domain).want(0).says("Trusted TLS connection established to " + domain).says("Its name was not compared").says("delivered over TLS, Trusted")
	if ids := s.inQueue(); len(ids) != 0 {
		t.Errorf("in the queue: %v", ids)
	}
}

// Where the client does not log its sessions, nothing is said about TLS.
func TestSendTestNotLogged(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	s.pf.ReplaceMain("smtp_tls_loglevel = 1", "smtp_tls_loglevel = 0")
	s.pf.Reload()
	s.sendTest(8, "delivered_unknown", "--to", "user@"+domain)
	s.postcert("send-test", "--to", "user@"+domain).want(8).says("session_not_logged").says("smtp_tls_loglevel")
}

// A mail that waits is in the queue, and the command that is said takes it out. The
// reason is explained if it is one of TLS.
func TestSendTestDeferred(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = encrypt"}}, "")
	s.nowhere("down.example")
	for _, tt := range []struct{ to, text, kind string }{
		{"down.example", "Connection refused", ""}, {domain, "TLS is required, but was not offered", "tls_not_offered"},
	} {
		a := s.postcert("send-test", "--json", "--to", "user@"+tt.to).want(8)
		j := a.trialOf()
		if j.Outcome != "deferred" || len(j.Deliveries) != 1 || !strings.Contains(j.Deliveries[0].Text, tt.text) {
			t.Fatalf("%+v\n%s", j, s.pf.Log())
		}
		if kinds := j.Deliveries[0].Kinds; tt.kind == "" && len(kinds) > 0 || tt.kind != "" && (len(kinds) == 0 || kinds[0].ID != tt.kind) {
			t.Errorf("%s: explained by %+v", tt.text, kinds)
		}
		if ids := s.inQueue(); !slices.Equal(ids, j.InQueue) || len(ids) != 1 {
			t.Errorf("in the queue %v, said %v", ids, j.InQueue)
		}
		sh(t, "postsuper -c %s -d %s", s.pf.ConfigDir, j.InQueue[0])
	}
	text := s.postcert("send-test", "--to", "user@"+domain).want(8).says("it stays in the queue").stderr
	_, command, ok := strings.Cut(text, "to take it out: ")
	if !ok {
		t.Fatal(text)
	}
	sh(t, "%s", strings.TrimSpace(command))
	if ids := s.inQueue(); len(ids) != 0 {
		t.Errorf("after %s: %v", command, ids)
	}
}

// nowhere is a name at which nobody listens.
func (s *sender) nowhere(name string) {
	s.t.Helper()
	hosts, err := os.OpenFile(filepath.Join(s.dir, "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer hosts.Close()
	if _, err := fmt.Fprintf(hosts, "127.0.0.77 %s\n", name); err != nil {
		s.t.Fatal(err)
	}
}

// A mail that nobody wants is returned, and what is said is the receiver's answer.
func TestSendTestBounced(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	s.mx.AppendMain("relay_recipient_maps = inline:{known@" + domain + "=x}")
	s.mx.Reload()
	j := s.sendTest(8, "bounced", "--to", "nobody-here@"+domain)
	if len(j.Notices) != 1 || len(j.Deliveries) != 1 || !strings.Contains(j.Deliveries[0].Text, "User unknown in relay recipient table") || len(j.InQueue) != 0 {
		t.Errorf("%+v", j)
	}
	if !strings.Contains(s.pf.Log(), j.Notices[0]+": to=<postmaster@") {
		t.Errorf("no notice %v:\n%s", j.Notices, s.pf.Log())
	}
	if !strings.Contains(s.mx.Log(), "NOQUEUE: reject: RCPT") {
		t.Errorf("the receiver did not refuse it:\n%s", s.mx.Log())
	}
	s.sendTest(8, "delivered_in_clear", "--to", "known@"+domain)
}

// mailboxes makes a host deliver to mailboxes, below a directory of its own.
func (h *host) mailboxes(main ...string) (dir string) {
	h.t.Helper()
	dir = filepath.Join(h.pf.Dir, "spool")
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		h.t.Fatal(err)
	}
	h.pf.ReplaceMain("local_transport = discard:", strings.Join(append([]string{"local_transport = local:$myhostname"}, main...), "\n"))
	h.pf.AppendMain("mail_spool_directory = " + dir + "/")
	h.pf.Reload()
	return dir
}

// submissionHost is a host with submission and submissions, for which one password
// is right, and a file that has it.
func submissionHost(t *testing.T, main ...string) (h *host, password string) {
	t.Helper()
	h = newHost(t, postfixtest.Options{Main: slices.Concat(sasl, main)})
	h.authServiceWith("password=" + rightPassword)
	for _, service := range []string{"submission", "submissions"} {
		h.pf.ReplaceMaster("-o syslog_name=postfix/"+service+"\n", "-o syslog_name=postfix/"+service+"\n  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n")
	}
	h.pf.Reload()
	return h, h.pairFile("password", []byte(rightPassword+"\n"))
}

const rightPassword = "right-horse-7Q"

// S65: mail through 587 and 465 with AUTH inside TLS, by Dovecot, has its TLS in the
// Received header where that is on, and send-test says why where it cannot.
func TestS65SendTestSubmission(t *testing.T) {
	h, password := submissionHost(t)
	dir := h.mailboxes()
	login := []string{"--to", "daemon@" + hostName, "--via", "submission", "--user", "someone@" + hostName, "--password-file", password}
	j := h.sendTest(0, "delivered_locally", login...)
	if !strings.Contains(j.Clause, "smtpd_tls_received_header = no") || j.Submission.Mech != "PLAIN" || len(j.Received) == 0 {
		t.Errorf("%+v", j)
	}
	h.pf.AppendMain("smtpd_tls_received_header = yes")
	h.pf.Reload()
	j = h.sendTest(0, "delivered_locally", login...)
	if j.Submission.Service != "submission/inet" || len(j.Received) == 0 || j.Received[0].With != "ESMTPSA" || j.Received[0].Protocol != j.Submission.Protocol || j.Received[0].Cipher != j.Submission.Cipher {
		t.Errorf("%+v %+v", j.Received, j.Submission)
	}
	mail, err := os.ReadFile(j.Mailbox)
	if err != nil || !strings.HasPrefix(j.Mailbox, filepath.Join(dir, "daemon")+"/") || !strings.Contains(string(mail), "(using "+j.Submission.Protocol+" with cipher "+j.Submission.Cipher+" ") ||
		!strings.Contains(string(mail), "\nMessage-ID: "+j.MessageID+"\n") || !strings.Contains(string(mail), "\nSubject: "+j.Subject+"\n") {
		t.Errorf("%v: %s:\n%s", err, j.Mailbox, mail)
	}
	h.postcert(append([]string{"send-test"}, login...)...).want(0).says("AUTH PLAIN as someone@").says("with ESMTPSA").says("the header has it")
	// Port 465, where 587 is gone.
	h.pf.AppendMain("master_service_disable = submission/inet")
	h.pf.Stop()
	h.pf.Start()
	if j = h.sendTest(0, "delivered_locally", login...); j.Submission.Service != "submissions/inet" || j.Received[0].With != "ESMTPSA" {
		t.Errorf("%+v %+v", j.Received, j.Submission)
	}
	if n := strings.Count(h.pf.Log(), "sasl_method=PLAIN, sasl_username=someone@"); n != 4 {
		t.Errorf("%d logins in the log, want 4", n)
	}
}

// A wrong password, none at all, and a service without TLS: nothing is sent, and
// without TLS no password. The password is in no output and no log.
func TestSendTestRefused(t *testing.T) {
	h, password := submissionHost(t)
	h.mailboxes()
	wrong := h.pairFile("wrong", []byte("wrong-horse-9Z\n"))
	via := []string{"send-test", "--to", "daemon@" + hostName, "--via", "submission"}
	said := ""
	for _, tt := range []struct {
		id   string
		args []string
	}{
		{"submission_auth", []string{"--user", "someone", "--password-file", wrong}},
		{"submission_refused", nil},
		{"input_unreadable", []string{"--user", "someone", "--password-file", password + ".none"}},
	} {
		a := h.postcert(slices.Concat(via, []string{"--json"}, tt.args)...).want(3)
		if ids := a.errorIDs(); !slices.Contains(ids, tt.id) {
			t.Errorf("%v: %v\n%s", tt.args, ids, a.stdout)
		}
		said += a.stdout + a.stderr
	}
	h.stdin = []byte("wrong-horse-9Z")
	a := h.postcert(append(via, "--user", "someone", "--password-file", "-", "-vv")...).want(3).says("submission_auth")
	said += a.stdout + a.stderr
	// Without a terminal there is nobody to ask.
	cmd := h.command(append(via, "--user", "someone")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	h.finish(cmd).want(2).says("--password-file")
	h.pf.ReplaceMaster("-o smtpd_tls_security_level=encrypt", "-o smtpd_tls_security_level=none")
	h.pf.ReplaceMaster("-o smtpd_tls_wrappermode=yes", "-o smtpd_tls_security_level=none")
	h.pf.Reload()
	from := len(h.pf.Log())
	a = h.postcert(append(via, "--user", "someone", "--password-file", password)...).want(3).says("submission_missing")
	said += a.stdout + a.stderr + h.pf.Log()
	if strings.Contains(h.pf.Log()[from:], "connect from") {
		t.Error("a service without TLS was connected to")
	}
	for _, secret := range []string{rightPassword, "wrong-horse-9Z"} {
		if strings.Contains(said, secret) {
			t.Errorf("the password %s is told", secret)
		}
	}
	if strings.Contains(h.pf.Log(), "message-id=") || len(h.inQueue()) != 0 {
		t.Errorf("a mail was sent:\n%s", h.pf.Log())
	}
}

// A mailbox in one file, and one by home_mailbox; mail through the queue has no
// clause of smtpd(8), and that is said.
func TestSendTestMailbox(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	dir := h.mailboxes()
	j := h.sendTest(0, "delivered_locally", "--to", "daemon")
	if !strings.Contains(j.Clause, "through the queue") || len(j.Received) != 1 || j.To != "daemon@"+hostName {
		t.Errorf("%+v", j)
	}
	// Another mail that is newer is not taken for it.
	decoy := filepath.Join(dir, "daemon", "new", "decoy")
	h.write(decoy, []byte("Received: by decoy (Postfix) id 0DEC0; now\nMessage-ID: <decoy@example.org>\n\ndecoy\n"))
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(decoy, later, later); err != nil {
		t.Fatal(err)
	}
	if j = h.sendTest(0, "delivered_locally", "--to", "daemon"); len(j.Received) != 1 || j.Received[0].QueueID != j.QueueIDs[0] || j.Mailbox == decoy {
		t.Errorf("%+v", j)
	}
	h.pf.ReplaceMain("mail_spool_directory = "+dir+"/", "mail_spool_directory = "+dir+"/mbox")
	box := filepath.Join(dir, "mbox")
	if err := os.Mkdir(box, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(box, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	h.pf.Reload()
	for range 2 { // the second stands behind the first
		j = h.sendTest(0, "delivered_locally", "--to", "daemon@"+hostName)
		if j.Mailbox != filepath.Join(box, "daemon") || len(j.Received) != 1 || j.Received[0].QueueID != j.QueueIDs[0] {
			t.Errorf("%+v", j)
		}
	}
	if mail, err := os.ReadFile(j.Mailbox); err != nil || strings.Count(string(mail), "Subject: postcert send-test ") != 2 {
		t.Errorf("%v:\n%s", err, mail)
	}
	h.sendTest(8, "bounced", "--to", "no-such-user@"+hostName)
}

// A content filter that hands the mail back, and an alias of two recipients: the mail
// is followed under both its queue ids, to each of its ends.
func TestSendTestRequeued(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may", "content_filter = smtp:[127.0.0.1]:10026",
		"virtual_alias_maps = inline:{{team@" + hostName + " = user@" + domain + ", daemon@" + hostName + "}}"},
		Master: []string{"127.0.0.1:10026 inet n - n - - smtpd", "  -o content_filter=", "  -o smtpd_tls_security_level=none"}}, "")
	s.mailboxes()
	self := filepath.Join(s.dir, "self.pem")
	postfixtest.WritePair(t, self, mxName)
	s.serve(self)
	j := s.sendTest(0, "delivered_locally", "--to", "team@"+hostName)
	if len(j.QueueIDs) != 2 || len(j.Deliveries) != 2 || len(j.InQueue) != 0 {
		t.Fatalf("%+v\n%s", j, s.pf.Log())
	}
	for _, d := range j.Deliveries {
		want := map[string]string{"user@" + domain: "delivered_tls", "daemon@" + hostName: "delivered_locally"}[d.Recipient]
		if d.Outcome != want || d.QueueID != j.QueueIDs[1] {
			t.Errorf("%+v, want %s", d, want)
		}
	}
	if !strings.Contains(s.mx.Log(), "message-id="+j.MessageID) || j.Mailbox == "" {
		t.Errorf("the receiver or the mailbox lacks it: %+v\n%s", j, s.mx.Log())
	}
}

// What is no address, or more than one, is refused before anything is sent; what is
// odd and right arrives under exactly that address.
func TestSendTestAddresses(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	for _, to := range []string{"a@" + domain + "\r\nBcc: b@" + domain, "a@" + domain + "\n", "-oQ/tmp@" + domain, "a@" + domain + ",b@" + domain, "a b@" + domain,
		"a@" + domain + " b@" + domain, "Name <a@" + domain + ">", "@" + domain, "a@", "a@b@" + domain, `"a@` + domain, "a@-x." + domain, "a@[127.0.0.1", "\xff@" + domain, "a(c)@" + domain, `"-x"@` + domain} {
		s.postcert("send-test", "--to", to).want(2)
		s.postcert("send-test", "--to", "user@"+domain, "--from", to).want(2)
	}
	s.postcert("send-test").want(2)
	s.postcert("send-test", "--to", "a@"+domain, "--via", "pigeon").want(2)
	if log := s.pf.Log(); strings.Contains(log, "message-id=") {
		t.Fatalf("a mail was sent:\n%s", log)
	}
	for _, to := range []string{`"a b, c"@` + domain, "a+b{c}@" + domain, "müller@" + domain, `"q\"q"@` + domain} {
		from := len(s.mx.Log())
		j := s.sendTest(8, "delivered_in_clear", "--to", to, "--from", "sender+tag@"+hostName)
		if log := s.mx.Log()[from:]; !strings.Contains(log, "to=<"+to+">") || !strings.Contains(log, "from=<sender+tag@"+hostName+">") || strings.Count(log, "to=<") != 1 {
			t.Errorf("%s: the receiver has %s\n%+v", to, log, j)
		}
	}
}

// Nothing of the server is changed by it, and without Postfix nothing is queued.
func TestSendTestChangesNothing(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	s.untouchedOn25(func() { s.postcert("send-test", "--to", "user@"+domain).want(8) })
	s.pf.Stop()
	before := postfixtest.Tree(t, s.pf.QueueDir)
	s.postcert("send-test", "--to", "user@"+domain).want(3).says("not_running")
	for _, d := range postfixtest.Compare(before, postfixtest.Tree(t, s.pf.QueueDir)) {
		t.Errorf("changed: %s", d)
	}
}

// When the time is over while the mail is under way, or on hold, that is the answer,
// and the mail is in the queue.
func TestSendTestTimeOver(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	s.mx.AppendMain("smtpd_sender_restrictions = sleep 60")
	s.mx.Reload()
	begin := time.Now()
	j := s.sendTest(8, "queued", "--to", "user@"+domain, "--timeout", "3s")
	if ids := s.inQueue(); time.Since(begin) < 3*time.Second || !slices.Equal(ids, j.InQueue) || len(ids) != 1 {
		t.Errorf("after %v: in the queue %v: %+v", time.Since(begin), ids, j)
	}
	sh(t, "postsuper -c %s -d ALL", s.pf.ConfigDir)
	s.postcert("send-test", "--to", "user@"+domain, "--timeout", "3s").want(8).says("still under way").says("postsuper -c " + s.pf.ConfigDir + " -d ")
	checks := filepath.Join(s.pf.Dir, "checks")
	if err := os.WriteFile(checks, []byte("/^Subject:.*send-test/ HOLD for a look\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pf.AppendMain("header_checks = regexp:" + checks)
	s.pf.Reload()
	j = s.sendTest(8, "held", "--to", "user@"+domain)
	if ids := s.inQueue(); len(j.InQueue) != 1 || !slices.Contains(ids, j.InQueue[0]) {
		t.Errorf("in the queue %v, said %v", ids, j.InQueue)
	}
}
