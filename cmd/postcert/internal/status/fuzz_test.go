package status

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// FuzzRecord: whatever the file of a record holds, the end of the next attempt
// makes a record of it that is read back as it was written.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"mail","wanted":"a","installed":"a","generation":3,"rehearsed":true,"last_success":"2026-01-02T03:04:05Z"}`), "installed", "b", "yes", 0)
	f.Add([]byte(`{"rehearsed":"no postfix here","last_error":{"id":"x","exit":3}}`), "refused", "", "because", 3)
	f.Add([]byte(`{"rehearsed":"true","wanted_since":"0000-01-01T00:00:00-23:59"}`), "rolled_back", "c", "", 4)
	f.Add([]byte(`[`), "", "", "", 1)
	f.Fuzz(func(t *testing.T, data []byte, outcome, leaf, rehearsed string, exit int) {
		var r Record
		if json.Unmarshal(data, &r) != nil {
			r = Record{}
		}
		_ = r.Words()
		r.fold(Update{Instance: "/etc/postfix", Name: "mail", Time: time.Unix(1e9, 0), Outcome: outcome, Leaf: leaf, Rehearsed: Rehearsed(rehearsed), Exit: exit, ID: "x", Cause: outcome})
		written, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("read from %q, and not to be written: %v", data, err)
		}
		var once, twice Record
		if err := json.Unmarshal(written, &once); err != nil {
			t.Fatalf("written, and not read: %v", err)
		}
		again, err := json.Marshal(once)
		if err != nil || json.Unmarshal(again, &twice) != nil || !reflect.DeepEqual(once, twice) {
			t.Fatalf("%v: %s is %s when read again", err, written, again)
		}
		if (once.Rehearsed == "yes") != (r.Rehearsed == "yes") || once.LastError.Exit != exit {
			t.Fatalf("%+v was written as %s", r, written)
		}
	})
}
