package dns

import (
	"context"
	"os"

	"github.com/go-acme/lego/v4/challenge"
)

// legoBackend drives a provider of lego.
type legoBackend struct {
	made challenge.Provider
	ask  func(ctx context.Context, r record) error // whether the credentials are accepted; may be nil
}

// switches are variables of the environment that change what lego does at each
// call, whatever its configuration says; the last one prints requests with their
// credentials.
var switches = []string{"LEGO_DISABLE_CNAME_SUPPORT", "LEGO_EXPERIMENTAL_DNS_TCP_ONLY", "LEGO_DEBUG_DNS_API_HTTP_CLIENT"}

// deaf takes lego's switches out of the environment of this process.
func deaf() {
	for _, name := range switches {
		if _, set := os.LookupEnv(name); set {
			_ = os.Unsetenv(name) // fails for names with "=" only
		}
	}
}

func (l *legoBackend) present(_ context.Context, r record) error {
	return l.call(r, l.made.Present)
}

func (l *legoBackend) cleanUp(_ context.Context, r record) error {
	return l.call(r, l.made.CleanUp)
}

// call hands lego a domain that leads to r.fqdn, and, as the token, by which some
// of its providers remember the records that they have made, what is different
// for each.
func (l *legoBackend) call(r record, f func(domain, token, keyAuth string) error) error {
	deaf()
	d, err := theDesk()
	if err != nil {
		return err
	}
	if r.zone != "" {
		defer d.serve(r.zone)()
	}
	return f(domainFor(r.fqdn), r.fqdn+" "+r.keyAuth, r.keyAuth)
}

func (l *legoBackend) check(ctx context.Context, r record) error {
	if l.ask == nil {
		return nil
	}
	return l.ask(ctx, r)
}
