package atomicfile_test

import (
	"testing"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// What was swept stays away when the power fails: it may hold a key.
func TestSweepIsForced(t *testing.T) {
	fsys := crashfs.New()
	if err := atomicfile.MkdirAll(fsys, "/d"); err != nil {
		t.Fatal(err)
	}
	h, err := fsys.Create(atomicfile.TempName("/d"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	fsys.SyncAll()
	if gone, err := atomicfile.Sweep(fsys, "/d", atomicfile.Ever); err != nil || len(gone) != 1 {
		t.Fatalf("swept %q, %v", gone, err)
	}
	states := 0
	for after := range fsys.Crashes(crashfs.Weak) {
		states++
		if names, err := after.ReadDir("/d"); err != nil || len(names) != 0 {
			t.Errorf("after a power cut: %q, %v", names, err)
		}
	}
	if states == 0 {
		t.Error("no state to look at")
	}
}
