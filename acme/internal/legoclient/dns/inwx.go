package dns

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"
)

// lego's provider for INWX has an HTTP client of its own without a time limit and
// sleeps until a new one-time password is due. This is our own, on the JSON form
// of the same API (https://www.inwx.com/en/help/apidoc).

const (
	inwxLive    = "https://api.domrobot.com/jsonrpc/"
	inwxSandbox = "https://api.ote.domrobot.com/jsonrpc/"
)

var inwxDefinition = &definition{
	name: "inwx", lego: []string{"INWX_"}, certbot: []string{"dns_inwx_"}, needsZone: true,
	ttl: 300, propagation: 6 * time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "username", Meaning: "user, best one with the role DNS management only", Required: true,
			Lego: []string{"INWX_USERNAME"}, Certbot: []string{"dns_inwx_username"}},
		{Name: "password", Meaning: "password", Secret: true, Required: true,
			Lego: []string{"INWX_PASSWORD"}, Certbot: []string{"dns_inwx_password"}},
		{Name: "shared_secret", Meaning: "secret of the one-time passwords (base32), if the user has them", Secret: true,
			Lego: []string{"INWX_SHARED_SECRET"}, Certbot: []string{"dns_inwx_shared_secret"}},
		{Name: "sandbox", Meaning: "yes: use INWX's test system", Default: "no", Lego: []string{"INWX_SANDBOX"}},
		{Name: "url", Meaning: "certbot's URL of the API: only its host counts, the live system or the test system", Certbot: []string{"dns_inwx_url"}},
	},
	build: buildINWX,
}

type inwx struct {
	api    api
	way    *transport
	url    string
	v      map[string]string
	ttl    int
	secret []byte

	usedStep int64 // the 30 s for which the last one-time password was good
	now      func() time.Time
}

// inwxNoSecret is what certbot's example has in place of a shared secret.
const inwxNoSecret = "your_shared_secret optional"

func buildINWX(s *setting) (backend, error) {
	b := &inwx{way: s.way, url: inwxLive, v: s.values, ttl: s.ttl, now: time.Now}
	sandbox, err := yes("sandbox", s.values["sandbox"])
	if err != nil {
		return nil, err
	}
	if sandbox {
		b.url = inwxSandbox
	}
	if given := s.values["url"]; given != "" {
		u, err := url.Parse(given)
		switch {
		case err == nil && u.Scheme == "https" && u.Host == "api.domrobot.com":
			b.url = inwxLive
		case err == nil && u.Scheme == "https" && u.Host == "api.ote.domrobot.com":
			b.url = inwxSandbox
		default:
			return nil, errors.New("url: neither https://api.domrobot.com nor https://api.ote.domrobot.com")
		}
	}
	if shared := s.values["shared_secret"]; shared != "" && shared != inwxNoSecret {
		clean := strings.TrimRight(strings.ToUpper(strings.ReplaceAll(shared, " ", "")), "=")
		if b.secret, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(clean); err != nil {
			return nil, errors.New("shared_secret: not base32; it is the secret of the one-time passwords, not one of them")
		}
	}
	return b, nil
}

func (b *inwx) present(ctx context.Context, r record) error {
	return b.session(ctx, func() error {
		err := b.call(ctx, "nameserver.createRecord", map[string]any{
			"domain": r.zoneName(), "name": r.name(), "type": "TXT", "content": r.value(), "ttl": b.ttl,
		}, nil)
		var e *inwxError
		if errors.As(err, &e) && e.code == 2302 { // object exists
			return nil
		}
		return err
	})
}

func (b *inwx) cleanUp(ctx context.Context, r record) error {
	return b.session(ctx, func() error {
		var zone struct {
			Record []struct {
				ID      json.RawMessage
				Content string
			}
		}
		err := b.call(ctx, "nameserver.info", map[string]any{"domain": r.zoneName(), "name": r.name(), "type": "TXT"}, &zone)
		if err != nil {
			return err
		}
		for _, found := range zone.Record {
			if found.Content == r.value() {
				return b.call(ctx, "nameserver.deleteRecord", map[string]any{"id": found.ID}, nil)
			}
		}
		return nil
	})
}

