package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVersionAtLeast(t *testing.T) {
	for _, tt := range []struct {
		v, other Version
		want     bool
	}{
		{"3.10.13", "3.9", true},
		{"3.9", "3.10", false},
		{"3.7.11", "3.7.11", true},
		{"3.7", "3.7.0", true},
		{"3.5.25", "3.6", false},
		{"1.1.1w", "1.1.1", true},
		{"2.4.1-4", "2.4.2", false},
		{"262", "257.13", true},
		{"", "3.5", false},
	} {
		if got := tt.v.AtLeast(tt.other); got != tt.want {
			t.Errorf("%q at least %q: %v, want %v", tt.v, tt.other, got, tt.want)
		}
	}
}

func TestChosen(t *testing.T) {
	for words, want := range map[string]string{
		"":               "bullseye bookworm trixie forky",
		"12":             "bookworm",
		"forky 11":       "bullseye forky",
		"12 bookworm 13": "bookworm trixie",
	} {
		got, err := chosen(strings.Fields(words))
		var suites []string
		for _, r := range got {
			suites = append(suites, r.Suite)
		}
		if err != nil || strings.Join(suites, " ") != want {
			t.Errorf("%q: got %q %v, want %q", words, suites, err, want)
		}
	}
	if _, err := chosen([]string{"10"}); err == nil {
		t.Error("a release that there is not is taken")
	}
}

func TestRewriteSources(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"deb822", map[string]string{"/e/debian.sources": "# a comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n" +
			"Components: main contrib\nSigned-By:\n -----BEGIN PGP\n .\n -----END PGP\n\n" +
			"Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n"},
			"Types: deb\nSuites: forky\nComponents: main\nURIs: http://mirror.example/debian\nSigned-By:\n -----BEGIN PGP\n .\n -----END PGP\n"},
		{"one line", map[string]string{"/e/sources.list": "deb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg] http://mirror.example/debian bookworm main # here\n" +
			"deb http://mirror.example/debian-security bookworm-security main\ndeb-src http://mirror.example/debian bookworm main\n"},
			"Types: deb\nSuites: forky\nComponents: main\nURIs: http://mirror.example/debian\nSigned-By: /k/a.gpg /k/b.gpg\n"},
		{"others are left out", map[string]string{"/e/a.list": "deb http://mirror.example/debian bookworm main\n", "/e/v.list": "deb http://vendor.example/apt cloud-bookworm main\n",
			"/e/n.sources": "Types: deb\nURIs: http://node.example\nSuites: nodistro\n", "/e/off.sources": "Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\n"},
			"Types: deb\nSuites: forky\nComponents: main\nURIs: http://mirror.example/debian\n"},
	} {
		got, err := rewriteSources(tt.files, "bookworm", "forky")
		if err != nil || got != tt.want {
			t.Errorf("%s: got %v\n%s\nwant\n%s", tt.name, err, got, tt.want)
		}
	}
	if got, err := rewriteSources(map[string]string{"/e/v.list": "deb http://vendor.example/apt stable main\n"}, "bookworm", "forky"); err == nil {
		t.Errorf("no source of Debian: got %q", got)
	}
}

