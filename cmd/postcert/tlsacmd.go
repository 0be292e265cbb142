package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postcert/verify/probe"
	"postcert/verify/problem"
)

const tlsaHelp = `tlsa compares the keys that are served on port 25 with the TLSA records that DNS has
(DANE, RFC 7672). Servers that send to this host and heed DANE deliver only if a
record matches; a record that is left over from an old key stops their mail.

For each host name it shows the records that are wanted, in the form 3 1 1, which
stays true for every certificate of the key: of what each listener on port 25 serves
under that name, of a certificate that was issued and is not installed yet, and of
the next key, which the key policy "staged" prepares. Then what is published, and
whether the resolver says that it has validated the answer (the AD bit): senders use
no other. NAME is a certificate that postcert keeps, or a host name; without it, the
host is $myhostname and each name of the certificates that are served.

The exit status is 8 if records are published for a host and none matches what is
served, or the next key's is missing among them; and if DNS or a listener does not
answer, so that it is not known. No records at all is no fault.

To change a key: publish the next key's record beside the present one; wait until
its TTL is over; then postcert renew --force --allow-key-change NAME.

EXIT STATUS
` + statusTable

const tlsaExample = `  postcert tlsa
  postcert tlsa mail.example.com --json`

func (a *app) tlsaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tlsa [NAME]", Short: "compare TLSA records with the keys that are served", Long: tlsaHelp, Example: tlsaExample, Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error { return a.tlsa(ctx, args, res) }),
	}
}

// maxTLSAHosts bounds how many names are looked at; the others can be named.
const maxTLSAHosts = 50

// tlsaHost is what there is to say about one name.
type tlsaHost struct {
	Host      string          `json:"host"`
	Name      string          `json:"name"` // _25._tcp.HOST
	Wanted    []wantedTLSA    `json:"wanted"`
	Published []publishedTLSA `json:"published"`
	Validated bool            `json:"validated"` // the AD bit of the answer
	Error     string          `json:"error"`     // why the records are not known, ""
	OK        bool            `json:"ok"`
	Words     string          `json:"words"`

	served []servedKey
}

// wantedTLSA is a record that should be there once there are any.
type wantedTLSA struct {
	Record    string   `json:"record"`    // 3 1 1 HEX
	Of        string   `json:"of"`        // served, issued or next
	Listeners []string `json:"listeners"` // that serve the key
	Published bool     `json:"published"` // there is one that matches
}

// publishedTLSA is a record that is there.
type publishedTLSA struct {
	Record string `json:"record"` // usage, selector, matching type, HEX
	Usable bool   `json:"usable"` // to mail: usage 2 or 3
	Of     string `json:"of"`     // what it matches: served, issued, next; "" nothing that is known
}

// servedKey is a chain that a listener presents.
type servedKey struct {
	listener string
	chain    []*x509.Certificate
}

func (a *app) tlsa(ctx context.Context, args []string, res *result) error {
	at25, names, err := a.port25(ctx, res)
	if err != nil {
		return err
	}
	if len(at25) == 0 {
		return refuse("tlsa_no_listener", problem.At{}, "no listener on port 25 offers TLS, so there is no key that a TLSA record could name")
	}
	wishes, coming, err := a.comingKeys()
	if err != nil {
		return err
	}
	hosts, err := a.tlsaHosts(ctx, args, wishes, at25, names, res)
	if err != nil {
		return err
	}
	server, err := validates(ctx)
	if server == "" {
		return fmt.Errorf("there is no resolver to ask for TLSA records: %w", err)
	}
	out := []*tlsaHost{}
	for _, host := range hosts {
		h, err := a.tlsaOfHost(ctx, server, host, at25, coming)
		if err != nil {
			return err
		}
		out = append(out, h)
		h.judge(res)
		a.sayTLSA(h)
	}
	res.add("resolver", server)
	res.add("hosts", out)
	return a.tlsaAnswer(out, res)
}

// port25 are the listeners on port 25 of the instances, and what these are called.
func (a *app) port25(ctx context.Context, res *result) (list []probe.Endpoint, names []string, err error) {
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.blame(res, unread)
	for _, s := range sites {
		snap, err := s.engine.MTA.Snapshot(ctx)
		if err != nil {
			return nil, nil, err
		}
		names = append(names, snap.Effective("", "myhostname"))
		for _, l := range snap.Listeners(s.engine.Host) {
			if !l.TLS || l.Reason != "" || l.Pass {
				continue
			}
			for _, addr := range l.Addresses {
				if _, port, err := net.SplitHostPort(addr); err == nil && port == "25" {
					list = append(list, prober{s.settings}.detour(probe.Endpoint{Network: l.Network, Address: addr, ProxyProtocol: l.Proxy}))
				}
			}
		}
	}
	return list, names, nil
}

