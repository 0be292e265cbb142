package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// footprint is what postcert takes of a machine.
type footprint struct {
	Binary   int64  `json:"binary_bytes"`
	Peak     int64  `json:"peak_bytes"`     // of a renewal, its child processes included
	Launcher int64  `json:"launcher_bytes"` // what was there before it: a floor of Peak
	Warm     series `json:"version_warm_ns"`
	Cold     series `json:"version_cold_ns"`
}

func (h *host) footprint() *footprint {
	h.t.Helper()
	info, err := os.Stat(h.binary)
	if err != nil {
		h.t.Fatal(err)
	}
	f := &footprint{Binary: info.Size()}
	l := h.renewal()
	run := h.launch(append([]string{h.binary}, h.arguments(l)...))
	h.serves(h.ours, l)
	f.Peak, f.Launcher = run.Peak, run.Own
	for n := range 22 {
		took := h.version()
		if n > 0 {
			f.Warm = append(f.Warm, took)
		}
	}
	for range 11 {
		h.dropPages()
		f.Cold = append(f.Cold, h.version())
	}
	return f
}

// version is how long "postcert version" takes.
func (h *host) version() time.Duration {
	h.t.Helper()
	begin := time.Now()
	h.program(context.Background(), "", h.binary, "version")
	return time.Since(begin)
}

// dropPages lets the kernel forget what it has read of the binary.
func (h *host) dropPages() {
	h.t.Helper()
	f, err := os.Open(h.binary)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	if err := f.Sync(); err != nil {
		h.t.Fatal(err) // dirty pages are not dropped
	}
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		h.t.Fatal(errno)
	}
}

// launchFlag makes this program the launcher of another one.
const launchFlag = "-as-launcher"

// launch is what the launcher says. Linux carries the peak of a process over
// fork(2) and execve(2), so a program's figure is never below that of who
// started it: hence a launcher that has done nothing yet.
type launch struct {
	Own    int64         `json:"own"`  // peak of the launcher, in bytes
	Peak   int64         `json:"peak"` // of the program and of the largest process it waited for
	Took   time.Duration `json:"took"` // from fork(2) until its end
	CPU    time.Duration `json:"cpu"`  // user and system, of the program and of what it waited for
	Status int           `json:"status"`
}

// launched does the launcher's work if args ask for it.
func launched(args []string) bool {
	if len(args) < 3 || args[1] != launchFlag {
		return false
	}
	var own, child syscall.Rusage
	var ws syscall.WaitStatus
	var took time.Duration
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		var pid int
		fd := null.Fd()
		begin := time.Now()
		pid, err = syscall.ForkExec(args[2], args[2:], &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{fd, fd, 2}})
		for err == nil {
			if _, err = syscall.Wait4(pid, &ws, 0, &child); err != syscall.EINTR {
				break
			}
			err = nil
		}
		took = time.Since(begin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "launcher:", err)
		os.Exit(1)
	}
	const kilobyte = 1024 // getrusage(2): ru_maxrss
	cpu := time.Duration(child.Utime.Nano() + child.Stime.Nano())
	_ = json.NewEncoder(os.Stdout).Encode(launch{own.Maxrss * kilobyte, child.Maxrss * kilobyte, took, cpu, ws.ExitStatus()})
	return true
}

func (h *host) launch(command []string) launch {
	h.t.Helper()
	return start(context.Background(), h.t, nil, command...)
}

// start runs a program under the launcher, with these variables beside ours, and
// fails the bench with the program's words if it fails.
func start(ctx context.Context, t testing.TB, env []string, command ...string) launch {
	t.Helper()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{launchFlag}, command...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second // the program outlives a launcher that is killed
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var l launch
	if err == nil {
		err = json.Unmarshal(out, &l)
	}
	if err != nil || l.Status != 0 {
		t.Fatalf("launching %s: status %d, %v\n%s", command[0], l.Status, err, stderr.String())
	}
	return l
}
