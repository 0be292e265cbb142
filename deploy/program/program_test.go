package program

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	tests := []struct {
		name    string
		c       Command
		stdout  string
		status  int
		message string // part of the error; "" for none
	}{
		{"says", Command{Path: "/bin/echo", Args: []string{"a b", "$HOME"}}, "a b $HOME\n", 0, ""},
		{"status", Command{Path: "/bin/sh", Args: []string{"-c", "echo out; echo why >&2; exit 3"}}, "out\n", 3, "status 3: why"},
		{"relative", Command{Path: "echo"}, "", -1, "not an absolute path"},
		{"missing", Command{Path: "/nonexistent/postconf"}, "", -1, "no such file"},
		{"empty input", Command{Path: "/bin/cat"}, "", 0, ""},
		{"input", Command{Path: "/bin/cat", Stdin: strings.NewReader("x")}, "x", 0, ""},
		{"directory", Command{Path: "/bin/pwd"}, "/\n", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Run(context.Background(), tt.c)
			if string(r.Stdout) != tt.stdout || r.Status != tt.status {
				t.Errorf("got %q, status %d; want %q, %d", r.Stdout, r.Status, tt.stdout, tt.status)
			}
			if tt.message == "" && err != nil || tt.message != "" && (err == nil || !strings.Contains(err.Error(), tt.message)) {
				t.Errorf("error %v, want %q", err, tt.message)
			}
		})
	}
}

// A child gets the fixed environment and nothing of ours.
func TestEnvironment(t *testing.T) {
	t.Setenv("LD_PRELOAD", "/nonexistent.so")
	t.Setenv("MAIL_CONFIG", "/nonexistent")
	r, err := Run(context.Background(), Command{Path: "/usr/bin/env", Env: []string{"X=1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join(append(append([]string{}, Environment...), "X=1"), "\n") + "\n"
	if string(r.Stdout) != want {
		t.Errorf("got %q, want %q", r.Stdout, want)
	}
}

// A program that talks without end is cut in what is kept and in its time, and
// the processes it started end with it.
func TestBounds(t *testing.T) {
	start := time.Now()
	r, err := Run(context.Background(), Command{Path: "/bin/sh", Args: []string{"-c", "sleep 60 & echo $! >&2; yes"}, Timeout: time.Second, Output: 1 << 16})
	if len(r.Stdout) != 1<<16 || !r.Truncated {
		t.Errorf("kept %d bytes, truncated %v", len(r.Stdout), r.Truncated)
	}
	var e *Error
	if !errors.As(err, &e) || e.Timeout != time.Second {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	pid := strings.TrimSpace(string(r.Stderr))
	for range 100 {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %s still runs", pid)
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := Run(ctx, Command{Path: "/bin/sleep", Args: []string{"60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// What a program leaves in the background, with its output still open, is not
// waited for, and is no failure; what the program said before it ended is all
// there.
func TestBackground(t *testing.T) {
	start := time.Now()
	r, err := Run(context.Background(), Command{Path: "/bin/sh", Args: []string{"-c", "sleep 3 & head -c 200000 /dev/zero; echo end >&2"}})
	if err != nil || len(r.Stdout) != 200000 || string(r.Stderr) != "end\n" {
		t.Errorf("%d bytes, %q, error %v", len(r.Stdout), r.Stderr, err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// One with a grace puts things in order when its time is over, and is killed only
// if that takes too long.
func TestGrace(t *testing.T) {
	tests := []struct {
		name, script string
		grace        time.Duration
		status       int
		stdout       string
		most         time.Duration
	}{
		{"puts in order", "trap 'echo done; exit 143' TERM; echo begin; while :; do sleep 0.05; done", 10 * time.Second, 143, "begin\ndone\n", 3 * time.Second},
		{"does not end", "trap '' TERM; echo begin; while :; do sleep 0.05; done", 300 * time.Millisecond, -1, "begin\n", 3 * time.Second},
		{"none given", "trap 'echo done; exit 143' TERM; echo begin; while :; do sleep 0.05; done", 0, -1, "begin\n", 3 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			r, err := Run(context.Background(), Command{Path: "/bin/sh", Args: []string{"-c", tt.script}, Timeout: 300 * time.Millisecond, Grace: tt.grace})
			if err == nil || r.Status != tt.status || string(r.Stdout) != tt.stdout {
				t.Errorf("status %d, output %q, error %v", r.Status, r.Stdout, err)
			}
			if took := time.Since(start); took > tt.most {
				t.Errorf("took %v", took)
			}
		})
	}
}
