package legoclient

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// propagation waits until TXT records are on every name server of their zone, so
// that none of the CA's questions, which go to any of them, costs one of the few
// failed validations that it allows.
type propagation struct {
	res      *resolver
	timeout  time.Duration // for all records
	interval time.Duration // between looks
}

const (
	shortLook = 500 * time.Millisecond
	longLook  = 30 * time.Second
)

// sight is what one look at a record's name servers showed.
type sight int

const (
	unseen  sight = iota // a server answers and does not have it
	visible              // every server that answers has it, one at least
	silent               // no server answers
)

// wait returns when all records are visible. If no name server of a record can
// be asked, as behind a firewall, it waits for the whole time instead. A record
// that servers do not have by the end is an error.
func (p propagation) wait(ctx context.Context, records []record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	return each(len(records), func(i int) error {
		r := records[i]
		for look := shortLook; ; look = min(look*2, min(max(p.interval, shortLook), longLook)) {
			got, missing := p.look(ctx, r)
			if ctx.Err() != nil {
				return canceled(ctx)
			}
			if got == visible {
				return nil
			}
			left := p.timeout - time.Since(start)
			if left <= 0 && got == silent {
				return nil
			}
			if left <= 0 {
				return &Error{Op: "dns", Identifier: r.identifier, Kind: Local, Detail: fmt.Sprintf("after %s, the TXT record of %s is not on %s",
					p.timeout.Round(time.Second), r.fqdn, strings.Join(missing, ", "))}
			}
			if !sleep(ctx, min(look, left)) {
				return canceled(ctx)
			}
		}
	})
}

// look asks each name server of the record's zone once. missing are those that
// answer without the record.
func (p propagation) look(ctx context.Context, r record) (got sight, missing []string) {
	servers, err := p.res.authorities(ctx, r.fqdn)
	if err != nil {
		return silent, nil
	}
	got = silent
	for name, addresses := range servers {
		for _, address := range addresses {
			msg, err := exchange(ctx, address, r.fqdn, dns.TypeTXT, false)
			if err != nil {
				continue // another address of the same server may answer
			}
			if !hasTXT(msg, r.value()) {
				missing = append(missing, strings.TrimSuffix(name, "."))
			}
			got = visible
			break
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return unseen, missing
	}
	return got, nil
}

func hasTXT(msg *dns.Msg, value string) bool {
	for _, rr := range msg.Answer {
		if txt, ok := rr.(*dns.TXT); ok && strings.Join(txt.Txt, "") == value {
			return true
		}
	}
	return false
}
