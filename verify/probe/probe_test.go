package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/verify/probe/smtptest"
)

// at is the question for a server of smtptest.
func at(s *smtptest.Server) Endpoint {
	return Endpoint{Network: s.Network, Address: s.Addr, Timeout: 5 * time.Second}
}

func TestHandshakePresentsWhatTheServerHas(t *testing.T) {
	ec, other := pair("mail.example.com", ecKey()), pair("mx.example.net", ecKey())
	for _, tt := range []struct {
		name   string
		script smtptest.Script
		unix   bool
		change func(*Endpoint)
		want   tls.Certificate
		sni    string
	}{
		{name: "starttls", want: ec},
		{name: "implicit", script: smtptest.Script{Implicit: true}, want: ec},
		{name: "unix socket", unix: true, want: ec},
		{name: "unix socket, implicit", unix: true, script: smtptest.Script{Implicit: true}, want: ec},
		{name: "server name", change: func(e *Endpoint) { e.ServerName = "mx.example.net" }, want: other, sni: "mx.example.net"},
		{name: "PROXY header", script: smtptest.Script{WantProxy: true}, change: func(e *Endpoint) { e.ProxyProtocol = true }, want: ec},
		{name: "PROXY header, implicit", script: smtptest.Script{WantProxy: true, Implicit: true}, change: func(e *Endpoint) { e.ProxyProtocol = true }, want: ec},
		{name: "greeting of many lines", script: smtptest.Script{Greeting: "220-a\n220-b\n220-c\n220 d"}, want: ec},
		{name: "lower-case keyword, line feeds", script: smtptest.Script{Hello: "250-x\n250 starttls"}, want: ec},
		{name: "TLS 1.0 only", script: smtptest.Script{TLS: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}}, want: ec},
		{name: "TLS 1.2 only", script: smtptest.Script{TLS: &tls.Config{MaxVersion: tls.VersionTLS12}}, want: ec},
		{name: "TLS 1.3 only", script: smtptest.Script{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, want: ec},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			network, address := "tcp", "127.0.0.1:0"
			if tt.unix {
				network, address = "unix", ""
			}
			srv := smtptest.StartOn(t, network, address, tt.script, ec, other)
			e := at(srv)
			if tt.script.Implicit {
				e.Mode = Implicit
			}
			if tt.change != nil {
				tt.change(&e)
			}
			r := Handshake(t.Context(), e)
			if r.Reason != OK || r.Phase != Established {
				t.Fatalf("got %s in %s (%s), want ok", r.Reason, r.Phase, r.Detail)
			}
			if v, why := Compare(r, tt.want.Certificate); v != Proven {
				t.Errorf("got %s, %s; want proven", v, why)
			}
			if len(r.Chain) != 2 || r.Protocol == 0 || r.Cipher == 0 || r.Took <= 0 {
				t.Errorf("incomplete: %+v", r)
			}
			got := srv.Last(t)
			if !got.QuitTLS || got.EarlyTalk || got.Resumed || got.SNI != tt.sni || got.Proxy != e.ProxyProtocol {
				t.Errorf("the server saw %+v", got)
			}
		})
	}
}

// Both networks of an address family, and the family that an address is not of.
func TestNetworks(t *testing.T) {
	ec := pair("mail.example.com", ecKey())
	for _, tt := range []struct{ network, address, other string }{
		{"tcp4", "127.0.0.1:0", "tcp6"}, {"tcp6", "[::1]:0", "tcp4"},
	} {
		srv := smtptest.StartOn(t, tt.network, tt.address, smtptest.Script{}, ec)
		e := at(srv)
		if r := Handshake(t.Context(), e); r.Reason != OK {
			t.Errorf("%s: got %s (%s)", tt.network, r.Reason, r.Detail)
		}
		e.Network = tt.other
		if r := Handshake(t.Context(), e); r.Reason != Refused || r.Phase != Connecting {
			t.Errorf("%s by %s: got %s (%s), want refused", tt.network, tt.other, r.Reason, r.Detail)
		}
	}
}

func TestSwappedCertificateIsSeen(t *testing.T) {
	before, after := pair("mail.example.com", ecKey()), pair("mail.example.com", ecKey())
	srv := smtptest.Start(t, smtptest.Script{}, before)
	for range 2 {
		if v, _ := Compare(Handshake(t.Context(), at(srv)), before.Certificate); v != Proven {
			t.Fatalf("got %s, want the old one", v)
		}
	}
	srv.SetCertificates(after)
	r := Handshake(t.Context(), at(srv))
	if v, _ := Compare(r, after.Certificate); v != Proven {
		t.Errorf("got %s, want the new one", v)
	}
	if v, why := Compare(r, before.Certificate); v != Contradicted || why != OtherLeaf {
		t.Errorf("got %s, %s, want contradicted by another leaf", v, why)
	}
	if srv.Last(t).Resumed {
		t.Error("a session was resumed: no certificate is presented then")
	}
}