func TestWantsAptOptions(t *testing.T) {
	for text, want := range map[string]bool{
		"Acquire::http::Proxy \"http://proxy.example\";\n":            true,
		"// Acquire is not meant\nDPkg::Post-Invoke { \"hook\"; };\n": false,
	} {
		if got := wantsAptOptions(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestGroupIn(t *testing.T) {
	const hybrid = "9:name=systemd:/one\n4:memory:/two\n0::/three/init.scope\n"
	for hierarchy, want := range map[string]string{
		"/sys/fs/cgroup/systemd": "/sys/fs/cgroup/systemd/one",
		"/sys/fs/cgroup/unified": "/sys/fs/cgroup/unified/three/init.scope",
		"/sys/fs/cgroup":         "/sys/fs/cgroup/three/init.scope",
	} {
		if got := groupIn(hybrid, hierarchy); got != want {
			t.Errorf("%s: %s, want %s", hierarchy, got, want)
		}
	}
}

func TestSelected(t *testing.T) {
	run := func(*S) {}
	all := []Scenario{{ID: "S02", Title: "b", Run: run}, {ID: "S01", Title: "a", Run: run}}
	got, err := selected(all, "")
	if err != nil || len(got) != 2 || got[0].ID != "S01" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := selected(all, "^b$"); err != nil || len(got) != 1 || got[0].ID != "S02" {
		t.Errorf("by title: got %v, %v", got, err)
	}
	for name, wrong := range map[string][]Scenario{
		"twice":       {all[0], all[0]},
		"no function": {{ID: "S03", Title: "c"}},
		"no ID":       {{Title: "c", Run: run}},
	} {
		if got, err := selected(wrong, ""); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if _, err := selected(all, "("); err == nil {
		t.Error("a broken pattern is taken")
	}
}

func TestInTurn(t *testing.T) {
	together, alone := inTurn([]Scenario{{ID: "a"}, {ID: "b", Long: true}, {ID: "c", Alone: true}, {ID: "d"}, {ID: "e", Long: true}})
	got := ""
	for _, sc := range append(append(together, Scenario{ID: "|"}), alone...) {
		got += sc.ID
	}
	if got != "bead|c" {
		t.Errorf("got %s, want bead|c", got)
	}
}

func TestPressure(t *testing.T) {
	for text, want := range map[string]float64{
		"some avg10=97.50 avg60=96.64 avg300=91.29 total=54602251455\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n": 97.5,
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n":                                                              0,
		"": 0,
	} {
		if got := pressure(text); got != want {
			t.Errorf("%q: %g, want %g", text, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]time.Duration{9, 1, 5}); got != 5 {
		t.Errorf("got %d, want 5", got)
	}
}

// The scenarios of this program are well formed.
func TestRegistered(t *testing.T) {
	got, err := selected(registered, "")
	if err != nil || len(got) == 0 {
		t.Errorf("%d scenarios, %v", len(got), err)
	}
	if err := start([]string{"-run", "no such scenario"}); err == nil {
		t.Error("a run without a scenario is good")
	}
}

func TestCPUTime(t *testing.T) {
	dir := t.TempDir()
	if got := cpuTime([]string{dir}); got != 0 {
		t.Errorf("without cpu.stat: got %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "cpu.stat"), []byte("usage_usec 1500000\nuser_usec 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cpuTime([]string{t.TempDir(), dir}); got != 1500*time.Millisecond {
		t.Errorf("got %s, want 1.5s", got)
	}
}

func TestDialect(t *testing.T) {
	for addr, want := range map[string][2]string{
		"127.0.0.1:25":         {"127.0.0.1:25", "smtp"},
		"[::1]:465":            {"[::1]:465", ""},
		"127.0.0.1:993":        {"127.0.0.1:993", ""},
		"127.0.0.1:143":        {"127.0.0.1:143", "imap"},
		"smtps://127.0.0.1:25": {"127.0.0.1:25", ""},
		"127.0.0.1:2525":       {"127.0.0.1:2525", "smtp"},
	} {
		if host, starttls := dialect(addr); host != want[0] || starttls != want[1] {
			t.Errorf("%s: %q %q, want %q", addr, host, starttls, want)
		}
	}
}

func TestTable(t *testing.T) {
	rs := []*Release{{Number: 11, Suite: "bullseye", Postfix: "3.5.25"}, {Number: 12, Suite: "bookworm", Postfix: "3.7.11"}}
	tb := table{
		scenarios: []Scenario{{ID: "S01", Title: "a | b"}, {ID: "S02", Title: "c"}}, releases: rs,
		cells: []cell{{"S01", rs[0], passed, "", 0, 0, []string{"7 ms"}}, {"S01", rs[1], failed, "no", 0, 0, nil}, {"S02", rs[0], cannot, "too old", 0, 0, nil}},
		date:  time.Date(2026, 11, 21, 15, 0, 0, 0, time.UTC), took: time.Minute, cpu: 30 * time.Second,
	}
	var b strings.Builder
	tb.markdown(&b)
	for _, want := range []string{
		"| scenario | Debian 11 | Debian 12 |\n|---|---|---|\n",
		"| S01 a \\| b | ok | FAIL |\n",
		"| S02 c | - (1) | not run |\n",
		"\n1. too old\n",
		"\n- Debian 11: 7 ms\n",
		"| Postfix | 3.5.25 | 3.7.11 |\n",
		"Run of 2026-11-21 15:00 UTC: 1 ok, 2 failed, 1 not possible on their release, in 60 s (30 s of processor time).\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestTranscriptHasNoKey(t *testing.T) {
	s := &S{world: &world{}}
	s.transcribe(&Machine{Name: "m"}, "cat key", Result{Stdout: "-----BEGIN EC PRIVATE KEY-----\nSECRET\n-----END EC PRIVATE KEY-----\nafter\n"}, nil)
	s.note("%s", "-----BEGIN PRIVATE KEY-----\nSECRET")
	if text := s.text.String(); strings.Contains(text, "SECRET") || !strings.Contains(text, "after") {
		t.Errorf("got %q", text)
	}
}

// A scenario that fails, panics, or cannot be done here says so, and ends.
func TestPerform(t *testing.T) {
	for name, tt := range map[string]struct {
		run    func(*S)
		want   verdict
		reason string
	}{
		"good":                      {func(*S) {}, passed, ""},
		"fatal":                     {func(s *S) { s.Fatalf("no %d", 1); panic("went on") }, failed, "no 1"},
		"error":                     {func(s *S) { s.Errorf("first"); s.Errorf("second") }, failed, "first"},
		"panic":                     {func(*S) { panic("oh") }, failed, "panic: oh"},
		"not here":                  {func(s *S) { s.NotHere("too old"); panic("went on") }, cannot, "too old"},
		"a failure before not here": {func(s *S) { s.Errorf("bad"); s.NotHere("too old") }, failed, "bad"},
	} {
		s := &S{world: &world{ctx: t.Context()}, ctx: t.Context()}
		cleaned := false
		s.Cleanup(func() { cleaned = true })
		s.perform(tt.run)
		if s.verdict != tt.want || !strings.HasPrefix(s.reason, tt.reason) || !cleaned {
			t.Errorf("%s: %s %q, cleaned up: %v", name, s.verdict, s.reason, cleaned)
		}
	}
}

func TestParse(t *testing.T) {
	o, words, err := parse([]string{"-run", "S0", "-parallel", "2", "12", "13"}, io.Discard)
	if err != nil || o.run != "S0" || o.parallel != 2 || len(words) != 2 {
		t.Errorf("got %+v %q %v", o, words, err)
	}
	if _, _, err := parse([]string{"-parallel", "0"}, io.Discard); err == nil {
		t.Error("-parallel 0 is taken")
	}
}
