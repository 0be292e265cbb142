package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// update rewrites the golden files from what the program says now:
//
//	go test ./cmd/postcert -run TestGolden -update
var update = flag.Bool("update", false, "rewrite testdata/golden")

// TestGolden holds the JSON of each command against a file: the contract
// "postcert/v1", in which fields are added and not changed. Times, durations,
// fingerprints, paths and sentences are normalised.
func TestGolden(t *testing.T) {
	h := withCA(newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}}), acmetest.Options{})
	at := []string{"--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile}
	first, second, bad := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	key, err := os.ReadFile(filepath.Join(first, "privkey.pem"))
	if err != nil {
		t.Fatal(err)
	}
	h.write(filepath.Join(bad, "privkey.pem"), key)
	config := filepath.Join(h.dir, "postcert.yaml")
	h.write(config, []byte("keep_generations: 4\nkep: 1\n"))

	log := filepath.Join(h.dir, "mail.log")
	h.write(log, []byte("Nov 20 21:00:00 mail postfix/smtpd[1]: warning: No server certs available. TLS won't be enabled\n"+
		"Nov 20 21:00:01 mail postfix/smtpd[2]: connect from c.example.test[192.0.2.1]\nNov 20 21:00:02 mail postfix/smtpd[2]: something new about TLS\n"))

	steps := []struct {
		name   string // of the golden file
		status int
		args   []string
	}{
		{"status_nothing", 8, []string{"status"}},
		{"install-cert_dry-run", 0, []string{"install-cert", first, "--dry-run"}},
		{"install-cert", 0, []string{"install-cert", first}},
		{"install-cert_unchanged", 0, []string{"install-cert", first}},
		{"install-cert_refused", 3, []string{"install-cert", bad}},
		{"install-cert_usage", 2, []string{"install-cert"}},
		{"verify", 0, []string{"verify", first}},
		{"verify_refused", 3, []string{"verify", bad}},
		{"probe", 0, []string{"probe", "--trust", h.trust}},
		{"probe_no", 8, []string{"probe", "127.0.0.1:26"}},
		{"status", 0, []string{"status"}},
		{"audit", 8, []string{"audit"}},
		{"audit_no-handshakes", 0, []string{"audit", "--no-handshakes", "--profile", "strict", "--severity", "error"}},
		{"audit_usage", 2, []string{"audit", "--profile", "nonsense"}},
		{"hook", 0, []string{"hook", "--trust", h.trust, "--cert", filepath.Join(first, "fullchain.pem"), "--key", filepath.Join(first, "privkey.pem")}},
		{"", 0, []string{"install-cert", second}},
		{"rollback", 0, []string{"rollback"}},
		{"rollback_refused", 3, []string{"rollback"}},
		{"recover", 0, []string{"recover"}},
		{"release", 0, []string{"release"}},
		{"release_refused", 3, []string{"release"}},
		{"history", 0, []string{"history"}},
		{"config_check", 8, []string{"config", "check", config}},
		{"config_show", 0, []string{"config", "show"}},
		{"version", 0, []string{"version"}},
		{"hook_usage", 2, []string{"hook"}},
		{"unknown_command", 2, []string{"nonsense"}},
		{"explain", 0, []string{"explain", "Nov 20 21:00:00 mail postfix/submission/smtpd[12]: SSL_accept error from c.example.test[192.0.2.1]: lost connection"}},
		{"explain_unknown", 8, []string{"explain", "hello"}},
		{"explain_log", 8, []string{"explain", "--log", log}},
		{"renew_nothing", 0, []string{"renew"}},
		{"account_missing", 3, append([]string{"account", "show"}, at...)},
		{"account_register_terms", 3, append([]string{"account", "register"}, at...)},
		{"account_register_dry-run", 0, append([]string{"account", "register", "--agree-tos", "--dry-run"}, at...)},
		{"account_register", 0, append([]string{"account", "register", "--agree-tos"}, at...)},
		{"account_show", 0, append([]string{"account", "show"}, at...)},
		{"account_rollover_dry-run", 0, append([]string{"account", "rollover", "--dry-run"}, at...)},
		{"account_rollover", 0, append([]string{"account", "rollover"}, at...)},
		{"obtain_usage", 2, []string{"obtain"}},
		{"obtain_refused", 2, h.order("--domain", "*.example.test")},
		{"obtain_dry-run", 0, h.order("--dry-run")},
		{"obtain", 0, h.order()},
		{"renew", 0, []string{"renew", "--trust", h.issuers()}},
		{"status_order", 0, []string{"status"}},
		{"revoke_dry-run", 0, []string{"revoke", hostName, "--reason", "superseded", "--dry-run"}},
		{"revoke", 0, []string{"revoke", hostName, "--reason", "superseded"}},
		{"daemon_usage", 2, []string{"daemon", "nonsense"}},
		{"outbound_refused", 3, []string{"outbound", "secure"}},
		{"outbound_dry-run", 0, []string{"outbound", "encrypt", "--dry-run"}},
		{"outbound", 0, []string{"outbound", "may"}},
		{"outbound_unchanged", 0, []string{"outbound", "may"}},
		{"policy_set", 0, []string{"policy", "set", "example.org", "encrypt", "ciphers=high", "--type", "texthash"}},
		{"policy_set_refused", 3, []string{"policy", "set", "example.org", "encrypt", "cipher=high"}},
		{"policy_list", 0, []string{"policy", "list"}},
		{"policy_test_no", 8, []string{"policy", "test", "[127.0.0.1]:26"}},
		{"policy_remove", 0, []string{"policy", "remove", "example.org"}},
		{"trust_show", 0, []string{"trust", "show"}},
		{"trust_set", 0, []string{"trust", "set", h.trust}},
		{"send-test_usage", 2, []string{"send-test"}},
		{"send-test_no", 8, []string{"send-test", "--to", "user@example.org"}}, // discard(8) takes it
		{"send-test_refused", 3, []string{"send-test", "--to", "user@example.org", "--via", "submission"}},
		{"tlsa_no", 8, []string{"tlsa", hostName}}, // there is no DNS here
		{"harden_usage", 2, []string{"harden"}},
		{"harden_refused", 3, []string{"harden", "--profile", "runbook"}},
		{"harden_undo_refused", 3, []string{"harden", "--undo"}},
		{"harden_dry-run", 0, []string{"harden", "--profile", "runbook", "--without-submission", "--dry-run"}},
		{"harden", 0, []string{"harden", "--profile", "runbook", "--without-submission"}},
		{"harden_undo", 0, []string{"harden", "--undo"}},
	}
	h.also = strings.NewReplacer(strings.TrimSuffix(h.ca.URL, "/dir"), "https://CA", h.httpListen(), "LISTEN")
	var made []string
	for _, s := range steps {
		got := h.postcert(append(s.args, "--json")...).want(s.status)
		oneObject(t, s.args, got)
		if s.name == "" {
			continue
		}
		made = append(made, s.name+".json")
		h.golden(s.name+".json", got.stdout)
	}
	completeGolden(t, made)
}

