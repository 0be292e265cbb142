package rehearsal

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/probe"
)

// A rehearsal in a process of its own, which can be killed or traced, is the
// test binary with this variable: the path of a JSON file with a job.
const jobEnv = "REHEARSAL_TEST_JOB"

type job struct {
	RuntimeDir string
	Life       time.Duration
	Candidate  Candidate
	Hang       bool   // open a session with each service, say so, and wait for ever
	Dial       string // only connect to this socket
}

func TestMain(m *testing.M) {
	if path := os.Getenv(jobEnv); path != "" {
		if err := work(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("done")
		os.Exit(0)
	}
	postfixtest.Main(m)
}

func work(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	if j.Dial != "" {
		c, err := net.Dial("unix", j.Dial)
		if err == nil {
			c.Close()
		}
		return err
	}
	s := Stage{RuntimeDir: j.RuntimeDir, Life: j.Life}
	if j.Hang {
		s.Handshake = func(_ context.Context, e probe.Endpoint) probe.Result {
			c, err := net.Dial("unix", e.Address)
			if err == nil && e.Mode != probe.Implicit {
				_, err = bufio.NewReader(c).ReadString('\n')
			}
			fmt.Println("open", e.Address, err)
			select {}
		}
	}
	_, err = s.Rehearse(context.Background(), j.Candidate)
	return err
}

// start starts a job, below a program and its arguments if there are any, as
// the user uid.
func startJob(t *testing.T, j job, uid uint32, below ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "job")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "job.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if uid != 0 { // that user cannot come to the test binary, nor to the job
		data, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		self = filepath.Join(dir, "self")
		if err := os.WriteFile(self, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := append(below, self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), jobEnv+"="+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if it still runs
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// hang starts a rehearsal that hangs with n sessions open, and returns the
// sockets.
func hang(t *testing.T, j job, n int) (*exec.Cmd, []string) {
	t.Helper()
	j.Hang = true
	cmd, out := startJob(t, j, 0)
	var sockets []string
	for len(sockets) < n && out.Scan() {
		f := strings.Fields(out.Text())
		if len(f) != 3 || f[0] != "open" || f[2] != "<nil>" {
			t.Fatalf("the rehearsal says %q", out.Text())
		}
		sockets = append(sockets, f[1])
	}
	if len(sockets) < n {
		t.Fatalf("the rehearsal opened %d sessions, want %d", len(sockets), n)
	}
	return cmd, sockets
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}
