package acme

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"

	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

// RevocationReason is an RFC 5280 section 5.3.1 reason code that CAs accept from
// subscribers (Let's Encrypt: 0, 1, 4 and 5).
type RevocationReason uint

const (
	Unspecified          RevocationReason = 0
	KeyCompromise        RevocationReason = 1
	Superseded           RevocationReason = 4
	CessationOfOperation RevocationReason = 5
)

// Revoke revokes the live certificate (RFC 8555 section 7.6), which stays on
// disk. With reason KeyCompromise its key will not be used again.
func (m *Manager) Revoke(ctx context.Context, spec Spec, reason RevocationReason) error {
	spec, err := spec.Normal()
	if err != nil {
		return failure(err)
	}
	if !slices.Contains([]RevocationReason{Unspecified, KeyCompromise, Superseded, CessationOfOperation}, reason) {
		return failure(problem.List{problem.New("revoke_reason", problem.At{}, "CAs do not accept the reason %d from subscribers", reason)})
	}
	return failure(m.lockCA(ctx, spec.Directory, func() error {
		return m.lockCert(ctx, spec.Name, func() error { return m.revoke(ctx, spec, reason) })
	}))
}

func (m *Manager) revoke(ctx context.Context, spec Spec, reason RevocationReason) error {
	st, err := m.Store.state(spec.Name)
	if err != nil {
		return err
	}
	v := st.Current
	if v == nil {
		return problem.List{problem.New("certificate_missing", problem.At{}, "there is no certificate %q yet", spec.Name)}
	}
	if v.Directory != spec.Directory {
		return problem.List{problem.New("certificate_missing", problem.At{}, "the certificate %q is of the CA %s, not of %s", spec.Name, v.Directory, spec.Directory)}
	}
	leaf, err := m.Store.leaf(v)
	if err != nil {
		return err
	}
	if reason == KeyCompromise {
		// Before the CA hears of it: a run that is killed must not use the key again.
		st.Compromised = v.SPKI
		if err := m.Store.writeState(spec.Name, st); err != nil {
			return err
		}
	}
	c, err := m.connect(spec.Directory, spec.Roots)
	if err != nil {
		return err
	}
	a, err := m.settled(ctx, c, spec.Directory, spec.Account)
	if err != nil {
		return err
	}
	if err := c.Revoke(ctx, a.client(), leaf, uint(reason)); err != nil && caType(err) != "alreadyRevoked" {
		return err
	}
	m.log().Info("certificate revoked", "name", spec.Name, "serial", v.Serial, "reason", uint(reason))
	return nil
}

// leaf reads the certificate of a version.
func (s *Store) leaf(v *Version) (*x509.Certificate, error) {
	path := v.Dir + "/" + FileCert
	data, err := atomicfile.ReadFile(s.fs, path, maxPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, &FileError{Path: path, Err: errors.New("it holds no certificate")}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, &FileError{Path: path, Err: err}
	}
	return leaf, nil
}

// Leaf reads the live certificate of a name; nil if there is none.
func (m *Manager) Leaf(name string) (*x509.Certificate, error) {
	st, err := m.State(name)
	if err != nil || st.Current == nil {
		return nil, err
	}
	leaf, err := m.Store.leaf(st.Current)
	return leaf, failure(err)
}
