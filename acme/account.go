package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// reregister is how often a lost account is registered anew without a person.
const reregister = 30 * day

// normal is s with its defaults, and its contacts as URLs.
func (s AccountSpec) normal() (AccountSpec, []string, error) {
	if s.Label == "" {
		s.Label = defaultAccount
	}
	if s.KeyType == "" {
		s.KeyType = EC256
	}
	found := append(checkDirectory(s.Directory, s.Roots), checkName("spec_name", "an account", s.Label)...)
	if !slices.Contains(keyTypes, s.KeyType) {
		found = append(found, problem.New("spec_key", problem.At{}, "%q is no key type: %s", brief(string(s.KeyType)), words(keyTypes)))
	}
	if (s.EABKeyID == "") != (s.EABFile == "") {
		found = append(found, problem.New("eab_required", problem.At{}, "an external account binding needs a key id and a file with its key"))
	}
	contact, err := contacts(s.Contact)
	found = append(found, problem.From(err)...)
	if found.Err() != nil {
		return s, nil, found
	}
	return s, contact, nil
}

// Register returns the account that s describes, and registers it if there is
// none: it may be called at every start. The key is on disk before the CA hears
// of it, so that a killed run leaves no account without a key. An account that
// exists gets a new contact if s has another one, and its terms are compared
// with the CA's.
//
// Without AgreeTerms a CA that has terms is refused (terms_not_agreed); the
// problem names their URL.
func (m *Manager) Register(ctx context.Context, s AccountSpec) (AccountState, error) {
	var out AccountState
	s, contact, err := s.normal()
	if err == nil {
		err = m.lockCA(ctx, s.Directory, func() error {
			out, err = m.register(ctx, s, contact)
			return err
		})
	}
	return out, failure(err)
}

func (m *Manager) register(ctx context.Context, s AccountSpec, contact []string) (AccountState, error) {
	if err := m.Store.sweepCA(s.Directory, s.Label); err != nil {
		return AccountState{}, err
	}
	a, err := m.Store.account(s.Directory, s.Label)
	if err != nil {
		return AccountState{}, err
	}
	c, err := m.connect(s.Directory, s.Roots)
	if err != nil {
		return AccountState{}, err
	}
	if a.state == nil {
		return m.newAccount(ctx, c, s, contact, a.key)
	}
	used, err := m.settled(ctx, c, s.Directory, s.Label)
	if err != nil {
		return *a.state, err
	}
	st := used.AccountState
	if len(contact) > 0 && !slices.Equal(contact, st.Contact) {
		if err := c.UpdateContact(ctx, used.client(), contact); err != nil {
			return st, err
		}
		st.Contact = contact
		if err := m.Store.writeAccount(st); err != nil {
			return st, err
		}
	}
	return m.compareTerms(ctx, c, st, s.AgreeTerms), nil
}

// compareTerms tells whether the CA has other terms than those agreed to, and
// notes a consent to them. That the CA can't be asked is no failure.
func (m *Manager) compareTerms(ctx context.Context, c ca, st AccountState, agree bool) AccountState {
	dir, err := c.Directory(ctx)
	switch {
	case err != nil:
		m.log().Info("the terms of the CA could not be compared", "err", err)
	case dir.Terms == "" || dir.Terms == st.Terms:
	case !agree:
		st.NewTerms = dir.Terms
	default:
		st.Terms, st.AgreedAt = dir.Terms, m.now().UTC()
		if err := m.Store.writeAccount(st); err != nil {
			m.log().Warn("the consent to new terms was not noted", "err", err)
		}
	}
	return st
}

// newAccount registers, or finds the registration of a run that was killed: key
// is what that one left.
func (m *Manager) newAccount(ctx context.Context, c ca, s AccountSpec, contact []string, key crypto.Signer) (AccountState, error) {
	dir, err := c.Directory(ctx)
	if err != nil {
		return AccountState{}, err
	}
	st := AccountState{Directory: s.Directory, Label: s.Label, Contact: contact, EABKeyID: s.EABKeyID, CreatedAt: m.now().UTC()}
	if s.AgreeTerms {
		st.Terms, st.AgreedAt = dir.Terms, st.CreatedAt
	}
	if key != nil {
		uri, err := c.Lookup(ctx, key)
		if err == nil {
			st.URI = uri
			return m.keepAccount(st, key)
		}
		if caType(err) != "accountDoesNotExist" {
			return AccountState{}, err
		}
	}
	reg, err := admission(dir, s, contact)
	if err != nil {
		return AccountState{}, err
	}
	if key == nil {
		if key, err = newKey(s.KeyType); err != nil {
			return AccountState{}, err
		}
		if err := m.Store.writeKey(m.Store.ca(s.Directory, s.Label, fileAccountKey), key); err != nil {
			return AccountState{}, err
		}
	}
	if st.URI, err = c.Register(ctx, key, reg); err != nil {
		return AccountState{}, err
	}
	return m.keepAccount(st, key)
}

