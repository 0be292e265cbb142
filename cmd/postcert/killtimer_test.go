package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// A run can be killed so and so long after an event, "commit begin +25us", and
// records where it really was when it died. Between the events of a step that
// takes microseconds nobody outside could aim, and nothing inside the program
// should: it is a timer of the kernel that sends the SIGKILL, whatever the
// program does at that moment.

// What is recorded beside the events: the start of the program's own work and
// its end.
const (
	programStart = "start"
	programEnd   = "exit"
)

// record is a file with a line for each event and each file operation, written
// before the operation is made. What write(2) has taken outlives a SIGKILL. A
// nil record keeps nothing.
type record struct {
	file  *os.File
	began time.Time
}

func openRecord(path string) *record {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		panic(err)
	}
	return &record{f, time.Now()}
}

// say adds a line: nanoseconds since the start, and what.
func (r *record) say(what string) {
	if r == nil {
		return
	}
	if _, err := r.file.WriteString(strconv.FormatInt(int64(time.Since(r.began)), 10) + " " + what + "\n"); err != nil {
		panic(err)
	}
}

// reached notes an event and, if the run is to be killed so long after it, sets
// the timer.
func (w *world) reached(event string) {
	w.record.say(event)
	after, ok := strings.CutPrefix(w.kill, event+" +")
	if !ok {
		return
	}
	d, err := time.ParseDuration(after)
	if err != nil {
		panic(err)
	}
	if err := killAfter(d); err != nil {
		panic(err)
	}
}

// killAfter has the kernel send this process a SIGKILL (timer_create(2)): to
// the microsecond, and without a thread of ours that would have to run then.
func killAfter(d time.Duration) error {
	const monotonic = 1 // CLOCK_MONOTONIC
	event := struct {   // struct sigevent
		value         uint64
		signo, notify int32 // notify 0 is SIGEV_SIGNAL
		_             [48]byte
	}{signo: int32(syscall.SIGKILL)}
	var id int32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_TIMER_CREATE, monotonic, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); errno != 0 {
		return fmt.Errorf("timer_create: %w", errno)
	}
	spec := struct{ interval, value syscall.Timespec }{value: syscall.NsecToTimespec(max(1, int64(d)))}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("timer_settime: %w", errno)
	}
	return nil
}

// recorded is one line of a record.
type recorded struct {
	at   time.Duration
	what string
}

// readRecord returns what a run recorded.
func readRecord(t testing.TB, path string) []recorded {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	for line := range strings.Lines(string(data)) {
		ns, what, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if !ok || err != nil {
			t.Fatalf("%s: the line %q", path, line)
		}
		out = append(out, recorded{time.Duration(n), what})
	}
	return out
}

// Places between the events of a run, beside its steps.
const (
	placeStart  = "start"  // before the first event
	placeSettle = "settle" // between the lock and what follows it
	placeEnd    = "end"    // after the last event
)

// placeAfter names the time that begins with an event: the step itself after
// its begin, and after its end "after STEP", or a name of its own.
func placeAfter(event string) string {
	step, begin := strings.CutSuffix(event, " begin")
	if begin {
		return step
	}
	switch event {
	case programStart:
		return placeStart
	case "lock end":
		return placeSettle
	case "confirm end", "reprove end":
		return placeEnd
	}
	return "after " + strings.TrimSuffix(event, " end")
}

// isOperation tells a file operation from an event.
func isOperation(what string) bool { return strings.HasPrefix(what, "op ") }

// landed is where a run was when its record ends, and the last file operation
// it had begun by then.
func landed(rec []recorded) (place, op string) {
	for _, m := range rec {
		if isOperation(m.what) {
			op = m.what
		} else {
			place = placeAfter(m.what)
		}
	}
	return place, op
}

// lengths is how long each time between two events took that the record has
// both ends of, by the event that it begins with.
func lengths(rec []recorded) map[string]time.Duration {
	out := map[string]time.Duration{}
	last := recorded{}
	for _, m := range rec {
		if isOperation(m.what) {
			continue
		}
		if last.what != "" {
			out[last.what] = m.at - last.at
		}
		last = m
	}
	return out
}

func TestKillTimerRecord(t *testing.T) {
	rec := []recorded{{1, "start"}, {4, "lock begin"}, {9, "lock end"}, {10, "commit begin"}, {12, "op 1 create"}, {15, "op 2 write"}}
	if place, op := landed(rec); place != "commit" || op != "op 2 write" {
		t.Errorf("landed in %q at %q", place, op)
	}
	if place, _ := landed(rec[:3]); place != placeSettle {
		t.Errorf("landed in %q", place)
	}
	got := lengths(rec)
	if len(got) != 3 || got["start"] != 3 || got["lock begin"] != 5 || got["lock end"] != 1 {
		t.Errorf("lengths are %v", got)
	}
	for event, want := range map[string]string{"start": "start", "reprove end": "end", "confirm end": "end", "plan end": "after plan", "undo begin": "undo"} {
		if got := placeAfter(event); got != want {
			t.Errorf("after %q is %q, want %q", event, got, want)
		}
	}
}
