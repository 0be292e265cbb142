package cf

import (
	"slices"
	"strings"

	"postcert/verify/problem"
)

// Present is what lies in files that Postfix reads together now, as the caller
// found it.
type Present struct {
	KeyTypes []string // of the private keys in them, in order: rsa, ecdsa, ed25519; none: only certificates
	Names    []string // DNS names of the leaf
	Trusted  bool     // its chain leads to a trust anchor
	Expired  bool     // or is not valid yet
	Err      error    // a file is missing or cannot be used
}

// Layout of the installed pair.
const (
	Auto = "auto" // one file, key first: Target.Path
	Pair = "pair" // Target.CertPath and Target.KeyPath
	Keep = "keep" // nothing is edited: what is configured stays
)

// Target is the pair to be served and how far a plan may go.
type Target struct {
	Path    string   // absolute path of the one file (layout auto)
	KeyType string   // rsa, ecdsa or ed25519
	Names   []string // DNS names of the pair, wildcards as they stand in it

	Layout            string // Auto (also ""), Pair or Keep
	CertPath, KeyPath string // absolute paths for layout pair

	Service        string // only this service ("submissions/inet"); "" is main.cf
	Enable         bool   // switch TLS on where smtpd_tls_security_level is empty
	AdoptOverrides bool   // change overrides that would go on serving something else
	AllowClient    bool   // client certificates may follow by reference

	SNINames []string // keys found in the tables of tls_server_sni_maps; nil: not read

	// Look reads files, given as absolute paths, that Postfix reads together.
	Look func(paths ...string) Present
}

// ServiceOverride is an override with the ID of its service.
type ServiceOverride struct {
	Service string
	Override
}

// Scheme is the decision: what to edit so that the pair is served.
type Scheme struct {
	Kind       string            // chain_files, legacy, pair or keep
	Edits      []Edit            // none if everything stands already
	Problems   problem.List      // what refuses, and what has to be said
	Dependants []string          // other parameters whose value moves by reference: "name" or "service/type:name"
	Left       []ServiceOverride // overrides that name a certificate of their own: untouched, to be proven unchanged
	Files      []string          // what Services read for their certificate after the edits
	Services   []string          // IDs of the services that will serve the pair
}

// CertificateEdits decides which parameters have to change for a pair to be
// served. It follows what is in effect, per service; it reads nothing but the
// snapshot and what Target.Look says. Problems it reports:
//
//   - tls_not_enabled: no service offers TLS.
//   - service_unknown: Target.Service is not in master.cf, or has no certificate.
//   - override_present: a service names the old or an unusable certificate by
//     itself, or would have its own taken away. AdoptOverrides changes it.
//   - stale_slot: another certificate slot names a file that cannot be read,
//     so whether it would win over the new pair cannot be known.
//   - mixed_chain_file: one file holds keys of several types, so that one of
//     them cannot be replaced.
//   - client_certificate_follows: a client's certificate moves by reference.
//   - sni_maps_present: tls_server_sni_maps answers for a name of the pair
//     (refused), or it is not known for which names it answers (warning).
//   - legacy_ignored (warning): smtpd_tls_chain_files is set beside the legacy
//     parameters, which Postfix then ignores.
//   - key_type_changed (warning): a certificate of another key type goes.
func (s Snapshot) CertificateEdits(t Target) Scheme {
	if t.Look == nil {
		t.Look = func(...string) Present { return Present{} }
	}
	d := &decision{before: s, target: t}
	prefix, ok := d.context()
	if !ok {
		return d.Scheme
	}
	if t.Layout == Keep {
		d.Kind = Keep
	} else {
		d.place(t.Service, prefix)
		d.enable()
		if t.Service == "" {
			d.overrides()
		}
	}
	d.follow()
	d.sni()
	d.serving()
	return d.Scheme
}

// decision is a Scheme in the making.
type decision struct {
	Scheme
	before Snapshot
	target Target
}

func (d *decision) refuse(id string, at problem.At, format string, args ...any) {
	d.Problems = append(d.Problems, problem.New(id, at, format, args...))
}

func (d *decision) warn(id string, at problem.At, format string, args ...any) {
	d.Problems = append(d.Problems, problem.Warn(id, at, format, args...))
}

