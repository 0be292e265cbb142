package audit

import (
	"slices"
	"strings"
)

// The rules about protocol versions and ciphers.
var cipherRules = []Rule{
	{
		ID: "protocols_invalid", Title: "a list of protocols that switches TLS off", Severity: Error,
		Why:  "Postfix gives up at a word that it does not know, logs \"disabling TLS support\" and goes on without TLS",
		Cite: "postconf(5) smtpd_tls_protocols; TLS_README", check: protocolsInvalid,
	},
	{
		ID: "protocols_no_modern", Title: "neither TLS 1.2 nor TLS 1.3 is allowed", Severity: Error,
		Why:  "peers refuse what is older, and at level may fall back to clear text",
		Cite: "RFC 8996; postconf(5) smtpd_tls_protocols", check: protocolsNoModern,
	},
	{
		ID: "protocols_ssl", Title: "SSL 2 or SSL 3 is allowed", Severity: Warning,
		Why:  "both are broken, and Postfix has them off by default",
		Cite: "RFC 7568; RFC 6176; postconf(5) smtpd_tls_protocols", check: protocolsSSL,
	},
	{
		ID: "protocols_strict_smtp", Title: "TLS 1.0 or 1.1 is refused on port 25 at level may", Severity: Info,
		Why:  "old servers that know nothing better deliver in clear text instead, or not at all",
		Cite: "RFC 7435; TLS_README", check: protocolsStrictSMTP,
	},
	{
		ID: "protocols_below_12", Title: "TLS older than 1.2 is allowed to users", Severity: Warning,
		Why:  "every mail client of the last ten years speaks TLS 1.2, and RFC 8996 deprecates what is older",
		Cite: "RFC 8996; RFC 8997; postconf(5) smtpd_tls_mandatory_protocols", check: protocolsBelow12,
	},
	{
		ID: "cipher_grade_invalid", Title: "a cipher grade that Postfix does not know", Severity: Error,
		Why:  "every handshake is aborted",
		Cite: "postconf(5) smtpd_tls_ciphers", check: cipherGradeInvalid,
	},
	{
		ID: "cipher_grade_weak", Title: "a cipher grade below medium", Severity: Warning,
		Why:  "it allows what can be broken, or since Postfix 3.8 is nothing but another word for medium",
		Cite: "postconf(5) smtpd_tls_ciphers", check: cipherGradeWeak,
	},
	{
		ID: "cipher_exclusion_invalid", Title: "a cipher exclusion with an operator", Severity: Error,
		Why:  "names stand there without !, +, - or @, and with one every handshake is aborted",
		Cite: "postconf(5) smtpd_tls_exclude_ciphers", check: exclusionInvalid,
	},
	{
		ID: "cipher_exclusion_broad", Title: "a cipher exclusion that hits most ciphers", Severity: Warning,
		Why:  "what is left has no cipher in common with many peers: \"no shared cipher\"",
		Cite: "postconf(5) smtpd_tls_exclude_ciphers; openssl-ciphers(1)", check: exclusionBroad,
	},
	{
		ID: "cipherlist_changed", Title: "a cipher list of Postfix is replaced", Severity: Warning,
		Why:  "the list does not follow what later versions of OpenSSL know, and Postfix strongly advises against it",
		Cite: "postconf(5) tls_high_cipherlist, tls_medium_cipherlist", check: cipherlistChanged,
	},
}

// use is a parameter and the services for which it is in effect.
type use struct {
	name     string
	ids      []string
	optional bool // at level may: a peer without it goes on in clear text
}

