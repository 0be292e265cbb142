package cf

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// ErrChanged says that the files and what postconf printed are not of one
// moment: somebody edits them. Nothing was decided; read again.
var ErrChanged = errors.New("cf: the configuration changed while it was read")

// Outputs is what postconf -c DIR printed on standard output, without -f. All
// is needed; of the others each that is given is used and compared.
type Outputs struct {
	All       []byte // postconf: every parameter
	Set       []byte // postconf -n: what main.cf sets
	Expanded  []byte // postconf -x: every parameter, expanded
	Services  []byte // postconf -M
	Overrides []byte // postconf -P
}

// Snapshot is one instance's configuration at one moment. Its maps belong to
// it: treat them as read-only.
type Snapshot struct {
	Dir     string // configuration directory
	Version string // mail_version, such as "3.7.11"
	Main    File
	Master  File

	Parameters map[string]string // as postconf prints them, defaults included
	Expanded   map[string]string // as postconf -x prints them
	Set        map[string]bool   // names that main.cf sets
	Services   []Service         // in the order of master.cf

	settings map[string]setting // what main.cf sets; of two the last
}

// setting is a logical line of main.cf.
type setting struct {
	logical
	name               string
	value              string
	valueFrom, valueTo int
}

// readOnly are parameters Postfix sets itself: it ignores what main.cf says.
var readOnly = map[string]bool{"process_id": true, "process_name": true, "service_name": true}

// notExpanded are the parameters whose $name is for the daemon to fill in at
// run time; postconf -x leaves them as they are.
var notExpanded = map[string]bool{
	"command_execution_directory": true, "default_rbl_reply": true, "forward_path": true,
	"luser_relay": true, "mailbox_command": true, "postscreen_expansion_filter": true,
	"postscreen_reject_footer": true, "smtpd_expansion_filter": true, "smtpd_reject_footer": true,
}

// Parse makes a Snapshot of the bytes of both files and of what postconf -c
// dir printed. Warnings that got into the output are skipped. The files are
// read by this package too, for lines and exact values; where the two readings
// differ it returns ErrChanged. A file that Postfix would refuse is a
// *ParseError.
func Parse(dir string, main, master File, out Outputs) (Snapshot, error) {
	s := Snapshot{Dir: dir, Main: main, Master: master, Parameters: parameters(out.All), Expanded: parameters(out.Expanded), Set: map[string]bool{}}
	s.Version = s.Parameters["mail_version"]
	if s.Version == "" {
		return Snapshot{}, errors.New("cf: postconf printed no mail_version")
	}
	for _, f := range []File{main, master} {
		if i := bytes.IndexByte(f.Data, 0); i >= 0 {
			return Snapshot{}, &ParseError{f.Path, 1 + bytes.Count(f.Data[:i], []byte("\n")), "a NUL byte"}
		}
	}
	lines, err := parseMain(main.Path, string(main.Data))
	if err != nil {
		return Snapshot{}, err
	}
	entries, err := parseMaster(master.Path, string(master.Data))
	if err != nil {
		return Snapshot{}, err
	}
	s.settings = map[string]setting{}
	for _, l := range lines {
		if !readOnly[l.name] {
			s.settings[l.name], s.Set[l.name] = l, true
		}
	}
	for _, e := range entries {
		s.Services = append(s.Services, e.service)
	}
	return s, s.compare(entries, out)
}

// parseMain reads main.cf. name is for errors.
func parseMain(name, data string) ([]setting, error) {
	var out []setting
	for _, l := range logicalLines(data) {
		n, from, to, ok := splitNameValue(l.text)
		if !ok {
			return nil, &ParseError{name, l.line, "not of the form name = value"}
		}
		out = append(out, setting{l, n, l.text[from:to], from, to})
	}
	return out, nil
}

// Overridden are the settings of main.cf that a later one with the same name and
// another value replaces. Every Postfix process warns of each when it starts.
func (s Snapshot) Overridden() []Overridden {
	lines, err := parseMain(s.Main.Path, string(s.Main.Data))
	if err != nil {
		return nil // Parse would have said so
	}
	var out []Overridden
	last := map[string]setting{}
	for _, l := range lines {
		if before, set := last[l.name]; set && before.value != l.value {
			out = append(out, Overridden{l.name, before.line})
		}
		last[l.name] = l
	}
	return out
}

// Overridden is a setting of main.cf without effect.
type Overridden struct {
	Name string
	Line int // of main.cf, from 1
}

// parameters reads lines "name = value". Continuation lines (postconf -f)
// are joined; warnings and anything else is skipped.
func parameters(out []byte) map[string]string {
	m := map[string]string{}
	last := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, spaceSet)
		if last != "" && strings.HasPrefix(line, " ") {
			m[last] = normal(m[last] + " " + line)
			continue
		}
		name, value, ok := strings.Cut(line, " =")
		last = ""
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			continue
		}
		last = name
		m[name] = strings.TrimPrefix(value, " ")
	}
	return m
}

// compare holds our reading of the files against postconf's.
func (s Snapshot) compare(entries []entry, out Outputs) error {
	for _, printed := range []map[string]string{s.Parameters, parameters(out.Set)} {
		for name, value := range printed {
			if l, ok := s.settings[name]; ok && normal(l.value) != value && name != "config_directory" {
				return fmt.Errorf("%w: %s is %q in %s, %q for postconf", ErrChanged, name, normal(l.value), s.Main.Path, value)
			}
		}
	}
	for name := range parameters(out.Set) {
		if !s.Set[name] && name != "config_directory" {
			return fmt.Errorf("%w: %s is not set in %s, but is for postconf", ErrChanged, name, s.Main.Path)
		}
	}
	if len(out.Services) > 0 {
		var ours, printed []string
		for _, e := range entries {
			ours = append(ours, e.listing)
		}
		for line := range strings.Lines(string(out.Services)) {
			if line = normal(line); line != "" && !strings.HasPrefix(line, "postconf: ") {
				printed = append(printed, line)
			}
		}
		for i := range max(len(ours), len(printed)) {
			if i >= len(ours) || i >= len(printed) || ours[i] != printed[i] {
				return fmt.Errorf("%w: %s and postconf -M differ at service entry %d", ErrChanged, s.Master.Path, i+1)
			}
		}
	}
	return s.compareOverrides(out.Overrides)
}

