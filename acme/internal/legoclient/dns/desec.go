package dns

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// deSEC limits the rate of writes to two a second and fifteen a minute
// (https://desec.readthedocs.io/en/latest/rate-limits.html), which a certificate
// of a few names meets. lego's library for it then sleeps without a context, and
// logs to the standard logger. So this is our own, of three requests.

var desecDefinition = &definition{
	name: "desec", lego: []string{"DESEC_"}, certbot: []string{"dns_desec_"},
	ttl: 3600, propagation: 2 * time.Minute, interval: 4 * time.Second,
	fields: []Field{
		{Name: "token", Meaning: "token; best with a policy for the TXT records of _acme-challenge only", Secret: true, Required: true,
			Lego: []string{"DESEC_TOKEN"}, Certbot: []string{"dns_desec_token"}},
		{Name: "endpoint", Meaning: "URL of the API", Default: "https://desec.io/api/v1/", Certbot: []string{"dns_desec_endpoint"}},
	},
	build: func(s *setting) (backend, error) {
		base, err := parseBase(s.values["endpoint"], false)
		if err != nil {
			return nil, errors.Join(errors.New("endpoint:"), err)
		}
		header := http.Header{"Authorization": {"Token " + s.values["token"]}}
		return &desec{api: api{client: s.way.client(), header: header}, base: strings.TrimSuffix(base.String(), "/"), ttl: s.ttl, way: s.way}, nil
	},
}

type desec struct {
	api  api
	base string
	ttl  int
	way  *transport
}

type desecSet struct {
	SubName string   `json:"subname"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl,omitempty"`
	Records []string `json:"records"`
}

func (d *desec) present(ctx context.Context, r record) error {
	return d.change(ctx, r, func(records []string, value string) []string {
		if slices.Contains(records, value) {
			return records
		}
		return append(records, value)
	})
}

func (d *desec) cleanUp(ctx context.Context, r record) error {
	return d.change(ctx, r, func(records []string, value string) []string {
		return slices.DeleteFunc(records, func(s string) bool { return s == value })
	})
}

func (d *desec) check(ctx context.Context, r record) error {
	_, err := d.zone(ctx, r)
	return err
}

// change reads the record set, changes its values, and writes it back if they
// differ; a set without values is removed.
func (d *desec) change(ctx context.Context, r record, f func(records []string, value string) []string) error {
	zone, err := d.zone(ctx, r)
	if err != nil {
		return err
	}
	r.zone = zone + "."
	name := r.sub()
	if name == "" {
		name = "@"
	}
	var set desecSet
	err = d.do(ctx, http.MethodGet, "/domains/"+zone+"/rrsets/"+name+"/TXT/", nil, &set)
	var s *statusError
	if err != nil && !(errors.As(err, &s) && s.status == http.StatusNotFound) {
		return err
	}
	after := f(slices.Clone(set.Records), strconv.Quote(r.value()))
	if slices.Equal(after, set.Records) {
		return nil
	}
	if after == nil {
		after = []string{}
	}
	// PATCH of a list makes, changes or removes each set of it.
	return d.do(ctx, http.MethodPatch, "/domains/"+zone+"/rrsets/", []desecSet{{r.sub(), "TXT", max(set.TTL, d.ttl), after}}, nil)
}

// zone asks deSEC itself, which knows its zones best.
func (d *desec) zone(ctx context.Context, r record) (string, error) {
	var zones []struct{ Name string }
	if err := d.do(ctx, http.MethodGet, "/domains/?owns_qname="+url.QueryEscape(r.name()), nil, &zones); err != nil {
		return "", err
	}
	if len(zones) == 0 || zones[0].Name == "" || !strings.HasSuffix("."+r.name(), "."+zones[0].Name) {
		return "", faulty(NoZone, "no zone of this account holds "+r.name())
	}
	return zones[0].Name, nil
}

// patience is how long a request to wait is obeyed within a call.
const patience = 20 * time.Second

// do waits when deSEC asks for a short pause.
func (d *desec) do(ctx context.Context, method, path string, in, out any) error {
	for try := 0; ; try++ {
		err := d.api.do(ctx, method, d.base+path, in, out)
		last := d.way.seen()
		if err == nil || last.status != http.StatusTooManyRequests || last.after == 0 || last.after > patience || try == 5 {
			return err
		}
		t := time.NewTimer(last.after)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}
