package acme

import "time"

// Version is one certificate that was obtained: what its meta.json says.
type Version struct {
	Number int    `json:"number"` // from 1, never used twice
	Serial string `json:"serial"` // lower-case hex

	Identifiers []string  `json:"identifiers"` // A-labels in lower case, sorted
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	IssuedAt    time.Time `json:"issued_at"` // when it was stored

	Directory  string  `json:"directory"`   // URL of the CA's directory
	AccountURI string  `json:"account_uri"` // the account it was ordered with
	Profile    string  `json:"profile"`     // as asked for
	KeyType    KeyType `json:"key_type"`
	SPKI       string  `json:"spki"`      // SHA-256 of the SubjectPublicKeyInfo, lower-case hex: TLSA 3 1 1
	SHA256     string  `json:"sha256"`    // fingerprint of the leaf
	ChainLen   int     `json:"chain_len"` // certificates in fullchain.pem
	Issuer     string  `json:"issuer"`    // common name of the leaf's issuer
	OrderURL   string  `json:"order_url"`
	ARICertID  string  `json:"ari_cert_id"` // RFC 9773 section 4.1; "" if the leaf has no key identifier of its issuer

	// Files are the digests of the other files of the directory, by name.
	Files map[string]string `json:"files"`

	Dir string `json:"-"` // absolute path of the version's directory
}

// Window is the time in which a CA would like a certificate to be renewed (RFC
// 9773 section 4.2).
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Pending is an order that is not finished: what a run that was killed leaves
// to the next one.
type Pending struct {
	Created     time.Time `json:"created"`
	Directory   string    `json:"directory"`
	AccountURI  string    `json:"account_uri"`
	Identifiers []string  `json:"identifiers"`
	KeyType     KeyType   `json:"key_type"`
	Profile     string    `json:"profile"`  // asked for by the specification
	Ordered     string    `json:"ordered"`  // profile that was sent; "" if the CA does not offer the one asked for
	Replaces    string    `json:"replaces"` // ARI identifier that was sent, "" for none
	SPKI        string    `json:"spki"`
	OrderURL    string    `json:"order_url"` // "" until the CA has answered
	Expires     time.Time `json:"expires"`   // of the order, by the CA; zero: not told
}

// State is what is known about one certificate beside its versions. All times
// are absolute (UTC), by the CA's clock if it differs from ours by more than
// [MaxSkew].
type State struct {
	// What the CA proposes for the certificate with fingerprint ARIFor.
	ARIFor      string      `json:"ari_for,omitempty"`
	Window      *Window     `json:"window,omitempty"`
	Selected    time.Time   `json:"selected,omitzero"`     // the instant drawn in Window
	Explanation string      `json:"explanation,omitempty"` // a URL of the CA for people
	ARINext     time.Time   `json:"ari_next,omitzero"`     // when to ask again
	ARIFailures int         `json:"ari_failures,omitempty"`
	ARIError    string      `json:"ari_error,omitempty"`
	ARIOrders   []time.Time `json:"ari_orders,omitempty"`  // orders made because of ARI in the last 24 hours
	Replaced    string      `json:"replaced,omitempty"`    // fingerprint of a certificate that the CA calls replaced
	Compromised string      `json:"compromised,omitempty"` // SPKI of a key that was revoked as compromised: never reused

	// The failures since the last success.
	Failures    int       `json:"failures,omitempty"`
	Class       Class     `json:"class,omitempty"` // of the last one
	LastError   string    `json:"last_error,omitempty"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	NextAttempt time.Time `json:"next_attempt,omitzero"` // not before; zero: at once
	SpecHash    string    `json:"spec_hash,omitempty"`   // of the specification that failed

	// The clock: what ours said minus what the CA said, at SkewAt by ours.
	Skew   time.Duration `json:"skew_ns,omitempty"`
	SkewAt time.Time     `json:"skew_at,omitzero"`
	// Touched is when this was last written. A clock that is well before it was
	// put back.
	Touched time.Time `json:"touched,omitzero"`

	NextSPKI string `json:"next_spki,omitempty"` // KeyStaged: of next.key, to be published as TLSA 3 1 1

	Checked time.Time `json:"checked,omitzero"` // when an order was last seen to be possible, by one or by Check

	// What follows is found elsewhere on disk when the state is read.
	Current  *Version    `json:"-"` // the live version; nil: none yet
	Previous *Version    `json:"-"`
	Pending  *Pending    `json:"-"`
	Orders   []time.Time `json:"-"` // orders for this set of names in the last 7 days, oldest first
	Guarded  time.Time   `json:"-"` // no validation before: three have failed within an hour; zero: none have
}
