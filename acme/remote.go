package acme

import (
	"syscall"

	"postcert/verify/problem"
)

// remoteKinds are the file systems of several hosts, by the f_type of statfs(2).
var remoteKinds = map[uint32]string{
	0x6969: "NFS", 0x517b: "SMB", 0xfe534d42: "SMB", 0xff534d42: "CIFS", 0x00c36400: "Ceph", 0x5346414f: "AFS", 0x47504653: "GPFS",
}

// preflightStore warns of a state directory that other hosts share. Our locks are
// flock(2): depending on the server and how it is mounted they hold on this host
// alone, and two hosts would use up the orders of one week together.
func (m *Manager) preflightStore() problem.List {
	ask := m.fsType
	if ask == nil {
		ask = fsType
	}
	kind, remote := remoteKinds[ask(m.Store.locks)]
	if !remote {
		return nil
	}
	return problem.List{problem.Warn("state_remote", problem.At{File: m.Store.dir}, "%s is on %s, where locks may not hold between hosts", m.Store.dir, kind)}
}

// fsType is the kind of file system of a directory; 0 if it is not told.
func fsType(dir string) uint32 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0
	}
	return uint32(st.Type)
}
