package dns

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var httpreqDefinition = &definition{
	name: "httpreq", lego: []string{"HTTPREQ_"},
	ttl: 120, propagation: time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "endpoint", Meaning: "URL of the service: it gets POST .../present and .../cleanup with {\"fqdn\", \"value\"}", Required: true, Lego: []string{"HTTPREQ_ENDPOINT"}},
		{Name: "username", Meaning: "user of HTTP basic authentication", Lego: []string{"HTTPREQ_USERNAME"}},
		{Name: "password", Meaning: "its password", Secret: true, Lego: []string{"HTTPREQ_PASSWORD"}},
		{Name: "mode", Meaning: "empty; lego's RAW is refused, as the service would look for the effective name anew", Lego: []string{"HTTPREQ_MODE"}},
	},
	build: func(s *setting) (backend, error) {
		if s.values["mode"] != "" {
			return nil, errors.New("mode: RAW is not supported: the service has to write the name and the value that it is told")
		}
		base, err := parseBase(s.values["endpoint"], false)
		if err != nil {
			return nil, fmt.Errorf("endpoint: %w", err)
		}
		h := &httpreq{api: api{client: s.way.client(), header: http.Header{}}, base: strings.TrimSuffix(base.String(), "/")}
		if base.RawQuery != "" || base.Fragment != "" {
			return nil, errors.New("endpoint: a query has no place in it")
		}
		if user, password := s.values["username"], s.values["password"]; user != "" || password != "" {
			login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
			h.api.header.Set("Authorization", "Basic "+login)
			s.hide(login)
		}
		return h, nil
	},
}

// httpreq tells a web service what to write, in lego's form
// (https://go-acme.github.io/lego/dns/httpreq/).
type httpreq struct {
	api  api
	base string
}

type httpreqMessage struct {
	FQDN  string `json:"fqdn"`
	Value string `json:"value"`
}

func (h *httpreq) present(ctx context.Context, r record) error {
	return h.api.do(ctx, http.MethodPost, h.base+"/present", httpreqMessage{r.fqdn, r.value()}, nil)
}

func (h *httpreq) cleanUp(ctx context.Context, r record) error {
	return h.api.do(ctx, http.MethodPost, h.base+"/cleanup", httpreqMessage{r.fqdn, r.value()}, nil)
}
