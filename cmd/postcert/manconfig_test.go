package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// configPage is postcert.yaml(5): the documentation of the types that the file is
// decoded into, and the example.
func configPage(t *testing.T) string {
	example, err := os.ReadFile("../../contrib/postcert.yaml.example")
	if err != nil {
		t.Fatal(err)
	}
	types := readConfigTypes(t)
	p := newPage(t, "POSTCERT.YAML", "5", "postcert.yaml - what postcert(1) keeps served")
	p.heading("SH", "DESCRIPTION")
	intro, rest, _ := strings.Cut(string(example), "\n\n#")
	p.text(uncomment(intro))
	p.text("The keys are listed first, then all of them in an example.")
	p.heading("SH", "KEYS")
	p.text("A key in a list is written with []. A time is a number with its unit, as in 90s, 5m, 12h.")
	types.keys(t, p, "Config", "")
	p.heading("SH", "EXAMPLE")
	p.shown(strings.Split(strings.TrimRight("#"+rest, "\n"), "\n"))
	p.heading("SH", "FILES")
	p.item(inItalic("/etc/postcert/postcert.yaml"), "The configuration. It and its directory must be writable by root only.")
	p.item(inItalic("/usr/share/doc/postcert/examples/postcert.yaml"), "The example.")
	p.heading("SH", "SEE ALSO")
	p.text("postcert(1), postconf(5), master(5)")
	return p.String()
}

var commentSign = regexp.MustCompile(`(?m)^# ?`)

func uncomment(text string) string { return commentSign.ReplaceAllString(text, "") }

// configTypes are the declarations of package config, by name.
type configTypes struct {
	structs map[string]*ast.StructType
	words   map[string]bool        // the types whose values are words
	consts  map[string][][2]string // by type: a word, and what it means
	docs    map[string]string      // of types
}

func readConfigTypes(t *testing.T) configTypes {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "internal/config/config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	types := configTypes{map[string]*ast.StructType{}, map[string]bool{}, map[string][][2]string{}, map[string]string{}}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			types.add(gen, spec)
		}
	}
	return types
}

func (c configTypes) add(gen *ast.GenDecl, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		c.docs[spec.Name.Name], _, _ = strings.Cut(gen.Doc.Text(), "\n\n") // the rest is for programmers
		if st, ok := spec.Type.(*ast.StructType); ok {
			c.structs[spec.Name.Name] = st
		} else {
			c.words[spec.Name.Name] = true
		}
	case *ast.ValueSpec:
		kind, ok := spec.Type.(*ast.Ident)
		if !ok || len(spec.Values) != 1 {
			return
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if word, err := strconv.Unquote(lit.Value); err == nil {
				c.consts[kind.Name] = append(c.consts[kind.Name], [2]string{word, strings.TrimSpace(spec.Comment.Text())})
			}
		}
	}
}

// keys writes the keys of a struct, and then of those that it holds.
func (c configTypes) keys(t *testing.T, p *roff, name, path string) {
	for _, field := range c.structs[name].Fields.List {
		key := yamlKey(field)
		if key == "" {
			continue
		}
		goName := field.Names[0].Name
		text := strings.TrimSpace(aboutKey(goName, field.Doc.Text()) + " " + asSentence(field.Comment.Text()))
		full, kind := path+key, elementType(field.Type)
		inner := kind
		if kind == "Notify" { // a list, or the word none: see its UnmarshalYAML
			inner = "NotifyTarget"
		}
		if _, isStruct := c.structs[inner]; isStruct {
			text = strings.TrimSpace(text + " " + aboutKey(kind, c.docs[kind]))
		}
		if text == "" {
			text = asSentence(aboutKey(kind, c.docs[kind]))
		}
		if text == "" {
			t.Errorf("config.%s.%s has no comment, so that postcert.yaml(5) cannot say what it is", name, goName)
		}
		p.item(inBold(full)+" "+inItalic(typeWord(field.Type)), c.inKeys(text))
		c.choices(p, kind)
		if _, isStruct := c.structs[inner]; isStruct {
			if inner != kind || isList(field.Type) {
				full += "[]"
			}
			c.keys(t, p, inner, full+".")
		}
	}
}

// choices lists the words that a key may have.
func (c configTypes) choices(p *roff, kind string) {
	if len(c.consts[kind]) == 0 {
		return
	}
	p.line(".RS")
	for _, choice := range c.consts[kind] {
		text := asSentence(c.inKeys(choice[1]))
		if text == "" {
			p.line(".TP\n%s\n\\&", inBold(choice[0]))
			continue
		}
		p.item(inBold(choice[0]), text)
	}
	p.line(".RE")
}

// inKeys writes the names of Go's fields in a text as the keys of the file.
func (c configTypes) inKeys(text string) string {
	for _, st := range c.structs {
		for _, field := range st.Fields.List {
			key := yamlKey(field)
			if key == "" {
				continue
			}
			name := regexp.QuoteMeta(field.Names[0].Name)
			// In the middle of a sentence a capital letter is a field's name.
			text = regexp.MustCompile(`([a-z,] \(?(?:ACME\.)?)`+name+`\b`).ReplaceAllString(text, "${1}"+key)
		}
	}
	return strings.ReplaceAll(text, "ACME.", "acme.")
}

func yamlKey(field *ast.Field) string {
	if field.Tag == nil {
		return ""
	}
	tag, _ := strconv.Unquote(field.Tag.Value)
	key, _, _ := strings.Cut(reflect.StructTag(tag).Get("yaml"), ",")
	if key == "-" {
		return ""
	}
	return key
}

// aboutKey is what Go's documentation says about a name, without the name.
func aboutKey(name, doc string) string {
	doc = strings.Join(strings.Fields(doc), " ")
	for _, verb := range []string{" is ", " are ", " says ", " "} {
		if rest, ok := strings.CutPrefix(doc, name+verb); ok {
			return asSentence(rest)
		}
	}
	return asSentence(doc)
}

// asSentence begins with a capital letter and ends with a full stop.
func asSentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	if first := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ':' || r == ';' })[0]; first != "postcert" && !strings.ContainsAny(first, "0123456789_") {
		r, size := utf8.DecodeRuneInString(text)
		text = string(unicode.ToUpper(r)) + text[size:]
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

func elementType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ArrayType:
		return elementType(e.Elt)
	case *ast.SelectorExpr:
		return fmt.Sprint(e.X) + "." + e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func isList(e ast.Expr) bool { _, ok := e.(*ast.ArrayType); return ok }

// typeWord says what kind of value a key has.
func typeWord(e ast.Expr) string {
	word := "word"
	switch kind := elementType(e); kind {
	case "string":
		word = "text"
	case "bool":
		word = "true|false"
	case "int":
		word = "number"
	case "time.Duration":
		word = "time"
	case "Certificate", "Instance", "Service", "Probe", "Companion", "Challenge", "Key", "Export", "ACME", "EAB", "Metrics":
		word = "keys"
	case "Notify":
		return "list of keys, or none"
	}
	if isList(e) {
		word = "list of " + strings.TrimSuffix(word, "s") + "s"
	}
	return word
}
