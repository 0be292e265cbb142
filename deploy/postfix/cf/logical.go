package cf

import "strings"

// File is one of the two files: where it lies and what it holds.
type File struct {
	Path string
	Data []byte
}

// logical is one logical line: its text as Postfix joins it, and where in the
// file each piece of the text comes from.
type logical struct {
	text   string
	line   int // physical line where it starts, from 1
	pieces []piece
}

// piece is one physical line's share of a logical line, without its line end
// ("\n" or "\r\n": the carriage return is white space to Postfix).
type piece struct {
	at         int // offset of the piece in the logical text
	start, end int // the same bytes in the file; end excludes the newline
	next       int // offset of the next physical line in the file
	line       int // physical line, from 1
}

// isSpace is what Postfix takes for white space when it reads lines
// (isspace(3) of an ASCII character).
func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

const (
	spaceSet  = " \t\n\v\f\r" // isSpace as a set
	blankSet  = " \t\r\n"     // separators of master.cf fields and operands
	listBlank = ", \t\r\n"    // separators of lists of names and files
)

// logicalLines splits a file as Postfix does. Lines that start with white
// space before any text, which Postfix skips with a warning, are left out.
func logicalLines(data string) []logical {
	var out []logical
	var cur *logical
	orphan := false
	for at, n := 0, 1; at < len(data); n++ {
		end := strings.IndexByte(data[at:], '\n')
		next := at + end + 1
		if end < 0 {
			next = len(data)
			end = next
		} else {
			end += at
		}
		if end > at && end < next && data[end-1] == '\r' {
			end--
		}
		p := piece{start: at, end: end, next: next, line: n}
		text := data[at:end]
		at = next
		body := strings.TrimLeft(text, spaceSet)
		if body == "" || body[0] == '#' {
			continue
		}
		switch {
		case !isSpace(text[0]):
			out = append(out, logical{line: n})
			cur, orphan = &out[len(out)-1], false
		case cur == nil:
			orphan = true
		}
		if orphan {
			continue
		}
		p.at = len(cur.text)
		cur.text += text
		cur.pieces = append(cur.pieces, p)
	}
	return out
}

// lineAt is the physical line that holds the given offset of the text.
func (l logical) lineAt(offset int) int {
	line := l.line
	for _, p := range l.pieces {
		if p.at <= offset {
			line = p.line
		}
	}
	return line
}

// splice is a replacement of data[start:end] by text.
type splice struct {
	start, end int
	text       string
}

// replace returns the splices that put text in the place of [from, to) of the
// logical text. Where the old text ran over several lines the rest goes, and
// with it the physical lines that would be blank; lines that lie between and
// belong to nobody (comments) stay.
func (l logical) replace(data string, from, to int, text string) []splice {
	var out []splice
	for _, p := range l.pieces {
		a, b := max(from, p.at), min(to, p.at+p.end-p.start)
		here := ""
		if p.at <= from && from <= p.at+p.end-p.start && text != "" && len(out) == 0 {
			here, text = text, ""
			b = max(a, b)
		} else if a >= b {
			continue
		}
		s, e := p.start+a-p.at, p.start+b-p.at
		rest := data[p.start:s] + here + data[e:p.end]
		if strings.Trim(rest, spaceSet) == "" {
			out = append(out, wholeLine(data, p))
			continue
		}
		out = append(out, splice{s, e, here})
	}
	return out
}

// wholeLine removes a physical line. Of a last line that lacks its newline the
// newline before goes, so that the file goes on lacking one.
func wholeLine(data string, p piece) splice {
	start := p.start
	if p.next == p.end && start > 0 {
		start--
		if start > 0 && data[start-1] == '\r' {
			start--
		}
	}
	return splice{start, p.next, ""}
}

// insertAfter puts a line behind the given piece, in the file's own newline
// style; behind a last line without a newline it stays without one.
func insertAfter(data string, p piece, text string) splice {
	nl := newline(data)
	if p.next == p.end {
		return splice{p.next, p.next, nl + text}
	}
	return splice{p.next, p.next, text + nl}
}

// newline is the line end the file uses: "\r\n" if its first line does.
func newline(data string) string {
	if i := strings.IndexByte(data, '\n'); i > 0 && data[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// spliced applies splices, which must be in ascending order and apart.
func spliced(data string, all []splice) string {
	var b strings.Builder
	at := 0
	for _, s := range all {
		if s.start < at {
			s.start = at
		}
		b.WriteString(data[at:s.start])
		b.WriteString(s.text)
		at = max(at, s.end)
	}
	b.WriteString(data[at:])
	return b.String()
}

// normal is text as postconf prints it: blanks between words become one blank,
// those around it go.
func normal(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(blankSet, r) }), " ")
}
