package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

func TestMain(m *testing.M) { postfixtest.Main(m) }

// mailServer answers as a mail server does; replies has other answers by verb,
// with "" for a connection that is closed.
type mailServer struct {
	tls      *tls.Config
	implicit bool
	replies  map[string]string
	log      func(line string)
}

// serve runs the server until the test ends and returns where it listens.
func (s mailServer) serve(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.answer(conn)
		}
	}()
	return listener.Addr().String()
}

func (s mailServer) answer(conn net.Conn) {
	defer conn.Close()
	if s.implicit {
		conn = tls.Server(conn, s.tls)
	}
	in := bufio.NewReader(conn)
	usual := map[string]string{"greeting": "220 test", "DATA": "354 go on", "QUIT": "221 bye", "STARTTLS": "220 go on", ".": "250 Ok: queued as ABC"}
	for verb := "greeting"; ; {
		reply, found := s.replies[verb]
		if !found {
			reply = usual[verb]
		}
		switch {
		case found && reply == "":
			return
		case reply == "":
			reply = "250-ok\r\n250 ok"
		}
		fmt.Fprintf(conn, "%s\r\n", reply)
		if verb == "STARTTLS" {
			conn = tls.Server(conn, s.tls)
			in.Reset(conn)
		}
		if verb == "." && s.log != nil {
			s.log("postfix/discard[7]: ABC: to=<a@b>, relay=none, dsn=2.0.0, status=sent (x)")
		}
		inside := verb == "DATA"
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if verb, _, _ = strings.Cut(strings.TrimSpace(line), " "); !inside || verb == "." {
				break
			}
		}
	}
}

// pair is a certificate, and the fingerprint of its leaf.
func pair(t *testing.T) (*tls.Config, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pair.pem")
	leaf := postfixtest.WritePair(t, file)
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, leaf
}

// report runs the program until so many sessions are over and returns what it
// says. While it runs, meanwhile is called now and then.
func report(t *testing.T, sessions int, meanwhile func(), args ...string) Report {
	t.Helper()
	var out, stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "sessions")
	args = append([]string{"-for", "2m", "-hold", "200ms", "-think", "2ms", "-parallel", "4", "-long", "1", "-json", "-sessions", file}, args...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ; lines(file) < sessions && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			meanwhile()
		}
		cancel()
	}()
	well, err := run(ctx, args, &out, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	if r.Well != well {
		t.Errorf("the report says %v, the program %v", r.Well, well)
	}
	records(t, file, r)
	return r
}

func lines(file string) int {
	data, _ := os.ReadFile(file) // may not be there yet
	return bytes.Count(data, []byte("\n"))
}

// records fails the test unless the file has each session, complete.
func records(t *testing.T, file string, r Report) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := lines(file); n != r.Sessions {
		t.Errorf("%d records of %d sessions", n, r.Sessions)
	}
	for line := range bytes.Lines(data) {
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil || (rec.Result == OK) != (rec.Said == "") || rec.Result == OK && rec.Connect <= 0 || rec.End.Before(rec.Begin) {
			t.Fatalf("%v in %s", err, line)
		}
	}
}

// only are the flags for sessions at one address in one mode.
func only(m mode, address string) []string {
	args := []string{"-plain", "", "-starttls", "", "-implicit", ""}
	return append(args, "-"+string(m), address)
}

