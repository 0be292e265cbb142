package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// reloadWait bounds the wait for the master to read its configuration:
	// 2 s if main.cf is hot, and more if it resolves host names in it.
	reloadWait = 15 * time.Second
	// fatalPause is how long a Postfix program lives on after "fatal:":
	// msg_fatal sleeps for 1 s before it exits.
	fatalPause = 1200 * time.Millisecond
)

// awaitReload waits until the master pid, which was sent a SIGHUP, has dealt
// with it, or is gone. Postfix reports neither: the line "reload --" in the
// log comes before it reads anything, and a master that found an error sleeps
// for a second before it ends, alive to all who look at its pid. What tells
// them apart is where in the kernel it waits: for events (epoll_wait(2)) or
// for that second to pass.
//
// Where the kernel does not say (proc_pid_wchan(5) needs the right to trace),
// the master has survived if it lives on for longer than that second.
func awaitReload(ctx context.Context, queue string, pid int) error {
	begin := time.Now()
	place, there := "", begin // where it waits, and since when
	for {
		m, err := masterIn(queue)
		if err != nil {
			return err
		}
		// One that is just ending holds its lock, and is no master any more.
		if !m.Running || m.PID != pid && m.PID != 0 {
			return fmt.Errorf("%w: process %d", ErrMasterGone, pid)
		}
		where := waitsIn(pid)
		if where != place {
			place, there = where, time.Now()
		}
		switch busy := where == "running" || strings.Contains(where, "nanosleep"); {
		case strings.Contains(where, "ep_poll"), strings.Contains(where, "epoll"):
			return nil // the function's name depends on how the kernel was compiled
		case time.Since(begin) > reloadWait && deaf(pid):
			return fmt.Errorf("%w within %s (process %d)", ErrDeaf, reloadWait, pid)
		case !busy && time.Since(there) > fatalPause, time.Since(begin) > reloadWait:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for master to read its configuration: %w", ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ErrDeaf says that the master lives and has not even taken notice of a SIGHUP:
// it is stopped, or waits for a disk or a network file system.
var ErrDeaf = errors.New("postfix: master does not take notice of the reload; a stopped process goes on with kill -CONT")

// deaf tells that a SIGHUP still waits for the process.
func deaf(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && hangupPending(string(status))
}

// waitsIn is the kernel function in which a process waits; "" if the kernel
// does not tell, "running" if it does not wait or has a SIGHUP to deal with.
func waitsIn(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || hangupPending(string(status)) {
		return "running"
	}
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	switch name := strings.TrimSpace(string(where)); {
	case err != nil:
		return ""
	case name != "0":
		return name
	case strings.Contains(string(status), "\nState:\tS"):
		return "" // it sleeps, so there is a place
	}
	return "running"
}

// hangupPending reads proc_pid_status(5): SigPnd and ShdPnd are sets of
// signals in hexadecimal, bit 0 is signal 1, SIGHUP.
func hangupPending(status string) bool {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && set&1 != 0 {
			return true
		}
	}
	return false
}

const (
	// idleWait bounds the wait for idle processes to end.
	idleWait = time.Second
	// blindWait is that wait where the kernel does not say who is idle.
	blindWait = 50 * time.Millisecond
)

// serversOf are the smtpd(8) and tlsmgr(8) processes of a master.
func serversOf(master int) []int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
	if err != nil {
		return nil // a kernel without the list: nobody is waited for
	}
	var out []int
	for _, word := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(word); err == nil && isServer(pid, master) {
			out = append(out, pid)
		}
	}
	return out
}

// serverPattern is the beginning of proc_pid_stat(5): name, state, parent.
var serverPattern = regexp.MustCompile(`^\d+ \((?:smtpd|tlsmgr)\) . (\d+) `)

// isServer tells whether pid is, still, such a process of this master. It is
// until the master has noticed its end.
func isServer(pid, master int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	m := serverPattern.FindSubmatch(stat)
	return err == nil && m != nil && string(m[1]) == strconv.Itoa(master)
}

// awaitIdle waits until all of these processes, which were there before a
// reload, have ended or have a client. Those without one end within
// milliseconds; until the master has noticed, it counts on them and starts no
// other, and clients wait. Idle are the one that waits for events, and those
// that wait in turn for a lock to be that one; a process that has a client waits
// for it in poll(2). The tlsmgr(8) of before ends at once: an smtpd that still
// meets it sleeps for a second before it asks the next one.
func awaitIdle(ctx context.Context, master int, servers []int) {
	for begin := time.Now(); ; {
		idle, blind := false, false // somebody is, somebody may be
		for _, pid := range servers {
			if !isServer(pid, master) {
				continue
			}
			where := waitsIn(pid)
			blind = blind || where == ""
			idle = idle || where != "" && !strings.HasPrefix(where, "poll_") && !strings.HasPrefix(where, "do_sys_poll")
		}
		took := time.Since(begin)
		if !idle && (!blind || took > blindWait) || took > idleWait {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}
