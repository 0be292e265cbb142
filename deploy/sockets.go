package deploy

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listensOn tells whether process pid has a socket that listens at an address,
// itself or by the wildcard address of its family. Both are read from proc(5):
// the sockets of its network from net/tcp and net/tcp6, its own from fd.
func listensOn(pid int, address string) (bool, error) {
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		return false, err
	}
	own, err := socketsOf(pid)
	if err != nil {
		return false, err
	}
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(table)) {
			at, inode, ok := listeningSocket(line)
			if !ok || !own[inode] || at.Port() != want.Port() {
				continue
			}
			ip := want.Addr().Unmap().WithZone("")
			if at.Addr().Unmap() == ip || at.Addr().IsUnspecified() && (at.Addr().Is4() == ip.Is4() || name == "tcp6") {
				return true, nil
			}
		}
	}
	return false, nil
}

// socketsOf are the inodes of a process's sockets.
func socketsOf(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return out, nil
}

// listeningSocket reads one line of proc_pid_net(5) tcp: number, local and
// remote address, state (0A is LISTEN), ..., the inode in the tenth column.
func listeningSocket(line string) (at netip.AddrPort, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != "0A" {
		return at, "", false
	}
	host, port, _ := strings.Cut(f[1], ":")
	number, err := strconv.ParseUint(port, 16, 16)
	raw, err2 := hex.DecodeString(host)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return at, "", false
	}
	// The kernel prints the address as 32-bit words of the machine's own order.
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip, uint16(number)), f[9], ok
}
