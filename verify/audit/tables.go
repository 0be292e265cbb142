package audit

import (
	"fmt"
	"slices"
	"strings"

	"postcert/verify/problem"
)

// The rules about lookup tables that have to do with TLS.
var tableRules = []Rule{
	{
		ID: "table_type_missing", Title: "a table of a type that this Postfix does not have", Severity: Error,
		Why:  "whoever opens it logs \"unsupported dictionary type\" and defers mail, or ends",
		Cite: "postconf(1) -m; DATABASE_README", check: tableTypeMissing,
	},
	{
		ID: "table_unreadable", Title: "a lookup table cannot be read", Severity: Error,
		Why:  "mail is deferred, or the handshake aborted, as long as the table cannot be opened",
		Cite: "DATABASE_README; postconf(5) smtp_tls_policy_maps", check: tableUnreadable,
	},
	{
		ID: "table_stale", Title: "the index of a table is older than its source", Severity: Error,
		Why:  "Postfix reads the index, so the last edit has no effect",
		Cite: "postmap(1); DATABASE_README", check: tableStale,
	},
	{
		ID: "table_keys_readable", Title: "an index with private keys can be read by others", Severity: Error,
		Why:  "the index of tls_server_sni_maps holds copies of the keys themselves",
		Cite: "postconf(5) tls_server_sni_maps; postmap(1) -F", check: tableKeysReadable,
	},
	{
		ID: "policy_invalid", Title: "a TLS policy that Postfix refuses", Severity: Error,
		Why:  "mail to that destination is deferred with \"client TLS configuration problem\"",
		Cite: "postconf(5) smtp_tls_policy_maps; TLS_README", check: policyInvalid,
	},
}

// indexes are the types of table with a file of their own, and how that ends; ""
// where the source itself is read.
var indexes = map[string]string{
	"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag",
	"texthash": "", "cidr": "", "regexp": "", "pcre": "",
}

// mapsOf is a table that a parameter names.
type mapsOf struct {
	id, parameter string
	kind          string // hash, mysql, ...
	source, index string // absolute paths; "" if it is no file
	policy, keys  bool   // what it holds
}

// tableParameters are those that have to do with TLS.
var tableParameters = []struct {
	name          string
	policy, cache bool
}{
	{"smtp_tls_policy_maps", true, false}, {"lmtp_tls_policy_maps", true, false}, {"tls_server_sni_maps", false, false},
	{"smtp_tls_session_cache_database", false, true}, {"lmtp_tls_session_cache_database", false, true}, {"smtpd_tls_session_cache_database", false, true},
	{"relay_clientcerts", false, false},
}

// tables are the lookup tables of those parameters, once for each place.
func (v *view) tables() (out []mapsOf) {
	for _, p := range tableParameters {
		for _, in := range v.places(p.name) {
			for _, word := range tableWords(v.Effective(in, p.name)) {
				t := v.table(word)
				t.id, t.parameter, t.policy, t.keys = in, p.name, p.policy, p.name == "tls_server_sni_maps"
				if p.cache {
					t.source, t.index = "", "" // tlsmgr makes it
				}
				out = append(out, t)
			}
		}
	}
	return out
}

// table reads "type:name". A name alone is of the default type; proxy: only says
// who opens it (proxymap(8)).
func (v *view) table(word string) mapsOf {
	word = strings.TrimPrefix(strings.TrimPrefix(word, "proxy:"), "maybe:")
	kind, name, ok := strings.Cut(word, ":")
	if !ok {
		kind, name = v.Effective("", "default_database_type"), word
	}
	t := mapsOf{kind: strings.ToLower(kind)}
	if end, isFile := indexes[t.kind]; isFile {
		t.source = v.ResolvePath(name)
		if end != "" {
			t.index = t.source + end
		}
	}
	return t
}

// tableWords splits a list of tables, in which braces keep blanks together.
func tableWords(value string) (out []string) {
	depth, word := 0, strings.Builder{}
	end := func() {
		if word.Len() > 0 {
			out = append(out, word.String())
		}
		word.Reset()
	}
	for _, r := range value {
		switch {
		case r == '{':
			depth++
		case r == '}':
			depth--
		}
		if depth <= 0 && strings.ContainsRune(", \t\r\n", r) {
			end()
			continue
		}
		word.WriteRune(r)
	}
	end()
	return out
}

func tableTypeMissing(v *view) (out []*Finding) {
	for _, t := range v.tables() {
		if v.facts.TableTypes != nil && !contains(v.facts.TableTypes, t.kind) {
			out = append(out, found(v.at(t.id, t.parameter), "use a type that postconf -m lists ("+strings.Join(useful(v.facts.TableTypes), ", ")+"), or install the package with "+t.kind,
				"%s names a table of type %s", t.parameter, t.kind))
		}
	}
	return out
}

