package rehearsal

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// group is one set of effective TLS parameters, and so one private service.
type group struct {
	socket     string            // its service name, and so that of its socket below private/
	tag        string            // its syslog_name
	override   map[string]string // what differs from main.cf, as a file will say it
	postscreen bool
	implicit   bool
	sasl       map[string]string // what makes it offer AUTH; nil: that is not asked
	services   []int             // indexes of Candidate.Services that are rehearsed by it
	cells      int               // how many questions it will be asked
}

// reserved are the names of the private Postfix's own services.
var reserved = []string{"tlsmgr", "proxymap", "rewrite", "postlog"}

// tagPrefix begins the syslog_name of the candidate's services.
const tagPrefix = "rehearsal/"

// processLimit bounds the processes of a private service: enough to use the
// processors, few enough to start quickly.
const processLimit = 4

// plan groups the services of c by what TLS will do for them.
func plan(c Candidate) ([]group, error) {
	if len(c.Services) == 0 {
		return nil, errors.New("the candidate has no service to rehearse")
	}
	if err := supported(c.Version); err != nil {
		return nil, err
	}
	main, err := effective(c, nil)
	if err != nil {
		return nil, err
	}
	var groups []group
	seen := map[string]int{}
	for i, s := range c.Services {
		params, err := effective(c, s.Parameters)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.ID, err)
		}
		key := fmt.Sprintf("%t %t %q %q", s.Implicit, s.Postscreen, pairs(params), pairs(s.SASL))
		n, ok := seen[key]
		if !ok {
			n = len(groups)
			seen[key] = n
			g := group{override: difference(main, params), postscreen: s.Postscreen, implicit: s.Implicit, sasl: s.SASL}
			g.socket = unused(groups, socketName(s.ID))
			g.tag = tagPrefix + tagName(g.socket)
			groups = append(groups, g)
		}
		groups[n].services = append(groups[n].services, i)
		groups[n].cells += len(orEmpty(s.SNI)) * len(orEmpty(s.KeyTypes))
	}
	return groups, nil
}

// supported refuses a Postfix without postlogd(8), whose log would reach the
// host's: 3.3 and older.
func supported(version string) error {
	if version == "" {
		return nil
	}
	number, _, _ := strings.Cut(version, "-")
	part := strings.Split(number, ".")
	if len(part) < 2 {
		return fmt.Errorf("mail_version %q is not understood", version)
	}
	major, err1 := strconv.Atoi(part[0])
	minor, err2 := strconv.Atoi(part[1])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("mail_version %q is not understood", version)
	}
	if major < 3 || major == 3 && minor < 4 {
		return fmt.Errorf("mail_version %s cannot log apart from the host; 3.4 can", version)
	}
	return nil
}

// effective has the kept parameters, as the private files will say them: those
// of main.cf and over them those of a service.
func effective(c Candidate, service map[string]string) (map[string]string, error) {
	out := map[string]string{}
	for _, from := range []map[string]string{c.Parameters, service} {
		for name, value := range from {
			if !keeps(name) {
				continue
			}
			if v, ok := forced[name]; ok {
				value = v
			}
			value = absolute(name, value, c.Parameters["queue_directory"])
			value, err := encode(substitute(value, c.Substitute))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out[name] = value
		}
	}
	return out, nil
}

// encode is how main.cf says value: postconf(5) "Specify $$ to produce a single
// $ character". What is given is expanded; no reference may arise from it.
func encode(value string) (string, error) {
	if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		return "", fmt.Errorf("control character at byte %d of the value", i)
	}
	return strings.ReplaceAll(value, "$", "$$"), nil
}

// Characters that stand beside a path in a list, in "type:path" and in {}.
const delimiters = " \t,:{}"

// substitute replaces the paths that stand in value as a whole.
func substitute(value string, by map[string]string) string {
	var b strings.Builder
	for value != "" {
		n := strings.IndexAny(value, delimiters)
		if n < 0 {
			n = len(value)
		}
		word := value[:n]
		// A path may itself contain a delimiter.
		for path := range by {
			rest, ok := strings.CutPrefix(value, path)
			if ok && len(path) > len(word) && (rest == "" || strings.ContainsAny(rest[:1], delimiters)) {
				word = path
			}
		}
		if to, ok := by[word]; ok {
			b.WriteString(to)
		} else {
			b.WriteString(word)
		}
		value = value[len(word):]
		if value != "" {
			b.WriteByte(value[0])
			value = value[1:]
		}
	}
	return b.String()
}

// absolute completes the relative paths of a parameter that names files. A
// daemon opens them from queue_directory, and the private one has another.
func absolute(name, value, queue string) string {
	if queue == "" || value == "" || !strings.HasSuffix(name, "_file") && !strings.HasSuffix(name, "_files") &&
		!strings.HasSuffix(name, "_CAfile") && !strings.HasSuffix(name, "_CApath") || name == "tls_config_file" {
		return value
	}
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	for i, w := range words {
		// postconf(5) smtpd_tls_dh1024_param_file: "auto" is not a path, and
		// smtpd_tls_cert_file: "none" is not one, in letters of any case.
		if !strings.HasPrefix(w, "/") && w != "auto" && !strings.EqualFold(w, "none") {
			words[i] = queue + "/" + w
		}
	}
	return strings.Join(words, ", ")
}

// difference has the entries of b that a does not have.
func difference(a, b map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range b {
		if v, ok := a[name]; !ok || v != value {
			out[name] = value
		}
	}
	return out
}

// pairs are the entries of m in the order of their names.
func pairs(m map[string]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, name+" = "+m[name])
	}
	return out
}

// socketName is the service name in service/type. The type has no slash.
func socketName(id string) string {
	if i := strings.LastIndexByte(id, '/'); i > 0 {
		id = id[:i]
	}
	return strings.ReplaceAll(id, "/", "_")
}

// unused is name, or name with a number if another service has it.
func unused(groups []group, name string) string {
	taken := func(s string) bool {
		return slices.Contains(reserved, s) ||
			slices.ContainsFunc(groups, func(g group) bool { return g.socket == s || tagName(g.socket) == tagName(s) })
	}
	// A name of ours is told by its beginning.
	if strings.HasPrefix(name, proxyPrefix) {
		name = "+" + name
	}
	free := name
	for i := 2; taken(free); i++ {
		free = fmt.Sprintf("%s+%d", name, i)
	}
	return free
}

// tagName is a service name as a part of a syslog tag: in a log line the tag
// ends at "[" or ":".
func tagName(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("[]: \t", r) {
			return '_'
		}
		return r
	}, name)
}

func orEmpty(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}
