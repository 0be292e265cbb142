package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// recordFiles are the files of the host's records.
func (h *host) recordFiles() []string {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.state, "status", "*", "*.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	return files
}

// record is the record as it is on disk, nil if there is none.
func (h *host) record() *status.Record {
	h.t.Helper()
	files := h.recordFiles()
	if len(files) == 0 {
		return nil
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		h.t.Fatal(err)
	}
	var r status.Record
	if err := json.Unmarshal(data, &r); err != nil {
		h.t.Fatal(err)
	}
	return &r
}

// said is the record as "postcert status" tells it.
func (h *host) said(want int) map[string]any {
	h.t.Helper()
	r, ok := h.postcert("status", "--json").want(want).certificate(0)["record"].(map[string]any)
	if !ok {
		h.t.Fatal("status tells no record")
	}
	return r
}

// A kill between the end of the transaction and the writing of the record: the
// journal is closed, so there is nothing to recover, and the record knows nothing.
// What is told is the truth all the same, after a first install, after a renewal
// and after a deploy that was undone; and the next record has it.
func TestKillBeforeRecord(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	h.dies("confirm end", "install-cert", first)
	if h.record() != nil {
		t.Fatal("killed too late: there is a record")
	}
	h.postcert("recover").want(0).says("nothing to recover")
	if r := h.said(0); r["wanted"] != h.leafOf(first) || r["installed"] != h.leafOf(first) || r["generation"] != 1.0 || r["last_outcome"] != "installed" || r["rehearsed"] != true {
		t.Errorf("of the first install: %v", r)
	}
	h.dies("confirm end", "install-cert", second)
	h.postcert("status").want(0)
	h.postcert("renew").want(0)
	if r := h.record(); r == nil || r.Wanted != h.leafOf(second) || r.Generation != 2 || r.LastOutcome != "installed" || r.Served == nil || !r.Served.Agrees {
		t.Errorf("renew left the record %+v", r)
	}
	h.serves(h.leafOf(second))
}

// The same of a deploy that was undone: at each file operation after the proof of
// the undo a kill leaves either an open transaction, which is told, or the failure.
func TestKillBeforeRecordOfUndo(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	good, bad := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	h.postcert("install-cert", good).want(0)
	fail := h.with(failAt + "=Reload 1")
	tr := fail.tracedTo(4, "install-cert", bad)
	closed, from := 0, tr.at["reprove end"]
	// Between the record in the history and the end of the transaction: what is told
	// of a change that is not settled is not told as if it were.
	op := fail.removal(from, bad)
	h.postcert("install-cert", good).want(0)
	fail.dies("op "+strconv.Itoa(op), "install-cert", bad)
	a := h.postcert("status", "--json").want(8)
	if r := a.certificate(0)["record"].(map[string]any); !a.has("transaction_open") || r["last_outcome"] == "rolled_back" {
		t.Errorf("%v, %v", a.ids(), r["last_outcome"])
	}
	h.postcert("recover").want(0)
	for _, n := range sample(tr.changes-from, 2) {
		op := tr.changes + 1 - n // the last one first
		h.postcert("install-cert", good).want(0)
		os.RemoveAll(filepath.Join(h.state, "status"))
		fail.dies("op "+strconv.Itoa(op), "install-cert", bad)
		a := h.postcert("status", "--json").want(8)
		if open := a.has("transaction_open"); open {
			h.postcert("recover").want(0)
			a = h.postcert("status", "--json").want(8)
		} else {
			closed++
		}
		r := a.certificate(0)["record"].(map[string]any)
		if !a.has("wanted_not_installed") || r["wanted"] != h.leafOf(bad) || r["installed"] != h.leafOf(good) || r["last_outcome"] != "rolled_back" {
			t.Fatalf("killed at operation %d: %v, %v", op, a.ids(), r)
		}
		h.serves(h.leafOf(good))
	}
	t.Logf("of %d operations after the proof of the undo: %d kills after the journal was closed", tr.changes-from, closed)
	if closed == 0 {
		t.Error("no kill was after the end of the transaction")
	}
}

// removal is the first operation after another one that removes a file, in a run that
// is undone: of the open journal, once the history has its record.
func (h *host) removal(from int, lineage string) int {
	h.t.Helper()
	file := filepath.Join(h.dir, "operations")
	h.with(recordTo+"="+file).postcert("install-cert", lineage).want(4)
	for line := range strings.Lines(string(h.read(file))) {
		at := strings.Index(line, "op ")
		if at < 0 {
			continue
		}
		f := strings.Fields(line[at:])
		if n, err := strconv.Atoi(f[1]); err == nil && n > from && strings.HasPrefix(f[2], "remove") {
			return n
		}
	}
	h.t.Fatal("no file is removed after the proof of the undo")
	return 0
}

// An unreadable record, one of another version and one that is gone are made again
// from the history.
func TestRecordIsReplaced(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0)
	file := h.recordFiles()[0]
	later := strings.NewReplacer(`"version": 1`, `"version": 99`, h.leafOf(l), "another").Replace(string(h.read(file)))
	for _, content := range []string{later, "", "{", "[]", `{"version":0,"wanted":"x"}`, `{"version":99,"wanted":"x"}`, "null"} {
		h.write(file, []byte(content))
		if r := h.said(0); r["wanted"] != h.leafOf(l) || r["version"] != float64(status.Version) {
			t.Errorf("%q: %v", content, r)
		}
		h.postcert("renew").want(0)
		if r := h.record(); r.Wanted != h.leafOf(l) || r.Version != status.Version {
			t.Errorf("%q: kept as %+v", content, r)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	h.said(0)
	if err := os.Symlink("/dev/zero", file); err != nil {
		t.Fatal(err)
	}
	h.postcert("status").want(0).says("record_unreadable")
}

// has tells whether an answer in JSON has a problem with this id.
func (a answer) has(id string) bool {
	a.t.Helper()
	for _, x := range a.ids() {
		if x == id {
			return true
		}
	}
	return false
}
