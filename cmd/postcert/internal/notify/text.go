package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Bounds of what is written, in bytes. A syslog line that is too long is cut by
// whoever gets it; a problem's message can quote a whole log.
const (
	maxSubject = 180
	maxLine    = 900
	maxText    = 4000
)

// endings are what is said when an event is over.
var endings = map[Event]string{
	Failure:    "it works again",
	Rollback:   "the deploy that was undone has succeeded",
	Incomplete: "the rollback is complete, or a deploy has succeeded since",
	Expiry:     "the certificate was renewed, and does not expire soon any more",
	Drift:      "what is served is what was deployed again",
}

// headline is an item in a few words.
func (i Item) headline() string {
	switch i.Phase {
	case Ends:
		return "over: " + endings[i.Event]
	case Lasts:
		return "still: " + i.Headline
	}
	return i.Headline
}

// Subject is the notice in one line.
func (n Notice) Subject() string {
	host := ""
	if n.Host != "" {
		host = " on " + n.Host
	}
	if len(n.Items) == 1 {
		return cut(plain(fmt.Sprintf("postcert%s: %s: %s", host, n.Items[0].Name, n.Items[0].headline())), maxSubject)
	}
	var names []string
	wrong := 0
	for _, i := range n.Items {
		names = append(names, i.Name)
		if i.Phase != Ends {
			wrong++
		}
	}
	words := fmt.Sprintf("%d messages", len(n.Items))
	switch wrong {
	case 0:
		words = fmt.Sprintf("%d problems are over", len(n.Items))
	case len(n.Items):
		words = fmt.Sprintf("%d problems", wrong)
	}
	return cut(plain(fmt.Sprintf("postcert%s: %s: %s", host, words, strings.Join(names, ", "))), maxSubject)
}

// Text is the notice for people: what happened, what is served, what to do.
func (n Notice) Text() string {
	var b strings.Builder
	for k, i := range n.Items {
		if k > 0 {
			b.WriteString("\n")
		}
		where := ""
		if i.Instance != "" {
			where = " (" + plain(i.Instance) + ")"
		}
		fmt.Fprintf(&b, "%s%s: %s\n", plain(i.Name), where, plain(i.headline()))
		paragraph(&b, "What happened", i.What)
		paragraph(&b, "What is served now", i.State)
		paragraph(&b, "What to do next", i.Do)
		fmt.Fprintf(&b, "  Since %s UTC", i.Since.UTC().Format(time.DateTime))
		if i.ID != "" {
			fmt.Fprintf(&b, ", problem %s", plain(i.ID))
		}
		b.WriteString(".\n")
	}
	b.WriteString("\nTo see it as it is now: postcert status\n")
	if n.wrong() {
		b.WriteString("This is said once, again each day while it lasts, and once when it is over.\n")
	}
	if n.Held {
		fmt.Fprintf(&b, "This is message %d within a day: more will be told when the day is over, and in\nthe mail log at once.\n", maxADay)
	}
	return b.String()
}

func (n Notice) wrong() bool {
	for _, i := range n.Items {
		if i.Phase != Ends {
			return true
		}
	}
	return false
}

// Line is one item as a line of a log.
func (i Item) Line() string {
	words := fmt.Sprintf("certificate %s: %s", i.Name, i.headline())
	if i.Instance != "" {
		words = fmt.Sprintf("certificate %s (%s): %s", i.Name, i.Instance, i.headline())
	}
	if i.Phase != Ends {
		words += ": " + i.What
		if i.ID != "" {
			words += " [" + i.ID + "]"
		}
		words += "; to see more: postcert status"
	}
	return cut(plain(words), maxLine)
}

// paragraph writes a heading and text in lines of a mail's width.
func paragraph(b *strings.Builder, head, text string) {
	text = strings.TrimSpace(cut(text, maxText))
	if text == "" {
		return
	}
	fmt.Fprintf(b, "  %s\n", head)
	for line := range strings.Lines(text) {
		column := 0
		for _, word := range strings.Fields(plain(line)) {
			if column > 0 && column+1+len(word) > 76 {
				b.WriteString("\n")
				column = 0
			}
			if column == 0 {
				b.WriteString("    " + word)
				column = 4 + len(word)
				continue
			}
			b.WriteString(" " + word)
			column += 1 + len(word)
		}
		if column > 0 {
			b.WriteString("\n")
		}
	}
}

// plain makes text one line that a terminal, a log and a mail header can take:
// what controls any of them becomes a space.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens text to max bytes, at a character's edge.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max-3], "") + "..."
}
