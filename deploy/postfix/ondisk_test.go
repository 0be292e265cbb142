package postfix

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// replaceEnv makes the test below the one who is watched.
const replaceEnv = "REPLACE_TEST_PATH"

// Replace returns when the new file is on disk: its content before it takes the
// name, and the name before it returns. strace(1) is the witness.
func TestReplaceIsOnDisk(t *testing.T) {
	if path := os.Getenv(replaceEnv); path != "" {
		if err := (Instance{}).Replace(ctx(t), path, []byte("old = 1\n"), []byte("new = 1\n"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	postfixtest.Need(t, "strace")
	dir := t.TempDir()
	path, trace := dir+"/main.cf", t.TempDir()+"/trace"
	if err := os.WriteFile(path, []byte("old = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,rename,renameat,renameat2",
		"/proc/self/exe", "-test.run=^TestReplaceIsOnDisk$")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-2] = exe
	cmd.Env = append(os.Environ(), replaceEnv+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	q := regexp.QuoteMeta
	// The beginning of each call: strace breaks a line when something else happens
	// meanwhile, and a call that failed has failed the Replace.
	order := regexp.MustCompile(`(?s)fsync\(\d+<` + q(path) + `\.tmp>.*rename[^\n]*"` + q(path) + `\.tmp"[^\n]*"` + q(path) + `".*fsync\(\d+<` + q(dir) + `>`)
	if !order.Match(data) {
		t.Errorf("not the order content, name, directory:\n%s", strings.TrimSpace(string(data)))
	}
}
