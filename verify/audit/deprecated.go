package audit

import (
	"fmt"
	"strings"

	"postcert/deploy/postfix/cf"
)

// The rules about parameters that Postfix is going to drop, and settings from
// the time when they were advice.
var deprecatedRules = []Rule{
	{
		ID: "deprecated_level", Title: "an old parameter decides whether TLS is used", Severity: Warning,
		Why:  "it will be removed from Postfix, which warns of it since 3.9, and has no effect beside the new one",
		Cite: "DEPRECATION_README; postconf(5) smtpd_use_tls, smtp_use_tls", check: deprecatedLevel,
	},
	{
		ID: "deprecated_per_site", Title: "a per-site table of the old kind", Severity: Warning,
		Why:  "it will be removed from Postfix, and cannot say which name a certificate must have",
		Cite: "DEPRECATION_README; TLS_README; postconf(5) smtp_tls_per_site", check: deprecatedPerSite,
	},
	{
		ID: "deprecated_eecdh_grade", Title: "smtpd_tls_eecdh_grade is set", Severity: Warning, Since: "3.6",
		Why:  "Postfix ignores it since 3.6 and warns of it since 3.9",
		Cite: "postconf(5) smtpd_tls_eecdh_grade", check: simply("smtpd_tls_eecdh_grade"),
	},
	{
		ID: "deprecated_dh_file", Title: "smtpd_tls_dh1024_param_file is set", Severity: Warning, Since: "3.9",
		Why:  "Postfix warns that it will be removed, and the library chooses better parameters by itself",
		Cite: "postconf(5) smtpd_tls_dh1024_param_file", check: simply("smtpd_tls_dh1024_param_file"),
	},
	{
		ID: "mandatory_protocols_old", Title: "only old versions of TLS are allowed where TLS is mandatory", Severity: Error,
		Why:  "a list of names allows these and no other, so TLS 1.2 and 1.3, which peers insist on, are off",
		Cite: "postconf(5) smtpd_tls_mandatory_protocols; RFC 8996", check: mandatoryProtocolsOld,
	},
}

// family is a set of parameters with one meaning, for one kind of daemon.
type family struct {
	prefix   string   // of use_tls and enforce_tls
	level    string   // the parameter that replaces them
	programs []string // who reads them
}

var families = []family{
	{"smtpd_", "smtpd_tls_security_level", []string{"smtpd"}},
	{"smtp_", "smtp_tls_security_level", []string{"smtp"}},
	{"lmtp_", "lmtp_tls_security_level", []string{"lmtp"}},
	{"postscreen_", "postscreen_tls_security_level", []string{"postscreen"}},
	{"tlsproxy_", "tlsproxy_tls_security_level", []string{"tlsproxy"}},
}

// old are the parameters of a family that are to go.
func (f family) old() []string {
	out := []string{f.prefix + "use_tls", f.prefix + "enforce_tls"}
	if f.prefix == "smtp_" || f.prefix == "lmtp_" {
		out = append(out, f.prefix+"tls_enforce_peername")
	}
	return out
}

// oldLevel is what the old parameters mean where no level is set (smtpd.c,
// pre_jail_init; smtp_tls_policy.c, global_tls_level).
func (v *view) oldLevel(id, prefix string) string {
	switch {
	case v.yes(id, prefix+"enforce_tls"):
		if (prefix == "smtp_" || prefix == "lmtp_") && v.yes(id, prefix+"tls_enforce_peername") {
			return "verify"
		}
		return "encrypt"
	case v.yes(id, prefix+"use_tls"):
		return "may"
	}
	return "none"
}

// effective is the level of a service, whichever parameters say it.
func (f family) effective(v *view, id string) string {
	if level := strings.ToLower(v.Effective(id, f.level)); level != "" {
		return level
	}
	return v.oldLevel(id, f.prefix)
}

