package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestProgress(t *testing.T) {
	const output = "fuzz: elapsed: 0s, gathering baseline coverage: 0/9 completed\n" +
		"fuzz: elapsed: 3s, execs: 506 (169/sec), new interesting: 5 (total: 14)\n" +
		"fuzz: elapsed: 6s, execs: 1200 (0/sec), new interesting: 7 (total: 16)\nPASS\n"
	if got := strings.Join(strings.Fields(progress(output)), " "); got != "1200 executions, 7 new inputs of 16" {
		t.Errorf("got %q", got)
	}
	if got := progress("fuzz: elapsed: 3s, gathering baseline coverage: 5/9 completed\n"); got != "5/9 known inputs, none beyond them" {
		t.Errorf("got %q", got)
	}
	if got := progress("PASS\n"); got != "not executed" {
		t.Errorf("got %q", got)
	}
}

// The end of the time is no finding; everything else that fails is.
func TestOnlyTimeOver(t *testing.T) {
	const head = "fuzz: elapsed: 3s, execs: 1 (0/sec)\n--- FAIL: FuzzX (3.20s)\n    "
	for output, want := range map[string]bool{
		head + "context deadline exceeded\nFAIL\n":                                                       true,
		head + "--- FAIL: FuzzX (0.00s)\n        x_test.go:5: context deadline exceeded\n":               false,
		head + "context deadline exceeded\n\n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n": false,
		head + "fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n":                  false,
		"panic: context deadline exceeded\n--- FAIL: FuzzX (3.20s)\n    context deadline exceeded\n":     false,
		"FAIL\n": false,
		"":       false,
	} {
		if got := onlyTimeOver(output); got != want {
			t.Errorf("%q: got %v", output, got)
		}
	}
}

func TestFind(t *testing.T) {
	all, err := find([]string{"postcert/deploy/lock", "postcert/deploy/journal"}, regexp.MustCompile("FuzzH|FuzzO"))
	if err != nil || len(all) != 2 || all[0].name+all[1].name != "FuzzHolderFuzzOpen" && all[0].name+all[1].name != "FuzzOpenFuzzHolder" {
		t.Errorf("got %+v, %v", all, err)
	}
}
