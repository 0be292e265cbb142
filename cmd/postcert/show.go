package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// showPlan prints what is going to be done before it is done: the certificate,
// and the diff of the configuration, if there is one.
func (a *app) showPlan(p *deploy.Plan) {
	if p == nil || a.text.quiet {
		return
	}
	a.text.printf("\n")
	if !p.Pair.IsZero() {
		a.showCertificate(p.Pair)
	}
	a.text.printf("  instance     %s, Postfix %s%s\n", p.Instance, p.Before.Version, notRunning(p))
	for _, c := range p.Companions {
		a.text.printf("  companion    %s\n", companionWords(c))
	}
	if d := planDiff(p); d != "" {
		a.text.printf("\n")
		a.text.diff(d)
	}
	for _, l := range p.Scheme.Left {
		a.text.printf("  left alone   %s has a certificate of its own: %s = %s\n", l.Service, l.Name, l.Value)
	}
	if a.planWords != nil {
		a.text.printf("\n")
		a.planWords()
	}
	a.text.printf("\n")
}

// companionWords says what will be done for another daemon.
func companionWords(c deploy.Companion) string {
	words := []string{}
	if c.Export.Directory != "" {
		words = append(words, "copies in "+c.Export.Directory)
	}
	if len(c.Reload) > 0 {
		words = append(words, "reload by "+strings.Join(c.Reload, " "))
	}
	for _, e := range c.Probe {
		words = append(words, "proof on "+e.Address)
	}
	return c.Name + ": " + strings.Join(words, ", ")
}

func notRunning(p *deploy.Plan) string {
	if p.Running.Running {
		return ""
	}
	return ", NOT RUNNING: nothing can be proven now"
}

// planDiff is the unified diff of both files.
func planDiff(p *deploy.Plan) string {
	return cf.Diff(filepath.Join(p.Instance, "main.cf"), p.Before.Main.Data, p.Main) +
		cf.Diff(filepath.Join(p.Instance, "master.cf"), p.Before.Master.Data, p.Master) + filesDiff(p.Change.Files)
}

// filesDiff are the diffs of the texts among the files of a change.
func filesDiff(files []deploy.FileChange) string {
	out := ""
	for _, f := range files {
		if text := !f.Own && f.After.Kind == atomicfile.File && utf8.Valid(f.After.Data) && !bytes.ContainsRune(f.After.Data, 0); text {
			out += cf.Diff(f.Path, f.Before.Data, f.After.Data)
		}
	}
	return out
}

// showReport prints what every listener presents in the end, and the lines of
// the log that explain a failure.
func (a *app) showReport(r *deploy.Report) {
	a.showObservations(r.Listeners)
	for _, c := range r.Conflicts {
		a.text.printf("  %s %s\n", a.text.paint(yellow, "kept:"), c)
	}
	if len(r.Log) > 0 {
		a.text.printf("  %s\n", a.text.paint(faint, "what Postfix logged:"))
		for _, l := range r.Log {
			a.text.printf("    %s\n", l)
		}
	}
}

func (a *app) showObservations(obs []deploy.Observation) {
	if len(obs) == 0 {
		return
	}
	tb := &table{head: []string{"service", "address", "tls", "asked for", "serves", "verdict"}}
	for _, o := range merged(obs) {
		x := o.Expectation
		verdict, colour := string(o.Verdict), green
		switch {
		case x.Ignore:
			verdict, colour = "ignored", faint
		case o.Verdict == probe.NotVerified:
			verdict, colour = "not verified: "+deploy.Words(o.Result), yellow
		case o.Verdict == probe.Contradicted:
			verdict, colour = "CONTRADICTED: "+o.Words(), red
		}
		tb.add(colour, x.Listener.ID(), x.Endpoint.Address, modeWords(x.Endpoint.Mode), askedFor(o), serves(o.Result), verdict)
	}
	a.text.printf("\n")
	a.text.table(tb)
	a.text.printf("\n")
}

// merged leaves out the rows of one listener that say the same with a server
// name as without one.
func merged(obs []deploy.Observation) []deploy.Observation {
	var out []deploy.Observation
	for _, o := range obs {
		same := false
		for i := range out {
			p := &out[i]
			if p.Expectation.Endpoint.Address == o.Expectation.Endpoint.Address && p.Expectation.Endpoint.KeyType == o.Expectation.Endpoint.KeyType &&
				p.Verdict == o.Verdict && p.Result.Leaf() == o.Result.Leaf() && p.Reason == o.Reason {
				same = true
				if p.Expectation.Endpoint.ServerName == "" {
					p.Expectation.Endpoint.ServerName = "any name"
				}
			}
		}
		if !same {
			out = append(out, o)
		}
	}
	return out
}

func askedFor(o deploy.Observation) string {
	e := o.Expectation.Endpoint
	return strings.TrimSpace(orText(e.ServerName, "no name") + " " + e.KeyType)
}

func modeWords(m probe.Mode) string {
	if m == probe.Implicit {
		return "implicit"
	}
	return "STARTTLS"
}

func serves(r probe.Result) string {
	if len(r.Chain) == 0 {
		return "-"
	}
	return deploy.LeafWords(r.Chain[0]) + ", " + lifetimeShort(r.Chain[0])
}

func lifetimeShort(c *x509.Certificate) string {
	left := time.Until(c.NotAfter)
	if left < 0 {
		return "expired"
	}
	return strings.TrimSuffix(lifetime(c.NotBefore, c.NotAfter, time.Now()), ", until "+c.NotAfter.UTC().Format(time.DateOnly))
}

func observedOf(o deploy.Observation) observedJSON {
	return observedJSON{
		Service: o.Expectation.Listener.ID(), Endpoint: o.Expectation.Endpoint.Address,
		SNI: o.Expectation.Endpoint.ServerName, KeyType: o.Expectation.Endpoint.KeyType,
		Verdict: o.Verdict, Reason: o.Reason, Attempts: o.Attempts, Result: o.Result,
	}
}

// issuerName is the issuer as people know it: organisation and common name.
func issuerName(c *x509.Certificate) string {
	i := c.Issuer
	name := strings.TrimSpace(strings.Join(i.Organization, " ") + " " + i.CommonName)
	if name == "" {
		return i.String()
	}
	return name
}

func protocolName(r probe.Result) string {
	if r.Protocol == 0 {
		return "-"
	}
	return tls.VersionName(r.Protocol)
}
