package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mutant is one patch.
type mutant struct {
	name  string
	file  string
	what  string   // the mistake, in words
	pkg   string   // of the test, as a directory below the top
	test  string   // that must fail
	says  string   // what it must print then; "" is anything
	files []string // that the patch changes
}

// load reads the patches in dir, all of them or those named.
func load(dir string, names []string) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".patch")
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		m, err := parse(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		m.name, m.file = name, file
		all = append(all, m)
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.name == name }) {
			return nil, fmt.Errorf("there is no mutant %q in %s", name, dir)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there are no mutants in %s", dir)
	}
	return all, nil
}

// parse reads the head of a patch and the names of the files that it changes.
func parse(patch string) (mutant, error) {
	var m mutant
	head, body, ok := strings.Cut(patch, "\n--- ")
	if !ok {
		return m, errors.New("there is no change in it")
	}
	fields := map[string]*string{"What": &m.what, "Package": &m.pkg, "Test": &m.test, "Says": &m.says}
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if field := fields[key]; field != nil {
			*field = value
		} else if key != "" {
			return m, fmt.Errorf("not a line of its head: %q", line)
		}
	}
	if m.what == "" || m.pkg == "" || m.test == "" {
		return m, errors.New("it must say What, Package and Test")
	}
	for line := range strings.Lines("\n--- " + body) {
		if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
			m.files = append(m.files, strings.TrimSpace(name))
		}
	}
	if len(m.files) == 0 || slices.ContainsFunc(m.files, func(f string) bool { return !filepath.IsLocal(f) }) {
		return m, fmt.Errorf("it changes the files %q", m.files)
	}
	return m, nil
}

// apply makes changed copies of the files below dir and returns the overlay
// that tells go of them.
func (m mutant) apply(root, dir string) (overlay string, err error) {
	replace := map[string]string{}
	for _, file := range m.files {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return "", err
		}
		copied := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(copied, data, 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = copied
	}
	// Lines around a mutant may change; what it changes, and its neighbours, may not.
	cmd := exec.Command("patch", "-p1", "--batch", "--forward", "--fuzz=2", "--no-backup-if-mismatch", "-i", m.file)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o644)
}

// build makes the test binary of a package.
func (h *hunt) build(pkg, binary string, flags ...string) error {
	args := append([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}, flags...)
	cmd := exec.Command("go", append(args, "./"+pkg)...)
	cmd.Dir = h.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not compile: %w\n%s", pkg, err, out)
	}
	return nil
}

// timeout bounds one test.
const timeout = "150s"

// test runs the test of m in a binary.
func (h *hunt) test(m mutant, binary string) ([]byte, error) {
	var parts []string
	for part := range strings.SplitSeq(m.test, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.Command(binary, "-test.run="+strings.Join(parts, "/"), "-test.v", "-test.timeout="+timeout)
	cmd.Dir = filepath.Join(h.root, m.pkg)
	return cmd.CombinedOutput()
}

// judge tells from what a failing run printed whether it is m that failed it.
func (m mutant) judge(output []byte) error {
	var why string
	switch text := string(output); {
	case strings.Contains(text, "panic: test timed out"):
		why = "does not end in time"
	case strings.Contains(text, "\npanic: ") || strings.Contains(text, "\nfatal error: "):
		why = "panics"
	case !ran(output, "FAIL", m.test):
		why = "did not run to its end"
	case m.says != "" && !strings.Contains(text, m.says):
		why = fmt.Sprintf("fails, but does not say %q", m.says)
	default:
		return nil
	}
	return fmt.Errorf("with the mutant, %s %s\n%s", m.test, why, tail(output, 4000))
}

// ran tells whether a verdict on the test was printed.
func ran(output []byte, verdict, test string) bool {
	pattern := regexp.MustCompile(`(?m)^\s*--- ` + verdict + ": " + regexp.QuoteMeta(test) + ` \(`)
	return pattern.Match(output)
}

func tail(b []byte, n int) []byte { return b[max(len(b)-n, 0):] }
