package audit

import (
	"slices"
	"strings"
)

// The rules about mail that goes out, and about trust anchors.
var outboundRules = []Rule{
	{
		ID: "outbound_level_invalid", Title: "the level of outgoing mail is no level", Severity: Error,
		Why:  "smtp ends when it reads it, and all mail stays in the queue",
		Cite: "postconf(5) smtp_tls_security_level", check: outboundLevelInvalid,
	},
	{
		ID: "outbound_none", Title: "outgoing mail is never encrypted", Severity: Warning,
		Why:  "at level may it is wherever the other server offers it, and mail still reaches the others",
		Cite: "RFC 7435; postconf(5) smtp_tls_security_level", check: outboundNone,
	},
	{
		ID: "outbound_mandatory", Title: "TLS is mandatory towards every server", Severity: Warning,
		Why:  "mail to servers without STARTTLS, or without the right certificate, stays in the queue until it bounces",
		Cite: "postconf(5) smtp_tls_security_level", check: outboundMandatory,
	},
	{
		ID: "outbound_note_offer", Title: "offers of STARTTLS are not noted", Severity: Info,
		Why:  "the log then names servers that could be sent to with TLS and are not",
		Cite: "postconf(5) smtp_tls_note_starttls_offer", check: outboundNoteOffer,
	},
	{
		ID: "outbound_no_trust", Title: "certificates are to be verified, and there are no trust anchors", Severity: Error,
		Why:  "no server can pass, so mail is deferred with \"Server certificate not trusted\"",
		Cite: "postconf(5) smtp_tls_CAfile, smtp_tls_CApath; TLS_README", check: outboundNoTrust,
	},
	{
		ID: "trust_chroot", Title: "trust anchors lie outside the chroot", Severity: Warning,
		Why:  "smtp_tls_CApath is read after the process went into the queue directory, so every server is logged as Untrusted",
		Cite: "postconf(5) smtp_tls_CApath; TLS_README", check: trustChroot,
	},
	{
		ID: "trust_file", Title: "a file of trust anchors cannot be used", Severity: Error,
		Why:  "Postfix switches TLS off when it cannot load its CAfile",
		Cite: "postconf(5) smtp_tls_CAfile, smtpd_tls_CAfile", check: trustFile,
	},
	{
		ID: "trust_no_ca", Title: "a file of trust anchors without a CA", Severity: Warning,
		Why:  "the host's own certificate does not vouch for anybody else's",
		Cite: "postconf(5) smtp_tls_CAfile", check: trustNoCA,
	},
	{
		ID: "dane_no_dnssec", Title: "DANE without DNSSEC", Severity: Error,
		Why:  "TLSA records are looked up only with smtp_dns_support_level = dnssec; without, dane counts as encrypt or may",
		Cite: "RFC 7672; postconf(5) smtp_tls_security_level, smtp_dns_support_level", check: daneNoDNSSEC,
	},
	{
		ID: "dane_unused", Title: "DANE is not used", Severity: Info,
		Why:  "domains that publish TLSA records can be sent to with TLS that nobody in between can strip",
		Cite: "RFC 7672; TLS_README", check: daneUnused,
	},
	{
		ID: "tlsrpt_incomplete", Title: "TLS reporting is enabled, and goes nowhere", Severity: Warning, Since: "3.10",
		Why:  "smtp reports to a socket, and none is named",
		Cite: "RFC 8460; TLSRPT_README; postconf(5) smtp_tlsrpt_socket_name", check: tlsrptIncomplete,
	},
	{
		ID: "tlsrpt_unused", Title: "TLS reporting is not used", Severity: Info, Since: "3.10",
		Why:  "domains that ask for reports learn from them that their TLS is broken",
		Cite: "RFC 8460; TLSRPT_README; postconf(5) smtp_tlsrpt_enable", check: tlsrptUnused,
	},
}

// clientLevels are the levels that smtp(8) knows, from the weakest.
var clientLevels = []string{"none", "may", "encrypt", "fingerprint", "half-dane", "dane", "dane-only", "verify", "secure"}

// clientLevel is the level of a client as smtp(8) decides it; "" if it is none.
func (v *view) clientLevel(id string) string {
	prefix := v.clientPrefix(id)
	level := strings.ToLower(v.Effective(id, prefix+"tls_security_level"))
	switch {
	case level == "":
		return v.oldLevel(id, prefix)
	case contains(clientLevels, level):
		return level
	}
	return ""
}

