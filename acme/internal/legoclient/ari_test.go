package legoclient

import (
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"crypto/x509"

	"postcert/acme/acmetest"
)

func rfc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func TestRenewalInfo(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	leaf := w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}}).Certificates[0]
	id, err := CertID(leaf)
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.client.RenewalInfo(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Start.After(leaf.NotBefore) || !info.End.Before(leaf.NotAfter) || info.RetryAfter != 6*time.Hour {
		t.Errorf("got %+v", info)
	}
	start, end := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	window := acmetest.Window(start, end)
	if err := w.SetRenewalInfo(leaf, strings.Replace(window, "{", `{"explanationURL":"https://ca.test/why","x":1,`, 1)); err != nil {
		t.Fatal(err)
	}
	info, err = w.client.RenewalInfo(t.Context(), id)
	if err != nil || rfc(info.Start) != rfc(start) || rfc(info.End) != rfc(end) || info.Explanation != "https://ca.test/why" {
		t.Errorf("got %+v, %v", info, err)
	}
	// Revoked: at once.
	if err := w.SetRenewalInfo(leaf, ""); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Revoke(t.Context(), w.acct, leaf, 4); err != nil {
		t.Fatal(err)
	}
	info, err = w.client.RenewalInfo(t.Context(), id)
	if err != nil || !info.End.Before(time.Now()) {
		t.Errorf("after the revocation: %+v, %v", info, err)
	}
	for _, r := range w.Requests() {
		if r.Kind == acmetest.RenewalInfo && !strings.HasPrefix(r.UserAgent, "postcert") {
			t.Errorf("asked by %q", r.UserAgent)
		}
	}
	if !w.Revoked(leaf) {
		t.Error("the CA does not have it revoked")
	}
}

// TestRenewalInfoBad: none of what a failing server says is a window.
func TestRenewalInfoBad(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	leaf := w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}}).Certificates[0]
	id, err := CertID(leaf)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := acmetest.Window(now.Add(-time.Hour), now.Add(time.Hour))
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	tests := []struct {
		name  string
		fault acmetest.Fault
		kind  Kind
		code  int
	}{
		{"500 with a problem", acmetest.Fault{Status: 500, Problem: "serverInternal"}, Protocol, 500},
		{"404 with a problem", acmetest.Fault{Status: 404, Problem: "malformed"}, Protocol, 404},
		{"404 with a window", acmetest.Fault{Status: 404, Body: good}, Network, 404},
		{"500 with a window", acmetest.Fault{Status: 500, Body: good}, Network, 500},
		{"503 HTML", acmetest.Fault{Status: 503, Body: "<html>"}, Network, 503},
		{"429", acmetest.Fault{Status: 429, Problem: "rateLimited", Header: header("Retry-After", "60")}, RateLimited, 429},
		{"201", acmetest.Fault{Status: 201, Body: good}, Network, 201},
		{"204", acmetest.Fault{Status: 204}, Network, 204},
		{"redirect", acmetest.Fault{Status: 302, Header: header("Location", w.URL)}, Network, 302},
		{"redirect without TLS", acmetest.Fault{Status: 307, Header: header("Location", "http://127.0.0.1:1/")}, Network, 307},
		{"null", acmetest.Fault{Status: 200, Body: "null"}, Network, 200},
		{"empty", acmetest.Fault{Status: 200}, Network, 200},
		{"empty object", acmetest.Fault{Status: 200, Body: "{}"}, Network, 200},
		{"HTML", acmetest.Fault{Status: 200, Body: "<html><body>welcome to the hotel</body></html>"}, Network, 200},
		{"a list", acmetest.Fault{Status: 200, Body: "[" + good + "]"}, Network, 200},
		{"two of them", acmetest.Fault{Status: 200, Body: good + good}, Network, 200},
		{"no end", acmetest.Fault{Status: 200, Body: `{"suggestedWindow":{"start":"` + rfc(now) + `"}}`}, Network, 200},
		{"null window", acmetest.Fault{Status: 200, Body: `{"suggestedWindow":null}`}, Network, 200},
		{"no dates", acmetest.Fault{Status: 200, Body: `{"suggestedWindow":{"start":"now","end":"then"}}`}, Network, 200},
		{"inverted", acmetest.Fault{Status: 200, Body: acmetest.Window(now.Add(time.Hour), now)}, Network, 200},
		{"no width", acmetest.Fault{Status: 200, Body: acmetest.Window(now, now)}, Network, 200},
		{"year 1", acmetest.Fault{Status: 200, Body: `{"suggestedWindow":{"start":"0001-01-01T00:00:00Z","end":"0001-01-02T00:00:00Z"}}`}, Network, 200},
		{"year 2090", acmetest.Fault{Status: 200, Body: acmetest.Window(now.AddDate(64, 0, 0), now.AddDate(64, 1, 0))}, Network, 200},
		{"a century wide", acmetest.Fault{Status: 200, Body: acmetest.Window(now, now.AddDate(100, 0, 0))}, Network, 200},
		{"truncated", acmetest.Fault{Truncate: 20}, Network, 200},
		{"lost", acmetest.Fault{Lost: true}, Network, 0},
		{"giant", acmetest.Fault{Giant: 1 << 30}, Network, 200},
		{"too large", acmetest.Fault{Status: 200, Body: strings.Replace(good, "{", "{"+strings.Repeat(" ", maxRenewalInfo), 1)}, Network, 200},
		{"slow", acmetest.Fault{Slow: 100 * time.Millisecond}, Network, 200},
		{"silent", acmetest.Fault{Delay: time.Minute}, Network, 0},
	}
	hasty := *w.client
	hasty.cfg.Timeout = 500 * time.Millisecond
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.Kind = acmetest.RenewalInfo
			defer w.Fault(tt.fault)()
			info, err := hasty.RenewalInfo(t.Context(), id)
			if info != (RenewalInfo{}) {
				t.Errorf("got a window: %+v", info)
			}
			e := failure(t, err)
			if e.Kind != tt.kind || e.Status != tt.code || e.Op != "renewal information" || e.URL == "" {
				t.Errorf("got %+v", e)
			}
			if tt.name == "429" && e.RetryAfter != time.Minute {
				t.Errorf("retry after %s", e.RetryAfter)
			}
			if strings.Contains(err.Error(), "hotel") {
				t.Errorf("the error quotes the body: %v", err)
			}
		})
	}
}

