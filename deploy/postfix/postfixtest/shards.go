package postfixtest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// shardEnv tells a child of Shards which of the shards it is.
const shardEnv = "POSTFIXTEST_SHARD"

// Shards runs f n times side by side, for shard 0 to n-1. Each runs in a child
// process of this test binary, in namespaces of its own as Main makes them: it
// has ports 25, 465 and 587, /run and /var/lib for itself. Most of what a test
// of a mail server does is to wait, so four shards take little more than a
// quarter of the time.
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
	var all sync.WaitGroup
	for shard := range n {
		all.Go(func() {
			out, err := shardCommand(t.Name(), shard).CombinedOutput()
			if err != nil {
				t.Errorf("shard %d of %d: %v\n%s", shard, n, err, out)
			} else if testing.Verbose() {
				t.Logf("shard %d of %d:\n%s", shard, n, out)
			}
		})
	}
	all.Wait()
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
