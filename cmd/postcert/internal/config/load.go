package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"postcert/verify/problem"
)

// Input is what a configuration is made of beside the file.
type Input struct {
	// Flags are those given on the command line, by the Key of their Scalar. A
	// flag that was not given is absent; one given as an empty text is there.
	Flags map[string]string

	// Environment is the environment that main was started with, by name.
	Environment map[string]string
}

// Load finds, reads and judges the configuration in force. Without a file at
// DefaultFile, and with none named, it is made of the defaults. The Config is
// usable only if the list's Err is nil; its File is set in any case.
func Load(in Input) (Config, problem.List) {
	l := newLayers(in.Flags, in.Environment)
	path, named := l.path()
	if path == "" {
		return Config{}, problem.List{problem.New("config_value", problem.At{}, "the name of the configuration file is empty")}
	}
	data, absent, problems := readFile(path)
	if absent && !named {
		return l.build(newReader(path), nil, nil)
	}
	if data == nil && len(problems) > 0 {
		return Config{File: path}, problems
	}
	c, more := l.parse(path, data)
	return c, append(problems, more...)
}

// WithoutFile is the configuration in force if there were no file: flags,
// environment and defaults. It is for what must be done although the file cannot
// be used.
func WithoutFile(in Input) (Config, problem.List) {
	l := newLayers(in.Flags, in.Environment)
	return l.build(newReader(DefaultFile), nil, nil)
}

// Check judges the file at path alone, as `postcert config check` does: neither
// flags nor environment have a part in it, and it must exist.
func Check(path string) problem.List {
	_, problems := Load(Input{Flags: map[string]string{"config": path}})
	return problems
}

// Parse judges bytes as if they stood in a file of that name. It opens nothing.
func Parse(name string, data []byte) (Config, problem.List) {
	return newLayers(map[string]string{"config": name}, nil).parse(name, data)
}

// parse is the strict reading of data, then everything that needs no file.
func (l *layers) parse(path string, data []byte) (Config, problem.List) {
	r := newReader(path)
	root := r.document(data)
	if root != nil {
		r.value(root, configType, "")
	}
	if r.values > maxValues || root == nil && len(r.problems) > 0 {
		return Config{File: path}, r.problems // not to be given to anyone else
	}
	c, problems := l.build(r, root, data)
	c.Found, c.raw = true, data
	return c, problems
}

// build fills a Config from what the strict reader saw, the layers above it and
// the defaults below it, and judges the values. It goes on after a problem, so
// that all are reported at once.
func (l *layers) build(r *reader, root *yaml.Node, data []byte) (Config, problem.List) {
	var c Config
	if root != nil {
		r.decode(data, &c)
		if err := l.file(data); err != nil && len(r.problems) == 0 {
			r.report("config_syntax", 0, "not YAML: %v", err)
		}
	}
	problems := append(r.problems, l.apply(&c, r.bad)...)
	c.origins = l.origins
	for path, line := range r.lines {
		if _, above := c.origins[path]; !above {
			c.origins[path] = Origin{Layer: FromFile, Line: line}
		}
	}
	v := &validator{reader: r, origins: c.origins}
	r.problems = nil
	c.complete()
	v.config(&c)
	problems = append(problems, r.problems...)
	slices.SortStableFunc(problems, func(a, b problem.Problem) int { return cmp.Compare(a.At.Line, b.At.Line) })
	return c, problems
}

// decode fills c with yaml.v3's strict decoder. The strict reader has already
// reported what it refuses; if it refuses anything else, that is said as well,
// without yaml.v3's words, which quote the value.
func (r *reader) decode(data []byte, c *Config) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(c)
	var types *yaml.TypeError
	switch {
	case err == nil || len(r.problems) > 0:
	case errors.As(err, &types):
		for _, text := range types.Errors {
			line := 0
			if m := yamlLine.FindStringSubmatch(text); m != nil {
				line, _ = strconv.Atoi(m[1])
			}
			r.report("config_type", line, "a value of another type than its key has")
		}
	default:
		r.syntax(err)
	}
}

// complete fills the defaults of entries in lists; those of the scalar keys are
// a layer of their own.
func (c *Config) complete() {
	for i := range c.Certificates {
		cert := &c.Certificates[i]
		fill(&cert.Source, SourceACME)
		if cert.Source != SourceACME {
			continue
		}
		fill(&cert.Key.Type, EC256)
		fill(&cert.Key.Policy, KeyAuto)
		switch {
		case cert.Challenge.Type == TLSALPN01:
			fill(&cert.Challenge.Listen, ":443")
		case cert.Challenge.Type == HTTP01 && cert.Challenge.Webroot == "":
			fill(&cert.Challenge.Listen, ":80")
		}
	}
	for i := range c.Instances {
		fill(&c.Instances[i].Layout, LayoutAuto)
		fill(&c.Instances[i].Rehearsal, RehearsalAuto)
		fill(&c.Instances[i].Drift, DriftReport)
	}
	for i := range c.Companions {
		if export := &c.Companions[i].Export; *export != (Export{}) {
			fill(&export.Owner, "root")
			fill(&export.Group, "root")
		}
	}
	for i := range c.Notify.Targets {
		if t := &c.Notify.Targets[i]; len(t.On) == 0 {
			t.On = []Event{OnFailure, OnRollback, OnExpiry, OnDrift, OnRecovery}
		}
	}
}

func fill[T ~string](value *T, fallback T) {
	if *value == "" {
		*value = fallback
	}
}

// Certificate returns the configured certificate of that name.
func (c *Config) Certificate(name string) (Certificate, error) {
	for _, cert := range c.Certificates {
		if cert.Name == name {
			return cert, nil
		}
	}
	return Certificate{}, fmt.Errorf("no certificate %q in the configuration", name)
}
