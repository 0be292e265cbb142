package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/audit"
)

// TestProofAuditCorpus: on every pair of corpusSample the program answers as the rules
// do, twice the same; all edits can be carried out together, Postfix reads what
// they made, what they are for is not found any more, and undone they leave the
// bytes as they were.
func TestProofAuditCorpus(t *testing.T) {
	postfixtest.Shards(t, corpusShards, func(t *testing.T, shard int) {
		w := newCorpusWorld(t)
		for i, p := range corpusSample(t) {
			if i%corpusShards == shard {
				t.Run(p.name, func(t *testing.T) { w.auditOf(t, p) })
			}
		}
		t.Logf("audit: shard %d: %v", shard, w.counts)
	})
}

func (w *corpusWorld) auditOf(t *testing.T, p corpusPair) {
	h := w.host(t, p)
	i := postfix.Instance{ConfigDirectory: p.dir}
	look := func() (cf.Snapshot, []*audit.Finding) {
		t.Helper()
		s, err := i.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		types, err := i.TableTypes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		facts := gatherFiles(s, audit.NeedsOf(s))
		facts.TableTypes = types
		return s, audit.Run(s, facts, audit.Rules())
	}
	s, first := look()
	_, second := look()
	if a, b := findingLines(first), findingLines(second); !slices.Equal(a, b) {
		t.Fatalf("twice it is another answer:\n%s\n%s", a, b)
	}
	w.counts["pairs"]++
	w.counts["findings"] += len(first)
	h.sameAsProgram(s, first)

	edits, conflicts := audit.Edits(first)
	w.counts["edits"] += len(edits)
	w.counts["conflicts"] += len(conflicts)
	edits, main, master, err := cf.Trace(s.Main.Data, s.Master.Data, edits)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{h.main, main}, {h.master, master}} {
		if err := os.WriteFile(f.path, f.data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, after := look()
	for _, f := range first {
		done := len(f.Remedy) > 0 && !slices.Contains(conflicts, f)
		if done && slices.ContainsFunc(after, func(g *audit.Finding) bool {
			return g.Rule.ID == f.Rule.ID && g.At.Parameter == f.At.Parameter && g.At.Service == f.At.Service
		}) {
			t.Errorf("still found with its remedy: %s: %s", f.Rule.ID, f.Message)
		}
	}
	w.undone(t, s, main, master, edits)
	w.hardened(t, s, first)
}

// hardened: what harden does with each profile, its undo takes back byte for byte.
func (w *corpusWorld) hardened(t *testing.T, s cf.Snapshot, found []*audit.Finding) {
	t.Helper()
	for _, p := range audit.Profiles {
		var of []*audit.Finding
		for _, f := range found {
			if slices.ContainsFunc(p.Hardening(), func(r audit.Rule) bool { return r.ID == f.Rule.ID }) {
				of = append(of, f)
			}
		}
		h := hardening{profile: p}
		traced, main, master, err := cf.Trace(s.Main.Data, s.Master.Data, h.edits(s, of, true))
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		after := s
		after.Main.Data, after.Master.Data = main, master
		undo := planUndo(hardenRecord{Changes: []hardenedChange{{Edits: traced}}}, after, nil)
		back, backMaster, err := cf.Apply(main, master, undo.edits)
		if err != nil || len(undo.kept) > 0 || len(undo.edits) != len(traced) || len(undo.record.Changes) > 0 {
			t.Fatalf("%s: %v, kept %v", p.Name, err, undo.kept)
		}
		if !bytes.Equal(back, s.Main.Data) || !bytes.Equal(backMaster, s.Master.Data) {
			t.Errorf("%s: undone it is another one: %s%s", p.Name, diffWords(hunks(s.Main.Data, back)), diffWords(hunks(s.Master.Data, backMaster)))
		}
		w.counts["hardened and undone"]++
		w.counts["edits of hardening"] += len(traced)
	}
}

// undone takes edits back: both files are what they were, byte for byte.
func (w *corpusWorld) undone(t *testing.T, s cf.Snapshot, main, master []byte, edits []cf.Edit) {
	t.Helper()
	var back []cf.Edit
	for _, e := range edits {
		back = append([]cf.Edit{e.Inverse()}, back...)
	}
	main, master, err := cf.Apply(main, master, back)
	if err != nil {
		t.Fatal(err)
	}
	w.counts["undone byte for byte"]++
	if !bytes.Equal(main, s.Main.Data) || !bytes.Equal(master, s.Master.Data) {
		t.Errorf("undone it is another one: %s%s", diffWords(hunks(s.Main.Data, main)), diffWords(hunks(s.Master.Data, master)))
	}
}

// findingLines are findings as lines.
func findingLines(all []*audit.Finding) (out []string) {
	for _, f := range all {
		out = append(out, fmt.Sprintf("%s %s %+v %s %v", f.Rule.ID, f.Message, f.At, f.Advice, len(f.Remedy)))
	}
	return out
}

// sameAsProgram runs the program and compares: it asks the recommended rules.
func (h *corpusHost) sameAsProgram(s cf.Snapshot, all []*audit.Finding) {
	h.t.Helper()
	recommended, _ := audit.Find("recommended")
	var want []string
	for _, f := range all {
		if slices.ContainsFunc(recommended.Rules(), func(r audit.Rule) bool { return r.ID == f.Rule.ID }) {
			want = append(want, f.Rule.ID+" "+f.Message)
		}
	}
	a := h.postcert("audit", "--json", "--no-handshakes")
	var v struct {
		Instances []struct{ Findings []foundJSON }
	}
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil || len(v.Instances) != 1 || a.status != 0 && a.status != 8 {
		h.t.Fatalf("exit status %d, %v: %s%s", a.status, err, a.stdout, a.stderr)
	}
	var got []string
	for _, f := range v.Instances[0].Findings {
		got = append(got, f.Rule+" "+f.Message)
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("the program says\n%q\nthe rules\n%q", got, want)
	}
}
