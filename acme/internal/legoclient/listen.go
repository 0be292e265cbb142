package legoclient

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens addr. With an empty host that is one socket for both families,
// where the kernel has IPv6. A port that is taken is told with its holder.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", addr)
	if err == nil {
		return l, nil
	}
	if ctx.Err() != nil {
		return nil, canceled(ctx)
	}
	e := &Error{Op: "challenge", Kind: Local, Err: err, Detail: "listening on " + addr + ": " + reason(err)}
	if errors.Is(err, syscall.EADDRINUSE) {
		if who := holder(addr); who != "" {
			e.Detail += ", held by " + who
		}
	}
	return nil, e
}

// reason is the kernel's word without Go's prefix.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return clean(err.Error())
}

// check opens and closes addr.
func canListen(ctx context.Context, addr string) error {
	l, err := listen(ctx, addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// holder names the process that listens on the port of addr, as far as /proc
// tells; "" if not.
func holder(addr string) string {
	_, service, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return ""
	}
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeners(table, port, inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	// Sockets of other processes are readable by root only; then nobody is named.
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return "process " + pid
		}
		return fmt.Sprintf("%s (process %s)", clean(string(comm)), pid)
	}
	return ""
}

// listeners adds the inodes of the sockets that listen on port (proc(5),
// /proc/net/tcp: local address in field 1, state in 3, inode in 9).
func listeners(table string, port int, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != "0A" { // TCP_LISTEN
			continue
		}
		_, local, found := strings.Cut(fields[1], ":")
		if raw, err := hex.DecodeString(local); !found || err != nil || len(raw) != 2 {
			continue
		}
		if got, err := strconv.ParseUint(local, 16, 16); err == nil && int(got) == port {
			inodes[fields[9]] = true
		}
	}
}
