package cf

import (
	"errors"
	"strings"
)

// errUnsafe is a fault of this package: an edit would have had a side effect.
var errUnsafe = errors.New("cf: the edit would change more than its parameter")

// editMain carries out one edit of main.cf.
func editMain(data string, e Edit) (string, error) {
	bad := e.check()
	if bad != nil && e.Redo == nil {
		return "", bad
	}
	lines, err := parseMain("main.cf", data)
	if err != nil {
		return "", err
	}
	var all []setting
	for _, l := range lines {
		if l.name == e.Parameter {
			all = append(all, l)
		}
	}
	var found *string
	if len(all) > 0 {
		found = &all[len(all)-1].value
	}
	if !sameValue(e.Old, found) {
		return "", &ConflictError{e, found}
	}
	if out, ok := e.Redo.on(data); ok && onlyChanged(lines, out, e) == nil {
		return out, nil
	}
	if bad != nil {
		return "", bad
	}
	var changes []splice
	switch {
	case e.New == nil:
		for _, l := range all {
			for _, p := range l.pieces {
				changes = append(changes, wholeLine(data, p))
			}
		}
	case found == nil:
		changes = []splice{addSetting(data, lines, e)}
	case e.NewText != "":
		changes = restoreText(data, all[len(all)-1], e)
	case *e.New != *found:
		changes = replaceValue(data, all[len(all)-1], *e.New)
	}
	out := spliced(data, changes)
	return out, onlyChanged(lines, out, e)
}

// onlyChanged reads the result back: every other setting is as it was, the
// parameter is as planned. It is why a slip of the editor cannot reach a disk.
func onlyChanged(before []setting, data string, e Edit) error {
	after, err := parseMain("main.cf", data)
	if err != nil {
		return errors.Join(errUnsafe, err)
	}
	others := func(lines []setting) []string {
		var out []string
		for _, l := range lines {
			if l.name != e.Parameter {
				out = append(out, l.name, l.value)
			}
		}
		return out
	}
	var found *string
	for _, l := range after {
		if l.name == e.Parameter {
			found = &l.value
		}
	}
	if strings.Join(others(before), "\x00") != strings.Join(others(after), "\x00") || !sameValue(e.New, found) {
		return errUnsafe
	}
	return nil
}

// equals is the offset of the equals sign in the text of the setting.
func (l setting) equals() int { return len(l.name) + strings.IndexByte(l.text[len(l.name):], '=') }

// replaceValue puts a value where the old one stands.
func replaceValue(data string, l setting, value string) []splice {
	eq := l.equals()
	sep := ""
	if isSpace(l.text[eq-1]) || eq+1 < l.valueFrom && isSpace(l.text[eq+1]) {
		sep = " "
	}
	switch {
	case value == "":
		return l.replace(data, eq+1, l.valueTo, "")
	case l.valueFrom == l.valueTo:
		return l.replace(data, eq+1, eq+1, sep+value)
	case l.within(l.valueFrom, l.valueTo):
		return l.replace(data, l.valueFrom, l.valueTo, value)
	case l.within(0, eq+1):
		return l.replace(data, eq+1, l.valueTo, sep+value)
	}
	return l.replace(data, len(l.name), l.valueTo, " = "+value)
}

// within tells whether [from, to) of the text lies on one physical line.
func (l logical) within(from, to int) bool {
	for _, p := range l.pieces {
		if p.at <= from && to <= p.at+p.end-p.start {
			return true
		}
	}
	return false
}

// addSetting makes the line of a new parameter and chooses its place.
func addSetting(data string, lines []setting, e Edit) splice {
	text := e.NewText
	best, words := -1, 1
	for i, l := range lines {
		if n := commonWords(l.name, e.Parameter); n >= max(words, 2) {
			best, words = i, n
		}
	}
	if text == "" {
		text = e.Parameter + " = " + *e.New
		if best >= 0 {
			text = e.Parameter + lines[best].separator() + *e.New
		}
		text = strings.TrimRight(text, spaceSet)
	}
	if best >= 0 {
		l := lines[best]
		return insertAfter(data, l.pieces[len(l.pieces)-1], text)
	}
	if data == "" || strings.HasSuffix(data, "\n") {
		return splice{len(data), len(data), text + newline(data)}
	}
	return splice{len(data), len(data), newline(data) + text}
}

// separator is what stands between name and value: blanks and the equals sign.
func (l setting) separator() string {
	if l.valueFrom == l.valueTo || !l.within(0, l.valueTo) {
		return " = "
	}
	return l.text[len(l.name):l.valueFrom]
}

// commonWords counts the words (parts between underscores) two names begin
// with alike.
func commonWords(a, b string) int {
	x, y := strings.Split(a, "_"), strings.Split(b, "_")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	return n
}

// mainText is the setting as it stands, from its name to the end of its last
// line, if the inverse of e would not bring just these bytes back by itself.
func mainText(data string, l setting, e Edit) string {
	text := data[l.pieces[0].start:l.pieces[len(l.pieces)-1].end]
	if e.New == nil {
		if e.Inverse().check() != nil { // what cannot be written from the value
			return text
		}
		return ""
	}
	after, err := editMain(data, e)
	if err != nil {
		return ""
	}
	if back, err := editMain(after, e.Inverse()); err == nil && back == data && e.Inverse().check() == nil {
		return ""
	}
	return text
}

// restoreText puts a setting back as it stood. The comments that stood between
// its lines stand behind it now; they are taken along. Where they are not as
// they were, the value is written on one line.
func restoreText(data string, l setting, e Edit) []splice {
	old := logicalLines(e.NewText)
	if len(old) != 1 || len(l.pieces) != 1 {
		return replaceValue(data, l, *e.New)
	}
	between := ""
	for i, p := range old[0].pieces[:len(old[0].pieces)-1] {
		between += e.NewText[p.next:old[0].pieces[i+1].start]
	}
	p := l.pieces[0]
	if between == "" {
		return []splice{{p.start, p.end, e.NewText}}
	}
	end := p.next + len(between)
	if !strings.HasPrefix(data[p.next:], between) {
		return replaceValue(data, l, *e.New)
	}
	// between ends with a line end; the last line of the text gets it.
	return []splice{{p.start, end, e.NewText + data[p.end:p.next]}}
}
