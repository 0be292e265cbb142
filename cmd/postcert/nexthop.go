package main

import (
	"context"
	"fmt"
	"strings"

	"postcert/deploy/postfix/cf"
)

// route is where Postfix sends mail for a domain.
type route struct {
	Transport string `json:"transport"` // service in master.cf
	NextHop   string `json:"next_hop"`  // as it is written: the key of the policy maps
	Because   string `json:"because"`
}

// routeOf follows what trivial-rewrite(8) does with a recipient of a domain that is
// not this host's own: default_transport or relay_transport, relayhost, then
// transport_maps, which override both (transport(5)). Entries for single
// recipients and sender-dependent relayhosts are not looked at.
func (a *app) routeOf(ctx context.Context, s *site, snap cf.Snapshot, domain string) (route, error) {
	r := route{NextHop: domain, Because: "it is the recipient's domain"}
	name := "default_transport"
	if found, err := a.domainIn(ctx, s, snap, "relay_domains", domain); err != nil {
		return r, err
	} else if found {
		name = "relay_transport"
	}
	hop := ""
	r.Transport, hop, _ = strings.Cut(snap.Effective("", name), ":")
	if relay := snap.Effective("", "relayhost"); relay != "" {
		r.NextHop, r.Because = relay, "relayhost names it"
	}
	if hop != "" {
		r.NextHop, r.Because = hop, name+" names it"
	}
	for _, key := range append(parents(domain), "*") {
		for _, m := range mapsOf(snap.Effective("", "transport_maps")) {
			value, found, err := s.instance.Lookup(ctx, m.name(), key)
			if err != nil {
				return r, fmt.Errorf("asking %s for %s: %w", m.name(), key, err)
			}
			if !found {
				continue
			}
			transport, hop, _ := strings.Cut(value, ":")
			if transport != "" {
				r.Transport, r.NextHop, r.Because = transport, domain, "it is the recipient's domain; transport_maps choose "+transport
			}
			if hop != "" {
				r.NextHop, r.Because = hop, fmt.Sprintf("%s has it for %s", m.name(), key)
			}
			return r, nil
		}
	}
	return r, nil
}

// parents are the keys under which transport(5) looks a domain up, after it itself.
func parents(domain string) []string {
	out := []string{domain}
	for rest := domain; ; {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			return out
		}
		out, rest = append(out, "."+parent), parent
	}
}

// domainIn tells whether a list of domains and maps has a domain, or a parent of it.
func (a *app) domainIn(ctx context.Context, s *site, snap cf.Snapshot, parameter, domain string) (bool, error) {
	for _, m := range mapsOf(snap.Effective("", parameter)) {
		if m.path == "" {
			if strings.EqualFold(m.kind, domain) || strings.HasSuffix(strings.ToLower(domain), "."+strings.ToLower(m.kind)) {
				return true, nil
			}
			continue
		}
		if _, found, err := s.instance.Lookup(ctx, m.name(), domain); err != nil || found {
			return found, err
		}
	}
	return false, nil
}
