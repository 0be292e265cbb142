package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// module is a module with one package whose tests are text, and returns what
// `go test -json` says of it.
func module(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"go.mod": "module m\n\ngo 1.26\n", "m_test.go": "package m\n" + text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}

func TestSummarize(t *testing.T) {
	const imports = "import (\"testing\"; \"os\")\nvar _ = os.Exit\n"
	tests := []struct {
		name   string
		tests  string
		noskip bool
		well   bool
		want   []string // in this order
	}{
		{"all passed", imports + "func TestA(t *testing.T) { t.Run(\"x\", func(*testing.T) {}) }", true, true,
			[]string{"ok  \tm\t", "2 passed, 0 failed, 0 skipped\n"}},
		{"one failed", imports + "func TestA(t *testing.T) { t.Error(\"sad\") }\nfunc TestB(t *testing.T) { t.Log(\"chatty\") }", false, false,
			[]string{"--- FAIL: TestA", "FAIL\tm\t", "1 passed, 1 failed, 0 skipped\n"}},
		{"skipped here", imports + "func TestA(t *testing.T) { t.Skip(\"no postfix\") }", false, true,
			[]string{"no postfix", "--- SKIP: TestA", "ok  \tm\t", "0 passed, 0 failed, 1 skipped\n"}},
		{"skipped in CI", imports + "func TestA(t *testing.T) { t.Skip(\"no postfix\") }", true, false,
			[]string{"--- SKIP: TestA", "tests were skipped", "0 passed, 0 failed, 1 skipped\n"}},
		{"panic", imports + "func TestA(t *testing.T) { panic(\"boo\") }", false, false,
			[]string{"panic: boo", "FAIL\tm\t", "0 passed, 1 failed, 0 skipped\n"}},
		{"TestMain ends it", imports + "func TestMain(m *testing.M) { os.Stdout.WriteString(\"no namespaces\\n\"); os.Exit(1) }", false, false,
			[]string{"no namespaces", "FAIL\tm\t", "0 passed, 0 failed, 0 skipped\n"}},
		{"does not compile", imports + "func TestA(t *testing.T) { x }", false, false,
			[]string{"undefined: x", "FAIL\tm [build failed]", "0 passed, 0 failed, 0 skipped\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if got := (&results{out: &out}).summarize(strings.NewReader(module(t, tt.tests)), tt.noskip); got != tt.well {
				t.Errorf("well is %v, want %v", got, tt.well)
			}
			rest := out.String()
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("no %q, or not in this place, in\n%s", want, &out)
				}
				rest = after
			}
			if rest != "" {
				t.Errorf("the last line is not the sum: %q", rest)
			}
			if strings.Contains(out.String(), "chatty") {
				t.Errorf("the output of a test that passed:\n%s", &out)
			}
		})
	}
}

func TestCutOff(t *testing.T) {
	const begin = `{"Action":"start","Package":"m"}` + "\n" + `{"Action":"run","Package":"m","Test":"TestA"}` + "\n"
	const whole = `{"Action":"start","Package":"n"}` + "\n" + `{"Action":"pass","Package":"n"}` + "\n"
	var out strings.Builder
	if !(&results{out: &out}).summarize(strings.NewReader(whole), false) {
		t.Errorf("a whole package is refused:\n%s", &out)
	}
	for name, in := range map[string]string{"nothing": "", "no end": whole + begin, "not a result": "go: downloading x\n"} {
		var out strings.Builder
		if (&results{out: &out}).summarize(strings.NewReader(in), false) {
			t.Errorf("%s: all is well?\n%s", name, &out)
		}
	}
}

func TestFigures(t *testing.T) {
	in := module(t, "import \"testing\"\nfunc TestA(t *testing.T) { t.Log(\"R1: 300 kills\\nnot this\"); t.Log(\"nor R1: this\") }")
	var out strings.Builder
	(&results{out: &out, figures: regexp.MustCompile(`^R[0-9]+: `)}).summarize(strings.NewReader(in), true)
	if !strings.HasPrefix(out.String(), "      R1: 300 kills\n") || strings.Contains(out.String(), "this") {
		t.Errorf("got %q", &out)
	}
}

func TestSlowest(t *testing.T) {
	in := `{"Action":"pass","Package":"m","Test":"TestA","Elapsed":1.5}
{"Action":"pass","Package":"m","Test":"TestB/part","Elapsed":70}
{"Action":"pass","Package":"m","Test":"TestB","Elapsed":71}
{"Action":"pass","Package":"m","Test":"TestC","Elapsed":0.2}
{"Action":"pass","Package":"m","Elapsed":73}
`
	var out strings.Builder
	r := &results{out: &out, slowest: 2}
	if !r.summarize(strings.NewReader(in), false) {
		t.Fatal(out.String())
	}
	if want := "        71.0 s  TestB\n         1.5 s  TestA\n4 passed, 0 failed, 0 skipped\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}
