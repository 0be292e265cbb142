package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcert/verify"
)

// stsPolicy is the MTA-STS policy of a domain (RFC 8461): which MX hosts senders
// may use, and that they must not do without TLS.
type stsPolicy struct {
	Published bool     `json:"published"` // there is a record _mta-sts.DOMAIN
	ID        string   `json:"id"`        // of the record
	Mode      string   `json:"mode"`      // enforce, testing, none; "" if the policy could not be read
	MX        []string `json:"mx"`
	MaxAge    int64    `json:"max_age_s"`
	Problem   string   `json:"detail"` // why it cannot be used; "" if it can or there is none
}

const (
	stsTime = 30 * time.Second // for the policy; RFC 8461 section 3.3 suggests a minute
	stsSize = 64 << 10         // bytes; RFC 8461 section 3.3
	stsAge  = 31557600         // the greatest max_age, a year; RFC 8461 section 3.2
)

// lookupSTS reads the policy of a domain as a sender would. Redirects are not
// followed and no proxy is used: RFC 8461 section 3.3.
func lookupSTS(ctx context.Context, domain string, anchors verify.Anchors) stsPolicy {
	p := stsPolicy{MX: []string{}}
	records, err := net.DefaultResolver.LookupTXT(ctx, "_mta-sts."+domain)
	if notFound(err) {
		return p
	}
	if err != nil {
		p.Problem = "the record _mta-sts." + domain + " cannot be looked up: " + err.Error()
		return p
	}
	records = slices.DeleteFunc(records, func(r string) bool { return !strings.HasPrefix(r, "v=STSv1;") })
	if len(records) == 0 {
		return p
	}
	p.Published = true
	if len(records) > 1 {
		// RFC 8461 section 3.1: then senders take it that there is none.
		p.Problem = fmt.Sprintf("there are %d records _mta-sts.%s, and senders heed none of them", len(records), domain)
		return p
	}
	for _, field := range strings.Split(records[0], ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(field), "="); ok && name == "id" {
			p.ID = value
		}
	}
	body, err := fetchSTS(ctx, "mta-sts."+domain, anchors)
	if err == nil {
		err = p.parse(body)
	}
	if err != nil {
		p.Problem = err.Error()
	}
	return p
}

func fetchSTS(ctx context.Context, host string, anchors verify.Anchors) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stsTime)
	defer cancel()
	// InsecureSkipVerify, because VerifyConnection judges, with our anchors.
	conf := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if err := verify.Trusted(s.PeerCertificates, anchors, time.Now()); err != nil {
			return err
		}
		if !verify.Covers(s.PeerCertificates[0], host) {
			return fmt.Errorf("its certificate does not cover %s", host)
		}
		return nil
	}}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, MaxResponseHeaderBytes: stsSize},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	url := "https://" + host + "/.well-known/mta-sts.txt"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err // it names the URL
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	if t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), "text/plain") {
		return nil, fmt.Errorf("%s is of type %q, not text/plain", url, t)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, stsSize+1))
	if err == nil && len(body) > stsSize {
		err = fmt.Errorf("%s is larger than %d KiB", url, stsSize>>10)
	}
	return body, err
}

// parse reads a policy, RFC 8461 section 3.2. Of a key that is there twice the
// first one counts, but for mx; what is not known is passed over.
func (p *stsPolicy) parse(body []byte) error {
	seen := map[string]string{}
	for line := range bytes.Lines(body) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if _, again := seen[key]; !ok || again {
			continue
		}
		if key == "mx" {
			p.MX = append(p.MX, strings.ToLower(strings.TrimSuffix(value, ".")))
			continue
		}
		seen[key] = value
	}
	age, err := strconv.ParseInt(seen["max_age"], 10, 64)
	switch mode := seen["mode"]; {
	case seen["version"] != "STSv1":
		return fmt.Errorf("the MTA-STS policy has the version %q, not STSv1", seen["version"])
	case !slices.Contains([]string{"enforce", "testing", "none"}, mode):
		return fmt.Errorf("the MTA-STS policy has the mode %q; there are enforce, testing and none", mode)
	case err != nil || age < 0 || age > stsAge:
		return fmt.Errorf("the MTA-STS policy has the max_age %q; it is a number of seconds up to %d", seen["max_age"], stsAge)
	case len(p.MX) == 0 && mode != "none":
		return errors.New("the MTA-STS policy names no MX host")
	default:
		p.Mode, p.MaxAge = mode, age
		return nil
	}
}

// permits tells whether senders may use an MX host, RFC 8461 section 4.1: "*."
// stands for exactly one label.
func (p *stsPolicy) permits(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		if suffix, ok := strings.CutPrefix(pattern, "*."); ok {
			label, rest, _ := strings.Cut(host, ".")
			return label != "" && rest == suffix
		}
		return host == pattern
	})
}

// strict tells whether senders that know the policy insist on it.
func (p *stsPolicy) strict() bool { return p.Mode == "enforce" }

// notFound tells whether a name, or a record of that type, does not exist.
func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}
