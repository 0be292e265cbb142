package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/audit"
)

// SARIF 2.1.0 (OASIS), as far as it is used here: one run, the profile's rules,
// and a result for each finding.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID      string     `json:"id"`
		Short   sarifText  `json:"shortDescription"`
		Full    sarifText  `json:"fullDescription"`
		Help    sarifText  `json:"help"`
		Default sarifLevel `json:"defaultConfiguration"`
	}
	sarifLevel struct {
		Level string `json:"level"`
	}
	sarifResult struct {
		RuleID     string            `json:"ruleId"`
		RuleIndex  int               `json:"ruleIndex"`
		Level      string            `json:"level"`
		Message    sarifText         `json:"message"`
		Locations  []sarifLocation   `json:"locations"`
		Properties map[string]string `json:"properties,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
	}
)

const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

// sarifLevels are section 3.27.10 of SARIF: our words for them differ in one.
var sarifLevels = map[audit.Severity]string{audit.Error: "error", audit.Warning: "warning", audit.Info: "note"}

// writeSARIF prints all findings, whatever the threshold.
func writeSARIF(w io.Writer, all []audited, profile audit.Profile) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "postcert", Version: versionString(), Rules: []sarifRule{}}}, Results: []sarifResult{}}
	index := map[string]int{}
	for i, r := range profile.Rules() {
		index[r.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: r.ID, Short: sarifText{sarifSentence(r.Title)}, Full: sarifText{sarifSentence(r.Why)}, Help: sarifText{"Sources: " + r.Cite}, Default: sarifLevel{sarifLevels[r.Severity]},
		})
	}
	for _, x := range all {
		for _, f := range x.findings {
			run.Results = append(run.Results, sarifOf(f, index[f.Rule.ID]))
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}})
}

func sarifOf(f *audit.Finding, index int) sarifResult {
	l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{(&url.URL{Scheme: "file", Path: f.At.File}).String()}}}
	if f.At.Line > 0 {
		l.Physical.Region = &sarifRegion{f.At.Line}
	}
	for _, x := range []sarifLogical{{f.At.Service, "service"}, {f.At.Parameter, "parameter"}} {
		if x.Name != "" {
			l.Logical = append(l.Logical, x)
		}
	}
	out := sarifResult{
		RuleID: f.Rule.ID, RuleIndex: index, Level: sarifLevels[f.Rule.Severity],
		Message: sarifText{sarifSentence(fmt.Sprintf("%s. Do: %s", f.Message, f.Advice))}, Locations: []sarifLocation{l},
	}
	if len(f.Remedy) > 0 {
		out.Properties = map[string]string{"edits": editWords(f.Remedy)}
	}
	return out
}

func editWords(edits []cf.Edit) string {
	var out []string
	for _, e := range edits {
		out = append(out, e.String())
	}
	return strings.Join(out, "; ")
}

// sarifSentence begins with a capital letter and ends with a full stop, as section
// 3.11.3 of SARIF wants messages to be. Names of parameters stay as they are.
func sarifSentence(s string) string {
	first, _, _ := strings.Cut(s, " ")
	if s != "" && !strings.ContainsAny(first, "_/.") {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return strings.TrimSuffix(s, ".") + "."
}