// compareOverrides skips services that have several entries: postconf prints
// the overrides of all of them together.
func (s Snapshot) compareOverrides(out []byte) error {
	printed := parameters(out)
	maps.DeleteFunc(printed, func(key, _ string) bool { return !strings.Contains(key, "/") })
	if len(printed) == 0 {
		return nil
	}
	count := map[string]int{}
	for _, v := range s.Services {
		count[v.ID()]++
	}
	seen := map[string]bool{}
	glued := []string{} // names of services have slashes, and so may those of parameters
	for _, v := range s.Services {
		if v.glued {
			glued = append(glued, v.ID()+"/")
			continue
		}
		for _, o := range v.Overrides {
			key := v.ID() + "/" + o.Name
			last, _ := v.override(o.Name)
			seen[key] = true
			if value, ok := printed[key]; count[v.ID()] == 1 && !readOnly[o.Name] && (!ok || value != normal(last.Value)) {
				return fmt.Errorf("%w: override %s is %q in %s, %q for postconf", ErrChanged, key, normal(last.Value), s.Master.Path, value)
			}
		}
	}
	for key := range printed {
		of := func(id string) bool { return strings.HasPrefix(key, id) }
		if !seen[key] && !slices.ContainsFunc(glued, of) {
			return fmt.Errorf("%w: override %s is not in %s, but is for postconf", ErrChanged, key, s.Master.Path)
		}
	}
	return nil
}

// Service finds a service entry by its ID; of several the last, as master(8)
// does.
func (s Snapshot) Service(id string) (Service, bool) {
	for i := len(s.Services) - 1; i >= 0; i-- {
		if s.Services[i].ID() == id {
			return s.Services[i], true
		}
	}
	return Service{}, false
}

// lookup gives unexpanded values as the daemon of a service sees them ("" is
// main.cf alone).
func (s Snapshot) lookup(service string) lookupFunc {
	entry, ok := s.Service(service)
	return func(name string) (string, bool) {
		if ok {
			switch name {
			case "process_name":
				return entry.program(), true
			case "service_name":
				return entry.Name, true
			}
			if o, found := entry.override(name); found {
				return o.Value, true
			}
		}
		if l, found := s.settings[name]; found && !(name == "config_directory" && s.Parameters[name] != "") {
			return l.value, true
		}
		value, found := s.Parameters[name]
		return value, found
	}
}

// Effective is what a parameter is for a service, expanded, blanks normalised
// as postconf -x prints them. service is an ID such as "submission/inet"; ""
// is main.cf alone. A value Postfix could not expand is returned as it stands.
func (s Snapshot) Effective(service, name string) string {
	return normal(s.exact(service, name))
}

// exact is Effective with the blanks as they stand.
func (s Snapshot) exact(service, name string) string {
	lookup := s.lookup(service)
	value, _ := lookup(name)
	if notExpanded[name] {
		return value
	}
	out, err := expand(value, lookup)
	if err != nil {
		return value
	}
	return out
}

// Source is where a parameter is set for a service: the path of the file and
// the physical line, from 1. Line 0 means the built-in default.
func (s Snapshot) Source(service, name string) (file string, line int) {
	if entry, ok := s.Service(service); ok {
		if o, found := entry.override(name); found {
			return s.Master.Path, o.Line
		}
	}
	if l, ok := s.settings[name]; ok {
		return s.Main.Path, l.line
	}
	return "", 0
}

// IsOf tells whether s is what a Postfix of this version reads in these bytes of
// main.cf and master.cf: then a plan made for s is still about what stands there.
func (s Snapshot) IsOf(version string, main, master []byte) bool {
	return version == s.Version && bytes.Equal(main, s.Main.Data) && bytes.Equal(master, s.Master.Data)
}

// ResolvePath makes a path of a parameter's value absolute: Postfix daemons
// run in the queue directory, so a relative path starts there.
func (s Snapshot) ResolvePath(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(s.Effective("", "queue_directory"), path)
}

// assume is the snapshot as it would be after edits, of which those of main.cf
// set a value (what a default is, postconf did not say). It is for looking
// parameters up: bytes, lines and postconf's own expansions stay behind.
func (s Snapshot) assume(edits []Edit) Snapshot {
	s.settings = maps.Clone(s.settings)
	s.Services = append([]Service(nil), s.Services...)
	for _, e := range edits {
		if e.Service == "" {
			l := s.settings[e.Parameter]
			l.name, l.value = e.Parameter, deref(e.New)
			s.settings[e.Parameter] = l
			continue
		}
		for i := len(s.Services) - 1; i >= 0; i-- {
			if v := &s.Services[i]; v.ID() == e.Service {
				v.Overrides = withOverride(v.Overrides, e)
				break
			}
		}
	}
	return s
}

func withOverride(all []Override, e Edit) []Override {
	line := 0
	var out []Override
	for _, o := range all {
		if o.Name == e.Parameter {
			line = o.Line
			continue
		}
		out = append(out, o)
	}
	if e.New != nil {
		out = append(out, Override{e.Parameter, *e.New, line})
	}
	return out
}