// clientGroups are the places that decide the level of smtp(8): main.cf and the
// services that override it.
func (v *view) clientGroups() []group { return v.groups("smtp_tls_security_level", v.smtpClients()) }

func outboundLevelInvalid(v *view) (out []*Finding) {
	for _, g := range v.clientGroups() {
		if v.clientLevel(g.ids[0]) == "" {
			out = append(out, found(g.at, "smtp_tls_security_level = may", "smtp_tls_security_level = %s is no level", g.value).with(v.set(g.in, "smtp_tls_security_level", "may")))
		}
	}
	return out
}

func outboundNone(v *view) (out []*Finding) {
	for _, g := range v.clientGroups() {
		if g.in == "" && v.clientLevel(g.ids[0]) == "none" && len(v.running("smtp")) > 0 {
			out = append(out, found(g.at, "smtp_tls_security_level = may", "smtp_tls_security_level is %s", orWord(g.value, "empty")).with(v.set("", "smtp_tls_security_level", "may")))
		}
	}
	return out
}

func outboundMandatory(v *view) (out []*Finding) {
	if v.Effective("", "relayhost") != "" || v.Effective("", "default_transport") != "smtp" {
		return nil // one next hop, which somebody chose
	}
	for _, g := range v.clientGroups() {
		level := v.clientLevel(g.ids[0])
		if g.in != "" || !contains([]string{"encrypt", "fingerprint", "verify", "secure", "dane-only"}, level) {
			continue // a service of its own is for destinations that somebody chose
		}
		out = append(out, found(g.at, "smtp_tls_security_level = may, and policies for the domains that matter (smtp_tls_policy_maps)", "smtp_tls_security_level = %s without a relayhost", orWord(g.value, level)))
	}
	return out
}

func outboundNoteOffer(v *view) []*Finding {
	const name = "smtp_tls_note_starttls_offer"
	if v.yes("", name) || v.clientLevel("") != "none" && v.Effective("", "smtp_tls_policy_maps") == "" {
		return nil // it is about servers that TLS is off for
	}
	return []*Finding{found(v.at("", name), name+" = yes", "%s = %s", name, v.Effective("", name)).with(v.set("", name, "yes"))}
}

// verifying are the words of a policy that need trust anchors.
var verifying = []string{"verify", "secure"}

// reachable tells whether a client has a trust anchor at all; known is false if
// that depends on files that nobody looked at.
func (v *view) reachable(t trust) (yes, known bool) {
	if t.system {
		return true, true
	}
	known = true
	if t.file != "" {
		f, seen := v.file(t.file)
		yes, known = f.Err == "" && len(f.PEM.Certs) > 0, seen
	}
	if t.path != "" && !yes {
		dir := t.path
		if t.jailed != "" {
			dir = t.jailed
		}
		n, seen := v.facts.Hashed[dir]
		yes, known = n > 0, known && seen
	}
	return yes, known
}

func outboundNoTrust(v *view) (out []*Finding) {
	needed := v.verifyingPolicies()
	for _, t := range v.trusts() {
		level := v.clientLevel(t.id)
		if !strings.HasPrefix(t.prefix, "smtp_") && !strings.HasPrefix(t.prefix, "lmtp_") {
			continue
		}
		why := ""
		switch {
		case contains(verifying, level):
			why = "level " + level
		case needed != "" && strings.HasPrefix(t.prefix, "smtp_"):
			why = needed
		default:
			continue
		}
		yes, known := v.reachable(t)
		if yes || !known {
			continue
		}
		at := v.at("", t.prefix+"security_level")
		if v.overrides(t.id, t.prefix+"security_level") {
			at = v.at(t.id, t.prefix+"security_level")
		}
		what := "neither " + t.prefix + "CAfile nor " + t.prefix + "CApath is set"
		switch {
		case t.jailed != "":
			what = t.prefix + "CApath = " + t.path + " is not there inside the chroot of " + t.id
		case t.path != "" || t.file != "":
			what = "there is no certificate in " + orWord(t.file, t.path)
		}
		out = append(out, v.bundled(found(at, "", "%s, for %s", what, why), t))
	}
	return distinct(out)
}

// bundled adds the remedy that is the same for all: the host's own bundle, which
// is read before the chroot.
func (v *view) bundled(f *Finding, t trust) *Finding {
	f.Advice = "name a file of trust anchors with " + t.prefix + "CAfile"
	if v.facts.Bundle == "" {
		return f
	}
	f.Advice = t.prefix + "CAfile = " + v.facts.Bundle
	in := ""
	if v.overrides(t.id, t.prefix+"CAfile") {
		in = t.id
	}
	return f.with(v.set(in, t.prefix+"CAfile", v.facts.Bundle))
}

