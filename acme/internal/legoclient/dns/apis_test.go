package dns

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// scenario is one provider with a fake of its API.
type scenario struct {
	provider string
	values   map[string]string
	answer   func(call) (int, string) // of an API that works
	// What goes out: method and URL, with {zone}, {sub}, {name} and {value} put in;
	// GETs are not listed. Each is followed by what the body has to contain.
	present, cleanUp []want
	login            [2]string                // a header that proves who is there
	refused          func(call) (int, string) // nil: status 401
	needsKind        Kind                     // of the refusal; 0: Refused
}

type want struct{ request, body string }

func ok(body string) func(call) (int, string) {
	return func(call) (int, string) { return http.StatusOK, body }
}

var scenarios = []scenario{
	{
		provider: "cloudflare", values: map[string]string{"api_token": "cf-token-secret"},
		answer: func(c call) (int, string) {
			switch {
			case c.method == http.MethodGet:
				return 200, `{"success":true,"result":[{"id":"zone1","name":"example.com"}]}`
			case c.method == http.MethodPost:
				return 200, `{"success":true,"result":{"id":"rec1"}}`
			}
			return 200, `{"success":true,"result":{"id":"rec1"}}`
		},
		present: []want{{"POST https://api.cloudflare.com/client/v4/zones/zone1/dns_records", `"name":"{name}"|"type":"TXT"|{value}`}},
		cleanUp: []want{{"DELETE https://api.cloudflare.com/client/v4/zones/zone1/dns_records/rec1", ""}},
		login:   [2]string{"Authorization", "Bearer cf-token-secret"},
	},
	{
		provider: "ovh", values: map[string]string{"endpoint": "ovh-ca", "application_key": "app", "application_secret": "ovh-app-secret", "consumer_key": "ovh-consumer-secret"},
		answer: func(c call) (int, string) {
			switch {
			case strings.HasSuffix(c.url, "/auth/time"):
				return 200, "1700000000"
			case strings.Contains(c.url, "/record?"):
				return 200, "[]"
			}
			return 200, `{"id":4711}`
		},
		present: []want{{"POST https://ca.api.ovh.com/1.0/domain/zone/{zone}/record", `"fieldType":"TXT","subDomain":"{sub}","target":"{value}"`}, {"POST https://ca.api.ovh.com/1.0/domain/zone/{zone}/refresh", ""}},
		cleanUp: []want{{"DELETE https://ca.api.ovh.com/1.0/domain/zone/{zone}/record/4711", ""}, {"POST https://ca.api.ovh.com/1.0/domain/zone/{zone}/refresh", ""}},
		login:   [2]string{"X-Ovh-Application", "app"},
	},
	{
		provider: "hetzner", values: map[string]string{"api_token": "hetzner-token-secret"},
		answer: func(c call) (int, string) {
			if strings.Contains(c.url, "/actions/") && c.method == http.MethodGet {
				return 200, `{"action":{"id":7,"status":"success"}}`
			}
			return 201, `{"action":{"id":7,"status":"running"}}`
		},
		present: []want{{"POST https://api.hetzner.cloud/v1/zones/{zone}/rrsets/{sub}/TXT/actions/add_records", `\"{value}\"`}},
		cleanUp: []want{{"POST https://api.hetzner.cloud/v1/zones/{zone}/rrsets/{sub}/TXT/actions/remove_records", `\"{value}\"`}},
		login:   [2]string{"Authorization", "Bearer hetzner-token-secret"},
	},
	{
		provider: "desec", values: map[string]string{"token": "desec-token-secret"}, answer: desecAnswer(),
		present: []want{{"PATCH https://desec.io/api/v1/domains/{zone}/rrsets/", `[{"subname":"{sub}","type":"TXT","ttl":3600,"records":["\"other\"","\"{value}\""]}]`}},
		cleanUp: []want{{"PATCH https://desec.io/api/v1/domains/{zone}/rrsets/", `"records":["\"other\""]`}},
		login:   [2]string{"Authorization", "Token desec-token-secret"},
	},
	{
		provider: "pdns", values: map[string]string{"api_url": "https://ns.example.com:8081", "api_key": "pdns-key-secret"}, answer: pdnsAnswer(),
		present: []want{{"PATCH https://ns.example.com:8081/api/v1/servers/localhost/zones/{zone}.", `"changetype":"REPLACE"|{value}|other`}, {"PUT https://ns.example.com:8081/api/v1/servers/localhost/zones/{zone}./notify", ""}},
		cleanUp: []want{{"PATCH https://ns.example.com:8081/api/v1/servers/localhost/zones/{zone}.", `other`}, {"PUT https://ns.example.com:8081/api/v1/servers/localhost/zones/{zone}./notify", ""}},
		login:   [2]string{"X-Api-Key", "pdns-key-secret"},
	},
	{
		provider: "digitalocean", values: map[string]string{"token": "do-token-secret"}, answer: ok(`{"domain_record":{"id":99}}`),
		present: []want{{"POST https://api.digitalocean.com/v2/domains/{zone}/records", `"name":"{name}."|"data":"{value}"`}},
		cleanUp: []want{{"DELETE https://api.digitalocean.com/v2/domains/{zone}/records/99", ""}},
		login:   [2]string{"Authorization", "Bearer do-token-secret"},
	},
	{
		provider: "gandi", values: map[string]string{"token": "gandi-token-secret"}, answer: ok(`{"rrset_values":["\"other\""],"message":"done"}`),
		present: []want{{"PUT https://api.gandi.net/v5/livedns/domains/{zone}/records/{sub}/TXT", `{value}|other`}},
		cleanUp: []want{{"DELETE https://api.gandi.net/v5/livedns/domains/{zone}/records/{sub}/TXT", ""}},
		login:   [2]string{"Authorization", "Bearer gandi-token-secret"},
	},
	{
		provider: "inwx", values: map[string]string{"username": "user", "password": "inwx-password-secret"}, answer: inwxAnswer(),
		present: []want{{"POST https://api.domrobot.com/jsonrpc/", `account.login|"pass":"inwx-password-secret"`},
			{"POST https://api.domrobot.com/jsonrpc/", `nameserver.createRecord|"domain":"{zone}"|"name":"{name}"|"content":"{value}"`},
			{"POST https://api.domrobot.com/jsonrpc/", `account.logout`}},
		cleanUp: []want{{"POST https://api.domrobot.com/jsonrpc/", `account.login`}, {"POST https://api.domrobot.com/jsonrpc/", `nameserver.info|"name":"{name}"`},
			{"POST https://api.domrobot.com/jsonrpc/", `nameserver.deleteRecord|"id":12`}, {"POST https://api.domrobot.com/jsonrpc/", `account.logout`}},
		refused: ok(`{"code":2200,"msg":"Authentication error"}`),
	},
	{
		provider: "acme-dns", values: map[string]string{"api_base": "https://auth.example.org", "username": "u", "password": "acmedns-password-secret", "subdomain": "mail-example-com"},
		answer:  ok(`{"txt":"x"}`),
		present: []want{{"POST https://auth.example.org/update", `"subdomain":"mail-example-com","txt":"{value}"`}},
		login:   [2]string{"X-Api-Key", "acmedns-password-secret"},
	},
	{
		provider: "httpreq", values: map[string]string{"endpoint": "https://dns.example.org/hook", "username": "u", "password": "httpreq-password-secret"}, answer: ok(""),
		present: []want{{"POST https://dns.example.org/hook/present", `{"fqdn":"{name}.","value":"{value}"}`}},
		cleanUp: []want{{"POST https://dns.example.org/hook/cleanup", `{"fqdn":"{name}.","value":"{value}"}`}},
		login:   [2]string{"Authorization", "Basic dTpodHRwcmVxLXBhc3N3b3JkLXNlY3JldA=="},
	},
}