// comingKey is a key that is to be served.
type comingKey struct {
	of, spki string
	names    []string // of its certificate
}

// comingKeys are those of certificates that were issued, and of next keys, by the
// certificates that postcert keeps.
func (a *app) comingKeys() ([]wish, []comingKey, error) {
	wishes, err := a.wishes(nil)
	if err != nil {
		return nil, nil, err
	}
	m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	var out []comingKey
	for _, w := range wishes {
		if w.spec.Name == "" { // of another ACME client, which keeps its keys itself
			continue
		}
		st, err := m.StateOf(w.spec)
		if err != nil {
			return nil, nil, err
		}
		if st.Current != nil {
			out = append(out, comingKey{"issued", st.Current.SPKI, st.Current.Identifiers})
		}
		if st.NextSPKI != "" {
			out = append(out, comingKey{"next", st.NextSPKI, w.spec.Identifiers})
		}
	}
	return wishes, out, nil
}

// tlsaHosts are the names to look at.
func (a *app) tlsaHosts(ctx context.Context, args []string, wishes []wish, at25 []probe.Endpoint, names []string, res *result) ([]string, error) {
	if len(args) > 0 {
		if i := slices.IndexFunc(wishes, func(w wish) bool { return w.name == args[0] && len(w.spec.Identifiers) > 0 }); i >= 0 {
			names = wishes[i].spec.Identifiers
		} else if names = args; dnsName(strings.TrimSuffix(args[0], ".")) == "" {
			return nil, usagef("%q is neither a certificate that postcert keeps nor a host name", args[0])
		}
	} else {
		results, err := a.ask(ctx, at25, probe.Handshake)
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			if len(r.Chain) > 0 {
				names = append(names, r.Chain[0].DNSNames...)
			}
		}
	}
	var out []string
	for _, n := range names {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if !strings.HasPrefix(n, "*") && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	if len(out) > maxTLSAHosts {
		res.problem(problem.Warn("tlsa_many_names", problem.At{}, "%d names are served; the first %d were looked at", len(out), maxTLSAHosts))
		out = out[:maxTLSAHosts]
	}
	return out, nil
}

// tlsaOfHost asks the listeners what they serve under a name, and DNS.
func (a *app) tlsaOfHost(ctx context.Context, server, host string, at25 []probe.Endpoint, coming []comingKey) (*tlsaHost, error) {
	h := &tlsaHost{Host: host, Name: "_25._tcp." + host, Wanted: []wantedTLSA{}, Published: []publishedTLSA{}}
	var list []probe.Endpoint
	for _, e := range at25 {
		e.ServerName = host // RFC 7672 section 8.1: senders that heed DANE send it
		for _, e.KeyType = range []string{"", probe.RSA, probe.ECDSA} {
			list = append(list, e)
		}
	}
	results, err := a.ask(ctx, list, probe.Handshake)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if len(r.Chain) > 0 {
			h.want("served", spki(r.Chain[0]), r.Endpoint.Address)
			h.served = append(h.served, servedKey{r.Endpoint.Address, r.Chain})
		}
	}
	for _, k := range coming {
		if slices.ContainsFunc(k.names, func(n string) bool { return standsFor(n, host) }) {
			h.want(k.of, k.spki, "")
		}
	}
	records, validated, err := tlsaOf(ctx, server, "25", host)
	if err != nil {
		h.Error = err.Error()
		return h, ctx.Err()
	}
	h.Validated = validated
	h.compare(records)
	return h, nil
}