func trustChroot(v *view) (out []*Finding) {
	policies := v.verifyingPolicies() != ""
	for _, t := range v.trusts() {
		if t.jailed == "" || strings.HasPrefix(t.prefix, "smtpd_") || v.clientLevel(t.id) == "none" {
			continue
		}
		if policies && strings.HasPrefix(t.prefix, "smtp_") || contains(verifying, v.clientLevel(t.id)) {
			continue // outbound_no_trust says it
		}
		if yes, known := v.reachable(t); yes || !known {
			continue
		}
		at := v.at("", t.prefix+"CApath")
		if v.overrides(t.id, t.prefix+"CApath") {
			at = v.at(t.id, t.prefix+"CApath")
		}
		out = append(out, v.bundled(found(at, "", "%sCApath = %s is not there inside the chroot of %s", t.prefix, t.path, t.id), t))
	}
	return distinct(out)
}

func trustFile(v *view) (out []*Finding) {
	for _, t := range v.trusts() {
		f, known := v.file(t.file)
		if t.file == "" || !known || f.Err == "" && len(f.PEM.Certs) > 0 {
			continue
		}
		at := v.at("", t.prefix+"CAfile")
		if v.overrides(t.id, t.prefix+"CAfile") {
			at = v.at(t.id, t.prefix+"CAfile")
		}
		out = append(out, v.bundled(found(at, "", "%sCAfile = %s: %s", t.prefix, t.file, orWord(f.Err, "no certificate in it")), t))
	}
	return distinct(out)
}

func trustNoCA(v *view) (out []*Finding) {
	for _, t := range v.trusts() {
		f, known := v.file(t.file)
		if !known || len(f.PEM.Certs) == 0 || slices.ContainsFunc(f.PEM.Certs, func(c Cert) bool { return c.CA }) {
			continue
		}
		at := v.at("", t.prefix+"CAfile")
		if v.overrides(t.id, t.prefix+"CAfile") {
			at = v.at(t.id, t.prefix+"CAfile")
		}
		out = append(out, v.bundled(found(at, "", "%sCAfile = %s holds no certificate of a CA", t.prefix, t.file), t))
	}
	return distinct(out)
}

func daneNoDNSSEC(v *view) (out []*Finding) {
	for _, g := range v.clientGroups() {
		level, support := v.clientLevel(g.ids[0]), v.Effective(g.ids[0], "smtp_dns_support_level")
		if strings.Contains(level, "dane") && !strings.EqualFold(support, "dnssec") {
			in := ""
			if v.overrides(g.in, "smtp_dns_support_level") {
				in = g.in
			}
			out = append(out, found(g.at, "smtp_dns_support_level = dnssec, with a validating resolver on this host", "smtp_tls_security_level = %s with smtp_dns_support_level = %s", level, orWord(support, "(empty)")).
				with(v.set(in, "smtp_dns_support_level", "dnssec")))
		}
	}
	return out
}

func daneUnused(v *view) []*Finding {
	if level := v.clientLevel(""); level != "may" && level != "encrypt" || v.Effective("", "relayhost") != "" {
		return nil
	}
	return []*Finding{found(v.at("", "smtp_tls_security_level"), "with a validating resolver: smtp_tls_security_level = dane and smtp_dns_support_level = dnssec", "smtp_tls_security_level = %s", v.Effective("", "smtp_tls_security_level"))}
}

func tlsrptIncomplete(v *view) []*Finding {
	if !v.yes("", "smtp_tlsrpt_enable") || v.Effective("", "smtp_tlsrpt_socket_name") != "" {
		return nil
	}
	return []*Finding{found(v.at("", "smtp_tlsrpt_enable"), "name the collector's socket with smtp_tlsrpt_socket_name", "smtp_tlsrpt_enable = yes, and smtp_tlsrpt_socket_name is empty")}
}

func tlsrptUnused(v *view) []*Finding {
	if v.yes("", "smtp_tlsrpt_enable") || v.clientLevel("") == "none" {
		return nil
	}
	return []*Finding{found(v.at("", "smtp_tlsrpt_enable"), "install a collector and follow TLSRPT_README", "smtp_tlsrpt_enable is not yes")}
}
