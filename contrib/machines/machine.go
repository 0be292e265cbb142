package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Layer is what a machine begins with.
type Layer string

const (
	// Raw is Debian with its packages, as installed: postcert is not there.
	Raw Layer = "raw"
	// Ready has our package, a mail server on 25, 587 and 465 with chrooted services
	// that serves [Machine.First], and the CA of the run among its trusted ones.
	Ready Layer = "ready"
)

// Machine is one Debian with its own systemd, network (a loopback interface) and
// file system: an overlay in memory above the tree of its release, which lives
// until the scenario ends, reboots included.
type Machine struct {
	Release *Release
	Name    string
	Root    string // its file system, seen from the host; /run and /tmp are not in it
	First   *Pair  // what a Ready machine serves after it was made

	s       *S
	dir     string // of the overlay and of the console's text
	cgroups []string
	nspawn  *exec.Cmd
	leader  int // its PID 1, as the host counts
	ended   chan struct{}
	status  int // of nspawn, once ended
}

// bootLimit and downLimit bound what takes 2 s on an idle machine: a service that
// does not stop is killed by systemd after 90 s.
const (
	bootLimit = 2 * time.Minute
	downLimit = 3 * time.Minute
)

// toolsDir is where machines see the programs that scenarios run in them.
const toolsDir = "/opt/machines"

// Boot makes a machine of the scenario's release and boots it.
func (s *S) Boot(layer Layer) *Machine { s.Helper(); return s.BootOf(s.Release, layer) }

// BootOf is Boot for another release, which the run must contain: see [S.Other].
func (s *S) BootOf(r *Release, layer Layer) *Machine {
	s.Helper()
	var above []string
	var first *Pair
	if layer == Ready {
		l, err := s.world.readyLayer(r)
		if err != nil {
			s.Fatalf("no machine to begin with: %v", err)
		}
		above, first = []string{l.dir}, l.first
	}
	m := s.newMachine(r, above)
	m.First = first
	m.Boot()
	if layer == Ready {
		m.Serves(first)
	}
	return m
}

// newMachine makes the file system of a machine: lower is put above the tree.
func (s *S) newMachine(r *Release, lower []string) *Machine {
	s.Helper()
	m := &Machine{Release: r, Name: s.world.name(r), s: s}
	m.dir = filepath.Join(s.world.scratch, m.Name)
	m.Root = filepath.Join(m.dir, "root")
	for _, d := range []string{m.dir, m.upper(), filepath.Join(m.dir, "work"), m.Root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			s.Fatalf("making a machine: %v", err)
		}
	}
	layers := strings.Join(append(lower, s.world.forest.path(r)), ":")
	// redirect_dir: a directory of the tree can be renamed, as on a disk.
	options := "redirect_dir=on,lowerdir=" + layers + ",upperdir=" + m.upper() + ",workdir=" + filepath.Join(m.dir, "work")
	if err := syscall.Mount("machine", m.Root, "overlay", 0, options); err != nil {
		s.Fatalf("mounting the file system of %s: %v", m.Name, err)
	}
	s.add(m)
	// mmdebstrap leaves the name of its own host there.
	for path, text := range map[string]string{
		"/etc/hostname": "mail.example.org\n",
		"/etc/hosts":    "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 mail.example.org mail\n",
	} {
		if err := os.WriteFile(m.Root+path, []byte(text), 0o644); err != nil {
			s.Fatalf("making a machine: %v", err)
		}
	}
	return m
}

func (m *Machine) upper() string { return filepath.Join(m.dir, "upper") }

// Boot boots a machine that is off, and waits until its systemd has started
// everything.
func (m *Machine) Boot() {
	m.s.Helper()
	if m.running() {
		m.s.Fatalf("%s is running already", m.Name)
	}
	begin := time.Now()
	m.start()
	m.s.WaitFor("the boot of "+m.Name, bootLimit, func() bool {
		if !m.running() {
			m.s.Fatalf("%s ended while it booted:\n%s", m.Name, m.Console())
		}
		if m.leader == 0 {
			m.leader = m.findLeader()
			return false
		}
		out, _ := m.enter(5*time.Second, nil, "systemctl", "is-system-running")
		state := strings.TrimSpace(out.Stdout)
		return state == "running" || state == "degraded"
	})
	m.s.note("%s: up after %.1f s, %.1f CPU-s", m.Name, time.Since(begin).Seconds(), cpuTime(m.cgroups).Seconds())
}

