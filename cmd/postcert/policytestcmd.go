package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/deploy/postfix/cf"
	lookup "postcert/deploy/postfix/table"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

func (a *app) policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "test DOMAIN", Short: "ask the servers of a domain, and say what happens to mail for it", Long: policyHelp,
		Example: "  postcert policy test example.com\n  postcert policy test '[relay.example.com]:587' --json", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error { return a.policyTest(ctx, args[0], res) }),
	}
}

// policyTested is what policy test found: where mail for a domain goes, which level
// is in force there, and what each level would do.
type policyTested struct {
	Domain string      `json:"domain"`
	Route  route       `json:"route"`
	Key    string      `json:"key"`   // under which an entry was found, ""
	Table  string      `json:"table"` // and where, ""
	Line   int         `json:"line"`  // 0: not known
	Policy string      `json:"policy"`
	Level  string      `json:"level"` // in force
	Hosts  []askedHost `json:"hosts"`
	Levels []levelDoes `json:"levels"`
}

// askedHost is one server that Postfix would try.
type askedHost struct {
	Host     string       `json:"host"`
	Address  string       `json:"address"`
	Result   probe.Result `json:"result"`
	Dialogue []string     `json:"dialogue"` // with TLS
	InClear  []string     `json:"in_clear"` // without
}

// levelDoes is what a level would do with mail for the domain now.
type levelDoes struct {
	Level   string `json:"level"`
	InForce bool   `json:"in_force"`
	Outcome string `json:"outcome"` // encrypted, in_clear or deferred
	Words   string `json:"words"`
}

func (a *app) policyTest(ctx context.Context, domain string, res *result) error {
	if err := lookup.NextHop(domain); err != nil {
		return usagef("%v", err)
	}
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	snap, err := s.engine.MTA.Snapshot(ctx)
	if err != nil {
		return err
	}
	p := &policyTested{Domain: domain, Hosts: []askedHost{}, Levels: []levelDoes{}}
	res.add("test", p)
	p.Route = route{Transport: "smtp", NextHop: domain, Because: "it was given so"}
	if !strings.ContainsAny(domain, "[:") {
		if p.Route, err = a.routeOf(ctx, s, snap, domain); err != nil {
			return err
		}
	}
	id := p.Route.Transport + "/unix"
	a.text.printf("  mail for     %s\n  next hop     %s, because %s\n", domain, p.Route.NextHop, p.Route.Because)
	if svc, ok := snap.Service(id); !ok || svc.Command != "smtp" {
		res.headline = fmt.Sprintf("mail for %s goes through the transport %s, which is no SMTP client: levels of TLS are not about it.", domain, p.Route.Transport)
		return nil
	}
	if err := a.inForce(ctx, s, snap, id, p, res); err != nil {
		return err
	}
	if err := a.askHosts(ctx, snap, id, p); err != nil {
		return err
	}
	a.judgeLevels(ctx, snap, id, p)
	return a.showTested(p, res)
}

// inForce finds the level for the next hop: the entry of the first map that has the
// next hop or, of a domain, a parent of it; or the level of all.
func (a *app) inForce(ctx context.Context, s *site, snap cf.Snapshot, id string, p *policyTested, res *result) error {
	maps := mapsOf(snap.Effective(id, policyParameter))
	for _, key := range lookup.Keys(p.Route.NextHop) {
		n, value, err := a.keyFound(ctx, s, maps, key)
		if err != nil {
			return err
		}
		if n < 0 {
			continue
		}
		p.Key, p.Table, p.Policy = key, maps[n].name(), value
		if text, err := maps[n].read(); err == nil && maps[n].editable {
			e, _ := lookup.Find(text, key)
			p.Line = e.Line
		}
		pol, err := lookup.ParsePolicy(value, snap.Version)
		if p.Level = pol.Level; err != nil {
			res.problems = append(res.problems, problem.New("policy_invalid", problem.At{File: maps[n].path, Line: p.Line, Parameter: policyParameter}, "%s %s: %v", key, value, err))
		}
		a.text.printf("  policy       %s, by %s under the key %s%s\n", value, p.Table, key, lineWords(p.Line))
		return nil
	}
	p.Level = globalLevel(snap, id)
	a.text.printf("  policy       %s, the level of all: no entry for %s\n", orText(p.Level, "none"), strings.Join(lookup.Keys(p.Route.NextHop), ", "))
	return nil
}

