package audit

import (
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// Profile is a named list of rules.
type Profile struct {
	Name    string
	Summary string
	rules   []string // their ids
}

// Profiles are all of them; the first is what audit asks by itself.
var Profiles = []Profile{
	{"recommended", "what is wrong or advised against, by Postfix's own documentation of this version", recommended()},
	{"runbook", "exactly the values of the runbook for TLS on Postfix, and what it says about key and certificate", runbook()},
	{"strict", "recommended, and TLS 1.2 or later for users, DANE and reporting", append(recommended(), strictly...)},
}

// Find returns the profile of that name.
func Find(name string) (Profile, bool) {
	i := slices.IndexFunc(Profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return Profiles[i], true
}

// Rules are the rules of the profile, in the order of the table.
func (p Profile) Rules() []Rule {
	var out []Rule
	for _, r := range Rules() {
		if contains(p.rules, r.ID) {
			out = append(out, r)
		}
	}
	return out
}

// Hardening are the rules of the profile whose remedies a hardening carries out. Of
// the runbook these are its settings and its two services, as it lists them, and not
// the rules about what it says in words.
func (p Profile) Hardening() []Rule {
	return slices.DeleteFunc(p.Rules(), func(r Rule) bool {
		return p.Name == "runbook" && !strings.HasPrefix(r.ID, "runbook_") && r.ID != "submission_missing"
	})
}

// LeftOut are the rules of the profile that are not for a version of Postfix,
// with the reason in Retired.
func (p Profile) LeftOut(version string) []Rule {
	var out []Rule
	for _, r := range p.Rules() {
		if !r.Holds(version) && r.Retired != "" {
			out = append(out, r)
		}
	}
	return out
}

// Rules is the table of all rules.
func Rules() []Rule {
	return slices.Concat(certRules, levelRules, deprecatedRules, cipherRules, loggingRules, outboundRules, tableRules, settingRules())
}

// strictly are the rules that only the profile strict has.
var strictly = []string{"protocols_below_12", "dane_unused", "tlsrpt_unused"}

// recommended are all rules but those of other profiles.
func recommended() (out []string) {
	for _, r := range slices.Concat(certRules, levelRules, deprecatedRules, cipherRules, loggingRules, outboundRules, tableRules) {
		if !contains(strictly, r.ID) && r.ID != "submission_missing" {
			out = append(out, r.ID)
		}
	}
	return out
}

// runbook is the list of settings, and the rules about what the runbook says in
// words: an unencrypted key that only root reads, no old protocol lines, no
// obsolete parameters.
func runbook() []string {
	out := []string{
		"cert_missing", "cert_unusable", "key_encrypted", "key_readable", "key_directory", "key_backup",
		"deprecated_level", "mandatory_protocols_old", "submission_missing", "service_half_commented", "tls_broken",
	}
	for _, r := range settingRules() {
		out = append(out, r.ID)
	}
	return out
}

// setting is one line of the runbook.
type setting struct {
	port      int // 0: main.cf
	parameter string
	value     string
	why       string
	until     string // first version that it is left out of
	retired   string // and why
}

const whoSays = "the runbook; postconf(5) "

// settings are the runbook's values. What a Postfix ignores or has deprecated is
// left out.
var settings = []setting{
	{parameter: "smtp_tls_security_level", value: "may", why: "outgoing mail is encrypted wherever the other server offers it"},
	{parameter: "smtp_tls_note_starttls_offer", value: "yes", why: "the log names servers that offer TLS and are sent to without"},
	{parameter: "smtpd_tls_security_level", value: "may", why: "other servers can deliver with TLS, and without"},
	{parameter: "smtpd_tls_auth_only", value: "yes", why: "no password crosses in clear text"},
	{parameter: "smtpd_tls_loglevel", value: "1", why: "the log has a summary of each TLS session"},
	{parameter: "smtpd_tls_received_header", value: "yes", why: "each message tells how it came"},
	{parameter: "smtpd_tls_mandatory_ciphers", value: "high", why: "users get strong ciphers"},
	{parameter: "smtpd_tls_exclude_ciphers", value: "aNULL, MD5, DES, 3DES, RC4, EXPORT, eNULL", why: "weak ciphers are off for everybody"},
	{parameter: "smtpd_tls_eecdh_grade", value: "strong", why: "forward secrecy with a curve of 128 bits of strength", until: "3.6", retired: "Postfix ignores it since 3.6, and has deprecated it since 3.9"},
	{parameter: "tls_preempt_cipherlist", value: "yes", why: "the server's order of ciphers counts"},
	{port: submissionPort, parameter: "smtpd_tls_security_level", value: "encrypt", why: "nothing is submitted in clear text"},
	{port: submissionPort, parameter: "smtpd_sasl_auth_enable", value: "yes", why: "users log in"},
	{port: submissionPort, parameter: "smtpd_tls_auth_only", value: "yes", why: "no password crosses in clear text"},
	{port: submissionPort, parameter: "smtpd_relay_restrictions", value: "permit_sasl_authenticated,reject", why: "who did not log in sends nothing"},
	{port: submissionsPort, parameter: "smtpd_tls_security_level", value: "encrypt", why: "nothing is submitted in clear text"},
	{port: submissionsPort, parameter: "smtpd_tls_wrappermode", value: "yes", why: "TLS begins with the first byte"},
	{port: submissionsPort, parameter: "smtpd_sasl_auth_enable", value: "yes", why: "users log in"},
	{port: submissionsPort, parameter: "smtpd_tls_auth_only", value: "yes", why: "no password crosses in clear text"},
	{port: submissionsPort, parameter: "smtpd_relay_restrictions", value: "permit_sasl_authenticated,reject", why: "who did not log in sends nothing"},
}

// settingRules are the settings as rules: runbook_ and the parameter, for a port
// with its name in between.
func settingRules() []Rule {
	var out []Rule
	for _, s := range settings {
		id, of := "runbook_"+s.parameter, ""
		switch s.port {
		case submissionPort:
			id, of = "runbook_submission_"+s.parameter, " on port 587"
		case submissionsPort:
			id, of = "runbook_submissions_"+s.parameter, " on port 465"
		}
		out = append(out, Rule{
			ID: id, Title: s.parameter + of + " is not as in the runbook", Severity: Warning,
			Why: s.why, Cite: whoSays + s.parameter, Until: s.until, Retired: s.retired, check: s.check,
		})
	}
	return out
}

func (s setting) check(v *view) (out []*Finding) {
	if s.port == 0 {
		if same(v.Effective("", s.parameter), s.value) {
			return nil
		}
		return []*Finding{s.found(v, "", v.at("", s.parameter))}
	}
	for _, l := range v.on(s.port) {
		if !same(v.Effective(l.ID(), s.parameter), s.value) {
			out = append(out, s.found(v, l.ID(), v.at(l.ID(), s.parameter)))
		}
	}
	return out
}

func (s setting) found(v *view, id string, at problem.At) *Finding {
	advice := s.parameter + " = " + s.value
	if id != "" {
		advice = "-o " + s.parameter + "=" + s.value + " for " + id
	}
	f := found(at, advice, "%s = %s, not %s", s.parameter, orWord(v.Effective(id, s.parameter), "(empty)"), s.value)
	return f.with(v.set(id, s.parameter, s.value))
}

// same compares two values as lists, in which commas and blanks are one.
func same(a, b string) bool {
	return slices.EqualFunc(words(a, ""), words(b, ""), strings.EqualFold)
}

// Edits are the remedies of findings as one list, each edit once. What two
// findings want to be different is left to the first; the others are returned as
// conflicts.
func Edits(all []*Finding) (edits []cf.Edit, conflicts []*Finding) {
	type place struct{ service, parameter string }
	value := func(e cf.Edit) string {
		if e.New == nil {
			return "\x00"
		}
		return *e.New
	}
	wanted := map[place]string{}
	for _, f := range all {
		clash := slices.ContainsFunc(f.Remedy, func(e cf.Edit) bool {
			w, ok := wanted[place{e.Service, e.Parameter}]
			return ok && w != value(e)
		})
		if clash {
			conflicts = append(conflicts, f)
			continue
		}
		for _, e := range f.Remedy {
			p := place{e.Service, e.Parameter}
			if _, ok := wanted[p]; !ok {
				wanted[p] = value(e)
				edits = append(edits, e)
			}
		}
	}
	return edits, conflicts
}
