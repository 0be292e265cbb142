package journal

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"postcert/deploy/atomicfile/crashfs"
)

// The record of a change is on disk before its journal goes: a run that is
// killed in between leaves an open journal, and none that ever was is forgotten.
func TestClosedIsRecorded(t *testing.T) {
	f, j, tx := begun(t, nil)
	gone := false
	f.Before = func(op crashfs.Op) error {
		if op.Name != "remove" || op.Path != j.openPath() {
			return nil
		}
		gone = true
		for c := range f.Crashes(crashfs.Weak) {
			names, err := c.ReadDir(j.History)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if !strings.Contains(strings.Join(names, " "), tx.ID()+".json") {
				t.Error("the journal is closed, and after a power cut there is no record of it")
			}
		}
		return nil
	}
	if err := tx.Close("deployed", nil); err != nil {
		t.Fatal(err)
	}
	if !gone {
		t.Error("the journal was not closed")
	}
}