// start runs systemd-nspawn in cgroups of the machine's own: two systemds that
// share one would end each other's services.
func (m *Machine) start() {
	m.s.Helper()
	console, err := os.OpenFile(m.consoleFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		m.s.Fatalf("%v", err)
	}
	defer console.Close()
	m.cgroups = m.s.world.cgroups(m.Name)
	args := []string{"--quiet", "--directory=" + m.Root, "--private-network", "--register=no", "--keep-unit",
		"--machine=" + m.Name, "--hostname=mail.example.org", "--link-journal=no", "--console=pipe",
		"--bind-ro=" + m.s.world.tools + ":" + toolsDir, "--boot"}
	m.nspawn = within(m.cgroups, "systemd-nspawn", args...)
	m.nspawn.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	// Below version 1 a systemd in a machine is not told when a unit's last process
	// ends, and going down then takes 90 s.
	m.nspawn.Env = append(m.nspawn.Env, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	if err := m.nspawn.Start(); err != nil {
		m.s.Fatalf("starting %s: %v", m.Name, err)
	}
	m.leader, m.ended = 0, make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // the status says it
		m.status = cmd.ProcessState.ExitCode()
		close(ended)
	}(m.nspawn, m.ended)
}

// findLeader is PID 1 of the machine: the child of nspawn in a process table of
// its own that has become systemd. 0 if it is not there yet.
func (m *Machine) findLeader() int {
	pid := strconv.Itoa(m.nspawn.Process.Pid)
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return 0
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return 0
	}
	for _, child := range strings.Fields(string(children)) {
		comm, _ := os.ReadFile("/proc/" + child + "/comm")
		table, err := os.Readlink("/proc/" + child + "/ns/pid")
		if err == nil && table != ours && strings.TrimSpace(string(comm)) == "systemd" {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	return 0
}

func (m *Machine) running() bool {
	if m.ended == nil {
		return false
	}
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// PowerOff shuts the machine down as an operator does.
func (m *Machine) PowerOff() { m.s.Helper(); m.down("poweroff") }

// Reboot shuts the machine down as an operator does, and boots it again.
func (m *Machine) Reboot() { m.s.Helper(); m.down("reboot"); m.Boot() }

// Kill ends every process of the machine at once, as a power cut does. What was
// written stays, synchronised to a disk or not. Boot boots it again.
func (m *Machine) Kill() {
	m.s.Helper()
	m.s.note("%s: killed", m.Name)
	if err := m.kill(); err != nil {
		m.s.Fatalf("%v", err)
	}
}

func (m *Machine) down(how string) {
	m.s.Helper()
	m.s.note("%s: %s", m.Name, how)
	begin := time.Now()
	// Its status does not matter: the machine may go down before it is told.
	_, _ = m.enter(time.Minute, nil, "systemctl", how)
	select {
	case <-m.ended:
	case <-time.After(downLimit):
		m.s.Fatalf("%s does not go down within %s:\n%s", m.Name, downLimit, m.Console())
	case <-m.s.ctx.Done():
		m.s.Fatalf("%s does not go down: %v", m.Name, m.s.ctx.Err())
	}
	m.s.note("%s: down after %.1f s", m.Name, time.Since(begin).Seconds())
}

// kill ends the machine if it runs.
func (m *Machine) kill() error {
	if !m.running() {
		return nil
	}
	target := m.leader
	if target == 0 {
		target = m.nspawn.Process.Pid
	}
	if err := syscall.Kill(target, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending %s: %w", m.Name, err)
	}
	select {
	case <-m.ended:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s does not end", m.Name)
	}
}

// remove ends the machine and takes its file system away.
func (m *Machine) remove() error {
	err := m.kill()
	if e := syscall.Unmount(m.Root, syscall.MNT_DETACH); e != nil {
		err = errors.Join(err, fmt.Errorf("unmounting %s: %w", m.Root, e))
	}
	return errors.Join(err, os.RemoveAll(m.dir), removeCgroups(m.cgroups))
}

func (m *Machine) consoleFile() string { return filepath.Join(m.dir, "console") }

// Console is the end of what the machine's console showed.
func (m *Machine) Console() string {
	data, err := os.ReadFile(m.consoleFile())
	if err != nil {
		return err.Error()
	}
	return tail(string(data), 40)
}

// tail is the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
