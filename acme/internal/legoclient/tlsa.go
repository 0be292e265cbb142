package legoclient

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// HasTLSA tells whether DNS has a TLSA record for the mail server of this name
// (RFC 7672 section 3.1.3: _25._tcp.HOST), asking the given resolvers, addresses with or
// without a port, or those of /etc/resolv.conf. Whether the answer was signed is
// not looked at: somebody published it. The names below a wildcard can't be asked
// for; that is an error, as is every other answer than yes and no.
func HasTLSA(ctx context.Context, host string, resolvers []string) (bool, error) {
	if strings.HasPrefix(host, "*") {
		return false, &Error{Op: "dns", Kind: Local, Identifier: host, Detail: "the hosts that a wildcard covers are not known"}
	}
	r, err := newResolver(resolvers)
	if err != nil {
		return false, err
	}
	msg, err := r.ask(ctx, "_25._tcp."+host, dns.TypeTLSA)
	if err != nil {
		return false, &Error{Op: "dns", Kind: Local, Identifier: host, Detail: fmt.Sprintf("asking for its TLSA record: %v", err), Err: err}
	}
	for _, rr := range msg.Answer {
		if rr.Header().Rrtype == dns.TypeTLSA { // behind a CNAME, too
			return true, nil
		}
	}
	return false, nil
}
