package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// lego's provider for acme-dns registers a new account for each name that it does
// not know, and looks accounts up by the name of the certificate. With the
// effective name known, the account is the one whose fulldomain it is, and a
// missing one is an error. So this is our own: one request
// (https://github.com/joohoi/acme-dns#api).

var acmednsDefinition = &definition{
	name: "acme-dns", aliases: []string{"acmedns"}, lego: []string{"ACME_DNS_"}, certbot: []string{"dns_acmedns_"},
	ttl: 1, propagation: time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "api_base", Meaning: "URL of the acme-dns server", Required: true,
			Lego: []string{"ACME_DNS_API_BASE"}, Certbot: []string{"dns_acmedns_api_url"}},
		{Name: "storage_path", Meaning: "JSON file with the accounts by name, as lego, certbot and acme-dns-client keep it", OneOf: "file", Required: true,
			Lego: []string{"ACME_DNS_STORAGE_PATH"}, Certbot: []string{"dns_acmedns_registration_file"}},
		{Name: "username", Meaning: "user of the one account", OneOf: "account", Required: true},
		{Name: "password", Meaning: "its password", Secret: true, OneOf: "account", Required: true},
		{Name: "subdomain", Meaning: "its subdomain", OneOf: "account", Required: true},
		{Name: "allow_http", Meaning: "yes: http:// to another host than this one, where the password can be read on the way", Default: "no"},
		{Name: "allowlist", Meaning: "networks for new accounts, which are not made here: has no effect", Lego: []string{"ACME_DNS_ALLOWLIST"}},
	},
	build: buildAcmeDNS,
}

type acmedns struct {
	api      api
	base     string
	accounts []acmednsAccount
}

type acmednsAccount struct {
	FullDomain string `json:"fulldomain"`
	SubDomain  string `json:"subdomain"`
	Username   string `json:"username"`
	Password   string `json:"password"`
}

func buildAcmeDNS(s *setting) (backend, error) {
	plain, err := yes("allow_http", s.values["allow_http"])
	if err != nil {
		return nil, err
	}
	s.way.plain = plain
	base, err := parseBase(s.values["api_base"], plain)
	if err != nil {
		return nil, fmt.Errorf("api_base: %w", err)
	}
	a := &acmedns{api: api{client: s.way.client()}, base: strings.TrimSuffix(base.String(), "/")}
	if path := s.values["storage_path"]; path != "" {
		if a.accounts, err = readAccounts(path); err != nil {
			return nil, fmt.Errorf("storage_path: %w", err)
		}
	} else {
		a.accounts = []acmednsAccount{{SubDomain: s.values["subdomain"], Username: s.values["username"], Password: s.values["password"]}}
	}
	for _, account := range a.accounts {
		s.hide(account.Password)
	}
	return a, nil
}

func readAccounts(path string) ([]acmednsAccount, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	byName := map[string]acmednsAccount{}
	if err := json.Unmarshal(data, &byName); err != nil {
		return nil, fmt.Errorf("%s: not a JSON object of accounts", path) // the library's text may quote the file
	}
	accounts := make([]acmednsAccount, 0, len(byName))
	for name, account := range byName {
		if account.Username == "" || account.Password == "" || account.SubDomain == "" {
			return nil, fmt.Errorf("%s: %q: username, password or subdomain is missing", path, name)
		}
		accounts = append(accounts, account)
	}
	if len(accounts) == 0 {
		return nil, fmt.Errorf("%s: holds no account", path)
	}
	return accounts, nil
}

// account is the one that may write fqdn.
func (a *acmedns) account(fqdn string) (acmednsAccount, error) {
	name := strings.TrimSuffix(fqdn, ".")
	for _, account := range a.accounts {
		full := strings.ToLower(strings.TrimSuffix(account.FullDomain, "."))
		if full == name || full == "" && strings.HasPrefix(name, strings.ToLower(account.SubDomain)+".") {
			return account, nil
		}
	}
	return acmednsAccount{}, faulty(NoZone, "no account is for "+name+": the CNAME of the challenge's name has to point to an account's fulldomain")
}

func (a *acmedns) present(ctx context.Context, r record) error {
	account, err := a.account(r.fqdn)
	if err != nil {
		return err
	}
	to := a.api
	to.header = http.Header{"X-Api-User": {account.Username}, "X-Api-Key": {account.Password}}
	err = to.do(ctx, http.MethodPost, a.base+"/update", map[string]string{"subdomain": account.SubDomain, "txt": r.value()}, nil)
	var s *statusError
	if errors.As(err, &s) && s.status == http.StatusBadRequest && strings.Contains(s.body, "bad_subdomain") {
		return &fault{kind: Refused, err: err}
	}
	return err
}

// cleanUp has nothing to do: acme-dns keeps the last two values and cannot remove
// any.
func (a *acmedns) cleanUp(context.Context, record) error { return nil }

func (a *acmedns) check(_ context.Context, r record) error {
	_, err := a.account(r.fqdn)
	return err
}
