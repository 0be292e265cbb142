package acme

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"postcert/verify/problem"
)

const (
	maxNames        = 100 // Let's Encrypt's limit, and that of verify/keypair
	maxNamesShort   = 25  // of Let's Encrypt's profiles tlsserver and shortlived
	maxDomain       = 253 // bytes, RFC 1035 section 2.3.4 in text form
	maxCertName     = 200 // leaves room for what file names add
	wildcardOnDisk  = "_wildcard."
	defaultAccount  = "default"
	maxProfileBytes = 64
)

// namePattern is what a certificate may be called: one plain element of a path.
var namePattern = regexp.MustCompile(`^(_wildcard\.)?[a-z0-9][a-z0-9._-]*(\+[a-z0-9]+)?$`)

var labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// checkName judges Spec.Name and account labels.
func checkName(id, what, name string) problem.List {
	switch {
	case name == "":
		return problem.List{problem.New(id, problem.At{}, "%s has no name", what)}
	case len(name) > maxCertName, strings.Contains(name, ".."), !namePattern.MatchString(name):
		return problem.List{problem.New(id, problem.At{}, "%s can't be called %q: a name has a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and has at most %d bytes", what, brief(name), maxCertName)}
	}
	return nil
}

// fileName is a certificate's name on disk: a wildcard's '*' is something else to
// a shell.
func fileName(name string) string {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		return wildcardOnDisk + rest
	}
	return name
}

// normalNames returns the names in lower case, without a final dot, sorted, and
// all that is wrong with them. An IDN must be given as its A-labels: of the
// several ways to make them (IDNA 2003, 2008, UTS 46) a wrong guess would order a
// certificate for a name that somebody else may own.
func normalNames(names []string, challenge, profile string) ([]string, problem.List) {
	var found problem.List
	if len(names) == 0 {
		return nil, problem.List{problem.New("domain_missing", problem.At{}, "a certificate needs at least one DNS name")}
	}
	limit := maxNames
	if profile == "tlsserver" || profile == "shortlived" {
		limit = maxNamesShort
	}
	if len(names) > limit {
		return nil, problem.List{problem.New("domain_too_many", problem.At{}, "%d names are more than the %d that a certificate may have%s", len(names), limit, under(profile))}
	}
	out := make([]string, 0, len(names))
	for _, raw := range names {
		name := strings.ToLower(strings.TrimSuffix(raw, "."))
		if p := checkDomain(raw, name, challenge); p != nil {
			found = append(found, *p)
			continue
		}
		if slices.Contains(out, name) {
			found = append(found, problem.New("domain_duplicate", problem.At{}, "%s is asked for twice", name))
			continue
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out, append(found, redundant(out)...)
}

func under(profile string) string {
	if profile == "" {
		return ""
	}
	return " under the profile " + profile
}

// checkDomain judges one name; nil is good. raw is what a person wrote.
func checkDomain(raw, name, challenge string) *problem.Problem {
	refuse := func(rule string) *problem.Problem {
		p := problem.New("domain_invalid", problem.At{}, "%q is no DNS name that a certificate can have: %s", brief(raw), rule)
		return &p
	}
	base, wild := strings.CutPrefix(name, "*.")
	labels := strings.Split(base, ".")
	switch {
	case name == "":
		return refuse("it is empty")
	case strings.ContainsFunc(raw, func(r rune) bool { return r >= 0x80 }):
		p := problem.New("domain_idn", problem.At{}, "%q is an internationalised name; the CA wants its A-labels (xn--...)", brief(raw))
		return &p
	case isIP(base):
		p := problem.New("domain_ip", problem.At{}, "%s is an IP address; certificates for addresses are not supported", brief(raw))
		return &p
	case len(base) > maxDomain:
		return refuse("it is longer than 253 bytes")
	case strings.Contains(base, "*"):
		return refuse("a '*' may only stand for the whole first label")
	case len(labels) < 2:
		return refuse("it has one label only")
	}
	for _, label := range labels {
		if rule := checkLabel(label); rule != "" {
			return refuse(rule)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return refuse("its last label is a number")
	}
	if wild && challenge != DNS01 {
		p := problem.New("domain_wildcard", problem.At{}, "the wildcard name %s needs a dns-01 challenge, not %s", name, challenge)
		return &p
	}
	return nil
}

// checkLabel returns the rule that a label breaks (RFC 5890 section 2.3.1).
func checkLabel(label string) string {
	switch {
	case label == "":
		return "a label is empty"
	case len(label) > 63:
		return "a label is longer than 63 bytes"
	case !labelPattern.MatchString(label):
		return "a label may have letters, digits and inner '-'"
	case len(label) > 3 && label[2:4] == "--" && !strings.HasPrefix(label, "xn--"):
		return "'--' at the third place is for xn-- only"
	}
	return ""
}

func isIP(name string) bool {
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

// redundant finds names that a wildcard covers already: Let's Encrypt refuses
// such an order as malformed.
func redundant(names []string) problem.List {
	var found problem.List
	for _, name := range names {
		_, parent, _ := strings.Cut(name, ".")
		if !strings.HasPrefix(name, "*.") && slices.Contains(names, "*."+parent) {
			found = append(found, problem.New("domain_redundant", problem.At{}, "%s is covered by *.%s already, and CAs refuse both in one order", name, parent))
		}
	}
	return found
}

// brief bounds a foreign word in a message.
func brief(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
