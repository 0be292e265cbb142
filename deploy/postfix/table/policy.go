package table

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Levels are the security levels of the Postfix SMTP client, weakest first
// (TLS_README, "Client TLS security levels").
var Levels = []string{"none", "may", "encrypt", "dane", "dane-only", "fingerprint", "verify", "secure"}

// Policy is one entry of smtp_tls_policy_maps (TLS_README, "TLS policy table").
type Policy struct {
	Level      string
	Attributes []Attribute
}

// Attribute is a name=value of a Policy.
type Attribute struct{ Name, Value string }

// String is the entry's value, as it is written into a table.
func (p Policy) String() string {
	out := []string{p.Level}
	for _, a := range p.Attributes {
		out = append(out, a.Name+"="+a.Value)
	}
	return strings.Join(out, " ")
}

// Get is the value of an attribute, "" if it is not there.
func (p Policy) Get(name string) string {
	for _, a := range p.Attributes {
		if strings.EqualFold(a.Name, name) {
			return a.Value
		}
	}
	return ""
}

// since are the attributes, and the version of Postfix that has each (RELEASE_NOTES
// of 3.4, 3.9 and 3.10). An unknown one makes smtp(8) defer all mail for the
// destination: "client TLS configuration problem".
var since = map[string]string{
	"match": "", "protocols": "", "ciphers": "", "exclude": "", "tafile": "",
	"servername": "3.4", "connection_reuse": "3.4", "enable_rpk": "3.9",
	"policy_type": "3.10", "policy_domain": "3.10", "policy_string": "3.10", "policy_ttl": "3.10",
	"policy_failure": "3.10", "mx_host_pattern": "3.10",
}

// multiple are the attributes that may be there more than once.
var multiple = []string{"match", "tafile", "connection_reuse", "enable_rpk", "policy_string", "mx_host_pattern"}

// ParsePolicy reads the value of an entry and judges it as the smtp(8) of this
// version does. What that would not accept is an error; the policy is filled as far
// as it could be read.
func ParsePolicy(value, version string) (Policy, error) {
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	if len(words) == 0 {
		return Policy{}, fmt.Errorf("the entry is empty")
	}
	p := Policy{Level: words[0]}
	if !slices.Contains(append(Levels, "half-dane"), p.Level) {
		return p, fmt.Errorf("%q is no security level; there are %s", p.Level, strings.Join(Levels, ", "))
	}
	if strings.ContainsAny(value, "{}") {
		return p, nil // { name = value }, Postfix 3.10: not taken apart here
	}
	for _, w := range words[1:] {
		name, v, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return p, fmt.Errorf("%q is no name=value", w)
		}
		p.Attributes = append(p.Attributes, Attribute{strings.ToLower(name), v})
		if err := p.judge(len(p.Attributes)-1, version); err != nil {
			return p, err
		}
	}
	return p, nil
}

// judge says what is wrong with attribute n.
func (p Policy) judge(n int, version string) error {
	a := p.Attributes[n]
	first, known := since[a.Name]
	twice := slices.ContainsFunc(p.Attributes[:n], func(o Attribute) bool { return o.Name == a.Name })
	switch {
	case !known:
		return fmt.Errorf("there is no attribute %q", a.Name)
	case first != "" && !AtLeast(version, first):
		return fmt.Errorf("the attribute %s needs Postfix %s, and this is %s: it would defer all mail for the destination", a.Name, first, version)
	case p.Level == "none":
		return fmt.Errorf("the attribute %s has no meaning at the level none, which uses no TLS", a.Name)
	case twice && !slices.Contains(multiple, a.Name):
		return fmt.Errorf("the attribute %s is there twice", a.Name)
	}
	return p.judgeValue(a, version)
}

func (p Policy) judgeValue(a Attribute, version string) error {
	authenticates := p.Level == "verify" || p.Level == "secure"
	switch a.Name {
	case "match":
		if !authenticates && p.Level != "fingerprint" {
			return fmt.Errorf("match is for the levels verify, secure and fingerprint; at %s it would defer all mail for the destination", p.Level)
		}
	case "tafile":
		if !authenticates {
			return fmt.Errorf("tafile is for the levels verify and secure; at %s it would defer all mail for the destination", p.Level)
		}
		if _, err := os.Stat(a.Value); err != nil {
			return fmt.Errorf("tafile: %w", err)
		}
	case "ciphers":
		if !slices.Contains([]string{"export", "low", "medium", "high", "null"}, strings.ToLower(a.Value)) {
			return fmt.Errorf("ciphers=%s: the grades are medium and high", a.Value)
		}
	case "servername":
		if !hostname.MatchString(a.Value) || net.ParseIP(a.Value) != nil {
			return fmt.Errorf("servername=%s is no host name", a.Value)
		}
	case "connection_reuse", "enable_rpk":
		if a.Value != "yes" && a.Value != "no" {
			return fmt.Errorf("%s=%s: it is yes or no", a.Name, a.Value)
		}
	case "protocols":
		return judgeProtocols(a.Value, version)
	}
	if a.Value == "" {
		return fmt.Errorf("the attribute %s has no value", a.Name)
	}
	return nil
}

