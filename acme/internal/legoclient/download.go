package legoclient

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Chain is a certificate with its intermediates.
type Chain struct {
	Certificates []*x509.Certificate // the leaf first
	// Alternates are the common names of the issuers that the offered chains end
	// below, the default's first.
	Alternates []string
	// Preferred says that the chain is the one that was asked for; true if none was.
	Preferred bool
}

const (
	maxChain      = 10 // certificates
	maxAlternates = 8
)

// Download fetches the certificate. preferredChain is the common name of the
// issuer of the last certificate of the wanted chain; "" takes the CA's default,
// as does a name that no chain has, with Preferred false.
//
// If the wanted chain is not among those that could be fetched, and not all
// could, the failure is returned: a chain must not change because of a bad moment.
func (c *Client) Download(ctx context.Context, acct Account, where, preferredChain string) (Chain, error) {
	s, err := c.open(ctx, "download", acct)
	if err != nil {
		return Chain{}, err
	}
	first, err := s.chain(where)
	if err != nil {
		return Chain{}, err
	}
	result := Chain{Certificates: first, Preferred: preferredChain == ""}
	offer := func(certs []*x509.Certificate) {
		name := clean(certs[len(certs)-1].Issuer.CommonName)
		result.Alternates = append(result.Alternates, name)
		if !result.Preferred && name == preferredChain {
			result.Certificates, result.Preferred = certs, true
		}
	}
	offer(first)
	var failed error
	for _, link := range alternates(where, s.t.answer(where).header.Values("Link")) {
		certs, err := s.chain(link)
		if err == nil && !certs[0].Equal(first[0]) {
			err = s.fail(at(link, &Error{Kind: Protocol, Detail: "an alternate chain of another certificate"}))
		}
		if err != nil {
			failed = err
			continue
		}
		offer(certs)
	}
	if ctx.Err() != nil {
		return Chain{}, s.fail(canceled(ctx))
	}
	if failed != nil && !result.Preferred {
		return Chain{}, failed
	}
	return result, nil
}

// chain fetches one chain.
func (s *session) chain(where string) ([]*x509.Certificate, error) {
	var body []byte
	err := s.do(func() error {
		cert, _, err := s.core.Certificates.Get(where, true)
		body = cert
		return err
	})
	if err != nil {
		return nil, err
	}
	certs, err := parseChain(body)
	if err != nil {
		return nil, s.fail(at(where, &Error{Kind: Network, Detail: clean(err.Error()), Err: err}))
	}
	return certs, nil
}

// parseChain reads what RFC 8555 section 9.1 calls application/pem-certificate-chain:
// certificates and nothing else.
func parseChain(body []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := bytes.TrimSpace(body)
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, fmt.Errorf("what was downloaded is not only certificates")
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, fmt.Errorf("what was downloaded is no whole PEM")
		}
		if len(certs) == maxChain {
			return nil, fmt.Errorf("more than %d certificates were downloaded", maxChain)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the download: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
		rest = bytes.TrimSpace(after)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("the download is empty")
	}
	return certs, nil
}

var linkValue = regexp.MustCompile(`<([^<>]*)>((?:\s*;[^,<]*)*)`)

// alternates are the URLs of the relation "alternate" (RFC 8555 section 7.4.2) in
// the order of the headers, each once.
func alternates(base string, headers []string) []string {
	from, err := url.Parse(base)
	if err != nil {
		return nil
	}
	var links []string
	for _, m := range linkValue.FindAllStringSubmatch(strings.Join(headers, ", "), -1) {
		to, err := from.Parse(m[1])
		if err != nil || !alternate(m[2]) {
			continue
		}
		if link := to.String(); link != base && !slices.Contains(links, link) && len(links) < maxAlternates {
			links = append(links, link)
		}
	}
	return links
}

// alternate says whether the parameters of a Link have rel=alternate.
func alternate(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(key, "rel") && slices.Contains(strings.Fields(strings.Trim(strings.TrimSpace(value), `"`)), "alternate") {
			return true
		}
	}
	return false
}