// keepAccount writes a new account down.
func (m *Manager) keepAccount(st AccountState, key crypto.Signer) (AccountState, error) {
	st.KeyType, st.Thumbprint = keyType(key.Public()), thumbprint(key.Public())
	err := m.Store.writeAccount(st)
	st.Created, st.Status = true, "valid"
	m.log().Info("account registered", "uri", st.URI, "directory", st.Directory)
	return st, err
}

func noAccount(directory, label string) problem.List {
	return problem.List{problem.New("account_missing", problem.At{}, "there is no account %q at %s yet", label, directory)}
}

// account is one that can be used: with its key.
type account struct {
	AccountState
	key crypto.Signer
}

func (a account) client() legoclient.Account { return legoclient.Account{Key: a.key, URI: a.URI} }

// settled reads an account to be used. A rollover that was interrupted is
// settled first, and a description that is missing is made again from the key.
// The caller holds the CA's lock.
func (m *Manager) settled(ctx context.Context, c ca, directory, label string) (account, error) {
	if err := m.Store.sweepCA(directory, label); err != nil {
		return account{}, err
	}
	a, err := m.Store.account(directory, label)
	if err != nil {
		return account{}, err
	}
	path := m.Store.ca(directory, label, fileAccountKey)
	switch {
	case a.key == nil && a.state == nil && a.rolling == nil:
		return account{}, noAccount(directory, label)
	case a.key == nil:
		return account{}, &FileError{Path: path, Err: errors.New("it is missing")}
	}
	key := a.key
	if a.rolling != nil {
		if key, err = m.settle(ctx, c, directory, label, a); err != nil {
			return account{}, fmt.Errorf("settling the key rollover: %w", err)
		}
	}
	if a.state == nil {
		uri, err := c.Lookup(ctx, key)
		if err != nil {
			return account{}, err
		}
		a.state = &AccountState{Directory: directory, Label: label, URI: uri, CreatedAt: m.now().UTC(),
			KeyType: keyType(key.Public()), Thumbprint: thumbprint(key.Public())}
		if err := m.Store.writeAccount(*a.state); err != nil {
			return account{}, err
		}
	}
	a.state.Rolling = false
	a.state.KeyType, a.state.Thumbprint = keyType(key.Public()), thumbprint(key.Public())
	return account{*a.state, key}, nil
}

// settle ends a rollover that was interrupted: the CA knows which key is in
// force. The new one is asked for first, then the old one; as long as the CA
// confirms neither, both stay.
func (m *Manager) settle(ctx context.Context, c ca, directory, label string, a stored) (crypto.Signer, error) {
	key, rolling := m.Store.ca(directory, label, fileAccountKey), m.Store.ca(directory, label, fileRolling)
	uri, err := c.Lookup(ctx, a.rolling)
	switch {
	case err == nil && (a.state == nil || a.state.URI == uri):
		// Written and forced to disk under its name, and only then removed under
		// the other: after a rename, POSIX would let a power cut leave the old key
		// under this name and nothing under that.
		if err := m.Store.writeKey(key, a.rolling); err != nil {
			return nil, err
		}
		if a.state != nil {
			a.state.KeyType, a.state.Thumbprint = keyType(a.rolling.Public()), thumbprint(a.rolling.Public())
			if err := m.Store.writeAccount(*a.state); err != nil {
				return nil, err
			}
		}
		return a.rolling, m.Store.dropRolling(rolling)
	case err == nil:
		return nil, &FileError{Path: rolling, Err: errors.New("the CA knows it as the key of another account")}
	case caType(err) != "accountDoesNotExist":
		return nil, err
	}
	if _, err := c.Lookup(ctx, a.key); err != nil {
		return nil, err
	}
	if a.state != nil {
		a.state.KeyType, a.state.Thumbprint = keyType(a.key.Public()), thumbprint(a.key.Public())
		if err := m.Store.writeAccount(*a.state); err != nil {
			return nil, err
		}
	}
	return a.key, m.Store.dropRolling(rolling)
}

func (s *Store) dropRolling(path string) error {
	if err := s.fs.Remove(path); err != nil {
		return err
	}
	return s.fs.SyncDir(dirOf(path))
}

