package maillog

import (
	"strings"
	"sync"
)

// A pattern is a message with places for what varies:
//
//	{name}     a word: at least one byte, none of them a space
//	{name...}  any text, perhaps none
//	*          any text that nobody asks for, perhaps none
//
// A place ends where the text after it in the pattern occurs first. A pattern that
// does not begin or end with a place is held against the beginning or the end of
// the message.
type pattern struct {
	pieces []piece
}

// piece is a place and the fixed text after it. The first one of a pattern has no
// place, and no text if the pattern begins with a place.
type piece struct {
	place string // "" keeps nothing
	word  bool   // no spaces, not empty
	text  string
}

func compile(s string) pattern {
	var p pattern
	text, rest := nextText(s)
	p.pieces = append(p.pieces, piece{text: text})
	for rest != "" {
		var at piece
		if rest[0] == '*' {
			rest = rest[1:]
		} else {
			name, after, _ := strings.Cut(rest[1:], "}")
			at.place, at.word = strings.TrimSuffix(name, "..."), !strings.HasSuffix(name, "...")
			rest = after
		}
		at.text, rest = nextText(rest)
		p.pieces = append(p.pieces, at)
	}
	return p
}

// nextText splits s before its first place.
func nextText(s string) (text, rest string) {
	if n := strings.IndexAny(s, "{*"); n >= 0 {
		return s[:n], s[n:]
	}
	return s, ""
}

// match returns what stands in the places.
func (p pattern) match(s string) (map[string]string, bool) {
	first := p.pieces[0].text
	if !strings.HasPrefix(s, first) {
		return nil, false
	}
	s = s[len(first):]
	if len(p.pieces) == 1 {
		return nil, s == ""
	}
	var found map[string]string
	for i, at := range p.pieces[1:] {
		n := strings.Index(s, at.text)
		if i == len(p.pieces)-2 { // the last one ends where the message does
			n = len(s) - len(at.text)
			if !strings.HasSuffix(s, at.text) {
				return nil, false
			}
		}
		if n < 0 || at.word && (n == 0 || strings.IndexByte(s[:n], ' ') >= 0) {
			return nil, false
		}
		if at.place != "" {
			if found == nil {
				found = map[string]string{}
			}
			found[at.place] = s[:n]
		}
		s = s[n+len(at.text):]
	}
	return found, true
}

// compiled are the patterns of Kinds, in the same order. They are made when the
// first line is looked at: most runs of the program look at none.
var compiled = sync.OnceValue(func() [][]pattern {
	out := make([][]pattern, len(Kinds()))
	for i, k := range Kinds() {
		for _, s := range k.Patterns {
			out[i] = append(out[i], compile(s))
		}
	}
	return out
})
