package config

import (
	"fmt"
	"slices"
	"strings"
)

// certificates judges each certificate and returns their names.
func (v *validator) certificates(list []Certificate) []string {
	var names []string
	for i := range list {
		c, path := &list[i], fmt.Sprintf("certificates[%d]", i)
		switch {
		case c.Name == "":
			v.missing(path, "name", "")
		case slices.Contains(names, c.Name):
			v.value(path+".name", "%q is there twice", brief(c.Name))
		default:
			v.check(path+".name", checkName(c.Name))
		}
		names = append(names, c.Name)
		v.domains(c.Domains, path+".domains")
		switch c.Source {
		case SourceACME:
			v.ordered(c, path)
		case SourceWatch:
			v.watched(c, path)
		default:
			v.check(path+".source", oneOf(c.Source, SourceACME, SourceWatch))
		}
	}
	return names
}

func (v *validator) domains(list []string, path string) {
	for i, name := range list {
		key := fmt.Sprintf("%s[%d]", path, i)
		if wrong := checkDomain(name); wrong != "" {
			v.value(key, "%s", wrong)
		} else if slices.Index(list, name) < i {
			v.value(key, "%q is there twice", brief(name))
		}
	}
}

// use is a key, and whether it is used.
type use struct {
	key  string
	used bool
}

// watched judges a certificate that another client obtains. What only an order
// can use is refused: it would look as if it had an effect.
func (v *validator) watched(c *Certificate, path string) {
	v.path(&c.Lineage, path+".lineage", required)
	for _, k := range []use{
		{"challenge", c.Challenge != (Challenge{})}, {"profile", c.Profile != ""}, {"preferred_chain", c.PreferredChain != ""},
		{"key", c.Key != (Key{})}, {"also", len(c.Also) > 0},
	} {
		if k.used {
			v.value(path+"."+k.key, "has no effect with source: watch, where another client orders the certificate")
		}
	}
}

// ordered judges a certificate that postcert orders.
func (v *validator) ordered(c *Certificate, path string) {
	if len(c.Domains) == 0 {
		v.missing(path, "domains", "; at least one name is needed to order a certificate")
	}
	if c.Lineage != "" {
		v.value(path+".lineage", "is for source: watch only")
	}
	v.challenge(c, path+".challenge")
	if c.Profile != "" && !isWord(strings.ToLower(c.Profile)) {
		v.value(path+".profile", "%q is not the name of a profile", brief(c.Profile))
	}
	keyTypes := []KeyType{EC256, EC384, RSA2048, RSA3072, RSA4096}
	v.check(path+".key.type", oneOf(c.Key.Type, keyTypes...))
	v.check(path+".key.policy", oneOf(c.Key.Policy, KeyRotate, KeyReuse, KeyStaged, KeyAuto))
	for i, also := range c.Also {
		key := fmt.Sprintf("%s.also[%d]", path, i)
		wrong := oneOf(also, keyTypes...)
		switch {
		case wrong != "":
			v.value(key, "%s", wrong)
		case i > 0:
			v.value(key, "is one too many: a second certificate is all that Postfix can choose from")
		case also.Algorithm() == c.Key.Type.Algorithm():
			v.value(key, "%s has the same algorithm as %s; a client could not choose between them", also, c.Key.Type)
		}
	}
}

// challengeKeys says which keys each type of challenge uses.
var challengeKeys = map[ChallengeType][]string{
	HTTP01:    {"listen", "webroot"},
	TLSALPN01: {"listen"},
	DNS01:     {"provider", "credentials", "propagation"},
}

func (v *validator) challenge(c *Certificate, path string) {
	ch := &c.Challenge
	if ch.Type == "" {
		v.missing(path, "type", "; it is http-01, tls-alpn-01 or dns-01")
		return
	}
	if wrong := oneOf(ch.Type, HTTP01, TLSALPN01, DNS01); wrong != "" {
		v.value(path+".type", "%s", wrong)
		return
	}
	for _, k := range []use{
		{"provider", ch.Provider != ""}, {"credentials", ch.Credentials != ""}, {"propagation", ch.Propagation != 0},
		{"listen", ch.Listen != ""}, {"webroot", ch.Webroot != ""},
	} {
		if k.used && !slices.Contains(challengeKeys[ch.Type], k.key) {
			v.value(path+"."+k.key, "has no effect with type: %s", ch.Type)
		}
	}
	if ch.Type == DNS01 {
		v.dns(ch, path)
		return
	}
	for i, name := range c.Domains {
		if strings.HasPrefix(name, "*.") { // RFC 8555 section 8.3, RFC 8737 section 3
			v.value(fmt.Sprintf("%s[%d]", strings.TrimSuffix(path, ".challenge")+".domains", i),
				"the wildcard name %q needs a dns-01 challenge", brief(name))
		}
	}
	v.path(&ch.Webroot, path+".webroot", optional)
	if ch.Webroot != "" && ch.Listen != "" {
		v.value(path+".listen", "cannot be used together with webroot")
	} else if ch.Listen != "" {
		v.check(path+".listen", checkListen(ch.Listen))
	}
}

