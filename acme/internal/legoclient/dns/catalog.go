package dns

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// definition is one provider of this package.
type definition struct {
	name    string
	aliases []string // other names for it, such as lego's
	fields  []Field
	// lego and certbot are the prefixes of the provider's keys in these files;
	// the first of lego's gets the common fields.
	lego, certbot []string
	needsZone     bool
	ttl           int           // seconds; the default of the field ttl
	propagation   time.Duration // what Timeout returns by default
	interval      time.Duration
	build         func(*setting) (backend, error)
}

// setting is what a provider is built from.
type setting struct {
	values    map[string]string // complete: defaults are filled in
	ttl       int
	timeout   time.Duration // of one request, or of the program
	propagate time.Duration
	interval  time.Duration
	way       *transport
	secrets   []string // what build has found beside the fields
}

// hide keeps a secret that is no field out of errors.
func (s *setting) hide(secret string) { s.secrets = append(s.secrets, secret) }

// definitions are all providers, sorted by name.
var definitions = []*definition{
	acmednsDefinition, cloudflareDefinition, desecDefinition, digitaloceanDefinition, execDefinition, gandiDefinition,
	hetznerDefinition, httpreqDefinition, inwxDefinition, ovhDefinition, pdnsDefinition, rfc2136Definition,
}

func lookUp(name string) *definition {
	for _, d := range definitions {
		if d.name == name || slices.Contains(d.aliases, name) {
			return d
		}
	}
	return nil
}

// Names are the providers of this package, sorted.
func Names() []string {
	names := make([]string, 0, len(definitions))
	for _, d := range definitions {
		names = append(names, d.name)
	}
	sort.Strings(names)
	return names
}

// Fields describes the credentials of the provider and, after them, what may be
// changed of its way to work; nil if there is no provider of that name.
func Fields(name string) []Field {
	d := lookUp(name)
	if d == nil {
		return nil
	}
	return d.all()
}