// inUse pairs what counts at level may with what counts where TLS is mandatory:
// smtpd_tls_protocols and smtpd_tls_mandatory_protocols, for one.
func (v *view) inUse(what string) []use {
	var uses []use
	take := func(prefix, id string, mandatory bool) {
		u := use{prefix + "tls_" + what, nil, !mandatory}
		if mandatory {
			u.name = prefix + "tls_mandatory_" + what
		}
		i := slices.IndexFunc(uses, func(o use) bool { return o.name == u.name })
		if i < 0 {
			i, uses = len(uses), append(uses, u)
		}
		uses[i].ids = append(uses[i].ids, id)
	}
	for _, id := range v.tlsServers() {
		level, _ := v.serverLevel(id)
		take("smtpd_", id, v.wrapped(id) || level == "encrypt")
	}
	for _, id := range v.clients() {
		if level := v.clientLevel(id); level != "none" && level != "" {
			take(v.clientPrefix(id), id, level != "may")
		}
	}
	return uses
}

// lists are the protocol lists in effect, once for each place.
func (v *view) lists(ask func(use, group, protocols) []*Finding) (out []*Finding) {
	for _, u := range v.inUse("protocols") {
		for _, g := range v.groups(u.name, u.ids) {
			out = append(out, ask(u, g, parseProtocols(g.value, v.Version))...)
		}
	}
	return out
}

func protocolsInvalid(v *view) []*Finding {
	return v.lists(func(u use, g group, p protocols) []*Finding {
		if p.bad == "" {
			return nil
		}
		f := found(g.at, "take it away: the default of this Postfix is right", "%s = %s switches TLS off for %s: %q is no protocol for Postfix %s", u.name, g.value, g.of(), p.bad, v.Version)
		if m := p.mended(v.Version); m != "" {
			f.Advice = "write " + u.name + " = " + m
			return []*Finding{f.with(v.set(g.in, u.name, m))}
		}
		return []*Finding{f.with(v.unset(g.in, u.name))}
	})
}

func protocolsNoModern(v *view) []*Finding {
	return v.lists(func(u use, g group, p protocols) []*Finding {
		old := p.positive && len(p.allowed()) > 0 && !u.optional // mandatory_protocols_old says it
		if p.bad != "" || old || p.allows("TLSv1.2") || p.allows("TLSv1.3") {
			return nil
		}
		left := "nothing"
		if a := p.allowed(); len(a) > 0 {
			left = strings.Join(a, ", ") + " only"
		}
		return []*Finding{found(g.at, "take it away: the default of this Postfix is right", "%s = %s allows %s for %s", u.name, g.value, left, g.of()).with(v.unset(g.in, u.name))}
	})
}

func protocolsSSL(v *view) []*Finding {
	return v.lists(func(u use, g group, p protocols) []*Finding {
		if p.bad != "" || !p.allows("SSLv3") && !p.allows("SSLv2") {
			return nil
		}
		if p.positive && !contains(p.include, "SSLv3") && !contains(p.include, "SSLv2") {
			return nil
		}
		f := found(g.at, "take it away: the default of this Postfix is right", "%s = %s allows SSL for %s", u.name, orWord(g.value, "(empty)"), g.of())
		return []*Finding{f.with(v.unset(g.in, u.name))}
	})
}

func protocolsStrictSMTP(v *view) []*Finding {
	var smtp []string
	for _, l := range v.on(smtpPort) {
		smtp = append(smtp, l.ID())
	}
	return v.lists(func(u use, g group, p protocols) []*Finding {
		hit := slices.ContainsFunc(g.ids, func(id string) bool { return contains(smtp, id) })
		if p.bad != "" || !u.optional || !hit || p.allows("TLSv1") && p.allows("TLSv1.1") || !p.allows("TLSv1.2") && !p.allows("TLSv1.3") {
			return nil
		}
		return []*Finding{found(g.at, "nothing, if that is meant", "%s = %s refuses old peers on %s", u.name, g.value, g.of())}
	})
}

