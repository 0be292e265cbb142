package cf

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Fault is something at which master(8) ends when it reads the configuration.
// postconf(1) does not say it: it looks at the form of an entry only.
type Fault struct {
	Service string // its ID; "": main.cf
	Line    int    // of the file, from 1; 0: a default
	Text    string // what is wrong, as far as it goes in master's words
}

// MasterFaults are the reasons for which a master that reads this would end, and
// leave the host without mail (master_ent.c, master_listen.c), or would live on
// without a service that all others need. Entries that
// master_service_disable names are skipped, as master does. What depends on the
// host (names, ports) is judged as far as host knows it; whether an address or
// a socket can be bound is not, see Sockets.
func (s Snapshot) MasterFaults(host Host) []Fault {
	var out []Fault
	const throttle = "service_throttle_time"
	if v := s.Effective("", throttle); v != "" && !positiveTime(v) {
		_, line := s.Source("", throttle)
		out = append(out, Fault{Line: line, Text: fmt.Sprintf("%s is %q, which is no time of 1 s or more", throttle, v)})
	}
	for _, v := range s.Services {
		if s.Disabled(v.ID()) {
			continue
		}
		if text := s.faultOf(v, host); text != "" {
			out = append(out, Fault{v.ID(), v.Line, text})
		}
	}
	return slices.Concat(out, s.overlaps(host), s.lacking())
}

// overlaps are entries that name one address in two ways, such as localhost:25
// and 127.0.0.1:25, of which Postfix before 3.6 can bind only one. Later ones
// set SO_REUSEPORT.
func (s Snapshot) overlaps(host Host) []Fault {
	if !strings.HasPrefix(s.Version, "3.4.") && !strings.HasPrefix(s.Version, "3.5.") {
		return nil
	}
	var out []Fault
	first := map[netip.AddrPort]Service{}
	for _, v := range s.opened(host) {
		h, port := splitHostPort(v.Name)
		for _, a := range s.bindAddresses(h, host) {
			at := netip.AddrPortFrom(a, uint16(s.port(port, host)))
			if one, taken := first[at]; v.Type == "inet" && taken {
				out = append(out, Fault{v.ID(), v.Line, fmt.Sprintf("bind %s: the entry %s of line %d listens there already", at, one.ID(), one.Line)})
			} else if v.Type == "inet" {
				first[at] = v
			}
		}
	}
	return out
}

// Essential are the IDs of the services without which no smtpd says a word.
func (s Snapshot) Essential() []string {
	out := []string{s.Effective("", "rewrite_service_name") + "/unix", s.Effective("", "tlsmgr_service_name") + "/unix"}
	if s.Effective("", "maillog_file") != "" {
		out = append(out, s.Effective("", "postlog_service_name")+"/unix-dgram")
	}
	return out
}

// lacking are the essential services that this configuration has not. The
// running master may still have what the file has lost.
func (s Snapshot) lacking() []Fault {
	var out []Fault
	for _, id := range s.Essential() {
		if _, ok := s.Service(id); (!ok || s.Disabled(id)) && id[0] != '/' {
			out = append(out, Fault{id, 0, "there is no entry " + id + ", without which Postfix serves nobody"})
		}
	}
	return out
}

// positiveTime tells whether master takes a value for a time of at least 1 s.
func positiveTime(v string) bool {
	if v != "" && strings.IndexByte("smhdw", v[len(v)-1]) >= 0 {
		v = v[:len(v)-1]
	}
	n, err := strconv.ParseInt(v, 10, 32)
	return err == nil && n >= 1
}

