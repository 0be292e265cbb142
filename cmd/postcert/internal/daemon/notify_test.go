package daemon

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The words of sd_notify(3), read from the socket as a service manager reads them.
func TestManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	m := NewManager(map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())})
	if d := m.Watchdog(); d != 20*time.Second {
		t.Errorf("watchdog %v", d)
	}
	m.Ready()
	m.Status("next: a")
	m.Status("next: a")
	m.Alive()
	m.Reloading()
	m.Stopping()
	var got []string
	buf := make([]byte, 4096)
	for range 5 {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		first, more, _ := strings.Cut(string(buf[:n]), "\n")
		if first == "RELOADING=1" && !strings.HasPrefix(more, "MONOTONIC_USEC=") {
			t.Errorf("reloading without its time: %q", buf[:n])
		}
		got = append(got, first)
	}
	if want := []string{"READY=1", "STATUS=next: a", "WATCHDOG=1", "RELOADING=1", "STOPPING=1"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// Without a service manager nothing is sent, and nothing is wrong.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	m := NewManager(nil)
	m.Ready()
	if d := m.Watchdog(); d != 0 {
		t.Errorf("watchdog %v", d)
	}
}