func TestWell(t *testing.T) {
	config, leaf := pair(t)
	for _, m := range []mode{plain, starttls, implicit} {
		t.Run(string(m), func(t *testing.T) {
			dir := t.TempDir()
			log, err := os.Create(dir + "/mail.log")
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			say := func(line string) { io.WriteString(log, line+"\n") }
			address := mailServer{tls: config, implicit: m == implicit, log: say}.serve(t)
			if err := os.WriteFile(dir+"/leaves", []byte("sha256 Fingerprint="+colons(leaf)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			reload := func() { say("postfix/master[1]: reload -- version 3.7.11, configuration /etc/postfix") }
			r := report(t, 20, reload, append(only(m, address), "-to", "a@b", "-leaves", dir+"/leaves", "-maillog", dir+"/mail.log")...)
			if !r.Well || r.Sessions < 20 || r.PeakOpen != 4 || r.Open < 1 {
				t.Errorf("%+v", r)
			}
			if r.Accepted == 0 || r.Sent != r.Accepted || r.Reloads == 0 || r.AfterReload.N == 0 {
				t.Errorf("the log was not followed: %+v", r)
			}
			if handshakes := r.Leaves[leaf]; (handshakes == r.Sessions) != (m != plain) {
				t.Errorf("%d handshakes in %d sessions", handshakes, r.Sessions)
			}
			for _, a := range []act{send, rcpt} {
				if r.Kinds[plan{mode: m, act: a}.kind()] == 0 {
					t.Errorf("no session %s: %v", a, r.Kinds)
				}
			}
		})
	}
}

func colons(leaf string) string {
	var parts []string
	for i := 0; i < len(leaf); i += 2 {
		parts = append(parts, strings.ToUpper(leaf[i:i+2]))
	}
	return strings.Join(parts, ":")
}

// TestNoMailUnasked: without a recipient nothing but NOOP is said.
func TestNoMailUnasked(t *testing.T) {
	config, _ := pair(t)
	address := mailServer{tls: config, replies: map[string]string{"MAIL": "550 no", "RCPT": "550 no", "DATA": "550 no"}}.serve(t)
	if r := report(t, 8, func() {}, only(starttls, address)...); !r.Well || r.Accepted != 0 || r.Kinds["starttls/noop"] == 0 {
		t.Errorf("%+v", r)
	}
}

// TestNotices: whatever goes wrong for a client is counted as what it is.
func TestNotices(t *testing.T) {
	config, _ := pair(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	at := func(m mode, replies map[string]string) []string {
		return append(only(m, mailServer{tls: config, implicit: m == implicit, replies: replies}.serve(t)), "-to", "a@b")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("an old line: status=sent\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		count func(Report) int
	}{
		{"refused", only(plain, gone.Addr().String()), func(r Report) int { return r.Refused }},
		{"no greeting", at(plain, map[string]string{"greeting": ""}), func(r Report) int { return r.Dropped }},
		{"dropped before STARTTLS", at(starttls, map[string]string{"STARTTLS": ""}), func(r Report) int { return r.Dropped }},
		{"dropped in DATA", at(starttls, map[string]string{".": ""}), func(r Report) int { return r.Dropped }},
		{"dropped at QUIT", at(implicit, map[string]string{"QUIT": ""}), func(r Report) int { return r.Dropped }},
		{"silent", append(at(plain, map[string]string{"MAIL": "250-and so on"}), "-patience", "50ms"), func(r Report) int { return r.Dropped }},
		{"454", at(starttls, map[string]string{"STARTTLS": "454 4.7.0 TLS not available due to local problem"}), func(r Report) int { return r.Temporary }},
		{"421", at(plain, map[string]string{"MAIL": "421 4.3.2 shutting down"}), func(r Report) int { return r.Replies }},
		{"no TLS", append(only(implicit, mailServer{tls: config}.serve(t)), "-patience", "1s"), func(r Report) int { return r.Handshakes }},
		{"another leaf", append(at(starttls, nil), "-leaves", file), func(r Report) int { return r.Foreign }},
		{"a mail that is lost", append(at(starttls, nil), "-maillog", file, "-settle", "50ms"), func(r Report) int { return len(r.Lost) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := report(t, 8, func() {}, tt.args...)
			if r.Well || tt.count(r) == 0 {
				t.Errorf("not noticed: %+v", r)
			}
			if len(r.Faults) == 0 && len(r.Lost) == 0 {
				t.Error("no example is given")
			}
			var text strings.Builder
			r.print(&text)
			if len(text.String()) < 100 {
				t.Errorf("the text is %q", &text)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"extra"}, {"-parallel", "0"}, {"-parallel", "1001"}, {"-long", "51"}, {"-for", "0s"}, {"-for", "25h"}, {"-hold", "0s"},
		{"-think", "0s"}, {"-to", "a@b>\r\nRSET"}, {"-plain", "", "-starttls", "", "-implicit", ""},
		{"-sessions", "/nonexistent/file"}, {"-maillog", "/nonexistent"},
	} {
		if _, err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: accepted", args)
		}
	}
}

// TestRotated: a log that is moved away and begun anew is followed.
func TestRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		io.WriteString(file, text)
	}
	sent := func(id string) string { return "discard[1]: " + id + ": to=<a@b>, relay=none, status=sent (x)\n" }
	write(sent("OLD"))
	l, err := openMailLog(path)
	if err != nil {
		t.Fatal(err)
	}
	write(sent("ONE")[:20])
	time.Sleep(3 * lookEvery)
	write(sent("ONE")[20:] + "smtpd[12]: warning: process 12 says so\n")
	time.Sleep(3 * lookEvery)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * lookEvery)
	write(sent("TWO"))
	l.settle([]string{"ONE", "TWO"}, 5*time.Second)
	l.close()
	if len(l.lost) > 0 || l.sent["OLD"] > 0 || l.err != nil || l.warned["[N]: warning: process N says so"] != 1 {
		t.Errorf("lost %q, sent %v, warned %v: %v", l.lost, l.sent, l.warned, l.err)
	}
}
