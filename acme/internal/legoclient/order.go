package legoclient

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/go-acme/lego/v4/acme"
	"github.com/go-acme/lego/v4/acme/api"
)

// OrderRequest is what a certificate is asked for.
type OrderRequest struct {
	Identifiers []string // DNS names as A-labels in lower case, *.name, IP addresses
	Profile     string   // one of Directory.Profiles; "" leaves it to the CA
	Replaces    string   // the CertID of the certificate that this one follows; "" for none
}

// Order is an order as the CA describes it (RFC 8555 section 7.1.3).
type Order struct {
	URL         string // where it is asked for: keep it, it is all that a resumption needs
	Status      string // pending, ready, processing, valid, invalid
	Finalize    string // URL
	Certificate string // URL, once valid
	Identifiers []string
	// Authorizations are URLs, not in the order of Identifiers.
	Authorizations []string
	Profile        string
	Replaces       string // "" if the CA has no renewal information, for then it was not sent
	Expires        time.Time
	RetryAfter     time.Duration // what the answer asked for
	Err            *Error        // why it is invalid
}

// NewOrder orders a certificate. Nothing is repeated: an Error of type
// alreadyReplaced (status 409) leaves it to the caller to order without Replaces.
// A profile that the directory does not list is refused (invalidProfile) before an
// order is made.
func (c *Client) NewOrder(ctx context.Context, acct Account, r OrderRequest) (Order, error) {
	s, err := c.open(ctx, "new order", acct)
	if err != nil {
		return Order{}, err
	}
	if err := identifiers(r.Identifiers); err != nil {
		return Order{}, s.fail(err)
	}
	dir := s.core.GetDirectory()
	if _, known := dir.Meta.Profiles[r.Profile]; r.Profile != "" && !known {
		detail := fmt.Sprintf("the CA has no profile %q", r.Profile)
		if names := slices.Sorted(maps.Keys(dir.Meta.Profiles)); len(names) > 0 {
			detail += ", only " + strings.Join(names, ", ")
		}
		return Order{}, s.fail(&Error{Kind: Protocol, Type: "invalidProfile", Detail: clean(detail)})
	}
	var got acme.ExtendedOrder
	err = s.do(func() (err error) {
		got, err = s.core.Orders.NewWithOptions(r.Identifiers, &api.OrderOptions{Profile: r.Profile, ReplacesCertID: r.Replaces})
		return err
	})
	if err != nil {
		return Order{}, err
	}
	if got.Location == "" {
		return Order{}, s.fail(&Error{Kind: Protocol, Detail: "the answer does not name the order's URL"})
	}
	order := s.order(got.Location, dir.NewOrderURL, got)
	if order.Replaces == "" && dir.RenewalInfo != "" {
		order.Replaces = r.Replaces
	}
	return order, nil
}

// identifiers refuses what lego would drop silently or the CA would hand back
// changed, after the order was made.
func identifiers(names []string) error {
	if len(names) == 0 {
		return &Error{Kind: Local, Detail: "an order without names"}
	}
	for i, name := range names {
		bad := name == "" || len(name) > 253 || name != strings.ToLower(name) || strings.HasSuffix(name, ".") ||
			slices.Contains(names[:i], name)
		for _, r := range name {
			bad = bad || r <= ' ' || r > '~'
		}
		if ip := net.ParseIP(name); ip != nil {
			bad = bad || ip.String() != name
		}
		if bad {
			return &Error{Kind: Local, Identifier: clean(name), Detail: "not a name in its normal form, or twice"}
		}
	}
	return nil
}

// order translates; where is the order's URL, asked the one that was requested.
func (s *session) order(where, asked string, got acme.ExtendedOrder) Order {
	o := Order{
		URL: where, Status: got.Status, Finalize: got.Finalize, Certificate: got.Certificate,
		Authorizations: got.Authorizations, Profile: got.Profile, Replaces: got.Replaces,
		RetryAfter: s.t.retryAfter(asked), Err: problem(got.Error, Protocol),
	}
	for _, id := range got.Identifiers {
		o.Identifiers = append(o.Identifiers, id.Value)
	}
	o.Expires, _ = time.Parse(time.RFC3339, got.Expires)
	if o.Err != nil {
		o.Err.Op, o.Err.URL = "order", shown(where)
	}
	return o
}

