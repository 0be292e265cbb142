package status

import (
	"testing"
	"time"
)

// Where a pair came from is remembered until it comes from elsewhere, and a deploy
// that was begun and never ended is to be tried again.
func TestFrom(t *testing.T) {
	s := store(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	read := func() *Record {
		t.Helper()
		r, err := s.Read("/etc/postfix", "mail")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	record := func(u Update) *Record {
		t.Helper()
		u.Instance, u.Name, u.Time = "/etc/postfix", "mail", at
		if err := s.Record(u); err != nil {
			t.Fatal(err)
		}
		return read()
	}
	files := &From{Source: &Source{Cert: "/c", Key: "/k", Chain: "/h"}, Service: "smtps/inet"}
	record(Update{Leaf: "a", Outcome: "installed", Issued: true, From: &From{Lineage: "/live/a"}})
	if r := record(Update{Leaf: "b", Outcome: "installed"}); r.Lineage != "/live/a" || r.Source != nil {
		t.Errorf("forgotten: %+v", r)
	}
	if r := record(Update{Leaf: "c", Outcome: "installed", Issued: true, From: files}); r.Lineage != "" || r.Source == nil || *r.Source != *files.Source || r.Service != files.Service {
		t.Errorf("not replaced: %+v", r)
	}

	begin := Update{Instance: "/etc/postfix", Name: "mail", Time: at, Leaf: "d", From: &From{Lineage: "/live/d"}}
	if err := s.Begin(begin, time.Minute); err != nil {
		t.Fatal(err)
	}
	r := read()
	if r.Retry != "d" || r.Issued != "d" || r.Installed != "c" || r.Wanted != "c" || r.Failures != 0 || r.LastError.Exit != 0 || r.Lineage != "/live/d" || !r.RetryAt(at).Equal(at.Add(time.Minute)) {
		t.Errorf("begun: %+v", r)
	}
	if r := record(Update{Leaf: "d", Outcome: "rolled_back", Exit: 4, Issued: true}); r.Retry != "d" || r.Failures != 1 {
		t.Errorf("failed: %+v", r)
	}
	if err := s.Begin(begin, time.Minute); err != nil {
		t.Fatal(err)
	}
	if r := record(Update{Leaf: "d", Outcome: "rolled_back", Exit: 4, Issued: true}); r.Failures != 2 {
		t.Errorf("the second failure in a row: %+v", r)
	}
	if r := record(Update{Leaf: "d", Outcome: "installed", Issued: true}); r.Retry != "" || r.Installed != "d" || r.Failures != 0 {
		t.Errorf("ended: %+v", r)
	}
	if all := s.All(); len(all) != 1 || all[0].Name != "mail" {
		t.Errorf("%d records", len(all))
	}
}

// The first one that ever begins has no record yet.
func TestBeginFirst(t *testing.T) {
	s := store(t)
	if err := s.Begin(Update{Instance: "/etc/postfix", Name: "mail", Time: time.Now(), Leaf: "a", From: &From{Lineage: "/l"}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Read("/etc/postfix", "mail"); err != nil || r.Retry != "a" || r.Version != Version || r.Instance != "/etc/postfix" {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Begin(Update{Instance: "/etc/postfix", Leaf: "a"}, time.Minute); err == nil {
		t.Error("a record without a name")
	}
}
