package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"postcert/verify/problem"
)

// maxValues bounds how many values one file may hold, aliases counted each time
// they are used: a few lines of YAML can otherwise name billions of values.
const maxValues = 200_000

// maxProblems bounds what is reported of one file; nobody reads more.
const maxProblems = 100

// reader is the strict pass over one file: which keys, types and lines.
type reader struct {
	file     string         // path, as given
	lines    map[string]int // key path, such as certificates[0].name, to its line
	bad      map[string]bool
	values   int
	problems problem.List
}

func newReader(file string) *reader {
	return &reader{file: file, lines: map[string]int{}, bad: map[string]bool{}}
}

// report adds a problem at a line of the file.
func (r *reader) report(id string, line int, format string, args ...any) {
	if len(r.problems) >= maxProblems {
		return
	}
	place := filepath.Base(r.file)
	if line > 0 {
		place += ":" + strconv.Itoa(line)
	}
	at := problem.At{File: r.file, Line: line}
	r.problems = append(r.problems, problem.New(id, at, "%s: %s", place, fmt.Sprintf(format, args...)))
}

// document parses the one YAML document in data; nil when there is none, or when
// there is a problem.
func (r *reader) document(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		r.report("config_unreadable", 0, "larger than %d bytes", MaxSize)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			r.syntax(err)
		}
		return nil
	}
	switch err := dec.Decode(&next); {
	case err == nil:
		r.report("config_documents", next.Line, "a second YAML document begins here; only one is read")
		return nil
	case !errors.Is(err, io.EOF):
		r.syntax(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	return doc.Content[0]
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): `)

// syntax reports an error of the YAML parser, which has its line in its text.
func (r *reader) syntax(err error) {
	text := err.Error()
	line := 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	r.report("config_syntax", line, "not YAML: %s", strings.TrimPrefix(text, "yaml: "))
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	notifyType   = reflect.TypeFor[Notify]()
	targetsType  = reflect.TypeFor[[]NotifyTarget]()
)

// value checks that node is a value of type t. The walk is led by the type, so
// that an alias which contains itself ends where the type does.
func (r *reader) value(node *yaml.Node, t reflect.Type, path string) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	r.values++
	if r.values > maxValues {
		if r.values == maxValues+1 {
			r.report("config_value", node.Line, "more than %d values", maxValues)
		}
		return
	}
	r.lines[path] = node.Line
	null := node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
	switch {
	case t == notifyType:
		if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!str" {
			if node.Value != "none" {
				r.typeError(node, path, "a list, or the word none")
			}
			return
		}
		r.value(node, targetsType, path)
	case t.Kind() == reflect.Struct:
		if node.Kind == yaml.MappingNode {
			r.mapping(node, t, path)
		} else if !null || strings.HasSuffix(path, "]") {
			r.typeError(node, path, "keys and values")
		}
	case t.Kind() == reflect.Slice:
		if node.Kind == yaml.SequenceNode {
			for i, item := range node.Content {
				r.value(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
			}
		} else if !null {
			r.typeError(node, path, "a list")
		}
	default:
		r.scalar(node, t, path)
	}
}

// mapping checks one section key by key.
func (r *reader) mapping(node *yaml.Node, t reflect.Type, path string) {
	fields := keysOf(t)
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, val := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			r.report("config_unknown_key", key.Line, "a key%s is not a word", inSection(path))
			continue
		}
		if first, again := seen[key.Value]; again {
			r.report("config_unknown_key", key.Line, "key %q%s is given twice, first in line %d", brief(key.Value), inSection(path), first)
			continue
		}
		seen[key.Value] = key.Line
		field, known := fields[key.Value]
		if !known {
			r.unknown(key, fields, path)
			continue
		}
		r.value(val, field, join(path, key.Value))
		r.lines[join(path, key.Value)] = key.Line
	}
}

// unknown reports a key that does not exist, with the one it looks like.
func (r *reader) unknown(key *yaml.Node, fields map[string]reflect.Type, path string) {
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	hint := ""
	if near := nearest(key.Value, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
		r.bad[join(path, near)] = true // do not also say that it is missing
	}
	r.report("config_unknown_key", key.Line, "unknown key %q%s%s", brief(key.Value), inSection(path), hint)
}

// scalar checks text, numbers, truth values and durations. Nothing is converted:
// yaml.v3 alone would take 1 for text, and yes for true.
func (r *reader) scalar(node *yaml.Node, t reflect.Type, path string) {
	tag := node.ShortTag()
	if node.Kind != yaml.ScalarNode {
		tag = ""
	}
	switch {
	case t == durationType:
		if d, err := parseDuration(node.Value); tag != "!!str" || err != nil || d < 0 {
			r.typeError(node, path, "a time with its unit, such as 60s or 5m")
		}
	case t.Kind() == reflect.String:
		if tag != "!!str" {
			r.typeError(node, path, "text")
		}
	case t.Kind() == reflect.Bool:
		if tag != "!!bool" {
			r.typeError(node, path, "true or false")
		}
	case t.Kind() == reflect.Int:
		var n int
		if tag != "!!int" || node.Decode(&n) != nil {
			r.typeError(node, path, "a whole number")
		}
	}
}

// typeError says what is wanted and what kind of value stands there, never the
// value itself: it may be a secret in the wrong place.
func (r *reader) typeError(node *yaml.Node, path, want string) {
	r.bad[path] = true
	name := path
	if name == "" {
		name = "the file"
	}
	r.report("config_type", node.Line, "%s must be %s, not %s", name, want, kindOf(node))
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number (quotes make it text)"
	case "!!bool":
		return "true or false (quotes make it text)"
	case "!!timestamp":
		return "a date (quotes make it text)"
	case "!!null":
		return "nothing"
	}
	return "a value with the tag " + brief(node.ShortTag())
}

// parseDuration is time.ParseDuration without its one number that needs no unit.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" || s == "+0" || s == "-0" {
		return 0, errors.New("no unit")
	}
	return time.ParseDuration(s)
}

// keysOf are the keys of a section and the types of their values.
func keysOf(t reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.IsExported() && name != "" && name != "-" {
			keys[name] = f.Type
		}
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func inSection(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

// brief keeps a message short whatever stands in the file.
func brief(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// nearest is the one of names that s is most likely a misspelling of, or "".
func nearest(s string, names []string) string {
	best, distance := "", len(s)
	if len(s) > 40 {
		return ""
	}
	for _, name := range names {
		d := editDistance(strings.ToLower(s), name)
		if d < distance || d == distance && best != "" && name < best {
			best, distance = name, d
		}
	}
	if distance > 1+len(s)/4 {
		return ""
	}
	return best
}

// editDistance is the Levenshtein distance: how many bytes must be inserted,
// removed or replaced to make b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
