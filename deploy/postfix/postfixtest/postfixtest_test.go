package postfixtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("POSTFIXTEST_INNER"); mode != "" {
		inner = mode
	}
	Main(m)
}

// inner is set in the test binaries that TestEnds starts.
var inner string

func TestNamespaces(t *testing.T) {
	requireIsolated(t)
	if pid := os.Getppid(); pid != 1 {
		t.Errorf("parent is %d, want init, 1", pid)
	}
	ifs, err := net.Interfaces()
	if err != nil || len(ifs) == 0 {
		t.Fatalf("interfaces %v, %v", ifs, err)
	}
	for _, i := range ifs {
		if i.Name != "lo" && i.Flags&net.FlagUp != 0 {
			t.Errorf("interface %s is up: this is not a network of our own", i.Name)
		}
	}
	for _, port := range []string{"25", "465", "587"} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Error(err)
				continue
			}
			l.Close()
		}
	}
	if l, err := net.Listen("tcp", SecondAddress+":25"); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
	if l, err := net.Listen("tcp", "192.0.2.1:25"); err == nil {
		l.Close()
		t.Error("192.0.2.1 is ours, want SecondAddress alone")
	}
	left, err := os.ReadDir("/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != ".var-lib" && !strings.HasPrefix(e.Name(), "pf") {
			t.Errorf("/run has the host's %s", e.Name())
		}
	}
}

// TestEnds runs this test binary again, in namespaces below these, and looks
// at what is left when it has ended.
func TestEnds(t *testing.T) {
	requireIsolated(t)
	tests := []struct {
		name, mode string
		kill       bool
		status     int
		says       string
	}{
		{name: "pass", mode: "pass", status: 0, says: "PASS"},
		{name: "fail", mode: "fail", status: 1, says: "FAIL"},
		{name: "panic", mode: "panic", status: 2, says: "panic: on purpose"},
		{name: "status of exit", mode: "exit", status: 7},
		{name: "killed", mode: "hang", kill: true, status: -1},
		{name: "timeout", mode: "hang", status: 2, says: "panic: test timed out"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			mark := fmt.Sprintf("%d", 100000+time.Now().UnixNano()%1e9)
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestInner$", "-test.v", "-test.timeout=3s")
			cmd.Env = []string{"POSTFIXTEST_INNER=" + tt.mode, "POSTFIXTEST_MARK=" + mark, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the inner orphan", func() bool { return len(withArg(mark)) == 1 })
			if tt.kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait() // the status is looked at below
			if got := cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("status %d, want %d\n%s", got, tt.status, &out)
			}
			if n := strings.Count(out.String(), "the inner test runs"); n != 1 {
				t.Errorf("tests ran %d times, want once\n%s", n, &out)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("output lacks %q:\n%s", tt.says, &out)
			}
			waitFor(t, "no process left", func() bool { return len(withArg(mark)) == 0 })
		})
	}
}

// The first act of PID 1 is to mount things: nobody else may do that.
func TestInitIsPID1(t *testing.T) {
	requireIsolated(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = []string{stageEnv + "=" + stageInit}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "without namespaces") {
		t.Errorf("got %v, %s", err, out)
	}
}

// TestInner leaves an orphan in a session of its own behind, and then ends as
// it is told.
func TestInner(t *testing.T) {
	if inner == "" {
		return // has its say when TestEnds runs this binary
	}
	fmt.Println("the inner test runs")
	cmd := exec.Command("/bin/sleep", os.Getenv("POSTFIXTEST_MARK"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // time to be seen from outside
	switch inner {
	case "fail":
		t.Error("on purpose")
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(7)
	case "hang":
		time.Sleep(time.Minute)
	}
}

// withArg finds processes by an argument that nothing else has.
func withArg(arg string) []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		data, _ := os.ReadFile(p)
		if string(data) == "/bin/sleep\x00"+arg+"\x00" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func requireIsolated(t *testing.T) {
	t.Helper()
	if !Isolated() {
		lacking(t, "no namespaces here")
	}
}

func TestInstance(t *testing.T) {
	for _, chroot := range []bool{false, true} {
		t.Run(fmt.Sprintf("chroot=%v", chroot), func(t *testing.T) {
			cert := filepath.Join(t.TempDir(), "mail.pem")
			leaf := WritePair(t, cert)
			i := New(t, Options{Cert: cert, Chroot: chroot, MaxUse: 1})
			begin := time.Now()
			i.Start()
			t.Logf("started in %v", time.Since(begin))
			if i.MasterPID() == 0 {
				t.Fatal("no master")
			}
			for _, l := range []struct {
				addr string
				mode Mode
			}{{SMTP, StartTLS}, {Submission, StartTLS}, {Submissions, Implicit}, {"[::1]:25", StartTLS}} {
				got, err := ServedLeaf(t, l.addr, l.mode)
				if err != nil || got != leaf {
					t.Errorf("%s: %q, %v, want %q", l.addr, got, err, leaf)
				}
			}
			next := WritePair(t, cert)
			i.Reload()
			WaitServed(t, Submissions, Implicit, next)
			pid := i.MasterPID()
			i.Stop()
			if i.MasterPID() != 0 || syscall.Kill(pid, 0) != syscall.ESRCH {
				t.Error("master lives after Stop")
			}
			if w := warnings(i.Log()); len(w) > 0 {
				t.Errorf("log has warnings: %q", w)
			}
		})
	}
}

func warnings(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "warning:") || strings.Contains(line, "fatal:") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func TestStartIsFast(t *testing.T) {
	i := New(t, Options{})
	best := time.Hour
	for range 5 {
		begin := time.Now()
		i.Start()
		best = min(best, time.Since(begin))
		i.Stop()
	}
	t.Logf("best of 5: %v", best)
	if best > 200*time.Millisecond {
		t.Errorf("best of 5 starts took %v, want <= 200ms", best)
	}
}

func TestServedWithoutTLS(t *testing.T) {
	i := New(t, Options{Only25: true})
	i.Start()
	for _, tt := range []struct {
		name, addr string
		mode       Mode
	}{
		{"no STARTTLS offered", SMTP, StartTLS},
		{"not TLS", SMTP, Implicit},
		{"nobody listens", Submissions, Implicit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if leaf, err := ServedLeaf(t, tt.addr, tt.mode); err == nil {
				t.Errorf("served %q, want an error", leaf)
			}
		})
	}
}

// A server that presents its certificate but never proves its key must not
// count as serving it.
func TestServedNeedsAFinishedHandshake(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "mail.pem")
	WritePair(t, cert)
	i := New(t, Options{Cert: cert, Only25: true, Main: []string{"smtpd_tls_exclude_ciphers = aECDSA", "smtpd_tls_protocols = TLSv1.2"}})
	i.Start()
	if leaf, err := ServedLeaf(t, SMTP, StartTLS); err == nil {
		t.Errorf("served %q, want an error: no shared cipher", leaf)
	}
}