// protocolNames are what may stand in a list of protocols (postconf(5),
// smtp_tls_protocols).
var protocolNames = []string{"sslv2", "sslv3", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3"}

// judgeProtocols reads a list of protocols as it is written here: with ":" between
// them, "!" to exclude one and, since Postfix 3.6, ">=" and "<=".
func judgeProtocols(value, version string) error {
	for _, w := range strings.Split(value, ":") {
		name := strings.TrimPrefix(w, "!")
		if bound := strings.TrimPrefix(strings.TrimPrefix(w, ">="), "<="); bound != w {
			if !AtLeast(version, "3.6") {
				return fmt.Errorf("protocols=%s: >= and <= need Postfix 3.6, and this is %s; name what is excluded: !SSLv2:!SSLv3:!TLSv1:!TLSv1.1", value, version)
			}
			name = bound
		}
		if !slices.Contains(protocolNames, strings.ToLower(name)) {
			return fmt.Errorf("protocols=%s: there is no %q; names are %s", value, name, "SSLv3, TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")
		}
	}
	return nil
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)

// NextHop is a key of a policy table: a next hop as Postfix writes it in a
// transport, relayhost or recipient domain: "example.com", "[mail.example.com]",
// "[192.0.2.1]:587", "example.com:587", or ".example.com" for all domains below.
// The last is looked up for domains alone, never for a key with brackets or a port.
func NextHop(key string) error {
	if key == "*" || key == "" || strings.ContainsAny(key, " \t\n@#,{}") {
		return fmt.Errorf("%q is no next hop: a domain, .parent, [host] or [host]:port", key)
	}
	host, port, hasPort := key, "", false
	if strings.HasPrefix(key, "[") {
		inner, rest, ok := strings.Cut(key[1:], "]")
		if !ok || rest != "" && !strings.HasPrefix(rest, ":") {
			return fmt.Errorf("%q: a bracket is not closed, or something follows it that is no :port", key)
		}
		host, port, hasPort = inner, strings.TrimPrefix(rest, ":"), rest != ""
		if ip := net.ParseIP(strings.TrimPrefix(strings.ToLower(host), "ipv6:")); ip != nil {
			host = "address"
		}
	} else if h, p, ok := strings.Cut(key, ":"); ok {
		host, port, hasPort = h, p, true
	}
	if n, err := strconv.ParseUint(port, 10, 16); hasPort && n == 0 && (err == nil || !hostname.MatchString(port)) {
		return fmt.Errorf("%q: %q is no port", key, port)
	}
	if !hostname.MatchString(strings.TrimPrefix(host, ".")) || strings.HasPrefix(host, ".") && (hasPort || key[0] == '[') {
		return fmt.Errorf("%q: %q is no host or domain name", key, host)
	}
	return nil
}

// Keys are what smtp(8) looks up for a next hop, in order: itself and, if it is a
// domain, its parents with a leading dot.
func Keys(nextHop string) []string {
	out := []string{nextHop}
	if !hostname.MatchString(nextHop) || net.ParseIP(nextHop) != nil {
		return out
	}
	for {
		_, parent, ok := strings.Cut(strings.TrimPrefix(nextHop, "."), ".")
		if !ok {
			return out
		}
		nextHop = "." + parent
		out = append(out, nextHop)
	}
}

// AtLeast tells whether a version of Postfix, "3.7.11" or "3.12-20260821", is this or a
// later one, by the first
// two numbers of both.
func AtLeast(version, want string) bool {
	v, w := numbers(version), numbers(want)
	return v[0] > w[0] || v[0] == w[0] && v[1] >= w[1]
}

func numbers(version string) (out [2]int) {
	for i, part := range strings.SplitN(version, ".", 3) {
		if i < 2 {
			part, _, _ = strings.Cut(part, "-")
			out[i], _ = strconv.Atoi(part)
		}
	}
	return out
}
