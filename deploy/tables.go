package deploy

import (
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
func staleTables(s cf.Snapshot) problem.List {
	var out problem.List
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
			at := problem.At{File: path + suffix, Parameter: "tls_server_sni_maps"}
			out = append(out, problem.New("drift_table", at, "the table %s is older than %s, which it holds a copy of: clients that ask for its names get what was there before", table, newer))
		}
	}
	return out
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
