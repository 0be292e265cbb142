package rehearsal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// Who was killed leaves a Postfix that ends by itself, though a client of it
// is still there and silent.
func TestEndsByItself(t *testing.T) {
	p := hostile(t)
	s := newStage(t)
	s.Life = childGrace + 3*time.Second
	cmd, sockets := hang(t, job{RuntimeDir: s.RuntimeDir, Life: s.Life, Candidate: p.hostileCandidate(t)}, 4)
	start := time.Now()
	for _, socket := range sockets {
		if strings.Contains(socket, "/"+relayName+"/") {
			continue // that ends with its process
		}
		// The daemon takes this client when the first is gone.
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	kill(t, cmd)
	if len(inside(s.RuntimeDir)) < 4 {
		t.Errorf("%d processes after the kill, want the master and its daemons", len(inside(s.RuntimeDir)))
	}
	if !waitGone(s.RuntimeDir, s.Life, nil) {
		t.Errorf("processes %v live after %s", inside(s.RuntimeDir), s.Life)
	}
	t.Logf("gone after %s of %s", time.Since(start), s.Life)
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestLifeOfTheMaster(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	s := newStage(t)
	cmd, _ := hang(t, job{RuntimeDir: s.RuntimeDir, Candidate: p.candidate(t, newPair(t, "rsa", "a.example.test"), "smtp/inet")}, 1)
	rooms, err := filepath.Glob(s.RuntimeDir + "/rehearsal/*")
	if err != nil || len(rooms) != 1 {
		t.Fatal(rooms, err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", master(rooms[0])))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	if want := []string{"-c", rooms[0] + "/" + configName, "-w", "-e", "53"}; !slices.Equal(args[1:], want) {
		t.Errorf("got %q, want %q", args[1:], want)
	}
	kill(t, cmd)
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Sweep ends what killed rehearsals left, also what hangs and what has lost
// its master, and nothing else.
func TestSweep(t *testing.T) {
	p := hostile(t)
	s := newStage(t)
	if err := (Stage{RuntimeDir: s.RuntimeDir + "/absent"}).Sweep(context.Background()); err != nil {
		t.Errorf("without any rehearsal: %v", err)
	}
	j := job{RuntimeDir: s.RuntimeDir, Candidate: p.hostileCandidate(t)}
	dead, sockets := hang(t, j, 4)
	orphaned, orphans := hang(t, j, 4)
	alive, living := hang(t, j, 4)
	room := func(sockets []string) string {
		return strings.SplitAfterN(strings.TrimPrefix(sockets[0], s.RuntimeDir+"/rehearsal/"), "/", 2)[0]
	}
	dir := func(sockets []string) string {
		return strings.TrimSuffix(filepath.Join(s.RuntimeDir, roomsName, room(sockets)), "/")
	}
	kill(t, dead)
	kill(t, orphaned)
	// Somebody has a look at it.
	guest := exec.Command("/bin/sleep", "60")
	guest.Dir = filepath.Join(dir(sockets), queueName)
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() { left <- guest.Wait() }()
	// One daemon does not listen to SIGTERM.
	for _, pid := range inside(dir(sockets)) {
		if pid != master(dir(sockets)) {
			stop(t, pid)
			break
		}
	}
	orphan := master(dir(orphans))
	if orphan == 0 { // kill(2): 0 would be ourselves
		t.Fatal("no master to kill")
	}
	if err := syscall.Kill(orphan, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	before := inside(dir(living))
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir(sockets), dir(orphans)} {
		if pids := inside(d); len(pids) > 0 {
			t.Errorf("%v live", pids)
		}
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
	if got := inside(dir(living)); !slices.Equal(got, before) || len(got) < 4 {
		t.Errorf("processes of the rehearsal under way: got %v, want %v", got, before)
	}
	select {
	case err := <-left:
		t.Errorf("a process that is not of the rehearsal ended: %v", err)
	default:
		_ = guest.Process.Kill() // ends it
		<-left
	}
	kill(t, alive)
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// stop stops a process and waits until it is: of two signals that wait, SIGTERM
// is delivered first.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(stat, []byte(") T ")) {
			return
		}
	}
	t.Fatalf("process %d does not stop", pid)
}

// A rehearsal sweeps before it begins.
func TestRehearseSweeps(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	s := newStage(t)
	c := p.candidate(t, newPair(t, "rsa", "a.example.test"), "smtp/inet")
	cmd, _ := hang(t, job{RuntimeDir: s.RuntimeDir, Candidate: c}, 1)
	kill(t, cmd)
	if _, err := s.Rehearse(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// sweepUp sweeps, and returns the rooms that are left. A process that was just
// being started when its parent was killed has the lock of the room until it is
// another program, so the room is somebody's for that instant.
func sweepUp(t *testing.T, s Stage) (rooms []string) {
	t.Helper()
	for end := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := s.Sweep(context.Background()); err != nil {
			t.Error(err)
		}
		if rooms, _ = filepath.Glob(s.RuntimeDir + "/rehearsal/*"); len(rooms) == 0 || time.Now().After(end) {
			return rooms
		}
	}
}

// However far a rehearsal came when it was killed, Sweep puts an end to it, and
// what a start in progress does after that ends it. How long a rehearsal takes is
// measured first, as machines differ; where that was another time than the kills
// then need, there is another round.
func TestKilledAtAnyTime(t *testing.T) {
	const kills, rounds = 24, 8
	p := newProduction(t, postfixtest.Options{})
	s := newStage(t)
	j := job{RuntimeDir: s.RuntimeDir, Candidate: p.candidate(t, newPair(t, "rsa", "a.example.test"), three...)}
	begin := time.Now()
	if _, out := startJob(t, j, 0); !out.Scan() || out.Text() != "done" {
		t.Fatalf("the rehearsal says %q", out.Text())
	}
	whole := time.Since(begin)
	left, removed, round := 0, 0, 0
	for ; left == 0 && round < rounds; round++ {
		for n := range kills {
			after := time.Duration(n) * whole / kills
			cmd, _ := startJob(t, j, 0)
			time.Sleep(after)
			kill(t, cmd)
			if len(inside(s.RuntimeDir)) > 0 {
				left++
			}
			if rooms, _ := filepath.Glob(s.RuntimeDir + "/rehearsal/*"); len(rooms) > 0 {
				removed++
			}
			if rooms := sweepUp(t, s); len(rooms) > 0 {
				t.Errorf("after %s: left %v", after, rooms)
			}
		}
	}
	if !waitGone(s.RuntimeDir, time.Second, nil) {
		t.Errorf("processes %v live", inside(s.RuntimeDir))
	}
	t.Logf("a rehearsal takes %s; of %d kills %d left a directory and %d processes", whole, kills*round, removed, left)
	if left == 0 {
		t.Error("no kill hit a rehearsal that had a Postfix")
	}
}
