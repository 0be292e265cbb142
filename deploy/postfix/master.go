package postfix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Master is the instance's master(8) process, as it was when it was asked for.
// It is a plain value that can be written down: Restart of a later run, after
// a power cut too, wants to know where the master that is gone had run.
type Master struct {
	// Running: a process holds the lock on pid/master.pid, as master -t asks.
	Running bool `json:"running"`
	// PID is its process id, 0 if it does not run or is not visible from here:
	// then it runs in another pid namespace, such as a container.
	PID int `json:"pid"`
	// Unit is the systemd service that the process belongs to, such as
	// "postfix@-.service"; "" if it belongs to none, as when an administrator
	// or a container's entry point started it.
	Unit string `json:"unit,omitempty"`
	// Cgroups are its control groups: hierarchy as in /proc/PID/cgroup ("" is
	// version 2) to path.
	Cgroups map[string]string `json:"cgroups,omitempty"`
}

// Visible tells whether the running master can be seen, signalled and judged
// from here. A master that is not visible must never be taken for stopped.
func (m Master) Visible() bool { return m.PID != 0 }

// Master looks for the running master: pid file, lock, and a process of that
// id which works in this instance's queue directory. It starts no process but
// postconf, if the queue directory is not known, and leaves nothing behind.
func (i Instance) Master(ctx context.Context) (Master, error) {
	queue, err := i.queueDirectory(ctx)
	if err != nil {
		return Master{}, err
	}
	return masterIn(queue)
}

// A master that ends gives its working directory up before its lock, and one
// that starts takes the lock before it writes its number. For that long it holds
// the lock and cannot be found; it is no master of another pid namespace yet.
const (
	seekMaster     = 500 * time.Millisecond
	seekMasterWait = 10 * time.Millisecond
)

func masterIn(queue string) (Master, error) {
	for end := time.Now().Add(seekMaster); ; time.Sleep(seekMasterWait) {
		m, err := lookForMaster(queue)
		if err != nil || !m.Running || m.Visible() || time.Now().After(end) {
			return m, err
		}
	}
}

func lookForMaster(queue string) (Master, error) {
	path := filepath.Join(queue, "pid", "master.pid")
	data, _, err := readRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Master{}, nil
	}
	if err != nil {
		return Master{}, fmt.Errorf("reading the pid of master: %w", err)
	}
	locked, err := isLocked(path)
	if err != nil || !locked {
		return Master{}, err
	}
	m := Master{Running: true}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || !isMaster(pid, queue) {
		// Locked, so it runs: the number is one of another pid namespace, or
		// this is a moment of its start or end.
		return m, nil
	}
	m.PID = pid
	m.Cgroups = cgroupsOf(pid)
	m.Unit = unitOf(m.Cgroups)
	return m, nil
}

// isLocked tests a lock as master -t does (open_lock.c): by trying to take it.
// A shared lock is enough to find out, and does not keep a second one who asks
// at the same moment from the right answer.
func isLocked(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // gives the lock up
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("testing the lock on %s: %w", path, err)
	}
	return false, nil
}

// isMaster tells whether pid is a master that works in queue: master(8) makes
// the queue directory its working directory. The pid file of a container's
// Postfix can hold a number that is another process here.
//
// The working directory of a process is shown to those who may trace it
// (proc_pid_cwd(5)). From a service with fewer capabilities than the master it is
// not, and then the kernel's list of locks tells whether it is the one.
func isMaster(pid int, queue string) bool {
	if pid <= 0 {
		return false
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	comm, err := os.ReadFile(proc + "/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "master" {
		return false
	}
	cwd, err1 := os.Stat(proc + "/cwd")
	if errors.Is(err1, fs.ErrPermission) {
		return holdsLock(pid, filepath.Join(queue, "pid", "master.pid"))
	}
	dir, err2 := os.Stat(queue)
	return err1 == nil && err2 == nil && os.SameFile(cwd, dir)
}

// holdsLock tells whether process pid holds a flock(2) on the file at path, as
// proc_locks(5) lists them: "ID: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START
// END". The device is left out: btrfs and overlays show another one than stat(2).
func holdsLock(pid int, path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	data, err := os.ReadFile("/proc/locks")
	return err == nil && lockListed(string(data), pid, st.Ino)
}

func lockListed(locks string, pid int, inode uint64) bool {
	for line := range strings.Lines(locks) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" || f[4] != strconv.Itoa(pid) {
			continue
		}
		if file := strings.Split(f[5], ":"); file[len(file)-1] == strconv.FormatUint(inode, 10) {
			return true
		}
	}
	return false
}

// cgroupsOf are the control groups of a process, nil if they cannot be read.
func cgroupsOf(pid int) map[string]string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	return parseCgroups(string(data))
}

// parseCgroups reads /proc/PID/cgroup (cgroups(7)): "ID:CONTROLLERS:PATH" per
// line, "0::PATH" for version 2.
func parseCgroups(s string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(s) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 {
			out[f[1]] = strings.TrimSuffix(f[2], " (deleted)")
		}
	}
	return out
}

// unitOf is the system service that owns the process, "" if none does. systemd
// keeps its tree in version 2, or in the version 1 hierarchy name=systemd.
func unitOf(cgroups map[string]string) string {
	for _, hierarchy := range []string{"name=systemd", ""} {
		for part := range strings.SplitSeq(cgroups[hierarchy], "/") {
			// user@UID.service is a manager of its own: what is below it is no
			// unit of the system.
			if strings.HasPrefix(part, "user@") {
				break
			}
			if strings.HasSuffix(part, ".service") {
				return strings.TrimPrefix(part, "_") // escaped, see systemd's CONTROL_GROUP_INTERFACE
			}
		}
	}
	return ""
}
