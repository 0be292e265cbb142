package dns

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// OVH's own library, which lego uses, completes what it is given from OVH_*
// variables, ./ovh.conf, ~/.ovh.conf and /etc/ovh.conf, and refuses to work if it
// finds two ways to log in. So this is our own: four calls of one API
// (https://eu.api.ovh.com/console/?section=%2Fdomain).

var ovhEndpoints = map[string]string{
	"ovh-eu":        "https://eu.api.ovh.com/1.0",
	"ovh-ca":        "https://ca.api.ovh.com/1.0",
	"ovh-us":        "https://api.us.ovhcloud.com/1.0",
	"kimsufi-eu":    "https://eu.api.kimsufi.com/1.0",
	"kimsufi-ca":    "https://ca.api.kimsufi.com/1.0",
	"soyoustart-eu": "https://eu.api.soyoustart.com/1.0",
	"soyoustart-ca": "https://ca.api.soyoustart.com/1.0",
}

var ovhTokens = map[string]string{
	"ovh-eu": "https://www.ovh.com/auth/oauth2/token",
	"ovh-ca": "https://ca.ovh.com/auth/oauth2/token",
	"ovh-us": "https://us.ovhcloud.com/auth/oauth2/token",
}

var ovhDefinition = &definition{
	name: "ovh", lego: []string{"OVH_"}, certbot: []string{"dns_ovh_"}, needsZone: true,
	ttl: 120, propagation: time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "endpoint", Meaning: "which OVH: ovh-eu, ovh-ca, ovh-us, kimsufi-eu, kimsufi-ca, soyoustart-eu, soyoustart-ca", Default: "ovh-eu",
			Lego: []string{"OVH_ENDPOINT"}, Certbot: []string{"dns_ovh_endpoint"}},
		{Name: "application_key", Meaning: "key of the application", OneOf: "application", Required: true,
			Lego: []string{"OVH_APPLICATION_KEY"}, Certbot: []string{"dns_ovh_application_key"}},
		{Name: "application_secret", Meaning: "secret of the application", Secret: true, OneOf: "application", Required: true,
			Lego: []string{"OVH_APPLICATION_SECRET"}, Certbot: []string{"dns_ovh_application_secret"}},
		{Name: "consumer_key", Meaning: "key by which the account has let the application in", Secret: true, OneOf: "application", Required: true,
			Lego: []string{"OVH_CONSUMER_KEY"}, Certbot: []string{"dns_ovh_consumer_key"}},
		{Name: "client_id", Meaning: "OAuth2 client", OneOf: "oauth2", Required: true, Lego: []string{"OVH_CLIENT_ID"}},
		{Name: "client_secret", Meaning: "secret of the OAuth2 client", Secret: true, OneOf: "oauth2", Required: true, Lego: []string{"OVH_CLIENT_SECRET"}},
		{Name: "access_token", Meaning: "an access token that was made elsewhere", Secret: true, OneOf: "token", Required: true, Lego: []string{"OVH_ACCESS_TOKEN"}},
	},
	build: buildOVH,
}

type ovh struct {
	api  api
	base string
	v    map[string]string
	ttl  int

	mu    sync.Mutex
	token string        // of OAuth2, when it was got
	until time.Time     // and how long it is used
	skew  time.Duration // OVH's clock minus ours
	timed bool
	made  map[string]int64 // what present has made: fqdn and value to id
}

func buildOVH(s *setting) (backend, error) {
	base, ok := ovhEndpoints[s.values["endpoint"]]
	if !ok {
		names := make([]string, 0, len(ovhEndpoints))
		for name := range ovhEndpoints {
			names = append(names, name)
		}
		sort.Strings(names)
		return nil, fmt.Errorf("endpoint: not one of %s", strings.Join(names, ", "))
	}
	if s.values["client_id"] != "" && ovhTokens[s.values["endpoint"]] == "" {
		return nil, fmt.Errorf("endpoint %s knows no OAuth2 clients", s.values["endpoint"])
	}
	return &ovh{api: api{client: s.way.client()}, base: base, v: s.values, ttl: s.ttl, made: map[string]int64{}}, nil
}

type ovhRecord struct {
	ID        int64  `json:"id,omitempty"`
	FieldType string `json:"fieldType,omitempty"`
	SubDomain string `json:"subDomain"`
	Target    string `json:"target,omitempty"`
	TTL       int    `json:"ttl,omitempty"`
}

func (o *ovh) present(ctx context.Context, r record) error {
	var made ovhRecord
	path := "/domain/zone/" + r.zoneName()
	err := o.do(ctx, http.MethodPost, path+"/record", ovhRecord{FieldType: "TXT", SubDomain: r.sub(), Target: r.value(), TTL: o.ttl}, &made)
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.made[r.fqdn+" "+r.value()] = made.ID
	o.mu.Unlock()
	return o.do(ctx, http.MethodPost, path+"/refresh", nil, nil)
}

func (o *ovh) cleanUp(ctx context.Context, r record) error {
	path := "/domain/zone/" + r.zoneName()
	o.mu.Lock()
	id, known := o.made[r.fqdn+" "+r.value()]
	o.mu.Unlock()
	if !known { // another process has made it
		var err error
		if id, err = o.find(ctx, path, r); err != nil || id == 0 {
			return err
		}
	}
	if err := o.do(ctx, http.MethodDelete, path+"/record/"+strconv.FormatInt(id, 10), nil, nil); err != nil {
		return err
	}
	o.mu.Lock()
	delete(o.made, r.fqdn+" "+r.value())
	o.mu.Unlock()
	return o.do(ctx, http.MethodPost, path+"/refresh", nil, nil)
}

