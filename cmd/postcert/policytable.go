package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	lookup "postcert/deploy/postfix/table"
	"postcert/verify/problem"
)

// policyParameter names the maps with a level for single destinations (postconf(5)).
const policyParameter = "smtp_tls_policy_maps"

// policyMap is one of the maps that smtp_tls_policy_maps names.
type policyMap struct {
	prefix   string // "proxy:" or ""
	kind     string
	path     string // of the text, or what else the map is named by
	editable bool   // a file of keys and values
}

func (m policyMap) name() string { return m.prefix + m.kind + ":" + m.path }

func editableKind(kind string) bool {
	_, ok := postfix.IndexSuffix(kind)
	return ok
}

// policyMaps are the maps in the order in which they are asked.
func policyMaps(s cf.Snapshot) []policyMap { return mapsOf(s.Effective("", policyParameter)) }

// mapsOf takes a list of maps apart; one in braces (inline:{...}) stays whole.
func mapsOf(value string) []policyMap {
	var out []policyMap
	depth, word := 0, ""
	for _, r := range value + " " {
		switch {
		case r == '{':
			depth++
		case r == '}':
			depth--
		case depth == 0 && strings.ContainsRune(", \t\n", r):
			if word != "" {
				out = append(out, mapOf(word))
			}
			word = ""
			continue
		}
		word += string(r)
	}
	return out
}

func mapOf(word string) policyMap {
	m := policyMap{}
	if rest, ok := strings.CutPrefix(word, "proxy:"); ok {
		m.prefix, word = "proxy:", rest
	}
	m.kind, m.path, _ = strings.Cut(word, ":")
	m.editable = editableKind(m.kind) && filepath.IsAbs(m.path)
	return m
}

func (m policyMap) read() ([]byte, error) { return atomicfile.Read(m.path, atomicfile.MaxFile) }

// stale tells that a table's index is older than its text: Postfix goes on with what
// the text said before.
func (m policyMap) stale() problem.List {
	suffix, _ := postfix.IndexSuffix(m.kind)
	if suffix == "" {
		return nil
	}
	text, err := os.Stat(m.path)
	index, ierr := os.Stat(m.path + suffix)
	at := problem.At{File: m.path + suffix, Parameter: policyParameter}
	switch {
	case err != nil:
		return nil
	case ierr != nil:
		return problem.List{problem.New("policy_stale", at, "the table %s has no index, and Postfix defers all mail: %v", m.name(), ierr)}
	case text.ModTime().After(index.ModTime()):
		return problem.List{problem.New("policy_stale", at, "the index of %s is older than its text: Postfix goes on with what the text said before", m.name())}
	}
	return nil
}

// tableFiles are the text and the index of a table in which a key gets a value, or
// loses it if the value is "". None is returned where nothing is to be written. The
// index is made in a private copy: postmap(1) would empty the one in use first.
func (a *app) tableFiles(ctx context.Context, s *site, m policyMap, key, value string) (files []deploy.FileChange, before string, err error) {
	path := m.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	text, err := atomicfile.Capture(s.engine.FS, path)
	if err != nil {
		return nil, "", err
	}
	e, _ := lookup.Find(text.Data, key)
	data := lookup.Set(text.Data, key, value)
	if value == "" {
		data = lookup.Remove(text.Data, key)
	}
	attr := text.Attr
	if text.Kind == atomicfile.Absent {
		attr = atomicfile.Attr{Mode: 0o644}
	}
	attr.MTime = time.Time{}
	changed := text.Kind == atomicfile.Absent || !bytes.Equal(data, text.Data)
	if changed {
		after := atomicfile.NewFile(data, attr)
		after.MTime = a.now().Add(-tableAge).Truncate(time.Second)
		files = append(files, deploy.FileChange{Path: path, Before: text, After: after})
	}
	suffix, _ := postfix.IndexSuffix(m.kind)
	if suffix == "" || !changed && len(m.stale()) == 0 {
		return files, e.Value, nil
	}
	old, err := atomicfile.Capture(s.engine.FS, m.path+suffix)
	if err != nil {
		return nil, "", err
	}
	index, err := s.instance.Index(ctx, m.kind, path, data)
	if err != nil {
		return nil, "", err
	}
	if old.Kind == atomicfile.File {
		attr = old.Attr
		attr.MTime = time.Time{}
	}
	return append(files, deploy.FileChange{Path: m.path + suffix, Before: old, After: atomicfile.NewFile(index, attr)}), e.Value, nil
}

// tableAge is how far in the past the text's modification time lies: Postfix waits
// until a file that it reads as text is 2 s old, and the index must be the younger
// of the two.
const tableAge = 3 * time.Second
