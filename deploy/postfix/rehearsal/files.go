package rehearsal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// proxyPrefix begins the names of the private tlsproxy services, one for each
// postscreen.
const proxyPrefix = "tlsproxy-"

// mainCF is the private main.cf. dir is the rehearsal's directory.
func mainCF(c Candidate, dir string) ([]byte, error) {
	kept, err := effective(c, nil)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, value) }
	for _, name := range carried {
		value, ok := c.Parameters[name]
		if !ok {
			continue
		}
		if value, err = encode(value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		set(name, value)
	}
	for _, s := range inert {
		set(s.name, s.value)
	}
	set("queue_directory", dir+"/"+queueName)
	// Two: with smtpd_tls_wrappermode it waits for the handshake first.
	set("smtpd_timeout", fmt.Sprintf("%ds", smtpdTimeout))
	set("smtpd_starttls_timeout", fmt.Sprintf("%ds", smtpdTimeout))
	set("syslog_name", "rehearsal")
	// The log goes to the socket of the postlog service, which is ours. The
	// file is never written as long as we live.
	set("maillog_file", dir+"/log")
	set("maillog_file_prefixes", dir+"/")
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		set(name, kept[name])
	}
	return []byte(b.String()), nil
}

// masterCF is the private master.cf. Nothing is chrooted: keys and tables are
// read before chroot(2), so it would change nothing but what must be copied.
func masterCF(groups []group) []byte {
	var b strings.Builder
	entry := func(name string, limit int, command string, override map[string]string) {
		fmt.Fprintf(&b, "%s unix - - n - %d %s\n", name, limit, command)
		for _, p := range slices.Sorted(maps.Keys(override)) {
			// master(5): "-o { name = value }" holds white space.
			fmt.Fprintf(&b, "  -o { %s = %s }\n", p, override[p])
		}
	}
	entry("tlsmgr", 1, "tlsmgr", nil)
	entry("proxymap", 0, "proxymap", nil)
	// smtpd(8) parses the address of MAIL FROM by it before it rejects. Nobody
	// sends one, but who does should not wait.
	entry("rewrite", 1, "trivial-rewrite", nil)
	for i, g := range groups {
		override := maps.Clone(g.override)
		for name, value := range g.sasl {
			override[name] = strings.ReplaceAll(value, "$", "$$")
		}
		override["syslog_name"] = g.tag
		if !g.postscreen {
			entry(g.socket, min(max(g.cells, 1), processLimit), "smtpd", override)
			continue
		}
		proxy := fmt.Sprintf("%s%d", proxyPrefix, i)
		entry(proxy, 0, "tlsproxy", override)
		override["tlsproxy_service_name"] = proxy
		entry(g.socket, 1, "postscreen", override)
	}
	return []byte(b.String())
}
