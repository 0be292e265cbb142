package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/audit"
	"postcert/verify/probe"
)

// client is what one kind of client can do, as openssl(1) plays it.
type client struct {
	name     string
	protocol string   // in the words of smtpd_tls_protocols
	option   string   // of openssl s_client, that allows this version alone
	suites   []string // of TLS 1.2 and older
	sigalgs  string   // of TLS 1.3: which key the server has to show
	modern   bool     // no profile may turn it away
}

var (
	cbcSuites = []string{"ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA", "AES128-SHA", "AES256-SHA"}

	clientKinds = []client{
		{name: "TLS 1.3, RSA", protocol: "TLSv1.3", option: "-tls1_3", sigalgs: "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512", modern: true},
		{name: "TLS 1.3, ECDSA", protocol: "TLSv1.3", option: "-tls1_3", sigalgs: "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512", modern: true},
		{name: "TLS 1.2, ECDHE, RSA, GCM", protocol: "TLSv1.2", option: "-tls1_2", suites: []string{"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"}, modern: true},
		{name: "TLS 1.2, ECDHE, ECDSA, GCM", protocol: "TLSv1.2", option: "-tls1_2", suites: []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"}, modern: true},
		{name: "TLS 1.2, ECDHE, RSA, CBC", protocol: "TLSv1.2", option: "-tls1_2", suites: cbcSuites[:2]},
		{name: "TLS 1.2, ECDHE, ECDSA, CBC", protocol: "TLSv1.2", option: "-tls1_2", suites: cbcSuites[2:4]},
		{name: "TLS 1.2, DHE, RSA", protocol: "TLSv1.2", option: "-tls1_2", suites: []string{"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES128-SHA"}},
		{name: "TLS 1.2, RSA key exchange", protocol: "TLSv1.2", option: "-tls1_2", suites: []string{"AES128-GCM-SHA256", "AES128-SHA"}},
		{name: "TLS 1.2, 3DES", protocol: "TLSv1.2", option: "-tls1_2", suites: []string{"ECDHE-RSA-DES-CBC3-SHA", "DES-CBC3-SHA"}},
		{name: "TLS 1.1", protocol: "TLSv1.1", option: "-tls1_1", suites: cbcSuites},
		{name: "TLS 1.0", protocol: "TLSv1", option: "-tls1", suites: cbcSuites},
	}
)

const (
	clientTime     = 10 * time.Second // for one handshake; a banner may take long
	clientParallel = 4
	clientTries    = 4 // of a client that must get through
)

// cell is one kind of client at one listener.
type cell struct {
	service, address string
	implicit, proxy  bool // TLS at once; a header of the PROXY protocol first
	client           client
}

// matrix says which cells complete a handshake.
type matrix map[string]bool

func (c cell) key() string { return c.service + " " + c.client.name }

// cellsOf are all kinds of clients at the listeners with TLS that openssl can reach.
func (p prober) cellsOf(all []cf.Listener) []cell {
	var out []cell
	for _, l := range all {
		if !l.TLS || l.Reason != "" || l.Network != "tcp" || len(l.Addresses) == 0 {
			continue
		}
		e := p.detour(probe.Endpoint{Network: l.Network, Address: l.Addresses[0], ProxyProtocol: l.Proxy})
		for _, c := range clientKinds {
			out = append(out, cell{l.ID(), e.Address, l.Implicit, e.ProxyProtocol, c})
		}
	}
	return out
}

var clientConnected = regexp.MustCompile(`(?m)^(?:New|Reused), \S+, Cipher is [^(\s]`)

// connects lets openssl try. Its words are why it did not get through.
func (c cell) connects(ctx context.Context) (bool, string) {
	to := []string{"-connect", c.address}
	if c.proxy {
		path, end, err := headerFirst(ctx, c.address)
		if err != nil {
			return false, err.Error()
		}
		defer end()
		to = []string{"-unix", path}
	}
	args := append([]string{"s_client", "-noservername", "-no_ticket", c.client.option}, to...)
	if !c.implicit {
		args = append(args, "-starttls", "smtp")
	}
	if c.client.sigalgs != "" {
		args = append(args, "-sigalgs", c.client.sigalgs)
	} else {
		args = append(args, "-cipher", strings.Join(c.client.suites, ":")+":@SECLEVEL=0")
	}
	r, err := program.Run(ctx, program.Command{Path: opensslPath(), Args: args, Env: program.NoAuthorities, Stdin: strings.NewReader("Q\n"), Timeout: clientTime})
	if clientConnected.Match(r.Stdout) {
		return true, ""
	}
	if err == nil {
		err = errors.New("no handshake")
	}
	words := err.Error()
	if i := strings.Index(string(r.Stderr), "SSL routines:"); i >= 0 {
		words, _, _ = strings.Cut(string(r.Stderr[i+len("SSL routines:"):]), "\n")
	}
	return false, shorten(words, 120)
}

// ask fills the matrix; words are why the others did not connect.
func askMatrix(ctx context.Context, cells []cell) (m matrix, words map[string]string) {
	m, words = matrix{}, map[string]string{}
	var mutex sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, clientParallel)
	for _, c := range cells {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ok, why := c.connects(ctx)
			mutex.Lock()
			defer mutex.Unlock()
			m[c.key()], words[c.key()] = ok, why
		})
	}
	wg.Wait()
	return m, words
}

// allowance is what a configuration allows the clients of one service.
type allowance struct{ protocols, suites []string }

