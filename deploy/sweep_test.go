package deploy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
)

// forcedFS remembers which directories were forced to disk, and whether gone was
// still there at that moment.
type forcedFS struct {
	atomicfile.FS
	gone   string
	forced []string
}

func (f *forcedFS) SyncDir(path string) error {
	if _, err := os.Lstat(f.gone); errors.Is(err, fs.ErrNotExist) {
		f.forced = append(f.forced, path)
	}
	return f.FS.SyncDir(path)
}

// What only an open transaction needs goes with it, and a power cut does not bring
// it back: it holds keys.
func TestClosedKeysGo(t *testing.T) {
	state, config := t.TempDir(), t.TempDir()
	for _, c := range []struct{ name, path, dir string }{
		{"kept for the undo", filepath.Join(state, "generations", ".open", "a.pem"), filepath.Join(state, "generations")},
		{"beside the certificate", atomicfile.TempName(filepath.Join(config, Directory)), filepath.Join(config, Directory)},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := &forcedFS{FS: atomicfile.OS, gone: c.path}
			if err := errors.Join(os.MkdirAll(filepath.Dir(c.path), 0o700), os.WriteFile(c.path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			e := &Engine{FS: fsys, StateDir: state, Instance: config,
				Store: &generation.Store{FS: fsys, Dir: filepath.Join(state, "generations")}}
			e.sweepClosed()
			if _, err := os.Lstat(c.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", c.path, err)
			}
			if !slices.Contains(fsys.forced, c.dir) {
				t.Errorf("%s was not forced to disk after it: %q", c.dir, fsys.forced)
			}
		})
	}
}
