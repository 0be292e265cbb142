package status

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
)

func store(t *testing.T) Store {
	t.Helper()
	dir := t.TempDir()
	return Store{Path: func(instance, name string) (string, error) {
		if name == "" {
			return "", errors.New("no name")
		}
		return filepath.Join(dir, filepath.Base(instance), name+".json"), nil
	}}
}

// A wish lasts until it is fulfilled, replaced, refused or given back.
func TestRecord(t *testing.T) {
	first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := first.Add(time.Hour)
	tests := []struct {
		name      string
		updates   []Update
		wanted    string
		since     time.Time
		installed string
		rehearsed Rehearsed
		failed    string // id of the last error
	}{
		{"installed", []Update{{Leaf: "a", Outcome: "installed", Rehearsed: "yes"}}, "a", first, "a", "yes", ""},
		{"rolled back", []Update{{Leaf: "a", Outcome: "installed", Rehearsed: "yes"}, {Leaf: "b", Outcome: "rolled_back", Exit: 4, ID: "rolled_back"}}, "b", later, "a", "yes", "rolled_back"},
		{"refused is no wish", []Update{{Leaf: "a", Outcome: "installed", Rehearsed: "yes"}, {Leaf: "b", Outcome: "refused", Exit: 3, ID: "key_weak"}}, "a", first, "a", "yes", "key_weak"},
		{"asked for twice", []Update{{Leaf: "a", Outcome: "rolled_back", Exit: 4}, {Leaf: "a", Outcome: "installed", Rehearsed: "no"}}, "a", first, "a", "no", ""},
		{"unchanged keeps the rehearsal", []Update{{Leaf: "a", Outcome: "installed", Rehearsed: "yes"}, {Leaf: "a", Outcome: "unchanged"}}, "a", first, "a", "yes", ""},
		{"released", []Update{{Leaf: "a", Outcome: "installed", Rehearsed: "yes"}, {Released: true, Outcome: "installed"}}, "", time.Time{}, "", "yes", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t)
			for i, u := range tt.updates {
				u.Instance, u.Name, u.Time = "/etc/postfix", "mail", first.Add(time.Duration(i)*time.Hour)
				if err := s.Record(u); err != nil {
					t.Fatal(err)
				}
			}
			r, err := s.Read("/etc/postfix", "mail")
			if err != nil {
				t.Fatal(err)
			}
			if r.Wanted != tt.wanted || !r.WantedSince.Equal(tt.since) || r.Installed != tt.installed || r.Rehearsed != tt.rehearsed || r.LastError.ID != tt.failed {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestList(t *testing.T) {
	s := store(t)
	if l, err := s.List("/etc/postfix"); err != nil || len(l) != 0 {
		t.Fatalf("%v, %v", l, err)
	}
	for _, u := range []Update{{Instance: "/etc/postfix", Name: "b"}, {Instance: "/etc/postfix", Name: "a"}, {Instance: "/etc/postfix-in", Name: "c"}} {
		if err := s.Record(u); err != nil {
			t.Fatal(err)
		}
	}
	l, err := s.List("/etc/postfix")
	if err != nil || len(l) != 2 || l[0].Name != "a" || l[1].Name != "b" {
		t.Errorf("%v, %v", l, err)
	}
	if r, err := s.Read("/etc/postfix", "c"); r != nil || err != nil {
		t.Errorf("a record that is not there: %v, %v", r, err)
	}
}

// In JSON it is true, false or the reason, and that is read back.
func TestRehearsed(t *testing.T) {
	for in, want := range map[Rehearsed]string{"yes": "true", "no": "false", "": "false", "no room": `"no room"`} {
		data, err := json.Marshal(in)
		if err != nil || string(data) != want {
			t.Errorf("%q: %s, %v; want %s", in, data, err, want)
		}
		var back Rehearsed
		if err := json.Unmarshal(data, &back); err != nil || back != in && in != "" {
			t.Errorf("%s is read as %q, %v", data, back, err)
		}
	}
	var old Rehearsed
	if err := json.Unmarshal([]byte(`"yes"`), &old); err != nil || old != "yes" {
		t.Errorf("an earlier record: %q, %v", old, err)
	}
}

// A run that was killed while it wrote leaves a temporary file. The next record
// removes it, but not a young one, which another run may be about to rename.
func TestRecordSweeps(t *testing.T) {
	s := store(t)
	u := Update{Instance: "/etc/postfix", Name: "mail", Time: time.Now(), Outcome: "installed"}
	if err := s.Record(u); err != nil {
		t.Fatal(err)
	}
	path, _ := s.Path(u.Instance, u.Name)
	dir := filepath.Dir(path)
	temp := func(age time.Duration) string {
		name := atomicfile.TempName(dir)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Chtimes(name, when, when)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	old, young := temp(time.Hour), temp(0)
	if err := s.Record(u); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", old, err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}
