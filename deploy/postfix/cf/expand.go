package cf

import (
	"errors"
	"fmt"
	"strings"
)

// maxNesting is how deep Postfix expands macros before it gives up.
const maxNesting = 100

// maxExpansion bounds the result and the work of one expansion. Postfix has no such bound; a value
// that grows beyond it is an error here instead of a machine without memory.
const maxExpansion = 1 << 20

// lookupFunc gives the unexpanded value of a parameter; false if it has none.
type lookupFunc func(name string) (string, bool)

// expansion is one run over a value: the result so far and how deep it is.
type expansion struct {
	lookup lookupFunc
	out    strings.Builder
	level  int // nesting of macros in this operand, as Postfix counts it
	depth  int // nesting of operands of comparisons
	work   *int
}

// expand replaces $name, ${name}, $(name), ${name?text}, ${name:text},
// ${name?{a}:{b}} and ${{a} op {b} ? {c} : {d}} in a value, as Postfix does:
// recursively, late, an undefined parameter being empty, and "$$" being "$"
// (postconf(5), "main.cf file format"). Where Postfix ends with "macro
// processing error", expand returns an error.
func expand(value string, lookup lookupFunc) (string, error) {
	work := 0
	e := expansion{lookup: lookup, work: &work}
	if err := e.parse(value); err != nil {
		return "", err
	}
	return e.out.String(), nil
}

// parse splits text into literals and macros, in Postfix's own way: a bare
// name ends at the first other character, parentheses are balanced with their
// own kind only.
func (e *expansion) parse(text string) error {
	if *e.work += len(text) + 1; *e.work > maxExpansion {
		return errors.New("expansion too large")
	}
	var literal strings.Builder
	for i := 0; i < len(text); {
		switch {
		case text[i] != '$':
			literal.WriteByte(text[i])
			i++
			continue
		case strings.HasPrefix(text[i:], "$$"):
			literal.WriteByte('$')
			i += 2
			continue
		}
		if err := e.literal(literal.String()); err != nil {
			return err
		}
		literal.Reset()
		macro, n, err := macroAt(text[i+1:])
		if err != nil {
			return fmt.Errorf("%w: %q", err, text)
		}
		i += 1 + n
		if err := e.nested(func() error { return e.macro(macro) }); err != nil {
			return err
		}
	}
	return e.literal(literal.String())
}

// macroAt takes the macro behind a $: its text without the parentheses, and
// how many bytes it took.
func macroAt(s string) (macro string, n int, err error) {
	if s != "" && (s[0] == '{' || s[0] == '(') {
		closing := map[byte]byte{'{': '}', '(': ')'}[s[0]]
		n = balanced(s, s[0], closing)
		if n == 0 {
			return "", 0, errors.New("truncated macro reference")
		}
		macro = s[1 : n-1]
	} else {
		for n < len(s) && isNameByte(s[n]) {
			n++
		}
		macro = s[:n]
	}
	if macro == "" {
		return "", 0, errors.New("empty macro name")
	}
	return macro, n, nil
}

// balanced is the length of the parenthesised text s starts with, or 0.
func balanced(s string, open, closing byte) int {
	level := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case open:
			level++
		case closing:
			if level--; level == 0 {
				return i + 1
			}
		}
	}
	return 0
}

func isNameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (e *expansion) literal(s string) error {
	if s == "" {
		return nil
	}
	if *e.work += len(s); *e.work > maxExpansion {
		return errors.New("expansion too large")
	}
	return e.nested(func() error { e.out.WriteString(s); return nil })
}

func (e *expansion) nested(f func() error) error {
	if e.level > maxNesting {
		return errors.New("unreasonable macro call nesting")
	}
	e.level++
	defer func() { e.level-- }()
	return f()
}

// macro expands the text of one macro: a name or a comparison, and what
// follows ? and :. Only the chosen branch is expanded.
func (e *expansion) macro(text string) error {
	var value string
	var rest string
	var operator byte
	var err error
	if strings.HasPrefix(skipBlanks(text), "{") {
		value, rest, err = e.comparison(skipBlanks(text))
		if err == nil && rest != "" {
			if operator, rest = rest[0], rest[1:]; operator != '?' && operator != ':' {
				err = fmt.Errorf("\"?\" or \":\" expected in ${%s}", text)
			}
		}
	} else {
		value, operator, rest, err = e.named(text)
	}
	if err != nil {
		return err
	}
	switch operator {
	case '?':
		branch, rest, err := operand(rest)
		if err != nil {
			return err
		}
		if value != "" {
			if err := e.parse(branch); err != nil {
				return err
			}
		}
		if rest == "" {
			return nil
		}
		if rest[0] != ':' {
			return fmt.Errorf("\":\" expected in ${%s}", text)
		}
		return e.otherwise(value, rest[1:])
	case ':':
		return e.otherwise(value, rest)
	case 'f': // a named function: rest is its result
		e.out.WriteString(rest)
		return nil
	}
	return e.parse(value)
}

// otherwise expands the branch behind a colon if value is empty.
func (e *expansion) otherwise(value, text string) error {
	branch, rest, err := operand(text)
	if err != nil {
		return err
	}
	if value == "" {
		if err := e.parse(branch); err != nil {
			return err
		}
	}
	if rest != "" {
		return fmt.Errorf("unexpected input %q", rest)
	}
	return nil
}

// operand takes a branch: {text} and what follows it, or all of the text.
func operand(s string) (branch, rest string, err error) {
	if t := skipBlanks(s); strings.HasPrefix(t, "{") {
		return curly(t)
	}
	return s, "", nil
}

// curly takes {text} off the front; blanks behind the brace are skipped.
func curly(s string) (text, rest string, err error) {
	n := balanced(s, '{', '}')
	if n == 0 {
		return "", "", fmt.Errorf("unbalanced {} in %q", s)
	}
	return s[1 : n-1], skipBlanks(s[n:]), nil
}

func skipBlanks(s string) string { return strings.TrimLeft(s, spaceSet) }

// named looks a parameter up. operator is what follows its name: ?, : or
// nothing; 'f' for the function call ${name{text}} of Postfix 3.11.
func (e *expansion) named(text string) (value string, operator byte, rest string, err error) {
	s := skipBlanks(text)
	n := 0
	for n < len(s) && isNameByte(s[n]) {
		n++
	}
	name, after := s[:n], skipBlanks(s[n:])
	switch {
	case after == "":
	case after[0] == '?' || after[0] == ':':
		operator, rest = after[0], after[1:]
	case after[0] == '{':
		rest, err = e.function(name, after)
		return "", 'f', rest, err
	default:
		return "", 0, "", fmt.Errorf("attribute name syntax error in ${%s}", text)
	}
	value, _ = e.lookup(name)
	return value, operator, rest, nil
}

// sub expands an operand by itself.
func (e *expansion) sub(text string) (string, error) {
	if e.depth >= maxNesting {
		return "", errors.New("unreasonable macro call nesting")
	}
	inner := expansion{lookup: e.lookup, depth: e.depth + 1, work: e.work}
	err := inner.parse(text)
	return inner.out.String(), err
}