func (b *inwx) check(ctx context.Context, r record) error {
	return b.session(ctx, func() error {
		return b.call(ctx, "nameserver.info", map[string]any{"domain": r.zoneName(), "type": "SOA"}, nil)
	})
}

// session logs in, runs f and logs out. The session is a cookie.
func (b *inwx) session(ctx context.Context, f func() error) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	client := b.way.client()
	client.Jar = jar
	b.api = api{client: client}
	var in struct{ TFA string }
	if err := b.call(ctx, "account.login", map[string]any{"user": b.v["username"], "pass": b.v["password"]}, &in); err != nil {
		return err
	}
	defer func() {
		last := b.way.seen() // the answer that counts
		_ = b.call(ctx, "account.logout", nil, nil)
		b.way.saw(last)
	}()
	if in.TFA != "" && in.TFA != "0" {
		if err := b.unlock(ctx, in.TFA); err != nil {
			return err
		}
	}
	return f()
}

// unlock gives the one-time password. INWX takes none twice.
func (b *inwx) unlock(ctx context.Context, kind string) error {
	if b.secret == nil {
		return faulty(Refused, "the user has one-time passwords ("+kind+"), and no shared_secret is given")
	}
	const step = 30 // seconds, RFC 6238
	for b.now().Unix()/step <= b.usedStep {
		t := time.NewTimer(time.Unix((b.usedStep+1)*step, 0).Sub(b.now()))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	b.usedStep = b.now().Unix() / step
	return b.call(ctx, "account.unlock", map[string]any{"tan": oneTime(b.secret, uint64(b.usedStep))}, nil)
}

// oneTime is the password of six digits for that counter (RFC 4226 section 5.3).
func oneTime(secret []byte, counter uint64) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, counter) // a hash takes everything
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1_000_000)
}

// inwxError is an answer whose code tells of a failure; the HTTP status is 200.
type inwxError struct {
	method       string
	code         int
	msg, because string
}

func (e *inwxError) Error() string {
	s := fmt.Sprintf("%s: code %d: %s", e.method, e.code, e.msg)
	if e.because != "" {
		s += ": " + e.because
	}
	return s
}

func (b *inwx) call(ctx context.Context, method string, params map[string]any, out any) error {
	all := map[string]any{"lang": "en"}
	for name, value := range params {
		all[name] = value
	}
	var got struct {
		Code    int
		Msg     string
		Reason  string
		ResData json.RawMessage
	}
	if err := b.api.do(ctx, http.MethodPost, b.url, map[string]any{"method": method, "params": all}, &got); err != nil {
		return err
	}
	if got.Code < 1000 || got.Code > 1500 {
		return inwxFault(&inwxError{method, got.Code, got.Msg, got.Reason})
	}
	if out == nil || len(got.ResData) == 0 {
		return nil
	}
	if err := json.Unmarshal(got.ResData, out); err != nil {
		return faulty(Unavailable, method+": the answer is not the JSON that was expected")
	}
	return nil
}

// inwxFault gives the codes, which are those of EPP (RFC 5730 section 3), a kind.
func inwxFault(e *inwxError) error {
	switch e.code {
	case 2200, 2201, 2501: // authentication, authorization
		return &fault{kind: Refused, err: e}
	case 2303: // object does not exist
		return &fault{kind: NoZone, err: e}
	case 2502: // session limit
		return &fault{kind: RateLimited, err: e}
	case 2500:
		return &fault{kind: Unavailable, err: e}
	}
	return e
}

// yes reads a field that is yes or no, in the words of lego and certbot too.
func yes(name, value string) (bool, error) {
	switch strings.ToLower(value) {
	case "yes", "true", "1", "on":
		return true, nil
	case "no", "false", "0", "off", "":
		return false, nil
	}
	return false, fmt.Errorf("%s: neither yes nor no", name)
}
