package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// landed finishes an order whose certificate is on disk already: the run that
// stored it was killed before it could clear up.
func (r *run) landed() (bool, error) {
	p := r.st.Pending
	if p == nil || p.OrderURL == "" {
		return false, nil
	}
	v, err := r.m.Store.byOrder(r.spec.Name, p.OrderURL)
	if err != nil || v == nil {
		return false, err
	}
	r.result.Resumed = true
	return true, r.settle(v)
}

// begun returns the order to go on with: the one that was begun, if it is still
// alive at the CA and for the same things, else a new one. Key, request and what
// is ordered are on disk before the CA hears of it, and the order's URL is before
// anything is done with it.
func (r *run) begun(ctx context.Context, profile string) (legoclient.Order, error) {
	name := r.spec.Name
	t := r.st.at(r.m.now())
	p := r.st.Pending
	if p != nil && (!r.spec.fits(p) || p.AccountURI != r.acct.URI || !p.Expires.IsZero() && !t.Before(p.Expires)) {
		r.m.log().Info("an order that was begun is of no use any more", "name", name, "order", p.OrderURL)
		if err := r.m.Store.removeDir(r.m.Store.cert(name, dirPending)); err != nil {
			return legoclient.Order{}, err
		}
		r.st.Pending, p = nil, nil
	}
	if p != nil && p.OrderURL != "" {
		o, err := r.c.Order(ctx, r.acct.client(), p.OrderURL)
		gone := err == nil && o.Status == "invalid" && o.Err == nil || err != nil && orderGone(err)
		if !gone {
			r.result.Resumed = err == nil
			return o, err
		}
		r.m.log().Info("the CA has no such order any more", "name", name, "order", p.OrderURL)
		if err := r.m.Store.removeDir(r.m.Store.cert(name, dirPending)); err != nil {
			return legoclient.Order{}, err
		}
		r.st.Pending, p = nil, nil
	}
	// A new order: what a resumed one passes over counts now.
	if next := capped(r.st.Orders, t); next.After(t) {
		return legoclient.Order{}, r.held("cap", next)
	}
	if p == nil {
		if err := r.prepare(ctx, profile, t); err != nil {
			return legoclient.Order{}, err
		}
	}
	return r.place(ctx, profile)
}

// orderGone tells whether the CA says that there is no such order.
func orderGone(err error) bool {
	var e *legoclient.Error
	if !errors.As(err, &e) || e.Kind == legoclient.Network && e.Status != 404 {
		return false
	}
	return e.Status == 404 || e.Type == "malformed"
}

// prepare chooses the key and puts it on disk, with the request.
func (r *run) prepare(ctx context.Context, profile string, t time.Time) error {
	key, err := r.key(ctx)
	if err != nil {
		return err
	}
	csr, err := request(key, r.spec.Identifiers)
	if err != nil {
		return err
	}
	p := Pending{
		Created: t, Directory: r.spec.Directory, AccountURI: r.acct.URI, Identifiers: r.spec.Identifiers,
		KeyType: r.spec.KeyType, Profile: r.spec.Profile, Ordered: profile, SPKI: spki(key.Public()),
	}
	if err := r.m.Store.begin(r.spec.Name, p, key, csr); err != nil {
		return err
	}
	r.st.Pending = &p
	return nil
}

// key chooses the key of the next certificate.
func (r *run) key(ctx context.Context) (crypto.Signer, error) {
	cur := r.st.Current
	if cur == nil {
		return newKey(r.spec.KeyType)
	}
	same := cur.KeyType == r.spec.KeyType && cur.SPKI != r.st.Compromised
	var next crypto.Signer
	if r.spec.KeyPolicy == KeyStaged {
		var err error
		if next, err = r.staged(); err != nil {
			return nil, err
		}
		same = same && !r.o.AllowKeyChange
	}
	if same && r.spec.KeyPolicy != KeyRotate {
		return r.m.Store.readKey(cur.Key())
	}
	if err := r.keyMayChange(ctx); err != nil {
		return nil, err
	}
	if next != nil {
		return next, nil
	}
	return newKey(r.spec.KeyType)
}

