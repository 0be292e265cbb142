// Package config turns postcert.yaml, the environment and the flags into typed
// values, and says of every mistake in which line it stands.
//
// Two readers see the same bytes. The strict one (strict.go, then yaml.v3 with
// KnownFields) decides whether the file is acceptable: it knows every key, the
// type of its value and its line, accepts one document only, and converts
// nothing. `agree_tos: 1` is not true, `domains: x` is not a list, and
// `propagation: 60` is refused because it could mean anything. The other one is
// viper: for the few scalar keys that a flag or an environment variable may set
// as well it decides which of flag, environment, file and default wins
// (layers.go). Lists, programs and what decides about trust come from the file
// only, so that nobody who can set a variable for a hook can make root run or
// trust something.
//
// The file is optional: install-cert and hook work without one. If it exists, it
// and its directory must be writable by nobody but root, because it names
// programs that root runs.
//
// Call Load in a command, Check for `postcert config check`, Parse where there
// are only bytes. All three return every problem they can find at once, as
// problem.List with these ids:
//
//	config_unreadable   missing although named, not a regular file, over MaxSize, or an error of the system
//	config_writable     the file or a directory above it may be changed by others than root
//	config_syntax       not YAML
//	config_documents    more than one YAML document
//	config_unknown_key  a key that does not exist, or exists twice
//	config_type         a value of another type than the key has
//	config_value        a value of the right type that cannot be meant
//	config_missing      a key without which its section has no meaning
package config

import (
	"time"

	"go.yaml.in/yaml/v3"
)

// DefaultFile is read when neither a flag nor the environment names a file. It
// need not exist.
const DefaultFile = "/etc/postcert/postcert.yaml"

// MaxSize is the largest configuration that is read, in bytes.
const MaxSize = 1 << 20

// Config is what is in force for one run. Every path in it is absolute and
// clean, every choice one of the listed words, every default filled in.
type Config struct {
	Certificates []Certificate `yaml:"certificates"`
	Instances    []Instance    `yaml:"instances"`
	Companions   []Companion   `yaml:"companions"`

	// Trust are PEM files with trust anchors beside the system's own, for
	// judging the chains that we serve. See ACME.Trust for the other trust.
	Trust []string `yaml:"trust"`

	ACME    ACME    `yaml:"acme"`
	Notify  Notify  `yaml:"notify"`
	Metrics Metrics `yaml:"metrics"`

	StateDir   string `yaml:"state_dir"`   // lock, journal, history, generations; default /var/lib/postcert
	RuntimeDir string `yaml:"runtime_dir"` // rehearsals; default /run/postcert

	// CommandDirectory is where postconf(1) and postfix(1) are; "" means the
	// usual places. It names programs, so it comes from the file only.
	CommandDirectory string `yaml:"command_directory"`

	// KeepGenerations is how many generations of a certificate stay on disk, the
	// last proven one among them: 2 to 100, default 3. One would leave nothing
	// to roll back to.
	KeepGenerations int `yaml:"keep_generations"`

	// File is the configuration file that was looked for, and Found tells
	// whether there was one.
	File  string `yaml:"-"`
	Found bool   `yaml:"-"`

	// Instance is the one Postfix instance that this run is about, by its name
	// or its configuration directory; "" means that the command decides. It is a
	// matter of the run, so it comes from a flag or the environment, never from
	// the file.
	Instance string `yaml:"-"`

	raw     []byte            // the file, as it was read
	origins map[string]Origin // by key path: what did not come from a default
}

// Raw are the bytes of the configuration file that this Config was made from; none
// if there was no file. Environment and flags are not in them.
func (c *Config) Raw() []byte { return c.raw }

// Source says who obtains a certificate.
type Source string

const (
	SourceACME  Source = "acme"  // postcert orders and renews it
	SourceWatch Source = "watch" // another client does; postcert watches its directory
)

// Certificate is a certificate that this host shall have.
type Certificate struct {
	Name    string   `yaml:"name"`    // what instances refer to, and the name on disk; required, unique
	Domains []string `yaml:"domains"` // DNS names, A-labels in lower case; at least one for source acme
	Source  Source   `yaml:"source"`  // default acme

	// Lineage is the directory in which another client keeps the current pair,
	// such as /etc/letsencrypt/live/NAME. Required for source watch, and only
	// there.
	Lineage string `yaml:"lineage,omitempty"`

	Challenge Challenge `yaml:"challenge,omitempty"` // required for source acme, and only there

	// Profile is the certificate profile to ask the CA for
	// (draft-ietf-acme-profiles), as its directory lists them; "" leaves the
	// choice to the CA.
	Profile string `yaml:"profile,omitempty"`

	// PreferredChain is the common name of a chain's topmost issuer, for a CA that
	// offers several (RFC 8555 section 7.4.2); "" takes the CA's default chain.
	PreferredChain string `yaml:"preferred_chain,omitempty"`

	Key Key `yaml:"key,omitempty"` // source acme only

	// Also asks for a second certificate with the same names and a key of
	// another algorithm (RSA beside ECDSA, or the other way round), which
	// Postfix serves to clients that do not know the first. At most one.
	Also []KeyType `yaml:"also,omitempty"`
}

