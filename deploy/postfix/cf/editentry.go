package cf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// AddEntry plans a new service entry of master.cf, given in one line as postconf
// -M prints it: "submission inet n - n - - smtpd -o name=value". It is written
// with each -o on a line of its own, behind the commented example of the same
// service if there is one, else at the end.
func AddEntry(line string) (Edit, error) {
	en, err := entryOf(line)
	if err != nil {
		return Edit{}, fmt.Errorf("%q is no service entry: %w", line, err)
	}
	return Edit{Service: en.service.ID(), New: &line}, nil
}

// IsEntry tells that e adds or removes a service entry as a whole. Old and New
// are the entry in one line then.
func (e Edit) IsEntry() bool { return e.Parameter == "" && e.Service != "" }

// entryOf reads an entry that stands alone.
func entryOf(text string) (entry, error) {
	lines := logicalLines(text)
	if len(lines) != 1 || lines[0].pieces[0].start != 0 {
		return entry{}, errors.New("not one logical line")
	}
	en, err := parseEntry(lines[0])
	if err == nil && en.broken != "" {
		err = errors.New(en.broken)
	}
	return en, err
}

// checkEntry refuses an entry that Postfix would not read back.
func (e Edit) checkEntry() error {
	if e.New == nil {
		return nil
	}
	if e.Old != nil {
		return &ValueError{e, "an entry is added or removed, not replaced"}
	}
	en, err := entryOf(*e.New)
	switch {
	case err != nil:
		return &ValueError{e, err.Error()}
	case en.service.ID() != e.Service:
		return &ValueError{e, "it is the entry of " + en.service.ID()}
	case strings.ContainsAny(*e.New, "\r\n\x00"):
		return &ValueError{e, "a line break or control character in the entry"}
	case e.NewText == "":
		return nil
	}
	if as, err := entryOf(e.NewText); err != nil || as.listing != en.listing || strings.HasSuffix(e.NewText, "\n") {
		return &ValueError{e, "the text kept for it does not read as its value"}
	}
	return nil
}

// editEntry carries out the addition or removal of an entry.
func editEntry(data string, e Edit) (string, error) {
	entries, err := parseMaster("master.cf", data)
	if err != nil {
		return "", err
	}
	i := findEntry(entries, e.Service)
	var found *string
	if i >= 0 {
		found = &entries[i].listing
	}
	if !sameEntry(e.Old, found) {
		return "", &ConflictError{e, found}
	}
	if out, ok := e.Redo.on(data); ok && onlyEntryChanged(entries, i, out, e) == nil {
		return out, nil
	}
	if e.New == nil {
		if i < 0 {
			return data, nil
		}
		out := withoutLines(data, entries[i].pieces)
		return out, onlyEntryChanged(entries, i, out, e)
	}
	if err := e.checkEntry(); err != nil {
		return "", err
	}
	text := e.NewText
	if text == "" {
		text = layout(*e.New, newline(data))
	}
	if p, ok := exampleOf(data, e.Service); ok {
		out := spliced(data, []splice{insertAfter(data, p, text)})
		if onlyEntryChanged(entries, i, out, e) == nil {
			return out, nil
		} // lines that go on with the entry above the example would go on with ours
	}
	out := data + text + newline(data)
	if data != "" && !strings.HasSuffix(data, "\n") {
		out = data + newline(data) + text
	}
	return out, onlyEntryChanged(entries, i, out, e)
}

// sameEntry compares the entry that an edit expects with the one that stands.
func sameEntry(want, found *string) bool {
	if want == nil || found == nil {
		return want == found
	}
	en, err := entryOf(*want)
	return err == nil && en.listing == *found
}

// onlyEntryChanged reads the result back: the entry at index i is gone, or the
// planned one is there, and all others are as they were.
func onlyEntryChanged(before []entry, i int, data string, e Edit) error {
	after, err := parseMaster("master.cf", data)
	if err != nil {
		return errors.Join(errUnsafe, err)
	}
	list := func(all []entry, but int) []string {
		var out []string
		for n, en := range all {
			if n != but {
				out = append(out, en.listing)
			}
		}
		return out
	}
	j := -1
	if e.New != nil {
		if j = findEntry(after, e.Service); j < 0 || !sameEntry(e.New, &after[j].listing) {
			return errUnsafe
		}
	}
	if !slices.Equal(list(before, i), list(after, j)) {
		return errUnsafe
	}
	return nil
}

// withoutLines removes physical lines, and of what stands between them nothing.
func withoutLines(data string, pieces []piece) string {
	var b strings.Builder
	at := 0
	for _, p := range pieces {
		b.WriteString(data[at:p.start])
		at = p.next
	}
	rest := data[at:]
	out := b.String()
	// A file whose last line lacks its newline goes on lacking one.
	if last := pieces[len(pieces)-1]; last.next == last.end && rest == "" {
		out = strings.TrimSuffix(strings.TrimSuffix(out, "\n"), "\r")
	}
	return out + rest
}

// layout writes an entry as Debian's master.cf has it: the fields in columns,
// each option on a line of its own.
func layout(line, nl string) string {
	words := tokens(line)
	var b strings.Builder
	for i, w := range words[:8] {
		width := 8
		switch i {
		case 0:
			width = 10
		case 1:
			width = 6
		case 7:
			width = 0
		}
		b.WriteString(w.text)
		if i < 7 {
			b.WriteString(strings.Repeat(" ", max(1, width-len(w.text))))
		}
	}
	for rest := words[8:]; len(rest) > 0; {
		n := 1
		if rest[0].text == "-o" && len(rest) > 1 {
			n = 2
		}
		b.WriteString(nl + "  " + line[rest[0].from:rest[n-1].to])
		rest = rest[n:]
	}
	return b.String()
}

// ExampleOf is the name of a service that a comment of master.cf has an example
// of, such as "#submission inet n - y - - smtpd", of those that are given; "" if
// there is none.
func (s Snapshot) ExampleOf(names ...string) string {
	for _, n := range names {
		if _, ok := exampleOf(string(s.Master.Data), n+"/inet"); ok {
			return n
		}
	}
	return ""
}

// exampleOf is the last line of the commented example of a service: a comment
// that would be its entry, and the options and notes below it, which are indented
// behind their "#".
func exampleOf(data, service string) (last piece, ok bool) {
	inside := false
	for at, n := 0, 1; at < len(data); n++ {
		end := strings.IndexByte(data[at:], '\n')
		next := at + end + 1
		if end < 0 {
			next = len(data)
			end = next
		} else {
			end += at
		}
		p := piece{start: at, end: end, next: next, line: n}
		text := strings.TrimSuffix(data[at:end], "\r")
		p.end = at + len(text)
		at = next
		body, comment := strings.CutPrefix(text, "#")
		f := strings.Fields(body)
		switch {
		case comment && len(f) >= 8 && !isSpace(body[0]) && f[0]+"/"+f[1] == service:
			last, ok, inside = p, true, true
		case inside && comment && (strings.HasPrefix(body, "  ") || strings.HasPrefix(body, "\t")):
			last = p
		default:
			inside = false
		}
	}
	return last, ok
}
