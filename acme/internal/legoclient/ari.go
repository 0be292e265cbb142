package legoclient

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// RenewalInfo is when the CA wants a certificate to be renewed (RFC 9773 section
// 4.2). A window in the past means now.
type RenewalInfo struct {
	Start, End  time.Time     // UTC; Start is before End
	Explanation string        // URL to show to the operator; "" for none
	RetryAfter  time.Duration // when to ask again; 0: the CA did not say
}

const (
	maxRenewalInfo = 16 << 10                  // bytes
	farAway        = 10 * 365 * 24 * time.Hour // a window further off is nonsense: no certificate of a public CA lives as long
)

// RenewalInfo asks when the certificate of that [CertID] is to be renewed.
//
// Only an answer that says so in every part is one: status 200, JSON of a
// moderate size, both ends, the end after the start, within ten years of our
// clock. Anything else is an error, never a window. lego reads a zero window out
// of a failing server's answer, and a zero window means "renew now", so an
// outage of that server would renew every certificate at each look.
func (c *Client) RenewalInfo(ctx context.Context, certID string) (RenewalInfo, error) {
	s, err := c.open(ctx, "renewal information", Account{})
	if err != nil {
		return RenewalInfo{}, err
	}
	base := s.core.GetDirectory().RenewalInfo
	if base == "" {
		return RenewalInfo{}, s.fail(&Error{Kind: Protocol, Detail: ErrNoARI.Error(), Err: ErrNoARI})
	}
	resp, err := s.core.Certificates.GetRenewalInfo(certID)
	if err != nil {
		return RenewalInfo{}, s.fail(err)
	}
	defer resp.Body.Close()
	where := resp.Request.URL.String()
	body, err := io.ReadAll(resp.Body) // the transport bounds it
	if err != nil {
		return RenewalInfo{}, s.fail(at(where, unreached(ctx, c.cfg.Timeout, err)))
	}
	if resp.StatusCode != http.StatusOK {
		return RenewalInfo{}, s.fail(at(where, &Error{Kind: Network, Status: resp.StatusCode, Detail: "the answer is no renewal information"}))
	}
	info, err := parseRenewalInfo(body, c.cfg.Now())
	if err != nil {
		return RenewalInfo{}, s.fail(at(where, &Error{Kind: Network, Status: resp.StatusCode, Detail: clean(err.Error()), Err: err}))
	}
	info.RetryAfter = s.t.retryAfter(where)
	return info, nil
}

// parseRenewalInfo judges the body of an answer.
func parseRenewalInfo(body []byte, now time.Time) (RenewalInfo, error) {
	if len(body) > maxRenewalInfo {
		return RenewalInfo{}, fmt.Errorf("renewal information of %d bytes, more than %d", len(body), maxRenewalInfo)
	}
	var raw *struct {
		SuggestedWindow *struct {
			Start, End *time.Time
		} `json:"suggestedWindow"`
		ExplanationURL string `json:"explanationURL"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return RenewalInfo{}, fmt.Errorf("renewal information is not the JSON it should be")
	}
	if raw == nil || raw.SuggestedWindow == nil || raw.SuggestedWindow.Start == nil || raw.SuggestedWindow.End == nil {
		return RenewalInfo{}, fmt.Errorf("renewal information without a window")
	}
	start, end := raw.SuggestedWindow.Start.UTC(), raw.SuggestedWindow.End.UTC()
	if !end.After(start) {
		return RenewalInfo{}, fmt.Errorf("a window that ends (%s) before it starts (%s)", end.Format(time.RFC3339), start.Format(time.RFC3339))
	}
	if start.Before(now.Add(-farAway)) || end.After(now.Add(farAway)) {
		return RenewalInfo{}, fmt.Errorf("a window from %s to %s, more than ten years away", start.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	return RenewalInfo{Start: start, End: end, Explanation: explanation(raw.ExplanationURL)}, nil
}

// explanation is a URL that may be shown, or nothing.
func explanation(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > maxDetail || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return clean(u.String())
}

// CertID names a certificate to the CA: base64url of the authority key
// identifier, a dot, base64url of the serial number as in DER (RFC 9773 section
// 4.1).
func CertID(leaf *x509.Certificate) (string, error) {
	if leaf == nil || len(leaf.AuthorityKeyId) == 0 {
		return "", fmt.Errorf("the certificate has no authority key identifier, which its ARI identifier is made of")
	}
	// All bytes of the INTEGER's content, with the leading zero that keeps it positive.
	der, err := asn1.Marshal(leaf.SerialNumber)
	if err != nil {
		return "", fmt.Errorf("encoding the serial number: %w", err)
	}
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(der, &raw); err != nil {
		return "", fmt.Errorf("encoding the serial number: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(raw.Bytes), nil
}
