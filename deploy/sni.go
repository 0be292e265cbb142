package deploy

import (
	"strings"

	"postcert/deploy/postfix/cf"
)

// maxTable bounds the source of a lookup table, in bytes.
const maxTable = 64 << 20

// sniNames are the names for which tls_server_sni_maps has an answer of its
// own, read from the sources of its tables; nil if one of them cannot be read
// as text, so that nothing is known.
func sniNames(s cf.Snapshot) []string {
	value := s.Effective("", "tls_server_sni_maps")
	if value == "" {
		return nil
	}
	names := []string{}
	for _, table := range tables(value) {
		kind, path, ok := strings.Cut(table, ":")
		if !ok {
			return nil
		}
		switch kind {
		case "hash", "btree", "lmdb", "cdb", "dbm", "texthash":
		default:
			return nil
		}
		text, err := readTable(absolute(s, path))
		if err != nil {
			return nil
		}
		names = append(names, tableKeys(text)...)
	}
	return names
}

// tableKeys are the keys of a table's source, as postmap(1) reads it: a line
// that begins with white space continues the one before.
func tableKeys(text string) []string {
	var keys []string
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" || strings.ContainsAny(line[:1], "# \t") {
			continue
		}
		keys = append(keys, strings.ToLower(strings.Fields(line)[0]))
	}
	return keys
}
