package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// gatherIn names, for the shards of a test, the directory into which each puts
// what it has counted.
const gatherIn = "POSTCERT_TEST_GATHER"

// gather has report called with what all shards of the test have handed over,
// once they have ended. It is called before postfixtest.Shards.
func gather[T any](t *testing.T, report func(t *testing.T, parts []T)) {
	if os.Getenv(gatherIn) != "" {
		return // this is a shard
	}
	dir := t.TempDir()
	t.Setenv(gatherIn, dir)
	t.Cleanup(func() {
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		var parts []T
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var part T
			if err := json.Unmarshal(data, &part); err != nil {
				t.Fatal(err)
			}
			parts = append(parts, part)
		}
		report(t, parts)
	})
}

// hand leaves what a shard has counted for gather.
func hand[T any](t *testing.T, shard int, part T) {
	t.Helper()
	data, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv(gatherIn), strconv.Itoa(shard)), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tell logs the figures of a proof. Those of one that failed promise nothing, and
// do not look as if they did.
func tell(t *testing.T, format string, args ...any) {
	t.Helper()
	if t.Failed() {
		format = "the proof failed; what it would have said: " + format
	}
	t.Logf(format, args...)
}