func protocolsBelow12(v *view) []*Finding {
	var users []string
	for _, l := range append(v.on(submissionPort), v.on(submissionsPort)...) {
		users = append(users, l.ID())
	}
	return v.lists(func(u use, g group, p protocols) []*Finding {
		hit := slices.ContainsFunc(g.ids, func(id string) bool { return contains(users, id) })
		if p.bad != "" || u.optional || !hit || !p.allows("TLSv1") && !p.allows("TLSv1.1") {
			return nil
		}
		return []*Finding{found(g.at, u.name+" = "+tls12(v.Version), "%s = %s allows versions before TLS 1.2 for %s", u.name, orWord(g.value, "(empty)"), g.of()).
			with(v.set(g.in, u.name, tls12(v.Version)))}
	})
}

// grades are the words of tls_cipher_grade_table; "invalid" stands there too, as
// what it says.
var grades = []string{"high", "medium", "low", "export", "null"}

func (v *view) grades(ask func(use, group, string) []*Finding) (out []*Finding) {
	for _, u := range v.inUse("ciphers") {
		for _, g := range v.groups(u.name, u.ids) {
			out = append(out, ask(u, g, strings.ToLower(g.value))...)
		}
	}
	return out
}

func cipherGradeInvalid(v *view) []*Finding {
	return v.grades(func(u use, g group, grade string) []*Finding {
		if contains(grades, grade) {
			return nil
		}
		return []*Finding{found(g.at, "take it away: the default is medium", "%s = %s is no grade, for %s", u.name, orWord(g.value, "(empty)"), g.of()).with(v.unset(g.in, u.name))}
	})
}

func cipherGradeWeak(v *view) []*Finding {
	return v.grades(func(u use, g group, grade string) []*Finding {
		if !contains(grades[2:], grade) {
			return nil
		}
		return []*Finding{found(g.at, "take it away: the default is medium", "%s = %s, for %s", u.name, g.value, g.of()).with(v.unset(g.in, u.name))}
	})
}

// exclusions are the lists of ciphers that are not to be used.
func (v *view) exclusions(ask func(name, in string, list []string) []*Finding) (out []*Finding) {
	for _, prefix := range []string{"smtpd_", "smtp_", "lmtp_"} {
		for _, name := range []string{prefix + "tls_exclude_ciphers", prefix + "tls_mandatory_exclude_ciphers"} {
			for _, in := range v.places(name) {
				out = append(out, ask(name, in, words(v.Effective(in, name), ":"))...)
			}
		}
	}
	return out
}

func exclusionInvalid(v *view) []*Finding {
	return v.exclusions(func(name, in string, list []string) []*Finding {
		var kept []string
		bad := ""
		for _, w := range list {
			if clean := strings.TrimLeft(w, "!+-@"); clean != w {
				bad, w = orWord(bad, w), clean
			}
			kept = add(kept, w)
		}
		if bad == "" {
			return nil
		}
		f := found(v.at(in, name), "write "+name+" = "+strings.Join(kept, ", "), "%s has %q, which Postfix refuses in each handshake", name, bad)
		return []*Finding{f.with(v.set(in, name, strings.Join(kept, ", ")))}
	})
}

// broad are words of openssl-ciphers(1) that stand for most of what peers have.
var broad = []string{"ALL", "COMPLEMENTOFDEFAULT", "DEFAULT", "HIGH", "AES", "AESGCM", "RSA", "aRSA", "ECDHE", "EECDH", "kEECDH", "kECDHE", "TLSv1.2"}

func exclusionBroad(v *view) []*Finding {
	return v.exclusions(func(name, in string, list []string) []*Finding {
		for _, w := range list {
			if contains(broad, strings.TrimLeft(w, "!+-@")) {
				return []*Finding{found(v.at(in, name), "take "+w+" out of the list", "%s excludes %s", name, w)}
			}
		}
		return nil
	})
}

func cipherlistChanged(v *view) (out []*Finding) {
	for _, name := range []string{"tls_high_cipherlist", "tls_medium_cipherlist", "tls_low_cipherlist", "tls_export_cipherlist", "tls_null_cipherlist"} {
		for _, in := range v.places(name) {
			out = append(out, found(v.at(in, name), "take it away", "%s is set", name).with(v.unset(in, name)))
		}
	}
	return out
}
