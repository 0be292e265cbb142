package legoclient

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/go-acme/lego/v4/acme"
)

// Registration is what a new account is made of.
type Registration struct {
	Contact    []string // URLs: mailto:admin@example.com
	AgreeTerms bool     // to Directory.Terms
	EABKeyID   string   // external account binding (RFC 8555 section 7.3.4); "" for none
	EABHMAC    []byte   // its key, decoded
}

// minHMAC is the shortest key of HMAC-SHA256 that the JOSE library signs with.
const minHMAC = 16

// Register makes an account, or finds the one that the key already has, and
// returns its URL. Terms that are not agreed to are an Error of type
// userActionRequired, an absent binding that the CA demands one of type
// externalAccountRequired, both before anything is sent.
func (c *Client) Register(ctx context.Context, key crypto.Signer, r Registration) (string, error) {
	s, err := c.open(ctx, "register", Account{Key: key})
	if err != nil {
		return "", err
	}
	meta := s.core.GetDirectory().Meta
	switch {
	case meta.TermsOfService != "" && !r.AgreeTerms:
		return "", s.fail(&Error{Kind: Protocol, Type: "userActionRequired", Detail: "the terms of service are not agreed to: " + clean(meta.TermsOfService)})
	case meta.ExternalAccountRequired && r.EABKeyID == "":
		return "", s.fail(&Error{Kind: Protocol, Type: "externalAccountRequired", Detail: "the CA demands an external account binding"})
	case r.EABKeyID != "" && len(r.EABHMAC) < minHMAC:
		return "", s.fail(&Error{Kind: Local, Detail: fmt.Sprintf("the key of the external account binding has %d bytes, and %d at least are needed", len(r.EABHMAC), minHMAC)})
	}
	request := acme.Account{Contact: r.Contact, TermsOfServiceAgreed: r.AgreeTerms}
	var account acme.ExtendedAccount
	err = s.do(func() (err error) {
		if r.EABKeyID != "" {
			account, err = s.core.Accounts.NewEAB(request, r.EABKeyID, base64.RawURLEncoding.EncodeToString(r.EABHMAC))
		} else {
			account, err = s.core.Accounts.New(request)
		}
		return err
	})
	return s.located(account.Location, err)
}

// Lookup returns the URL of the account that the key has at the CA (RFC 8555
// section 7.3.1). There is none if the Error's type is accountDoesNotExist.
func (c *Client) Lookup(ctx context.Context, key crypto.Signer) (string, error) {
	s, err := c.open(ctx, "look up account", Account{Key: key})
	if err != nil {
		return "", err
	}
	var account acme.ExtendedAccount
	err = s.do(func() (err error) {
		account, err = s.core.Accounts.New(acme.Account{OnlyReturnExisting: true})
		return err
	})
	return s.located(account.Location, err)
}

func (s *session) located(location string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if location == "" {
		return "", s.fail(&Error{Kind: Protocol, Detail: "the answer does not name the account's URL"})
	}
	return location, nil
}

// AccountInfo is what the CA has on file.
type AccountInfo struct {
	Status    string // valid, deactivated, revoked
	Contact   []string
	OrdersURL string // "" where the CA keeps no list, as Let's Encrypt
}

// AccountInfo asks for the account.
func (c *Client) AccountInfo(ctx context.Context, acct Account) (AccountInfo, error) {
	s, err := c.open(ctx, "account", acct)
	if err != nil {
		return AccountInfo{}, err
	}
	var got acme.Account
	err = s.do(func() (err error) {
		got, err = s.core.Accounts.Get(acct.URI)
		return err
	})
	if err != nil {
		return AccountInfo{}, err
	}
	return AccountInfo{Status: got.Status, Contact: got.Contact, OrdersURL: got.Orders}, nil
}

// UpdateContact replaces the contact URLs; none removes them.
func (c *Client) UpdateContact(ctx context.Context, acct Account, contact []string) error {
	s, err := c.open(ctx, "update contact", acct)
	if err != nil {
		return err
	}
	// Not through lego, whose message leaves an empty list out, which means "no change".
	payload, err := json.Marshal(map[string][]string{"contact": append([]string{}, contact...)})
	if err != nil {
		return s.fail(err)
	}
	return s.do(func() error { return s.post(acct.URI, payload) })
}

// ChangeKey gives the account another key (RFC 8555 section 7.3.5). From then on
// the CA knows the account by next only; acct.Key is worth nothing. Success is
// what the CA then answers to next, not what it said to the change: Pebble says
// yes to a key that another account has, and changes nothing. If it is not known
// how the request ended (Kind Network or Canceled), ask by Lookup with next.
func (c *Client) ChangeKey(ctx context.Context, acct Account, next crypto.Signer) error {
	s, err := c.open(ctx, "change account key", acct)
	if err != nil {
		return err
	}
	where := s.core.GetDirectory().KeyChangeURL
	if where == "" {
		return s.fail(&Error{Kind: Protocol, Detail: "the CA offers no change of account keys"})
	}
	if !signs(next) {
		return s.fail(&Error{Kind: Local, Detail: "an account key is RSA, or ECDSA on P-256 or P-384"})
	}
	// The inner message is signed by the new key, to show that we have it; the
	// outer one by the old key, to show that we may.
	payload, err := json.Marshal(struct {
		Account string          `json:"account"`
		OldKey  jose.JSONWebKey `json:"oldKey"`
	}{acct.URI, jose.JSONWebKey{Key: acct.Key.Public()}})
	if err != nil {
		return s.fail(err)
	}
	inner, err := sign(next, payload, &jose.SignerOptions{EmbedJWK: true, ExtraHeaders: map[jose.HeaderKey]any{"url": where}}, "")
	if err != nil {
		return s.fail(err)
	}
	if err := s.do(func() error { return s.post(where, []byte(inner)) }); err != nil {
		return err
	}
	switch uri, err := c.Lookup(ctx, next); {
	case err != nil:
		return err
	case uri != acct.URI:
		return s.fail(&Error{Kind: Protocol, Detail: "the key is another account's: " + shown(uri)})
	}
	return nil
}

// Deactivate gives an authorization back (RFC 8555 section 7.5.2), so that it
// counts no longer as pending.
func (c *Client) Deactivate(ctx context.Context, acct Account, authzURL string) error {
	s, err := c.open(ctx, "deactivate authorization", acct)
	if err != nil {
		return err
	}
	return s.do(func() error { return s.core.Authorizations.Deactivate(authzURL) })
}
