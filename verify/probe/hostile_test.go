package probe

import (
	"crypto/tls"
	"runtime"
	"strings"
	"testing"
	"time"

	"postcert/verify/probe/smtptest"
)

// A hung or hostile server costs no more than the deadline, a few hundred
// kilobytes, and nothing that stays behind.
func TestHostileServers(t *testing.T) {
	const limit = 700 * time.Millisecond
	fault := func(p smtptest.Point, f smtptest.Fault) smtptest.Script {
		return smtptest.Script{Faults: map[smtptest.Point]smtptest.Fault{p: f}}
	}
	wrapped := func(s smtptest.Script) smtptest.Script { s.Implicit = true; return s }
	record := string([]byte{22, 3, 3, 0x3f, 0xf0}) + strings.Repeat("\x02\x00\x00\x01x", 0x3ff0/5+1)[:0x3ff0]
	for _, tt := range []struct {
		name   string
		script smtptest.Script
	}{
		{"no banner", fault(smtptest.Greeting, smtptest.Silence)},
		{"one byte each 10 s", fault(smtptest.Greeting, smtptest.Drip("220 x\r\n", 10*time.Second))},
		{"one byte each 100 ms", fault(smtptest.Greeting, smtptest.Drip(strings.Repeat("220-x\r\n", 1000), 100*time.Millisecond))},
		{"1 GiB without a line end", fault(smtptest.Greeting, smtptest.Endless("2"))},
		{"endless 220- lines", fault(smtptest.Greeting, smtptest.Endless("220-mail.example.com\r\n"))},
		{"endless 250- lines", fault(smtptest.Hello, smtptest.Endless("250-"+strings.Repeat("x", 2000)+"\r\n"))},
		{"endless empty lines", fault(smtptest.Hello, smtptest.Endless("\r\n"))},
		{"silence after STARTTLS", fault(smtptest.Handshake, smtptest.Silence)},
		{"endless noise in the handshake", fault(smtptest.Handshake, smtptest.Endless("\x16"))},
		{"endless records in the handshake", fault(smtptest.Handshake, smtptest.Endless(record))},
		{"endless text after QUIT", fault(smtptest.Quit, smtptest.Endless("221-bye\r\n"))},
		{"silence after QUIT", fault(smtptest.Quit, smtptest.Silence)},
		{"endless banner inside TLS", wrapped(fault(smtptest.Greeting, smtptest.Endless("220-x\r\n")))},
		{"silence inside TLS", wrapped(fault(smtptest.Greeting, smtptest.Silence))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.Start(t, tt.script, pair("mail.example.com", ecKey()))
			e := at(srv)
			e.Timeout = limit
			if tt.script.Implicit {
				e.Mode = Implicit
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			r := Handshake(t.Context(), e)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if took > limit+500*time.Millisecond {
				t.Errorf("took %s with a limit of %s: %s (%s)", took, limit, r.Reason, r.Detail)
			}
			// Both sides allocate here; the server a block of 64 KiB.
			if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
				t.Errorf("allocated %d bytes: %s (%s)", n, r.Reason, r.Detail)
			}
			if len(r.Detail) > 2*maxDetail {
				t.Errorf("a detail of %d bytes", len(r.Detail))
			}
		})
	}
}

func TestNoGoroutineOutlivesACall(t *testing.T) {
	ec := pair("mail.example.com", ecKey())
	scripts := []smtptest.Script{{}, {Implicit: true}, {StartTLS: "454 4.7.0 TLS not available"}, {TLS: &tls.Config{MaxVersion: tls.VersionTLS12}}}
	for _, p := range []smtptest.Point{smtptest.Greeting, smtptest.Hello, smtptest.StartTLS, smtptest.Handshake, smtptest.Quit} {
		for _, f := range []smtptest.Fault{smtptest.Close, smtptest.Silence, smtptest.Alert(40)} {
			scripts = append(scripts, smtptest.Script{Faults: map[smtptest.Point]smtptest.Fault{p: f}})
		}
	}
	for i, s := range scripts {
		srv := smtptest.Start(t, s, ec)
		e := at(srv)
		e.Timeout = 150 * time.Millisecond
		if s.Implicit {
			e.Mode = Implicit
		}
		quiet := runtime.NumGoroutine()
		r := Handshake(t.Context(), e)
		// What is left now is ours or the server's; the server's ends with it.
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for _, g := range strings.Split(string(stacks), "\n\n")[1:] {
			if strings.Contains(g, "verify/probe.") && !strings.Contains(g, "probe.Test") {
				t.Errorf("script %d (%s): still running:\n%s", i, r.Reason, g)
			}
		}
		srv.Close()
		if n := settle(quiet - 1); n > quiet-1 {
			t.Errorf("script %d (%s): %d goroutines, %d before", i, r.Reason, n, quiet-1)
		}
	}
}
