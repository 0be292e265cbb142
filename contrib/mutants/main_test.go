package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const head, change = "What: w: x\nPackage: deploy\nTest: TestX/y\nSays: z\n\n", "--- a/f.go\n+++ b/f.go\n@@ -1 +1 @@\n-a\n+b\n"
	m, err := parse(head + change)
	if err != nil || m.what != "w: x" || m.pkg != "deploy" || m.test != "TestX/y" || m.says != "z" || len(m.files) != 1 || m.files[0] != "f.go" {
		t.Errorf("got %+v, %v", m, err)
	}
	for name, patch := range map[string]string{
		"no change":       head,
		"no test":         "What: w\nPackage: deploy\n\n" + change,
		"an unknown line": "Waht: w\n" + head + change,
		"outside":         strings.ReplaceAll(head+change, "f.go", "../f.go"),
	} {
		if m, err := parse(patch); err == nil {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}

// A mutant is caught by the failure of its test, and by nothing else.
func TestMutantJudge(t *testing.T) {
	for _, tt := range []struct {
		name, test, says, output string
		caught                   bool
	}{
		{"fails", "TestX", "", "=== RUN   TestX\n    x_test.go:1: no\n--- FAIL: TestX (0.00s)\nFAIL\n", true},
		{"a subtest fails", "TestX/y", "", "--- FAIL: TestX (0.00s)\n    --- FAIL: TestX/y (0.00s)\nFAIL\n", true},
		{"says it", "TestX", "no", "    x_test.go:1: no\n--- FAIL: TestX (0.00s)\nFAIL\n", true},
		{"says something else", "TestX", "yes", "    x_test.go:1: no\n--- FAIL: TestX (0.00s)\nFAIL\n", false},
		{"another one fails", "TestX", "", "--- PASS: TestX (0.00s)\n--- FAIL: TestXY (0.00s)\nFAIL\n", false},
		{"another subtest fails", "TestX/y", "", "--- FAIL: TestX (0.00s)\n    --- FAIL: TestX/z (0.00s)\nFAIL\n", false},
		{"panics", "TestX", "", "--- FAIL: TestX (0.00s)\npanic: x [recovered]\n", false},
		{"does not end", "TestX", "", "panic: test timed out after 1s\n--- FAIL: TestX (1.00s)\n", false},
		{"was ended", "TestX", "", "=== RUN   TestX\n", false},
	} {
		if err := (mutant{test: tt.test, says: tt.says}).judge([]byte(tt.output)); (err == nil) != tt.caught {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Every patch applies to the source as it is.
func TestPatchesApply(t *testing.T) {
	top, err := root()
	if err != nil {
		t.Fatal(err)
	}
	all, err := load(filepath.Join(top, "testdata", "mutants"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		overlay, err := m.apply(top, filepath.Join(t.TempDir(), m.name))
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		for _, file := range m.files {
			before, err1 := os.ReadFile(filepath.Join(top, file))
			after, err2 := os.ReadFile(filepath.Join(filepath.Dir(overlay), file))
			if err1 != nil || err2 != nil || string(before) == string(after) {
				t.Errorf("%s: %s is not changed (%v, %v)", m.name, file, err1, err2)
			}
		}
	}
}
