package config

import (
	"fmt"
	"net/mail"
	"path/filepath"
	"reflect"
	"strings"

	"postcert/verify/problem"
)

var configType = reflect.TypeFor[Config]()

// validator judges values: of the right type, but possibly not meant. What the
// strict reader has refused already it does not judge again.
type validator struct {
	*reader
	origins map[string]Origin
}

// say adds a problem about the value of the key path. It names where the value
// came from: a line of the file, a variable, a flag.
func (v *validator) say(id, path, format string, args ...any) {
	if v.refused(path) {
		return
	}
	text := fmt.Sprintf(format, args...)
	if o := v.origins[path]; o.Layer == FromFlag || o.Layer == FromEnvironment {
		v.problems = append(v.problems, problem.New(id, problem.At{}, "%s: %s", o.Name, text))
		return
	}
	v.report(id, v.line(path), "%s: %s", path, text)
}

func (v *validator) value(path, format string, args ...any) {
	v.say("config_value", path, format, args...)
}

// missing reports a key that must be there. The line is that of its section.
func (v *validator) missing(section, key, why string) {
	v.say("config_missing", join(section, key), "is missing%s", why)
}

// line is where path stands, or else the section it would stand in.
func (v *validator) line(path string) int {
	for path != "" {
		if line := v.lines[path]; line > 0 {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return v.lines[""]
}

// refused tells whether the strict reader refused this value, or the one it is a
// part of.
func (v *validator) refused(path string) bool {
	for bad := range v.bad {
		if path == bad || strings.HasPrefix(path, bad+".") || strings.HasPrefix(path, bad+"[") {
			return true
		}
	}
	return false
}

func (v *validator) config(c *Config) {
	names := v.certificates(c.Certificates)
	v.instances(c.Instances, names)
	v.companions(c.Companions, c.Instances, names)
	for i := range c.Trust {
		v.path(&c.Trust[i], fmt.Sprintf("trust[%d]", i), required)
	}
	v.acme(&c.ACME)
	for i := range c.Notify.Targets {
		v.target(&c.Notify.Targets[i], fmt.Sprintf("notify[%d]", i))
	}
	v.metrics(&c.Metrics)
	v.path(&c.StateDir, "state_dir", required)
	v.path(&c.RuntimeDir, "runtime_dir", required)
	v.path(&c.CommandDirectory, "command_directory", optional)
	if n := c.KeepGenerations; n < 2 || n > 100 {
		v.value("keep_generations", "%d is not between 2 and 100", n)
	}
	if c.StateDir == c.RuntimeDir {
		v.value("runtime_dir", "is the same directory as state_dir")
	}
	if strings.ContainsFunc(c.Instance, isControl) {
		v.value("instance", "contains a control character")
	}
}

// companions are judged by what would be run as root, and where keys would go.
func (v *validator) companions(list []Companion, instances []Instance, names []string) {
	seen := map[string]bool{}
	for i := range list {
		c, path := &list[i], fmt.Sprintf("companions[%d]", i)
		switch {
		case c.Name == "":
			v.missing(path, "name", "")
		case !isWord(c.Name):
			v.value(path+".name", "%q is not a word of a-z, 0-9, - and _", brief(c.Name))
		case seen[c.Name]:
			v.value(path+".name", "%q is there twice", brief(c.Name))
		}
		seen[c.Name] = true
		if c.Export != (Export{}) {
			v.path(&c.Export.Directory, path+".export.directory", required)
			v.account(c.Export.Owner, path+".export.owner")
			v.account(c.Export.Group, path+".export.group")
		}
		switch {
		case c.Certificate != "":
			v.reference(c.Certificate, names, path+".certificate")
		case several(instances):
			v.missing(path, "certificate", ": the instances have several, and a companion can have one")
		}
		if len(c.Reload) > 0 {
			v.program(c.Reload, path+".reload")
		}
		for j, text := range c.Probe {
			v.check(fmt.Sprintf("%s.probe[%d]", path, j), checkProbeURL(text))
		}
		if c.Export == (Export{}) && len(c.Reload)+len(c.Probe) == 0 {
			v.say("config_missing", path, "has neither export nor reload nor probe, so it does nothing")
		}
	}
}

// several tells that the instances serve more than one certificate by default.
func several(instances []Instance) bool {
	seen := map[string]bool{}
	for _, i := range instances {
		seen[i.Certificate] = true
	}
	return len(seen) > 1
}

func (v *validator) program(argv []string, path string) {
	if !filepath.IsAbs(argv[0]) {
		v.value(path+"[0]", "%q is not the absolute path of a program", brief(argv[0]))
	}
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			v.value(fmt.Sprintf("%s[%d]", path, i), "contains a NUL byte")
		}
	}
}

