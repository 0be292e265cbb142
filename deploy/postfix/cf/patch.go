package cf

import (
	"bytes"
	"strings"
)

// Patch is how the inverse of an edit is carried out byte for byte: the whole
// lines that it takes, those that it puts in their place, and what stands around
// them. Values alone do not tell that: where a line stood that was removed, how
// it was written, which comment was between its parts.
type Patch struct {
	At           int    // offset in the file, in bytes, if nobody has edited it since
	Take, Put    []byte // whole lines; empty: nothing is taken, or put
	Above, Below []byte // whole lines around, 256 bytes at most or one
}

// patchAround is how much of the surroundings a patch remembers, in bytes.
const patchAround = 256

// Trace is Apply, and returns the edits with what their inverses need to bring
// back the very bytes. An edit that was traced can be undone later, when others
// have edited the file: its patch is tried where it was, then where its
// surroundings are found, and if they are not, the inverse goes by its values.
func Trace(main, master []byte, edits []Edit) (traced []Edit, newMain, newMaster []byte, err error) {
	for _, e := range edits {
		a, b, err := Apply(main, master, []Edit{e})
		if err != nil {
			return nil, nil, nil, err
		}
		if e.Service == "" {
			e.Undo = patchOf(a, main)
		} else {
			e.Undo = patchOf(b, master)
		}
		traced = append(traced, e)
		main, master = a, b
	}
	return traced, main, master, nil
}

// patchOf is the patch that makes to of from: one run of lines, from the first
// that differs to the last.
func patchOf(from, to []byte) *Patch {
	if bytes.Equal(from, to) {
		return nil
	}
	head := 0
	for head < min(len(from), len(to)) && from[head] == to[head] {
		head++
	}
	head = bytes.LastIndexByte(from[:head], '\n') + 1
	tail := 0
	for tail < min(len(from), len(to))-head && from[len(from)-1-tail] == to[len(to)-1-tail] {
		tail++
	}
	// The common end begins with a line, in both.
	whole := func(data []byte) bool {
		return len(data) == tail || len(data)-tail == head || data[len(data)-tail-1] == '\n'
	}
	for tail > 0 && !(whole(from) && whole(to)) {
		tail--
	}
	return &Patch{At: head, Take: bytes.Clone(from[head : len(from)-tail]), Put: bytes.Clone(to[head : len(to)-tail]),
		Above: bytes.Clone(lastLines(from[:head])), Below: bytes.Clone(firstLines(from[len(from)-tail:]))}
}

// lastLines are the whole lines at the end of data that fit into patchAround, or
// the last one if it does not.
func lastLines(data []byte) []byte {
	from := max(0, len(data)-patchAround)
	if from > 0 {
		last := bytes.LastIndexByte(bytes.TrimSuffix(data, []byte("\n")), '\n') + 1
		from = min(from+bytes.IndexByte(data[from:], '\n')+1, last)
	}
	return data[from:]
}

// firstLines are those at its beginning, or the first one.
func firstLines(data []byte) []byte {
	to := min(len(data), patchAround)
	if to < len(data) {
		first := bytes.IndexByte(data, '\n') + 1
		if first == 0 {
			first = len(data)
		}
		to = max(bytes.LastIndexByte(data[:to], '\n')+1, first)
	}
	return data[:to]
}

// on carries the patch out on a file that others may have edited since: where it
// was, or at the one place with the same surroundings. false: there is none.
func (p *Patch) on(data string) (string, bool) {
	if p == nil {
		return "", false
	}
	above, below := string(p.Above), string(p.Below)
	all := above + string(p.Take) + below
	if at := p.At - len(above); at >= 0 && strings.HasPrefix(data[min(at, len(data)):], all) && p.fits(data, at, len(all)) {
		return p.put(data, p.At), true
	}
	// Elsewhere a last line counts as one with its newline, which it may have got.
	bare := data != "" && !strings.HasSuffix(data, "\n")
	if bare {
		data += "\n"
	}
	q := Patch{Take: ended(p.Take), Put: ended(p.Put)}
	above, below = string(ended(p.Above)), string(ended(p.Below))
	nextTo := above[strings.LastIndexByte(strings.TrimSuffix(above, "\n"), '\n')+1:]
	line, _, _ := strings.Cut(below, "\n")
	if below != "" {
		line += "\n"
	}
	for _, around := range [][2]string{{above, below}, {nextTo, line}, {nextTo, ""}, {"", line}, {"", ""}} {
		at, ok := onlyPlace(data, around[0]+string(q.Take)+around[1])
		if !ok {
			continue
		}
		out := q.put(data, at+len(around[0]))
		if bare {
			out = strings.TrimSuffix(out, "\n")
		}
		return out, true
	}
	return "", false
}

// ended is text that ends with a newline, unless there is none.
func ended(text []byte) []byte {
	if len(text) == 0 || text[len(text)-1] == '\n' {
		return text
	}
	return append(bytes.Clone(text), '\n')
}

// fits tells whether what is taken at the end of a file is at its end still: a
// last line without a newline is not one in the middle.
func (p *Patch) fits(data string, at, n int) bool {
	return len(p.Below) > 0 || at+n == len(data)
}

// onlyPlace is where whole lines stand in data, if they stand there once.
func onlyPlace(data, look string) (at int, ok bool) {
	if look == "" {
		return 0, false
	}
	at = -1
	for from := 0; from <= len(data)-len(look); {
		i := strings.Index(data[from:], look)
		if i < 0 {
			break
		}
		i += from
		from = i + 1
		if i > 0 && data[i-1] != '\n' {
			continue // within a line
		}
		if at >= 0 {
			return 0, false
		}
		at = i
	}
	return at, at >= 0
}

// put replaces what is taken. Lines that are put before others end with a
// newline, and so do those before them.
func (p *Patch) put(data string, at int) string {
	head, tail, text := data[:at], data[at+len(p.Take):], string(p.Put)
	if text != "" && head != "" && !strings.HasSuffix(head, "\n") {
		text = newline(data) + text
	}
	if text != "" && tail != "" && !strings.HasSuffix(text, "\n") {
		text += newline(data)
	}
	return head + text + tail
}
