// Package postfixtest gives tests a real Postfix and an independent witness of
// what it serves. Only tests import it.
//
// Main, called from TestMain, runs the package's tests in network, mount and
// pid namespaces of their own. So every package has ports 25, 465 and 587 to
// itself, even when packages are tested in parallel; mounts are private; /run
// is empty; and when the test binary ends, by its own will, by a panic or by a
// kill, the kernel ends every process that any test started.
//
//	func TestMain(m *testing.M) { postfixtest.Main(m) }
//
// New then builds a private Postfix instance: configuration, queue and data
// directories below /run, a log file of its own, listeners on loopback.
// Start and Stop run and end its master(8). Served asks openssl s_client(1),
// never our own code, which certificates a listener presents.
package postfixtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// stageEnv tells a re-executed test binary which part it plays.
const stageEnv = "POSTFIXTEST_STAGE"

const (
	stageInit = "init" // PID 1 of the new namespaces: prepares them, reaps
	stageTest = "test" // runs the tests
)

// Main runs the tests of m in namespaces of their own and ends the process
// with their status. Where namespaces are not permitted it fails if CI is set;
// otherwise it runs the tests as they are, and New skips.
func Main(m *testing.M) { Isolate(m.Run) }

// Isolate is Main for a program that is no test: run is what it does there, and
// its result the exit status.
func Isolate(run func() int) {
	switch stage := os.Getenv(stageEnv); {
	case stage == stageInit:
		syscall.Exit(asInit())
	case stage == stageTest, fuzzWorker():
		os.Exit(run())
	}
	status, err := enter()
	if err == nil {
		// Not os.Exit: its hooks would write this process's coverage counters,
		// all zero, beside those of the process that ran the tests.
		syscall.Exit(status)
	}
	fmt.Fprintf(os.Stderr, "postfixtest: no namespaces of our own: %v\n", err)
	if os.Getenv("CI") != "" {
		os.Exit(1)
	}
	os.Exit(run())
}

// Isolated tells whether the tests run in namespaces made by Main.
func Isolated() bool { return os.Getenv(stageEnv) == stageTest }

// fuzzWorker tells whether the coordinator of go test -fuzz started us: it
// talks to us through inherited descriptors, and is isolated already.
func fuzzWorker() bool {
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "test.fuzzworker") {
			return true
		}
	}
	return false
}

// enter runs this binary again as PID 1 of new namespaces and waits for it.
func enter() (status int, err error) {
	// The kernel sends Pdeathsig when the thread that started the child ends.
	runtime.LockOSThread()
	p, err := startSelf(stageInit, &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	})
	if err != nil {
		return 0, err
	}
	forwardSignals(p)
	state, err := p.Wait()
	if err != nil {
		return 1, nil
	}
	return exitStatus(state.Sys().(syscall.WaitStatus)), nil
}

// asInit prepares the namespaces, runs the tests as a child and reaps every
// orphan until that child has ended. PID 1's own end ends all the rest.
func asInit() int {
	if os.Getpid() != 1 {
		// The variable was set by hand: what follows must not meet the host.
		fmt.Fprintf(os.Stderr, "postfixtest: %s=%s without namespaces of our own\n", stageEnv, stageInit)
		return 1
	}
	if err := prepare(); err != nil {
		fmt.Fprintf(os.Stderr, "postfixtest: preparing the namespaces: %v\n", err)
		return 1
	}
	runtime.LockOSThread()
	p, err := startSelf(stageTest, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	if err != nil {
		fmt.Fprintf(os.Stderr, "postfixtest: %v\n", err)
		return 1
	}
	forwardSignals(p)
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fmt.Fprintf(os.Stderr, "postfixtest: waiting: %v\n", err)
			return 1
		case pid == p.Pid:
			return exitStatus(ws)
		}
	}
}

func startSelf(stage string, attr *syscall.SysProcAttr) (*os.Process, error) {
	env := []string{stageEnv + "=" + stage}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, stageEnv+"=") {
			env = append(env, e)
		}
	}
	return os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: attr,
	})
}

// forwardSignals passes on what go test and people send: SIGQUIT asks for the
// stacks of a test that hangs. Without a handler PID 1 would not even get it.
func forwardSignals(p *os.Process) {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	go func() {
		for s := range ch {
			// The child may have ended already; then there is nobody to tell.
			_ = syscall.Kill(p.Pid, s.(syscall.Signal))
		}
	}()
}

// exitStatus is a process's end as a shell reports it.
func exitStatus(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// prepare makes the new namespaces usable: nothing mounted here is seen
// outside, /proc shows our processes, /run and /var/lib can be written to
// without a trace, and the loopback interface is up.
func prepare() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := syscall.Mount("postfixtest", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := overlay("/var/lib", "/run/.var-lib"); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	roomyDatagrams()
	return addAddress("lo:1", netip.MustParseAddr(SecondAddress))
}

// roomyDatagrams lets a datagram socket hold as many messages as systemd lets it
// at boot. A new network namespace has the kernel's 10, and with those a reload
// can stop Postfix for good: a postlogd that starts while its socket is full, and
// has a warning of its own to log, waits for itself, and every daemon for it.
// Where the value cannot be set the tests run as they are.
func roomyDatagrams() {
	_ = os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("512\n"), 0)
}

// overlay lets dir be changed with the changes kept in scratch, which lies in
// memory. It keeps /var/lib/postcert, the default state directory, private
// without creating it on the host.
func overlay(dir, scratch string) error {
	upper, work := scratch+"/upper", scratch+"/work"
	for _, d := range []string{scratch, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	data := "lowerdir=" + dir + ",upperdir=" + upper + ",workdir=" + work
	if err := syscall.Mount("overlay", dir, "overlay", 0, data); err == nil {
		return nil
	}
	// No overlay file system, as inside some containers. An empty directory
	// serves as well: nothing a Postfix test needs is in there.
	if err := syscall.Mount("postfixtest", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	return nil
}

// SecondAddress is an address beside the loopback ones, for a second instance
// at the same time, and for clients that are not in mynetworks.
const SecondAddress = "192.0.2.25" // RFC 5737

// loopbackUp sets the interface flag IFF_UP of lo (netdevice(7)).
func loopbackUp() error {
	var req struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "lo")
	req.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if err := ioctl(syscall.SIOCSIFFLAGS, unsafe.Pointer(&req)); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

// addAddress gives an alias interface, such as lo:1, an IPv4 address.
func addAddress(alias string, addr netip.Addr) error {
	var req struct {
		name [syscall.IFNAMSIZ]byte
		addr syscall.RawSockaddrInet4
		_    [8]byte
	}
	copy(req.name[:], alias)
	req.addr = syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: addr.As4()}
	if err := ioctl(syscall.SIOCSIFADDR, unsafe.Pointer(&req)); err != nil {
		return fmt.Errorf("adding %s to %s: %w", addr, alias, err)
	}
	// On lo every address of the network counts as ours: make it one of one.
	req.addr.Addr = [4]byte{255, 255, 255, 255}
	if err := ioctl(syscall.SIOCSIFNETMASK, unsafe.Pointer(&req)); err != nil {
		return fmt.Errorf("setting the netmask of %s: %w", alias, err)
	}
	return nil
}

// ioctl asks for something of a network interface; req is a struct ifreq.
func ioctl(request uintptr, req unsafe.Pointer) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(req)); errno != 0 {
		return errno
	}
	return nil
}