// all are the provider's fields with those that all have.
func (d *definition) all() []Field {
	fields := slices.Clone(d.fields)
	add := func(name, meaning, lego, byDefault string) {
		f := Field{Name: name, Meaning: meaning, Default: byDefault}
		for _, prefix := range d.lego {
			f.Lego = append(f.Lego, prefix+lego)
		}
		fields = append(fields, f)
	}
	add("ttl", "time to live of the record, seconds", "TTL", strconv.Itoa(d.ttl))
	add("propagation_timeout", "how long the record may take to be visible, seconds", "PROPAGATION_TIMEOUT", seconds(d.propagation))
	add("polling_interval", "how often it is looked for, seconds", "POLLING_INTERVAL", seconds(d.interval))
	add("http_timeout", "time limit of one request, or of the program, seconds", "HTTP_TIMEOUT", "")
	return fields
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// New returns the provider of that name. It makes no request: what it refuses is
// an unknown name, and a value of o.Credentials that is unknown, missing or
// malformed. The error is an *Error of kind Configuration.
func New(name string, o Options) (Provider, error) {
	d := lookUp(name)
	if d == nil {
		return nil, unknown(name)
	}
	fields := d.all()
	redact := newRedactor(secretsOf(fields, o.Credentials))
	refuse := func(err error) error {
		return &Error{Provider: d.name, Op: "configure", Kind: Configuration, Err: &told{text: redact.text(err)}}
	}
	values, err := complete(fields, o.Credentials)
	if err != nil {
		return nil, refuse(err)
	}
	s, err := d.setting(values, o)
	if err != nil {
		return nil, refuse(err)
	}
	deaf()
	back, err := d.build(s)
	redact = newRedactor(append(secretsOf(fields, values), s.secrets...))
	if err != nil {
		return nil, refuse(err)
	}
	p := &provider{
		name: d.name, back: back, needsZone: d.needsZone, resolvers: slices.Clone(o.Resolvers), way: s.way, redact: redact,
		timeout: s.propagate, interval: s.interval, turn: make(chan struct{}, 1), failed: map[string]bool{},
	}
	p.turn <- struct{}{}
	return p, nil
}

func unknown(name string) error {
	near, inContrib := Suggest(name)
	text := fmt.Sprintf("there is no provider %q", name)
	switch {
	case inContrib:
		text += " in this program; contrib/dns has it, by way of exec"
	case len(near) > 0:
		text += "; near names: " + strings.Join(near, ", ")
	}
	return &Error{Provider: name, Op: "configure", Kind: Configuration, Err: &told{text: text}}
}

// setting reads the fields that all providers have.
func (d *definition) setting(values map[string]string, o Options) (*setting, error) {
	s := &setting{values: values, timeout: 30 * time.Second}
	if d == execDefinition {
		s.timeout = 2 * time.Minute
	}
	for _, n := range []struct {
		name     string
		to       *time.Duration
		min, max int
	}{
		{"propagation_timeout", &s.propagate, 0, 24 * 60 * 60},
		{"polling_interval", &s.interval, 1, 60 * 60},
		{"http_timeout", &s.timeout, 1, 60 * 60},
	} {
		if values[n.name] == "" {
			continue
		}
		v, err := number(n.name, values[n.name], n.min, n.max)
		if err != nil {
			return nil, err
		}
		*n.to = time.Duration(v) * time.Second
	}
	var err error
	if s.ttl, err = number("ttl", values["ttl"], 1, 24*60*60); err != nil {
		return nil, err
	}
	if s.ttl < d.ttl && (d.name == "gandi" || d.name == "cloudflare" || d.name == "desec" || d.name == "hetzner") {
		s.ttl = d.ttl // the least that they take
	}
	if o.Propagation > 0 {
		s.propagate = o.Propagation
	}
	if o.Timeout > 0 {
		s.timeout = o.Timeout
	}
	base := o.base
	if base == nil {
		base = newBase()
	}
	s.way = &transport{base: base, timeout: s.timeout, userAgent: o.UserAgent, plain: values["allow_http"] == "yes"}
	return s, nil
}

func number(name, value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s: not a whole number from %d to %d", name, least, most)
	}
	return n, nil
}

// complete checks the values against the fields and fills in the defaults.
func complete(fields []Field, given map[string]string) (map[string]string, error) {
	values := map[string]string{}
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
		values[f.Name] = f.Default
		if v := given[f.Name]; v != "" {
			values[f.Name] = v
		}
	}
	keys := make([]string, 0, len(given))
	for key := range given {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if !slices.Contains(names, key) {
			return nil, fmt.Errorf("unknown value %q%s", key, didYouMean(nearest(key, names)))
		}
		if v := given[key]; strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return nil, fmt.Errorf("%s: holds a control character", key)
		}
	}
	return values, lacking(fields, given)
}

// lacking tells what is required and not given.
func lacking(fields []Field, given map[string]string) error {
	var missing, groups []string
	byGroup := map[string][]string{}
	for _, f := range fields {
		if f.Required && f.OneOf == "" && given[f.Name] == "" {
			missing = append(missing, f.Name)
		}
		if f.OneOf != "" {
			if byGroup[f.OneOf] == nil {
				groups = append(groups, f.OneOf)
			}
			byGroup[f.OneOf] = append(byGroup[f.OneOf], f.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	var begun, ways []string
	for _, g := range groups {
		ways = append(ways, strings.Join(byGroup[g], " and "))
		if slices.ContainsFunc(byGroup[g], func(name string) bool { return given[name] != "" }) {
			begun = append(begun, g)
		}
	}
	switch {
	case len(groups) > 0 && len(begun) == 0:
		return fmt.Errorf("missing: %s", strings.Join(ways, ", or "))
	case len(begun) > 1:
		return fmt.Errorf("only one way to log in may be given: %s", strings.Join(ways, ", or "))
	case len(begun) == 1:
		for _, name := range byGroup[begun[0]] {
			if given[name] == "" {
				return fmt.Errorf("missing: %s", name)
			}
		}
	}
	return nil
}