func (v *validator) account(name, path string) {
	if !isAccount(name) {
		v.value(path, "%q is not the name or number of an account", brief(name))
	}
}

func (v *validator) acme(a *ACME) {
	v.check("acme.directory", checkDirectory(a.Directory))
	if a.Email != "" {
		if addr, err := mail.ParseAddress(a.Email); err != nil || addr.Address != a.Email {
			v.value("acme.email", "%q is not a mail address", brief(a.Email))
		}
	}
	v.path(&a.Trust, "acme.trust", optional)
	v.secret(&a.EAB.HMACFile, "acme.eab.hmac_file")
	switch {
	case a.EAB.KID == "" && a.EAB.HMACFile != "":
		v.missing("acme.eab", "kid", ", but hmac_file is there")
	case a.EAB.KID != "" && a.EAB.HMACFile == "":
		v.missing("acme.eab", "hmac_file", ", but kid is there")
	}
}

// target is judged as what root would run, and where a token would go.
func (v *validator) target(t *NotifyTarget, path string) {
	given := 0
	for _, there := range []bool{t.URLFile != "", len(t.Exec) > 0, t.Mail != ""} {
		if there {
			given++
		}
	}
	switch given {
	case 0:
		v.missing(path, "url_file", ", and so are exec and mail: one of them says who is told")
	case 1:
	default:
		v.value(path, "names more than one of url_file, exec and mail; make a list entry of each")
	}
	v.secret(&t.URLFile, path+".url_file")
	if len(t.Exec) > 0 {
		v.program(t.Exec, path+".exec")
	}
	if t.Mail != "" && !isRecipient(t.Mail) {
		v.value(path+".mail", "%q is neither a mail address nor the local part of one", brief(t.Mail))
	}
	alone := true
	for i, event := range t.On {
		v.check(fmt.Sprintf("%s.on[%d]", path, i), oneOf(event, OnFailure, OnRollback, OnExpiry, OnDrift, OnRecovery))
		alone = alone && event == OnRecovery
	}
	if len(t.On) > 0 && alone {
		v.value(path+".on", "names recovery only, which is told to those who were told that something was wrong")
	}
}

func (v *validator) metrics(m *Metrics) {
	v.path(&m.Textfile, "metrics.textfile", optional)
	if m.Textfile != "" && filepath.Ext(m.Textfile) != ".prom" {
		v.value("metrics.textfile", "does not end with .prom: node_exporter reads no other file")
	}
	if m.Listen != "" {
		v.check("metrics.listen", checkLoopback(m.Listen))
	}
}

// need says whether a path may be left out.
type need bool

const (
	required need = true
	optional need = false
)

// path judges a path and writes it in its clean form.
func (v *validator) path(p *string, key string, n need) {
	switch {
	case *p == "" && n == required:
		v.say("config_missing", key, "is empty; it must be an absolute path")
	case *p == "":
	case !filepath.IsAbs(*p):
		v.value(key, "%q is not an absolute path", brief(*p))
	case strings.ContainsFunc(*p, isControl):
		v.value(key, "contains a control character")
	default:
		*p = filepath.Clean(*p)
	}
}

// secret is path for a file with a secret in it: somebody may have put the
// secret here instead, so the value is not repeated.
func (v *validator) secret(p *string, key string) {
	switch {
	case *p == "":
	case !filepath.IsAbs(*p) || strings.ContainsFunc(*p, isControl):
		v.value(key, "is not the absolute path of a file")
	default:
		*p = filepath.Clean(*p)
	}
}

// check reports what one of the check functions found wrong, if anything.
func (v *validator) check(path, wrong string) {
	if wrong != "" {
		v.value(path, "%s", wrong)
	}
}