// ChallengeType is how control of a name is shown to the CA (RFC 8555 section 8,
// RFC 8737).
type ChallengeType string

const (
	HTTP01    ChallengeType = "http-01"
	TLSALPN01 ChallengeType = "tls-alpn-01"
	DNS01     ChallengeType = "dns-01" // the only one that a wildcard name can use
)

// Challenge is how one certificate's names are validated.
type Challenge struct {
	Type ChallengeType `yaml:"type"` // required

	Provider    string        `yaml:"provider,omitempty"`    // dns-01: the DNS provider's name; required
	Credentials string        `yaml:"credentials,omitempty"` // dns-01: file with the provider's credentials
	Propagation time.Duration `yaml:"propagation,omitempty"` // dns-01: how long the record may take to appear; 0 is the provider's own time

	// Listen is the host:port that answers the CA; an empty host means all
	// addresses. http-01: default :80, not together with Webroot. tls-alpn-01:
	// default :443.
	Listen  string `yaml:"listen,omitempty"`
	Webroot string `yaml:"webroot,omitempty"` // http-01: directory that a web server already serves
}

// KeyType is a private key's algorithm and size.
type KeyType string

const (
	EC256   KeyType = "ec256"
	EC384   KeyType = "ec384"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
)

// Algorithm is "ecdsa" or "rsa", the words that verify/keypair uses.
func (k KeyType) Algorithm() string {
	if len(k) > 2 && k[:2] == "ec" {
		return "ecdsa"
	}
	return "rsa"
}

// KeyPolicy says what happens to the private key at a renewal.
type KeyPolicy string

const (
	KeyRotate KeyPolicy = "rotate" // a new key each time
	KeyReuse  KeyPolicy = "reuse"  // the same key, so that a TLSA 3 1 1 record stays true
	KeyStaged KeyPolicy = "staged" // the next key is made early and used once its TLSA record is visible
	KeyAuto   KeyPolicy = "auto"   // reuse where such a TLSA record is published, rotate elsewhere
)

// Key is the private key of a certificate.
type Key struct {
	Type   KeyType   `yaml:"type"`   // default ec256
	Policy KeyPolicy `yaml:"policy"` // default auto
}

// Layout says how the pair lies on disk and which parameters carry it.
type Layout string

const (
	LayoutAuto Layout = "auto" // one file with key and chain, in the scheme main.cf already uses
	LayoutPair Layout = "pair" // separate files, for those who need a key-less smtpd_tls_cert_file
	LayoutKeep Layout = "keep" // edit nothing; what main.cf points to is verified and proven
)

// Rehearsal says what happens when the private trial could not be run.
type Rehearsal string

const (
	RehearsalAuto     Rehearsal = "auto"     // go on for a mere file switch, refuse when configuration changes
	RehearsalRequired Rehearsal = "required" // refuse
)

// Drift says what happens when the daily probe finds that what is there differs
// from what was proven: somebody restored an old file, edited a parameter back, or
// did not reload.
type Drift string

const (
	DriftReport Drift = "report" // it is told, and left as it is: somebody may have meant it
	DriftRepair Drift = "repair" // what was proven is installed again, by a transaction like any other
)

// Instance is what one Postfix instance serves.
type Instance struct {
	ConfigDirectory string `yaml:"config_directory"` // where its main.cf is; required, unique

	// Certificate is the name of the certificate that it serves by default; ""
	// leaves the instance to install-cert and hook.
	Certificate string `yaml:"certificate"`

	// SNI are the names of further certificates (of Certificates, not of
	// domains). Each is served to clients that ask for one of its domains.
	SNI []string `yaml:"sni"`

	Services  []Service `yaml:"services"`  // service entries with a certificate of their own
	Layout    Layout    `yaml:"layout"`    // default auto
	Rehearsal Rehearsal `yaml:"rehearsal"` // default auto
	Drift     Drift     `yaml:"drift"`     // default report

	// Names are DNS names that every default certificate of this instance must
	// cover, beside those of the leaf that is served now.
	Names []string `yaml:"names"`

	// IgnoreListeners are listeners that need not be proven: a service/type, an
	// IP:port, or the path of a socket.
	IgnoreListeners []string `yaml:"ignore_listeners"`

	Probe []Probe `yaml:"probe"` // how to reach listeners that cannot be dialled as they stand
}

