package dns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/providers/dns/cloudflare"
	"github.com/go-acme/lego/v4/providers/dns/digitalocean"
	"github.com/go-acme/lego/v4/providers/dns/gandiv5"
	"github.com/go-acme/lego/v4/providers/dns/hetzner"
	"github.com/go-acme/lego/v4/providers/dns/pdns"
)

// What follows is lego's, each built from a Config that is filled in here: its
// NewDefaultConfig reads the environment.

var cloudflareDefinition = &definition{
	name: "cloudflare", lego: []string{"CLOUDFLARE_", "CF_"}, certbot: []string{"dns_cloudflare_"}, needsZone: true,
	ttl: 120, propagation: 2 * time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "api_token", Meaning: "token with Zone:Read and DNS:Edit", Secret: true, OneOf: "token", Required: true,
			Lego: []string{"CLOUDFLARE_DNS_API_TOKEN", "CF_DNS_API_TOKEN"}, Certbot: []string{"dns_cloudflare_api_token"}},
		{Name: "zone_token", Meaning: "token with Zone:Read, if api_token has not", Secret: true,
			Lego: []string{"CLOUDFLARE_ZONE_API_TOKEN", "CF_ZONE_API_TOKEN"}},
		{Name: "email", Meaning: "login of the account, with the global API key", OneOf: "global key", Required: true,
			Lego: []string{"CLOUDFLARE_EMAIL", "CF_API_EMAIL"}, Certbot: []string{"dns_cloudflare_email"}},
		{Name: "api_key", Meaning: "global API key: it can do everything; prefer a token", Secret: true, OneOf: "global key", Required: true,
			Lego: []string{"CLOUDFLARE_API_KEY", "CF_API_KEY"}, Certbot: []string{"dns_cloudflare_api_key"}},
	},
	build: func(s *setting) (backend, error) {
		p, err := cloudflare.NewDNSProviderConfig(&cloudflare.Config{
			AuthEmail: s.values["email"], AuthKey: s.values["api_key"], AuthToken: s.values["api_token"], ZoneToken: s.values["zone_token"],
			TTL: s.ttl, PropagationTimeout: s.propagate, PollingInterval: s.interval, HTTPClient: s.way.client(),
		})
		header := http.Header{}
		if token := s.values["zone_token"]; token != "" {
			bearer(header, token)
		} else if token := s.values["api_token"]; token != "" {
			bearer(header, token)
		} else {
			header.Set("X-Auth-Email", s.values["email"])
			header.Set("X-Auth-Key", s.values["api_key"])
		}
		return lego(p, err, func(ctx context.Context, r record) error {
			var got struct{ Result []struct{ ID string } }
			err := api{s.way.client(), header}.do(ctx, http.MethodGet, "https://api.cloudflare.com/client/v4/zones?name="+url.QueryEscape(r.zoneName()), nil, &got)
			if err == nil && len(got.Result) == 0 {
				return faulty(NoZone, "the credentials do not reach a zone "+r.zoneName())
			}
			var status *statusError
			if errors.As(err, &status) && status.status == http.StatusBadRequest { // a token that cannot be one
				return &fault{kind: Refused, err: err}
			}
			return err
		})
	},
}

var digitaloceanDefinition = &definition{
	name: "digitalocean", lego: []string{"DO_"}, certbot: []string{"dns_digitalocean_"}, needsZone: true,
	ttl: 30, propagation: time.Minute, interval: 5 * time.Second,
	fields: []Field{
		{Name: "token", Meaning: "personal access token with write access to domains", Secret: true, Required: true,
			Lego: []string{"DO_AUTH_TOKEN"}, Certbot: []string{"dns_digitalocean_token"}},
	},
	build: func(s *setting) (backend, error) {
		p, err := digitalocean.NewDNSProviderConfig(&digitalocean.Config{
			BaseURL: "https://api.digitalocean.com", AuthToken: s.values["token"],
			TTL: s.ttl, PropagationTimeout: s.propagate, PollingInterval: s.interval, HTTPClient: s.way.client(),
		})
		return lego(p, err, zoneExists(s, "https://api.digitalocean.com/v2/domains/", bearer(http.Header{}, s.values["token"])))
	},
}

var gandiDefinition = &definition{
	name: "gandi", aliases: []string{"gandiv5"}, lego: []string{"GANDIV5_"}, certbot: []string{"dns_gandi_", "dns_api_"}, needsZone: true,
	ttl: 300, propagation: 20 * time.Minute, interval: 20 * time.Second,
	fields: []Field{
		{Name: "token", Meaning: "personal access token", Secret: true, OneOf: "token", Required: true,
			Lego: []string{"GANDIV5_PERSONAL_ACCESS_TOKEN"}, Certbot: []string{"dns_gandi_token"}},
		{Name: "api_key", Meaning: "key of the LiveDNS API; Gandi wants tokens instead", Secret: true, OneOf: "key", Required: true,
			Lego: []string{"GANDIV5_API_KEY"}, Certbot: []string{"dns_gandi_api_key", "dns_api_key"}},
		{Name: "sharing_id", Meaning: "certbot's identifier of an organisation: has no effect", Certbot: []string{"dns_gandi_sharing_id", "dns_sharing_id"}},
	},
	build: func(s *setting) (backend, error) {
		p, err := gandiv5.NewDNSProviderConfig(&gandiv5.Config{
			PersonalAccessToken: s.values["token"], APIKey: s.values["api_key"],
			TTL: s.ttl, PropagationTimeout: s.propagate, PollingInterval: s.interval, HTTPClient: s.way.client(),
		})
		header := http.Header{"Authorization": {"Apikey " + s.values["api_key"]}}
		if token := s.values["token"]; token != "" {
			bearer(header, token)
		}
		return lego(p, err, zoneExists(s, "https://api.gandi.net/v5/livedns/domains/", header))
	},
}

