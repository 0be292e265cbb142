package atomicfile

import (
	"os"
	"testing"
)

// What a killed run left beside a file stands in nobody's way: there is no name
// that two runs would share.
func TestWriteBesideLeftover(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		if err := os.WriteFile(TempName(dir), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Write(OS, dir+"/mail.pem", []byte("key"), mine(0o600)); err != nil {
			t.Fatalf("beside what another run left: %v", err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 21 {
		t.Errorf("%d files, %v; want the written one and 20 that were left", len(entries), err)
	}
}
