package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// The rules about who offers TLS, to whom it is forced, and when passwords are
// taken.
var levelRules = []Rule{
	{
		ID: "level_invalid", Title: "the security level of a server is no level", Severity: Error,
		Why:  "smtpd ends at once when it reads it, and its port does not answer",
		Cite: "postconf(5) smtpd_tls_security_level", check: levelInvalid,
	},
	{
		ID: "level_of_clients", Title: "a level of clients is set for a server", Severity: Warning,
		Why:  "smtpd warns in every process and takes encrypt instead",
		Cite: "postconf(5) smtpd_tls_security_level", check: levelOfClients,
	},
	{
		ID: "smtp_no_tls", Title: "port 25 offers no TLS", Severity: Warning,
		Why:  "mail from all other servers arrives in clear text",
		Cite: "RFC 3207; postconf(5) smtpd_tls_security_level", check: smtpNoTLS,
	},
	{
		ID: "smtp_encrypt", Title: "port 25 insists on TLS", Severity: Error,
		Why:  "servers that cannot do TLS are turned away, and their mail is lost to you",
		Cite: "RFC 3207 section 4; postconf(5) smtpd_tls_security_level", check: smtpEncrypt,
	},
	{
		ID: "submission_not_encrypted", Title: "port 587 does not insist on TLS", Severity: Error,
		Why:  "a client that was told there is no STARTTLS sends mail and password in clear text",
		Cite: "RFC 8314 section 3.3; postconf(5) smtpd_tls_security_level", check: submissionNotEncrypted,
	},
	{
		ID: "submissions_no_wrapper", Title: "port 465 does not begin with TLS", Severity: Error,
		Why:  "clients begin with TLS there and get a greeting in clear text instead, so none can connect",
		Cite: "RFC 8314 section 3.3; postconf(5) smtpd_tls_wrappermode", check: submissionsNoWrapper,
	},
	{
		ID: "wrapper_on_other_port", Title: "a STARTTLS port begins with TLS", Severity: Error,
		Why:  "servers and clients wait there for a greeting that never comes",
		Cite: "postconf(5) smtpd_tls_wrappermode", check: wrapperElsewhere,
	},
	{
		ID: "auth_before_tls", Title: "passwords are accepted before TLS", Severity: Error,
		Why:  "whoever reads the connection reads the password",
		Cite: "postconf(5) smtpd_tls_auth_only; RFC 4954 section 4", check: authBeforeTLS,
	},
	{
		ID: "submission_no_auth", Title: "a submission port offers no AUTH", Severity: Warning,
		Why:  "users cannot log in there",
		Cite: "RFC 6409 section 4.3; postconf(5) smtpd_sasl_auth_enable", check: submissionNoAuth,
	},
	{
		ID: "auth_without_submission", Title: "AUTH is enabled, and no submission port is", Severity: Warning,
		Why:  "users have to log in on port 25, which networks block and where TLS cannot be forced",
		Cite: "RFC 8314 section 3; master(5)", check: authWithoutSubmission,
	},
	{
		ID: "submission_missing", Title: "a submission port is missing", Severity: Warning,
		Why:  "users need port 465 or 587 to submit mail with TLS and a password",
		Cite: "RFC 8314 section 3; master(5)", check: submissionMissing,
	},
	{
		ID: "service_half_commented", Title: "a service entry is commented out in part", Severity: Error,
		Why:  "options below a commented entry belong to the entry above them, and change its port",
		Cite: "master(5)", check: halfCommented,
	},
	{
		ID: "tls_broken", Title: "a listener that should speak TLS does not", Severity: Error,
		Why:  "senders fall back to clear text, and users cannot submit mail",
		Cite: "RFC 3207 section 4; TLS_README", check: tlsBroken,
	},
	{
		ID: "tlsmgr_missing", Title: "there is no tlsmgr service", Severity: Error,
		Why:  "smtpd and smtp get their random numbers and session tickets from it and have no TLS without",
		Cite: "tlsmgr(8); master(5)", check: tlsmgrMissing,
	},
}

// serverLevel is the level of an smtpd service as smtpd decides it: the old
// parameters count where the new one is empty. raw is the word that stands there.
func (v *view) serverLevel(id string) (level, raw string) {
	raw = strings.ToLower(v.Effective(id, "smtpd_tls_security_level"))
	switch raw {
	case "":
		return v.oldLevel(id, "smtpd_"), raw
	case "fingerprint", "verify", "secure":
		return "encrypt", raw
	case "none", "may", "encrypt":
		return raw, raw
	}
	return "", raw
}