// allowances are those of the services with TLS, as far as lists of protocols and
// ciphers tell. The suites are openssl's reading of Postfix's lists (TLS_README).
func allowances(ctx context.Context, s cf.Snapshot, all []cf.Listener) (map[string]allowance, error) {
	out := map[string]allowance{}
	read := map[string][]string{}
	for _, l := range all {
		if !l.TLS {
			continue
		}
		protocols, list := listsOf(s, l)
		if _, ok := read[list]; !ok {
			r, err := program.Run(ctx, program.Command{Path: opensslPath(), Args: []string{"ciphers", list}})
			if err != nil && ctx.Err() != nil {
				return nil, err
			}
			read[list] = strings.Split(strings.TrimSpace(string(r.Stdout)), ":") // of a list that leaves nothing: none
		}
		out[l.ID()] = allowance{audit.Protocols(protocols, s.Version), read[list]}
	}
	return out, nil
}

// listsOf are the list of protocols of a service, and that of its ciphers as Postfix
// gives it to OpenSSL: the grade's list, without what is excluded.
func listsOf(s cf.Snapshot, l cf.Listener) (protocols, ciphers string) {
	id, prefix := l.ID(), "smtpd_tls_"
	if i := slices.IndexFunc(s.Services, func(v cf.Service) bool { return v.Command == "tlsproxy" && !s.Disabled(v.ID()) }); l.Postscreen && i >= 0 {
		id, prefix = s.Services[i].ID(), "tlsproxy_tls_" // which speaks TLS for postscreen(8)
	}
	get := func(name string) string { return s.Effective(id, prefix+name) }
	protocols, grade, exclude := get("protocols"), get("ciphers"), get("exclude_ciphers")
	level := strings.ToLower(get("security_level"))
	if l.Implicit || level != "may" && level != "" {
		protocols, grade = get("mandatory_protocols"), get("mandatory_ciphers")
		exclude += " " + get("mandatory_exclude_ciphers")
	}
	list := s.Effective(id, "tls_"+strings.ToLower(grade)+"_cipherlist")
	for _, word := range strings.FieldsFunc(exclude, func(r rune) bool { return strings.ContainsRune(", \t:", r) }) {
		list += ":!" + word
	}
	return protocols, list + ":@SECLEVEL=0"
}

// excludes tells that the configuration means to turn such clients away.
func (a allowance) excludes(c client) bool {
	if !slices.Contains(a.protocols, c.protocol) {
		return true
	}
	return c.suites != nil && !slices.ContainsFunc(c.suites, func(s string) bool { return slices.Contains(a.suites, s) })
}

// demand is what a hardening owes to a cell.
type demand string

const (
	required demand = "required" // it connected before, and is not meant to be turned away
	excluded demand = "excluded" // it connected before, and is meant to be turned away
	optional demand = "optional" // it did not connect before
)

// demandOf decides by what worked before and what the configuration means. What is
// modern cannot be meant to be turned away; at a new service it must work if it does
// at another.
func demandOf(c cell, before matrix, services map[string]allowance) demand {
	worked, there := before[c.key()]
	if !there && c.client.modern {
		for key, ok := range before {
			worked = worked || ok && strings.HasSuffix(key, " "+c.client.name)
		}
	}
	a, known := services[c.service]
	switch {
	case !worked:
		return optional
	case !c.client.modern && known && a.excludes(c.client):
		return excluded
	case !c.client.modern && !there:
		return optional
	}
	return required
}

// lockedOutError says which client that could connect cannot any more.
type lockedOutError struct{ words []string }

func (e *lockedOutError) Error() string {
	out := "a client that must be able to connect cannot: " + e.words[0]
	if n := len(e.words) - 1; n > 0 {
		out += fmt.Sprintf(", and %d more", n)
	}
	return out
}

// proveMatrix asks again until each client that is required gets through, a few
// times at most. Each listener must let a modern one in.
func proveMatrix(ctx context.Context, cells []cell, before matrix, services map[string]allowance) (matrix, error) {
	after, words := askMatrix(ctx, cells)
	for try := 1; ; try++ {
		var failed []cell
		for _, c := range cells {
			if demandOf(c, before, services) == required && !after[c.key()] {
				failed = append(failed, c)
			}
		}
		if len(failed) == 0 {
			return after, reachable(cells, before, after)
		}
		if try == clientTries || ctx.Err() != nil {
			e := &lockedOutError{}
			for _, c := range failed {
				e.words = append(e.words, fmt.Sprintf("%s at %s (%s): %s", c.client.name, c.address, c.service, words[c.key()]))
			}
			return after, e
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		again, why := askMatrix(ctx, failed)
		for key := range again {
			after[key], words[key] = again[key], why[key]
		}
	}
}

// reachable refuses a listener at which no modern client gets through, unless none
// did before.
func reachable(cells []cell, before, after matrix) error {
	good, was, there := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range cells {
		w, asked := before[c.key()]
		good[c.service] = good[c.service] || c.client.modern && after[c.key()]
		was[c.service], there[c.service] = was[c.service] || c.client.modern && w, there[c.service] || asked
	}
	for _, c := range cells {
		if !good[c.service] && (was[c.service] || !there[c.service]) {
			return &lockedOutError{[]string{"neither TLS 1.2 nor TLS 1.3 at " + c.address + " (" + c.service + ")"}}
		}
	}
	return nil
}
