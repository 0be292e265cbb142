package deploy

import (
	"crypto/x509"
	"fmt"
	"strings"

	"postcert/verify/keypair"
	"postcert/verify/probe"
)

// reasonWords says in plain words what a probe met.
var reasonWords = map[probe.Reason]string{
	probe.OK:                "serves TLS",
	probe.Refused:           "no connection",
	probe.NoBanner:          "connected, but no greeting came",
	probe.Closed:            "the connection was closed",
	probe.ShuttingDown:      "the server ended the session (421)",
	probe.TLSNotAvailable:   "STARTTLS is answered with 454, TLS not available: Postfix could not use its certificate or its TLS settings",
	probe.MilterUnavailable: "STARTTLS is answered with 454 by a milter that cannot be reached",
	probe.RateLimited:       "too many connections from here",
	probe.NotOffered:        "STARTTLS is not offered",
	probe.HandshakeFailed:   "the TLS handshake failed",
	probe.Unreadable:        "serves a certificate that only OpenSSL can read",
	probe.Timeout:           "no answer in time",
	probe.ProtocolError:     "does not speak the protocol",
	probe.NotAsked:          "this cannot be asked from here",
	probe.OtherLeaf:         "presents another certificate",
	probe.OtherChain:        "presents the right leaf with another chain",
}

// Words says what one handshake brought.
func Words(r probe.Result) string {
	w := reasonWords[r.Reason]
	if r.Detail != "" && r.Reason != probe.OK {
		w += fmt.Sprintf(" (%s)", r.Detail)
	}
	return w
}

// Words says what an observation means.
func (o Observation) Words() string {
	switch o.Reason {
	case probe.OtherLeaf, probe.OtherChain:
		w := reasonWords[o.Reason]
		if len(o.Result.Chain) > 0 {
			w += ": " + LeafWords(o.Result.Chain[0])
		}
		if o.Expectation.Endpoint.ServerName != "" {
			w += ", asked for " + o.Expectation.Endpoint.ServerName
		}
		return w
	}
	return Words(o.Result)
}

// LeafWords is a certificate in a few words: its first names, or its subject,
// and the beginning of its fingerprint.
func LeafWords(c *x509.Certificate) string {
	name := c.Subject.CommonName
	switch n := len(c.DNSNames); {
	case n > 2:
		name = fmt.Sprintf("%s +%d", c.DNSNames[0], n-1)
	case n > 0:
		name = strings.Join(c.DNSNames, ", ")
	case name == "":
		name = c.Subject.String()
	}
	return name + " " + keypair.Fingerprint(c)[:8]
}

// count is a number with its noun: "1 file", "2 files".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