// completeGolden wants a file for each command, and no other file.
func completeGolden(t *testing.T, made []string) {
	t.Helper()
	files, err := filepath.Glob("../../testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(made, filepath.Base(f)) {
			t.Errorf("%s belongs to no step of this test", f)
		}
	}
	for _, c := range (&app{}).commands() {
		if !slices.ContainsFunc(made, func(f string) bool { return strings.HasPrefix(f, c.Name()) }) {
			t.Errorf("the command %s has no golden file", c.Name())
		}
	}
}

// oneObject checks what holds for every answer: one line with one object on
// standard output, the common head, arrays that are never null, no key.
func oneObject(t *testing.T, args []string, a answer) {
	t.Helper()
	v := a.json()
	if strings.Count(a.stdout, "\n") != 1 {
		t.Errorf("%v: %d lines of JSON", args, strings.Count(a.stdout, "\n"))
	}
	if v["schema"] != "postcert/v1" || v["ok"] != (a.status == 0) || v["exit"] != float64(a.status) || v["command"] == "" {
		t.Errorf("%v: head %v %v %v %v", args, v["schema"], v["command"], v["ok"], v["exit"])
	}
	if strings.Contains(a.stdout+a.stderr, "PRIVATE KEY") {
		t.Errorf("%v: a key in the output", args)
	}
	for _, p := range v["problems"].([]any) {
		p := p.(map[string]any)
		for _, field := range []string{"id", "severity", "message", "remedy"} {
			if s, ok := p[field].(string); !ok || s == "" {
				t.Errorf("%v: a problem without %s: %v", args, field, p)
			}
		}
	}
	for _, path := range nulls(v, "") {
		// Objects and values that may be absent; every array must be there.
		if !slices.Contains([]string{"old", "new", "certificate", "record", "plan", "value"}, path[strings.LastIndexByte(path, '.')+1:]) {
			t.Errorf("%v: %s is null", args, path)
		}
	}
}

