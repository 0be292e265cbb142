package cf

import (
	"fmt"
	"path"
	"strings"
)

// Override is one "-o name=value" of a service entry.
type Override struct {
	Name, Value string
	Line        int // physical line of master.cf where it starts, from 1
}

// Service is one entry of master.cf, fields as they are written there ("-" is
// the built-in default); see master(5).
type Service struct {
	Name, Type, Private, Unprivileged, Chroot, Wakeup, ProcessLimit, Command string

	Args      []string   // arguments of the daemon other than overrides, in order
	Overrides []Override // in order; of two with one name the last holds
	Line      int        // physical line where the entry starts, from 1

	glued   bool // has "-oname=value", which postconf -P may read differently
	garbled bool // has an argument in braces that do not match, or text behind them
}

// ID names the service as postconf -M takes it: "submission/inet".
func (s Service) ID() string { return s.Name + "/" + s.Type }

// program is the daemon's name without a directory.
func (s Service) program() string { return path.Base(s.Command) }

// override is the value of the last override with this name.
func (s Service) override(name string) (Override, bool) {
	for i := len(s.Overrides) - 1; i >= 0; i-- {
		if s.Overrides[i].Name == name {
			return s.Overrides[i], true
		}
	}
	return Override{}, false
}

// ParseError says where a file is not what Postfix accepts.
type ParseError struct {
	File string // path, or "main.cf" or "master.cf" where no path is known
	Line int    // physical line, from 1
	Text string // what is wrong
}

func (e *ParseError) Error() string { return fmt.Sprintf("%s, line %d: %s", e.File, e.Line, e.Text) }

// token is a word of a logical line; braces keep blanks together.
type token struct {
	text     string
	from, to int
}

func tokens(text string) []token {
	var out []token
	for i := 0; ; {
		for i < len(text) && strings.IndexByte(blankSet, text[i]) >= 0 {
			i++
		}
		if i == len(text) {
			return out
		}
		from, level := i, 0
		for ; i < len(text); i++ {
			c := text[i]
			if c == '{' {
				level++
			} else if level > 0 && c == '}' {
				level--
			} else if level == 0 && strings.IndexByte(blankSet, c) >= 0 {
				break
			}
		}
		out = append(out, token{text[from:i], from, i})
	}
}

// option is an override with its place in the logical text.
type option struct {
	Override
	from, to           int // the whole option, from its dash (in "-vo x=y", from the o)
	argFrom, argTo     int // name=value, with its braces
	valueFrom, valueTo int
	braces             bool
}

// entry is a service entry with the places of its parts.
type entry struct {
	logical
	service Service
	options []option
	end     int    // end of the command and its options: where an option can be added
	more    bool   // arguments follow that are no options
	broken  string // why nothing can be edited in it; empty if it can
	listing string // the entry as postconf -M prints it, blanks normalised
}

// parseMaster reads master.cf. name is for errors.
func parseMaster(name, data string) ([]entry, error) {
	var out []entry
	for _, l := range logicalLines(data) {
		e, err := parseEntry(l)
		if err != nil {
			return nil, &ParseError{name, l.line, err.Error()}
		}
		out = append(out, e)
	}
	return out, nil
}

func parseEntry(l logical) (entry, error) {
	words := tokens(l.text)
	if len(words) < 8 {
		return entry{}, fmt.Errorf("bad field count")
	}
	e := entry{logical: l, end: words[7].to, listing: listing(words)}
	e.service = Service{Line: l.line}
	s := &e.service
	for i, field := range []*string{&s.Name, &s.Type, &s.Private, &s.Unprivileged, &s.Chroot, &s.Wakeup, &s.ProcessLimit, &s.Command} {
		*field = words[i].text
	}
	for _, w := range words {
		if openBraces(w.text) {
			e.broken = "the entry has a brace that is not closed"
		}
	}
	for _, w := range words[8:] {
		s.garbled = s.garbled || w.text[0] == '{' && balanced(w.text, '{', '}') != len(w.text)
	}
	rest := e.readOptions(words[8:])
	e.more = len(rest) > 0
	for _, w := range rest {
		s.Args = append(s.Args, strings.Trim(unbraced(w.text), spaceSet))
	}
	for _, o := range e.options {
		s.Overrides = append(s.Overrides, o.Override)
	}
	return e, nil
}

