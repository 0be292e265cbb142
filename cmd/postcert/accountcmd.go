package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/verify/problem"
)

func (a *app) accountCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "account", Short: "register, show or roll over the account at the CA", Long: accountHelp, Example: accountExample,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []struct {
		name, short string
		do, dry     func(context.Context, *acme.Manager, acme.AccountSpec, *result) (acme.AccountState, error)
	}{
		{"register", "register the account at the CA, or change its contact", a.accountRegister, a.accountWouldRegister},
		{"show", "show the account, as the CA sees it", a.accountShow, nil},
		{"rollover", "give the account a new key", a.accountRollover, a.accountWouldRollover},
	} {
		f := &obtainFlags{}
		sub := &cobra.Command{
			Use: c.name, Short: c.short, Long: accountHelp, Args: usageArgs(cobra.NoArgs),
			RunE: a.runE(func(ctx context.Context, _ []string, res *result) error {
				if err := a.overCA(f); err != nil {
					return err
				}
				spec, err := a.accountSpec()
				if err != nil {
					return err
				}
				m, err := a.manager()
				if err != nil {
					return err
				}
				do := c.do
				if a.flags.dryRun {
					do = c.dry
				}
				state, err := do(ctx, m, spec, res)
				if err == nil && state.URI != "" {
					a.showAccount(state, res)
				}
				return err
			}),
		}
		f.registerAccount(sub)
		a.atCAFlags(sub, f)
		if c.dry != nil {
			a.dryRunFlag(sub, "ask the CA whether it could be done; change nothing here or there")
		}
		cmd.AddCommand(sub)
	}
	return cmd
}

type accountJSON struct {
	acme.AccountState
	Status   string `json:"status"`
	NewTerms string `json:"new_terms"`
	Created  bool   `json:"created"`
	Rolling  bool   `json:"rolling"`
}

// registrationJSON is an account that would be registered.
type registrationJSON struct {
	Directory string   `json:"directory"`
	Contact   []string `json:"contact"`
	Terms     string   `json:"terms"`
	KeyType   string   `json:"key_type"`
	EABKeyID  string   `json:"eab_kid"`
}

func (a *app) showAccount(s acme.AccountState, res *result) {
	s.Contact = emptyNotNull(s.Contact)
	res.add("account", accountJSON{s, s.Status, s.NewTerms, s.Created, s.Rolling})
	a.text.printf("  account      %s\n", a.text.paint(bold, s.URI))
	a.text.printf("  directory    %s\n", s.Directory)
	a.text.printf("  contact      %s\n", orText(strings.Join(s.Contact, ", "), "none"))
	a.text.printf("  key          %s, thumbprint %s\n", s.KeyType, s.Thumbprint)
	if s.Terms != "" {
		a.text.printf("  terms        %s, agreed to on %s\n", s.Terms, s.AgreedAt.UTC().Format(time.DateOnly))
	}
	if s.Status != "" {
		a.text.printf("  status       %s, by the CA's word\n", s.Status)
	}
	if s.NewTerms != "" {
		res.problem(problem.Warn("terms_changed", problem.At{}, "the CA has new terms of service: %s", s.NewTerms))
	}
}

func (a *app) accountRegister(ctx context.Context, m *acme.Manager, spec acme.AccountSpec, res *result) (acme.AccountState, error) {
	s, err := m.Register(ctx, spec)
	res.headline = "the account exists already; nothing was registered."
	switch {
	case err != nil:
		res.headline = "not registered; nothing was stored."
	case s.Created:
		res.headline = "registered. Keep " + a.conf.StateDir + " in backups that only root can read: it holds the account's key."
	}
	return s, err
}

// accountWouldRegister is register without the registration: what the CA's
// directory says against it is known then, such as terms that were not agreed to.
func (a *app) accountWouldRegister(ctx context.Context, m *acme.Manager, spec acme.AccountSpec, res *result) (acme.AccountState, error) {
	s, err := m.PreflightRegister(ctx, spec)
	switch {
	case err != nil:
		res.headline = "dry run: would not be registered. Nothing was stored."
	case s.URI != "":
		res.headline = "dry run: the account exists already; nothing would be registered."
	default:
		res.add("registration", registrationJSON{s.Directory, emptyNotNull(s.Contact), s.Terms, string(s.KeyType), s.EABKeyID})
		a.text.printf("  directory    %s\n", s.Directory)
		a.text.printf("  contact      %s\n", orText(strings.Join(s.Contact, ", "), "none"))
		a.text.printf("  terms        %s\n", orText(s.Terms, "none"))
		res.headline = "dry run: would be registered. Nothing was stored."
	}
	return s, err
}

func (a *app) accountWouldRollover(ctx context.Context, m *acme.Manager, spec acme.AccountSpec, res *result) (acme.AccountState, error) {
	s, err := m.PreflightRollover(ctx, spec)
	res.headline = "dry run: the account would get a new key. Nothing was changed."
	if err != nil {
		res.headline = "dry run: the account's key would not be changed. Nothing was."
	}
	return s, err
}

func (a *app) accountShow(ctx context.Context, m *acme.Manager, spec acme.AccountSpec, _ *result) (acme.AccountState, error) {
	return m.Account(ctx, spec, true)
}

func (a *app) accountRollover(ctx context.Context, m *acme.Manager, spec acme.AccountSpec, res *result) (acme.AccountState, error) {
	s, err := m.Rollover(ctx, spec)
	res.headline = "the account has a new key; the old one is of no use any more. Certificates and their keys stay."
	if err != nil {
		res.headline = "the account's key was not changed, or the CA did not answer; the next use of the account settles which key is in force."
	}
	return s, err
}