var hetznerDefinition = &definition{
	name: "hetzner", lego: []string{"HETZNER_"}, certbot: []string{"dns_hetzner_", "dns_hcloud_"}, needsZone: true,
	ttl: 60, propagation: 2 * time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "api_token", Meaning: "token of a project of the Hetzner Console, for reading and writing", Secret: true, OneOf: "console", Required: true,
			Lego: []string{"HETZNER_API_TOKEN"}, Certbot: []string{"dns_hetzner_api_token", "dns_hcloud_api_token"}},
		{Name: "api_key", Meaning: "token of the old DNS Console (dns.hetzner.com)", Secret: true, OneOf: "old DNS console", Required: true,
			Lego: []string{"HETZNER_API_KEY"}},
	},
	build: func(s *setting) (backend, error) {
		p, err := hetzner.NewDNSProviderConfig(&hetzner.Config{
			APIToken: s.values["api_token"], APIKey: s.values["api_key"],
			TTL: s.ttl, PropagationTimeout: s.propagate, PollingInterval: s.interval, HTTPClient: s.way.client(),
		})
		if s.values["api_token"] == "" {
			return lego(p, err, nil)
		}
		return lego(p, err, zoneExists(s, "https://api.hetzner.cloud/v1/zones/", bearer(http.Header{}, s.values["api_token"])))
	},
}

var pdnsDefinition = &definition{
	name: "pdns", aliases: []string{"powerdns"}, lego: []string{"PDNS_"}, certbot: []string{"dns_powerdns_", "dns_pdns_"}, needsZone: true,
	ttl: 120, propagation: 2 * time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "api_url", Meaning: "URL of the server's API, such as http://127.0.0.1:8081", Required: true,
			Lego: []string{"PDNS_API_URL"}, Certbot: []string{"dns_powerdns_api_url", "dns_pdns_endpoint"}},
		{Name: "api_key", Meaning: "the server's api-key", Secret: true, Required: true,
			Lego: []string{"PDNS_API_KEY"}, Certbot: []string{"dns_powerdns_api_key", "dns_pdns_api_key"}},
		{Name: "server_name", Meaning: "the server's name in the API", Default: "localhost",
			Lego: []string{"PDNS_SERVER_NAME"}, Certbot: []string{"dns_pdns_server_id"}},
		{Name: "api_version", Meaning: "version of the API", Default: "1", Lego: []string{"PDNS_API_VERSION"}},
		{Name: "allow_http", Meaning: "yes: http:// to another host than this one, where the key can be read on the way", Default: "no"},
		{Name: "disable_notify", Meaning: "certbot's switch: has no effect, secondaries are always notified", Certbot: []string{"dns_pdns_disable_notify"}},
	},
	build: buildPDNS,
}

func buildPDNS(s *setting) (backend, error) {
	plain, err := yes("allow_http", s.values["allow_http"])
	if err != nil {
		return nil, err
	}
	s.way.plain = plain
	base, err := parseBase(s.values["api_url"], plain)
	if err != nil {
		return nil, fmt.Errorf("api_url: %w", err)
	}
	version, err := strconv.Atoi(s.values["api_version"])
	if err != nil || version < 1 { // lego would ask the server for 0, here and without a context
		return nil, errors.New("api_version: not a whole number from 1")
	}
	p, err := pdns.NewDNSProviderConfig(&pdns.Config{
		APIKey: s.values["api_key"], Host: base, ServerName: s.values["server_name"], APIVersion: version,
		TTL: s.ttl, PropagationTimeout: s.propagate, PollingInterval: s.interval, HTTPClient: s.way.client(),
	})
	zones := base.JoinPath("api", "v1", "servers", s.values["server_name"], "zones").String() + "/"
	exists := zoneExists(s, zones, http.Header{"X-Api-Key": {s.values["api_key"]}})
	return lego(p, err, func(ctx context.Context, r record) error {
		r.zone += "." // PowerDNS wants the final dot
		return exists(ctx, r)
	})
}

func lego(p challenge.Provider, err error, ask func(context.Context, record) error) (backend, error) {
	if err != nil {
		return nil, err
	}
	return &legoBackend{made: p, ask: ask}, nil
}

// bearer sets the header of a token (RFC 6750).
func bearer(header http.Header, token string) http.Header {
	header.Set("Authorization", "Bearer "+token)
	return header
}

// zoneExists asks for the zone with the credentials: base and the zone's name.
func zoneExists(s *setting, base string, header http.Header) func(context.Context, record) error {
	return func(ctx context.Context, r record) error {
		err := api{s.way.client(), header}.do(ctx, http.MethodGet, base+r.zoneName(), nil, nil)
		var status *statusError
		if errors.As(err, &status) && status.status == http.StatusNotFound {
			return faulty(NoZone, "the credentials do not reach a zone "+r.zoneName())
		}
		return err
	}
}