// Service gives one service entry of master.cf a certificate of its own.
type Service struct {
	Service     string `yaml:"service"`     // service/type, as postconf -M takes it: submissions/inet
	Certificate string `yaml:"certificate"` // the name of a certificate
}

// Probe says how one listener is asked what it serves.
type Probe struct {
	Listener      string        `yaml:"listener"`                 // which: service/type, IP:port, or the path of a socket; required, unique
	Address       string        `yaml:"address,omitempty"`        // IP:port or socket to dial instead; "" is the listener's own
	ProxyProtocol bool          `yaml:"proxy_protocol,omitempty"` // send a PROXY protocol header first (postconf(5) smtpd_upstream_proxy_protocol)
	Timeout       time.Duration `yaml:"timeout,omitempty"`        // of one handshake; 0 is the probe's own limit
}

// Companion is another daemon on this host that must serve the same certificate.
// Its configuration is never edited: it gets files, a reload and a question.
type Companion struct {
	Name        string   `yaml:"name"`                  // required, unique
	Certificate string   `yaml:"certificate,omitempty"` // the name of the certificate that it gets; needed where there are several
	Export      Export   `yaml:"export,omitempty"`
	Reload      []string `yaml:"reload,omitempty"` // a program by its absolute path, and its arguments; no shell
	Probe       []string `yaml:"probe,omitempty"`  // smtp, smtps, imap or imaps URLs that must present the new leaf
}

// Export is a copy of the pair for another daemon: fullchain.pem and
// privkey.pem in a directory.
type Export struct {
	Directory string `yaml:"directory"` // required
	Owner     string `yaml:"owner"`     // user name or number; default root
	Group     string `yaml:"group"`     // group name or number; default root
}

// ACME is the CA and the account there.
type ACME struct {
	Directory string `yaml:"directory"` // a CA's name, or the https URL of its directory; default letsencrypt
	Email     string `yaml:"email"`     // where the CA may write to; "" registers without
	AgreeTOS  bool   `yaml:"agree_tos"` // consent to the CA's terms of service
	Trust     string `yaml:"trust"`     // PEM file with the CA of the directory's own TLS, for a private CA
	EAB       EAB    `yaml:"eab,omitempty"`
}

// EAB is an external account binding (RFC 8555 section 7.3.4). Both or neither.
type EAB struct {
	KID      string `yaml:"kid"`       // the key identifier that the CA gave
	HMACFile string `yaml:"hmac_file"` // file with the base64url-encoded MAC key
}

// Event is an occasion to tell someone.
type Event string

const (
	OnFailure  Event = "failure"  // a certificate could not be obtained or deployed
	OnRollback Event = "rollback" // a deploy was undone
	OnExpiry   Event = "expiry"   // a served certificate is about to expire
	OnDrift    Event = "drift"    // what is served is not what was deployed
	OnRecovery Event = "recovery" // what was wrong is right again
)

// Notify says who is told. By default the mail log at error priority, and
// postmaster by one mail. In the file it is a list of targets, which replaces the
// mail, or the word none.
//
// The zero value is the default.
type Notify struct {
	None    bool
	Targets []NotifyTarget
}

// NotifyTarget is one place that is told beside the mail log: exactly one of URLFile,
// Exec and Mail. A URL carries a token, so it is in a file of its own and never here.
type NotifyTarget struct {
	URLFile string   `yaml:"url_file,omitempty"` // file that only root reads, whose only line is a notification URL
	Exec    []string `yaml:"exec,omitempty"`     // a program by its absolute path, and its arguments; no shell
	Mail    string   `yaml:"mail,omitempty"`     // an address, or a local name such as postmaster
	On      []Event  `yaml:"on"`                 // default all events
}

// UnmarshalYAML reads `none` or a list. The strict reader has checked it before.
func (n *Notify) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode && node.ShortTag() != "!!null" {
		n.None = true
		return nil
	}
	return node.Decode(&n.Targets)
}

// MarshalYAML writes what UnmarshalYAML reads.
func (n Notify) MarshalYAML() (any, error) {
	if n.None {
		return "none", nil
	}
	return n.Targets, nil
}

// Metrics is how Prometheus learns our state.
type Metrics struct {
	Textfile string `yaml:"textfile"` // NAME.prom for node_exporter's textfile collector; "" writes none
	Listen   string `yaml:"listen"`   // loopback address and port of the daemon's /metrics; "" opens none
}
