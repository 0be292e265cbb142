package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// arguments that every command of postcert gets here.
func (h *scanHost) postcertArgs(args ...string) []string {
	return append(args, "--json", "--trust", h.trust, "--instance", h.pf.ConfigDir, "--state-dir", h.pf.Dir+"/state", "--runtime-dir", runtimeDir+"/postcert")
}

// said decodes what a command of postcert printed.
func (h *scanHost) said(ctx context.Context, into any, args ...string) {
	h.t.Helper()
	out := h.output(ctx, h.binary, h.postcertArgs(args...)...)
	if err := json.Unmarshal(out, into); err != nil {
		h.t.Fatalf("postcert %s: %v\n%s", args[0], err, out)
	}
}

// audit tells by rule protocols_below_12 whether TLS 1.0 and 1.1 are refused to users.
// It says nothing about other versions, nor, where the rule finds something, about
// which of the two.
func (h *scanHost) audit(ctx context.Context, states []scanState, args ...string) map[string]answers {
	h.t.Helper()
	var v struct {
		Instances []struct {
			Findings []struct {
				Rule    string `json:"rule"`
				Message string `json:"message"`
			} `json:"findings"`
		} `json:"instances"`
	}
	h.said(ctx, &v, append([]string{"audit", "--profile", "strict"}, args...)...)
	if len(v.Instances) != 1 || len(v.Instances[0].Findings) == 0 {
		h.t.Fatalf("audit found nothing: %+v", v)
	}
	out := map[string]answers{}
	for _, s := range states {
		old := false
		for _, f := range v.Instances[0].Findings {
			old = old || f.Rule == "protocols_below_12" && strings.Contains(f.Message, s.port()+"/inet")
		}
		if out[s.name] = (answers{}); !old {
			out[s.name][offersTLS10], out[s.name][offersTLS11] = false, false
		}
	}
	return out
}

// probe says whether the certificate is good, and why it is not.
func (h *scanHost) probe(ctx context.Context, states []scanState) map[string]answers {
	h.t.Helper()
	args := []string{"probe", "--sni", name}
	for _, s := range states {
		args = append(args, s.port())
	}
	var v struct {
		Listeners []struct {
			OK    bool   `json:"ok"`
			Words string `json:"words"`
		} `json:"listeners"`
	}
	h.said(ctx, &v, args...)
	if len(v.Listeners) != len(states) {
		h.t.Fatalf("probe: %d answers about %d listeners", len(v.Listeners), len(states))
	}
	out := map[string]answers{}
	for i, s := range states {
		if !strings.Contains(v.Listeners[i].Words, s.words) {
			h.t.Errorf("probe says %q of %s, want %q", v.Listeners[i].Words, s.name, s.words)
		}
		out[s.name] = answers{goodCertificate: v.Listeners[i].OK}
	}
	return out
}

// harden without carrying anything out says which kinds of clients get through now.
func (h *scanHost) harden(ctx context.Context, states []scanState) map[string]answers {
	h.t.Helper()
	var v struct {
		Harden struct {
			Clients []struct {
				Endpoint string `json:"endpoint"`
				Client   string `json:"client"`
				Before   bool   `json:"before"`
			} `json:"clients"`
		} `json:"harden"`
	}
	h.said(ctx, &v, "harden", "--profile", "runbook", "--without-submission", "--dry-run")
	asks := map[string]question{"TLS 1.0": offersTLS10, "TLS 1.1": offersTLS11, "TLS 1.2, ECDHE, RSA, GCM": offersTLS12, "TLS 1.3, RSA": offersTLS13,
		"TLS 1.2, 3DES": offers3DES, "TLS 1.2, RSA key exchange": offersRSA}
	out := map[string]answers{}
	for _, s := range states {
		out[s.name] = answers{}
		for _, c := range v.Harden.Clients {
			if q, ok := asks[c.Client]; ok && c.Endpoint == s.port() {
				out[s.name][q] = c.Before
			}
		}
		if len(out[s.name]) != len(asks) {
			h.t.Fatalf("harden says of %s only %v", s.name, out[s.name])
		}
	}
	return out
}

