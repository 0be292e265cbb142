package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// sarifShape is what the published schema of SARIF 2.1.0 says of the objects that
// we write: which properties must be there, and which of all that it allows (it
// forbids others) we use. "[]" is an array of such objects, "" a plain value.
var sarifShape = map[string]struct {
	required []string
	allowed  map[string]string
}{
	"log":           {[]string{"version", "runs"}, map[string]string{"$schema": "", "version": "", "runs": "[]run"}},
	"run":           {[]string{"tool"}, map[string]string{"tool": "tool", "results": "[]result"}},
	"tool":          {[]string{"driver"}, map[string]string{"driver": "component"}},
	"component":     {[]string{"name"}, map[string]string{"name": "", "version": "", "rules": "[]rule"}},
	"rule":          {[]string{"id"}, map[string]string{"id": "", "shortDescription": "text", "fullDescription": "text", "help": "text", "defaultConfiguration": "configuration"}},
	"text":          {[]string{"text"}, map[string]string{"text": ""}},
	"configuration": {nil, map[string]string{"level": ""}},
	"result":        {[]string{"message"}, map[string]string{"ruleId": "", "ruleIndex": "", "level": "", "message": "text", "locations": "[]location", "properties": "bag"}},
	"bag":           {nil, map[string]string{"edits": ""}},
	"location":      {nil, map[string]string{"physicalLocation": "physical", "logicalLocations": "[]logical"}},
	"physical":      {[]string{"artifactLocation"}, map[string]string{"artifactLocation": "artifact", "region": "region"}},
	"artifact":      {nil, map[string]string{"uri": ""}},
	"region":        {nil, map[string]string{"startLine": ""}},
	"logical":       {nil, map[string]string{"name": "", "kind": ""}},
}

// wrongSARIF walks a decoded value by its shape and says what does not fit.
func wrongSARIF(v any, shape, path string) (wrong []string) {
	if element, ok := strings.CutPrefix(shape, "[]"); ok {
		list, ok := v.([]any)
		if !ok {
			return []string{path + " is no array"}
		}
		for i, x := range list {
			wrong = append(wrong, wrongSARIF(x, element, fmt.Sprintf("%s[%d]", path, i))...)
		}
		return wrong
	}
	if shape == "" {
		if _, is := v.(map[string]any); is || v == nil {
			wrong = append(wrong, path+" is no plain value")
		}
		return wrong
	}
	object, ok := v.(map[string]any)
	if !ok {
		return []string{path + " is no object"}
	}
	for _, name := range sarifShape[shape].required {
		if _, ok := object[name]; !ok {
			wrong = append(wrong, path+" has no "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		inner, ok := sarifShape[shape].allowed[name]
		if !ok {
			wrong = append(wrong, path+" has "+name)
			continue
		}
		x := object[name]
		switch s, _ := x.(string); {
		case name == "level" && !slices.Contains([]string{"none", "note", "warning", "error"}, s):
			wrong = append(wrong, path+"."+name+" is "+s)
		case name == "text" && s == "":
			wrong = append(wrong, path+"."+name+" is empty")
		}
		if n, ok := x.(float64); ok && (name == "startLine" && n < 1 || n < 0) {
			wrong = append(wrong, fmt.Sprintf("%s.%s is %v", path, name, n))
		}
		wrong = append(wrong, wrongSARIF(x, inner, path+"."+name)...)
	}
	return wrong
}

// TestAuditSARIF: what --sarif prints fits the schema, and has each finding that
// --json has, with its rule at the index that it says.
func TestAuditSARIF(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{badProtocols[0], "smtpd_tls_loglevel = 3"}})
	a := h.postcert("audit", "--sarif").want(8)
	var v any
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		t.Fatalf("%v: %s", err, a.stdout)
	}
	for _, wrong := range wrongSARIF(v, "log", "$") {
		t.Error(wrong)
	}
	var log sarifLog
	if err := json.Unmarshal([]byte(a.stdout), &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || !strings.HasSuffix(log.Schema, "sarif-schema-2.1.0.json") || len(log.Runs) != 1 {
		t.Fatalf("version %s, schema %s, %d runs", log.Version, log.Schema, len(log.Runs))
	}
	run := log.Runs[0]
	var rules []string
	for _, r := range run.Results {
		rules = append(rules, r.RuleID)
		if d := run.Tool.Driver.Rules[r.RuleIndex]; d.ID != r.RuleID || d.Default.Level != r.Level {
			t.Errorf("%s (%s) has the index of %s (%s)", r.RuleID, r.Level, d.ID, d.Default.Level)
		}
		if uri := r.Locations[0].Physical.Artifact.URI; !strings.HasPrefix(uri, "file:///") {
			t.Errorf("uri %s", uri)
		}
	}
	for rule, all := range h.audit() {
		n := 0
		for _, r := range rules {
			if r == rule {
				n++
			}
		}
		if n != len(all) {
			t.Errorf("%s: %d results, want %d", rule, n, len(all))
		}
	}
	if len(rules) < 4 || strings.Contains(a.stdout+a.stderr, "NO:") {
		t.Errorf("%d results; %s", len(rules), a.stderr)
	}
	// Each part of the judge refuses what is wrong.
	for _, bad := range []string{`{"runs":[]}`, `{"version":"2.1.0","runs":{}}`, `{"version":"2.1.0","runs":[],"x":1}`, `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"level":"info","message":{"text":"x"}}]}]}`, `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"message":{"text":""}}]}]}`} {
		if err := json.Unmarshal([]byte(bad), &v); err != nil || len(wrongSARIF(v, "log", "$")) == 0 {
			t.Errorf("fits: %s", bad)
		}
	}
}

// TestAuditUsage: flags that make no sense are refused.
func TestAuditUsage(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	for _, args := range [][]string{{"--profile", "x"}, {"--severity", "fatal"}, {"--sarif", "--json"}, {"argument"}} {
		h.postcert(append([]string{"audit", "--no-handshakes"}, args...)...).want(2)
	}
	h.postcert("audit", "--severity", "error").want(0).says("ok: nothing of severity error")
	h.postcert("audit", "--profile", "runbook", "-v").want(8).says("left out: runbook_smtpd_tls_eecdh_grade").says("why:").says("nothing was changed")
	h.pf.Stop()
	h.postcert("audit", "--severity", "error").want(0).says("not asked: smtp/inet")
}