func TestReasons(t *testing.T) {
	silence := func(p smtptest.Point) map[smtptest.Point]smtptest.Fault {
		return map[smtptest.Point]smtptest.Fault{p: smtptest.Silence}
	}
	fault := func(p smtptest.Point, f smtptest.Fault) smtptest.Script {
		return smtptest.Script{Faults: map[smtptest.Point]smtptest.Fault{p: f}}
	}
	implicit := func(s smtptest.Script) smtptest.Script { s.Implicit = true; return s }
	for _, tt := range []struct {
		name    string
		script  smtptest.Script
		reason  Reason
		phase   Phase
		verdict Verdict
		detail  string // contained in
		quit    bool   // the session ended with QUIT
	}{
		{"no banner", smtptest.Script{Faults: silence(smtptest.Greeting)}, NoBanner, Greeting, NotVerified, "", false},
		{"banner drips", fault(smtptest.Greeting, smtptest.Drip("220 smtptest", time.Second)), Timeout, Greeting, NotVerified, "", false},
		{"421 at once", smtptest.Script{Greeting: "421 4.3.2 All server ports are busy"}, ShuttingDown, Greeting, NotVerified, "busy", false},
		{"421, too many", smtptest.Script{Greeting: "421 4.7.0 x Error: too many connections from [::1]"}, RateLimited, Greeting, NotVerified, "too many", false},
		{"554 at once", smtptest.Script{Greeting: "554 no SMTP service here"}, Refused, Greeting, NotVerified, "554", true},
		{"closed before the banner", fault(smtptest.Greeting, smtptest.Close), Closed, Greeting, NotVerified, "", false},
		{"reset before the banner", fault(smtptest.Greeting, smtptest.Reset), Closed, Greeting, NotVerified, "", false},
		{"not SMTP", fault(smtptest.Greeting, smtptest.SayAndWait("SSH-2.0-OpenSSH_9.2\r\n")), ProtocolError, Greeting, NotVerified, "SSH-2.0", false},
		{"codes differ", fault(smtptest.Greeting, smtptest.SayAndWait("220-a\r\n250 b\r\n")), ProtocolError, Greeting, NotVerified, "", false},
		{"421 to EHLO", smtptest.Script{Hello: "421 4.3.0 x Server local error"}, ShuttingDown, Hello, NotVerified, "local error", false},
		{"EHLO unknown", smtptest.Script{Hello: "502 5.5.2 what?"}, NotOffered, Hello, Contradicted, "502", true},
		{"450 to EHLO", smtptest.Script{Hello: "450 4.7.1 Helo command rejected"}, Refused, Hello, NotVerified, "rejected", true},
		{"closed after EHLO", fault(smtptest.Hello, smtptest.Close), Closed, Hello, NotVerified, "", false},
		{"silence after EHLO", smtptest.Script{Faults: silence(smtptest.Hello)}, Timeout, Hello, NotVerified, "", false},
		{"no STARTTLS", smtptest.Script{Hello: "250-STARTTLS\n250 SIZE"}, NotOffered, Hello, Contradicted, "EHLO", true},
		{"endless lines", fault(smtptest.Hello, smtptest.Endless("250-x\r\n")), ProtocolError, Hello, NotVerified, "128 lines", false},
		{"endless line", fault(smtptest.Hello, smtptest.Endless("250-x")), ProtocolError, Hello, NotVerified, "2048", false},
		{"454 TLS", smtptest.Script{StartTLS: "454 4.7.0 TLS not available due to local problem"}, TLSNotAvailable, StartTLS, Contradicted, "local problem", true},
		{"454 without a code", smtptest.Script{StartTLS: "454 TLS currently unavailable"}, TLSNotAvailable, StartTLS, Contradicted, "", true},
		{"454 milter", smtptest.Script{StartTLS: "454 4.3.0 Try again later"}, MilterUnavailable, StartTLS, NotVerified, "", true},
		{"454 of another kind", smtptest.Script{StartTLS: "454 come back tomorrow"}, Refused, StartTLS, NotVerified, "tomorrow", true},
		{"454 rate", smtptest.Script{StartTLS: "454 4.7.0 Error: too many new TLS sessions from x[::1]"}, RateLimited, StartTLS, NotVerified, "", true},
		{"421 to STARTTLS", smtptest.Script{StartTLS: "421 4.7.0 go away"}, ShuttingDown, StartTLS, NotVerified, "", false},
		{"502", smtptest.Script{StartTLS: "502 5.5.1 Error: command not implemented"}, NotOffered, StartTLS, Contradicted, "502", true},
		{"550 of a milter", smtptest.Script{StartTLS: "550 5.7.1 Command rejected"}, Refused, StartTLS, NotVerified, "", true},
		{"closed after STARTTLS", fault(smtptest.StartTLS, smtptest.Close), Closed, StartTLS, NotVerified, "", false},
		{"text injected before TLS", fault(smtptest.StartTLS, smtptest.SayAndWait("220 go\r\n250 injected\r\n")), ProtocolError, StartTLS, NotVerified, "after the reply", false},
		{"closed in the handshake", fault(smtptest.Handshake, smtptest.Close), Closed, Handshaking, Contradicted, "", false},
		{"silence in the handshake", smtptest.Script{Faults: silence(smtptest.Handshake)}, Timeout, Handshaking, NotVerified, "", false},
		{"alert 40", fault(smtptest.Handshake, smtptest.Alert(40)), HandshakeFailed, Handshaking, Contradicted, "alert handshake_failure", false},
		{"alert 80", fault(smtptest.Handshake, smtptest.Alert(80)), HandshakeFailed, Handshaking, Contradicted, "alert internal_error", false},
		{"alert 112", fault(smtptest.Handshake, smtptest.Alert(112)), HandshakeFailed, Handshaking, Contradicted, "alert unrecognized_name", false},
		{"alert unknown", fault(smtptest.Handshake, smtptest.Alert(201)), HandshakeFailed, Handshaking, Contradicted, "alert 201", false},
		{"noise in the handshake", fault(smtptest.Handshake, smtptest.Answer(strings.Repeat("\x01", 64))), ProtocolError, Handshaking, Contradicted, "", false},
		{"a hello without content", fault(smtptest.Handshake, smtptest.Answer("\x16\x03\x03\x00\x04\x02\x00\x00\x00")), HandshakeFailed, Handshaking, Contradicted, "error decoding message", false},
		{"implicit, closed", implicit(fault(smtptest.Handshake, smtptest.Close)), Closed, Handshaking, Contradicted, "", false},
		{"implicit, greets in plain text", implicit(fault(smtptest.Handshake, smtptest.SayAndWait("220 mail ESMTP\r\n"))), ProtocolError, Handshaking, Contradicted, "220 mail", false},
		{"implicit, 421 in plain text", implicit(fault(smtptest.Handshake, smtptest.SayAndWait("421 4.3.0 x Server local error\r\n"))), ShuttingDown, Handshaking, NotVerified, "local error", false},
		{"implicit, PROXY header missing", smtptest.Script{Implicit: true, WantProxy: true}, ShuttingDown, Handshaking, NotVerified, "421", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ec := pair("mail.example.com", ecKey())
			srv := smtptest.Start(t, tt.script, ec)
			e := at(srv)
			e.Timeout = 700 * time.Millisecond
			if tt.script.Implicit {
				e.Mode = Implicit
			}
			start := time.Now()
			r := Handshake(t.Context(), e)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %s, with a limit of 0.7 s", took)
			}
			if r.Reason != tt.reason || r.Phase != tt.phase || !strings.Contains(r.Detail, tt.detail) {
				t.Errorf("got %s in %s (%s), want %s in %s (%s)", r.Reason, r.Phase, r.Detail, tt.reason, tt.phase, tt.detail)
			}
			if v, why := Compare(r, ec.Certificate); v != tt.verdict || why != tt.reason {
				t.Errorf("got %s, %s; want %s, %s", v, why, tt.verdict, tt.reason)
			}
			if got := srv.Last(t); got.Quit != tt.quit || got.EarlyTalk {
				t.Errorf("the server saw %+v, want QUIT: %v", got, tt.quit)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	srv := smtptest.Start(t, smtptest.Script{})
	srv.Close()
	for _, e := range []Endpoint{at(srv), {Network: "unix", Address: t.TempDir() + "/none"}} {
		r := Handshake(t.Context(), e)
		if r.Reason != Refused || r.Phase != Connecting || r.Detail == "" {
			t.Errorf("%s: got %s in %s (%s), want refused", e.Network, r.Reason, r.Phase, r.Detail)
		}
	}
}

func TestNotAsked(t *testing.T) {
	for _, e := range []Endpoint{
		{Network: "udp", Address: "127.0.0.1:25"},
		{Address: "127.0.0.1:25", Mode: "later"},
		{Address: "127.0.0.1:25", Protocol: "pop3"},
		{Address: "127.0.0.1:25", KeyType: "ed448"},
	} {
		if r := Handshake(t.Context(), e); r.Reason != NotAsked || r.Detail == "" {
			t.Errorf("%+v: got %s (%s), want not_asked", e, r.Reason, r.Detail)
		}
	}
}

func TestCancelEndsTheCall(t *testing.T) {
	for _, p := range []smtptest.Point{smtptest.Greeting, smtptest.Hello, smtptest.Handshake, smtptest.Quit} {
		t.Run(string(p), func(t *testing.T) {
			srv := smtptest.Start(t, smtptest.Script{Faults: map[smtptest.Point]smtptest.Fault{p: smtptest.Silence}}, pair("a.example", ecKey()))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			start := time.Now()
			r := Handshake(ctx, at(srv))
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %s after the end of the context", took)
			}
			if want := map[bool]Reason{true: OK, false: Timeout}[p == smtptest.Quit]; r.Reason != want {
				t.Errorf("got %s (%s), want %s", r.Reason, r.Detail, want)
			}
		})
	}
}

func TestOpenHoldsSessions(t *testing.T) {
	ec := pair("mail.example.com", ecKey())
	for _, mode := range []Mode{STARTTLS, Implicit} {
		srv := smtptest.Start(t, smtptest.Script{Implicit: mode == Implicit}, ec)
		e := at(srv)
		e.Mode = mode
		var held []*Session
		for range 3 {
			s, r := Open(t.Context(), e)
			if s == nil || r.Reason != OK {
				t.Fatalf("got %s (%s)", r.Reason, r.Detail)
			}
			held = append(held, s)
		}
		for _, x := range srv.Sessions() {
			if x.Ended || x.Quit {
				t.Errorf("%s: ended before Close: %+v", mode, x)
			}
		}
		for _, s := range held {
			s.Close()
			s.Close()
		}
		srv.Last(t)
		for _, x := range srv.Sessions() {
			if !x.QuitTLS || x.EarlyTalk {
				t.Errorf("%s: not ended with QUIT inside TLS: %+v", mode, x)
			}
		}
	}
	(*Session)(nil).Close()
}

func TestTranscript(t *testing.T) {
	var b bytes.Buffer
	srv := smtptest.Start(t, smtptest.Script{Greeting: "220-one\n220 two \x1b[31m"}, pair("a.example", ecKey()))
	e := at(srv)
	e.Transcript = &b
	Handshake(t.Context(), e)
	want := []string{
		"< 220-one", "< 220 two ?[31m", "> EHLO [127.0.0.1]", "< 250-smtptest.invalid", "< 250-PIPELINING",
		"< 250-STARTTLS", "< 250 8BITMIME", "> STARTTLS", "< 220 2.0.0 Ready to start TLS",
		"* TLS 1.3 TLS_AES_128_GCM_SHA256", "> QUIT", "< 221 2.0.0 Bye",
	}
	if got := strings.Split(strings.TrimSpace(b.String()), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestJSON(t *testing.T) {
	ec := pair("mail.example.com", ecKey())
	srv := smtptest.Start(t, smtptest.Script{}, ec)
	for _, tt := range []struct {
		name   string
		result Result
		want   []string
	}{
		{"seen", Handshake(t.Context(), at(srv)), []string{
			`"mode":"starttls"`, `"protocol":"smtp"`, `"timeout_ms":5000`, `"reason":"ok"`, `"took_ms":`,
			`"leaf":"` + fingerprint(ec.Certificate[0]) + `"`, `"fingerprints":["` + fingerprint(ec.Certificate[0]) + `","`,
			`"protocol":"TLS 1.3"`, `"cipher":"TLS_`,
		}},
		{"nothing", Result{}, []string{`"fingerprints":[]`, `"leaf":""`, `"cipher":""`, `"timeout_ms":15000`}},
	} {
		got, err := json.Marshal(tt.result)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tt.want {
			if !bytes.Contains(got, []byte(s)) {
				t.Errorf("%s: no %s in %s", tt.name, s, got)
			}
		}
		if bytes.Contains(got, []byte("null")) {
			t.Errorf("%s: null in %s", tt.name, got)
		}
	}
}

// settle waits until no more goroutines run than before, and says how many did.
func settle(before int) int {
	n := runtime.NumGoroutine()
	for end := time.Now().Add(2 * time.Second); n > before && time.Now().Before(end); n = runtime.NumGoroutine() {
		time.Sleep(time.Millisecond)
	}
	return n
}
