package postfix

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroupMount is where a hierarchy of control groups can be written to.
type cgroupMount struct {
	point string // mount point
	root  string // the control group that is mounted there; "/" is the whole tree
}

// dir is the directory of a control group as /proc/PID/cgroup names it. A
// control group outside of what is mounted has none; what is returned for it
// does not exist, and is below the mount point all the same.
func (m cgroupMount) dir(path string) string {
	if below, ok := strings.CutPrefix(path, m.root); ok && (below == "" || below[0] == '/') {
		path = below
	}
	return filepath.Join(m.point, filepath.Join("/", path))
}

// cgroupMounts are the mounted hierarchies by the name that /proc/PID/cgroup
// gives them.
func cgroupMounts() (map[string]cgroupMount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	return parseCgroupMounts(string(data)), nil
}

// parseCgroupMounts reads /proc/PID/mountinfo (proc_pid_mountinfo(5)): "ID
// PARENT DEV ROOT POINT OPTIONS [TAGS] - TYPE SOURCE SUPEROPTIONS".
func parseCgroupMounts(s string) map[string]cgroupMount {
	out := map[string]cgroupMount{}
	for line := range strings.Lines(s) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		m := cgroupMount{point: l[4], root: l[3]}
		switch r[0] {
		case "cgroup2":
			out[""] = m
		case "cgroup":
			out[hierarchyName(r[2])] = m
		}
	}
	return out
}

// hierarchyName is a version 1 hierarchy's name from its super block options:
// "rw,cpu,cpuacct" and "rw,xattr,name=systemd".
func hierarchyName(options string) string {
	var names []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			names = append(names, o)
		case o == "rw" || o == "ro" || o == "xattr" || o == "noprefix" || o == "clone_children" ||
			strings.HasPrefix(o, "release_agent=") || strings.HasPrefix(o, "cpuset_"):
		default:
			names = append(names, o)
		}
	}
	return strings.Join(names, ",")
}
