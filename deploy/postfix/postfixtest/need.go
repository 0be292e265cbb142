package postfixtest

import (
	"os"
	"path/filepath"
	"testing"
)

// programDirs is where the programs of tests are looked for.
var programDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Need skips the test if one of the programs is not installed, and fails it
// if CI is set: there nothing may be left untested.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if find(name) == "" {
			lacking(t, "%s is not installed", name)
		}
	}
}

// lacking ends a test for something that this machine does not have.
func lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// find is the absolute path of a program, or "".
func find(name string) string {
	for _, dir := range programDirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
