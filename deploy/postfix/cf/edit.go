package cf

import (
	"fmt"
	"strings"
)

// Edit is one planned change of one parameter, or of one service entry.
type Edit struct {
	Service   string  // "submission/inet": an override of that entry; "": main.cf
	Parameter string  // name; "": the entry itself, see AddEntry
	Old, New  *string // unexpanded values; nil: not set there

	// OldText is how Old stands in the file, if it could not be written back
	// from the value alone (a value over several lines, odd blanks, other
	// braces); NewText likewise for New. Snapshot.Edit fills OldText, so that
	// the inverse edit restores the bytes. A text that does not read as its
	// value is refused.
	OldText, NewText string

	// Undo is what the inverse needs to bring back the very bytes, and Redo what
	// e itself needs, being the inverse of another; Trace fills them. Without, or
	// where they do not fit any more, the edit goes by its values and texts.
	Undo, Redo *Patch `json:",omitempty"`
}

// Inverse is the edit that undoes e.
func (e Edit) Inverse() Edit {
	e.Old, e.New, e.OldText, e.NewText, e.Undo, e.Redo = e.New, e.Old, e.NewText, e.OldText, e.Redo, e.Undo
	return e
}

// String is the edit in one line, for people: the new state of the parameter.
func (e Edit) String() string {
	place := ""
	if e.IsEntry() {
		if e.New == nil {
			return fmt.Sprintf("the entry %s removed from master.cf", e.Service)
		}
		return "master.cf: " + *e.New
	}
	if e.Service != "" {
		place = e.Service + ": -o "
	}
	switch {
	case e.New == nil:
		return fmt.Sprintf("%s%s removed (was %q)", place, e.Parameter, deref(e.Old))
	case e.Old == nil:
		return fmt.Sprintf("%s%s = %s (was not set)", place, e.Parameter, *e.New)
	}
	return fmt.Sprintf("%s%s = %s (was %q)", place, e.Parameter, *e.New, *e.Old)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// ConflictError says that what an edit expects to change is not what stands
// there. Nothing was edited.
type ConflictError struct {
	Edit  Edit
	Found *string // what stands there; nil: nothing
}

func (e *ConflictError) Error() string {
	show := func(s *string) string {
		if s == nil {
			return "not set"
		}
		return fmt.Sprintf("%q", *s)
	}
	if e.Edit.IsEntry() {
		return fmt.Sprintf("the entry %s of master.cf is %s, expected %s", e.Edit.Service, show(e.Found), show(e.Edit.Old))
	}
	where := "main.cf"
	if e.Edit.Service != "" {
		where = e.Edit.Service + " of master.cf"
	}
	return fmt.Sprintf("%s in %s is %s, expected %s", e.Edit.Parameter, where, show(e.Found), show(e.Edit.Old))
}

// ValueError says why a value cannot be written.
type ValueError struct {
	Edit   Edit
	Reason string
}

func (e *ValueError) Error() string {
	if e.Edit.IsEntry() {
		return fmt.Sprintf("cannot write the entry %s: %s", e.Edit.Service, e.Reason)
	}
	return fmt.Sprintf("cannot write %s: %s", e.Edit.Parameter, e.Reason)
}

// Apply carries out edits, in order, on the bytes of the two files. Each edit
// is a compare-and-set: if Old is not what stands there (blanks apart) the
// result is a *ConflictError. It changes the logical line of the parameter and
// no other byte:
//
//   - A value that stands is replaced in place, spacing kept. Where a name is
//     set more than once, the last setting, which is the one in effect.
//   - A value over several lines becomes one line; comments in it stay.
//   - A new parameter of main.cf gets a line behind its closest relative (the
//     longest common beginning of the name, two words at least), else at the
//     end; a new override, a continuation line behind the entry's last option.
//   - Removing removes every setting of the name, since an earlier one would
//     come back into effect otherwise.
//   - A service entry is added behind its commented example, or at the end, and
//     removed with all its lines, only if nobody has changed it since.
//   - The inverse of an edit that Trace has seen brings back the bytes.
//
// A value that Postfix would read otherwise is a *ValueError: a line break,
// blanks around it, text behind # (which Postfix takes for part of the value,
// and people for a comment), braces that do not match in master.cf.
func Apply(main, master []byte, edits []Edit) (newMain, newMaster []byte, err error) {
	a, b := string(main), string(master)
	for _, e := range edits {
		switch {
		case e.IsEntry():
			b, err = editEntry(b, e)
		case e.Service == "":
			a, err = editMain(a, e)
		default:
			b, err = editMaster(b, e)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return []byte(a), []byte(b), nil
}

// check refuses values and names that Postfix would not read back.
func (e Edit) check() error {
	name := e.Parameter
	if name == "" || strings.ContainsAny(name, spaceSet+"=#{}\x00") || name[0] == '-' {
		return &ValueError{e, "not a parameter name"}
	}
	if e.New == nil {
		return nil
	}
	v := *e.New
	for i := range len(v) {
		if (v[i] < ' ' && v[i] != '\t' || v[i] == 0x7f) && e.NewText == "" {
			return &ValueError{e, "a line break or control character in the value"}
		}
	}
	if strings.Trim(v, spaceSet) != v {
		return &ValueError{e, "blanks around the value"}
	}
	if e.NewText == "" && commentTrap(v) {
		return &ValueError{e, "text behind # would be part of the value"}
	}
	if e.NewText != "" && !e.textReads() {
		return &ValueError{e, "the text kept for it does not read as its value"}
	}
	return nil
}

// textReads tells whether NewText is one logical line, or one option on one
// line, that says what New says. A carriage return within a line is a blank.
func (e Edit) textReads() bool {
	if e.Service == "" {
		lines, err := parseMain("", e.NewText)
		return err == nil && len(lines) == 1 && lines[0].pieces[0].start == 0 && lines[0].name == e.Parameter && sameValue(&lines[0].value, e.New) &&
			!strings.HasSuffix(e.NewText, "\n")
	}
	option := e.NewText
	if strings.HasPrefix(option, "o") { // of "-vo name=value"
		option = "-" + option
	}
	entry, err := parseEntry(logical{text: "s inet n - - - - smtpd " + option})
	return err == nil && !strings.Contains(option, "\n") && len(entry.service.Args) == 0 && len(entry.options) == 1 &&
		entry.options[0].Name == e.Parameter && sameValue(&entry.options[0].Value, e.New)
}

// commentTrap tells whether a value has what looks like a comment.
func commentTrap(v string) bool {
	for i := range len(v) {
		if v[i] == '#' && (i == 0 || isSpace(v[i-1])) {
			return true
		}
	}
	return false
}

// sameValue compares a value an edit expects with one that stands.
func sameValue(want, found *string) bool {
	if want == nil || found == nil {
		return want == found
	}
	return normal(*want) == normal(*found)
}

// Edit plans to set a parameter (new nil: to remove it) where it stands now,
// for a service or, "" being main.cf, for all. Old and OldText are what stands
// there, so that the edit and its inverse restore the bytes.
func (s Snapshot) Edit(service, parameter string, new *string) Edit {
	e := Edit{Service: service, Parameter: parameter, New: new}
	if service == "" {
		if l, ok := s.settings[parameter]; ok {
			e.Old = &l.value
			e.OldText = mainText(string(s.Main.Data), l, e)
		}
		return e
	}
	entries, err := parseMaster(s.Master.Path, string(s.Master.Data))
	if err != nil {
		return e
	}
	if i := findEntry(entries, service); i >= 0 {
		if o := entries[i].last(parameter); o != nil {
			e.Old = &o.Value
			e.OldText = masterText(string(s.Master.Data), entries[i], *o, e)
		}
	}
	return e
}