// desecAnswer keeps the records of one set, which holds another value already.
func desecAnswer() func(call) (int, string) {
	records := []string{`"other"`}
	return func(c call) (int, string) {
		switch {
		case strings.Contains(c.url, "owns_qname=") && strings.Contains(c.url, "example.net"):
			return 200, `[{"name":"example.net"}]`
		case strings.Contains(c.url, "owns_qname="):
			return 200, `[{"name":"example.com"}]`
		case c.method == http.MethodGet:
			data, _ := json.Marshal(desecSet{Type: "TXT", TTL: 3600, Records: records})
			return 200, string(data)
		}
		var sets []desecSet
		if err := json.Unmarshal([]byte(c.body), &sets); err != nil || len(sets) != 1 {
			return 400, `{"detail":"what?"}`
		}
		records = sets[0].Records
		return 200, "[]"
	}
}

func pdnsAnswer() func(call) (int, string) {
	content := []string{`\"other\"`}
	return func(c call) (int, string) {
		if c.method != http.MethodGet {
			if c.method == http.MethodPatch && strings.Contains(c.body, Value(keyAuth)) {
				content = append(content, `\"`+Value(keyAuth)+`\"`)
			}
			return 204, ""
		}
		var sets []string
		for _, name := range []string{plainName, cnameName} {
			var records []string
			for _, v := range content {
				records = append(records, `{"content":"`+v+`","disabled":false}`)
			}
			sets = append(sets, fmt.Sprintf(`{"name":%q,"type":"TXT","records":[%s]}`, name, strings.Join(records, ",")))
		}
		zone := strings.TrimSuffix(c.url[strings.LastIndex(c.url, "/")+1:], ".") + "."
		return 200, fmt.Sprintf(`{"id":%q,"name":%q,"kind":"Master","url":"/api/v1/servers/localhost/zones/%s","rrsets":[%s]}`, zone, zone, zone, strings.Join(sets, ","))
	}
}