// at is the place where a parameter is set for a service.
func (d *decision) at(service, name string) problem.At {
	file, line := d.before.Source(service, name)
	return problem.At{File: file, Line: line, Parameter: name, Service: service}
}

// now is the snapshot with the edits planned so far.
func (d *decision) now() Snapshot { return d.before.assume(d.Edits) }

// context checks Target.Service and chooses the parameters it reads.
func (d *decision) context() (prefix string, ok bool) {
	id := d.target.Service
	if id == "" {
		return "smtpd_tls_", true
	}
	v, found := d.before.Service(id)
	if !found {
		d.refuse("service_unknown", problem.At{File: d.before.Master.Path, Service: id}, "master.cf has no service %s", id)
		return "", false
	}
	if p := v.program(); p != "smtpd" && p != "tlsproxy" {
		d.refuse("service_unknown", problem.At{File: d.before.Master.Path, Line: v.Line, Service: id}, "%s is run by %s, which serves no certificate of its own", id, p)
		return "", false
	}
	return prefixOf(v), true
}

// prefixOf is how the parameters begin that a daemon takes its certificate from.
func prefixOf(v Service) string {
	if v.program() == "tlsproxy" {
		return "tlsproxy_tls_"
	}
	return "smtpd_tls_"
}

// set plans a parameter, unless that value is in effect already.
func (d *decision) set(service, name, value string) {
	now := d.now()
	if entry, ok := d.before.Service(service); ok && service != d.target.Service {
		// A tlsproxy parameter that main.cf sets is changed there.
		if _, own := entry.override(name); !own && d.before.Set[name] && strings.HasPrefix(name, "tlsproxy_") {
			service = ""
		}
	}
	e := d.before.Edit(service, name, &value)
	next := now.assume([]Edit{e})
	resolved := func(s Snapshot) []string {
		var out []string
		for _, f := range listOf(s.exact(service, name)) {
			out = append(out, s.ResolvePath(f))
		}
		return out
	}
	if slices.Equal(resolved(now), resolved(next)) {
		return
	}
	for i := range d.Edits {
		if d.Edits[i].Service == service && d.Edits[i].Parameter == name {
			d.Edits[i] = e
			return
		}
	}
	d.Edits = append(d.Edits, e)
}

// enable switches TLS on where that is asked for and nothing says otherwise,
// and refuses when no service offers TLS.
func (d *decision) enable() {
	const name = "smtpd_tls_security_level"
	id := d.target.Service
	get := func(n string) string { return strings.ToLower(d.before.Effective(id, n)) }
	if d.target.Enable && get(name) == "" && get("smtpd_use_tls") != "yes" && get("smtpd_enforce_tls") != "yes" && get("smtpd_tls_wrappermode") != "yes" {
		d.set(id, name, "may")
	}
}

// tlsServices are the enabled services that offer TLS; of Target.Service, if
// one is given, only that.
func (d *decision) tlsServices(s Snapshot) []Listener {
	var out []Listener
	for _, l := range s.Listeners(Host{}) {
		if l.TLS && (d.target.Service == "" || d.target.Service == l.ID()) {
			out = append(out, l)
		}
	}
	return out
}

// serving lists who will serve the pair, and refuses if nobody offers TLS.
func (d *decision) serving() {
	now := d.now()
	listeners := d.tlsServices(now)
	if proxy, ok := now.Service(d.target.Service); ok && proxy.program() == "tlsproxy" {
		d.Services = []string{proxy.ID()}
		d.Files = now.material(proxy.ID(), prefixOf(proxy)).files()
		return
	}
	if len(listeners) == 0 {
		const name = "smtpd_tls_security_level"
		d.refuse("tls_not_enabled", d.at(d.target.Service, name), "no service offers TLS: %s is %q", name, now.Effective(d.target.Service, name))
		return
	}
	for _, l := range listeners {
		id, prefix := l.ID(), "smtpd_tls_"
		if l.Postscreen {
			proxy, ok := now.tlsproxy()
			if !ok {
				continue
			}
			id, prefix = proxy.ID(), "tlsproxy_tls_"
		}
		m := now.material(id, prefix)
		if d.Kind != Keep && !d.holds(m) {
			continue
		}
		d.Services = append(d.Services, l.ID())
		for _, f := range m.files() {
			if !slices.Contains(d.Files, f) {
				d.Files = append(d.Files, f)
			}
		}
	}
}

