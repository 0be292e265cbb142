package acme

import (
	"context"
	"errors"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/lock"
	"postcert/verify/problem"
)

// trialWait is how long a trial before an order waits for another one.
const trialWait = 5 * time.Second

// dryRun makes a whole order at a directory for trials, and keeps nothing of it.
func (m *Manager) dryRun(ctx context.Context, spec Spec, o Options) (Result, error) {
	trial, roots := o.DryRunDirectory, o.DryRunRoots
	if trial == "" {
		trial, roots = m.staging(spec.Directory), spec.Roots
	}
	if trial == "" {
		return Result{}, problem.List{problem.New("dry_run_directory", problem.At{}, "the CA %s has no directory for trials that is known; name one", spec.Directory)}
	}
	if found := checkDirectory(trial, roots); found.Err() != nil {
		return Result{}, found
	}
	var r Result
	err := m.lockCA(ctx, trial, func() (err error) {
		r, err = m.rehearse(ctx, spec, trial, roots)
		return err
	})
	return r, err
}

// rehearse is an order at another directory whose certificate is checked and
// thrown away. The caller holds the lock of that directory's CA.
func (m *Manager) rehearse(ctx context.Context, spec Spec, trial string, roots []byte) (Result, error) {
	home := spec.Directory
	spec.Directory, spec.Roots = trial, roots
	c, err := m.connect(trial, roots)
	if err != nil {
		return Result{}, err
	}
	dir, err := c.Directory(ctx)
	if err != nil {
		return Result{}, err
	}
	a, err := m.trialAccount(ctx, c, dir, spec, home)
	if err != nil {
		return Result{}, err
	}
	res := Result{Reason: ReasonForce}
	profile := spec.Profile
	if p := profileProblem(spec, dir); p != nil {
		if p.Severity == problem.Error {
			return res, &Error{Class: ClassRequest, Problems: problem.List{*p}}
		}
		res.Warnings, profile = append(res.Warnings, *p), ""
	}
	key, err := newKey(spec.KeyType)
	if err != nil {
		return res, err
	}
	csr, err := request(key, spec.Identifiers)
	if err != nil {
		return res, err
	}
	order, err := c.NewOrder(ctx, a.client(), legoclient.OrderRequest{Identifiers: spec.Identifiers, Profile: profile})
	if err != nil {
		return res, err
	}
	res.OrderURL = order.URL
	_, chain, err := m.walk(ctx, c, a.client(), spec, order, csr)
	if err != nil {
		return res, err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return res, err
	}
	p := Pending{Directory: trial, AccountURI: a.URI, Identifiers: spec.Identifiers, KeyType: spec.KeyType, Profile: spec.Profile,
		Ordered: profile, SPKI: spki(key.Public()), OrderURL: order.URL}
	st := State{}
	st.measured(dir.Skew, m.now())
	v, _, err := checked(p, encoded, chain, st.at(m.now()))
	if err != nil {
		return res, err
	}
	res.Version = &v
	return res, nil
}

// trialAccount is the account at the directory for trials. If there is none, it
// is registered with what was agreed to and told at home, provided that the terms
// are the same.
func (m *Manager) trialAccount(ctx context.Context, c ca, dir legoclient.Directory, spec Spec, home string) (account, error) {
	a, err := m.settled(ctx, c, spec.Directory, spec.Account)
	if !problem.From(err).Has("account_missing") {
		return a, err
	}
	at, herr := m.Store.account(home, spec.Account)
	if herr != nil {
		return a, herr
	}
	if at.state == nil {
		return a, err
	}
	s := AccountSpec{Directory: spec.Directory, Roots: spec.Roots, Label: spec.Account, KeyType: EC256}
	s.AgreeTerms = dir.Terms != "" && dir.Terms == at.state.Terms
	if _, err := m.newAccount(ctx, c, s, at.state.Contact, nil); err != nil {
		return a, err
	}
	return m.settled(ctx, c, spec.Directory, spec.Account)
}

// trial goes through the CA's directory for trials first, after a validation has
// failed: what fails there uses up nothing. Only a failure that the order would
// meet as well counts.
func (r *run) trial(ctx context.Context) error {
	trial := r.m.staging(r.spec.Directory)
	if trial == "" || trial == r.spec.Directory || r.o.Force || r.st.Class != ClassValidation || r.st.Failures == 0 ||
		r.st.SpecHash != r.spec.Hash() || r.st.resumable(r.spec, r.st.at(r.m.now())) {
		return nil
	}
	err := r.m.Store.withLock(ctx, "account-"+caKey(trial), trialWait, func() error {
		_, err := r.m.rehearse(ctx, r.spec, trial, r.spec.Roots)
		return err
	})
	var held *lock.HeldError
	switch class := Classify(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &held) && (class == ClassValidation || class == ClassLocal):
		return err
	}
	r.m.log().Info("the trial before the order was not made", "name", r.spec.Name, "directory", trial, "err", err)
	return nil
}