func deprecatedLevel(v *view) (out []*Finding) {
	for _, f := range families {
		places := f.places(v)
		if len(places) == 0 {
			continue
		}
		edits := f.replace(v, places)
		for _, p := range places {
			level := v.Effective(p.in, f.level)
			set := p.name + " = " + v.Effective(p.in, p.name)
			message := fmt.Sprintf("%s means %s = %s", set, f.level, f.effective(v, p.in))
			switch {
			case level != "":
				message = fmt.Sprintf("%s has no effect beside %s = %s", set, f.level, level)
			case strings.HasSuffix(p.name, "_peername"):
				message = fmt.Sprintf("%s is part of what %s says now", set, f.level)
			}
			out = append(out, found(v.at(p.in, p.name), "say it with "+f.level+" alone", "%s", message).with(edits...))
		}
	}
	return out
}

// place is a parameter that is set, in main.cf or for a service.
type place struct{ in, name string }

func (f family) places(v *view) (out []place) {
	for _, in := range append([]string{""}, v.running(f.programs...)...) {
		for _, name := range f.old() {
			if in == "" && v.Set[name] || in != "" && v.overrides(in, name) {
				out = append(out, place{in, name})
			}
		}
	}
	return out
}

// replace are the edits that take the old parameters away, with the level of
// main.cf and of each service as it was. They belong together.
func (f family) replace(v *view, places []place) (edits []cf.Edit) {
	main := f.effective(v, "")
	// Only where an old parameter decided: a default that says may, as that of
	// Postfix 3.11 does, goes on saying it.
	if v.Effective("", f.level) == "" && main != "none" {
		edits = append(edits, v.set("", f.level, main))
	}
	for _, id := range v.running(f.programs...) {
		own := v.overrides(id, f.level)
		level := f.effective(v, id)
		switch {
		case own && v.Effective(id, f.level) != "":
		case !own && level == main:
		default:
			edits = append(edits, v.set(id, f.level, level))
		}
	}
	for _, p := range places {
		edits = append(edits, v.unset(p.in, p.name))
	}
	return edits
}

func deprecatedPerSite(v *view) (out []*Finding) {
	for _, name := range []string{"smtp_tls_per_site", "lmtp_tls_per_site"} {
		for _, in := range v.places(name) {
			maps := strings.Replace(name, "per_site", "policy_maps", 1)
			out = append(out, found(v.at(in, name), "write its entries as policies for "+maps, "%s = %s", name, v.Effective(in, name)))
		}
	}
	return out
}

// places are where a parameter is set: "" for main.cf, and each service that
// overrides it.
func (v *view) places(name string) (out []string) {
	if v.Set[name] {
		out = append(out, "")
	}
	for _, e := range v.Services {
		if id := e.ID(); v.overrides(id, name) && !v.Disabled(id) && !contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// simply reports a parameter that is set anywhere; taking it away changes
// nothing that matters.
func simply(name string) func(*view) []*Finding {
	return func(v *view) (out []*Finding) {
		for _, in := range v.places(name) {
			out = append(out, found(v.at(in, name), "take it away", "%s = %s", name, v.Effective(in, name)).with(v.unset(in, name)))
		}
		return out
	}
}

func mandatoryProtocolsOld(v *view) (out []*Finding) {
	for _, name := range []string{"smtpd_tls_mandatory_protocols", "smtp_tls_mandatory_protocols", "lmtp_tls_mandatory_protocols"} {
		for _, in := range v.places(name) {
			value := v.Effective(in, name)
			p := parseProtocols(value, v.Version)
			if p.bad != "" || !p.positive || p.allows("TLSv1.2") || p.allows("TLSv1.3") || len(p.allowed()) == 0 {
				continue
			}
			out = append(out, found(v.at(in, name), "take it away: the default of this Postfix is right", "%s = %s allows %s only", name, value, strings.Join(p.allowed(), ", ")).
				with(v.unset(in, name)))
		}
	}
	return out
}
