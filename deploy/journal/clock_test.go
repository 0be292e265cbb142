package journal

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
)

// The history keeps the order in which things happened, whatever the clock
// said, and drops the oldest.
func TestHistoryWhenTheClockJumps(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	j := Journal{FS: atomicfile.OS, Dir: dir + "/journal", History: dir + "/history", Now: func() time.Time { return now }}
	var want []string
	for i, year := range []int{2026, 1970, 2106, 2026, 2026, 1970, 2027} {
		now = time.Date(year, 11, 21, 12, 0, i, 0, time.UTC)
		result := fmt.Sprint(i)
		if _, err := j.Remember(result, json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
		want = append(want, result)
	}
	got := results(t, j)
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
	now = time.Date(1970, 1, 1, 0, 0, 1, 0, time.UTC)
	for range KeepRecords {
		if _, err := j.Remember("later", json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	if got = results(t, j); len(got) != KeepRecords || slices.ContainsFunc(got, func(s string) bool { return s != "later" }) {
		t.Errorf("%d records are kept, the first is %q", len(got), got[0])
	}
}

// results are those of the history, oldest first.
func results(t *testing.T, j Journal) []string {
	t.Helper()
	records, err := j.Records()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range slices.Backward(records) {
		out = append(out, r.Result)
	}
	return out
}
