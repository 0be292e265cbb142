package cf

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"postcert/verify/problem"
)

// certificateParameters are the parameters a service may override, with the
// given beginning.
func certificateParameters(prefix string) []string {
	out := []string{prefix + "chain_files"}
	for _, names := range slotNames {
		out = append(out, prefix+names[0], prefix+names[1])
	}
	return out
}

// overrides judges every service that takes a certificate: does it follow
// main.cf, has it one of its own on purpose, or would it go on serving the old?
func (d *decision) overrides() {
	main := d.before.material("", "smtpd_tls_")
	want := d.now().material("", "smtpd_tls_")
	for _, v := range d.certificateServices() {
		id, prefix := v.ID(), prefixOf(v)
		before, after := d.before.material(id, prefix), d.now().material(id, prefix)
		followed := before.equal(main)
		moves := after.equal(want)
		if moves && (followed || before.equal(after)) {
			continue
		}
		intent := !followed && d.intended(before)
		switch {
		case moves && !intent:
		case intent && after.equal(before):
			d.leave(v, prefix)
		case !d.target.AdoptOverrides:
			d.overridePresent(v, prefix, before, intent)
		case !moves:
			d.place(id, prefix)
			d.standAlone(id, prefix)
			if !d.holds(d.now().material(id, prefix)) {
				d.overridePresent(v, prefix, before, false)
			}
		}
	}
}

// standAlone gives a service whose overrides are changed also those parameters
// that it would get from the new main.cf, if it needs them: then it serves the pair
// with the old main.cf too, and master.cf can be changed and read first. A process
// that has an override of the key, and starts between the two, would else have a
// certificate and a key of two pairs, whichever file goes first.
func (d *decision) standAlone(id, prefix string) {
	own := slices.DeleteFunc(slices.Clone(d.Edits), func(e Edit) bool { return e.Service != id })
	serves := func(edits []Edit) bool { return d.holds(d.before.assume(edits).material(id, prefix)) }
	if len(own) == 0 || serves(own) {
		return
	}
	more := own
	for _, e := range d.Edits {
		if e.Service != "" || !slices.Contains(certificateParameters("smtpd_tls_"), e.Parameter) {
			continue
		}
		// tlsproxy's parameters have those of smtpd as their defaults.
		name := strings.Replace(e.Parameter, "smtpd_tls_", prefix, 1)
		value := strings.ReplaceAll(*e.New, "$smtpd_tls_", "$"+prefix)
		v, _ := d.now().Service(id)
		if _, there := v.override(name); !there {
			more = append(more, d.before.Edit(id, name, &value))
		}
	}
	if serves(more) {
		d.Edits = append(d.Edits, more[len(own):]...)
	}
}

// certificateServices are the enabled smtpd services that offer TLS, and
// tlsproxy where postscreen offers it.
func (d *decision) certificateServices() []Service {
	now := d.now()
	var out []Service
	postscreen := false
	for _, l := range now.Listeners(Host{}) {
		if v, ok := d.before.Service(l.ID()); ok && l.TLS && !l.Postscreen {
			out = append(out, v)
		}
		postscreen = postscreen || l.TLS && l.Postscreen
	}
	if v, ok := d.before.tlsproxy(); ok && postscreen {
		out = append(out, v)
	}
	return out
}

// intended tells whether somebody means these files to be served: a trusted,
// valid certificate with a name that the new pair does not have.
func (d *decision) intended(m material) bool {
	p := d.target.Look(m.files()...)
	if p.Err != nil || !p.Trusted || p.Expired {
		return false
	}
	return slices.ContainsFunc(p.Names, func(name string) bool {
		return !slices.ContainsFunc(d.target.Names, func(own string) bool { return strings.EqualFold(name, own) })
	})
}

// holders are the overrides that make a service differ from main.cf: those of
// certificate parameters and, of those, the parameters their values name.
func (d *decision) holders(v Service, prefix string) []ServiceOverride {
	var out []ServiceOverride
	names := certificateParameters(prefix)
	if prefix != "smtpd_tls_" {
		names = append(names, certificateParameters("smtpd_tls_")...)
	}
	seen := map[string]bool{}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		value, _ := d.before.lookup(v.ID())(name)
		if o, ok := v.override(name); ok {
			out = append(out, ServiceOverride{v.ID(), o})
		}
		names = append(names, references(value)...)
	}
	return out
}

// leave records the overrides of a service that has its own certificate.
func (d *decision) leave(v Service, prefix string) {
	d.Left = append(d.Left, d.holders(v, prefix)...)
}

// overridePresent refuses a service that does not follow main.cf, or that has
// its own certificate on purpose but would lose it, or its key, to the edits.
func (d *decision) overridePresent(v Service, prefix string, before material, intent bool) {
	at := problem.At{File: d.before.Master.Path, Line: v.Line, Service: v.ID()}
	what := prefix + "* of main.cf"
	if all := d.holders(v, prefix); len(all) > 0 {
		at.Line, at.Parameter = all[0].Line, all[0].Name
		what = fmt.Sprintf("-o %s=%s", all[0].Name, all[0].Value)
		if holder := d.holder(v.ID(), all[0].Value); holder != "" {
			what += " (which is " + holder + ")"
		}
	} else {
		for _, name := range certificateParameters(prefix) {
			if d.before.Set[name] {
				at = d.at("", name)
				at.Service = v.ID()
				what = name
				break
			}
		}
	}
	because := "would go on naming " + strings.Join(before.files(), ", ")
	if intent {
		because = "names a certificate of its own, " + strings.Join(before.files(), ", ") + ", part of which follows main.cf and would change"
	}
	d.refuse("override_present", at, "%s (%s, line %d): %s %s; --adopt-overrides makes it follow", v.ID(), filepath.Base(at.File), at.Line, what, because)
}

// holder follows a value that is nothing but a reference to the parameter that
// really holds the path, and says where that is set; "" if it is no reference.
func (d *decision) holder(service, value string) string {
	name := ""
	for range maxNesting {
		refs := references(value)
		if len(refs) != 1 || !slices.Contains([]string{"$" + refs[0], "${" + refs[0] + "}", "$(" + refs[0] + ")"}, value) {
			break
		}
		name = refs[0]
		value, _ = d.before.lookup(service)(name)
	}
	if name == "" {
		return ""
	}
	file, line := d.before.Source(service, name)
	if line == 0 {
		return name
	}
	return fmt.Sprintf("%s, set in %s, line %d", name, filepath.Base(file), line)
}

// references are the parameters a value names, without evaluating it.
func references(value string) []string {
	var out []string
	for i := 0; i < len(value); i++ {
		if value[i] != '$' {
			continue
		}
		j := i + 1
		for j < len(value) && (value[j] == '{' || value[j] == '(' || isSpace(value[j])) {
			j++
		}
		from := j
		for j < len(value) && isNameByte(value[j]) {
			j++
		}
		if j > from {
			out = append(out, value[from:j])
		}
	}
	return out
}
