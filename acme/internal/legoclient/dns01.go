package legoclient

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// dnsWay answers dns-01 by TXT records.
type dnsWay struct{ ch Challenge }

func (dnsWay) kind() string { return DNS01 }

func (d dnsWay) oneByOne() bool {
	p, ok := d.ch.DNS.(interface{ Sequential() bool })
	return ok && p.Sequential()
}

// abandon is how long after the end of its context a provider's call is waited
// for. It should not take any time, but foreign code can.
const abandon = 100 * time.Millisecond

// record is one TXT record. Its name is looked up once, so that what is removed is
// what was written, whatever happens to a CNAME in between.
type record struct {
	identifier string
	fqdn       string // effective, with the final dot
	keyAuth    string
	tried      bool // Present was called
}

// value is what the record holds (RFC 8555 section 8.4).
func (r record) value() string {
	sum := sha256.Sum256([]byte(r.keyAuth))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (d dnsWay) check(ctx context.Context, names []string) error {
	p, ok := d.ch.DNS.(interface {
		Check(ctx context.Context, fqdn string) error
	})
	if !ok {
		return nil
	}
	res, err := newResolver(d.ch.Resolvers)
	if err != nil {
		return err
	}
	return each(len(names), func(i int) error {
		fqdn, err := d.effective(ctx, res, task{identifier: names[i], domain: trimWildcard(names[i])})
		if err != nil {
			return err
		}
		return local("dns provider", names[i], within(ctx, func() error { return p.Check(ctx, fqdn) }))
	})
}

func trimWildcard(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		return name[2:]
	}
	return name
}

func (d dnsWay) present(ctx context.Context, tasks []task) (func(context.Context) error, error) {
	records := make([]record, len(tasks))
	down := func(late context.Context) error { return d.remove(late, records) }
	res, err := newResolver(d.ch.Resolvers)
	if err != nil {
		return down, err
	}
	err = each(len(tasks), func(i int) error {
		fqdn, err := d.effective(ctx, res, tasks[i])
		records[i] = record{identifier: tasks[i].identifier, fqdn: fqdn, keyAuth: tasks[i].keyAuth}
		return err
	})
	if err != nil {
		return down, err
	}
	err = each(len(records), func(i int) error {
		r := &records[i]
		r.tried = true
		return local("dns provider", r.identifier, within(ctx, func() error { return d.ch.DNS.Present(ctx, r.fqdn, r.keyAuth) }))
	})
	if err != nil {
		return down, err
	}
	timeout, interval := d.ch.DNS.Timeout()
	if d.ch.Propagation > 0 {
		timeout = d.ch.Propagation
	}
	return down, propagation{res: res, timeout: timeout, interval: interval}.wait(ctx, records)
}

// remove takes every record away that may be there, also the one whose Present
// failed half-way.
func (d dnsWay) remove(ctx context.Context, records []record) error {
	return each(len(records), func(i int) error {
		r := records[i]
		if !r.tried {
			return nil
		}
		err := within(ctx, func() error { return d.ch.DNS.CleanUp(ctx, r.fqdn, r.keyAuth) })
		if err != nil {
			return fmt.Errorf("removing the TXT record of %s: %w", r.fqdn, err)
		}
		return nil
	})
}

// within calls a provider, and leaves it behind if it does not end with ctx.
func within(ctx context.Context, call func() error) error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(abandon)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		return fmt.Errorf("the DNS provider does not answer: %w", context.Cause(ctx))
	}
}

// maxCNAME is how many aliases are followed.
const maxCNAME = 10

// effective is the name that the record goes to: _acme-challenge.<name>, or
// where a chain of CNAMEs leads from there. The CA follows them, too.
//
// Without any resolver that answers, the name itself is taken: a host that may
// not ask the DNS can still have a provider with an API. An answer that is an
// error is one, because a record in the wrong place costs a failed validation.
func (d dnsWay) effective(ctx context.Context, res *resolver, t task) (string, error) {
	fqdn := dns.Fqdn("_acme-challenge." + t.domain)
	if d.ch.DisableCNAME {
		return fqdn, nil
	}
	for seen := 0; ; seen++ {
		if seen == maxCNAME {
			return "", &Error{Op: "dns", Identifier: t.identifier, Kind: Local, Detail: fmt.Sprintf("more than %d CNAMEs from _acme-challenge.%s", maxCNAME, t.domain)}
		}
		msg, err := res.ask(ctx, fqdn, dns.TypeCNAME)
		if ctx.Err() != nil {
			return "", canceled(ctx)
		}
		var bad *answerError
		if errors.As(err, &bad) {
			return "", &Error{Op: "dns", Identifier: t.identifier, Kind: Local, Err: err, Detail: fmt.Sprintf("asking whether %s is an alias: %v", fqdn, err)}
		}
		if err != nil {
			return fqdn, nil
		}
		target := alias(msg, fqdn)
		if target == "" {
			return fqdn, nil
		}
		fqdn = target
	}
}

// alias is the target of the CNAME of name in msg; "" for none.
func alias(msg *dns.Msg, name string) string {
	for _, rr := range msg.Answer {
		if c, ok := rr.(*dns.CNAME); ok && dns.CanonicalName(c.Hdr.Name) == dns.CanonicalName(name) {
			return dns.CanonicalName(c.Target)
		}
	}
	return ""
}
