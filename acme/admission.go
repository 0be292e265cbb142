package acme

import (
	"context"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// admission is what a new account is made of, or why the CA's directory says
// already that none will be made of it.
func admission(dir legoclient.Directory, s AccountSpec, contact []string) (legoclient.Registration, error) {
	reg := legoclient.Registration{Contact: contact, AgreeTerms: s.AgreeTerms, EABKeyID: s.EABKeyID}
	var found problem.List
	if dir.Terms != "" && !s.AgreeTerms {
		found = append(found, problem.From(termsNotAgreed(s.Directory, dir.Terms))...)
	}
	switch {
	case dir.EABRequired && s.EABKeyID == "":
		found = append(found, problem.New("eab_required", problem.At{}, "the CA %s registers accounts with an external account binding only", s.Directory))
	case s.EABFile != "":
		var err error
		reg.EABHMAC, err = readEAB(s.EABFile)
		found = append(found, problem.From(err)...)
	}
	return reg, found.Err()
}

func termsNotAgreed(directory, terms string) error {
	return problem.List{problem.New("terms_not_agreed", problem.At{}, "the CA %s has terms of service that nobody has agreed to: %s", directory, terms)}
}

// PreflightRegister says what [Manager.Register] would find, and changes nothing
// here or at the CA: the account that exists, or one without a URI, with the terms
// that would be agreed to. What would keep the CA from registering it is the error;
// of terms without consent it is terms_not_agreed, which names their URL.
func (m *Manager) PreflightRegister(ctx context.Context, s AccountSpec) (AccountState, error) {
	s, contact, err := s.normal()
	if err != nil {
		return AccountState{}, failure(err)
	}
	a, err := m.Store.account(s.Directory, s.Label)
	if err != nil {
		return AccountState{}, failure(err)
	}
	c, err := m.connect(s.Directory, s.Roots)
	if err != nil {
		return AccountState{}, failure(err)
	}
	if a.state != nil {
		return m.compareTerms(ctx, c, *a.state, false), nil
	}
	dir, err := c.Directory(ctx)
	if err != nil {
		return AccountState{}, failure(err)
	}
	_, err = admission(dir, s, contact)
	return AccountState{Directory: s.Directory, Label: s.Label, Contact: contact, Terms: dir.Terms, EABKeyID: s.EABKeyID, KeyType: s.KeyType}, failure(err)
}

// PreflightRollover is likewise for [Manager.Rollover]: the CA knows the account by
// its key, and can change keys.
func (m *Manager) PreflightRollover(ctx context.Context, s AccountSpec) (AccountState, error) {
	st, err := m.Account(ctx, s, true)
	if err != nil {
		return st, err
	}
	c, err := m.connect(s.Directory, s.Roots)
	if err != nil {
		return st, failure(err)
	}
	dir, err := c.Directory(ctx)
	if err == nil && !dir.KeyChange {
		err = rolloverUnsupported(s.Directory)
	}
	return st, failure(err)
}

func rolloverUnsupported(directory string) error {
	return problem.List{problem.New("rollover_unsupported", problem.At{}, "the CA %s can't change the key of an account", directory)}
}