// Rollover gives an account a new key (RFC 8555 section 7.3.5). The new key is
// on disk beside the old one before the CA hears of it, and after a kill the CA
// tells which of them is in force.
func (m *Manager) Rollover(ctx context.Context, s AccountSpec) (AccountState, error) {
	var out AccountState
	s, _, err := s.normal()
	if err == nil {
		err = m.lockCA(ctx, s.Directory, func() error {
			out, err = m.rollover(ctx, s)
			return err
		})
	}
	return out, failure(err)
}

func (m *Manager) rollover(ctx context.Context, s AccountSpec) (AccountState, error) {
	c, err := m.connect(s.Directory, s.Roots)
	if err != nil {
		return AccountState{}, err
	}
	a, err := m.settled(ctx, c, s.Directory, s.Label)
	if err != nil {
		return AccountState{}, err
	}
	dir, err := c.Directory(ctx)
	if err != nil {
		return a.AccountState, err
	}
	if !dir.KeyChange {
		return a.AccountState, rolloverUnsupported(s.Directory)
	}
	next, err := newKey(s.KeyType)
	if err != nil {
		return a.AccountState, err
	}
	if err := m.Store.writeKey(m.Store.ca(s.Directory, s.Label, fileRolling), next); err != nil {
		return a.AccountState, err
	}
	// Whatever the answer is, or if there is none: the CA is asked which key it
	// knows. If it can't be, the next use of the account does.
	changeErr := c.ChangeKey(ctx, a.client(), next)
	now, err := m.settled(ctx, c, s.Directory, s.Label)
	switch {
	case err != nil:
		return a.AccountState, errors.Join(changeErr, err)
	case now.Thumbprint != thumbprint(next.Public()):
		if changeErr == nil {
			changeErr = errors.New("the CA said that it changed the key, and knows the old one only")
		}
		return now.AccountState, changeErr
	}
	m.log().Info("account key changed", "uri", now.URI)
	return now.AccountState, nil
}

// Account is what is on disk about an account, without a look at the CA. With
// ask, the CA is asked for its status and terms. There is none: account_missing.
func (m *Manager) Account(ctx context.Context, s AccountSpec, ask bool) (AccountState, error) {
	s, _, err := s.normal()
	if err != nil {
		return AccountState{}, failure(err)
	}
	a, err := m.Store.account(s.Directory, s.Label)
	if err != nil {
		return AccountState{}, failure(err)
	}
	if a.state == nil {
		return AccountState{}, failure(noAccount(s.Directory, s.Label))
	}
	st := *a.state
	if !ask || a.key == nil {
		return st, nil
	}
	c, err := m.connect(s.Directory, s.Roots)
	if err != nil {
		return st, failure(err)
	}
	info, err := c.AccountInfo(ctx, legoclient.Account{Key: a.key, URI: st.URI})
	if err != nil {
		return st, failure(err)
	}
	st.Status = info.Status
	return m.compareTerms(ctx, c, st, false), nil
}

// Accounts are those on disk. One that can't be read is an error beside the
// others.
func (m *Manager) Accounts() ([]AccountState, error) {
	all, err := m.Store.accounts()
	return all, failure(err)
}

// revive registers an account anew that the CA says it does not know, with the
// same key and the consent that was given: at most once in a while, and not where
// a person is needed (RFC 8555 section 7.3.4). A CAA record that names the
// account must then be changed, hence the warning.
func (m *Manager) revive(ctx context.Context, c ca, dir legoclient.Directory, a account) (account, error) {
	now := m.now().UTC()
	lost := problem.List{problem.New("account_lost", problem.At{}, "the CA %s does not know the account %s any more", a.Directory, a.URI)}
	switch {
	case dir.EABRequired, now.Sub(a.Reregistered) < reregister:
		return a, &Error{Class: ClassAccount, Problems: lost}
	case dir.Terms != "" && dir.Terms != a.Terms:
		return a, &Error{Class: ClassAccount, Problems: append(lost, problem.From(termsNotAgreed(a.Directory, dir.Terms))...)}
	}
	uri, err := c.Register(ctx, a.key, legoclient.Registration{Contact: a.Contact, AgreeTerms: a.Terms != ""})
	if err != nil {
		return a, err
	}
	m.log().Warn("the CA had lost the account; it was registered anew", "was", a.URI, "uri", uri)
	a.URI, a.Reregistered = uri, now
	return a, m.Store.writeAccount(a.AccountState)
}
