package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// children are the processes of this program that a daemon started.
func children(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range dirs {
		data, _ := os.ReadFile(f)
		args := strings.Split(string(data), "\x00")
		if slices.Contains(args, "renew") && slices.Contains(args, "--scheduled") {
			out = append(out, strings.Join(args, " "))
		}
	}
	return out
}

func (d *daemonProcess) signal(s syscall.Signal) {
	d.h.t.Helper()
	if err := d.Process.Signal(s); err != nil {
		d.h.t.Fatal(err)
	}
}

// ends sends SIGTERM and wants a clean end, with nothing left running.
func (d *daemonProcess) ends(limit time.Duration) {
	d.h.t.Helper()
	d.signal(syscall.SIGTERM)
	select {
	case <-d.end:
	case <-time.After(limit):
		d.h.t.Fatalf("runs %v after SIGTERM", limit)
	}
	if status := d.ProcessState.ExitCode(); status != 0 {
		d.h.t.Errorf("ended with %d", status)
	}
	if left := children(d.h.t); len(left) > 0 {
		d.h.t.Errorf("left running: %q", left)
	}
}

// The daemon obtains what is configured and missing, serves it, renews it when the
// CA would like it, and serves that; then the next order is weeks away.
func TestDaemonObtainsAndRenews(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	renewals(h.ca, 5*time.Second, 1)
	d := h.daemon("--config", h.config(""))
	d.says("deploy=installed", 30*time.Second)
	first := h.live()
	d.until("another certificate is live and served", 90*time.Second, func() bool {
		return h.live() != first && h.served() == h.live()
	})
	h.serves(h.live())
	d.ends(10 * time.Second)
	if n := h.orders(); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
	if v := h.postcert("status", "--config", h.config(""), "--json").want(0).json(); len(v["orders"].([]any)) != 1 {
		t.Errorf("status: %v", v["orders"])
	}
}

// A renewal that fails keeps the old certificate, tells when it is tried again, and
// a service manager that starts the daemon again and again makes no storm of it.
func TestDaemonFailingRenewal(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	h.postcert("obtain", "--config", conf).want(0)
	old := h.live()
	h.ca.Fault(acmetest.Fault{Kind: acmetest.NewOrder, Status: http.StatusServiceUnavailable, Body: "<html>maintenance</html>"})
	h.postcert("renew", "--force", "--config", conf).want(6).says("ca_unreachable").says("next order").says("held back")
	before := h.orders()
	for range 6 {
		d := h.daemon("--config", conf)
		d.says("msg=started", 10*time.Second)
		time.Sleep(300 * time.Millisecond)
		d.ends(10 * time.Second)
	}
	if n := h.orders() - before; n > 1 {
		t.Errorf("%d orders in 6 starts", n)
	}
	h.serves(old)
	h.postcert("status", "--config", conf).want(0).says("next order").says("last failure")
}

// A daemon that is killed with what it runs, and started again at once, over and
// over: what never came to its end is counted, and waits.
func TestDaemonCrashLoop(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	faster := h.ca.Fault(acmetest.Fault{Kind: acmetest.Directory, Delay: 3 * time.Second})
	conf := h.config("")
	for range 6 {
		d := h.daemon("--config", conf)
		d.says("name=recover", 10*time.Second)
		time.Sleep(400 * time.Millisecond)
		if out, err := exec.Command("pkill", "-KILL", "-P", strconv.Itoa(d.Process.Pid)).CombinedOutput(); err != nil && len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
		d.signal(syscall.SIGKILL)
		<-d.end
	}
	if n := h.ca.Count(acmetest.Directory); n > 1 {
		t.Errorf("the CA was asked %d times in 6 starts", n)
	}
	faster()
	h.postcert("renew", "--config", conf).want(0) // a person need not wait
}

// SIGHUP takes over a configuration that is right; one that is not is refused with
// its mistakes, and the former one stays, also for the processes that do the work.
func TestDaemonReload(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	d := h.daemon("--config", conf)
	d.says("deploy=installed", 30*time.Second)
	h.config("nonsense: true\n")
	d.signal(syscall.SIGHUP)
	d.says("config_unknown_key", 10*time.Second)
	d.says("the former one stays in force", 10*time.Second)
	// The work goes on with what was right.
	h.write(filepath.Join(h.state, "turns", hostName+".json"), []byte("{}"))
	d.signal(syscall.SIGHUP)
	d.until("another turn", 20*time.Second, func() bool { return strings.Count(d.text(), "msg=end") >= 3 })
	if strings.Contains(d.text(), "status=2") {
		t.Error("a process read the configuration that was refused")
	}
	h.config("keep_generations: 4\n")
	d.signal(syscall.SIGHUP)
	d.says("the configuration was read again", 10*time.Second)
	d.ends(10 * time.Second)
}

// A deploy that fails is tried again by itself, without another order, and the
// listeners serve the old certificate until then.
func TestDaemonDeploysAgain(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	clock := filepath.Join(h.dir, "clock")
	h.write(clock, []byte("0s"))
	h.env = []string{childClock + "=" + clock}
	before := h.served()
	if out, err := exec.Command("chattr", "+i", filepath.Join(h.pf.ConfigDir, "main.cf")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mend := func() { _ = exec.Command("chattr", "-i", filepath.Join(h.pf.ConfigDir, "main.cf")).Run() }
	t.Cleanup(mend)
	d := h.daemon("--config", h.config(""))
	d.says("deploy_again=", 30*time.Second)
	h.serves(before)
	h.postcert("status", "--config", h.config("")).want(8)
	mend()
	if h.serves(before); h.orders() != 1 {
		t.Errorf("%d orders", h.orders())
	}
	h.write(clock, []byte("2m"))
	d.signal(syscall.SIGHUP)
	d.says("deploy=installed", 30*time.Second)
	h.serves(h.live())
	d.ends(10 * time.Second)
	if n := h.orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

// SIGTERM at many instants of an order and of the deploy after it: a clean end each
// time, and in the end one certificate is served and no order was lost.
func TestDaemonTerminated(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	for i := range 12 {
		d := h.daemon("--config", conf)
		d.says("msg=started", 10*time.Second)
		time.Sleep(time.Duration(i*i) * 12 * time.Millisecond)
		d.ends(30 * time.Second)
		if err := os.RemoveAll(filepath.Join(h.state, "turns")); err != nil { // as if an hour had passed
			t.Fatal(err)
		}
	}
	// One that ended while the CA asked has failed its validation: then time, or a
	// person, begins another order.
	if said := h.postcert("renew", "--config", conf).want(0); strings.Contains(said.stderr, "could not validate") {
		h.postcert("renew", "--force", "--config", conf).want(0)
	}
	h.serves(h.live())
	if n := h.orders(); n > 3 {
		t.Errorf("%d orders", n)
	}
	if n := h.ca.Count(acmetest.Finalize); n != 1 {
		t.Errorf("%d certificates were issued", n)
	}
}

// The words to the service manager, as it hears them.
func TestDaemonTellsManager(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	m := newManagerSocket(t, h.dir)
	h.env = append(h.env, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=2000000")
	d := h.daemon("--config", h.config(""))
	for _, words := range []string{"READY=1", "STATUS=working on " + hostName, "WATCHDOG=1", "STATUS=next: " + hostName} {
		m.hears(words)
	}
	d.signal(syscall.SIGHUP)
	m.hears("RELOADING=1")
	m.hears("READY=1")
	d.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	<-d.end
}
