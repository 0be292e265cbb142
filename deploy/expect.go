package deploy

import (
	"bytes"
	"context"
	"maps"
	"net"
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/keypair"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// expectations lists the questions of the proof: each listener with TLS,
// without a server name and with each of the names that matter, for each key
// type it will serve.
func (p *Plan) expectations(s cf.Snapshot) []Expectation {
	var out []Expectation
	for _, l := range p.Listeners {
		if !l.TLS || l.Reason != "" {
			continue
		}
		for _, addr := range l.Addresses {
			for _, sni := range p.serverNames() {
				for _, kt := range keyTypes(p.chains(s, l.ID())) {
					out = append(out, p.expectation(l, addr, sni, kt))
				}
			}
		}
	}
	return append(out, p.companionExpectations()...)
}

func (p *Plan) expectation(l cf.Listener, addr, sni, keyType string) Expectation {
	mode := probe.STARTTLS
	if l.Implicit {
		mode = probe.Implicit
	}
	_, there := p.Before.Service(l.ID())
	return Expectation{
		Listener: l,
		Added:    !there,
		Endpoint: probe.Endpoint{Network: l.Network, Address: addr, Mode: mode, ServerName: sni, KeyType: keyType, ProxyProtocol: l.Proxy},
		New:      slices.Contains(p.Scheme.Services, l.ID()),
		Ignore:   ignored(addr, p.Change.IgnoreListeners),
		Sessions: sessionsFor(p.Before, l.ID()),
	}
}

// ignored matches an address by "host:port", ":port", "port" or host.
func ignored(addr string, list []string) bool {
	host, port, _ := net.SplitHostPort(addr)
	for _, i := range list {
		if i == addr || port != "" && (i == port || i == ":"+port || i == host) {
			return true
		}
	}
	return false
}

// serverNames are the names asked for besides none: a client that sends a
// name must be served as well as one that does not.
func (p *Plan) serverNames() []string {
	out := []string{""}
	if !p.Pair.IsZero() {
		for _, n := range p.Pair.Leaf().DNSNames {
			if !strings.HasPrefix(n, "*") {
				out = append(out, n)
				break
			}
		}
	}
	for _, n := range p.Change.SNI {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// keyTypes are the key types to ask a service for: none in particular while it
// serves one, each by itself when it serves two.
func keyTypes(chains map[string][][]byte) []string {
	if len(chains) < 2 {
		return []string{""}
	}
	return slices.Sorted(maps.Keys(chains))
}

// chains maps key type to the chain that a service presents under s: what its
// files hold and, once the pair is decided to be there, the pair in its file.
func (p *Plan) chains(s cf.Snapshot, service string) map[string][][]byte {
	planned := map[string]keypair.Pair{}
	if p.settled {
		for _, f := range p.Files {
			planned[f.Path] = p.Pair
		}
	}
	return onDisk(s, service, planned)
}

// baseline asks every listener once for what it presents before the change.
func (e *Engine) baseline(ctx context.Context, p *Plan) {
	obs := proof{prober: e.Prober}.observeOnce(ctx, p.Former)
	for i := range p.Former {
		p.Former[i].Baseline = obs[i].Result
		if x := p.Former[i]; x.wasBroken() && !x.Ignore && (x.Endpoint.ServerName == "" || x.companion()) {
			p.Problems = append(p.Problems, problem.Warn("broken_before", problem.At{Service: x.Listener.ID(), Endpoint: x.Endpoint.Address},
				"%s on %s served no TLS before this change: %s", x.Listener.ID(), x.Endpoint.Address, Words(x.Baseline)))
		}
	}
}

// settleExpectations fills in which chains each question takes, from the
// candidate: it may serve another set of key types than before.
func (p *Plan) settleExpectations() {
	p.settled = true
	p.Listeners = carryTLS(p.Listeners, p.Candidate, p.host)
	if slices.ContainsFunc(p.Edits, cf.Edit.IsEntry) {
		p.Listeners = p.Candidate.Listeners(p.host)
	}
	p.Expect = p.expectations(p.Candidate)
	for i, x := range p.Expect {
		p.Expect[i].Baseline = p.answered(x)
		p.Expect[i].Accept = p.accept(p.Expect[i])
	}
}

// answered is what the listener presented before to the same question, or, if
// another set of key types was asked then, to the nearest one.
func (p *Plan) answered(x Expectation) probe.Result {
	var near probe.Result
	for _, f := range p.Former {
		a, b := f.Endpoint, x.Endpoint
		switch {
		case a.Address != b.Address || a.ServerName != b.ServerName:
		case a.KeyType == b.KeyType:
			return f.Baseline
		case near.Reason != probe.OK:
			near = f.Baseline
		}
	}
	return near
}

// accept is which chains prove x after the change.
func (p *Plan) accept(x Expectation) [][][]byte {
	kt := x.Endpoint.KeyType
	if x.companion() || x.New && (kt == "" || kt == p.Pair.KeyType()) {
		return [][][]byte{rawChain(p.Pair.Chain())}
	}
	if !slices.Equal(certificateFiles(p.Before, x.Listener.ID()), certificateFiles(p.Candidate, x.Listener.ID())) {
		// Other files than before: what they hold is what must be served.
		x.Baseline.Raw = nil
	}
	return unchangedChains(x, p.chains(p.Candidate, x.Listener.ID()))
}

// unchangedChains are the chains of a question whose answer is not to change:
// what was presented, and what the files hold that a new process would read.
func unchangedChains(x Expectation, held map[string][][]byte) [][][]byte {
	var out [][][]byte
	if len(x.Baseline.Raw) > 0 {
		out = append(out, x.Baseline.Raw)
	}
	for kt, chain := range held {
		if x.Endpoint.KeyType == "" || x.Endpoint.KeyType == kt {
			out = append(out, chain)
		}
	}
	return out
}

// agrees tells that there is nothing to do: the files hold the pair's bytes,
// nothing is to be edited, and every listener proves it.
func (p *Plan) agrees() bool {
	if p.Pair.IsZero() && p.Change.plain() {
		return !p.Configures() && len(p.Change.Files) == 0
	}
	if p.Configures() || p.Pair.IsZero() || len(p.postfixOf(p.Expect)) == 0 {
		return false
	}
	for _, f := range append(p.Copies(), p.Files...) {
		if !holds(f.Path, f.Part.of(p.Pair)) {
			return false
		}
	}
	proven := 0
	for _, x := range p.Expect {
		if x.Ignore {
			continue
		}
		if v, _ := judge(x.Baseline, x.Accept); v != probe.Proven {
			return false
		}
		proven++
	}
	return proven > 0
}

func holds(path string, want []byte) bool {
	have, err := readInstalled(path)
	defer clear(have)
	return err == nil && bytes.Equal(have, want)
}
