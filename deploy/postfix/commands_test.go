package postfix

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

func TestCheck(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	first, err := f.i.Check(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.ConfigDir+"/odd", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.ConfigDir+"/odd", 0o666); err != nil {
		t.Fatal(err)
	}
	second, err := f.i.Check(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	var fresh []string
	for _, w := range second {
		if !slices.Contains(first, w) {
			fresh = append(fresh, w)
		}
	}
	want := "warning: group or other writable: " + f.ConfigDir + "/./odd"
	if !slices.Equal(fresh, []string{want}) {
		t.Errorf("new warnings %q, want %q", fresh, want)
	}
}

func TestCheckFails(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	f.ReplaceMaster("postlog   unix-dgram", "#ostlog   unix-dgram")
	_, err := f.i.Check(ctx(t))
	var e *CommandError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "missing 'postlog' service") {
		t.Errorf("got %v, want a *CommandError with Postfix's words", err)
	}
}

// postfix check is content with a key that is not the certificate's; that it
// is must never be taken for a proof.
func TestCheckOfBadPair(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Only25: true, Main: []string{"smtpd_tls_key_file = $config_directory/other.pem"}})
	postfixtest.WritePair(t, f.ConfigDir+"/other.pem")
	warnings, err := f.i.Check(ctx(t))
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "overriding earlier entry") {
		t.Errorf("got %q, %v, want one warning, that of the duplicate, once", warnings, err)
	}
	f.Start()
	if leaf, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); err == nil {
		t.Errorf("served %q, want no TLS", leaf)
	}
}

func TestReload(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	if err := f.i.Reload(ctx(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stopped: got %v, want ErrNotRunning", err)
	}
	if err := f.i.Status(ctx(t)); err == nil {
		t.Error("stopped: status is nil")
	}
	f.Start()
	if err := f.i.Status(ctx(t)); err != nil {
		t.Error(err)
	}
	pid := f.MasterPID()
	next := postfixtest.WritePair(t, f.cert)
	begin := time.Now()
	if err := f.i.Reload(ctx(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("reload took %v", time.Since(begin))
	if f.MasterPID() != pid {
		t.Error("another master")
	}
	postfixtest.WaitServed(t, postfixtest.Submissions, postfixtest.Implicit, next)
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, next)
}

// A listener that master cannot bind ends it at the reload; status 0 from
// postfix reload says nothing about that. It lives on for a second, so one
// look at the pid is not enough: hence several rounds.
func TestReloadEndsMaster(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	master := f.Master()
	for range 6 {
		f.SetMaster(master)
		f.Start()
		f.AppendMaster("192.0.2.1:2525 inet n - n - - smtpd") // not an address of ours
		if err := f.i.Reload(ctx(t)); !errors.Is(err, ErrMasterGone) {
			t.Errorf("got %v, want ErrMasterGone", err)
		}
		if m := f.master(t); m.Running {
			t.Errorf("got %+v, want no master", m)
		}
	}
}

// Reload returns once the master has read the configuration: a new listener is
// there at the first try. With a hot main.cf that takes 2 s. (An smtpd that was
// idle can still answer one client with what it had read: that is Postfix's,
// and the reason why one handshake proves nothing.)
func TestReloadIsComplete(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Only25: true})
	f.Start()
	for n := range 8 {
		hot := n == 7
		if hot {
			f.Postconf("-e", "a=b")
		}
		addr := fmt.Sprintf("127.0.0.1:%d", 2530+n)
		f.AppendMaster(fmt.Sprintf("%d inet n - n - - smtpd", 2530+n))
		if err := f.i.Reload(ctx(t)); err != nil {
			t.Fatal(err)
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			t.Fatalf("hot=%v: the new listener is not there: %v", hot, err)
		}
		c.Close()
	}
}

func TestHangupPending(t *testing.T) {
	for _, tt := range []struct {
		name, status string
		want         bool
	}{
		{"none", "Name:\tmaster\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", false},
		{"thread", "SigPnd:\t0000000000000001\nShdPnd:\t0000000000000000\n", true},
		{"process", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000001\n", true},
		{"another", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000010000\n", false},
		{"blocked only", "SigBlk:\t0000000000000001\n", false},
		{"empty", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hangupPending(tt.status); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A syntax error is found before any signal is sent: master lives.
func TestReloadOfBroken(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	f.Start()
	pid := f.MasterPID()
	f.AppendMain("no equals sign")
	if err := f.i.Reload(ctx(t)); err == nil {
		t.Error("got nil")
	}
	if f.MasterPID() != pid {
		t.Error("master does not live")
	}
}

func TestMaster(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	if m := f.master(t); m.Running || m.PID != 0 {
		t.Errorf("never started: %+v", m)
	}
	f.Start()
	m := f.master(t)
	if !m.Running || !m.Visible() || m.PID != f.MasterPID() || m.Unit != "" || len(m.Cgroups) == 0 {
		t.Errorf("running: %+v", m)
	}
	pidFile := f.QueueDir + "/pid/master.pid"
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	// As seen from outside a container: the lock is there, the number is
	// somebody else's.
	for _, text := range []string{"1\n", "999999\n", "", "x"} {
		write(t, pidFile, text)
		if m := f.master(t); !m.Running || m.Visible() {
			t.Errorf("pid file %q: %+v, want running and not visible", text, m)
		}
		if err := f.i.Reload(ctx(t)); !errors.Is(err, ErrNotVisible) {
			t.Errorf("pid file %q: %v, want ErrNotVisible", text, err)
		}
	}
	write(t, pidFile, string(data))
	if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "master's end", func() bool { return !f.master(t).Running })
	if _, err := os.Stat(pidFile); err != nil {
		t.Errorf("this is to be a stale pid file: %v", err)
	}
}

// write keeps the inode, which is what is locked.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUnitOf(t *testing.T) {
	tests := []struct{ name, cgroup, want string }{
		{"Debian 12", "0::/system.slice/system-postfix.slice/postfix@-.service\n", "postfix@-.service"},
		{"Debian 13", "0::/system.slice/postfix.service\n", "postfix.service"},
		{"version 1", "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/postfix.service\n0::/system.slice/postfix.service\n", "postfix.service"},
		{"hybrid", "1:name=systemd:/system.slice/postfix.service\n0::/\n", "postfix.service"},
		{"delegated", "0::/system.slice/postfix.service/inner\n", "postfix.service"},
		{"login", "0::/user.slice/user-0.slice/session-3.scope\n", ""},
		{"user manager", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", ""},
		{"container", "0::/\n", ""},
		{"docker from outside", "0::/system.slice/docker-0123.scope\n", ""},
		{"no systemd", "4:memory:/a/b\n0::/\n", ""},
		{"garbage", "x\n:\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := unitOf(parseCgroups(tt.cgroup)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
