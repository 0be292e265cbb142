package acme

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

const (
	minLife      = time.Minute
	maxLife      = 10 * 366 * day
	maxShortLife = 10 * day // of the profile shortlived
	maxFuture    = time.Hour
)

// checked judges what a CA delivered for an order: the strict form of
// verify/keypair, the names and the key that were asked for and nothing else, a
// server certificate, a chain that holds together by its signatures, dates that
// make sense at t. Whether the chain is trusted is not asked. It returns what is
// to be stored: a root at the end of the chain is not.
func checked(p Pending, key []byte, chain legoclient.Chain, t time.Time) (Version, material, error) {
	pemChain := material{chain: chain.Certificates}.files()[FileFullChain]
	pair, _, err := keypair.Parse(keypair.Input{Name: "the certificate from the CA", Data: pemChain},
		keypair.Input{Name: "the key it was ordered for", Data: key}, keypair.Input{})
	if err != nil {
		return Version{}, material{}, badCert("%v", err)
	}
	leaf := pair.Leaf()
	for _, judge := range []func() string{
		func() string { return wrongNames(leaf, p.Identifiers) },
		func() string {
			if pair.SPKI() != p.SPKI {
				return "its key is not the one that was asked for"
			}
			return ""
		},
		func() string { return wrongDates(leaf, p.Ordered, t) },
		func() string { return wrongPurpose(leaf) },
		func() string { return wrongChain(pair.Chain(), leaf.NotBefore) },
	} {
		if why := judge(); why != "" {
			return Version{}, material{}, badCert("%s", why)
		}
	}
	v := Version{
		Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), Identifiers: p.Identifiers,
		NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), IssuedAt: t,
		Directory: p.Directory, AccountURI: p.AccountURI, Profile: p.Profile, KeyType: p.KeyType, OrderURL: p.OrderURL,
		SPKI: pair.SPKI(), SHA256: pair.Fingerprint(), ChainLen: len(pair.Chain()), Issuer: leaf.Issuer.CommonName,
	}
	if id, err := legoclient.CertID(leaf); err == nil {
		v.ARICertID = id
	}
	if v.Serial == "" {
		return Version{}, material{}, badCert("its serial number is zero")
	}
	return v, material{key, pair.Chain()}, nil
}

func badCert(format string, args ...any) error {
	return &Error{Class: ClassBadCert, Problems: problem.List{
		problem.New("certificate_refused", problem.At{}, "the certificate that the CA issued was put aside: %s", fmt.Sprintf(format, args...)),
	}}
}

// wrongNames: a certificate with fewer names breaks clients, one with more tells
// that it was made for somebody else.
func wrongNames(leaf *x509.Certificate, want []string) string {
	var got []string
	for _, name := range leaf.DNSNames {
		got = append(got, strings.ToLower(name))
	}
	slices.Sort(got)
	got = slices.Compact(got)
	others := len(leaf.IPAddresses) + len(leaf.EmailAddresses) + len(leaf.URIs)
	if !slices.Equal(got, want) || others > 0 {
		return fmt.Sprintf("it is for %s, and %s was asked for", brief(strings.Join(got, ", ")), brief(strings.Join(want, ", ")))
	}
	return ""
}

func wrongDates(leaf *x509.Certificate, profile string, t time.Time) string {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	span := fmt.Sprintf("%s to %s", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	switch {
	case life < minLife || life > maxLife:
		return fmt.Sprintf("it is valid from %s, which can't be meant", span)
	case profile == "shortlived" && life > maxShortLife:
		return fmt.Sprintf("it is valid from %s, which is not short-lived as was asked for", span)
	case leaf.NotBefore.After(t.Add(maxFuture)):
		return fmt.Sprintf("it is valid from %s, and now it is %s", span, t.Format(time.RFC3339))
	case !t.Before(leaf.NotAfter):
		return fmt.Sprintf("it has expired: it was valid from %s", span)
	}
	return ""
}

func wrongPurpose(leaf *x509.Certificate) string {
	switch {
	case leaf.IsCA:
		return "it is a CA's certificate"
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return "it is not for servers (extended key usage serverAuth)"
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return "its key may not sign (key usage digitalSignature)"
	}
	return ""
}

// wrongChain follows the chain as it was sent, each certificate by the key of the
// next one, and has crypto/x509 judge it with the topmost one as trust anchor. It
// is judged a moment after the leaf begins, not now: our clock is not asked.
func wrongChain(chain []*x509.Certificate, begin time.Time) string {
	for i, c := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(c); err != nil {
			return fmt.Sprintf("certificate %d of its chain was not issued by the one behind it: %v", i+1, err)
		}
	}
	if len(chain) == 1 {
		return "" // issued by a root directly
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: begin.Add(time.Second),
	}
	for _, c := range chain[1 : len(chain)-1] {
		opts.Intermediates.AddCert(c)
	}
	opts.Roots.AddCert(chain[len(chain)-1])
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Sprintf("its chain does not hold: %v", err)
	}
	return ""
}
