package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// indexSuffixes are the files that postmap(1) makes of a table's source, by type.
var indexSuffixes = map[string]string{"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag"}

// staleTables finds the tables of tls_server_sni_maps whose index is older than
// what it was made of. "postmap -F" copies keys and certificates into the index:
// one of before a renewal goes on serving the old certificate to the clients that
// ask for its names, and neither Postfix nor the listeners say so.
func staleTables(s cf.Snapshot) []staleTable {
	var out []staleTable
	for _, table := range tables(s.Effective("", "tls_server_sni_maps")) {
		kind, path, _ := strings.Cut(table, ":")
		suffix := indexSuffixes[kind]
		if suffix == "" {
			continue
		}
		path = absolute(s, path)
		index, err := os.Stat(path + suffix)
		if err != nil {
			continue // Postfix says so itself
		}
		if newer := newerThan(index.ModTime(), path); newer != "" {
			out = append(out, staleTable{name: kind + ":" + path, index: path + suffix, newer: newer})
		}
	}
	return out
}

// staleTable is a table whose index is older than a file that it holds a copy of.
type staleTable struct {
	name  string // type:path
	index string
	newer string
}

func (t staleTable) problem() problem.Problem {
	return problem.New("drift_table", problem.At{File: t.index, Parameter: "tls_server_sni_maps"},
		"the table %s is older than %s, which it holds a copy of: clients that ask for its names get what was there before", t.name, t.newer)
}

// BuildTables makes the index of each stale table of tls_server_sni_maps again, and
// returns their names. Postfix's processes notice by themselves. The error is of
// those that cannot be built; they are as they were.
func (e *Engine) BuildTables(ctx context.Context) (built []string, err error) {
	builder, ok := e.MTA.(TableBuilder)
	if !ok {
		return nil, errors.New("the tables of this mail server cannot be built from here")
	}
	s, err := e.MTA.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var all []error
	for _, t := range staleTables(s) {
		if err := builder.BuildTable(ctx, t.name); err != nil {
			all = append(all, err)
			continue
		}
		built = append(built, t.name)
	}
	return built, errors.Join(all...)
}

func tables(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}

// newerThan is the source of a table, or a file that it names, if it was changed
// after then; "" if none was. What cannot be read is not known to be.
func newerThan(then time.Time, source string) string {
	text, err := readTable(source)
	if err != nil {
		return ""
	}
	for _, path := range append([]string{source}, tableFiles(text)...) {
		if st, err := os.Stat(path); err == nil && st.ModTime().After(then) {
			return path
		}
	}
	return ""
}

// tableFiles are the absolute paths that a table's source names, each once.
func tableFiles(text string) []string {
	var out []string
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		for _, f := range fields {
			if filepath.IsAbs(f) && !seen[f] {
				seen[f] = true
				out = append(out, f)
			}
		}
	}
	return out
}
