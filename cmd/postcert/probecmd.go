package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"postcert/deploy"
	"postcert/verify"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

func (a *app) probeCommand() *cobra.Command {
	var f struct {
		sni, keyType, mx string
		proxy            bool
	}
	cmd := &cobra.Command{
		Use:     "probe [HOST:PORT | smtp://HOST | smtps://HOST | imap://HOST | imaps://HOST]...",
		Short:   "show which certificate is served, by a handshake with each listener",
		Long:    probeHelp,
		Example: probeExample,
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			if f.keyType != "" && f.keyType != "rsa" && f.keyType != "ecdsa" {
				return usagef("--key-type %q: use rsa or ecdsa", f.keyType)
			}
			tune := func(e *probe.Endpoint) {
				e.ServerName, e.KeyType = orText(f.sni, e.ServerName), f.keyType
				e.ProxyProtocol = e.ProxyProtocol || f.proxy
				e.OpenSSL = opensslPath()
			}
			if f.mx != "" {
				if len(args) > 0 {
					return usagef("--mx asks the MX hosts of a domain; leave %q out", args[0])
				}
				return a.probeMX(ctx, f.mx, tune, res)
			}
			list, err := a.endpoints(ctx, args, res)
			if err != nil {
				return err
			}
			for i := range list {
				tune(&list[i])
			}
			return a.probe(ctx, list, res)
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.sni, "sni", "", "server `NAME` to ask for")
	fs.StringVar(&f.keyType, "key-type", "", "ask for a certificate of this `TYPE`: rsa or ecdsa")
	fs.BoolVar(&f.proxy, "proxy-protocol", false, "send a PROXY protocol v2 LOCAL header first")
	fs.StringVar(&f.mx, "mx", "", "ask every MX host of this `DOMAIN` on port 25")
	return cmd
}

