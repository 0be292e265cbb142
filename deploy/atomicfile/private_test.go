package atomicfile

import (
	"errors"
	"os"
	"testing"
)

func TestPrivate(t *testing.T) {
	needRoot(t)
	base := tmpfs(t, "mode=0755")
	made := func(path string, mode os.FileMode, uid int) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(base+path, 0o700), os.Chmod(base+path, mode), os.Chown(base+path, uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	made("/ours", 0o755, 0)
	made("/ours/state", 0o700, 0)
	made("/sticky", 0o777|os.ModeSticky, 0)
	made("/sticky/state", 0o700, 0)
	made("/open/state", 0o700, 0)
	made("/open", 0o777, 0)
	made("/group", 0o775, 0)
	made("/theirs/state", 0o700, 0)
	made("/theirs", 0o755, 65534)
	made("/sticky/theirs", 0o700, 65534)
	for link, target := range map[string]string{"/link": "ours/state", "/away": "open/../ours", "/loop": "loop", "/out": "/"} {
		if err := os.Symlink(target, base+link); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path string
		want Reason
	}{
		{"/ours", ""}, {"/ours/state", ""}, {"/ours/none/none", ""}, {"/link", ""}, {"/sticky/state", ""}, {"/sticky/none", ""}, {"/out", ""},
		{"/sticky", Foreign}, {"/open", Foreign}, {"/open/state", Foreign}, {"/open/none", Foreign}, {"/group", Foreign},
		{"/theirs", Foreign}, {"/theirs/state", Foreign}, {"/sticky/theirs", Foreign}, {"/away/state", Foreign},
	} {
		if err := Private(base + c.path); reason(err) != c.want || err != nil && c.want == "" {
			t.Errorf("%s: got %v, want %q", c.path, err, c.want)
		}
	}
	if err := Private(base + "/loop"); err == nil || reason(err) != "" {
		t.Errorf("/loop: got %v, want an error", err)
	}
}