// find looks for the record; 0 is none.
func (o *ovh) find(ctx context.Context, path string, r record) (int64, error) {
	var ids []int64
	query := url.Values{"fieldType": {"TXT"}, "subDomain": {r.sub()}}
	if err := o.do(ctx, http.MethodGet, path+"/record?"+query.Encode(), nil, &ids); err != nil {
		return 0, err
	}
	for _, id := range ids {
		var got ovhRecord
		if err := o.do(ctx, http.MethodGet, path+"/record/"+strconv.FormatInt(id, 10), nil, &got); err != nil {
			return 0, err
		}
		if strings.Trim(got.Target, `"`) == r.value() {
			return id, nil
		}
	}
	return 0, nil
}

// check looks at the credential itself: every application may do that, and it
// tells what the application may do.
func (o *ovh) check(ctx context.Context, r record) error {
	if o.v["application_key"] == "" {
		return nil
	}
	var c struct {
		Status string
		Rules  []struct{ Method, Path string }
	}
	if err := o.do(ctx, http.MethodGet, "/auth/currentCredential", nil, &c); err != nil {
		return err
	}
	if c.Status != "validated" {
		return faulty(Refused, fmt.Sprintf("the consumer key is %q, not validated", c.Status))
	}
	for _, need := range []struct{ method, path string }{
		{http.MethodPost, "/domain/zone/" + r.zoneName() + "/record"},
		{http.MethodPost, "/domain/zone/" + r.zoneName() + "/refresh"},
		{http.MethodDelete, "/domain/zone/" + r.zoneName() + "/record/1"},
	} {
		if !slices.ContainsFunc(c.Rules, func(rule struct{ Method, Path string }) bool {
			return rule.Method == need.method && ovhMatch(rule.Path, need.path)
		}) {
			return faulty(Refused, "the consumer key was not given the right to "+need.method+" "+need.path)
		}
	}
	return nil
}

// ovhMatch tells whether a rule's path, in which * stands for anything, covers
// path.
func ovhMatch(rule, path string) bool {
	parts := strings.Split(rule, "*")
	if len(parts) == 1 {
		return rule == path
	}
	rest, found := strings.CutPrefix(path, parts[0])
	for _, part := range parts[1:] {
		if !found {
			return false
		}
		if part == "" {
			continue
		}
		_, rest, found = strings.Cut(rest, part)
	}
	return found && (parts[len(parts)-1] == "" || rest == "")
}

// do makes one request and signs it in the way that the credentials allow.
func (o *ovh) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, o.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json;charset=utf-8")
	}
	if err := o.sign(ctx, req, body); err != nil {
		return err
	}
	return ovhFault(o.api.send(req, out))
}

// ovhFault tells the failures apart whose HTTP status is not enough.
func ovhFault(err error) error {
	var s *statusError
	switch {
	case !errors.As(err, &s):
		return err
	case s.status == http.StatusBadRequest && strings.Contains(strings.ToLower(s.body), "signature"):
		return &fault{kind: Refused, err: err}
	case s.status == http.StatusNotFound && strings.Contains(s.body, "This service does not exist"):
		return &fault{kind: NoZone, err: err}
	}
	return err
}

func (o *ovh) sign(ctx context.Context, req *http.Request, body []byte) error {
	switch {
	case o.v["access_token"] != "":
		req.Header.Set("Authorization", "Bearer "+o.v["access_token"])
		return nil
	case o.v["client_id"] != "":
		token, err := o.oauth2(ctx)
		req.Header.Set("Authorization", "Bearer "+token)
		return err
	}
	now, err := o.now(ctx)
	if err != nil {
		return err
	}
	stamp := strconv.FormatInt(now.Unix(), 10)
	// https://help.ovhcloud.com/csm/en-api-getting-started-ovhcloud-api: "$1$" and
	// the SHA-1 of secret, consumer key, method, URL, body and time, joined by "+".
	sum := sha1.Sum([]byte(strings.Join([]string{
		o.v["application_secret"], o.v["consumer_key"], req.Method, req.URL.String(), string(body), stamp,
	}, "+")))
	req.Header.Set("X-Ovh-Application", o.v["application_key"])
	req.Header.Set("X-Ovh-Consumer", o.v["consumer_key"])
	req.Header.Set("X-Ovh-Timestamp", stamp)
	req.Header.Set("X-Ovh-Signature", "$1$"+hex.EncodeToString(sum[:]))
	return nil
}

// now is OVH's time: a signature is good for 30 s around it.
func (o *ovh) now(ctx context.Context) (time.Time, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.timed {
		var unix int64
		if err := o.api.do(ctx, http.MethodGet, o.base+"/auth/time", nil, &unix); err != nil {
			return time.Time{}, err
		}
		o.skew, o.timed = time.Until(time.Unix(unix, 0)), true
	}
	return time.Now().Add(o.skew), nil
}

// oauth2 gets a token for the client's own account (RFC 6749 section 4.4).
func (o *ovh) oauth2(ctx context.Context) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.token != "" && time.Now().Before(o.until) {
		return o.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"all"}, "client_id": {o.v["client_id"]}, "client_secret": {o.v["client_secret"]}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ovhTokens[o.v["endpoint"]], strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var got struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	if err := o.api.send(req, &got); err != nil {
		var s *statusError
		if errors.As(err, &s) && s.status == http.StatusBadRequest {
			err = &fault{kind: Refused, err: err}
		}
		return "", err
	}
	if got.Token == "" {
		return "", faulty(Refused, "no access token was given")
	}
	o.token, o.until = got.Token, time.Now().Add(time.Duration(got.Expires)*time.Second-time.Minute)
	return o.token, nil
}