// endpoints are the given ones, or every listener of the instance.
func (a *app) endpoints(ctx context.Context, args []string, res *result) ([]probe.Endpoint, error) {
	if len(args) == 0 {
		return a.listenerEndpoints(ctx, res)
	}
	var out []probe.Endpoint
	for _, arg := range args {
		e, err := parseEndpoint(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// schemes are the URL schemes that probe takes, with their usual port.
var schemes = map[string]struct {
	port     string
	mode     probe.Mode
	protocol probe.Protocol
}{
	"smtp":        {"25", probe.STARTTLS, probe.SMTP},
	"submission":  {"587", probe.STARTTLS, probe.SMTP},
	"smtps":       {"465", probe.Implicit, probe.SMTP},
	"submissions": {"465", probe.Implicit, probe.SMTP},
	"imap":        {"143", probe.STARTTLS, probe.IMAP},
	"imaps":       {"993", probe.Implicit, probe.IMAP},
}

// parseEndpoint reads "host:port" or a URL. A bare port 465 means implicit
// TLS (RFC 8314); every other one STARTTLS.
func parseEndpoint(arg string) (probe.Endpoint, error) {
	if strings.Contains(arg, "://") {
		u, err := url.Parse(arg)
		if err != nil {
			return probe.Endpoint{}, usagef("%q is no URL: %v", arg, err)
		}
		s, ok := schemes[u.Scheme]
		if !ok || u.Hostname() == "" || (u.Path != "" && u.Path != "/") {
			return probe.Endpoint{}, usagef("%q: use smtp://, smtps://, imap:// or imaps:// and a host", arg)
		}
		address := net.JoinHostPort(u.Hostname(), orText(u.Port(), s.port))
		if _, _, err := net.SplitHostPort(address); err != nil { // net/url lets a lone bracket pass
			return probe.Endpoint{}, usagef("%q: %q is no host", arg, u.Hostname())
		}
		return probe.Endpoint{Address: address, Mode: s.mode, Protocol: s.protocol, ServerName: dnsName(u.Hostname())}, nil
	}
	host, port, err := net.SplitHostPort(arg)
	if err != nil || port == "" {
		return probe.Endpoint{}, usagef("%q is neither HOST:PORT nor a URL", arg)
	}
	e := probe.Endpoint{Address: net.JoinHostPort(host, port), Mode: probe.STARTTLS, ServerName: dnsName(host)}
	switch port {
	case "465", "smtps", "submissions":
		e.Mode = probe.Implicit
	case "993", "imaps":
		e.Mode, e.Protocol = probe.Implicit, probe.IMAP
	case "143", "imap":
		e.Protocol = probe.IMAP
	}
	return e, nil
}

// dnsName is host if it can be sent as a server name: RFC 6066 section 3 has
// no addresses in it.
func dnsName(host string) string {
	if net.ParseIP(host) != nil || !strings.Contains(host, ".") {
		return ""
	}
	return host
}

func (a *app) listenerEndpoints(ctx context.Context, res *result) ([]probe.Endpoint, error) {
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return nil, err
	}
	a.blame(res, unread)
	var out []probe.Endpoint
	for _, s := range sites {
		list, err := s.engine.Listeners(ctx)
		if err != nil {
			return nil, err
		}
		for _, x := range list {
			out = append(out, prober{s.settings}.detour(x.Endpoint))
		}
	}
	if len(out) == 0 {
		return nil, refuse("tls_not_enabled", problem.At{}, "no listener of the instance offers TLS")
	}
	return out, nil
}

// probe asks all endpoints and prints what each presents.
func (a *app) probe(ctx context.Context, list []probe.Endpoint, res *result) error {
	results, err := a.ask(ctx, list, probe.Handshake)
	if err != nil {
		return err
	}
	anchors, err := a.probeAnchors()
	if err != nil {
		return err
	}
	return a.showProbes(results, anchors, res)
}

func (a *app) probeAnchors() (verify.Anchors, error) {
	return verify.LoadAnchors(append(append([]string{}, a.conf.Trust...), a.flags.trust...))
}

// ask asks all endpoints side by side by one, with -v prints the dialogues, and returns
// the answers in the same order.
func (a *app) ask(ctx context.Context, list []probe.Endpoint, one func(context.Context, probe.Endpoint) probe.Result) ([]probe.Result, error) {
	var transcripts []*transcript
	results := make([]probe.Result, len(list))
	var wg sync.WaitGroup
	for i := range list {
		if a.flags.verbose > 0 {
			t := &transcript{address: list[i].Address}
			list[i].Transcript = t
			transcripts = append(transcripts, t)
		}
		wg.Go(func() { results[i] = one(ctx, list[i]) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, t := range transcripts {
		a.text.printf("%s\n%s", a.text.paint(bold, t.address), t.indented())
	}
	return results, nil
}

func (a *app) showProbes(results []probe.Result, anchors verify.Anchors, res *result) error {
	tb := &table{head: []string{"address", "sni", "protocol", "serves", "valid", "verdict"}}
	out := make([]probedJSON, 0, len(results))
	bad := 0
	for _, r := range results {
		words, colour, ok := probeWords(r, anchors)
		if !ok {
			bad++
		}
		tb.add(colour, r.Endpoint.Address, r.Endpoint.ServerName, protocolName(r), subjectOf(r), validity(r), words)
		out = append(out, probedJSON{Result: r, OK: ok, Words: words})
	}
	a.text.table(tb)
	res.add("listeners", out)
	if bad > 0 {
		res.headline = fmt.Sprintf("%d of %d would not satisfy a client that checks.", bad, len(results))
		return errNo
	}
	return nil
}

type probedJSON struct {
	Result probe.Result `json:"result"`
	OK     bool         `json:"ok"`
	Words  string       `json:"words"`
}

// probeWords judges one answer as a client that checks would.
func probeWords(r probe.Result, anchors verify.Anchors) (words, colour string, ok bool) {
	if r.Reason != probe.OK {
		return deploy.Words(r), red, false
	}
	if err := verify.Trusted(r.Chain, anchors, time.Now()); err != nil {
		return err.Error(), yellow, false
	}
	if n := r.Endpoint.ServerName; n != "" && !verify.Covers(r.Chain[0], n) {
		return "does not cover " + n, yellow, false
	}
	return "ok", green, true
}

func validity(r probe.Result) string {
	if len(r.Chain) == 0 {
		return ""
	}
	return lifetime(r.Chain[0].NotBefore, r.Chain[0].NotAfter, time.Now())
}

func subjectOf(r probe.Result) string {
	if len(r.Chain) == 0 {
		return "-"
	}
	return deploy.LeafWords(r.Chain[0])
}

// transcript collects one dialogue.
type transcript struct {
	address string
	b       strings.Builder
}

func (t *transcript) Write(p []byte) (int, error) { return t.b.Write(p) }

func (t *transcript) indented() string {
	var out strings.Builder
	for line := range strings.Lines(t.b.String()) {
		out.WriteString("    " + strings.TrimRight(line, "\r\n") + "\n")
	}
	return out.String()
}
