package dns

import (
	"context"
	"encoding/base32"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// The counters of RFC 4226, appendix D.
func TestOneTime(t *testing.T) {
	want := []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"}
	for i, w := range want {
		if got := oneTime([]byte("12345678901234567890"), uint64(i)); got != w {
			t.Errorf("%d: %s, want %s", i, got, w)
		}
	}
}

// INWX wants a one-time password, and none twice.
func TestINWXOneTimePassword(t *testing.T) {
	var tans []string
	f := newFake(t, func(c call) (int, string) {
		if strings.Contains(c.body, "account.unlock") {
			tans = append(tans, c.body)
		}
		if strings.Contains(c.body, "account.login") {
			return 200, `{"code":1000,"resData":{"tfa":"GOOGLE-AUTH"}}`
		}
		return 200, `{"code":1000}`
	})
	values := map[string]string{"username": "u", "password": "p"}
	p := f.open("inwx", values)
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Refused || !strings.Contains(err.Error(), "no shared_secret") {
		t.Errorf("error %v", err)
	}
	values["shared_secret"] = strings.ToLower(base32.StdEncoding.EncodeToString([]byte("12345678901234567890")))
	p = f.open("inwx", values)
	b := p.(*provider).back.(*inwx)
	now := time.Unix(59, 970_000_000) // the second step, nearly over
	b.now = func() time.Time { return now }
	must(t, p.Present(background(t), plainName, keyAuth))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Present(ctx, plainName, keyAuth); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	b.now = func() time.Time { return time.Unix(60, 0) }
	must(t, p.CleanUp(background(t), plainName, keyAuth))
	if len(tans) != 2 || !strings.Contains(tans[0], `"tan":"287082"`) || !strings.Contains(tans[1], `"tan":"359152"`) {
		t.Errorf("one-time passwords %v", tans)
	}
}

func TestINWXCodes(t *testing.T) {
	for code, kind := range map[string]Kind{"2200": Refused, "2201": Refused, "2303": NoZone, "2500": Unavailable, "2502": RateLimited, "2400": Failed} {
		f := newFake(t, ok(`{"code":`+code+`,"msg":"told","reason":"why"}`))
		p := f.open("inwx", map[string]string{"username": "u", "password": "p"})
		if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != kind || !strings.Contains(err.Error(), "told: why") {
			t.Errorf("%s: %v", code, err)
		}
	}
	f := newFake(t, func(c call) (int, string) {
		if strings.Contains(c.body, "createRecord") {
			return 200, `{"code":2302,"msg":"Object exists"}`
		}
		return 200, `{"code":1000}`
	})
	must(t, f.open("inwx", map[string]string{"username": "u", "password": "p"}).Present(background(t), plainName, keyAuth))
}

// deSEC's short pauses are kept within the call; that it may be cut is TestHangingAPI's.
func TestDesecPause(t *testing.T) {
	refused := 0
	answer := desecAnswer()
	f := newFake(t, func(c call) (int, string) {
		if c.method == http.MethodPatch && refused == 0 {
			refused++
			return 429, `{"detail":"throttled"}`
		}
		return answer(c)
	})
	f.header.Set("Retry-After", "1")
	must(t, f.open("desec", map[string]string{"token": "t"}).Present(background(t), plainName, keyAuth))
	calls := f.took()
	if n := len(calls); n != 4 || calls[2].String() != calls[3].String() {
		t.Errorf("requests %v", calls)
	}
}

func TestOVHOAuth2(t *testing.T) {
	f := newFake(t, func(c call) (int, string) {
		if strings.Contains(c.url, "/oauth2/token") {
			if !strings.Contains(c.body, "client_secret=oauth-secret") {
				return 400, `{"error":"invalid_client"}`
			}
			return 200, `{"access_token":"made","expires_in":3600}`
		}
		if c.header.Get("Authorization") != "Bearer made" {
			return 401, `{}`
		}
		return 200, `{"id":1}`
	})
	p := f.open("ovh", map[string]string{"client_id": "c", "client_secret": "oauth-secret"})
	must(t, p.Present(background(t), plainName, keyAuth))
	must(t, p.CleanUp(background(t), plainName, keyAuth))
	if calls := f.took(); len(calls) != 5 || calls[0].url != "https://www.ovh.com/auth/oauth2/token" {
		t.Errorf("requests %v", calls)
	}
	p = f.open("ovh", map[string]string{"client_id": "c", "client_secret": "wrong-secret"})
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Refused {
		t.Errorf("error %v", err)
	}
}

const ovhExample = "$1$314d3a3056c336a834f09f0455131a8bb40cd441"

// The signature is that which openssl makes of the form in OVH's documentation:
// printf 'as+ck+GET+https://eu.api.ovh.com/1.0/x++1366560945' | openssl sha1
func TestOVHSignature(t *testing.T) {
	o := &ovh{v: map[string]string{"application_key": "ak", "application_secret": "as", "consumer_key": "ck"}, timed: true}
	o.skew = time.Until(time.Unix(1366560945, 500_000_000))
	req, err := http.NewRequest(http.MethodGet, "https://eu.api.ovh.com/1.0/x", nil)
	must(t, err)
	must(t, o.sign(context.Background(), req, nil))
	if got := req.Header.Get("X-Ovh-Signature"); got != ovhExample || req.Header.Get("X-Ovh-Timestamp") != "1366560945" {
		t.Errorf("signature %s at %s", got, req.Header.Get("X-Ovh-Timestamp"))
	}
}

func TestOVHMatch(t *testing.T) {
	for _, tt := range []struct {
		rule, path string
		want       bool
	}{
		{"/*", "/domain/zone/example.com/record", true},
		{"/domain/zone/*", "/domain/zone/example.com/record", true},
		{"/domain/zone/example.com/*", "/domain/zone/example.com/record/1", true},
		{"/domain/zone/example.org/*", "/domain/zone/example.com/record", false},
		{"/domain/zone/*/refresh", "/domain/zone/example.com/refresh", true},
		{"/domain/zone/*/refresh", "/domain/zone/example.com/record", false},
		{"/domain/zone/example.com/record", "/domain/zone/example.com/record", true},
		{"/me", "/domain/zone/example.com/record", false},
	} {
		if got := ovhMatch(tt.rule, tt.path); got != tt.want {
			t.Errorf("%s %s: %v", tt.rule, tt.path, got)
		}
	}
}

// Check asks without changing anything, where the API can be asked.
func TestCheck(t *testing.T) {
	rules := `{"status":"validated","rules":[{"method":"POST","path":"/domain/zone/*"},{"method":"DELETE","path":"/domain/zone/*"}]}`
	tests := []struct {
		provider string
		body     string // of an answer that is fine
		bad      int    // status of one that is not; -1: the answer worse
		worse    string
		kind     Kind
	}{
		{"cloudflare", `{"success":true,"result":[{"id":"1"}]}`, 403, "", Refused},
		{"cloudflare", `{"success":true,"result":[{"id":"1"}]}`, 400, "", Refused},
		{"cloudflare", `{"success":true,"result":[{"id":"1"}]}`, -1, `{"success":true,"result":[]}`, NoZone},
		{"hetzner", `{}`, 401, "", Refused},
		{"hetzner", `{}`, 404, "", NoZone},
		{"digitalocean", `{}`, 401, "", Refused},
		{"digitalocean", `{}`, 404, "", NoZone},
		{"gandi", `{}`, 403, "", Refused},
		{"pdns", `{}`, 401, "", Refused},
		{"pdns", `{}`, 404, "", NoZone},
		{"desec", `[{"name":"example.com"}]`, 401, "", Refused},
		{"desec", `[{"name":"example.com"}]`, -1, `[]`, NoZone},
		{"inwx", `{"code":1000}`, -1, `{"code":2200}`, Refused},
		{"ovh", rules, 403, "", Refused},
		{"ovh", rules, -1, `{"status":"expired"}`, Refused},
		{"ovh", rules, -1, `{"status":"validated","rules":[{"method":"GET","path":"/*"}]}`, Refused},
	}
	for _, tt := range tests {
		var s scenario
		for _, s = range scenarios {
			if s.provider == tt.provider {
				break
			}
		}
		status, body := 200, tt.body
		f := newFake(t, func(c call) (int, string) {
			if strings.HasSuffix(c.url, "/auth/time") {
				return 200, "1700000000"
			}
			return status, body
		})
		p := f.open(tt.provider, s.values)
		if err := p.Check(background(t), plainName); err != nil {
			t.Errorf("%s: %v", tt.provider, err)
		}
		if tt.provider != "inwx" {
			for _, c := range f.took() {
				if c.method != http.MethodGet {
					t.Errorf("%s: %v", tt.provider, c)
				}
			}
		}
		if tt.bad > 0 {
			status = tt.bad
		} else {
			body = tt.worse
		}
		if err := p.Check(background(t), plainName); err == nil || kindOf(t, err) != tt.kind {
			t.Errorf("%s %d %s: %v", tt.provider, tt.bad, tt.worse, err)
		} else {
			silent(t, err, s.values)
		}
	}
}

// acme-dns finds the account by the effective name, in a file as lego and certbot
// keep it, and that file's passwords are secrets too.
func TestAcmeDNSAccounts(t *testing.T) {
	path := secretFile(t, `{"mail.example.com":{"fulldomain":"0a1b.auth.example.org","subdomain":"0a1b","username":"u1","password":"first-secret","server_url":"https://auth.example.org","allowfrom":[]},
		"www.example.com":{"fulldomain":"2c3d.auth.example.org","subdomain":"2c3d","username":"u2","password":"second-secret","allowfrom":[]}}`)
	values := map[string]string{"api_base": "https://auth.example.org/", "storage_path": path}
	f := newFake(t, func(c call) (int, string) {
		if c.header.Get("X-Api-User") == "u2" && c.header.Get("X-Api-Key") == "second-secret" && strings.Contains(c.body, `"subdomain":"2c3d"`) {
			return 200, `{"txt":"x"}`
		}
		return 401, `{"error":"forbidden first-secret second-secret"}`
	})
	p := f.open("acme-dns", values)
	must(t, p.Check(background(t), "2c3d.auth.example.org."))
	must(t, p.Present(background(t), "2C3D.auth.example.org.", keyAuth))
	err := p.Present(background(t), "0a1b.auth.example.org.", keyAuth)
	if err == nil || kindOf(t, err) != Refused || strings.Contains(printed(err), "-secret") {
		t.Errorf("error %v", err)
	}
	for _, err := range []error{p.Present(background(t), plainName, keyAuth), p.Check(background(t), plainName)} {
		if err == nil || kindOf(t, err) != NoZone || !strings.Contains(err.Error(), "fulldomain") {
			t.Errorf("error %v", err)
		}
	}
	must(t, os.WriteFile(path, []byte(`{"x": "first-secret`), 0o600))
	if _, err := New("acme-dns", Options{Credentials: values}); err == nil || strings.Contains(err.Error(), "first-secret") {
		t.Errorf("error %v", err)
	}
	must(t, os.Chmod(path, 0o644))
	if _, err := New("acme-dns", Options{Credentials: values}); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("error %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "90": 90 * time.Second, " 7 ": 7 * time.Second, "99999999": 24 * time.Hour,
		"Sat, 21 Nov 2026 03:01:00 GMT": time.Minute, "Sat, 21 Nov 2026 02:00:00 GMT": 0, "Fri, 31 Dec 9999 23:59:59 GMT": 24 * time.Hour,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
