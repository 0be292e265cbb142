package postfix

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzProc: whatever proc(5) says, reading it ends and makes nothing up; and
// what is written as the kernel writes it is read as what it means.
func FuzzProc(f *testing.F) {
	f.Add("Name:\tmaster\nState:\tS (sleeping)\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000000\n", "/system.slice/postfix@-.service", uint64(1), uint64(0))
	f.Add("12:cpu,cpuacct:/x\n1:name=systemd:/system.slice/system-postfix.slice/postfix@-.service\n0::/user.slice/user-0.slice/user@0.service/app (deleted)\n", "/a b/c", uint64(1<<14), uint64(1))
	f.Add("36 35 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n30 25 0:26 /docker/x /sys/fs/cgroup/systemd ro - cgroup cgroup rw,xattr,name=systemd\n", "/docker/x/y", uint64(0), uint64(0))
	f.Add("36 35 0:31 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "docker/x..", uint64(0), uint64(0))
	f.Add("postconf: fatal: /etc/postfix/main.cf, line 12: missing '='", "", ^uint64(0), uint64(2))
	f.Fuzz(func(t *testing.T, text, path string, own, shared uint64) {
		hangupPending(text)
		for _, value := range parseCgroups(text) {
			if !strings.Contains(text, value) {
				t.Fatalf("the control group %q is not in %q", value, text)
			}
		}
		if unit := unitOf(parseCgroups(text)); unit != "" && (!strings.HasSuffix(unit, ".service") || strings.Contains(unit, "/") || !strings.Contains(text, unit)) {
			t.Fatalf("the unit %q of %q", unit, text)
		}
		for name, m := range parseCgroupMounts(text) {
			if strings.ContainsAny(name+m.point, "\n") || !strings.Contains(text, m.point) {
				t.Fatalf("%q is mounted at %q", name, m.point)
			}
			if strings.HasPrefix(m.point, "/") && !strings.HasPrefix(m.dir(filepath.Clean("/"+path)), filepath.Clean(m.point)) {
				t.Fatalf("%q of %+v is %q", path, m, m.dir(path))
			}
		}
		if at := place(text); at.Line < 0 || !strings.Contains(text, at.File) {
			t.Fatalf("the place %+v of %q", at, text)
		}
		made := fmt.Sprintf("Name:\tmaster\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t0000000000000001\n", own, shared)
		if got, want := hangupPending(made), (own|shared)&1 == 1; got != want {
			t.Fatalf("%q: a SIGHUP is pending: %v", made, got)
		}
		if !strings.ContainsAny(path, "\n\r") && !strings.HasSuffix(path, " (deleted)") {
			if got := parseCgroups("3:cpu,cpuacct:/x\n0::" + path + "\n")[""]; got != path {
				t.Fatalf("the control group %q is %q", path, got)
			}
		}
	})
}
