package cf

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Listener is a service entry that smtpd(8) or postscreen(8) answers on, and
// where to ask it for its certificate.
type Listener struct {
	Service string // name as in master.cf
	Type    string // inet, unix or pass
	Line    int    // of master.cf

	Network   string   // tcp or unix
	Addresses []string // what to dial: "127.0.0.1:25", "[::1]:25" or a socket's path

	Implicit   bool // TLS from the first byte (smtpd_tls_wrappermode)
	TLS        bool // offers TLS, so has a certificate to show
	Postscreen bool // postscreen answers first; TLS there is tlsproxy(8)'s
	Proxy      bool // wants a PROXY protocol header first
	Pass       bool // gets its connections passed by postscreen: cannot be dialled

	Reason string // why it has no TLS, or cannot be asked; empty if it can
}

// ID names the service as postconf -M takes it: "submission/inet".
func (l Listener) ID() string { return l.Service + "/" + l.Type }

// Host is what listeners depend on beyond the configuration. Nil functions
// know nothing.
type Host struct {
	Interfaces []string                   // the host's own addresses, without a zone; empty: not known
	Resolve    func(name string) []string // addresses of a name (hosts(5), DNS)
	Services   func(name string) int      // TCP port of a name (services(5)), 0 if there is none
}

// Listeners are the enabled service entries of smtpd and postscreen, in the
// order of master.cf. It honours master_service_disable, inet_interfaces,
// inet_protocols and addresses in service names; a wildcard is to be asked on
// 127.0.0.1 and ::1, anything else on its own address. Of two entries for one
// endpoint the last holds, as master(8) warns; the others are left out.
func (s Snapshot) Listeners(host Host) []Listener {
	var out []Listener
	endpoints := map[string]int{}
	for i, v := range s.Services {
		if s.Disabled(v.ID()) {
			continue
		}
		endpoints[s.endpoint(v, host)] = i
	}
	for i, v := range s.Services {
		program := v.program()
		if program != "smtpd" && program != "postscreen" || s.Disabled(v.ID()) || endpoints[s.endpoint(v, host)] != i {
			continue
		}
		l := Listener{Service: v.Name, Type: v.Type, Line: v.Line, Postscreen: program == "postscreen", Pass: v.Type == "pass"}
		at := s.only(v)
		at.tlsOf(&l)
		at.addressesOf(&l, v, host)
		out = append(out, l)
	}
	return out
}

// only is the snapshot in which this entry is the one its ID names, for the
// rare master.cf that names a service twice.
func (s Snapshot) only(v Service) Snapshot {
	s.Services = []Service{v}
	return s
}

// endpoint is what master(8) tells services apart by: the type with the port
// number and address, or the path of the socket.
func (s Snapshot) endpoint(v Service, host Host) string {
	if v.Type != "inet" {
		return v.Type + " " + socketClass(v) + "/" + v.Name
	}
	h, port := splitHostPort(v.Name)
	if n := s.port(port, host); n > 0 {
		return fmt.Sprintf("inet %s %d", strings.Trim(h, "[]"), n)
	}
	return "inet " + v.Name
}

func socketClass(v Service) string {
	if v.Private == "n" {
		return "public"
	}
	return "private"
}

// Disabled tells whether master_service_disable names a service: a list of
// types ("inet") and name/type or name.type patterns, "!" negating, the first
// match deciding (postconf(5)). With inet_protocols empty no inet service runs.
func (s Snapshot) Disabled(id string) bool {
	patterns := listOf(s.exact("", "master_service_disable"))
	if v4, v6 := s.protocols(); !v4 && !v6 {
		patterns = append([]string{"inet"}, patterns...)
	}
	for _, p := range patterns {
		if i := strings.LastIndexByte(p, '.'); i >= 0 && !strings.Contains(p, "/") {
			p = p[:i] + "/" + p[i+1:]
		}
		name := strings.TrimLeft(p, "!")
		subject := id
		if !strings.Contains(name, "/") {
			subject = id[strings.LastIndexByte(id, '/')+1:]
		}
		if strings.EqualFold(subject, name) {
			return (len(p)-len(name))%2 == 0
		}
	}
	return false
}

// listOf splits a list of names or files.
func listOf(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(listBlank, r) })
}

// protocols is what inet_protocols allows.
func (s Snapshot) protocols() (v4, v6 bool) {
	for _, p := range listOf(strings.ToLower(s.exact("", "inet_protocols"))) {
		v4 = v4 || p == "ipv4" || p == "all"
		v6 = v6 || p == "ipv6" || p == "all"
	}
	return v4, v6
}

// tlsOf decides what a listener does with TLS, as smtpd and postscreen do when
// they start.
func (s Snapshot) tlsOf(l *Listener) {
	get := func(name string) string { return s.Effective(l.ID(), name) }
	yes := func(name string) bool { return strings.EqualFold(get(name), "yes") }
	prefix := "smtpd_"
	if l.Postscreen {
		prefix = "postscreen_"
	}
	l.Proxy = get(prefix+"upstream_proxy_protocol") != ""
	if !l.Postscreen && yes("smtpd_tls_wrappermode") {
		l.Implicit, l.TLS = true, true // whatever the level says
		return
	}
	name := prefix + "tls_security_level"
	level := strings.ToLower(get(name))
	switch level {
	case "":
		l.TLS = yes(prefix+"use_tls") || yes(prefix+"enforce_tls")
		if !l.TLS {
			l.Reason = name + " is empty: TLS is off"
		}
	case "none":
		l.Reason = name + " is none: TLS is off"
	case "may", "encrypt", "fingerprint", "verify", "secure":
		l.TLS = true
	default:
		l.Reason = fmt.Sprintf("%s is %q, which is no level of a server", name, level)
	}
	for _, word := range listOf(get(prefix + "discard_ehlo_keywords")) {
		if strings.EqualFold(word, "starttls") && l.TLS {
			l.TLS, l.Reason = false, prefix+"discard_ehlo_keywords hides STARTTLS"
		}
	}
}

// addressesOf decides what to dial.
func (s Snapshot) addressesOf(l *Listener, v Service, host Host) {
	refuse := func(format string, args ...any) {
		if l.Reason == "" {
			l.Reason = fmt.Sprintf(format, args...)
		}
	}
	if v.Type != "inet" {
		l.Network = "unix"
		l.Addresses = []string{path.Join(s.Effective("", "queue_directory"), socketClass(v), v.Name)}
		if l.Pass {
			l.Addresses = nil
			refuse("type pass: connections come from postscreen")
		}
		return
	}
	l.Network = "tcp"
	name, portName := splitHostPort(v.Name)
	port := s.port(portName, host)
	if port == 0 {
		refuse("no TCP port is known for %q", portName)
		return
	}
	for _, a := range s.listenOn(name, host) {
		if strings.Contains(a, ":") {
			a = "[" + a + "]"
		}
		l.Addresses = append(l.Addresses, fmt.Sprintf("%s:%d", a, port))
	}
	if len(l.Addresses) == 0 {
		refuse("no address to listen on: inet_interfaces = %s, inet_protocols = %s", s.Effective("", "inet_interfaces"), s.Effective("", "inet_protocols"))
	}
	slices.Sort(l.Addresses)
	l.Addresses = slices.Compact(l.Addresses)
}
