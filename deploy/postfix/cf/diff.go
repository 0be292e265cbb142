package cf

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Difference is one thing in which two snapshots differ.
type Difference struct {
	Service   string // "" is main.cf
	Parameter string // "" is the service entry itself: its fields and arguments
	Before    string // expanded value
	After     string
}

// ignored are parameters whose value says which reading it was, not what the
// configuration is: a candidate is read from a directory of its own.
var ignored = map[string]bool{"process_id": true, "config_directory": true}

// Differences compares everything postconf -x prints, and per service its
// entry and each of its overrides, expanded. An override that came or went is
// a difference even where the value in effect is the same; Before and After
// are what is in effect for the service. Order: main.cf by name, then services
// by ID.
func Differences(before, after Snapshot) []Difference {
	var out []Difference
	// The same configuration, read by one process: what it says, and what each
	// run of postconf -x made of it, whose process id is its own.
	xBefore, xAfter := before.with(before.Expanded), after.with(after.Expanded)
	after = after.with(before.Parameters)
	for _, name := range union(before.Expanded, after.Expanded) {
		a, b := before.Expanded[name], after.Expanded[name]
		if a == b || ignored[name] || before.printedOnceOf(after, name) {
			continue
		}
		// debugger_command of the stock main.cf moves with process_id. That is no
		// difference, if it is all that makes up the two values.
		same := before.Effective("", name) == after.Effective("", name)
		if !same || xBefore.Effective("", name) != a || xAfter.Effective("", name) != b {
			out = append(out, Difference{"", name, a, b})
		}
	}
	a, b := before.byID(), after.byID()
	for _, id := range union(a, b) {
		if x, y := a[id].fields(), b[id].fields(); x != y {
			out = append(out, Difference{id, "", x, y})
		}
		x, y := a[id].overrides(), b[id].overrides()
		for _, name := range union(x, y) {
			d := Difference{id, name, before.Effective(id, name), after.Effective(id, name)}
			_, in := x[name]
			_, still := y[name]
			if (d.Before != d.After || in != still) && !ignored[name] {
				out = append(out, d)
			}
		}
	}
	return out
}

// with is s with the ignored parameters of another reading.
func (s Snapshot) with(reading map[string]string) Snapshot {
	s.Parameters = maps.Clone(s.Parameters)
	for name := range ignored {
		s.Parameters[name] = reading[name]
	}
	return s
}

// printedOnceOf tells whether a parameter differs only in that postconf prints
// it for one of the two: it prints those of the administrator's own only where
// another parameter names them. Both files set it, to the same.
func (s Snapshot) printedOnceOf(other Snapshot, name string) bool {
	_, here := s.Expanded[name]
	_, there := other.Expanded[name]
	a, set := s.settings[name]
	b, still := other.settings[name]
	return here != there && set && still && a.value == b.value
}

// union is the keys of both maps, sorted.
func union[V any](a, b map[string]V) []string {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// byID is the entry that holds for each service ID.
func (s Snapshot) byID() map[string]Service {
	out := map[string]Service{}
	for _, v := range s.Services {
		out[v.ID()] = v
	}
	return out
}

// fields is the entry without its overrides, for comparing.
func (s Service) fields() string {
	return strings.TrimSpace(strings.Join(append([]string{s.Private, s.Unprivileged, s.Chroot, s.Wakeup, s.ProcessLimit, s.Command}, s.Args...), " "))
}

// overrides is the entry's overrides by name, the last of each.
func (s Service) overrides() map[string]string {
	out := map[string]string{}
	for _, o := range s.Overrides {
		out[o.Name] = o.Value
	}
	return out
}

// context is how many unchanged lines a Diff shows around a change.
const context = 3

// Diff is a unified diff of two versions of a file, for people; empty if they
// are equal. name is printed in its head.
func Diff(name string, before, after []byte) string {
	if string(before) == string(after) {
		return ""
	}
	a, b := splitLines(string(before)), splitLines(string(after))
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	tail := 0
	for tail < len(a)-start && tail < len(b)-start && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	script := lineScript(a[start:len(a)-tail], b[start:len(b)-tail])
	lines := make([]string, 0, len(a)+len(script))
	for _, l := range a[:start] {
		lines = append(lines, " "+l)
	}
	lines = append(lines, script...)
	for _, l := range a[len(a)-tail:] {
		lines = append(lines, " "+l)
	}
	return fmt.Sprintf("--- %s\n+++ %s\n", name, name) + hunks(lines)
}

func splitLines(s string) []string { return slices.Collect(strings.Lines(s)) }

// lineScript is the shortest list of "-old", "+new" and " same" lines (longest
// common subsequence). Edits are close together, so the table stays small.
func lineScript(a, b []string) []string {
	if len(a)*len(b) > 1<<22 { // everything rewritten: say so without a table
		return append(prefixed("-", a), prefixed("+", b)...)
	}
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			out = append(out, " "+a[i])
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			out = append(out, "-"+a[i])
			i++
		default:
			out = append(out, "+"+b[j])
			j++
		}
	}
	return append(append(out, prefixed("-", a[i:])...), prefixed("+", b[j:])...)
}

func prefixed(mark string, lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, mark+l)
	}
	return out
}

// hunks cuts the marked lines into hunks with their positions.
func hunks(lines []string) string {
	var b strings.Builder
	oldLine, newLine := 1, 1
	for i := 0; i < len(lines); {
		next := i
		for next < len(lines) && lines[next][0] == ' ' {
			next++
		}
		if next == len(lines) {
			break
		}
		from := max(i, next-context)
		oldLine, newLine = oldLine+from-i, newLine+from-i
		end, same := next, 0
		for end < len(lines) && same <= 2*context {
			if same++; lines[end][0] != ' ' {
				same = 0
			}
			end++
		}
		end -= max(0, same-context)
		olds, news := 0, 0
		var body strings.Builder
		for _, l := range lines[from:end] {
			if l[0] != '+' {
				olds++
			}
			if l[0] != '-' {
				news++
			}
			body.WriteString(l)
			if !strings.HasSuffix(l, "\n") {
				body.WriteString("\n\\ No newline at end of file\n")
			}
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@\n%s", span(oldLine, olds), span(newLine, news), body.String())
		oldLine, newLine = oldLine+olds, newLine+news
		i = end
	}
	return b.String()
}

// span is a range of a hunk; an empty one names the line before it.
func span(line, count int) string {
	if count == 0 {
		line--
	}
	return fmt.Sprintf("%d,%d", line, count)
}
