package acme

import "time"

// KeyType is a private key's algorithm and size.
type KeyType string

const (
	EC256   KeyType = "ec256" // P-256, the default
	EC384   KeyType = "ec384"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
)

// KeyPolicy says what happens to the private key at a renewal.
type KeyPolicy string

const (
	// KeyAuto is KeyReuse for now: a key that stays can't break a TLSA record.
	KeyAuto   KeyPolicy = "auto"
	KeyReuse  KeyPolicy = "reuse"  // the same key, so that a TLSA 3 1 1 record stays true
	KeyRotate KeyPolicy = "rotate" // a new key each time
	// KeyStaged makes the next key early and tells what to publish for it
	// ([State.NextSPKI]); it is used only with [Options.AllowKeyChange].
	KeyStaged KeyPolicy = "staged"
)

// The challenge types: how control of a name is shown to the CA (RFC 8555
// section 8, RFC 8737).
const (
	HTTP01    = "http-01"
	TLSALPN01 = "tls-alpn-01"
	DNS01     = "dns-01" // the only one that a wildcard name can use
)

// Challenge is how the names of one certificate are validated.
type Challenge struct {
	Type string `json:"type"` // HTTP01, TLSALPN01 or DNS01

	// Listen is the host:port that answers the CA; an empty host means all
	// addresses. "" is :80 for http-01, not together with Webroot, and :443 for
	// tls-alpn-01.
	Listen  string `json:"listen,omitempty"`
	Webroot string `json:"webroot,omitempty"` // http-01: absolute directory that a web server serves

	Provider     string        `json:"provider,omitempty"`      // dns-01: the DNS provider's name
	Credentials  string        `json:"credentials,omitempty"`   // dns-01: absolute path of the file with the provider's credentials
	Propagation  time.Duration `json:"propagation,omitempty"`   // dns-01: how long the record may take to appear; 0 is the provider's own time
	Resolvers    []string      `json:"resolvers,omitempty"`     // dns-01: host:port of DNS servers to ask; none: the host's
	DisableCNAME bool          `json:"disable_cname,omitempty"` // dns-01: do not follow a CNAME at _acme-challenge
}

// Spec is a certificate that somebody wants.
type Spec struct {
	// Name is what the certificate is called here and on disk: a-z, 0-9, '.',
	// '_', '-', beginning with a letter, digit or '_', with +type behind it for a
	// further key type.
	Name string `json:"name"`

	Identifiers []string  `json:"identifiers"` // DNS names, as a person wrote them; see [Spec.Normal]
	KeyType     KeyType   `json:"key_type"`    // "" is EC256
	KeyPolicy   KeyPolicy `json:"key_policy"`  // "" is KeyAuto

	// Profile is the certificate profile to ask for (draft-ietf-acme-profiles),
	// "" for the CA's own choice. One that the CA does not offer is left out,
	// with a warning, unless ProfileRequired.
	Profile         string `json:"profile,omitempty"`
	ProfileRequired bool   `json:"profile_required,omitempty"`

	PreferredChain string `json:"preferred_chain,omitempty"` // common name of the topmost issuer, if the CA offers several chains

	Directory string `json:"directory"`       // https URL of the CA's directory
	Roots     []byte `json:"roots,omitempty"` // PEM: trust anchors of the directory's own TLS; nil: the system's
	Account   string `json:"account"`         // label of the account there; "" is "default"

	Challenge Challenge `json:"challenge"`
}
