package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
	"postcert/verify/maillog"
)

// counted is what explain --log has counted, as "service kind".
func (a answer) counted() map[string]int {
	a.t.Helper()
	out := map[string]int{}
	for _, l := range a.json()["logs"].([]any) {
		for _, c := range l.(map[string]any)["counts"].([]any) {
			c := c.(map[string]any)
			out[c["service"].(string)+" "+c["kind"].(string)] += int(c["count"].(float64))
		}
	}
	return out
}

// knows fails the test unless explain counts each kind at its service in the log,
// and calls no line about TLS unknown. The log may be late: it waits.
func (h *host) knows(status int, want ...string) answer {
	h.t.Helper()
	var a answer
	var missing []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		a, missing = h.postcert("explain", "--log", "--since", "all", "--json"), nil
		counts := a.counted()
		for _, w := range want {
			if counts[w] == 0 {
				missing = append(missing, w)
			}
		}
		if len(missing) == 0 {
			break
		}
	}
	if len(missing) > 0 {
		h.t.Errorf("not counted: %q in\n%s\nof\n%s", missing, a.stdout, h.pf.Log())
	}
	for _, l := range a.json()["logs"].([]any) {
		for _, u := range l.(map[string]any)["unknown"].([]any) {
			h.t.Errorf("Postfix said what explain does not know: %v", u.(map[string]any)["example"])
		}
	}
	return a.want(status)
}

// A key of another certificate: what Postfix logs and what it says to clients is
// recognised, the line that names the reason among it.
func TestExplainBadPair(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, err := os.ReadFile(filepath.Join(h.dir, "first.pem"))
	if err != nil {
		t.Fatal(err)
	}
	h.knows(0)
	other := h.ca.Leaf(t, certtest.Leaf{})
	h.write(filepath.Join(h.dir, "first.pem"), append(certtest.EncodeKey(other.Key), first[strings.Index(string(first), "-----BEGIN CERT"):]...))
	h.pf.Reload()
	for addr, mode := range listeners {
		if _, err := postfixtest.ServedLeaf(t, addr, mode); err == nil {
			t.Fatalf("%s serves a key of another certificate", addr)
		}
	}
	a := h.knows(8, "smtp/inet chain_file_bad", "smtp/inet key_mismatch", "submission/inet key_mismatch", "submissions/inet wrapper_dropped", "smtp/inet starttls_refused")
	if kinds := a.json()["kinds"].([]any); kinds[0].(map[string]any)["effect"] != "tls_off" {
		t.Errorf("the first kind is %v", kinds[0])
	}
	h.postcert("explain", "--log", "--since", "all").want(8).says("TLS off").says("postcert verify names the fault").says("TLS was off")

	conn, err := net.Dial("tcp", postfixtest.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, hostName)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.StartTLS(&tls.Config{ServerName: hostName})
	var reply *textproto.Error
	if !errors.As(err, &reply) {
		t.Fatalf("STARTTLS is answered by %v", err)
	}
	h.postcert("explain", fmt.Sprint(reply.Code), reply.Msg).want(0).says("could not be loaded")
}

// What this Postfix and this OpenSSL log when a client is at fault, or does not
// like the certificate.
func TestExplainClients(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"smtpd_tls_protocols = !SSLv2, !SSLv3, !TLSv1, !TLSv1.1", "smtpd_tls_mandatory_protocols = !SSLv2, !SSLv3, !TLSv1, !TLSv1.1"}})
	fails := func(addr string, mode postfixtest.Mode, args ...string) {
		t.Helper()
		if _, err := postfixtest.ServedLeaf(t, addr, mode, args...); err == nil {
			t.Errorf("%s %v succeeded", addr, args)
		}
	}
	plainly := func(text string) {
		t.Helper()
		conn, err := net.DialTimeout("tcp", postfixtest.Submissions, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, text)
		if text != "" {
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = conn.Read(make([]byte, 100)) // until the server has had enough
		}
	}
	plainly("GET / HTTP/1.0\r\n\r\n")
	plainly("EHLO client.example.test\r\n")
	plainly("")
	fails(postfixtest.SMTP, postfixtest.StartTLS, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
	fails(postfixtest.SMTP, postfixtest.StartTLS, "-tls1_2", "-cipher", "aRSA")
	fails(postfixtest.Submission, postfixtest.StartTLS, "-CAfile", h.trust, "-verify_return_error")
	h.knows(0, "submissions/inet not_tls", "submissions/inet accept_error", "submissions/inet accept_lost",
		"smtp/inet unsupported_protocol", "smtp/inet no_shared_cipher", "smtp/inet lost_after_starttls", "submission/inet alert_48")

	old := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)})
	h.write(filepath.Join(h.dir, "first.pem"), old.PostfixPEM())
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, postfixtest.Fingerprint(old.Cert.Raw))
	fails(postfixtest.Submission, postfixtest.StartTLS, "-CAfile", h.trust, "-verify_return_error")
	h.knows(0, "submission/inet alert_45", "smtp/inet received_anonymous")
	// The log has whole seconds.
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	if _, ok := h.postcert("explain", "--log", "--since", "0s", "--json").counted()["submissions/inet not_tls"]; ok {
		t.Error("--since counts what was before")
	}
}

