package acme

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// Preflight says what would make an order fail, and for which name, without
// making one: the specification itself, the CA not reachable, the clock, the
// account and its terms, the profile, ports, directories and credentials of the
// challenge, names that lead elsewhere. What does not stop an order is a warning.
func (m *Manager) Preflight(ctx context.Context, spec Spec) problem.List {
	spec, err := spec.Normal()
	if err != nil {
		return problem.From(err)
	}
	// What is written wrong is told before anybody is asked.
	solver, err := m.newSolver(spec)
	if err != nil {
		return problem.From(failure(err))
	}
	found := append(m.preflightStore(), m.preflightCA(ctx, spec)...)
	var problems *Error
	if errors.As(failure(solver.Check(ctx, spec.Identifiers)), &problems) {
		found = append(found, problems.Problems...)
	}
	if spec.Challenge.Type != DNS01 {
		found = append(found, m.preflightNames(ctx, spec)...)
	}
	return found
}

// checkEvery is how often Check looks.
const checkEvery = day

// Check is Preflight once a day for a certificate that is not to be renewed yet, and
// returns what would stop its renewal. CAs use a validation again for days at most,
// so what has changed since the last order (a firewall, a web server on the port,
// a DNS credential that was withdrawn) comes to light at the renewal otherwise. A CA
// that can't be reached at the moment is nothing to tell so early.
func (m *Manager) Check(ctx context.Context, spec Spec) (problem.List, error) {
	spec, err := spec.Normal()
	if err != nil {
		return nil, failure(err)
	}
	var found problem.List
	err = m.lockCert(ctx, spec.Name, func() error {
		st, err := m.stateOf(spec, m.now())
		t := st.at(m.now())
		age := t.Sub(st.Checked)
		if err != nil || st.Current == nil || st.Pending != nil || st.Failures > 0 || !st.Checked.IsZero() && age >= 0 && age < checkEvery {
			return err
		}
		all := m.Preflight(ctx, spec)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		found = slices.DeleteFunc(all.Errors(), func(p problem.Problem) bool { return p.ID == "ca_unreachable" })
		st.Checked = t
		return m.Store.writeState(spec.Name, st)
	})
	return found, failure(err)
}

// preflightCA asks the CA for its directory and compares.
func (m *Manager) preflightCA(ctx context.Context, spec Spec) problem.List {
	var found problem.List
	var failed *Error
	a, err := m.Store.account(spec.Directory, spec.Account)
	if errors.As(failure(err), &failed) {
		found = append(found, failed.Problems...)
	} else if a.state == nil {
		found = append(found, noAccount(spec.Directory, spec.Account)...)
	}
	c, err := m.connect(spec.Directory, spec.Roots)
	var dir legoclient.Directory
	if err == nil {
		dir, err = c.Directory(ctx)
	}
	if errors.As(failure(err), &failed) && err != nil {
		return append(found, failed.Problems...)
	}
	if dir.Skew.Abs() > warnSkew {
		found = append(found, problem.Warn("clock_off", problem.At{}, "the clock of this host differs from the CA's by %s", dir.Skew))
	}
	switch {
	case dir.Terms == "" || a.state == nil || a.state.Terms == dir.Terms:
	case a.state.Terms == "":
		found = append(found, problem.Warn("terms_not_agreed", problem.At{}, "no consent to the terms of service of the CA is noted: %s", dir.Terms))
	default:
		found = append(found, problem.Warn("terms_changed", problem.At{}, "the CA has new terms of service, %s; those agreed to are %s", dir.Terms, a.state.Terms))
	}
	if p := profileProblem(spec, dir); p != nil {
		found = append(found, *p)
	}
	return found
}

// preflightNames looks where the names lead. A host behind NAT or a proxy has
// none of the addresses that its names have, so that is a warning; a name without
// any address can't be validated.
func (m *Manager) preflightNames(ctx context.Context, spec Spec) problem.List {
	local, err := m.localAddresses()
	if err != nil {
		return nil // nothing to compare with
	}
	var found problem.List
	for _, name := range spec.Identifiers {
		addresses, err := m.resolve(ctx, name)
		var none *net.DNSError
		switch {
		case ctx.Err() != nil:
			return found
		case errors.As(err, &none) && none.IsNotFound, err == nil && len(addresses) == 0:
			found = append(found, problem.New("domain_no_address", problem.At{}, "%s has no address, so the CA can't reach it for %s", name, spec.Challenge.Type))
		case err != nil:
			found = append(found, problem.Warn("domain_unresolved", problem.At{}, "the addresses of %s could not be looked up: %v", name, err))
		default:
			// Debian leads the host's own name to 127.0.1.1: what others find is not known then.
			here := func(a netip.Addr) bool { return a.Unmap().IsLoopback() || slices.Contains(local, a.Unmap()) }
			elsewhere := slices.DeleteFunc(addresses, here)
			if len(elsewhere) > 0 {
				found = append(found, problem.Warn("domain_elsewhere", problem.At{}, "%s leads to %s, which this host does not have; unless a proxy or NAT forwards it, the CA will ask another host", name, addressWords(elsewhere)))
			}
		}
	}
	return found
}

func addressWords(all []netip.Addr) string {
	var out []string
	for _, a := range all {
		out = append(out, a.Unmap().String())
	}
	return strings.Join(out, ", ")
}

func (m *Manager) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if m.Addresses != nil {
		return m.Addresses(ctx, name)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
}

func (m *Manager) localAddresses() ([]netip.Addr, error) {
	if m.Local != nil {
		return m.Local()
	}
	all, err := net.InterfaceAddrs()
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, err
}
