package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A hook that is slow is told as missed, each figure by itself.
func TestHookBounds(t *testing.T) {
	of := func(d time.Duration) series { return series{d * time.Millisecond} }
	for _, tt := range []struct {
		name   string
		r      hookReport
		missed string
	}{
		{"good", hookReport{Unchanged: of(130), Proof: of(40), Other: of(6), Certbot: of(300), Failed: of(21_000)}, ""},
		{"unchanged", hookReport{Unchanged: of(150), Proof: of(40), Other: of(6), Failed: of(21_000)}, "beyond its proof"},
		{"other", hookReport{Unchanged: of(50), Proof: of(40), Other: of(21), Failed: of(21_000)}, "another's lineage"},
		{"certbot", hookReport{Unchanged: of(50), Proof: of(40), Other: of(19), Certbot: of(100)}, "certbot's start"},
		{"failed", hookReport{Unchanged: of(50), Proof: of(40), Other: of(6), Failed: of(81_000)}, "contradicted"},
	} {
		tt.r.Bounds = tt.r.bounds()
		got := tt.r.missed()
		if tt.missed == "" && len(got) > 0 || tt.missed != "" && (len(got) != 1 || !strings.Contains(got[0], tt.missed)) {
			t.Errorf("%s: missed are %q", tt.name, got)
		}
		var out bytes.Buffer
		if err := tt.r.print(&out); err != nil || !strings.Contains(out.String(), "its proof alone") {
			t.Errorf("%v\n%s", err, out.String())
		}
	}
}

// TestProofBenchHook is -hook without the deploy that fails, ahead of whatever else
// the machine does.
func TestProofBenchHook(t *testing.T) {
	s := settings{rounds: 7, slack: 1.25, ahead: true}
	if os.Getenv("POSTCERT_LONG") != "" {
		s.contradicted = 1
	}
	rep := measureHook(t.Context(), t, s, io.Discard)
	var out strings.Builder
	if err := rep.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Logf("bounds times %v:\n%s", s.slack, out.String())
	for _, b := range rep.missed() {
		t.Error(b)
	}
}