// readOptions takes the options off the front of the arguments, as getopt(3)
// does for daemons whose only option with a value is -o.
func (e *entry) readOptions(words []token) []token {
	for len(words) > 0 {
		w := words[0]
		if w.text[0] != '-' || w.text == "--" {
			break
		}
		words = words[1:]
		e.end = w.to
		o := strings.IndexByte(w.text[1:], 'o') + 1
		if o != 1 { // flags, perhaps with an o behind them: "-v", "-vo"
			flags := w.text
			if o > 0 {
				flags = w.text[:o]
			}
			e.service.Args = append(e.service.Args, flags)
			if o == 0 {
				continue
			}
			if strings.ContainsAny(flags, "{}") { // what the option is would end with its brace
				e.broken = "the entry has a brace before an o among its flags"
			}
		}
		opt := option{from: w.from + o}
		if o == 1 {
			opt.from = w.from
		}
		arg := token{w.text[o+1:], w.from + o + 1, w.to}
		if arg.text == "" {
			if len(words) == 0 {
				e.broken = "the entry ends with -o"
				break
			}
			arg, words = words[0], words[1:]
		} else if strings.Contains(arg.text, "o") {
			e.service.glued = true
		}
		opt.to, opt.argFrom, opt.argTo, e.end = arg.to, arg.from, arg.to, arg.to
		if opt.read(arg) {
			opt.Line = e.lineAt(opt.from)
			e.options = append(e.options, opt)
		} else {
			e.service.Args = append(e.service.Args, "-o", arg.text)
		}
	}
	return words
}

// read splits name=value; false if it is not of that form.
func (o *option) read(arg token) bool {
	text := arg.text
	from := arg.from
	if strings.HasPrefix(text, "{") {
		o.braces = true
		from++
		text = unbraced(text)
	}
	name, a, b, ok := splitNameValue(text)
	o.Name, o.Value, o.valueFrom, o.valueTo = name, text[a:b], from+a, from+b
	return ok
}

// splitNameValue is how Postfix reads "name = value": the name ends at a blank
// or the equals sign, blanks around the value are not part of it. The value is
// text[from:to].
func splitNameValue(text string) (name string, from, to int, ok bool) {
	start := len(text) - len(skipBlanks(text))
	end := start
	for end < len(text) && !isSpace(text[end]) && text[end] != '=' {
		end++
	}
	rest := skipBlanks(text[end:])
	if end == start || !strings.HasPrefix(rest, "=") {
		return "", 0, 0, false
	}
	from = len(text) - len(rest) + 1
	to = from + len(strings.TrimRight(text[from:], spaceSet))
	if to == from {
		return text[start:end], from, from, true
	}
	from = to - len(skipBlanks(text[from:to]))
	return text[start:end], from, to, true
}

// unbraced is the text inside the braces a token starts with, or the token.
func unbraced(s string) string {
	if !strings.HasPrefix(s, "{") {
		return s
	}
	if n := balanced(s, '{', '}'); n > 0 {
		return s[1 : n-1]
	}
	return s[1:]
}

// openBraces tells whether a brace is left open: it swallows what follows.
func openBraces(text string) bool {
	level := 0
	for i := range len(text) {
		switch {
		case text[i] == '{':
			level++
		case text[i] == '}' && level > 0:
			level--
		}
	}
	return level > 0
}

// listing is an entry as postconf -M prints it, blanks normalised. postconf
// takes an option apart at every o ("-osmtpd_timeout=5" becomes "-osmtpd_time"
// and "-out=5"), which the daemons do not; so this is for comparing only.
func listing(words []token) string {
	var out, rest []string
	for i, w := range words {
		if i < 8 {
			out = append(out, w.text)
		} else {
			rest = append(rest, w.text)
		}
	}
	for len(rest) > 0 && rest[0][0] == '-' && rest[0] != "--" {
		arg := rest[0]
		rest = rest[1:]
		for i := 2; i < len(arg); i++ {
			if arg[i] == 'o' {
				rest = append([]string{"-" + arg[i:]}, rest...)
				arg = arg[:i]
			}
		}
		if !strings.HasPrefix(arg, "-o") {
			out = append(out, arg)
			continue
		}
		if arg != "-o" {
			rest = append([]string{arg[2:]}, rest...)
		}
		out = append(out, "-o")
		if len(rest) == 0 {
			break
		}
		value := rest[0]
		rest = rest[1:]
		if strings.HasPrefix(value, "{") {
			value = strings.Trim(unbraced(value), spaceSet)
			if name, a, b, ok := splitNameValue(value); ok {
				value = name + "=" + value[a:b]
			}
		}
		out = append(out, braced(value))
	}
	for _, w := range rest {
		if strings.HasPrefix(w, "{") {
			w = strings.Trim(unbraced(w), spaceSet)
		}
		out = append(out, braced(w))
	}
	return normal(strings.Join(out, " "))
}

// braced puts braces around an argument with blanks, as postconf -M does.
func braced(s string) string {
	if strings.ContainsAny(s, blankSet) {
		return "{" + s + "}"
	}
	return s
}
