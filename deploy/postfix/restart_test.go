package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// oneshot is the process of TestRestartOutlivesUs: it restarts the instance in
// directory args[0], as a hook does that found its master gone. It begins when
// its standard input says where it is, and then waits to be killed.
func oneshot(args []string) int {
	var old Master
	if err := json.NewDecoder(os.Stdin).Decode(&old); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := (Instance{ConfigDirectory: args[0]}).Restart(context.Background(), old); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("restarted")
	select {}
}

// A master that we restart must live on when all that is around us is killed:
// what systemd does at the end of a oneshot unit, what a shell does to a job.
func TestRestartOutlivesUs(t *testing.T) {
	mounts, err := cgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	type scope struct{ name, hierarchy string }
	scopes := []scope{{name: "process group and session", hierarchy: "none"}}
	for hierarchy := range ending {
		if _, ok := mounts[hierarchy]; ok {
			scopes = append(scopes, scope{"control group " + hierarchy, hierarchy})
		}
	}
	for _, sc := range scopes {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, old one known=%v", sc.name, known), func(t *testing.T) {
				f := newFixture(t, postfixtest.Options{})
				f.Start()
				old := f.master(t)
				f.Stop()
				if !known {
					old = Master{}
				}
				var procs string
				if mount, ok := mounts[sc.hierarchy]; ok {
					procs = newCgroup(t, mount.dir(cgroupsOf(os.Getpid())[sc.hierarchy]))
				}
				restartAndKill(t, f, old, procs)
				time.Sleep(2 * time.Second)
				if m := f.master(t); !m.Running {
					t.Fatal("the new master ended with us")
				}
				if got, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); got != f.leaf {
					t.Errorf("port 25 serves %q (%v), want %q", got, err, f.leaf)
				}
			})
		}
	}
}

// newCgroup makes a control group below dir and returns its cgroup.procs.
func newCgroup(t *testing.T, dir string) string {
	t.Helper()
	group, err := os.MkdirTemp(dir, "postcert-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		procs := filepath.Join(group, "cgroup.procs")
		for range 200 {
			if err := os.Remove(group); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			killAll(procs)
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s stays", group)
	})
	return filepath.Join(group, "cgroup.procs")
}

// restartAndKill runs oneshot in the control group and then kills its group,
// its session and whatever is in its control group.
func restartAndKill(t *testing.T, f *fixture, old Master, procs string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "POSTFIX_TEST_ONESHOT="+f.ConfigDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer func() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	}()
	if procs != "" {
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.NewEncoder(stdin).Encode(old); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 1000)
	n, err := stdout.Read(said)
	if err != nil || strings.TrimSpace(string(said[:n])) != "restarted" {
		t.Fatalf("oneshot said %q, %v", said[:n], err)
	}
	if procs != "" {
		killAll(procs)
	}
}

func killAll(procs string) {
	data, err := os.ReadFile(procs)
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func TestRestartOfRunning(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	f.Start()
	pid := f.MasterPID()
	if err := f.i.Restart(ctx(t), f.master(t)); err != nil {
		t.Fatal(err)
	}
	if f.MasterPID() != pid {
		t.Error("a running master was restarted")
	}
}

// A systemctl of the test stands in for a manager that runs this host. What
// the real ones do is a matter of machines, not of this package.
func TestRestartByUnit(t *testing.T) {
	tests := []struct {
		name, unit, execStart string
		status                int
		want                  string // calls to systemctl
	}{
		{"Debian 12", "postfix@-.service", "{ path=/usr/sbin/postmulti ; argv[]=/usr/sbin/postmulti -i - -p start ; }", 0,
			"show --property=ExecStart -- postfix@-.service; restart -- postfix@-.service"},
		{"Debian 13", "postfix.service", "{ path=/usr/sbin/postfix ; argv[]=/usr/sbin/postfix start ; }", 0,
			"show --property=ExecStart -- postfix.service; restart -- postfix.service"},
		{"somebody else's unit", "certbot.service", "{ path=/usr/bin/certbot ; argv[]=/usr/bin/certbot -q renew ; }", 0,
			"show --property=ExecStart -- certbot.service"},
		{"restart fails", "postfix.service", "{ path=/usr/sbin/postfix ; }", 1,
			"show --property=ExecStart -- postfix.service; restart -- postfix.service"},
		{"no unit", "", "", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{Only25: true})
			calls := fakeSystemctl(t, f, tt.execStart, tt.status)
			if err := f.i.Restart(ctx(t), Master{Unit: tt.unit}); err != nil {
				t.Error(err)
			}
			if !f.master(t).Running {
				t.Error("no master runs")
			}
			if got := calls(); got != tt.want {
				t.Errorf("systemctl was called %q, want %q", got, tt.want)
			}
		})
	}
}

// fakeSystemctl answers show with execStart and restart by starting f.
func fakeSystemctl(t *testing.T, f *fixture, execStart string, status int) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
echo "$*" >>%[1]s/calls
case $1 in
show) echo 'ExecStart=%[2]s';;
restart) [ %[3]d = 0 ] || exit %[3]d; exec /usr/sbin/postfix -c %[4]s start;;
esac
`, dir, execStart, status, f.ConfigDir)
	if err := errors.Join(os.WriteFile(dir+"/systemctl", []byte(script), 0o755), os.MkdirAll("/run/systemd/system", 0o755)); err != nil {
		t.Fatal(err)
	}
	set(t, &systemctlPaths, []string{dir + "/missing", dir + "/systemctl"})
	t.Cleanup(func() {
		if err := os.RemoveAll("/run/systemd"); err != nil {
			t.Error(err)
		}
	})
	return func() string {
		data, err := os.ReadFile(dir + "/calls")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", "; ")
	}
}

func TestCgroupMounts(t *testing.T) {
	got := parseCgroupMounts(`24 1 0:22 / /sys rw,relatime - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 /docker/x /sys/fs/cgroup/unified rw - cgroup2 cgroup rw,nsdelegate
broken line
`)
	for _, tt := range []struct{ hierarchy, path, want string }{
		{"name=systemd", "/system.slice/a.service", "/sys/fs/cgroup/systemd/system.slice/a.service"},
		{"cpu,cpuacct", "/", "/sys/fs/cgroup/cpu,cpuacct"},
		{"", "/docker/x/inner", "/sys/fs/cgroup/unified/inner"},
		{"", "/docker/x", "/sys/fs/cgroup/unified"},
	} {
		if dir := got[tt.hierarchy].dir(tt.path); dir != tt.want {
			t.Errorf("%q %s is %s, want %s", tt.hierarchy, tt.path, dir, tt.want)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %+v, want 3", got)
	}
}