// faultOf is what get_master_ent() would call fatal in an entry, or "".
func (s Snapshot) faultOf(v Service, host Host) string {
	bad := func(field, value string) string { return fmt.Sprintf("field %q: bad value: %q", field, value) }
	switch v.Type {
	case "inet", "unix", "unix-dgram", "fifo", "pass":
	default:
		return "bad transport type: " + v.Type
	}
	for _, f := range []struct{ field, value string }{
		{"private", v.Private}, {"unprivileged", v.Unprivileged}, {"chroot", v.Chroot},
	} {
		if f.value != "y" && f.value != "n" && f.value != "-" {
			return bad(f.field, f.value)
		}
	}
	for _, f := range []struct{ field, value string }{{"wakeup_time", v.Wakeup}, {"max_proc", v.ProcessLimit}} {
		if f.value != "-" && !startsAsCount(f.value) {
			return bad(f.field, f.value)
		}
	}
	switch {
	case v.Command == "-":
		return `field "command" has no default value`
	case v.garbled:
		return "an argument has braces that do not match, or text behind them"
	}
	if v.Type == "inet" {
		return s.inetFault(v, host)
	}
	// UNIX-domain sockets have 108 bytes for the name and its end (unix(7)).
	if name := socketClass(v) + "/" + v.Name; v.Type != "fifo" && len(name) > 107 {
		return "unix-domain name too long: " + name
	}
	return ""
}

// startsAsCount is how master reads a number: a digit first, then atoi(3),
// which takes what follows for no part of it.
func startsAsCount(v string) bool {
	end := 0
	for end < len(v) && v[end] >= '0' && v[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(v[:end], 10, 64)
	return end > 0 && err == nil && int32(n) >= 0
}

// inetFault judges the name of an inet entry.
func (s Snapshot) inetFault(v Service, host Host) string {
	if v.Private != "n" {
		return "inet service cannot be private"
	}
	name := v.Name
	switch i := strings.IndexByte(name, ']'); {
	case name[0] != '[':
	case i < 0:
		return fmt.Sprintf(`missing "]" in %q`, name)
	case i+1 < len(name) && name[i+1] != ':':
		return fmt.Sprintf(`garbage after "]" in %q`, name)
	case i+2 >= len(name):
		return fmt.Sprintf("missing service information in %q", name)
	}
	h, port := splitHostPort(name)
	switch digits := strings.TrimLeft(port, "0123456789") == ""; {
	case port == "":
		return fmt.Sprintf("missing service information in %q", name)
	case digits: // whatever it is modulo 65536; 0: the system chooses one
	case port[0] >= '0' && port[0] <= '9':
		return fmt.Sprintf("garbage after numerical service in %q", name)
	case host.Services != nil && s.port(port, host) == 0:
		return fmt.Sprintf("no such TCP port: %q", port)
	}
	if h == "" || len(s.bindAddresses(h, host)) > 0 {
		return ""
	}
	if _, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(h, "[]"), "ipv6:")); err != nil && host.Resolve == nil {
		return "" // a name, and nobody here knows names
	}
	return "bad hostname or network address: " + name
}

// opened are the entries for which master opens a socket, of whatever program:
// those that are enabled, and of two for one endpoint the last.
func (s Snapshot) opened(host Host) []Service {
	last := map[string]int{}
	for i, v := range s.Services {
		if !s.Disabled(v.ID()) {
			last[s.endpoint(v, host)] = i
		}
	}
	var out []Service
	for i, v := range s.Services {
		if !s.Disabled(v.ID()) && last[s.endpoint(v, host)] == i {
			out = append(out, v)
		}
	}
	return out
}

// Program is the path of the daemon that a service is run by.
func (s Snapshot) Program(id string) string {
	v, ok := s.Service(id)
	if !ok {
		return ""
	}
	return path.Join(s.Effective("", "daemon_directory"), v.Command)
}

// Sockets are the enabled entries of all programs as far as a Listener tells
// where master listens for them; the rest of it is empty. Those that are not of
// type inet have the path of their socket.
func (s Snapshot) Sockets(host Host) []Listener {
	var out []Listener
	for _, v := range s.opened(host) {
		l := Listener{Service: v.Name, Type: v.Type, Line: v.Line}
		s.addressesOf(&l, v, host)
		out = append(out, l)
	}
	return out
}

// bindAddresses is where a service with this host part listens.
func (s Snapshot) bindAddresses(name string, host Host) []netip.Addr {
	var texts []string
	if name == "" && strings.EqualFold(s.Effective("", "inet_interfaces"), "all") {
		texts = s.allowed([]string{"0.0.0.0", "::"})
	} else if addr, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(name, "[]"), "ipv6:")); err == nil {
		texts = s.allowed([]string{addr.String()})
	} else {
		texts = s.listenOn(name, host)
	}
	var out []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil {
			out = append(out, a)
		}
	}
	return out
}