// wrapped tells whether TLS comes first; then the level is not looked at.
func (v *view) wrapped(id string) bool { return v.yes(id, "smtpd_tls_wrappermode") }

// levels are the places that decide the level of servers without a wrapper.
func (v *view) levels() []group {
	var ids []string
	for _, id := range v.servers() {
		if !v.wrapped(id) {
			ids = append(ids, id)
		}
	}
	return v.groups("smtpd_tls_security_level", ids)
}

func levelInvalid(v *view) (out []*Finding) {
	for _, g := range v.levels() {
		if level, raw := v.serverLevel(g.ids[0]); level == "" {
			out = append(out, found(g.at, "set it to may, or to encrypt where users submit mail", "smtpd_tls_security_level = %s is no level (%s)", raw, g.of()))
		}
	}
	return out
}

func levelOfClients(v *view) (out []*Finding) {
	for _, g := range v.levels() {
		if level, raw := v.serverLevel(g.ids[0]); level == "encrypt" && raw != "encrypt" && raw != "" {
			out = append(out, found(g.at, "set it to encrypt, which is what it does now", "smtpd_tls_security_level = %s counts as encrypt (%s)", raw, g.of()).
				with(v.set(g.in, "smtpd_tls_security_level", "encrypt")))
		}
	}
	return out
}

func smtpNoTLS(v *view) (out []*Finding) {
	for _, l := range v.on(smtpPort) {
		if l.TLS || !v.public(l) {
			continue
		}
		level, raw := v.serverLevel(l.ID())
		switch level {
		case "": // level_invalid says it
			continue
		case "may", "encrypt":
			out = append(out, found(v.at(l.ID(), "smtpd_discard_ehlo_keywords"), "take starttls out of smtpd_discard_ehlo_keywords", "%s offers no TLS: %s", l.ID(), l.Reason))
			continue
		}
		at := v.at(l.ID(), "smtpd_tls_security_level")
		f := found(at, "give it a certificate and set smtpd_tls_security_level = may: postcert install-cert --enable", "%s offers no TLS: %s", l.ID(), l.Reason)
		if len(v.pairs(l.ID(), "smtpd_tls_")) > 0 && (raw == "" || raw == "none") {
			in := ""
			if v.overrides(l.ID(), "smtpd_tls_security_level") {
				in = l.ID()
			}
			f.Advice = "set smtpd_tls_security_level = may"
			f = f.with(v.set(in, "smtpd_tls_security_level", "may"))
		}
		out = append(out, f)
	}
	return out
}

func smtpEncrypt(v *view) (out []*Finding) {
	var ids []string
	for _, l := range v.on(smtpPort) {
		if level, _ := v.serverLevel(l.ID()); level == "encrypt" && !l.Implicit && v.public(l) {
			ids = append(ids, l.ID())
		}
	}
	for _, g := range v.groups("smtpd_tls_security_level", ids) {
		f := found(g.at, "set it to may; ports for users get encrypt by -o in master.cf", "smtpd_tls_security_level = %s on %s, which other servers deliver to", orWord(g.value, "encrypt (by smtpd_enforce_tls)"), g.of())
		if g.value != "" && (g.in != "" || !v.needsEncrypt()) {
			f = f.with(v.set(g.in, "smtpd_tls_security_level", "may"))
		} else if g.value != "" {
			// Ports for users have it from main.cf: they must not lose it.
			for _, id := range g.ids {
				f.Remedy = append(f.Remedy, v.set(id, "smtpd_tls_security_level", "may"))
			}
		}
		out = append(out, f)
	}
	return out
}

// needsEncrypt tells whether another port than 25 has its level from main.cf.
func (v *view) needsEncrypt() bool {
	return slices.ContainsFunc(v.listeners, func(l cf.Listener) bool {
		return portOf(l) != smtpPort && !l.Postscreen && !l.Implicit && !v.overrides(l.ID(), "smtpd_tls_security_level")
	})
}

func submissionNotEncrypted(v *view) (out []*Finding) {
	for _, l := range v.on(submissionPort) {
		level, raw := v.serverLevel(l.ID())
		if l.Implicit || level == "encrypt" || level == "" {
			continue
		}
		out = append(out, found(v.at(l.ID(), "smtpd_tls_security_level"), "-o smtpd_tls_security_level=encrypt for "+l.ID(),
			"%s has smtpd_tls_security_level = %s", l.ID(), orWord(raw, level)).with(v.set(l.ID(), "smtpd_tls_security_level", "encrypt")))
	}
	return out
}