// tlsproxy is the service entry that speaks TLS for postscreen.
func (s Snapshot) tlsproxy() (Service, bool) {
	for _, v := range s.byIDInOrder() {
		if v.program() == "tlsproxy" && !s.Disabled(v.ID()) {
			return v, true
		}
	}
	return Service{}, false
}

// byIDInOrder is the entries that hold, one per ID, in the order of master.cf.
func (s Snapshot) byIDInOrder() []Service {
	var out []Service
	for i, v := range s.Services {
		if !slices.ContainsFunc(s.Services[i+1:], func(w Service) bool { return w.ID() == v.ID() }) {
			out = append(out, v)
		}
	}
	return out
}

// follow finds what else moves: parameters that name an edited one.
func (d *decision) follow() {
	if len(d.Edits) == 0 {
		return
	}
	now := d.now()
	edited := map[string]bool{}
	for _, e := range d.Edits {
		edited[e.Service+":"+e.Parameter] = true
	}
	var clients []string
	for _, name := range union(d.before.Parameters, d.before.Expanded) {
		if edited[":"+name] || d.before.Effective("", name) == now.Effective("", name) {
			continue
		}
		d.Dependants = append(d.Dependants, name)
		if clientSide(name) {
			clients = append(clients, name)
		}
	}
	for _, v := range d.before.byIDInOrder() {
		for _, name := range union(v.overrides(), nil) {
			key := v.ID() + ":" + name
			if edited[key] || d.before.Effective(v.ID(), name) == now.Effective(v.ID(), name) {
				continue
			}
			d.Dependants = append(d.Dependants, key)
			if p := v.program(); clientSide(name) && (p == "smtp" || p == "lmtp" || p == "tlsproxy") {
				clients = append(clients, key)
			}
		}
	}
	if len(clients) > 0 && !d.target.AllowClient {
		service, name, _ := strings.Cut(clients[0], ":")
		if name == "" {
			service, name = "", clients[0]
		}
		d.refuse("client_certificate_follows", d.at(service, name), "the certificate of the SMTP client would change too, by reference: %s", strings.Join(clients, ", "))
	}
}

// clientSide tells whether a parameter belongs to the SMTP or LMTP client.
func clientSide(name string) bool {
	return strings.HasPrefix(name, "smtp_") || strings.HasPrefix(name, "lmtp_") || strings.HasPrefix(name, "tlsproxy_client_")
}

// sni compares the names of the pair with those tls_server_sni_maps answers.
func (d *decision) sni() {
	const name = "tls_server_sni_maps"
	service := d.target.Service
	ids := []string{service}
	for _, l := range d.tlsServices(d.before) {
		ids = append(ids, l.ID())
	}
	i := slices.IndexFunc(ids, func(id string) bool { return d.before.Effective(id, name) != "" })
	if i < 0 {
		return
	}
	maps := d.before.Effective(ids[i], name)
	if d.target.SNINames == nil {
		d.warn("sni_maps_present", d.at(ids[i], name), "%s is %s: for which names it answers is not known; it is not changed", name, maps)
		return
	}
	for _, key := range d.target.SNINames {
		for _, own := range d.target.Names {
			if sniCovers(key, own) {
				d.refuse("sni_maps_present", d.at(ids[i], name), "%s (%s) answers for %s and would go on serving its own copy of the old certificate", name, maps, key)
				return
			}
		}
	}
}

// sniCovers tells whether a key of tls_server_sni_maps ("name", or ".parent"
// for all below it) and a name of a certificate meet.
func sniCovers(key, name string) bool {
	key, name = strings.ToLower(key), strings.ToLower(name)
	parent := func(s string) string { return s[strings.IndexByte(s+".", '.'):] }
	if below, ok := strings.CutPrefix(name, "*"); ok {
		return key == below || parent(key) == below || key != "" && key[0] == '.' && strings.HasSuffix(below, key)
	}
	return key == name || strings.HasPrefix(key, ".") && strings.HasSuffix(name, key)
}