func lineWords(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf(", line %d", line)
}

// globalLevel is the level of a service for all destinations (postconf(5),
// smtp_tls_security_level): the parameters of before it count where it is empty.
func globalLevel(s cf.Snapshot, id string) string {
	switch level := s.Effective(id, levelParameter); {
	case level != "":
		return level
	case s.Effective(id, "smtp_enforce_tls") == "yes" && s.Effective(id, "smtp_tls_enforce_peername") == "yes":
		return "verify"
	case s.Effective(id, "smtp_enforce_tls") == "yes":
		return "encrypt"
	case s.Effective(id, "smtp_use_tls") == "yes":
		return "may"
	}
	return "none"
}

// hopParts takes a next hop apart: [host]:port, [host], host:port, domain. In
// brackets no MX records are looked up (smtp(8)).
func hopParts(hop string) (host, port string, literal bool) {
	port = "25"
	if strings.HasPrefix(hop, "[") {
		inner, rest, _ := strings.Cut(hop[1:], "]")
		if p, ok := strings.CutPrefix(rest, ":"); ok {
			port = p
		}
		return strings.TrimPrefix(strings.TrimPrefix(inner, "ipv6:"), "IPv6:"), port, true
	}
	if h, p, ok := strings.Cut(hop, ":"); ok {
		return h, p, false
	}
	return hop, port, false
}

// maxHosts bounds how many servers are asked.
const maxHosts = 5

// askHosts asks the servers in the order in which smtp(8) tries them, until one
// answers.
func (a *app) askHosts(ctx context.Context, snap cf.Snapshot, id string, p *policyTested) error {
	domain, port, literal := hopParts(p.Route.NextHop)
	hosts := []string{domain}
	dns := strings.Contains(snap.Effective(id, "smtp_host_lookup"), "dns") && snap.Effective(id, "disable_dns_lookups") != "yes"
	if !literal && dns && snap.Effective(id, "smtp_dns_support_level") != "disabled" {
		if records, err := net.DefaultResolver.LookupMX(ctx, domain); err == nil && len(records) > 0 {
			hosts = nil
			for _, mx := range records {
				hosts = append(hosts, strings.TrimSuffix(mx.Host, "."))
			}
		}
	}
	for _, host := range hosts {
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			p.Hosts = append(p.Hosts, askedHost{Host: host, Result: probe.Result{Reason: probe.Refused, Detail: err.Error()}, Dialogue: []string{}, InClear: []string{}})
			continue
		}
		for _, addr := range addrs {
			h := a.askHost(ctx, snap, id, p, host, net.JoinHostPort(addr, port))
			if p.Hosts = append(p.Hosts, h); h.Result.Phase != probe.Connecting || len(p.Hosts) >= maxHosts {
				return ctx.Err()
			}
		}
	}
	return ctx.Err()
}

func (a *app) askHost(ctx context.Context, snap cf.Snapshot, id string, p *policyTested, host, address string) askedHost {
	t := &transcript{}
	e := probe.Endpoint{Address: address, Mode: probe.STARTTLS, Transcript: t, OpenSSL: opensslPath(), ServerName: snap.Effective(id, "smtp_tls_servername")}
	if snap.Effective(id, "smtp_tls_wrappermode") == "yes" {
		e.Mode = probe.Implicit
	}
	if pol, err := lookup.ParsePolicy(p.Policy, snap.Version); err == nil {
		e.ServerName = orText(pol.Get("servername"), e.ServerName)
	}
	h := askedHost{Host: host, Address: address, Result: probe.Handshake(ctx, e), InClear: []string{}}
	h.Dialogue = dialogueLines(t.b.String())
	if e.Mode == probe.STARTTLS && h.Result.Phase != probe.Connecting {
		h.InClear = dialogueLines(inClear(ctx, address, snap.Effective("", "myhostname")))
	}
	return h
}

