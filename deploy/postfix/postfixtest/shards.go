package postfixtest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shardEnv tells a child of Shards which of the shards it is.
const shardEnv = "POSTFIXTEST_SHARD"

// Shards runs f n times side by side, for shard 0 to n-1. Each runs in a child
// process of this test binary, in namespaces of its own as Main makes them: it
// has ports 25, 465 and 587, /run and /var/lib for itself. Most of what a test
// of a mail server does is to wait, so four shards take little more than a
// quarter of the time. Where many tests do this at once they take turns.
//
// It is called from a top-level test, as the last thing that test does: the child
// runs the test from its beginning, up to this call. A child's output is
// logged, and its failure is the test's. A child ends with its parent.
func Shards(t *testing.T, n int, f func(t *testing.T, shard int)) {
	t.Helper()
	if name, found := os.LookupEnv(shardEnv); found {
		os.Unsetenv(shardEnv) // f may start this binary in another part
		shard, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		f(t, shard)
		return
	}
	if strings.Contains(t.Name(), "/") {
		t.Fatal("Shards is for top-level tests")
	}
	type result struct {
		out []byte
		err error
	}
	results := make([]result, n)
	var all sync.WaitGroup
	for shard := range n {
		all.Go(func() {
			defer slot(t)()
			out, err := shardCommand(t.Name(), shard).CombinedOutput()
			results[shard] = result{out, err}
		})
	}
	all.Wait()
	// Failures come last, without the parts that passed: who reads only the end
	// of a long output sees why.
	for shard, r := range results {
		if r.err == nil && testing.Verbose() {
			t.Logf("shard %d of %d:\n%s", shard, n, r.out)
		}
	}
	for shard, r := range results {
		if r.err != nil {
			t.Errorf("shard %d of %d: %v\n%s", shard, n, r.err, withoutPassed(r.out))
		}
	}
}

// passedLine is a line in which go test -v says that a part begins or passed.
var passedLine = regexp.MustCompile(`(?m)^ *(=== (RUN|PAUSE|CONT|NAME) |--- PASS: ).*\n`)

// withoutPassed is the output of a test without those lines.
func withoutPassed(out []byte) []byte { return passedLine.ReplaceAll(out, nil) }

// slotsPerCore bounds the shards that run at the same time on a machine, of all
// test binaries together. With more, handshakes wait so long for a processor
// that a proof's deadline passes.
const slotsPerCore = 5

const slotDirectory = "postfixtest-slots"

// slot waits until one more shard may run, and returns what ends its turn. A
// slot is a locked file: the kernel frees those of a test that was killed.
func slot(t *testing.T) (release func()) {
	t.Helper()
	dir := filepath.Join(os.TempDir(), slotDirectory)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
		return func() {}
	}
	for ; ; time.Sleep(50 * time.Millisecond) {
		for n := range slotsPerCore * runtime.NumCPU() {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(n)), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Error(err)
				return func() {}
			}
			if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				return func() { f.Close() }
			}
			f.Close()
		}
	}
}

// shardCommand is this binary, told to run one test for one shard.
func shardCommand(test string, shard int) *exec.Cmd {
	args := []string{"-test.run=^" + test + "$", "-test.v=" + strconv.FormatBool(testing.Verbose())}
	for _, name := range []string{"test.timeout", "test.short", "test.failfast"} {
		if f := flag.Lookup(name); f != nil {
			args = append(args, fmt.Sprintf("-%s=%s", name, f.Value))
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{shardEnv + "=" + strconv.Itoa(shard)}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, stageEnv+"=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	return cmd
}
