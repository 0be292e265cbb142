package verify

import (
	"crypto/x509"
	"errors"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// trusted judges order, completeness and trust of p's chain. The path is nil if
// it reaches no trust anchor.
func trusted(p keypair.Pair, pol Policy) ([]*x509.Certificate, problem.List) {
	chain := p.Chain()
	if selfSigned(chain[0]) {
		return selfSignedLeaf(chain, pol)
	}
	found := order(chain, pol.Anchors)
	if n := len(chain) - 1; n > 0 && selfSigned(chain[n]) && len(found) == 0 {
		found = append(found, problem.Warn("root_included", block(n), "the chain ends in the self-signed root %q, which clients do not need", keypair.Name(chain[n])))
	}
	if len(found.Errors()) > 0 {
		return nil, found
	}
	if pol.Anchors.Count() == 0 {
		return nil, append(found, noAnchors())
	}
	w := walk(chain[0], chain[1:], pol.Anchors, pol.At)
	if !w.anchored() {
		return nil, append(found, untrusted(w.top(), chain, p.DroppedRoot(), pol.Anchors))
	}
	// The whole chain is judged, not just what of it is on the path: a client
	// with other trust anchors goes on where ours stop.
	found = append(found, links(chain)...)
	if len(found.Errors()) == 0 {
		found = append(found, w.judge(pol.At)...)
	}
	path := w.certs
	if len(w.anchors) > 0 {
		path = append(path, w.anchors[0])
	}
	return path, found
}

func selfSignedLeaf(chain []*x509.Certificate, pol Policy) ([]*x509.Certificate, problem.List) {
	var found problem.List
	for i := range chain[1:] {
		found = append(found, unused(chain, i+1))
	}
	switch {
	case pol.Anchors.has(chain[0]):
		return chain[:1], append(found, problem.Warn("self_signed", block(0), "the certificate signed itself; this host trusts it, others need to be told to"))
	case pol.AllowSelfSigned:
		return nil, append(found, problem.Warn("self_signed", block(0), "the certificate signed itself; nobody trusts it who was not told to"))
	}
	return nil, append(found, problem.New("self_signed", block(0), "the certificate signed itself; no authority did"))
}

// order asks that each certificate issued the one before it.
func order(chain []*x509.Certificate, a Anchors) problem.List {
	for i, c := range chain[:len(chain)-1] {
		next := chain[i+1]
		if issued(next, c) {
			continue
		}
		for j := i + 2; j < len(chain); j++ {
			if issued(chain[j], c) {
				return problem.List{problem.New("chain_order", block(i+1), "%q must be followed by its issuer %q, which is certificate %d of the chain", keypair.Name(c), keypair.Name(chain[j]), j+1)}
			}
		}
		switch {
		case string(c.RawIssuer) == string(next.RawSubject):
			return problem.List{badSignature(c, next, block(i))}
		case len(a.issuersOf(c)) > 0 || selfIssued(c):
			var found problem.List
			for j := i + 1; j < len(chain); j++ {
				found = append(found, unused(chain, j))
			}
			return found
		}
		return problem.List{incomplete(c, a)}
	}
	return nil
}

func issued(parent, child *x509.Certificate) bool {
	return namesIssuer(child, parent) && parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
}

func unused(chain []*x509.Certificate, i int) problem.Problem {
	return problem.New("chain_unused", block(i), "certificate %d of the chain (%q) issued none of those before it", i+1, keypair.Name(chain[i]))
}

func incomplete(c *x509.Certificate, a Anchors) problem.Problem {
	from := ""
	if len(c.IssuingCertificateURL) > 0 {
		from = ", to be had from " + c.IssuingCertificateURL[0]
	}
	return problem.New("chain_incomplete", problem.At{}, "the issuer of %q is missing: %q%s, is neither in the chain nor among the %d trust anchors",
		keypair.Name(c), c.Issuer.String(), from, a.Count())
}

// untrusted says why the way ends at top.
func untrusted(top *x509.Certificate, chain []*x509.Certificate, dropped *x509.Certificate, a Anchors) problem.Problem {
	root := dropped
	if selfIssued(top) {
		root = top
	}
	switch {
	case root == chain[0]:
		return problem.New("self_signed", block(0), "the certificate signed itself; no authority did")
	case root != nil:
		return problem.New("not_trusted", problem.At{}, "the chain ends at the root %q, which is not among the %d trust anchors", keypair.Name(root), a.Count())
	}
	return incomplete(top, a)
}

// secondOpinion asks crypto/x509 about the same chain. It alone judges name
// constraints.
func secondOpinion(chain []*x509.Certificate, pol Policy) problem.List {
	above := x509.NewCertPool()
	for _, c := range chain[1:] {
		above.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         pol.Anchors.pool,
		Intermediates: above,
		CurrentTime:   pol.At,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil {
		return nil
	}
	id := "not_trusted"
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) {
		switch invalid.Reason {
		case x509.CANotAuthorizedForThisName, x509.UnconstrainedName, x509.TooManyConstraints:
			id = "name_constraint"
		case x509.IncompatibleUsage, x509.CANotAuthorizedForExtKeyUsage:
			id = "purpose_eku"
		case x509.TooManyIntermediates:
			id = "pathlen"
		case x509.NotAuthorizedToSign:
			id = "chain_not_ca"
		case x509.Expired:
			id = "chain_expired"
		}
	}
	return problem.List{problem.New(id, problem.At{}, "%v", err)}
}