func dialogueLines(text string) []string {
	out := []string{}
	for line := range strings.Lines(text) {
		out = append(out, strings.TrimRight(line, "\r\n"))
	}
	return out
}

// inClear is the dialogue as it goes without TLS, up to where a mail would begin.
func inClear(ctx context.Context, address, name string) string {
	var out strings.Builder
	d := net.Dialer{Timeout: probe.DefaultTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probe.DefaultTimeout)); err != nil {
		return ""
	}
	in := bufio.NewReader(io.LimitReader(conn, 64<<10))
	for _, command := range []string{"", "EHLO " + name, "QUIT"} {
		if command != "" {
			fmt.Fprintf(&out, "> %s\n", command)
			if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
				break
			}
		}
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				fmt.Fprintf(&out, "< %s\n", strings.TrimRight(line, "\r\n"))
			}
			if err != nil {
				return out.String()
			}
			if len(line) < 4 || line[3] != '-' {
				break
			}
		}
	}
	return out.String()
}

// showTested prints what was found. The answer is no if mail would be deferred.
func (a *app) showTested(p *policyTested, res *result) error {
	for _, h := range p.Hosts {
		a.text.printf("\n  %s %s: %s\n", a.text.paint(bold, h.Host), h.Address, hostWords(h))
		for _, part := range []struct {
			head  string
			lines []string
		}{{"with TLS", h.Dialogue}, {"without", h.InClear}} {
			if len(part.lines) > 0 {
				a.text.printf("    %s\n", a.text.paint(faint, part.head))
			}
			for _, line := range part.lines {
				a.text.printf("      %s\n", line)
			}
		}
	}
	a.text.printf("\n")
	tb := &table{head: []string{"level", "", "mail would now be"}}
	colours := map[string]string{"encrypted": green, "in_clear": yellow, "deferred": red}
	now := levelDoes{}
	for _, l := range p.Levels {
		mark := ""
		if l.InForce {
			mark, now = "in force", l
		}
		tb.add(colours[l.Outcome], l.Level, mark, l.Words)
	}
	a.text.table(tb)
	if now.Outcome == "deferred" || len(res.problems.Errors()) > 0 {
		res.headline = fmt.Sprintf("no: mail for %s would stay in the queue now: %s", p.Domain, orText(now.Words, "client TLS configuration problem"))
		return errNo
	}
	res.headline = fmt.Sprintf("yes: mail for %s would be %s", p.Domain, now.Words)
	return nil
}

func hostWords(h askedHost) string {
	if h.Result.Reason == probe.OK {
		return protocolName(h.Result) + ", " + serves(h.Result)
	}
	return orText(h.Result.Detail, string(h.Result.Reason))
}

// anchorFiles reads the certificates that a service can verify with, those of the
// directory too; a policy's tafile takes their place.
func anchorFiles(snap cf.Snapshot, id, tafile string) []string {
	if tafile != "" {
		return []string{tafile}
	}
	var out []string
	svc, _ := snap.Service(id)
	if f := snap.Effective(id, "smtp_tls_CAfile"); f != "" {
		out = append(out, snap.ResolvePath(f))
	}
	dirs := []string{snap.Effective(id, "smtp_tls_CApath")}
	if snap.Effective(id, "tls_append_default_CA") == "yes" {
		dirs = append(dirs, openSSLCerts)
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if dir = snap.ResolvePath(dir); chrooted(snap, svc) {
			dir = snap.Effective("", "queue_directory") + dir
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if hashName.MatchString(e.Name()) {
				out = append(out, dir+"/"+e.Name())
			}
		}
	}
	return slices.Compact(out)
}
