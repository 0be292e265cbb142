package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// day is the memory of a daemon that has lived through the wakes of a day.
//
// A daemon wakes once a minute and reads everything that it knows from disk; it
// remembers nothing else. So a day is made of its wakes, without the waiting: each
// of them is a SIGHUP to the released binary, which does what a wake does and
// reads the configuration as well. Between them the certificates have their turns
// of a day, each a process that the daemon starts and whose JSON it reads: a
// certificate is due again because the record of its last turn is gone, which is
// what an old record means, too. What is left out is what the time itself does,
// such as the garbage collection that Go makes every two minutes.
type day struct {
	Certificates int   `json:"certificates"`
	Ticks        int   `json:"ticks"`
	Turns        int   `json:"turns"`
	Begin        int64 `json:"begin_bytes"` // VmRSS when all was ordered
	End          int64 `json:"end_bytes"`   // VmRSS after the day
	Peak         int64 `json:"peak_bytes"`  // VmHWM: from the start, the orders included
}

// turnsADay is what one certificate needs in a day: its proof, and a question to
// the CA every six hours.
const turnsADay = 5

// day starts a daemon that has n certificates to order, and lets that many ticks
// pass when it has.
func (i *issuing) day(ctx context.Context, n, ticks int, progress io.Writer) *day {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	state := filepath.Join(i.dir, "daemon")
	names, config := i.configure(state, "daemon", n)
	d := i.daemon(ctx, config, filepath.Join(i.dir, "notify"))
	fmt.Fprintf(progress, "the daemon orders %d certificates\n", n)
	for _, name := range names {
		d.turn(ctx, state, name, time.Time{})
		if err := i.judge(ctx, kept(state, name), name); err != nil {
			i.t.Fatal(err)
		}
	}
	out := &day{Certificates: n, Ticks: ticks, Turns: n * turnsADay}
	out.Begin, _ = d.memory()
	done := 0
	for turn := range out.Turns {
		fmt.Fprintf(progress, "\rtick %d of %d ", done, ticks)
		name := names[turn%n]
		path := turnFile(state, name)
		begin := time.Now() // before it is gone, as the daemon may look of itself
		if err := os.Remove(path); err != nil {
			i.t.Fatal(err)
		}
		for ; done < ticks*(turn+1)/out.Turns; done++ {
			d.tick(ctx)
		}
		d.turn(ctx, state, name, begin)
	}
	fmt.Fprintln(progress)
	out.End, out.Peak = d.memory()
	d.end()
	return out
}

// turnFile is where postcert writes down the last turn of a certificate.
func turnFile(state, name string) string { return filepath.Join(state, "turns", name+".json") }

// running is a daemon.
type running struct {
	*issuing
	cmd    *exec.Cmd
	notify *net.UnixConn
	words  bytes.Buffer  // its log; to be read when it has ended
	ended  chan struct{} // closed then
	err    error         // likewise: how
}

// daemon starts one, as a service manager does, and waits until it is ready.
func (i *issuing) daemon(ctx context.Context, config, socket string) *running {
	i.t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		i.t.Fatal(err)
	}
	d := &running{issuing: i, notify: l, ended: make(chan struct{})}
	d.cmd = exec.Command(i.binary, "daemon", "--config", config)
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	d.cmd.Stderr = &d.words
	d.cmd.WaitDelay = time.Second // for what it started
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
		_ = l.Close() // nobody waits for the words of the dead
	}()
	i.t.Cleanup(d.kill)
	d.await(ctx, "READY=1")
	return d
}

// await reads what the daemon tells its service manager up to this line.
func (d *running) await(ctx context.Context, line string) {
	d.t.Helper()
	limit := time.Now().Add(time.Minute)
	if at, ok := ctx.Deadline(); ok && at.Before(limit) {
		limit = at
	}
	_ = d.notify.SetReadDeadline(limit)
	message := make([]byte, 4096)
	for {
		n, err := d.notify.Read(message)
		if err != nil {
			d.fail("waiting for %s: %v", line, err)
		}
		for told := range strings.Lines(string(message[:n])) {
			if strings.TrimSuffix(told, "\n") == line {
				return
			}
		}
	}
}

// kill ends the daemon if it still runs, and what it has started.
func (d *running) kill() {
	select {
	case <-d.ended:
	default:
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		<-d.ended
	}
}

// fail ends the bench with the daemon's log.
func (d *running) fail(format string, args ...any) {
	d.t.Helper()
	d.kill()
	d.t.Fatalf("the daemon: "+format+" (%v)\n%s", append(args, d.err, d.words.String())...)
}

// tick lets the daemon wake and look. The next one is not taken before it has
// looked.
func (d *running) tick(ctx context.Context) {
	d.t.Helper()
	if err := syscall.Kill(d.cmd.Process.Pid, syscall.SIGHUP); err != nil {
		d.fail("%v", err)
	}
	d.await(ctx, "READY=1")
}

// turn waits for the end of a turn of a certificate that began after then.
func (d *running) turn(ctx context.Context, state, name string, then time.Time) {
	d.t.Helper()
	limit := time.Now().Add(time.Minute)
	for ctx.Err() == nil && time.Now().Before(limit) {
		var record struct {
			Began, Ended time.Time
			Exit         int
			Message      string
		}
		data, err := os.ReadFile(turnFile(state, name))
		if err == nil && json.Unmarshal(data, &record) == nil && !record.Began.Before(then) && !record.Ended.IsZero() {
			if record.Exit != 0 {
				d.fail("a turn of %s ended with status %d: %s", name, record.Exit, record.Message)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	d.fail("no turn of %s (%v)", name, ctx.Err())
}

// memory is what the daemon occupies, and the most that it did, in bytes.
func (d *running) memory() (now, peak int64) {
	d.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.fail("%v", err)
	}
	of := func(label string) int64 {
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == label+":" && f[2] == "kB" {
				if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					return n << 10
				}
			}
		}
		d.fail("no %s in its status", label)
		return 0
	}
	return of("VmRSS"), of("VmHWM")
}

// end asks the daemon to end, which it must do well.
func (d *running) end() {
	d.t.Helper()
	_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-d.ended:
		if d.err != nil {
			d.fail("it did not end well")
		}
	case <-time.After(time.Minute):
		d.fail("SIGTERM does not end it")
	}
}