// Order asks for an order by its URL.
func (c *Client) Order(ctx context.Context, acct Account, url string) (Order, error) {
	s, err := c.open(ctx, "order", acct)
	if err != nil {
		return Order{}, err
	}
	return s.getOrder(url)
}

func (s *session) getOrder(url string) (Order, error) {
	var got acme.ExtendedOrder
	err := s.do(func() (err error) {
		got, err = s.core.Orders.Get(url)
		return err
	})
	if err != nil {
		return Order{}, err
	}
	return s.order(url, url, got), nil
}

// rank orders the states of an order by the way to its certificate (RFC 8555
// section 7.1.6).
var rank = map[string]int{"pending": 1, "ready": 2, "processing": 3, "valid": 4}

// Await asks until the order has one of the wanted states, or one beyond it on
// the way to valid; no state means valid. It waits as the CA's Retry-After says,
// within limits, and bears a few failed answers. An order that is invalid ends
// it at once: the Order is returned with its Err, also as the error. An order
// that does not move for 15 minutes is an Error of kind Network.
func (c *Client) Await(ctx context.Context, acct Account, url string, want ...string) (Order, error) {
	s, err := c.open(ctx, "await order", acct)
	if err != nil {
		return Order{}, err
	}
	return s.await(url, c.pollLimit, want...)
}

func (s *session) await(url string, limit time.Duration, want ...string) (Order, error) {
	enough := rank["valid"]
	for i, w := range want {
		if i == 0 || rank[w] < enough {
			enough = rank[w]
		}
	}
	var o Order
	err := s.poll(limit, func() (bool, time.Duration, error) {
		got, err := s.getOrder(url)
		if err != nil {
			return false, 0, err
		}
		o = got
		switch {
		case o.Status == acme.StatusInvalid:
			return true, 0, nil
		case rank[o.Status] == 0:
			return false, 0, s.fail(&Error{Kind: Protocol, Detail: fmt.Sprintf("an order that is %q", clean(o.Status))})
		}
		return rank[o.Status] >= enough, o.RetryAfter, nil
	})
	if err != nil {
		return o, err
	}
	if o.Status == acme.StatusInvalid {
		return o, s.invalid(o)
	}
	return o, nil
}

// invalid is the error of an order that has failed.
func (s *session) invalid(o Order) error {
	e := o.Err
	if e == nil {
		e = &Error{Kind: Protocol, Detail: "the order is invalid, and the CA does not say why"}
	}
	failed := *e
	failed.Op = ""
	return s.fail(at(o.URL, &failed))
}

// Finalize sends the certificate request, in DER. An order that the CA finds not
// ready yet is awaited and tried again. One that has been finalized before,
// by a process that did not see the answer, is returned as it is.
func (c *Client) Finalize(ctx context.Context, acct Account, o Order, csr []byte) (Order, error) {
	s, err := c.open(ctx, "finalize", acct)
	if err != nil {
		return Order{}, err
	}
	for try := 1; ; try++ {
		var got acme.ExtendedOrder
		err := s.do(func() (err error) {
			got, err = s.core.Orders.UpdateForCSR(o.Finalize, csr)
			return err
		})
		if err == nil {
			return s.order(o.URL, o.Finalize, got), nil
		}
		if e := s.foreign(err); e.Type != "orderNotReady" || try == finalizeTries {
			return Order{}, err
		}
		// RFC 8555 section 7.4: it may be still pending, or already processing.
		now, err := s.await(o.URL, min(finalizeWait, c.pollLimit), "ready")
		if err != nil || now.Status != acme.StatusReady {
			return now, err
		}
	}
}

const (
	finalizeTries = 3
	finalizeWait  = time.Minute
)

// Revoke revokes the certificate. reason is a CRLReason (RFC 5280 section 5.3.1);
// Let's Encrypt accepts 0, 1, 4 and 5.
func (c *Client) Revoke(ctx context.Context, acct Account, leaf *x509.Certificate, reason uint) error {
	s, err := c.open(ctx, "revoke", acct)
	if err != nil {
		return err
	}
	return s.do(func() error {
		return s.core.Certificates.Revoke(acme.RevokeCertMessage{Certificate: base64.RawURLEncoding.EncodeToString(leaf.Raw), Reason: &reason})
	})
}