// spki is the digest of a TLSA record 3 1 1 (RFC 6698 section 2.1).
func spki(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// standsFor tells whether a name of a certificate is a host, or the wildcard for it.
func standsFor(name, host string) bool {
	_, above, _ := strings.Cut(host, ".")
	return name == host || name == "*."+above
}

func (h *tlsaHost) want(of, digest, listener string) {
	record := "3 1 1 " + digest
	i := slices.IndexFunc(h.Wanted, func(w wantedTLSA) bool { return w.Record == record })
	if i < 0 {
		i = len(h.Wanted)
		h.Wanted = append(h.Wanted, wantedTLSA{Record: record, Of: of, Listeners: []string{}})
	}
	if w := &h.Wanted[i]; listener != "" && !slices.Contains(w.Listeners, listener) {
		w.Listeners = append(w.Listeners, listener)
	}
}

// compare holds the published records against what is served and what is to come.
// Of a key that is to come nothing is known but its digest.
func (h *tlsaHost) compare(records []tlsa) {
	for _, r := range records {
		p := publishedTLSA{Record: fmt.Sprintf("%d %d %d %x", r.usage, r.selector, r.matching, r.data), Usable: r.usable()}
		for _, s := range h.served {
			if r.matched(s.chain) != nil {
				p.Of = "served"
				h.mark("3 1 1 " + spki(s.chain[0]))
			}
		}
		if h.mark(p.Record) && p.Of == "" {
			i := slices.IndexFunc(h.Wanted, func(w wantedTLSA) bool { return w.Record == p.Record })
			p.Of = h.Wanted[i].Of
		}
		h.Published = append(h.Published, p)
	}
}

// mark notes that a wanted record is published, as it is or as one that comes to the
// same; false if it is not wanted.
func (h *tlsaHost) mark(record string) bool {
	i := slices.IndexFunc(h.Wanted, func(w wantedTLSA) bool { return w.Record == record })
	if i >= 0 {
		h.Wanted[i].Published = true
	}
	return i >= 0
}

// judge decides whether mail of senders that heed DANE arrives now, and will after
// the next change.
func (h *tlsaHost) judge(res *result) {
	at := problem.At{SNI: h.Host}
	fault := func(id, format string, args ...any) { res.problem(problem.New(id, at, format, args...)) }
	warn := func(id, format string, args ...any) { res.problem(problem.Warn(id, at, format, args...)) }
	usable, byIssuer := false, false
	for _, p := range h.Published {
		usable = usable || p.Usable
		byIssuer = byIssuer || p.Of == "served" && strings.HasPrefix(p.Record, "2 ")
		if p.Of == "served" && strings.HasPrefix(p.Record, "3 0 ") {
			warn("tlsa_fragile", "%s has %s, which names the certificate and not its key: it is wrong after each renewal", h.Name, p.Record)
		}
	}
	var missing, coming []string
	for _, w := range h.Wanted {
		if !w.Published && w.Of == "served" {
			missing = append(missing, h.line(w.Record))
		} else if !w.Published && !byIssuer {
			coming = append(coming, h.line(w.Record))
		}
	}
	switch {
	case h.Error != "":
		h.Words = "not known: " + h.Error
		fault("tlsa_unknown", "the TLSA records of %s are not known: %s", h.Name, h.Error)
	case len(h.Published) == 0:
		h.OK, h.Words = true, "no TLSA record: senders deliver without DANE"
	case len(h.served) == 0:
		h.Words = "not known: no listener on port 25 answers"
		fault("tlsa_unknown", "TLSA records of %s are published, and no listener on port 25 shows a key", h.Name)
	case !usable:
		h.OK, h.Words = true, "none of the records is of a kind that mail uses (usage 2 or 3): senders deliver without DANE"
		warn("tlsa_unusable", "%s: %s", h.Name, h.Words)
	case len(missing) > 0:
		h.Words = "a key that is served matches none of the published records: senders that heed DANE hold their mail back"
		fault("tlsa_mismatch", "%s: %s. Wanted: %s", h.Name, h.Words, strings.Join(missing, "; "))
	case len(coming) > 0:
		h.Words = "what is served matches; the key that comes next is not published"
		fault("tlsa_next_missing", "%s: %s. Wanted: %s", h.Name, h.Words, strings.Join(coming, "; "))
	default:
		h.OK, h.Words = true, "what is served matches"
	}
	if h.Error == "" && len(h.Published) > 0 && !h.Validated {
		h.Words += "; the resolver has not validated the answer, and senders use only what is signed with DNSSEC"
	}
}

// line is a record as a zone file has it.
func (h *tlsaHost) line(record string) string { return h.Name + ". IN TLSA " + record }

func (a *app) sayTLSA(h *tlsaHost) {
	colour := green
	if !h.OK {
		colour = red
	}
	a.text.printf("\n  %s: %s\n", a.text.paint(bold, h.Host), a.text.paint(colour, h.Words))
	for _, w := range h.Wanted {
		of := map[string]string{
			"served": "served on " + strings.Join(w.Listeners, ", "), "issued": "of the certificate that was issued, and is not served", "next": "of the next key",
		}[w.Of]
		a.text.printf("    wanted     %s\n               %s\n", h.line(w.Record), of)
	}
	for _, p := range h.Published {
		of := map[string]string{
			"served": "what is served", "issued": "the certificate that was issued, and is not served", "next": "the next key",
			"": "nothing that is known here; if it is of no backup key, take it away",
		}[p.Of]
		a.text.printf("    published  %s\n               matches %s\n", p.Record, of)
	}
}

func (a *app) tlsaAnswer(all []*tlsaHost, res *result) error {
	bad, published := 0, 0
	for _, h := range all {
		if !h.OK {
			bad++
		}
		if len(h.Published) > 0 {
			published++
		}
	}
	a.text.printf("\n")
	switch {
	case bad > 0:
		res.headline = fmt.Sprintf("no: %d of %d names are not as they should be.", bad, len(all))
		return errNo
	case published == 0:
		res.headline = "yes: no TLSA record is published, so none is wrong."
	default:
		res.headline = fmt.Sprintf("yes: the TLSA records of %d of %d names match; the others have none.", published, len(all))
	}
	return nil
}