func (v *validator) dns(ch *Challenge, path string) {
	switch {
	case ch.Provider == "":
		v.missing(path, "provider", "; dns-01 needs the name of a DNS provider")
	case !isWord(ch.Provider):
		v.value(path+".provider", "%q is not the name of a DNS provider", brief(ch.Provider))
	}
	v.secret(&ch.Credentials, path+".credentials")
}

// instances judges each Postfix instance; names are those of the certificates.
func (v *validator) instances(list []Instance, names []string) {
	seen := map[string]bool{}
	for i := range list {
		in, path := &list[i], fmt.Sprintf("instances[%d]", i)
		if in.ConfigDirectory == "" {
			v.missing(path, "config_directory", "")
		} else {
			v.path(&in.ConfigDirectory, path+".config_directory", required)
			if seen[in.ConfigDirectory] {
				v.value(path+".config_directory", "%q is there twice", brief(in.ConfigDirectory))
			}
			seen[in.ConfigDirectory] = true
		}
		if in.Certificate != "" {
			v.reference(in.Certificate, names, path+".certificate")
		}
		for j, name := range in.SNI {
			key := fmt.Sprintf("%s.sni[%d]", path, j)
			v.reference(name, names, key)
			if name == in.Certificate || slices.Index(in.SNI, name) < j {
				v.value(key, "%q is served already", brief(name))
			}
		}
		v.services(in.Services, names, path+".services")
		v.check(path+".layout", oneOf(in.Layout, LayoutAuto, LayoutPair, LayoutKeep))
		v.check(path+".rehearsal", oneOf(in.Rehearsal, RehearsalAuto, RehearsalRequired))
		v.check(path+".drift", oneOf(in.Drift, DriftReport, DriftRepair))
		v.domains(in.Names, path+".names")
		for j, listener := range in.IgnoreListeners {
			v.check(fmt.Sprintf("%s.ignore_listeners[%d]", path, j), checkListener(listener))
		}
		v.probes(in.Probe, path+".probe")
	}
}

// reference judges the name of a certificate that must be configured.
func (v *validator) reference(name string, names []string, path string) {
	if slices.Contains(names, name) || v.anyRefused("certificates") {
		return
	}
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	v.value(path, "there is no certificate named %q%s", brief(name), hint)
}

// anyRefused tells whether the strict reader refused anything below a key.
func (v *validator) anyRefused(key string) bool {
	for bad := range v.bad {
		if bad == "" || strings.HasPrefix(bad, key) {
			return true
		}
	}
	return false
}

func (v *validator) services(list []Service, names []string, path string) {
	seen := map[string]bool{}
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case s.Service == "":
			v.missing(at, "service", "")
		case !isService(s.Service):
			v.value(at+".service", "%q is not service/type, such as submissions/inet", brief(s.Service))
		case seen[s.Service]:
			v.value(at+".service", "%q is there twice", brief(s.Service))
		}
		seen[s.Service] = true
		if s.Certificate == "" {
			v.missing(at, "certificate", "")
		} else {
			v.reference(s.Certificate, names, at+".certificate")
		}
	}
}

func (v *validator) probes(list []Probe, path string) {
	seen := map[string]bool{}
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case p.Listener == "":
			v.missing(at, "listener", "")
		case seen[p.Listener]:
			v.value(at+".listener", "%q is there twice", brief(p.Listener))
		default:
			v.check(at+".listener", checkListener(p.Listener))
		}
		seen[p.Listener] = true
		if p.Address != "" {
			v.check(at+".address", checkAddress(p.Address))
		}
	}
}