// What smtp(8) logs about servers that are not as good as its level asks.
func TestExplainSending(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true,
		Main: []string{
			"inet_protocols = ipv4", "smtp_tls_loglevel = 1", "smtp_tls_security_level = secure", "smtp_tls_CAfile = " + filepath.Join(t.TempDir(), "anchors.pem"),
			"smtp_tls_note_starttls_offer = yes",
			"transport_maps = inline:{ {a.example.test=smtp:[127.0.0.1]:2525}, {b.example.test=smtp:[127.0.0.1]:2526}, {c.example.test=plain:[127.0.0.1]:2525}, {d.example.test=encrypted:[127.0.0.1]:2525} }",
		},
		Master: []string{
			"2525 inet n - n - - smtpd", "2526 inet n - n - - smtpd", "  -o smtpd_tls_security_level=none",
			"plain unix - - n - - smtp", "  -o smtp_tls_security_level=none", "encrypted unix - - n - - smtp", "  -o smtp_tls_security_level=encrypt",
		},
	})
	h.write(strings.TrimSpace(h.pf.Postconf("-h", "smtp_tls_CAfile")), certtest.EncodeCerts(h.root.Cert))
	for _, domain := range []string{"a", "b", "c", "d"} {
		h.sends("x@" + domain + ".example.test")
	}
	h.knows(0, "postfix/smtp not_verified", "postfix/smtp peer_self_signed", "postfix/smtp tls_not_offered", "postfix/smtp starttls_offered", "postfix/smtp sent_untrusted")
}

// sends hands Postfix a message, in plain text.
func (h *host) sends(to string) {
	h.t.Helper()
	c, err := smtp.Dial(postfixtest.SMTP)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Mail("sender@"+hostName), c.Rcpt(to)); err != nil {
		h.t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = fmt.Fprint(w, "Subject: x\r\n\r\nx\r\n")
	if err := errors.Join(err, w.Close(), c.Quit()); err != nil {
		h.t.Fatal(err)
	}
}

// Lines that are known, lines that are not, and what cannot be asked.
func TestExplainLine(t *testing.T) {
	within(t, "explain", "postfix/smtpd[1]: SSL_accept error from c.test[192.0.2.1]: lost connection").want(0).says("in the middle of the TLS handshake").says("see: ")
	within(t, "explain", "454", "4.3.0", "Try", "again", "later").want(0).says("milter")
	a := within(t, "explain", "postfix/qmgr[1]: 4XyZ1234567890: removed")
	a.want(8).says("not known")
	if strings.Contains(a.stdout+a.stderr, "do:") {
		t.Errorf("an explanation for what is not known: %s%s", a.stdout, a.stderr)
	}
	within(t, "explain", "x", "--config", "/nowhere").want(8)
	for _, args := range [][]string{
		{"explain"}, {"explain", ""}, {"explain", "-"}, {"explain", "--log", "a", "b"}, {"explain", "x", "--since", "2h"},
		{"explain", "--log", "--since", "yesterday"}, {"explain", "--log", "/dev/null/x", "--since", "deploy"},
	} {
		within(t, args...).want(2)
	}
	within(t, "explain", "--log", t.TempDir()).want(3).says("log_unreadable")
	within(t, "explain", "--log", "/nowhere/mail.log").want(1).says("no such file")
}

// Several lines on standard input are counted, one is explained.
func TestExplainInput(t *testing.T) {
	const known, other = "postfix/smtpd[1]: SSL_accept error from c.test[192.0.2.1]: lost connection\n", "a line about TLS number 7\n"
	tests := []struct {
		name, input string
		status      int
		says        string
	}{
		{"one", known, 0, "in the middle of the TLS handshake"},
		{"one unknown", "\n" + other, 8, "not known"},
		{"several", known + other + known, 0, "accept_lost"},
		{"several unknown", other + strings.Replace(other, "7", "8", 1), 8, "2  a line about TLS number 7"},
		{"no last newline", known + strings.TrimSpace(known), 0, "2 lines, 2 known"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			a := &app{env: map[string]string{}, stdin: strings.NewReader(tt.input), stdout: &stdout, stderr: &stderr}
			status := run(t.Context(), a, []string{"explain", "-"})
			answer{stdout.String(), stderr.String(), status, t}.want(tt.status).says(tt.says)
		})
	}
}

// The log since the last deploy: what was before it is not counted.
func TestExplainSinceDeploy(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	before := time.Now().Add(-time.Hour).Format("Jan _2 15:04:05") + " mail postfix/smtpd[7]: warning: error opening chain file: /x: No such file or directory\n"
	h.pf.WaitLog("daemon started")
	log, err := os.ReadFile(h.pf.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.pf.LogFile, append([]byte(before), log...), 0o600); err != nil {
		t.Fatal(err)
	}
	h.postcert("explain", "--log").want(8).says("chain_file_missing") // no deploy yet: all
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	a := h.postcert("explain", "--log").want(0).says("the last deploy of " + hostName)
	if strings.Contains(a.stdout, "chain_file_missing") {
		t.Errorf("a line of before the deploy is counted:\n%s", a.stdout)
	}
	h.postcert("explain", "--log", "--since", "all").want(8).says("chain_file_missing")
}

// The worst comes first, however rare it is; then what is most frequent.
func TestExplainOrder(t *testing.T) {
	log := newLogTally("x")
	for n, text := range []string{"SSL_accept error from c[::1]: lost connection", "TLS SNI a.test from c[::1] not matched, using default chain", "warning: No server certs available. TLS won't be enabled"} {
		for range 3 - n {
			log.add(maillog.Parse("postfix/smtpd[1]: "+text, time.Now()))
		}
	}
	for range 5 {
		log.add(maillog.Parse("postfix/smtpd[1]: timeout after STARTTLS from c[::1]", time.Now()))
	}
	var got []string
	for _, c := range log.sorted() {
		got = append(got, fmt.Sprint(c.key.kind, c.n))
	}
	if want := []string{"cert_none1", "accept_timeout5", "accept_lost3", "sni_unmatched2"}; !slices.Equal(got, want) || !log.bad() {
		t.Errorf("got %q, want %q", got, want)
	}
}
