package rehearsal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	termGrace = time.Second     // after SIGTERM to the master
	killGrace = 2 * time.Second // after SIGKILL to what is left
)

// end ends the processes of the room at dir: the master by SIGTERM, which it
// passes on, then what is left by SIGKILL.
func end(dir string) error {
	if pid := master(dir); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("ending the private master, process %d: %w", pid, err)
		}
	}
	if waitGone(dir, termGrace, nil) {
		return nil
	}
	kill := func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) } // it may just have gone
	if waitGone(dir, killGrace, kill) {
		return nil
	}
	return fmt.Errorf("processes %v of a rehearsal do not end", inside(dir))
}

// waitGone waits until no process belongs to dir, and does to those that do what
// it is told.
func waitGone(dir string, limit time.Duration, do func(pid int)) bool {
	pause := time.Millisecond
	for end := time.Now().Add(limit); ; pause = min(2*pause, 50*time.Millisecond) {
		pids := inside(dir)
		if len(pids) == 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		if do != nil {
			for _, pid := range pids {
				do(pid)
			}
		}
		time.Sleep(pause)
	}
}

// inside are the processes of the room at dir, or of all rooms below it.
// Zombies are not among them: they have neither directory nor environment.
func inside(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && belongs(pid, dir) {
			out = append(out, pid)
		}
	}
	return out
}

// belongs tells whether a process works below dir and was given a log socket
// below it. An administrator's shell, or her editor, does only the first.
func belongs(pid int, dir string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || !strings.HasPrefix(cwd, dir+"/") {
		return false
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range strings.SplitSeq(string(environ), "\x00") {
		if strings.HasPrefix(v, logVariable+"="+dir+"/") {
			return true
		}
	}
	return false
}

// master is the process id of the room's master, or 0 if none runs. master(8)
// holds a lock on its pid file as long as it lives, so a number that another
// process has by now is not taken for it.
func master(dir string) int {
	f, err := os.Open(filepath.Join(dir, queueName, "pid", "master.pid"))
	if err != nil {
		return 0
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0
	}
	data := make([]byte, 64)
	n, _ := f.Read(data) // what cannot be read is no number
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:n])))
	if err != nil || pid < 2 || !belongs(pid, dir) {
		return 0
	}
	return pid
}
