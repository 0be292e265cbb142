package audit

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// view is a configuration as rules look at it.
type view struct {
	cf.Snapshot
	facts     Facts
	listeners []cf.Listener
}

func newView(s cf.Snapshot, f Facts) *view {
	return &view{Snapshot: s, facts: f, listeners: s.Listeners(cf.Host{})}
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// words splits a list as Postfix does; more are further separators.
func words(value, more string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t\r\n"+more, r) })
}

func (v *view) yes(id, name string) bool { return strings.EqualFold(v.Effective(id, name), "yes") }

// at is where a parameter is set for a service, or where it would be.
func (v *view) at(id, name string) problem.At {
	file, line := v.Source(id, name)
	at := problem.At{File: file, Line: line, Parameter: name, Service: id}
	if line == 0 {
		at.File = v.Main.Path
		if e, ok := v.Service(id); ok {
			at.File, at.Line = v.Master.Path, e.Line
		}
	}
	return at
}

// entry is where a service entry begins.
func (v *view) entry(id string) problem.At {
	e, _ := v.Service(id)
	return problem.At{File: v.Master.Path, Line: e.Line, Service: id}
}

// set is the edit that gives a parameter a value in main.cf ("") or for a
// service.
func (v *view) set(id, name, value string) cf.Edit { return v.Edit(id, name, &value) }

// unset is the edit that takes a parameter away.
func (v *view) unset(id, name string) cf.Edit { return v.Edit(id, name, nil) }

// group is the services that have one value of a parameter from one place.
type group struct {
	in    string   // where it is set: "" is main.cf, or nowhere; else the service that overrides it
	value string   // effective
	ids   []string // who has it
	at    problem.At
}

// of names the services in a sentence.
func (g group) of() string {
	var out []string
	for _, id := range g.ids {
		if id != "" {
			out = append(out, id)
		}
	}
	if len(out) == 0 {
		return "main.cf"
	}
	return strings.Join(out, ", ")
}

// groups asks several services for a parameter: what stands once in main.cf is
// one thing to say, not one for each service.
func (v *view) groups(name string, ids []string) []group {
	var out []group
	for _, id := range ids {
		g := group{value: v.Effective(id, name), ids: []string{id}, at: v.at("", name)}
		if v.overrides(id, name) {
			g.in, g.at = id, v.at(id, name)
		}
		i := slices.IndexFunc(out, func(o group) bool { return o.in == g.in && o.value == g.value })
		if i < 0 {
			out = append(out, g)
			continue
		}
		out[i].ids = append(out[i].ids, id)
	}
	return out
}

// overrides tells whether a service entry sets a parameter by itself.
func (v *view) overrides(id, name string) bool {
	e, ok := v.Service(id)
	return ok && slices.ContainsFunc(e.Overrides, func(o cf.Override) bool { return o.Name == name })
}

// program is the daemon of a service, such as smtpd.
func (v *view) program(id string) string { return filepath.Base(v.Program(id)) }

// running are the enabled services of a program, each once.
func (v *view) running(programs ...string) []string {
	var out []string
	for _, e := range v.Services {
		if id := e.ID(); contains(programs, v.program(id)) && !v.Disabled(id) && !contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// servers are the smtpd services that somebody can reach.
func (v *view) servers() []string {
	var out []string
	for _, l := range v.listeners {
		if !l.Postscreen {
			out = add(out, l.ID())
		}
	}
	return out
}

// tlsServers are those of them that offer TLS, and tlsproxy, which does it for
// postscreen.
func (v *view) tlsServers() []string {
	var out []string
	for _, l := range v.listeners {
		if l.TLS && !l.Postscreen {
			out = add(out, l.ID())
		}
	}
	return out
}

// clients are the services that deliver by SMTP or LMTP.
func (v *view) clients() []string { return v.running("smtp", "lmtp") }

// clientPrefix is what the client parameters of a service begin with. One binary
// is both: started as lmtp it reads lmtp_* (lmtp(8)).
func (v *view) clientPrefix(id string) string {
	if id != "" && v.program(id) == "lmtp" {
		return "lmtp_"
	}
	return "smtp_"
}

// smtpClients are main.cf and the services of smtp(8) that differ from it.
func (v *view) smtpClients() []string { return append([]string{""}, v.running("smtp")...) }

// ports are the ports that rules know by number.
const (
	smtpPort        = 25
	submissionPort  = 587
	submissionsPort = 465
)

// portOf is the port of a listener. Names are those of known_tcp_ports, which is
// what IANA registered (RFC 6335); one that is not among them is no port of ours.
func portOf(l cf.Listener) int {
	if l.Type == "pass" {
		return smtpPort // behind postscreen(8)
	}
	if l.Type != "inet" {
		return 0
	}
	name := l.Service[strings.LastIndexByte(l.Service, ':')+1:]
	switch name {
	case "smtp", "25":
		return smtpPort
	case "submission", "587":
		return submissionPort
	case "submissions", "smtps", "urd", "465":
		return submissionsPort
	}
	return 0
}

// on are the smtpd listeners on a port.
func (v *view) on(port int) []cf.Listener {
	var out []cf.Listener
	for _, l := range v.listeners {
		if portOf(l) == port && !l.Postscreen {
			out = append(out, l)
		}
	}
	return out
}

// UserServices are the services that answer on the submission ports, 587 and 465.
func UserServices(s cf.Snapshot) []string {
	v := newView(s, Facts{})
	var out []string
	for _, l := range append(v.on(submissionPort), v.on(submissionsPort)...) {
		out = add(out, l.ID())
	}
	return out
}

// public tells whether hosts other than this one can reach a listener, as far as
// the configuration says.
func (v *view) public(l cf.Listener) bool {
	local := func(s string) bool {
		s = strings.Trim(s, "[]")
		return s == "localhost" || s == "loopback-only" || s == "::1" || strings.HasPrefix(s, "127.")
	}
	if i := strings.LastIndexByte(l.Service, ':'); l.Type == "inet" && i >= 0 {
		return !local(l.Service[:i])
	}
	return slices.ContainsFunc(words(v.Effective("", "inet_interfaces"), ""), func(s string) bool { return !local(s) })
}

// chrooted tells whether a service runs in the queue directory. master(5): "-" is
// the default, which is no since Postfix 3.0 unless compatibility_level is 0.
func (v *view) chrooted(id string) bool {
	e, ok := v.Service(id)
	switch {
	case !ok:
		return false
	case e.Chroot == "-":
		return strings.TrimSpace(v.Effective("", "compatibility_level")) == "0"
	}
	return e.Chroot == "y"
}

// pair is where a daemon reads one key and its certificate.
type pair struct {
	parameter string // that names the certificate
	cert, key string // absolute paths; the same if one file holds both
}

func (p pair) files() []string { return []string{p.cert, p.key} }

// slots are the legacy parameters, in the order in which Postfix loads them.
var slots = [][2]string{{"cert_file", "key_file"}, {"dcert_file", "dkey_file"}, {"eccert_file", "eckey_file"}}

// pairs are what a service reads its certificates from; with chain files, which
// come first, the other parameters are ignored (postconf(5) smtpd_tls_chain_files).
func (v *view) pairs(id, prefix string) []pair {
	var out []pair
	for _, f := range words(v.Effective(id, prefix+"chain_files"), "") {
		f = v.ResolvePath(f)
		out = append(out, pair{prefix + "chain_files", f, f})
	}
	if out != nil {
		return out
	}
	for _, s := range slots {
		cert, key := v.Effective(id, prefix+s[0]), v.Effective(id, prefix+s[1])
		if cert == "" || strings.EqualFold(cert, "none") {
			continue
		}
		if key == "" {
			key = cert
		}
		out = append(out, pair{prefix + s[0], v.ResolvePath(cert), v.ResolvePath(key)})
	}
	return out
}

// trust is where trust anchors are looked for.
type trust struct {
	id, prefix         string // who, by parameters that begin so
	file, path, jailed string // CAfile; CApath; the same seen from the chroot, "" if there is none
	system             bool   // the anchors that OpenSSL was built with count too
}

// trusts are those of all clients and servers, once for each place in which they
// are set.
func (v *view) trusts() []trust {
	var out []trust
	take := func(id, prefix string) {
		t := trust{id: id, prefix: prefix, file: v.ResolvePath(v.Effective(id, prefix+"CAfile")), path: v.ResolvePath(v.Effective(id, prefix+"CApath")), system: v.yes(id, "tls_append_default_CA")}
		if t.path != "" && v.chrooted(id) {
			t.jailed = path.Join(v.Effective("", "queue_directory"), t.path)
		}
		out = append(out, t)
	}
	for _, id := range v.tlsServers() {
		take(id, "smtpd_tls_")
	}
	for _, id := range v.clients() {
		take(id, v.clientPrefix(id)+"tls_")
	}
	return out
}

// file is what was found at a path; known is false if nobody looked.
func (v *view) file(path string) (f File, known bool) {
	f, known = v.facts.Files[path]
	return f, known
}

// short is a path's last part, for sentences in which the place has the rest.
func short(at problem.At) string {
	if at.Line == 0 {
		return filepath.Base(at.File)
	}
	return fmt.Sprintf("%s, line %d", filepath.Base(at.File), at.Line)
}
