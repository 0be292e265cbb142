package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// foresee finds at plan time what would make the commit or the reload fail.
func (e *Engine) foresee(p *Plan) {
	if !p.Change.Prove {
		p.replaceable()
		p.companionsFit()
		p.logStalls(datagramLimit())
	}
	if len(p.postfixOf(p.Expect)) == 0 && len(p.Problems.Errors()) == 0 && !p.Pair.IsZero() {
		p.Problems = append(p.Problems, problem.New("tls_not_enabled", problem.At{File: p.Instance},
			"no listener of %s offers TLS that could be proven", p.Instance))
	}
}

// replaceable proves for each target that it can be replaced: not a mount
// point, not immutable, on a file system that can be written and has room.
func (p *Plan) replaceable() {
	var targets []string
	if !slices.Equal(p.Main, p.Before.Main.Data) {
		targets = append(targets, realPath(p.Before.Main.Path))
	}
	if !slices.Equal(p.Master, p.Before.Master.Data) {
		targets = append(targets, realPath(p.Before.Master.Path))
	}
	for _, f := range p.Files {
		targets = append(targets, f.Path)
	}
	for _, f := range p.Change.Files {
		if f.After.Kind == atomicfile.File && !f.Own { // our own directory is made when it is needed
			targets = append(targets, f.Path)
		}
	}
	if why := p.directoryUnfit(); why != "" {
		p.Problems = append(p.Problems, problem.New("tls_directory_unfit", problem.At{File: p.ownDirectory()}, "%s %s", p.ownDirectory(), why))
		return
	}
	for _, t := range targets {
		err := atomicfile.Replaceable(t, roomNeeded)
		var refused *atomicfile.RefusedError
		if errors.As(err, &refused) && refused.Reason == atomicfile.NoDirectory && filepath.Base(filepath.Dir(t)) == Directory {
			// Our own directory is made with the first install: then the one
			// above it is what must be writable.
			err = atomicfile.Replaceable(filepath.Dir(t), roomNeeded)
			if errors.As(err, &refused) && refused.Reason == atomicfile.NotRegular {
				err = nil
			}
		}
		if errors.As(err, &refused) && (refused.Reason == atomicfile.NoSpace || refused.Reason == atomicfile.NoInodes) {
			p.Problems = append(p.Problems, problem.New("disk_full", problem.At{File: filepath.Dir(refused.Path)}, "%v", err))
		} else if err != nil {
			p.Problems = append(p.Problems, problem.New("config_not_replaceable", problem.At{File: t}, "%v", err))
		}
	}
}

func (p *Plan) ownDirectory() string { return filepath.Join(p.Instance, Directory) }