// staged is the next key, made if there is none of this type yet.
func (r *run) staged() (crypto.Signer, error) {
	path := r.m.Store.nextKeyPath(r.spec.Name)
	key, err := r.m.Store.readKey(path)
	if err != nil && !missing(err) {
		return nil, err
	}
	if err != nil || keyType(key.Public()) != r.spec.KeyType {
		if key, err = newKey(r.spec.KeyType); err != nil {
			return nil, err
		}
		if err := r.m.Store.writeKey(path, key); err != nil {
			return nil, err
		}
	}
	r.st.NextSPKI = spki(key.Public())
	return key, nil
}

// keyMayChange refuses a key change that a TLSA record may forbid: mail servers
// that check DANE would stop delivering (RFC 7672 section 8.1). Only the answer
// that there is no record is good enough.
func (r *run) keyMayChange(ctx context.Context) error {
	if r.o.AllowKeyChange {
		return nil
	}
	var found problem.List
	for _, name := range r.spec.Identifiers {
		answer, err := TLSAUnknown, error(nil)
		if r.m.TLSA != nil {
			answer, err = r.m.TLSA(ctx, name)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && answer == TLSANone {
			continue
		}
		why := "whether it has a TLSA record is not known"
		if err == nil && answer == TLSAPresent {
			why = "it has a TLSA record"
		} else if err != nil {
			why += fmt.Sprintf(" (%v)", err)
		}
		found = append(found, problem.New("key_change_refused", problem.At{}, "the certificate would get another key, which needs care with DANE: _25._tcp.%s: %s", name, why))
	}
	if found == nil {
		return nil
	}
	return &Error{Class: ClassRefused, Problems: found}
}

// place makes the order. It is counted before the CA hears of it, and counted
// back only if the CA has said that it made none.
func (r *run) place(ctx context.Context, profile string) (legoclient.Order, error) {
	t := r.st.at(r.m.now())
	set := setHash(r.spec.Identifiers)
	if err := r.m.Store.changeLedger(r.spec.Directory, t, func(l *ledger) { l.Orders[set] = append(l.Orders[set], t) }); err != nil {
		return legoclient.Order{}, err
	}
	if cur := r.st.Current; r.result.Reason == ReasonARI && r.due.Due.Before(cur.lifetimeDue()) {
		r.st.ARIOrders = append(slices.DeleteFunc(r.st.ARIOrders, t.Add(-day).After), t)
	}
	r.touch()
	if err := r.m.Store.writeState(r.spec.Name, r.st); err != nil {
		return legoclient.Order{}, err
	}
	o, err := r.newOrder(ctx, legoclient.OrderRequest{Identifiers: r.spec.Identifiers, Profile: profile, Replaces: r.replaces(t)})
	if err != nil {
		if noOrder(err) {
			lerr := r.m.Store.changeLedger(r.spec.Directory, t, func(l *ledger) {
				l.Orders[set] = slices.DeleteFunc(l.Orders[set], t.Equal)
			})
			return o, errors.Join(err, lerr)
		}
		return o, err
	}
	r.st.Orders = append(r.st.Orders, t)
	p := *r.st.Pending
	p.OrderURL, p.Expires, p.Replaces, p.AccountURI = o.URL, o.Expires.UTC(), o.Replaces, r.acct.URI
	if err := r.m.Store.writePending(r.spec.Name, p); err != nil {
		return o, err
	}
	r.st.Pending = &p
	r.result.OrderURL = o.URL
	return o, nil
}

// noOrder tells whether the CA said that it made no order: an answer with an
// error status. Without an answer it may have made one.
func noOrder(err error) bool {
	return !slices.ContainsFunc(leaves(err), func(leaf error) bool {
		var e *legoclient.Error
		return !errors.As(leaf, &e) || e.Status < 400 && e.Type != "invalidProfile" && e.Kind != legoclient.Local
	})
}

// plainAfter is the number of failures in a row after which orders say no more
// than they must.
const plainAfter = 2

// replaces is the ARI identifier of the certificate that the order follows, ""
// if the CA would refuse it: RFC 9773 section 5. After failures in a row it is left
// out, whatever they were: a CA may answer with an error of its own what it does
// not find.
func (r *run) replaces(t time.Time) string {
	v := r.st.Current
	shared := v != nil && slices.ContainsFunc(v.Identifiers, func(name string) bool { return slices.Contains(r.spec.Identifiers, name) })
	if !shared || !r.dir.ARI || v.Directory != r.spec.Directory || v.AccountURI != r.acct.URI ||
		!t.Before(v.NotAfter) || r.st.Replaced == v.SHA256 || r.st.Failures >= plainAfter {
		return ""
	}
	return v.ARICertID
}

// newOrder asks for an order, and once more without what the CA may object to:
// the certificate it replaces, or an account that it has lost.
func (r *run) newOrder(ctx context.Context, req legoclient.OrderRequest) (legoclient.Order, error) {
	o, err := r.c.NewOrder(ctx, r.acct.client(), req)
	if err != nil && caType(err) == "accountDoesNotExist" {
		if r.acct, err = r.m.revive(ctx, r.c, r.dir, r.acct); err != nil {
			return o, err
		}
		req.Replaces = "" // it belongs to the account that was lost
		o, err = r.c.NewOrder(ctx, r.acct.client(), req)
	}
	if err == nil || req.Replaces == "" || !replacesRefused(err) {
		return o, err
	}
	r.m.log().Info("the CA does not accept what the order replaces; it is made without", "name", r.spec.Name, "err", err)
	if caType(err) == "alreadyReplaced" {
		r.st.Replaced = r.st.Current.SHA256
	}
	req.Replaces = ""
	return r.c.NewOrder(ctx, r.acct.client(), req)
}

// replacesRefused tells whether an order may succeed without Replaces.
func replacesRefused(err error) bool {
	var e *legoclient.Error
	if !errors.As(err, &e) || e.Kind != legoclient.Protocol {
		return false
	}
	switch e.Type {
	case "alreadyReplaced", "malformed", "notFound", "unauthorized", "":
		return e.Status >= 400 && e.Status < 500
	case "serverInternal":
		// Pebble's word for a certificate that it does not find. One request more at
		// a CA that is really out of order; without it, none of the orders before
		// plainAfter succeeds at one that is not.
		return e.Status == http.StatusInternalServerError
	}
	return e.Status == 409
}

// advance takes the order from whatever state it is in to its certificate.
func (r *run) advance(ctx context.Context, o legoclient.Order) (legoclient.Chain, error) {
	r.result.OrderURL = o.URL
	_, csr, err := r.m.Store.pendingKey(r.spec.Name, r.st.Pending)
	if err != nil {
		return legoclient.Chain{}, err
	}
	if r.st.Guarded.After(r.st.at(r.m.now())) && o.Status == "pending" {
		return legoclient.Chain{}, r.held("guard", r.st.Guarded)
	}
	o, chain, err := r.m.walk(ctx, r.c, r.acct.client(), r.spec, o, csr)
	if err != nil {
		return chain, r.orderFailed(o, err)
	}
	return chain, nil
}

// walk goes the steps of RFC 8555 section 7.4 that are left of an order. With an
// error the order is returned as it was seen last.
func (m *Manager) walk(ctx context.Context, c ca, a legoclient.Account, spec Spec, o legoclient.Order, csr []byte) (legoclient.Order, legoclient.Chain, error) {
	step := func(f func() (legoclient.Order, error)) error {
		next, err := f()
		if err == nil || next.Status != "" {
			o = next
		}
		return err
	}
	var err error
	if o.Status == "pending" {
		if err = m.solve(ctx, c, a, spec, o); err == nil {
			o.Status = "ready" // if the CA is not that far yet, Finalize awaits it
		}
	}
	if err == nil && o.Status == "ready" {
		err = step(func() (legoclient.Order, error) { return c.Finalize(ctx, a, o, csr) })
	}
	if err == nil && o.Status != "valid" && o.Status != "invalid" {
		err = step(func() (legoclient.Order, error) { return c.Await(ctx, a, o.URL, "valid") })
	}
	if err == nil && o.Status == "invalid" {
		err = &legoclient.Error{Op: "order", Detail: "the order is invalid, and the CA does not say why", Kind: legoclient.ChallengeFailed}
	}
	if err != nil {
		return o, legoclient.Chain{}, err
	}
	chain, err := c.Download(ctx, a, o.Certificate, spec.PreferredChain)
	return o, chain, err
}

// solve validates the names of an order, one order of this host at a time.
func (m *Manager) solve(ctx context.Context, c ca, a legoclient.Account, spec Spec, o legoclient.Order) error {
	solver, err := m.newSolver(spec)
	if err != nil {
		return err
	}
	return m.lockSolve(ctx, func() error { return c.Solve(ctx, a, o, solver) })
}

// validationFailed counts the names that the CA could not validate, and gives up
// the order: it can't be used any more.
func (r *run) validationFailed(err error) error {
	var names []string
	for _, leaf := range leaves(err) {
		var e *legoclient.Error
		if !errors.As(leaf, &e) || classOfCA(e) != ClassValidation {
			continue
		}
		if e.Identifier != "" {
			names = append(names, e.Identifier)
		}
		for _, s := range e.Subproblems {
			names = append(names, s.Identifier)
		}
		if e.Identifier == "" && len(e.Subproblems) == 0 {
			names = append(names, r.spec.Identifiers...)
		}
	}
	if names == nil {
		return nil // nothing was validated: the order can be resumed
	}
	t := r.st.at(r.m.now())
	slices.Sort(names)
	names = slices.Compact(names)
	lerr := r.m.Store.changeLedger(r.spec.Directory, t, func(l *ledger) {
		for _, name := range names {
			if slices.Contains(r.spec.Identifiers, name) {
				l.Failures[name] = append(l.Failures[name], t)
			}
		}
	})
	r.st.Pending = nil
	return errors.Join(lerr, r.m.Store.removeDir(r.m.Store.cert(r.spec.Name, dirPending)))
}

// orderFailed is the error of an order that did not become a certificate. One
// that is invalid, or whose request is refused, can't be resumed.
func (r *run) orderFailed(o legoclient.Order, err error) error {
	if o.Status == "invalid" {
		if o.Err != nil {
			failed := *o.Err
			if failed.Type == "unauthorized" || failed.Type == "" {
				failed.Kind = legoclient.ChallengeFailed // of an order it is about a name, not the account
			}
			err = &failed
		}
		return errors.Join(err, r.dropped(err))
	}
	if o.Status == "valid" && Classify(err) == ClassRequest {
		// It is issued, and counted: it is asked for as long as the order lives.
		return &Error{Class: ClassPending, Err: err, Problems: problem.List{
			problem.New("order_pending", problem.At{}, "the certificate was issued and the CA does not hand it out: %v", err),
		}}
	}
	if class := Classify(err); class == ClassRequest || class == ClassValidation {
		return errors.Join(err, r.dropped(err))
	}
	return err
}

func (r *run) dropped(err error) error {
	if verr := r.validationFailed(err); verr != nil || r.st.Pending == nil {
		return verr
	}
	r.st.Pending = nil
	return r.m.Store.removeDir(r.m.Store.cert(r.spec.Name, dirPending))
}
