package acme

import (
	"postcert/acme/internal/legoclient"
	"postcert/acme/internal/legoclient/dns"
	"postcert/verify/problem"
)

// newSolver makes what answers the challenges of a specification.
func (m *Manager) newSolver(spec Spec) (legoclient.Solver, error) {
	if m.solver != nil {
		return m.solver(spec)
	}
	c := spec.Challenge
	ch := legoclient.Challenge{
		Type: c.Type, Listen: c.Listen, Webroot: c.Webroot,
		Propagation: c.Propagation, Resolvers: c.Resolvers, DisableCNAME: c.DisableCNAME,
	}
	if c.Type == DNS01 {
		provider, err := m.provider(c)
		if err != nil {
			return legoclient.Solver{}, err
		}
		ch.DNS = provider
	}
	return legoclient.NewSolver(ch)
}

// provider is the DNS provider of a challenge, with its credentials. Neither an
// error nor anything else quotes them.
func (m *Manager) provider(c Challenge) (dns.Provider, error) {
	var values map[string]string
	var err error
	if c.Credentials != "" {
		values, err = dns.ReadCredentials(c.Credentials, c.Provider)
	}
	var p dns.Provider
	if err == nil {
		p, err = dns.New(c.Provider, dns.Options{Credentials: values, Propagation: c.Propagation, Resolvers: c.Resolvers, UserAgent: m.UserAgent})
	}
	switch {
	case err == nil:
		return p, nil
	case dns.Fields(c.Provider) == nil:
		return nil, &Error{Class: ClassLocal, Err: err, Problems: problem.List{problem.New("dns_provider_unknown", problem.At{}, "%v", err)}}
	}
	return nil, &Error{Class: ClassLocal, Err: err, Problems: problem.List{problem.New("dns_credentials", problem.At{File: c.Credentials}, "%v", err)}}
}