// directoryUnfit says why no key can be put into our directory, or "": what
// stands there must be a directory that root alone decides about, since who can
// write to it, or has put a link there, decides what Postfix reads.
func (p *Plan) directoryUnfit() string {
	info, err := os.Lstat(p.ownDirectory())
	if err != nil || len(p.Files) == 0 {
		return "" // missing: it will be made; anything else shows at the file
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return "is a symbolic link, not a directory"
	case !info.IsDir():
		return "is not a directory"
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("belongs to user %d, who could replace the key in it", st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Sprintf("has mode %04o: others than its owner could replace the key in it", info.Mode().Perm())
	}
	return ""
}

// roomNeeded is what the files of a change, their temporary copies and the
// journal take at most, in bytes.
const roomNeeded = 1 << 20

// survivable refuses to reload a configuration at which master(8) would end.
// postconf finds less than master does, and what the running master has read is
// not what stands in the file now: the entry may be of today.
func (p *Plan) survivable() {
	p.Problems = append(p.Problems, deadly(p.Before, p.host, p.Running.PID)...)
}

// addsEntries refuses service entries at which the master would end: what it
// survives now says nothing about an address that it does not listen at yet.
func (p *Plan) addsEntries() {
	if p.Running.Running && slices.ContainsFunc(p.Edits, func(e cf.Edit) bool { return e.IsEntry() && e.New != nil }) {
		p.Problems = append(p.Problems, deadly(p.Candidate, p.host, p.Running.PID)...)
	}
}

// deadly are the reasons for which the master with this process id (0: not
// known) would not survive a reload of s.
func deadly(s cf.Snapshot, host cf.Host, master int) problem.List {
	var out problem.List
	for _, f := range s.MasterFaults(host) {
		at := problem.At{File: s.Master.Path, Line: f.Line, Service: f.Service}
		if f.Service == "" {
			at.File = s.Main.Path
		}
		out = append(out, problem.New("config_broken", at, "a reload would end Postfix, or what it serves: %s", f.Text))
	}
	if data := s.Effective("", "data_directory"); !isDirectory(data) {
		out = append(out, problem.New("config_broken", problem.At{File: s.Main.Path, Parameter: "data_directory"},
			"after a reload nobody would answer: data_directory is %s, which is no directory", data))
	}
	for _, l := range s.Sockets(host) {
		if program := s.Program(l.ID()); (l.Type == "inet" || slices.Contains(s.Essential(), l.ID())) && !executable(program) {
			out = append(out, problem.New("config_broken", problem.At{File: s.Master.Path, Line: l.Line, Service: l.ID()},
				"after a reload nobody would answer there: %s is no program", program))
		}
		for _, addr := range l.Addresses {
			why := ""
			if l.Type == "inet" {
				why = cannotBind(master, addr)
			} else {
				why = cannotMake(addr)
			}
			if why != "" {
				out = append(out, problem.New("listener_not_bindable", problem.At{File: s.Master.Path, Line: l.Line, Service: l.ID(), Endpoint: addr},
					"a reload would end Postfix: %s cannot be bound (%s), which master.cf line %d asks for", addr, why, l.Line))
			}
		}
	}
	return out
}

// socketLimit is how many datagrams a socket holds that nobody has read yet.
const socketLimit = "/proc/sys/net/unix/max_dgram_qlen"

// logStalls warns of a trap of Postfix. With maillog_file every daemon sends its
// lines to postlogd's socket. After a reload they all start anew, postlogd too,
// and each warns of main.cf's overridden settings. If those warnings fill the
// socket before postlogd reads it, postlogd waits there to send its own, for
// itself, and every daemon waits for it: no mail until Postfix is restarted.
// limit is the socket's, in lines.
func (p *Plan) logStalls(limit int) {
	if !p.Running.Running || p.Before.Effective("", "maillog_file") == "" {
		return
	}
	overridden := p.Before.Overridden()
	starting, err := strconv.Atoi(p.Before.Effective("", "default_process_limit"))
	if err != nil || len(overridden) == 0 || len(overridden)*starting < limit {
		return
	}
	o := overridden[0]
	p.Problems = append(p.Problems, problem.Warn("log_socket_small", problem.At{File: p.Before.Main.Path, Line: o.Line, Parameter: o.Name},
		"main.cf sets %s more than once, of which every daemon warns when it starts (maillog_file, %d such lines a daemon); a busy host's daemons can fill postlogd's socket (%d lines) at a reload, and then Postfix waits for itself",
		o.Name, len(overridden), limit))
}

// datagramLimit is the value of socketLimit, or the kernel's own default.
func datagramLimit() int {
	data, err := os.ReadFile(socketLimit)
	n, bad := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || bad != nil {
		return 10
	}
	return n
}

func isDirectory(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// cannotMake says why master could not make a socket or fifo at a path, or "".
// It removes what stands there first, which a directory does not let it do.
func cannotMake(path string) string {
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return "a directory is there"
	}
	if !isDirectory(filepath.Dir(path)) {
		return filepath.Dir(path) + " is no directory"
	}
	return ""
}

// cannotBind says why the running master could not listen at an address, or ""
// if it can or already does. A master that is not visible from here (0) is
// believed to own what somebody listens at.
func cannotBind(master int, addr string) string {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		ln.Close()
		return ""
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if own, err := listensOn(master, addr); master > 0 && err == nil && !own {
			return "another program than this Postfix listens there"
		}
		return ""
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no interface of this host has that address"
	}
	return err.Error()
}

// carryTLS reads from the candidate which listeners offer TLS: an edit may have
// switched it on.
func carryTLS(list []cf.Listener, s cf.Snapshot, host cf.Host) []cf.Listener {
	after := map[string]cf.Listener{}
	for _, l := range s.Listeners(host) {
		after[l.ID()] = l
	}
	out := slices.Clone(list)
	for i, l := range out {
		if n, ok := after[l.ID()]; ok {
			out[i] = n
		}
	}
	return out
}