// useful are the types that hold a file with an index or text.
func useful(types []string) (out []string) {
	for _, t := range types {
		if _, ok := indexes[t]; ok {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

func tableUnreadable(v *view) (out []*Finding) {
	for _, t := range v.tables() {
		path := orWord(t.index, t.source)
		f, known := v.file(path)
		if path == "" || !known || f.Err == "" {
			continue
		}
		advice := "put it there, or take the table out of " + t.parameter
		if s, ok := v.file(t.source); t.index != "" && ok && s.Err == "" {
			advice = "make it: " + t.postmap()
		}
		out = append(out, found(v.at(t.id, t.parameter), advice, "%s, which %s names: %s", path, t.parameter, f.Err))
	}
	return out
}

// postmap is the command that makes the index.
func (t mapsOf) postmap() string {
	option := ""
	if t.keys {
		option = "-F "
	}
	return "postmap " + option + t.kind + ":" + t.source
}

func tableStale(v *view) (out []*Finding) {
	for _, t := range v.tables() {
		s, ok1 := v.file(t.source)
		x, ok2 := v.file(t.index)
		if t.index == "" || !ok1 || !ok2 || s.Err != "" || x.Err != "" || !s.Modified.After(x.Modified) {
			continue
		}
		out = append(out, found(v.at(t.id, t.parameter), t.postmap(), "%s is older than %s", t.index, t.source))
	}
	return out
}

func tableKeysReadable(v *view) (out []*Finding) {
	for _, t := range v.tables() {
		if f, known := v.file(t.index); t.keys && known && f.Err == "" && f.Mode&(groupRead|otherRead) != 0 {
			out = append(out, found(v.at(t.id, t.parameter), "chmod 600 "+t.source+" "+t.index, "%s has mode %04o", t.index, f.Mode.Perm()))
		}
	}
	return out
}

// attributes are the attributes of a policy, with the version that has them first.
var attributes = map[string]string{
	"ciphers": "2.3", "protocols": "2.3", "match": "2.3", "exclude": "2.6", "tafile": "2.11",
	"servername": "3.4", "connection_reuse": "3.4", "enable_rpk": "3.9",
	"policy_ttl": "3.10", "policy_type": "3.10", "policy_domain": "3.10", "policy_string": "3.10", "mx_host_pattern": "3.10", "policy_failure": "3.10",
}

// policyFault is why smtp(8) of a version refuses a policy; "" if it does not
// (smtp_tls_policy.c, tls_policy_lookup_one).
func policyFault(policy, version string) string {
	fields := tableWords(policy)
	if len(fields) == 0 {
		return "it is empty"
	}
	level := strings.ToLower(fields[0])
	if !contains(clientLevels, level) {
		return fmt.Sprintf("%q is no security level", fields[0])
	}
	if level == "none" {
		return ""
	}
	for _, f := range fields[1:] {
		name, value, ok := strings.Cut(strings.Trim(f, "{} "), "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		since, known := attributes[name]
		switch {
		case !ok:
			return fmt.Sprintf("%q is not of the form name=value", f)
		case !known:
			return fmt.Sprintf("there is no attribute %q", name)
		case before(version, since):
			return fmt.Sprintf("the attribute %q is of Postfix %s, this is %s", name, since, version)
		case value == "" && name != "exclude" && name != "protocols":
			return fmt.Sprintf("%q has no value", name)
		case name == "match" && !contains([]string{"fingerprint", "verify", "secure"}, level):
			return fmt.Sprintf("match is not for level %s", level)
		case name == "tafile" && !contains(verifying, level):
			return fmt.Sprintf("tafile is not for level %s", level)
		case name == "protocols":
			if bad := parseProtocols(value, version).bad; bad != "" {
				return fmt.Sprintf("%q is no protocol", bad)
			}
		case name == "ciphers" && !contains(grades, strings.ToLower(value)):
			return fmt.Sprintf("%q is no cipher grade", value)
		}
	}
	return ""
}

// policies are the entries of the policy tables whose source can be read.
func (v *view) policies(ask func(t mapsOf, e Entry)) {
	for _, t := range v.tables() {
		if !t.policy || contains([]string{"cidr", "regexp", "pcre"}, t.kind) {
			continue
		}
		f, _ := v.file(t.source)
		for _, e := range f.Entries {
			ask(t, e)
		}
	}
}

func policyInvalid(v *view) (out []*Finding) {
	v.policies(func(t mapsOf, e Entry) {
		if fault := policyFault(e.Value, v.Version); fault != "" {
			at := problem.At{File: t.source, Line: e.Line, Parameter: t.parameter, Service: t.id}
			out = append(out, found(at, "correct the entry; then "+t.again(), "the policy of %s is refused: %s", e.Key, fault))
		}
	})
	return out
}

// again is what makes Postfix see an edit.
func (t mapsOf) again() string {
	if t.index == "" {
		return "postfix reload"
	}
	return t.postmap()
}

// verifyingPolicies names the first policy that needs trust anchors and brings
// none of its own.
func (v *view) verifyingPolicies() string {
	first := ""
	v.policies(func(t mapsOf, e Entry) {
		fields := tableWords(strings.ToLower(e.Value))
		own := slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "tafile=") })
		if first == "" && len(fields) > 0 && contains(verifying, fields[0]) && !own {
			first = "the policy " + fields[0] + " of " + e.Key
		}
	})
	return first
}
