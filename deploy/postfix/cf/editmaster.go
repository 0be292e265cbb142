package cf

import (
	"errors"
	"slices"
	"strings"
)

// findEntry is the index of the entry that holds for a service ID (the last),
// or -1.
func findEntry(entries []entry, id string) int {
	for i := len(entries) - 1; i >= 0; i-- {
		if entries[i].service.ID() == id {
			return i
		}
	}
	return -1
}

// last is the override with this name that is in effect.
func (e entry) last(name string) *option {
	for i := len(e.options) - 1; i >= 0; i-- {
		if e.options[i].Name == name {
			return &e.options[i]
		}
	}
	return nil
}

// editMaster carries out one edit of an override in master.cf.
func editMaster(data string, e Edit) (string, error) {
	bad := e.check()
	if bad != nil && e.Redo == nil {
		return "", bad
	}
	entries, err := parseMaster("master.cf", data)
	if err != nil {
		return "", err
	}
	i := findEntry(entries, e.Service)
	if i < 0 {
		return "", &ValueError{e, "master.cf has no entry " + e.Service}
	}
	if why := entries[i].broken; why != "" {
		return "", &ValueError{e, why}
	}
	var found *string
	o := entries[i].last(e.Parameter)
	if o != nil {
		found = &o.Value
	}
	if !sameValue(e.Old, found) {
		return "", &ConflictError{e, found}
	}
	if out, ok := e.Redo.on(data); ok && onlyOverrideChanged(entries, out, e) == nil {
		return out, nil
	}
	if bad != nil {
		return "", bad
	}
	out := data
	switch {
	case e.New == nil && o == nil:
	case e.New == nil:
		out, err = removeOptions(data, e)
	default:
		var changes []splice
		if o == nil {
			changes, err = addOption(data, entries[i], e)
		} else if e.NewText != "" || *e.New != *found {
			changes, err = replaceOption(data, entries[i], *o, e)
		}
		out = spliced(data, changes)
	}
	if err != nil {
		return "", err
	}
	return out, onlyOverrideChanged(entries, out, e)
}

// onlyOverrideChanged reads the result back, as onlyChanged does for main.cf.
func onlyOverrideChanged(before []entry, data string, e Edit) error {
	after, err := parseMaster("master.cf", data)
	if err != nil {
		return errors.Join(errUnsafe, err)
	}
	if len(after) != len(before) {
		return errUnsafe
	}
	target := findEntry(before, e.Service)
	for i := range before {
		if i != target && before[i].listing != after[i].listing {
			return errUnsafe
		}
	}
	a, b := before[target], after[target]
	others := func(e entry, name string) []string {
		s := e.service
		out := []string{s.ID(), s.Private, s.Unprivileged, s.Chroot, s.Wakeup, s.ProcessLimit, s.Command}
		out = append(out, s.Args...)
		for _, o := range s.Overrides {
			if o.Name != name {
				out = append(out, o.Name+"="+o.Value)
			}
		}
		return out
	}
	var found *string
	if o := b.last(e.Parameter); o != nil {
		found = &o.Value
	}
	if !slices.Equal(others(a, e.Parameter), others(b, e.Parameter)) || !sameValue(e.New, found) {
		return errUnsafe
	}
	return nil
}

// argument writes name=value as the argument of -o: in braces where the value
// has blanks (Postfix 3.0 and newer read that).
func argument(e Edit, braces bool) (string, error) {
	plain := e.Parameter + "=" + *e.New
	if t := tokens(plain); !braces && len(t) == 1 && t[0].text == plain {
		if openBraces(plain) {
			return "", &ValueError{e, "braces that do not match"}
		}
		return plain, nil
	}
	text := "{ " + e.Parameter + " = " + *e.New + " }"
	if *e.New == "" {
		text = "{ " + e.Parameter + " = }"
	}
	if balanced(text, '{', '}') != len(text) {
		return "", &ValueError{e, "braces that do not match"}
	}
	return text, nil
}

