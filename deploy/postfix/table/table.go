// Package table edits the text of Postfix lookup tables, and knows what may stand
// in a TLS policy table.
//
// The text of a table of type hash, btree, lmdb, cdb or texthash is what
// postmap(1) reads: logical lines of a key, white space and a value. A line that
// begins with white space goes on with the one before; empty lines and lines whose
// first text is # are skipped wherever they stand. Keys are folded to lower case.
// Where a key is there twice the first entry counts, and postmap warns. An edit
// here changes the lines of one key and no other byte.
//
// The package opens no file and runs no program: who edits a table hands in bytes
// and gets bytes, makes an index of them, and puts both in place.
package table

import (
	"bytes"
	"strings"
)

// Entry is one entry of a table.
type Entry struct {
	Key   string
	Value string // over several lines: joined by a blank
	Line  int    // of the text, from 1
}

// entry is an Entry and the bytes it takes.
type entry struct {
	Entry
	first, rest []int // physical lines, from 0: the first one, those that continue it
}

// lines cuts the text into physical lines, each with its line end.
func lines(text []byte) [][]byte {
	var out [][]byte
	for line := range bytes.Lines(text) {
		out = append(out, line)
	}
	return out
}

// blank tells a line that is skipped.
func blank(line []byte) bool {
	t := bytes.TrimSpace(line)
	return len(t) == 0 || t[0] == '#'
}

func parse(all [][]byte) []entry {
	var out []entry
	for n, line := range all {
		switch {
		case blank(line):
		case line[0] == ' ' || line[0] == '\t':
			if len(out) > 0 {
				e := &out[len(out)-1]
				e.rest = append(e.rest, n)
				e.Value = strings.TrimSpace(e.Value + " " + string(bytes.TrimSpace(line)))
			}
		default:
			t := strings.TrimSpace(string(line))
			key, value := t, ""
			if i := strings.IndexAny(t, " \t"); i >= 0 {
				key, value = t[:i], strings.TrimSpace(t[i:])
			}
			out = append(out, entry{Entry: Entry{Key: key, Value: value, Line: n + 1}, first: []int{n}})
		}
	}
	return out
}

// Entries are the entries of a table's text, in order.
func Entries(text []byte) []Entry {
	var out []Entry
	for _, e := range parse(lines(text)) {
		out = append(out, e.Entry)
	}
	return out
}

// Find is the entry that counts for a key: the first.
func Find(text []byte, key string) (Entry, bool) {
	for _, e := range Entries(text) {
		if strings.EqualFold(e.Key, key) {
			return e, true
		}
	}
	return Entry{}, false
}

// Set gives a key a value: in the line where it stands, between the same blanks,
// or in a new line at the end.
func Set(text []byte, key, value string) []byte {
	all := lines(text)
	for _, e := range parse(all) {
		if !strings.EqualFold(e.Key, key) {
			continue
		}
		if e.Value == value {
			return text
		}
		line := all[e.first[0]]
		at := len(e.Key)
		for at < len(line) && (line[at] == ' ' || line[at] == '\t') {
			at++
		}
		gap := line[len(e.Key):at]
		if len(gap) == 0 {
			gap = []byte(" ")
		}
		all[e.first[0]] = []byte(string(line[:len(e.Key)]) + string(gap) + value + ending(line))
		return join(all, e.rest)
	}
	if n := len(text); n > 0 && text[n-1] != '\n' {
		text = append(bytes.Clone(text), '\n')
	}
	return append(bytes.Clone(text), key+" "+value+"\n"...)
}

// ending is the line end of a line.
func ending(line []byte) string {
	return string(line[len(bytes.TrimRight(line, "\r\n")):])
}

// Remove takes every entry of a key out: an earlier one that was without effect
// would come into effect otherwise.
func Remove(text []byte, key string) []byte {
	all := lines(text)
	var gone []int
	for _, e := range parse(all) {
		if strings.EqualFold(e.Key, key) {
			gone = append(append(gone, e.first...), e.rest...)
		}
	}
	if len(gone) == 0 {
		return text
	}
	return join(all, gone)
}

// join puts lines together again, without some of them.
func join(all [][]byte, without []int) []byte {
	for _, n := range without {
		all[n] = nil
	}
	return bytes.Join(all, nil)
}
