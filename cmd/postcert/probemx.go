package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"postcert/verify"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// mxHost is one MX host of a domain, and how it answered.
type mxHost struct {
	Name       string   `json:"name"`
	Preference uint16   `json:"preference"`
	Addresses  []string `json:"addresses"`
	OK         bool     `json:"ok"`
	Words      string   `json:"words"`

	results []probe.Result
	newest  *x509.Certificate // the leaf presented that lasts longest
}

// mxDomain is what DNS says about the mail of a domain.
type mxDomain struct {
	Domain    string    `json:"domain"`
	Null      bool      `json:"null_mx"`     // it takes no mail: RFC 7505
	Implicit  bool      `json:"implicit_mx"` // no MX records, so its own address: RFC 5321 section 5.1
	Hosts     []*mxHost `json:"hosts"`
	STS       stsPolicy `json:"mta_sts"`
	Elsewhere []string  `json:"elsewhere"` // who sees what this host cannot
}

// testers are services that look from outside. They are named to people, and never
// contacted.
var testers = []string{"checktls.com", "internet.nl", "hardenize.com", "dane.sys4.de"}

// probeMX asks every address of every MX host of a domain, and judges each against
// the name of the MX host, the MTA-STS policy and the other hosts.
func (a *app) probeMX(ctx context.Context, domain string, tune func(*probe.Endpoint), res *result) error {
	anchors, err := a.probeAnchors()
	if err != nil {
		return err
	}
	d, err := lookupMX(ctx, strings.TrimSuffix(domain, "."))
	if err != nil {
		return err
	}
	if !d.Null {
		d.STS = lookupSTS(ctx, d.Domain, anchors)
	}
	var list []probe.Endpoint
	for _, h := range d.Hosts {
		for _, addr := range h.Addresses {
			e := probe.Endpoint{Address: net.JoinHostPort(addr, "25"), Mode: probe.STARTTLS, ServerName: h.Name}
			tune(&e)
			list = append(list, e)
		}
	}
	results, err := a.ask(ctx, list, askOne)
	if err != nil {
		return err
	}
	for _, h := range d.Hosts {
		h.results, results = results[:len(h.Addresses)], results[len(h.Addresses):]
	}
	return a.showMX(d, anchors, res)
}

// lookupMX asks for the MX hosts of a domain and their addresses. A host whose
// addresses cannot be looked up is one that fails, not the end of the question.
func lookupMX(ctx context.Context, domain string) (*mxDomain, error) {
	d := &mxDomain{Domain: domain, Hosts: []*mxHost{}, STS: stsPolicy{MX: []string{}}, Elsewhere: testers}
	records, err := net.DefaultResolver.LookupMX(ctx, domain)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case notFound(err):
		// No MX records, or no such name: the addresses tell which.
		d.Implicit = true
		records = []*net.MX{{Host: domain}}
	case err != nil && len(records) == 0:
		return nil, refuse("mx_lookup", problem.At{}, "looking up the MX hosts of %s: %v", domain, err)
	}
	if len(records) == 1 && records[0].Host == "." {
		d.Null = true
		return d, nil
	}
	for _, r := range records {
		h := &mxHost{Name: strings.TrimSuffix(r.Host, "."), Preference: r.Pref, Addresses: []string{}}
		addrs, err := net.DefaultResolver.LookupHost(ctx, h.Name)
		if err != nil && d.Implicit {
			return nil, refuse("mx_lookup", problem.At{}, "%s has no MX records and no address: %v", domain, err)
		}
		if err != nil {
			h.Words = "no address: " + err.Error()
		}
		h.Addresses = append(h.Addresses, addrs...)
		d.Hosts = append(d.Hosts, h)
	}
	return d, nil
}

// unroutable tells whether this host has no route to an address, so that nothing
// can be said about what answers there. No packet is sent for it.
func unroutable(address string) bool {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
	}
	_ = conn.Close()
	return false
}

// notAskedWords is said of an address that this host cannot reach.
const notAskedWords = "not asked: this host has no route to it, so look from one that has IPv6"

// judge fills in how each host answered, and returns what was found about each
// address. A host is good if all of its addresses that could be asked are.
func (d *mxDomain) judge(anchors verify.Anchors, now time.Time) (out []probedJSON) {
	for _, h := range d.Hosts {
		for _, r := range h.results {
			if len(r.Chain) > 0 && (h.newest == nil || r.Chain[0].NotAfter.After(h.newest.NotAfter)) {
				h.newest = r.Chain[0]
			}
		}
	}
	for _, h := range d.Hosts {
		n := 0 // of this host, asked
		h.OK = true
		for _, r := range h.results {
			if r.Reason == probe.NotAsked {
				out = append(out, probedJSON{Result: r, Words: notAskedWords})
				continue
			}
			n++
			words, _, ok := probeWords(r, anchors)
			if ok {
				words, ok = d.fresh(h, r.Chain[0], now)
			}
			if !ok && h.OK {
				h.OK, h.Words = false, words
			}
			out = append(out, probedJSON{Result: r, OK: ok, Words: words})
		}
		switch {
		case n == 0:
			h.OK, h.Words = false, orText(h.Words, "none of its addresses can be reached from here")
		case h.OK:
			h.Words = d.policyWords(h)
		}
	}
	return out
}

// policyWords judges the name of a host that answered well by the MTA-STS policy.
func (d *mxDomain) policyWords(h *mxHost) string {
	if d.STS.Mode == "" || d.STS.Mode == "none" || d.STS.permits(h.Name) {
		return "ok"
	}
	if d.STS.strict() {
		h.OK = false
		return "the MTA-STS policy does not name it: senders that heed the policy do not use it"
	}
	return "ok; the MTA-STS policy, which is on trial (testing), does not name it"
}

