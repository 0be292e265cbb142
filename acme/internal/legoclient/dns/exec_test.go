package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script writes a program for /bin/sh.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	return path
}

func execProvider(t testing.TB, values map[string]string, limit time.Duration) Provider {
	t.Helper()
	p, err := New("exec", Options{Credentials: values, Timeout: limit})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The program sees its arguments, a fixed environment, and nothing of ours.
func TestExec(t *testing.T) {
	t.Setenv("OVH_CONSUMER_KEY", "secret-of-the-daemon")
	t.Setenv("LD_PRELOAD", "")
	path := script(t, `{ for a; do echo "<$a>"; done; env | sort; cat; } >>"$0.out"`)
	p := execProvider(t, map[string]string{"program": path, "arguments": "--credentials /etc/postcert/x.env  linode"}, 0)
	must(t, p.Check(background(t), plainName))
	must(t, p.Present(background(t), "_acme-challenge.Mail.example.COM.", keyAuth))
	must(t, p.CleanUp(background(t), plainName, keyAuth))
	out, err := os.ReadFile(path + ".out")
	must(t, err)
	var want strings.Builder
	for _, op := range []string{"present", "cleanup"} {
		fmt.Fprintf(&want, "<--credentials>\n</etc/postcert/x.env>\n<linode>\n<%s>\n<%s>\n<%s>\n", op, plainName, Value(keyAuth))
		want.WriteString("HOME=/\nLC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n" + KeyAuthorization + "=" + keyAuth + "\nPWD=/\n")
	}
	if string(out) != want.String() {
		t.Errorf("got %s\nwant %s", out, want.String())
	}
}

func TestExecFails(t *testing.T) {
	tests := []struct {
		name, text string
		kind       Kind
		want       string
	}{
		{"status and last lines", `echo one >&2; echo two >&2; echo three >&2; echo "no such zone" >&2; exit 3`, Failed, "present: exit status 3: two; three; no such zone"},
		{"standard output, if that is all", `echo "no such zone"; exit 1`, Failed, "exit status 1: no such zone"},
		{"nothing said", `exit 1`, Failed, "exit status 1"},
		{"killed", `kill -9 $$`, Failed, "signal: killed"},
		{"time limit", `echo waiting; sleep 60`, Unavailable, "no end within 300ms: waiting"},
		{"a long line", `head -c 300000 /dev/zero | tr '\0' x; exit 2`, Failed, "exit status 2: ..."},
		{"much output", `yes | head -c 5000000; yes | head -c 5000000 >&2; exit 2`, Failed, "exit status 2: y; y; y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			limit := 20 * time.Second
			if tt.name == "time limit" {
				limit = 300 * time.Millisecond
			}
			err := execProvider(t, map[string]string{"program": script(t, tt.text)}, limit).Present(background(t), plainName, keyAuth)
			if err == nil || !strings.Contains(err.Error(), tt.want) || kindOf(t, err) != tt.kind {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("%d bytes", len(err.Error()))
			}
		})
	}
}

// When the context ends, the program and all that it has started end too.
func TestExecCanceled(t *testing.T) {
	path := script(t, `sleep 600 & echo $! >"$0.pid"; mv "$0.pid" "$0.child"; wait`)
	p := execProvider(t, map[string]string{"program": path}, 0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Present(ctx, plainName, keyAuth) }()
	var child string
	for child == "" {
		data, _ := os.ReadFile(path + ".child")
		child = strings.TrimSpace(string(data))
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	start := time.Now()
	cancel()
	err := <-done
	if took := time.Since(start); took > time.Second {
		t.Errorf("ended after %v", took)
	}
	if !errors.Is(err, context.Canceled) || kindOf(t, err) != Canceled {
		t.Errorf("error %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s still runs", child)
		}
	}
}

// A program that others can change is not run, also if it becomes so later.
func TestExecTrust(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, path string) string
		want string
	}{
		{"relative", func(*testing.T, string) string { return "hook" }, "not an absolute path"},
		{"not the shortest path", func(_ *testing.T, path string) string { return "/tmp/.." + path }, "not an absolute path"},
		{"missing", func(_ *testing.T, path string) string { return path + "x" }, "does not exist"},
		{"directory", func(_ *testing.T, path string) string { return filepath.Dir(path) }, "no regular file"},
		{"symbolic link", func(t *testing.T, path string) string {
			must(t, os.Symlink(path, path+".link"))
			return path + ".link"
		}, "no regular file"},
		{"not executable", func(t *testing.T, path string) string { return path + chmod(t, path, 0o600) }, "not executable"},
		{"writable by the group", func(t *testing.T, path string) string { return path + chmod(t, path, 0o770) }, "can be written"},
		{"writable by others", func(t *testing.T, path string) string { return path + chmod(t, path, 0o707) }, "can be written"},
		{"in a directory of others", func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
			return path
		}, "can be written"},
		{"somebody else's", func(t *testing.T, path string) string {
			needRoot(t)
			must(t, os.Chown(path, 65534, 65534))
			return path
		}, "65534"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := script(t, `touch "$0.ran"`)
			values := map[string]string{"program": tt.make(t, path)}
			if _, err := New("exec", Options{Credentials: values}); err == nil || kindOf(t, err) != Configuration || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	path := script(t, `touch "$0.ran"`)
	p := execProvider(t, map[string]string{"program": path}, 0)
	chmod(t, path, 0o777)
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Configuration {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path + ".ran"); !errors.Is(err, syscall.ENOENT) {
		t.Error("it was run")
	}
}

// What could be an option or a path is no name.
func TestNamesOfRecords(t *testing.T) {
	p := execProvider(t, map[string]string{"program": script(t, `touch "$0.ran"`)}, 0)
	for _, name := range []string{"", ".", "example.com", "com.", "-x.example.com.", "a b.example.com.", "../x.example.com.", "a/b.example.com.", "a..example.com.", "é.example.com.",
		strings.Repeat("a", 64) + ".example.com.", strings.Repeat("a.", 128) + "com.", "a\n.example.com.", "*.example.com."} {
		if err := p.Present(background(t), name, keyAuth); err == nil || kindOf(t, err) != Configuration {
			t.Errorf("%q: %v", name, err)
		}
	}
}
