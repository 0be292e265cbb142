package verify

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"

	"postcert/verify/problem"
)

// Covers tells whether leaf is valid for a host name or an IP address. Only
// subjectAltNames count (RFC 9525), never the common name. A wildcard stands for
// one whole leftmost label above at least two others, as OpenSSL has it; a name
// that itself begins with "*." is covered by the same wildcard only.
func Covers(leaf *x509.Certificate, name string) bool {
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return slices.ContainsFunc(leaf.IPAddresses, func(b net.IP) bool {
			have, ok := netip.AddrFromSlice(b)
			return ok && have.Unmap() == ip.Unmap()
		})
	}
	name = normal(name)
	return name != "" && slices.ContainsFunc(leaf.DNSNames, func(san string) bool { return matches(strings.ToLower(san), name) })
}

// normal writes a name as names are compared: lower case, no final dot.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func matches(san, name string) bool {
	if san == name {
		return true
	}
	above, wild := strings.CutPrefix(san, "*.")
	label, rest, ok := strings.Cut(name, ".")
	return wild && ok && rest == above && strings.Contains(above, ".") && legal(name) && !strings.Contains(label, "_")
}

const letters = "abcdefghijklmnopqrstuvwxyz0123456789"

// names judges what the leaf is valid for.
func names(leaf *x509.Certificate, pol Policy) problem.List {
	at := block(0)
	if len(leaf.DNSNames) == 0 {
		return problem.List{problem.New("san_missing", at, "the certificate has no DNS name as subjectAltName; clients do not look at its common name")}
	}
	var found problem.List
	for _, san := range leaf.DNSNames {
		if !legal(san) {
			found = append(found, problem.New("name_illegal", at, "the certificate has the subjectAltName %q, which is no host name", san))
		}
	}
	for _, name := range unique(pol.Names) {
		if Covers(leaf, name) {
			continue
		}
		p := problem.New("name_mismatch", at, "the certificate is not valid for %q, only for %s", name, list(leaf.DNSNames))
		if contains(pol.AllowNames, name) {
			p.Severity = problem.Warning
		}
		found = append(found, p)
	}
	return found
}

// unique returns each name once, in order.
func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if !contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func contains(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return normal(n) == normal(name) })
}

// list shows some names.
func list(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// legal tells whether a subjectAltName can be a host name: labels of letters,
// digits, hyphens and underscores (which hosts have, whatever RFC 1123 says),
// the first of which may be "*". None begins with a hyphen: OpenSSL and
// crypto/x509 let no wildcard stand for such a one (RFC 5890 section 2.3.1).
func legal(san string) bool {
	if len(san) > 253 {
		return false
	}
	labels := strings.Split(strings.TrimPrefix(strings.ToLower(san), "*."), ".")
	return !slices.ContainsFunc(labels, func(l string) bool {
		return l == "" || l[0] == '-' || len(l) > 63 || strings.ContainsFunc(l, func(r rune) bool { return !strings.ContainsRune(letters+"-_", r) })
	})
}
