// Package dns writes and removes the TXT record of a dns-01 challenge at a DNS
// provider.
//
// The CA asks for a TXT record at _acme-challenge.<name> whose value is the
// base64url of the SHA-256 of the key authorization (RFC 8555 section 8.4). If
// that name is a CNAME, the record goes to where it points. Following the CNAME
// is the caller's, and is done once: a [Provider] is told the name that is to be
// written, the effective one, and writes and removes that name and no other,
// even if the CNAME changes in between.
//
//	p, err := dns.New("ovh", dns.Options{Credentials: values})
//	err = p.Present(ctx, "_acme-challenge.mail.example.com.", keyAuth)
//	defer p.CleanUp(cleanupCtx, "_acme-challenge.mail.example.com.", keyAuth)
//
// Providers get the key authorization, not its digest, because lego's providers
// compute the digest themselves; [Value] is what ends up in the record.
//
// Nothing is read from the environment: credentials come from a file that only
// its owner can read ([ReadCredentials]), as values whose names [Fields] lists.
// The names are our own, lego's variables and the keys of certbot's ini files
// for the same provider, so that what an operator has can be used as it is.
//
// Every call ends within a second of the end of its context. CleanUp needs a
// context of its own, for it has to run when the other one has ended.
//
// # Which provider
//
// About fifteen are built in ([Names]). Two of them reach all others: exec runs
// a program, and contrib/dns has such a program for every provider of lego;
// httpreq asks a web service.
package dns

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"
)

// Provider writes TXT records at one DNS provider, with one set of credentials.
// It may be used from several goroutines: providers that read, change and write
// back a whole record set do so for one call at a time.
//
// Two challenges of one effective name (a name and its wildcard) are two values
// of one record set. Some providers remove the whole set at the first CleanUp:
// present all, have all validated, then clean up all.
type Provider interface {
	// Present adds the value of keyAuth to the TXT records of fqdn. fqdn is the
	// effective name, after CNAMEs, with its final dot. The error is an *Error.
	Present(ctx context.Context, fqdn, keyAuth string) error
	// CleanUp removes the value from the TXT records of fqdn, and is to be called
	// on the provider that has presented it, also after a Present that failed.
	// What is not there any more is no error.
	CleanUp(ctx context.Context, fqdn, keyAuth string) error
	// Check asks, without changing anything, whether the credentials would be
	// accepted for fqdn. It is nil where that cannot be asked.
	Check(ctx context.Context, fqdn string) error
	// Timeout is how long a record may take to be visible on the provider's name
	// servers, and how often it is worthwhile to look.
	Timeout() (timeout, interval time.Duration)
}

// Value is what the TXT record holds: the base64url, without padding, of the
// SHA-256 of the key authorization (RFC 8555 section 8.4).
func Value(keyAuth string) string {
	sum := sha256.Sum256([]byte(keyAuth))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Options configures a provider.
type Options struct {
	// Credentials are the provider's values, by the Name of its Fields.
	Credentials map[string]string
	// Propagation is what Timeout returns as its first value; 0 is the
	// provider's own.
	Propagation time.Duration
	// Resolvers are the recursive name servers, host:port or host, that are asked
	// which zone a name belongs to; empty is those of /etc/resolv.conf at the time
	// of the call.
	Resolvers []string
	// Timeout bounds each request to the provider's API, and a run of the exec
	// program; 0 is 30 s and 2 min.
	Timeout time.Duration
	// UserAgent is sent to HTTP APIs where lego leaves the choice.
	UserAgent string

	base http.RoundTripper // for tests: the network
}

// Field is one value of a provider's credentials.
type Field struct {
	Name     string   // ours, as in Options.Credentials
	Meaning  string   // one line for people
	Secret   bool     // never to be shown
	Required bool     // without it the provider cannot work; see OneOf too
	OneOf    string   // fields with the same OneOf: one of these groups has to be complete
	Default  string   // used when it is not given; "" is none
	Lego     []string // lego's names of it in the environment
	Certbot  []string // its keys in the ini file of certbot's plug-in
}