func TestRenewalInfoNone(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{Directory: func(d map[string]any) { delete(d, "renewalInfo") }})
	if _, err := w.client.RenewalInfo(t.Context(), "a.b"); !errors.Is(err, ErrNoARI) {
		t.Errorf("got %v", err)
	}
	// What the CA does not know is not sent to it.
	o := w.order(OrderRequest{Identifiers: []string{"a.example.test"}, Replaces: "a.b"})
	if o.Replaces != "" {
		t.Errorf("the order says it replaces %q", o.Replaces)
	}
}

// TestCertID has the example of RFC 9773 section 4.1.
func TestCertID(t *testing.T) {
	leaf := &x509.Certificate{SerialNumber: new(big.Int).SetBytes([]byte{0x87, 0x65, 0x43, 0x21}),
		AuthorityKeyId: []byte{0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4}}
	if got, err := CertID(leaf); err != nil || got != "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := CertID(&x509.Certificate{SerialNumber: big.NewInt(1)}); err == nil {
		t.Error("an identifier without an authority key identifier")
	}
	if _, err := CertID(nil); err == nil {
		t.Error("an identifier of nothing")
	}
}

func TestRetryAfter(t *testing.T) {
	ref := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
	}{
		{"", 0}, {"0", 0}, {"120", 2 * time.Minute}, {" 7 ", 7 * time.Second}, {"007", 7 * time.Second},
		{"Sat, 21 Nov 2026 03:10:00 GMT", 10 * time.Minute},
		{"Saturday, 21-Nov-26 03:10:00 GMT", 10 * time.Minute},
		{"Sat Nov 21 03:10:00 2026", 10 * time.Minute},
		{"Sat, 21 Nov 2026 02:59:00 GMT", 0},
		{"Fri, 21 Nov 2525 03:10:00 GMT", maxRetryAfter},
		{"-5", 0}, {"+5", 0}, {"1.5", 0}, {"1e9", 0}, {"0x10", 0}, {"soon", 0}, {"١٢", 0},
		{"99999999999999999999999999", maxRetryAfter}, {"31622401", maxRetryAfter},
	}
	for _, tt := range tests {
		if got := retryAfter(tt.value, ref); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.value, got, tt.want)
		}
	}
	// A date is the server's, so it counts from the server's clock.
	h := http.Header{"Date": {"Sat, 21 Nov 2026 03:00:00 GMT"}, "Retry-After": {"Sat, 21 Nov 2026 03:01:00 GMT"}}
	if got := answered(h, ref.Add(-24*time.Hour)); got != time.Minute {
		t.Errorf("with a clock of yesterday: %s", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "Sat, 21 Nov 2026 03:10:00 GMT", "Saturday, 21-Nov-26 03:10:00 GMT", "Sat Nov 21 03:10:00 2026", "-1", "9999999999999999999999"} {
		f.Add(s)
	}
	ref := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		if got := retryAfter(value, ref); got < 0 || got > maxRetryAfter {
			t.Errorf("%q: %s", value, got)
		}
	})
}

func FuzzRenewalInfo(f *testing.F) {
	now := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	for _, s := range []string{acmetest.Window(now, now.Add(time.Hour)), "null", "{}", `{"suggestedWindow":{}}`, "[]", "<html>",
		`{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"},"explanationURL":"https://x/"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		info, err := parseRenewalInfo(body, now)
		if err != nil {
			if info != (RenewalInfo{}) {
				t.Errorf("an error, and %+v", info)
			}
			return
		}
		if !info.End.After(info.Start) || info.Start.Before(now.Add(-farAway)) || info.End.After(now.Add(farAway)) {
			t.Errorf("%q: %+v", body, info)
		}
		if strings.ContainsAny(info.Explanation, "\n\x1b") {
			t.Errorf("%q: %+v", body, info)
		}
	})
}
