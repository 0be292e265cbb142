package verify

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// served compares the leaf with those that are served now.
func served(leaf *x509.Certificate, pol Policy) problem.List {
	var measure []*x509.Certificate
	for _, c := range pol.Served {
		if len(dates(c, problem.At{}, pol.At, true)) == 0 && !selfSigned(c) {
			measure = append(measure, c)
		}
	}
	found := shrunk(leaf, measure, pol)
	// With a second key type served beside it, each is compared with its own
	// kind: the two are renewed on different days.
	own := slices.DeleteFunc(slices.Clone(measure), func(c *x509.Certificate) bool { return c.PublicKeyAlgorithm != leaf.PublicKeyAlgorithm })
	if len(own) > 0 {
		measure = own
	}
	var newest *x509.Certificate
	for _, c := range measure {
		if newest == nil || c.NotBefore.After(newest.NotBefore) {
			newest = c
		}
	}
	if newest != nil && leaf.NotBefore.Before(newest.NotBefore) {
		p := problem.New("downgrade", block(0), "the certificate is older (from %s) than the one that is served (from %s)",
			leaf.NotBefore.UTC().Format(time.RFC3339), newest.NotBefore.UTC().Format(time.RFC3339))
		if pol.AllowDowngrade {
			p.Severity = problem.Warning
		}
		found = append(found, p)
	}
	return found
}

// shrunk reports each name that is served now and would not be any more.
func shrunk(leaf *x509.Certificate, measure []*x509.Certificate, pol Policy) problem.List {
	var now []string
	where := map[string]string{}
	for _, c := range measure {
		names := slices.Clone(c.DNSNames)
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
		for _, name := range names {
			if _, seen := where[name]; !seen {
				where[name] = pol.ServedAt[c]
			}
		}
		now = append(now, names...)
	}
	var found problem.List
	for _, name := range unique(now) {
		if Covers(leaf, name) || contains(pol.Names, name) {
			continue // names reports those of pol.Names
		}
		at, place := block(0), ""
		if at.Endpoint = where[name]; at.Endpoint != "" {
			place = " at " + at.Endpoint
		}
		p := problem.New("names_shrunk", at, "the certificate served now%s is valid for %q, this one is not", place, name)
		if pol.AllowFewerNames || contains(pol.AllowNames, name) {
			p.Severity = problem.Warning
		}
		found = append(found, p)
	}
	return found
}

// staging recognises the test hierarchy of Let's Encrypt, whose authorities are
// called "(STAGING) Artificial Apricot R3" by "(STAGING) Let's Encrypt". To a
// host that was told to trust it, it is a warning.
func staging(chain []*x509.Certificate, anchored bool) problem.List {
	for i, c := range chain {
		for _, n := range append([]string{c.Issuer.CommonName}, c.Issuer.Organization...) {
			if !strings.Contains(n, "(STAGING)") {
				continue
			}
			p := problem.New("issuer_staging", block(i), "%q was issued by a staging authority (%q), which no mail client trusts", keypair.Name(c), n)
			if anchored {
				p.Severity = problem.Warning
			}
			return problem.List{p}
		}
	}
	return nil
}

// revoked looks every certificate up in the revocation lists that its issuer
// signed. An old list still counts: revocations are not taken back.
func revoked(chain, path []*x509.Certificate, pol Policy) problem.List {
	var found problem.List
	issuers := append(slices.Clone(chain), path...)
	for i, c := range chain {
		for _, crl := range pol.CRL {
			if string(crl.RawIssuer) != string(c.RawIssuer) || !slices.ContainsFunc(issuers, func(ca *x509.Certificate) bool {
				return issued(ca, c) && crl.CheckSignatureFrom(ca) == nil
			}) {
				continue
			}
			for _, e := range crl.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					found = append(found, problem.New("revoked", block(i), "%q was revoked by its issuer on %s", keypair.Name(c), e.RevocationTime.UTC().Format(time.RFC3339)))
				}
			}
		}
	}
	return found
}
