package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A scan that is slow, and a verdict of ours that openssl contradicts, are told; one
// of another program is no fault of ours.
func TestScanBounds(t *testing.T) {
	of := func(d time.Duration) series { return series{d * time.Millisecond} }
	report := func() scanReport {
		return scanReport{
			Series: map[string]series{"audit_config": of(200), "audit": of(300), "probe": of(50), "harden": of(1000), "sslscan": of(400), "testssl": of(20_000)},
			Verdicts: []verdict{
				{"good", goodCertificate, true, map[string]bool{"probe": true, "testssl": true}},
				{"good", offersAnonymous, true, map[string]bool{"sslscan": false, "testssl": true}},
			},
			titles: [][2]string{{"audit", "postcert audit"}},
		}
	}
	for _, tt := range []struct {
		name   string
		spoil  func(*scanReport)
		missed string
	}{
		{"good", func(*scanReport) {}, ""},
		{"without handshakes", func(r *scanReport) { r.Series["audit_config"] = of(301) }, "without handshakes"},
		{"with handshakes", func(r *scanReport) { r.Series["audit"], r.Series["testssl"] = of(2001), of(100_000) }, "with handshakes"},
		{"probe", func(r *scanReport) { r.Series["probe"] = of(401) }, "sslscan"},
		{"audit", func(r *scanReport) { r.Series["testssl"] = of(2_900) }, "testssl.sh of one"},
		{"a wrong verdict", func(r *scanReport) { r.Verdicts[0].Said["probe"] = false }, "probe says false, openssl true"},
	} {
		r := report()
		tt.spoil(&r)
		r.Bounds = r.bounds()
		got := strings.Join(r.missed(), "\n")
		if (got == "") != (tt.missed == "") || !strings.Contains(got, tt.missed) {
			t.Errorf("%s: missed are %q", tt.name, got)
		}
		var out bytes.Buffer
		if err := r.print(&out); err != nil || !strings.Contains(out.String(), "sslscan says false, openssl true") || !strings.Contains(out.String(), "does not answer: anonymous") {
			t.Errorf("%v\n%s", err, out.String())
		}
	}
}

// TestProofScan is -scan with one turn of testssl.sh. Every program must have said
// something about every listener, or nothing was compared.
func TestProofScan(t *testing.T) {
	s := settings{rounds: 7, slow: 1, slack: 1.25, ahead: true}
	if os.Getenv("POSTCERT_LONG") != "" {
		s.slow = 3
	}
	rep := measureScan(t.Context(), t, s, io.Discard)
	var out strings.Builder
	if err := rep.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Logf("bounds times %v:\n%s", s.slack, out.String())
	for _, b := range rep.missed() {
		t.Error(b)
	}
	n := len(scanStates())
	for key, least := range map[string]int{"audit": 2 * (n - 1), "audit_config": 2 * (n - 1), "probe": n, "harden": 6 * n, "sslscan": 7 * n, "testssl": 7 * n} {
		if got := rep.answered(key); got < least {
			t.Errorf("%s gave %d verdicts, want at least %d", key, got, least)
		}
	}
}