func TestServedByUnixSocket(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "mail.pem")
	leaf := WritePair(t, cert)
	i := New(t, Options{Cert: cert, Only25: true, Master: []string{"hidden unix n - n - - smtpd"}})
	i.Start()
	got, err := ServedLeaf(t, i.QueueDir+"/public/hidden", StartTLS)
	if err != nil || got != leaf {
		t.Errorf("got %q, %v, want %q", got, err, leaf)
	}
}

func TestCompare(t *testing.T) {
	i := New(t, Options{})
	before := i.Files()
	if d := Compare(before, i.Files()); len(d) != 0 {
		t.Fatalf("nothing changed, got %q", d)
	}
	path := i.ConfigDir + "/main.cf"
	tests := []struct {
		name, want string
		change     func() error
	}{
		{"content", "main.cf: content differs", func() error { i.AppendMain("a = b"); return nil }},
		{"mode", "main.cf: mode", func() error { return os.Chmod(path, 0o600) }},
		{"owner", "main.cf: owner", func() error { return os.Chown(path, 1, 1) }},
		{"mtime", "main.cf: mtime", func() error { return os.Chtimes(path, time.Now(), time.Now()) }},
		{"attribute", "main.cf: attributes", func() error { return syscall.Setxattr(path, "trusted.x", []byte("y"), 0) }},
		{"new", "new.cf: new", func() error { return os.WriteFile(i.ConfigDir+"/new.cf", nil, 0o600) }},
		{"gone", "master.cf: gone", func() error { return os.Remove(i.ConfigDir + "/master.cf") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := i.Files()
			if err := tt.change(); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(Compare(before, i.Files()), "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

// Each shard has the ports, /run and processes for itself, at the same time as
// the others.
func TestShards(t *testing.T) {
	dir := os.Getenv("POSTFIXTEST_SHARDS_DIR")
	if dir == "" {
		dir = t.TempDir()
		t.Setenv("POSTFIXTEST_SHARDS_DIR", dir)
	}
	// Slots of its own: the shards of other tests would keep one of these waiting.
	t.Setenv("TMPDIR", dir)
	slots := filepath.Join(dir, slotDirectory)
	if err := os.MkdirAll(slots, 0o700); err != nil {
		t.Fatal(err)
	}
	const n = 3
	Shards(t, n, func(t *testing.T, shard int) {
		requireIsolated(t)
		l, err := net.Listen("tcp", SMTP)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, shard), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			others, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(others) == n+1 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d of %d shards hold %s at the same time", len(others)-1, n, SMTP)
			}
		}
	})
	if made, err := os.ReadDir(dir); err != nil || len(made) != n+1 {
		t.Errorf("%d of %d shards ran (%v)", len(made)-1, n, err)
	}
}

// A shard that fails is the test's failure, and why is said at the end.
func TestShardsFailure(t *testing.T) {
	if os.Getenv("POSTFIXTEST_SHARDS_FAIL") != "" {
		Shards(t, 2, func(t *testing.T, shard int) {
			if shard == 0 {
				t.Run("part", func(*testing.T) {})
				t.Error("one of two")
			} else {
				t.Log("the other one")
			}
		})
		return
	}
	t.Setenv("TMPDIR", t.TempDir()) // slots of its own, as above
	cmd := shardCommand(t.Name(), 0)
	cmd.Env = append(cmd.Env[1:], "POSTFIXTEST_SHARDS_FAIL=1")
	cmd.Args = append(cmd.Args, "-test.v")
	out, err := cmd.CombinedOutput()
	passed, failed, found := strings.Cut(string(out), "exit status 1")
	if err == nil || !found || !strings.Contains(passed, "the other one") || !strings.Contains(failed, "one of two") || strings.Contains(failed, "part") {
		t.Errorf("a failing shard: %v\n%s", err, out)
	}
}

// Workers of go test -fuzz are started by a coordinator that is isolated; they
// must run as they are, with the descriptors they were given.
func FuzzWorkers(f *testing.F) {
	f.Fuzz(func(t *testing.T, _ []byte) {
		if !Isolated() {
			lacking(t, "no namespaces here")
		}
	})
}