func inwxAnswer() func(call) (int, string) {
	return func(c call) (int, string) {
		if strings.Contains(c.body, "nameserver.info") {
			return 200, fmt.Sprintf(`{"code":1000,"resData":{"record":[{"id":11,"content":"other"},{"id":12,"content":%q}]}}`, Value(keyAuth))
		}
		return 200, `{"code":1000,"msg":"Command completed successfully","resData":{"tfa":"0"}}`
	}
}

// fill puts the names into what is wanted.
func fill(s, fqdn, zone string) string {
	return strings.NewReplacer("{zone}", zone, "{sub}", strings.TrimSuffix(fqdn, "."+zone+"."), "{name}", strings.TrimSuffix(fqdn, "."), "{value}", Value(keyAuth)).Replace(s)
}

// compare looks at the requests that change something, in order.
func compare(t *testing.T, calls []call, wants []want, s scenario, fqdn, zone string) {
	t.Helper()
	calls = slices.DeleteFunc(calls, func(c call) bool { return c.method == http.MethodGet })
	if len(calls) != len(wants) {
		t.Fatalf("requests %v, want %v", calls, wants)
	}
	for i, c := range calls {
		if got, want := c.method+" "+c.url, fill(wants[i].request, fqdn, zone); got != want {
			t.Errorf("request %q, want %q", got, want)
		}
		for part := range strings.SplitSeq(fill(wants[i].body, fqdn, zone), "|") {
			if !strings.Contains(c.body, part) {
				t.Errorf("%s %s: body %s lacks %s", c.method, c.url, c.body, part)
			}
		}
		if s.login[0] != "" && c.header.Get(s.login[0]) != s.login[1] {
			t.Errorf("%s %s: %s: %q", c.method, c.url, s.login[0], c.header.Get(s.login[0]))
		}
	}
}

// Each provider writes exactly the effective name and value that it is told, and
// removes the same, below the name of the certificate and where a CNAME has led.
func TestPresentAndCleanUp(t *testing.T) {
	for _, s := range scenarios {
		for _, at := range []struct{ fqdn, zone string }{{plainName, "example.com"}, {cnameName, "example.net"}} {
			if s.provider == "acme-dns" && at.fqdn == plainName {
				continue // acme-dns is always behind a CNAME
			}
			t.Run(s.provider+" "+at.fqdn, func(t *testing.T) {
				switch s.provider { // these two remember
				case "desec":
					s.answer = desecAnswer()
				case "pdns":
					s.answer = pdnsAnswer()
				}
				f := newFake(t, s.answer)
				p := f.open(s.provider, s.values)
				if err := p.Present(background(t), at.fqdn, keyAuth); err != nil {
					t.Fatal(err)
				}
				compare(t, f.took(), s.present, s, at.fqdn, at.zone)
				if err := p.CleanUp(background(t), at.fqdn, keyAuth); err != nil {
					t.Fatal(err)
				}
				compare(t, f.took(), s.cleanUp, s, at.fqdn, at.zone)
			})
		}
	}
}
