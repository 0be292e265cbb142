package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/probe"
)

func TestMain(m *testing.M) {
	if launched(os.Args) {
		return
	}
	postfixtest.Main(m)
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args, message string
	}{
		{"", ""},
		{"-rounds 7 -hot 0 -check -json", ""},
		{"-rounds 6", "fewer than 7"},
		{"-acme -certificates 3 -json", ""},
		{"-acme -certificates 1", "fewer than 2"},
		{"-hook -rounds 7", ""},
		{"-hook -acme", "exclude each other"},
		{"-scan -rounds 7", ""},
		{"-scan -hook", "exclude each other"},
		{"rounds", "unexpected argument"},
		{"-unknown", "not defined"},
	} {
		_, err := parse(strings.Fields(tt.args), io.Discard)
		if (err == nil) != (tt.message == "") || err != nil && !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%q: %v, want %q", tt.args, err, tt.message)
		}
	}
}

func TestQuantile(t *testing.T) {
	s := series{5, 1, 4, 2, 3}
	for q, want := range map[float64]time.Duration{0: 1, 0.2: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if s[0] != 5 {
		t.Error("the order in which it was measured is lost")
	}
	if got := (series{}).median(); got != 0 {
		t.Errorf("median of nothing is %d", got)
	}
}

// A figure above its bound is told as missed, and one within the slack is not.
func TestBounds(t *testing.T) {
	of := func(d time.Duration) series { return series{d * time.Millisecond} }
	r := report{
		Slack:     1,
		Idle:      &contest{Series: map[string]series{"postcert": of(500), "by_hand": of(2500), "no_pause": of(400), "floor": of(300)}},
		Footprint: &footprint{Binary: 21 << 20, Peak: 24 << 20, Warm: of(9), Cold: of(20)},
	}
	names := func() []string {
		r.Bounds = r.bounds()
		var out []string
		for _, b := range r.Bounds {
			if !b.OK {
				out = append(out, b.Name)
			}
		}
		return out
	}
	if got, want := names(), []string{"renewal / the runbook without the pause", "postcert version, warm", "static binary"}; !slices.Equal(got, want) {
		t.Errorf("missed are %q, want %q", got, want)
	}
	r.Slack = 1.5
	if got := names(); len(got) > 0 {
		t.Errorf("missed with slack are %q", got)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "(a) the runbook by hand") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A program that fails ends the bench with its words, and what was made is
// removed.
func TestOutsideTests(t *testing.T) {
	var dir string
	_, err := outsideTests(context.Background(), func(t testing.TB) bool {
		dir = t.TempDir()
		(&host{t: t}).write(dir+"/x", nil)
		t.Fatalf("it %s", "failed")
		return true
	})
	if err == nil || err.Error() != "it failed" {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it removed", dir, err)
	}
}

// A program's peak is its own, not that of a large process that started it.
func TestLaunch(t *testing.T) {
	ballast := bytes.Repeat([]byte{1}, 200<<20)
	h := &host{t: t}
	got := h.launch([]string{"/bin/sh", "-c", "exit 0"})
	if got.Peak == 0 || got.Peak > 100<<20 {
		t.Errorf("a shell has a peak of %d bytes beside %d of ours", got.Peak, len(ballast))
	}
}

// TestGoodbye: nobody waits for a delayed acknowledgement, which takes 40 ms,
// when a session under implicit TLS is left before its greeting.
func TestGoodbye(t *testing.T) {
	h := &host{t: t, dir: t.TempDir()}
	cert := h.dir + "/first.pem"
	postfixtest.WritePair(t, cert, name)
	postfixtest.New(t, postfixtest.Options{Cert: cert}).Start()
	best := time.Hour
	for range 10 {
		s, r := probe.Open(t.Context(), probe.Endpoint{Address: postfixtest.Submissions, Mode: probe.Implicit})
		if r.Reason != probe.OK {
			t.Fatal(r.Reason, r.Detail)
		}
		begin := time.Now()
		s.Close()
		best = min(best, time.Since(begin))
	}
	if best > 35*time.Millisecond {
		t.Errorf("the quickest goodbye took %v", best)
	}
}

// TestProofBench is the contest of the package with bounds for a machine that
// does other work meanwhile, such as the tests of other packages. It goes ahead
// of that, and sleeps most of the time.
func TestProofBench(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	// postfix tls has no bound.
	s := settings{rounds: 7, slack: 1.25, without: "postfix_tls", ahead: true}
	if os.Getenv("POSTCERT_LONG") != "" {
		s = settings{rounds: 15, hot: 7, renewals: 500, slack: 1.25, ahead: true}
	}
	rep := measure(t.Context(), t, s, io.Discard)
	var out strings.Builder
	if err := rep.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Logf("D7, R21, bounds times %v:\n%s", s.slack, out.String())
	for _, b := range rep.missed() {
		t.Error(b)
	}
}
