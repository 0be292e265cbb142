package postfix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// Of a table that cannot be built the index stays as it was; what was wrong with it
// before, or with main.cf, is no reason.
func TestBuildTable(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	f.AppendMain("myhostname = again.example.test")
	dir := t.TempDir()
	table, pair := filepath.Join(dir, "sni"), filepath.Join(dir, "pair.pem")
	postfixtest.WritePair(t, pair, "a.example.test")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index := func() string {
		data, _ := os.ReadFile(table + ".db")
		return string(data)
	}
	write("# names\na.example.test " + pair + "\na.example.test " + pair + "\nlonely\n")
	if err := f.i.BuildTable(ctx(t), "hash:"+table); err != nil {
		t.Fatal(err)
	}
	built := index()
	if !strings.Contains(built, "a.example.test") {
		t.Fatalf("an index of %d bytes without the name", len(built))
	}
	if fi, err := os.Stat(table + ".db"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the index: %v, %v", fi.Mode(), err)
	}
	for _, tt := range []struct{ name, table, text, id, says string }{
		{"a file that is gone", "hash:" + table, "a.example.test /nowhere/pair.pem\n", "table_unbuildable", "/nowhere/pair.pem: No such file"},
		{"no such type", "nosuch:" + table, "a.example.test " + pair + "\n", "table_unbuildable", "nosuch"},
		{"no source", "hash:" + dir + "/absent", "", "table_unbuildable", "no such file"},
		{"no path", "hash:sni", "", "", "no type and absolute path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(tt.text)
			err := f.i.BuildTable(ctx(t), tt.table)
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), candidatePrefix) {
				t.Errorf("%v, want %q in it, and no path of the copy", err, tt.says)
			}
			if tt.id != "" {
				wantProblem(t, err, tt.id)
			}
			if index() != built {
				t.Error("the index was changed")
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(f.i.runtimeDirectory(), candidatePrefix+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