// fresh tells whether a certificate that is good now looks like one that is
// renewed in time: copying to one of several hosts stops, and nobody notices until
// it expires.
func (d *mxDomain) fresh(h *mxHost, leaf *x509.Certificate, now time.Time) (words string, ok bool) {
	left, whole := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	for _, other := range d.Hosts {
		if other != h && other.newest != nil && left < whole/3 && other.newest.NotBefore.After(leaf.NotBefore) && namesAgree(other.newest, leaf) {
			return "stale: " + other.Name + " has a newer certificate for the same names, and this one ends on " + leaf.NotAfter.UTC().Format(time.DateOnly), false
		}
	}
	if _, critical := (life{leaf.NotBefore, leaf.NotAfter}).alarms(); left < critical {
		return "stale: it should have been renewed, and ends on " + leaf.NotAfter.UTC().Format(time.DateOnly), false
	}
	return "ok", true
}

func namesAgree(a, b *x509.Certificate) bool {
	return slices.Equal(slices.Sorted(slices.Values(a.DNSNames)), slices.Sorted(slices.Values(b.DNSNames)))
}

// showMX prints what was found, host by host.
func (a *app) showMX(d *mxDomain, anchors verify.Anchors, res *result) error {
	out := d.judge(anchors, a.now())
	hostsBad := a.tableMX(d, out)
	res.add("listeners", emptyNotNull(out))
	res.add("mx", d)
	d.warn(res)
	if d.Null {
		res.headline = fmt.Sprintf("%s takes no mail: it has a null MX record (RFC 7505).", d.Domain)
		return nil
	}
	a.sayMX(d)
	switch {
	case hostsBad > 0:
		res.headline = fmt.Sprintf("%d of %d MX hosts of %s would not satisfy a sender that checks.", hostsBad, len(d.Hosts), d.Domain)
		return errNo
	case d.STS.Problem != "":
		res.headline = fmt.Sprintf("The MX hosts of %s are good; its MTA-STS policy is not.", d.Domain)
		return errNo
	}
	return nil
}

// tableMX prints a row for each address, and what else is to be said of a host. It
// returns how many hosts are not as they should be.
func (a *app) tableMX(d *mxDomain, out []probedJSON) (hostsBad int) {
	tb := &table{head: []string{"host", "pref", "address", "protocol", "serves", "valid", "verdict"}}
	rest := out
	for _, h := range d.Hosts {
		for _, x := range rest[:len(h.results)] {
			colour := green
			switch {
			case x.Result.Reason == probe.NotAsked:
				colour = faint
			case !x.OK:
				colour = red
			}
			tb.add(colour, h.Name, fmt.Sprint(h.Preference), x.Result.Endpoint.Address, protocolName(x.Result), subjectOf(x.Result), validity(x.Result), x.Words)
		}
		rest = rest[len(h.results):]
		if len(h.results) == 0 {
			tb.add(red, h.Name, fmt.Sprint(h.Preference), "-", "-", "-", "", h.Words)
		}
		if !h.OK {
			hostsBad++
		}
	}
	a.text.table(tb)
	for _, h := range d.Hosts {
		// What the rows of its addresses do not say.
		if !h.OK && !slices.ContainsFunc(tb.rows, func(row []string) bool { return row[0] == h.Name && row[len(row)-1] == h.Words }) {
			a.text.printf("  %s: %s\n", h.Name, a.text.paint(red, h.Words))
		}
	}
	return hostsBad
}

// warn adds what is worth knowing and is no host's fault.
func (d *mxDomain) warn(res *result) {
	if d.Implicit {
		res.problem(problem.Warn("mx_implicit", problem.At{}, "%s has no MX records: mail goes to its own address (RFC 5321 section 5.1)", d.Domain))
	}
	if d.STS.Problem != "" {
		res.problem(problem.Warn("mta_sts_unusable", problem.At{}, "the MTA-STS policy of %s cannot be used: %s", d.Domain, d.STS.Problem))
	}
	for _, h := range d.Hosts {
		for _, r := range h.results {
			if r.Reason == probe.NotAsked {
				res.problem(problem.Warn("mx_unroutable", problem.At{Endpoint: r.Endpoint.Address}, "%s at %s was not asked: this host has no route to it", h.Name, r.Endpoint.Address))
			}
		}
		if d.STS.Mode == "testing" && !d.STS.permits(h.Name) {
			res.problem(problem.Warn("mta_sts_name", problem.At{}, "the MTA-STS policy of %s does not name %s; as soon as its mode is enforce, senders pass that host over", d.Domain, h.Name))
		}
	}
}

// sayMX prints the policy, and what cannot be seen from here.
func (a *app) sayMX(d *mxDomain) {
	switch s := d.STS; {
	case s.Mode != "":
		a.text.printf("  MTA-STS: mode %s, for %s, max_age %s\n", s.Mode, orText(strings.Join(s.MX, " "), "no host"), time.Duration(s.MaxAge)*time.Second)
	case !s.Published && s.Problem == "":
		a.text.printf("  MTA-STS: none\n")
	}
	a.text.printf("%s\n", wrapped("  ", "  ", "Seen from this host. Whether port 25 is reachable from elsewhere, over IPv6 too, and what DNSSEC and DANE say, others see: "+strings.Join(d.Elsewhere, ", ")+"."))
}

// askOne asks one MX host at one address, if there is a way to it.
func askOne(ctx context.Context, e probe.Endpoint) probe.Result {
	if host, _, err := net.SplitHostPort(e.Address); err == nil && strings.Contains(host, ":") && unroutable(e.Address) {
		return probe.Result{Endpoint: e, Reason: probe.NotAsked, Detail: "no route to " + host + " from here", Phase: probe.Connecting}
	}
	return probe.Handshake(ctx, e)
}