// replaceOption puts a value where the old one stands: the value alone if the
// form allows it, else the whole argument.
func replaceOption(data string, en entry, o option, e Edit) ([]splice, error) {
	if e.NewText != "" && e.NewText[0] == en.text[o.from] {
		return en.replace(data, o.from, o.to, e.NewText), nil
	}
	text, err := argument(e, o.braces)
	if err != nil {
		return nil, err
	}
	oneLine := en.within(o.valueFrom, o.valueTo)
	switch {
	case oneLine && (o.braces || text[0] != '{') && (*e.New != "" && o.valueFrom < o.valueTo || !o.braces):
		return en.replace(data, o.valueFrom, o.valueTo, *e.New), nil
	case text[0] == '{' && !isSpace(en.text[o.argFrom-1]):
		text = " " + text // "-oname=value": braces are an argument of their own
	}
	return en.replace(data, o.argFrom, o.argTo, text), nil
}

// addOption makes a continuation line behind the last option, indented like
// its neighbours. Before arguments that are no options it goes inline.
func addOption(data string, en entry, e Edit) ([]splice, error) {
	text, err := argument(e, false)
	if err != nil {
		return nil, err
	}
	text = "-o " + text
	if strings.HasPrefix(e.NewText, "-o") {
		text = e.NewText
	}
	if en.more {
		return en.replace(data, en.end, en.end, " "+text), nil
	}
	indent := "  "
	for _, p := range en.pieces[1:] {
		line := data[p.start:p.end]
		if n := len(line) - len(strings.TrimLeft(line, blankSet)); n > 0 {
			indent = line[:n]
		}
	}
	return []splice{insertAfter(data, en.pieces[len(en.pieces)-1], indent+text)}, nil
}

// removeOptions takes every override of the name out of the entry, with the
// blanks before it, and with its line where nothing else stands there.
func removeOptions(data string, e Edit) (string, error) {
	for {
		entries, err := parseMaster("master.cf", data)
		if err != nil {
			return "", errors.Join(errUnsafe, err)
		}
		i := findEntry(entries, e.Service)
		if i < 0 {
			return "", errUnsafe
		}
		o := entries[i].last(e.Parameter)
		if o == nil {
			return data, nil
		}
		l := entries[i].logical
		from, to := o.from, o.to
		for from > l.lineStart(o.from) && isBlank(l.text[from-1]) {
			from--
		}
		next := spliced(data, l.cut(data, from, to))
		if len(next) >= len(data) {
			return "", errUnsafe
		}
		data = next
	}
}

// isBlank tells whether a byte stands between fields. A vertical tab does not: it
// may be one.
func isBlank(c byte) bool { return strings.IndexByte(blankSet, c) >= 0 }

// lineStart is the offset of the text where the line of the given offset begins.
func (l logical) lineStart(offset int) int {
	start := 0
	for _, p := range l.pieces {
		if p.at <= offset {
			start = p.at
		}
	}
	return start
}

// cut removes [from, to) of the text, but keeps the indentation of a line that
// goes on behind it.
func (l logical) cut(data string, from, to int) []splice {
	for _, p := range l.pieces {
		end := p.at + p.end - p.start
		indent := p.at
		for indent < end && isBlank(l.text[indent]) {
			indent++
		}
		if from <= p.at && p.at < to && to < end {
			for to < end && isBlank(l.text[to]) {
				to++
			}
			head := l.replace(data, from, p.at, "")
			return append(head, l.replace(data, max(indent, p.at), to, "")...)
		}
	}
	return l.replace(data, from, to, "")
}

// masterText is the option as it stands, from its dash (or its o, behind
// other flags), if the inverse of e
// would not bring just these bytes back by itself.
func masterText(data string, en entry, o option, e Edit) string {
	after, err := editMaster(data, e)
	if err != nil || e.New == nil || !en.within(o.from, o.to) {
		return ""
	}
	if back, err := editMaster(after, e.Inverse()); err == nil && back == data && e.Inverse().check() == nil {
		return ""
	}
	return en.text[o.from:o.to]
}