func orWord(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func submissionsNoWrapper(v *view) (out []*Finding) {
	for _, l := range v.on(submissionsPort) {
		if !l.Implicit {
			out = append(out, found(v.at(l.ID(), "smtpd_tls_wrappermode"), "-o smtpd_tls_wrappermode=yes for "+l.ID(),
				"%s has no smtpd_tls_wrappermode", l.ID()).with(v.set(l.ID(), "smtpd_tls_wrappermode", "yes")))
		}
	}
	return out
}

func wrapperElsewhere(v *view) (out []*Finding) {
	for _, l := range append(v.on(smtpPort), v.on(submissionPort)...) {
		if !l.Implicit {
			continue
		}
		f := found(v.at(l.ID(), "smtpd_tls_wrappermode"), "take smtpd_tls_wrappermode away from "+l.ID(), "%s has smtpd_tls_wrappermode = yes", l.ID())
		if v.overrides(l.ID(), "smtpd_tls_wrappermode") {
			f = f.with(v.unset(l.ID(), "smtpd_tls_wrappermode"))
		} else {
			f.Advice = "set smtpd_tls_wrappermode in master.cf, for port 465 alone"
		}
		out = append(out, f)
	}
	return out
}

// authBeforeTLS asks the configuration and, where there is one, the reply to EHLO.
func authBeforeTLS(v *view) (out []*Finding) {
	var ids []string
	for _, l := range v.listeners {
		level, _ := v.serverLevel(l.ID())
		strict := l.Implicit || level == "encrypt" || v.yes(l.ID(), "smtpd_tls_auth_only")
		greeting := v.facts.Greetings[l.ID()]
		said := slices.ContainsFunc(greeting.Before, isAuth)
		switch {
		case l.Postscreen:
		case !strict && v.yes(l.ID(), "smtpd_sasl_auth_enable"):
			ids = append(ids, l.ID())
		case said:
			at := v.at(l.ID(), "smtpd_tls_auth_only")
			at.Endpoint = greeting.Endpoint
			out = append(out, found(at, "find out who answers there: the configuration does not allow it (was Postfix reloaded?)", "%s offers AUTH before TLS, as its reply to EHLO shows", l.ID()))
		}
	}
	for _, g := range v.groups("smtpd_tls_auth_only", ids) {
		how := "may offer AUTH before TLS: smtpd_sasl_auth_enable = yes without smtpd_tls_auth_only"
		for _, id := range g.ids {
			if slices.ContainsFunc(v.facts.Greetings[id].Before, isAuth) {
				how = "offers AUTH before TLS, as the reply to EHLO shows"
				g.at.Endpoint = v.facts.Greetings[id].Endpoint
				break
			}
		}
		out = append(out, found(g.at, "smtpd_tls_auth_only = yes", "%s %s", g.of(), how).with(v.set(g.in, "smtpd_tls_auth_only", "yes")))
	}
	return out
}

// isAuth recognises the keyword in a line of an EHLO reply; "AUTH=" is what
// broken_sasl_auth_clients adds.
func isAuth(line string) bool {
	word, _, _ := strings.Cut(strings.ToUpper(line), " ")
	return word == "AUTH" || strings.HasPrefix(word, "AUTH=")
}

func submissionNoAuth(v *view) (out []*Finding) {
	for _, l := range append(v.on(submissionPort), v.on(submissionsPort)...) {
		g := v.facts.Greetings[l.ID()]
		at := v.at(l.ID(), "smtpd_sasl_auth_enable")
		switch {
		case !v.yes(l.ID(), "smtpd_sasl_auth_enable"):
			out = append(out, found(at, "set up SASL (SASL_README) and -o smtpd_sasl_auth_enable=yes", "%s has no smtpd_sasl_auth_enable = yes", l.ID()))
		case g.After != nil && !slices.ContainsFunc(g.After, isAuth):
			at.Endpoint = g.Endpoint
			out = append(out, found(at, "see what smtpd logs about SASL; is the authentication service running?", "%s offers no AUTH inside TLS, though smtpd_sasl_auth_enable = yes", l.ID()))
		}
	}
	return out
}

func authWithoutSubmission(v *view) []*Finding {
	if !v.yes("", "smtpd_sasl_auth_enable") || len(v.on(submissionPort))+len(v.on(submissionsPort)) > 0 {
		return nil
	}
	return []*Finding{found(v.at("", "smtpd_sasl_auth_enable"), "add the submission and submissions entries to master.cf", "smtpd_sasl_auth_enable = yes, and master.cf has neither a submission nor a submissions service")}
}

func submissionMissing(v *view) (out []*Finding) {
	for _, p := range []int{submissionPort, submissionsPort} {
		if len(v.on(p)) > 0 {
			continue
		}
		name := v.serviceName(p)
		at := problem.At{File: v.Master.Path, Service: name + "/inet"}
		f := found(at, "add the "+name+" entry to master.cf, with the options of the runbook", "no service answers on port %d", p)
		_, there := v.Service(name + "/inet")
		if e, err := cf.AddEntry(v.entryFor(p, name)); err == nil && !there { // one that is there answers nobody, for a reason
			f = f.with(e)
		}
		out = append(out, f)
	}
	return out
}

// serviceName is the name of a submission port: the one that the commented example
// in this master.cf has, else the registered one, which Postfix knows by itself since
// 3.6 (known_tcp_ports), else the number.
func (v *view) serviceName(port int) string {
	names := []string{"submission"}
	if port == submissionsPort {
		names = []string{"submissions", "smtps"}
	}
	if example := v.ExampleOf(names...); example != "" {
		return example
	}
	if port == submissionsPort && before(v.Version, "3.6") {
		return "465"
	}
	return names[0]
}

// entryFor is the entry of the runbook for a submission port, chrooted as port 25 is.
func (v *view) entryFor(port int, name string) string {
	chroot := "n"
	for _, l := range v.on(smtpPort) {
		if e, ok := v.Service(l.ID()); ok {
			chroot = e.Chroot
		}
	}
	line := name + " inet n - " + chroot + " - - smtpd"
	for _, s := range settings {
		if s.port == port {
			line += " -o " + s.parameter + "=" + s.value
		}
	}
	return line
}

// halfCommented looks for what is left when an entry with options is commented
// out, or in, by hand: the entry is a comment and its options are not.
func halfCommented(v *view) (out []*Finding) {
	name, number, owner := "", 0, problem.At{}
	for raw := range bytes.Lines(v.Master.Data) {
		number++
		line := strings.TrimRight(string(raw), "\r\n")
		text := strings.TrimLeft(line, "# \t")
		switch {
		case strings.HasPrefix(line, "#"):
			if f := strings.Fields(text); len(f) >= 8 && contains([]string{"inet", "unix", "fifo", "pass"}, f[1]) {
				name, owner.Line = f[0]+"/"+f[1], number
			} else if !strings.HasPrefix(text, "-o") {
				name = "" // prose between two entries
			}
		case strings.TrimSpace(line) == "":
		case line[0] == ' ' || line[0] == '\t':
			if name != "" {
				at := problem.At{File: v.Master.Path, Line: number, Service: v.entryAbove(number)}
				out = append(out, found(at, fmt.Sprintf("uncomment line %d, or comment this line out too", owner.Line),
					"%q stands below the commented entry %s (line %d), so it belongs to %s", strings.TrimSpace(line), name, owner.Line, orWord(at.Service, "no entry")))
				name = ""
			}
		default:
			name = ""
		}
	}
	return out
}

// entryAbove is the service that a continuation line belongs to.
func (v *view) entryAbove(line int) string {
	id := ""
	for _, e := range v.Services {
		if e.Line < line {
			id = e.ID()
		}
	}
	return id
}

func tlsBroken(v *view) (out []*Finding) {
	for _, l := range v.listeners {
		if g := v.facts.Greetings[l.ID()]; l.TLS && g.Failed != "" && !g.Unknown {
			at := v.entry(l.ID())
			at.Endpoint = g.Endpoint
			out = append(out, found(at, "see what Postfix logs when somebody connects: grep 'disabling TLS' in the mail log", "%s: %s", l.ID(), g.Failed))
		}
	}
	return out
}

func tlsmgrMissing(v *view) []*Finding {
	name := v.Effective("", "tlsmgr_service_name")
	if name == "" {
		name = "tlsmgr"
	}
	e, ok := v.Service(name + "/unix")
	if (ok && !v.Disabled(e.ID())) || len(v.tlsServers()) == 0 {
		return nil
	}
	at := problem.At{File: v.Master.Path, Service: name + "/unix"}
	return []*Finding{found(at, "add: tlsmgr unix - - n 1000? 1 tlsmgr", "%s has no enabled service %s", v.Master.Path, name)}
}
