package audit

import (
	"strconv"
	"strings"

	"postcert/verify/problem"
)

// The rules about what can be seen afterwards, and about session caches.
var loggingRules = []Rule{
	{
		ID: "loglevel_silent", Title: "TLS is not logged", Severity: Info,
		Why:  "with 0 the log does not tell which mail came or went encrypted",
		Cite: "postconf(5) smtpd_tls_loglevel, smtp_tls_loglevel", check: loglevelSilent,
	},
	{
		ID: "loglevel_high", Title: "TLS is logged for debugging", Severity: Warning,
		Why:  "2 and more fill the log, and 4 writes what was encrypted into it; 1 has the summary of each session",
		Cite: "postconf(5) smtpd_tls_loglevel", check: loglevelHigh,
	},
	{
		ID: "received_header_off", Title: "Received: headers do not tell about TLS", Severity: Info,
		Why:  "nobody can see in a message whether its last hop was encrypted",
		Cite: "postconf(5) smtpd_tls_received_header", check: receivedHeaderOff,
	},
	{
		ID: "session_cache_server", Title: "a server session cache that is not needed", Severity: Info,
		Why:  "session tickets do the same without a database, and are on by default",
		Cite: "postconf(5) smtpd_tls_session_cache_database", check: sessionCacheServer,
	},
	{
		ID: "session_cache_client", Title: "the client keeps no TLS sessions", Severity: Info,
		Why:  "each connection to the same server does a full handshake",
		Cite: "postconf(5) smtp_tls_session_cache_database", check: sessionCacheClient,
	},
	{
		ID: "parameter_twice", Title: "a TLS parameter is set twice in main.cf", Severity: Warning,
		Why:  "the last setting counts, every process warns, and the next person edits the wrong line",
		Cite: "postconf(5), file format", check: parameterTwice,
	},
}

// loglevels are the places that set a log level in use.
func (v *view) loglevels(ask func(name string, g group, level int) []*Finding) (out []*Finding) {
	for _, u := range v.inUse("loglevel") {
		name := strings.Replace(u.name, "mandatory_", "", 1)
		for _, g := range v.groups(name, u.ids) {
			level, err := strconv.Atoi(g.value)
			if err != nil {
				continue // Postfix does not start with it
			}
			out = append(out, ask(name, g, level)...)
		}
	}
	return distinct(out)
}

// distinct drops what was found twice at one place.
func distinct(in []*Finding) (out []*Finding) {
	seen := map[problem.At]bool{}
	for _, f := range in {
		if !seen[f.At] {
			seen[f.At] = true
			out = append(out, f)
		}
	}
	return out
}

func loglevelSilent(v *view) []*Finding {
	return v.loglevels(func(name string, g group, level int) []*Finding {
		if level > 0 {
			return nil
		}
		return []*Finding{found(g.at, name+" = 1", "%s = %d for %s", name, level, g.of()).with(v.set(g.in, name, "1"))}
	})
}

func loglevelHigh(v *view) []*Finding {
	return v.loglevels(func(name string, g group, level int) []*Finding {
		if level < 2 {
			return nil
		}
		return []*Finding{found(g.at, name+" = 1", "%s = %d for %s", name, level, g.of()).with(v.set(g.in, name, "1"))}
	})
}

func receivedHeaderOff(v *view) (out []*Finding) {
	const name = "smtpd_tls_received_header"
	for _, g := range v.groups(name, v.tlsServers()) {
		if !strings.EqualFold(g.value, "yes") {
			out = append(out, found(g.at, name+" = yes", "%s = %s for %s", name, g.value, g.of()).with(v.set(g.in, name, "yes")))
		}
	}
	return out
}

func sessionCacheServer(v *view) (out []*Finding) {
	const name = "smtpd_tls_session_cache_database"
	for _, in := range v.places(name) {
		if value := v.Effective(in, name); value != "" {
			out = append(out, found(v.at(in, name), "take it away", "%s = %s", name, value).with(v.unset(in, name)))
		}
	}
	return out
}

func sessionCacheClient(v *view) []*Finding {
	const name = "smtp_tls_session_cache_database"
	if v.Effective("", name) != "" || v.clientLevel("") == "none" || len(v.running("smtp")) == 0 {
		return nil
	}
	f := found(v.at("", name), "name a table in $data_directory", "%s is empty", name)
	// tlsmgr(8) can write these two, and Postfix is built with one of them.
	for _, kind := range []string{"btree", "lmdb"} {
		if contains(v.facts.TableTypes, kind) {
			value := kind + ":${data_directory}/smtp_scache"
			f.Advice = name + " = " + value
			return []*Finding{f.with(v.set("", name, value))}
		}
	}
	return []*Finding{f}
}

func parameterTwice(v *view) (out []*Finding) {
	for _, o := range v.Overridden() {
		if !strings.Contains(o.Name, "tls") {
			continue
		}
		at := problem.At{File: v.Main.Path, Line: o.Line, Parameter: o.Name}
		out = append(out, found(at, "remove this line", "%s is set again in %s, which counts", o.Name, short(v.at("", o.Name))))
	}
	return out
}