// nulls are the paths of all nulls in a decoded value.
func nulls(v any, path string) []string {
	var out []string
	switch v := v.(type) {
	case nil:
		return []string{path}
	case map[string]any:
		for k, x := range v {
			out = append(out, nulls(x, path+"."+k)...)
		}
	case []any:
		for _, x := range v {
			out = append(out, nulls(x, path+"[]")...)
		}
	}
	return out
}

// golden compares normalised JSON with a file of testdata/golden.
func (h *host) golden(name, got string) {
	h.t.Helper()
	text := h.normal(got)
	path := filepath.Join("..", "..", "testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if text != string(want) {
		h.t.Errorf("%s differs: %s\n%s", name, firstDifference(string(want), text), text)
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d: want %q, got %q", i+1, w[i], strings.Join(g[min(i, len(g)):min(i+1, len(g))], ""))
		}
	}
	return "more lines than wanted"
}

// normalised are the parts of an answer that differ from run to run, and what
// stands for them.
var normalised = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// Sentences may improve within v1; that there is one is the contract.
	{regexp.MustCompile(`"(message|remedy|detail|words|cause|consequence|why|title|means|now|do)": "(?:[^"\\]|\\.)+"`), `"$1": "WORDS"`},
	{regexp.MustCompile(`"(took_ms|timeout_ms)": \d+`), `"$1": 0`},
	{regexp.MustCompile(`"(attempts|sessions)": \d+`), `"$1": 1`},
	// Which clients get through depends on this host's OpenSSL.
	{regexp.MustCompile(`"demand": "\w+"`), `"demand": "DEMAND"`},
	{regexp.MustCompile(`"before": (true|false)`), `"before": "BOOL"`},
	{regexp.MustCompile(`"after": "(yes|no)"`), `"after": "BOOL"`},
	{regexp.MustCompile(`"cipher": "[A-Z0-9_]+"`), `"cipher": "CIPHER"`},
	{regexp.MustCompile(`Pebble Intermediate CA [0-9a-f]+`), "Pebble"},
	{regexp.MustCompile(`"(thumbprint|order_url|uri|serial)": "[^"]+"`), `"$1": "VALUE"`},
	{regexp.MustCompile(`lineage-\d+`), "lineage"}, // before what would take its digits for hexadecimal
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?`), "DATE"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "SHA256"},
	{regexp.MustCompile(`\b[0-9a-f]{8,40}\b(\.{3}|…)?`), "HEX"},
	{regexp.MustCompile(`"[0-9A-F]{6,15}"`), `"QUEUE-ID"`},
	{regexp.MustCompile(`"(resolver|error)": "[^"]+"`), `"$1": "VALUE"`},
	{regexp.MustCompile(`"version": "[^"]*"`), `"version": "VERSION"`},
}

// normal indents JSON and takes out what differs from run to run. The order of
// fields stays: it is the order in which people read.
func (h *host) normal(text string) string {
	h.t.Helper()
	var b bytes.Buffer
	if h.also != nil {
		text = h.also.Replace(text)
	}
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		h.t.Fatal(err)
	}
	out := strings.NewReplacer(h.pf.Dir, "/HOST", filepath.Base(h.pf.Dir), "HOST", h.dir, "/FILES", runtime.Version(), "GO", runtime.GOOS+"/"+runtime.GOARCH, "PLATFORM").Replace(b.String())
	for _, n := range normalised {
		out = n.pattern.ReplaceAllString(out, n.with)
	}
	return out
}
