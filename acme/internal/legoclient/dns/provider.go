package dns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// record is what a call is about.
type record struct {
	fqdn    string // lower case, with its final dot
	zone    string // with its final dot; "" if the provider did not ask for it
	keyAuth string
}

func (r record) value() string { return Value(r.keyAuth) }

// name is fqdn without its final dot.
func (r record) name() string { return strings.TrimSuffix(r.fqdn, ".") }

// zoneName is zone without its final dot.
func (r record) zoneName() string { return strings.TrimSuffix(r.zone, ".") }

// sub is the name within the zone; "" at its apex.
func (r record) sub() string {
	return strings.TrimSuffix(strings.TrimSuffix(r.fqdn, r.zone), ".")
}

// backend is the part that differs between providers.
type backend interface {
	present(context.Context, record) error
	cleanUp(context.Context, record) error
}

// checker is a backend that can ask whether its credentials are accepted.
type checker interface {
	check(context.Context, record) error
}

// grace is how long a call may go on when its context has ended. What does not
// know the context is then left to end by itself.
const grace = 500 * time.Millisecond

// provider does for all backends what is the same: one call at a time, the zone,
// the context, the kind of an error, and that no secret gets into one.
type provider struct {
	name      string
	back      backend
	needsZone bool
	resolvers []string
	way       *transport
	redact    redactor
	timeout   time.Duration
	interval  time.Duration

	turn chan struct{} // holds one token; who has it may call the backend

	mu     sync.Mutex
	failed map[string]bool // records whose Present failed
}

// Timeout implements Provider.
func (p *provider) Timeout() (timeout, interval time.Duration) { return p.timeout, p.interval }

// Present implements Provider.
func (p *provider) Present(ctx context.Context, fqdn, keyAuth string) error {
	err := p.call(ctx, "present", record{fqdn: fqdn, keyAuth: keyAuth}, p.back.present)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failed[fqdn+" "+keyAuth] = true
		return err
	}
	delete(p.failed, fqdn+" "+keyAuth)
	return nil
}

// CleanUp implements Provider.
func (p *provider) CleanUp(ctx context.Context, fqdn, keyAuth string) error {
	err := p.call(ctx, "clean up", record{fqdn: fqdn, keyAuth: keyAuth}, p.back.cleanUp)
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := p.failed[fqdn+" "+keyAuth]
	delete(p.failed, fqdn+" "+keyAuth)
	var e *Error
	if failed && errors.As(err, &e) && e.Kind == Failed {
		return nil // there is nothing to be removed, or only the provider knows it
	}
	return err
}

// Check implements Provider.
func (p *provider) Check(ctx context.Context, fqdn string) error {
	c, ok := p.back.(checker)
	if !ok {
		return nil
	}
	return p.call(ctx, "check", record{fqdn: fqdn}, c.check)
}

// call runs f with the record completed, when it is its turn, and returns when f
// or ctx has ended, whatever f does.
func (p *provider) call(ctx context.Context, op string, r record, f func(context.Context, record) error) error {
	e := &Error{Provider: p.name, Op: op, FQDN: r.fqdn}
	if err := validName(r.fqdn); err != nil {
		e.Kind, e.Err = Configuration, err
		return e
	}
	r.fqdn = dns.CanonicalName(r.fqdn)
	select {
	case <-p.turn:
	case <-ctx.Done():
		return judge(e, ctx, ctx.Err(), answer{}, p.redact)
	}
	if ctx.Err() != nil { // select takes any of two that are ready
		p.turn <- struct{}{}
		return judge(e, ctx, ctx.Err(), answer{}, p.redact)
	}
	p.way.begin(ctx)
	done := make(chan error, 1)
	go func() {
		defer func() { p.turn <- struct{}{} }()
		done <- p.run(ctx, r, f)
	}()
	err := wait(ctx, done)
	last := p.way.seen()
	if op == "clean up" {
		err = gone(err, last)
	}
	if err == nil {
		return nil
	}
	return judge(e, ctx, err, last, p.redact)
}

// run is the call itself. A panic in a library is an error of the call, not the
// end of the daemon.
func (p *provider) run(ctx context.Context, r record, f func(context.Context, record) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	if p.needsZone {
		if r.zone, err = findZone(ctx, r.fqdn, p.resolvers); err != nil {
			return err
		}
	}
	return f(ctx, r)
}

// wait is for done, and for the grace at most once ctx has ended.
func wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return ctx.Err()
	}
}

// gone corrects the result of a clean-up: what is not there need not be removed,
// and some of lego's providers only log that a removal was refused.
func gone(err error, last answer) error {
	removing := last.method != "" && last.method != http.MethodGet
	switch {
	case err != nil && last.status == http.StatusNotFound && removing:
		return nil
	case err == nil && removing && (last.failed || last.status >= 400) && last.status != http.StatusNotFound:
		return errors.New("the record may not have been removed")
	}
	return err
}

// validName refuses what is no name for a record: relative, or with characters
// that could mean something in a URL or in an argument.
func validName(fqdn string) error {
	if len(fqdn) > 254 || !strings.HasSuffix(fqdn, ".") || strings.Count(fqdn, ".") < 2 {
		return fmt.Errorf("%q is no fully qualified name with a final dot", fqdn)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(fqdn, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Errorf("%q is no name of a TXT record", fqdn)
		}
	}
	return nil
}
