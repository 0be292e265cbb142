package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// rewriteSources makes, of the apt sources of a Debian host, those of a tree of
// another suite: from the same mirrors, with the same keys and options. files is
// content by path, codename the host's own suite. What does not offer the host's
// own suite, such as a vendor's repository, is left out; so are its -security
// and -updates, which not every release has.
func rewriteSources(files map[string]string, codename, suite string) (string, error) {
	var out []string
	for _, path := range slices.Sorted(maps.Keys(files)) {
		var entries []string
		switch filepath.Ext(path) {
		case ".sources":
			entries = rewriteStanzas(files[path], codename, suite)
		case ".list":
			entries = rewriteLines(files[path], codename, suite)
		}
		for _, e := range entries {
			if !slices.Contains(out, e) {
				out = append(out, e)
			}
		}
	}
	if len(out) == 0 {
		return "", fmt.Errorf("no apt source of this host offers %q: the trees are made from the host's own Debian mirror", codename)
	}
	// mmdebstrap takes one format at a time, and deb822 can say everything.
	return strings.Join(out, "\n"), nil
}

// rewriteStanzas reads the deb822 format (sources.list(5)).
func rewriteStanzas(text, codename, suite string) []string {
	var out []string
	for _, stanza := range stanzas(text) {
		if no := stanza.get("Enabled"); strings.EqualFold(no, "no") {
			continue
		}
		if !slices.Contains(strings.Fields(stanza.get("Types")), "deb") || !slices.Contains(strings.Fields(stanza.get("Suites")), codename) {
			continue
		}
		entry := "Types: deb\nSuites: " + suite + "\nComponents: main\n"
		for _, f := range stanza {
			switch strings.ToLower(f.name) {
			case "types", "suites", "components", "enabled", "architectures":
			default:
				entry += f.name + ":" + f.value + "\n"
			}
		}
		out = append(out, entry)
	}
	return out
}

// field is one of a stanza; the value has its leading space and further lines.
type field struct{ name, value string }

type stanza []field

func (s stanza) get(name string) string {
	for _, f := range s {
		if strings.EqualFold(f.name, name) {
			return strings.TrimSpace(f.value)
		}
	}
	return ""
}

func stanzas(text string) []stanza {
	var out []stanza
	var now stanza
	for line := range strings.SplitSeq(text+"\n\n", "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			if len(now) > 0 {
				out = append(out, now)
			}
			now = nil
		case (line[0] == ' ' || line[0] == '\t') && len(now) > 0:
			now[len(now)-1].value += "\n" + line
		default:
			name, value, _ := strings.Cut(line, ":")
			now = append(now, field{name, value})
		}
	}
	return out
}

// rewriteLines reads the one-line format: deb [options] URI suite component...
// It returns stanzas, so that a host may have both formats.
func rewriteLines(text, codename, suite string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "deb" {
			continue
		}
		words = words[1:]
		var options []string
		if strings.HasPrefix(words[0], "[") {
			end := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "]") })
			if end < 0 {
				continue
			}
			options = strings.Fields(strings.Trim(strings.Join(words[:end+1], " "), "[]"))
			words = words[end+1:]
		}
		if len(words) < 2 || words[1] != codename {
			continue
		}
		entry := "Types: deb\nSuites: " + suite + "\nComponents: main\nURIs: " + words[0] + "\n"
		for _, o := range options {
			entry += optionField(o)
		}
		out = append(out, entry)
	}
	return out
}

// optionField is an option of a line as a field; "" for one that is the host's.
func optionField(option string) string {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "signed-by":
		return "Signed-By: " + strings.ReplaceAll(value, ",", " ") + "\n"
	case "trusted":
		return "Trusted: " + value + "\n"
	case "check-valid-until":
		return "Check-Valid-Until: " + value + "\n"
	}
	return ""
}

// wantsAptOptions tells whether a file of apt.conf.d says how to fetch: a proxy,
// retries, dates. Hooks of the host's own are not for a tree.
func wantsAptOptions(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "Acquire") {
			return true
		}
	}
	return false
}