// sslscan lists protocols and suites, and dates; it verifies nothing else of a
// certificate.
func (h *scanHost) sslscan(ctx context.Context, states []scanState) map[string]answers {
	h.t.Helper()
	s := states[0]
	out := h.output(ctx, "sslscan", "--starttls-smtp", "--sni-name="+name, "--no-colour", "--xml=-", s.port())
	var v struct {
		Test struct {
			Protocols []struct {
				Type    string `xml:"type,attr"`
				Version string `xml:"version,attr"`
				Enabled bool   `xml:"enabled,attr"`
			} `xml:"protocol"`
			Ciphers []struct {
				Cipher   string `xml:"cipher,attr"`
				Strength string `xml:"strength,attr"`
			} `xml:"cipher"`
			Certificates []struct {
				Expired bool `xml:"expired"`
			} `xml:"certificates>certificate"`
		} `xml:"ssltest"`
	}
	if err := xml.Unmarshal(out, &v); err != nil || len(v.Test.Ciphers) == 0 || len(v.Test.Certificates) == 0 {
		h.t.Fatalf("sslscan: %v\n%s", err, out)
	}
	a := answers{offers3DES: false, offersRSA: false, offersAnonymous: false}
	for _, p := range v.Test.Protocols {
		if q, ok := map[string]question{"1.0": offersTLS10, "1.1": offersTLS11, "1.2": offersTLS12, "1.3": offersTLS13}[p.Version]; ok && p.Type == "tls" {
			a[q] = p.Enabled
		}
	}
	for _, c := range v.Test.Ciphers {
		a[offers3DES] = a[offers3DES] || strings.Contains(c.Cipher, "DES-CBC3")
		a[offersRSA] = a[offersRSA] || c.Cipher == "AES128-SHA" || c.Cipher == "AES128-GCM-SHA256"
		a[offersAnonymous] = a[offersAnonymous] || c.Strength == "anonymous"
	}
	for _, c := range v.Test.Certificates {
		if c.Expired {
			a[goodCertificate] = false
		}
	}
	return map[string]answers{s.name: a}
}

// testssl is asked for protocols, categories of suites and the certificate alone.
func (h *scanHost) testssl(ctx context.Context, states []scanState) map[string]answers {
	h.t.Helper()
	s := states[0]
	file := filepath.Join(h.t.TempDir(), "testssl.json")
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		h.t.Fatal(err)
	}
	said := h.output(ctx, "testssl", "--starttls", "smtp", "-p", "-s", "-S", "--ip", s.address, "--nodns", "none", "--add-ca", h.trust,
		"--warnings", "off", "--color", "0", "--jsonfile", file, "--openssl", openssl, name+":587")
	data, err := os.ReadFile(file)
	var all []struct {
		ID       string `json:"id"`
		Severity string `json:"severity"`
		Finding  string `json:"finding"`
	}
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		h.t.Fatalf("testssl.sh: %v\n%s", err, said)
	}
	asks := map[string]question{"TLS1": offersTLS10, "TLS1_1": offersTLS11, "TLS1_2": offersTLS12, "TLS1_3": offersTLS13, "cipherlist_3DES_IDEA": offers3DES, "cipherlist_aNULL": offersAnonymous}
	certificate := []string{"cert_chain_of_trust", "cert_expirationStatus", "cert_trust"}
	a, judged, good := answers{}, 0, true
	for _, f := range all {
		id, _, _ := strings.Cut(f.ID, " ") // " <cert#1>" of several
		if q, ok := asks[id]; ok {
			a[q] = strings.HasPrefix(f.Finding, "offered")
		}
		if slices.Contains(certificate, id) {
			judged++
			good = good && (f.Severity == "OK" || f.Severity == "INFO")
		}
	}
	if judged < len(certificate) {
		h.t.Fatalf("testssl.sh judged %d of %d about the certificate\n%s", judged, len(certificate), said)
	}
	a[goodCertificate] = good
	return map[string]answers{s.name: a}
}

var (
	sessionUp = regexp.MustCompile(`(?m)^(?:New|Reused), \S+, Cipher is [^(\s]`)
	verified  = regexp.MustCompile(`(?m)^\s*Verify return code: 0 \(ok\)`)
)

// judge asks openssl s_client, question by question.
func (h *scanHost) judge(ctx context.Context, s scanState) answers {
	h.t.Helper()
	ask := func(want *regexp.Regexp, args ...string) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-starttls", "smtp", "-connect", s.port()}, args...)...)
		cmd.Stdin = strings.NewReader("Q\n")
		out, _ := cmd.Output() // that it fails is an answer
		if ctx.Err() != nil {
			h.t.Fatalf("openssl s_client %v does not end", args)
		}
		return want.Match(out)
	}
	const low = "@SECLEVEL=0"
	return answers{
		goodCertificate: ask(verified, "-CAfile", h.trust, "-no-CApath", "-servername", name, "-verify_hostname", name, "-purpose", "sslserver"),
		offersTLS10:     ask(sessionUp, "-tls1", "-cipher", "ALL:"+low),
		offersTLS11:     ask(sessionUp, "-tls1_1", "-cipher", "ALL:"+low),
		offersTLS12:     ask(sessionUp, "-tls1_2"),
		offersTLS13:     ask(sessionUp, "-tls1_3"),
		offers3DES:      ask(sessionUp, "-tls1_2", "-cipher", "3DES:"+low),
		offersRSA:       ask(sessionUp, "-tls1_2", "-cipher", "kRSA:"+low),
		offersAnonymous: ask(sessionUp, "-tls1_2", "-cipher", "aNULL:"+low),
	}
}
