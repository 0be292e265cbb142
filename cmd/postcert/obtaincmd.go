package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

// obtainFlags describe a certificate on the command line.
type obtainFlags struct {
	passOptions
	name           string
	domains        []string
	challenge      string
	listen         string
	webroot        string
	provider       string
	credentials    string
	propagation    time.Duration
	email          string
	agreeTOS       bool
	directory      string
	acmeTrust      string
	keyType        string
	keyPolicy      string
	profile        string
	preferredChain string
	eabKID         string
	eabFile        string

	fresh bool                   // what the flags describe was not remembered before
	given func(name string) bool // whether a flag is on the command line
}

func (f *obtainFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	f.given = fs.Changed
	fs.StringArrayVarP(&f.domains, "domain", "d", nil, "`NAME` that the certificate is for (repeatable, or with commas)")
	fs.StringVar(&f.challenge, "challenge", "", "`TYPE` of the proof to the CA: http-01, tls-alpn-01 or dns-01")
	fs.StringVar(&f.listen, "listen", "", "http-01, tls-alpn-01: `HOST:PORT` that answers the CA (default :80 or :443)")
	fs.StringVar(&f.webroot, "webroot", "", "http-01: `DIR` that a web server serves already")
	fs.StringVar(&f.provider, "provider", "", "dns-01: `NAME` of the DNS provider")
	fs.StringVar(&f.credentials, "credentials", "", "dns-01: `FILE` with the provider's credentials, also as certbot has it")
	fs.DurationVar(&f.propagation, "propagation", 0, "dns-01: how long the record may take to appear, e.g. 60s")
	fs.StringVar(&f.name, "name", "", "`NAME` under which it is kept (default: the first domain)")
	fs.StringVar(&f.keyType, "key-type", "", "ec256 (default), ec384, rsa2048, rsa3072 or rsa4096")
	fs.StringVar(&f.keyPolicy, "key-policy", "", "what happens to the key at a renewal: auto (default), reuse, rotate or staged")
	fs.StringVar(&f.profile, "profile", "", "certificate `PROFILE`, as the CA lists them")
	fs.StringVar(&f.preferredChain, "preferred-chain", "", "common `NAME` of the topmost issuer, if the CA offers several chains")
	fs.StringVar(&f.acmeTrust, "acme-trust", "", "PEM `FILE` with the CA of the directory's own TLS")
	fs.BoolVar(&f.noDeploy, "no-deploy", false, "obtain and keep it only; install it on no Postfix now, and if --domain describes it, at no renewal either")
	fs.BoolVar(&f.force, "force", false, "order also what is not due; limits of the CA and our own guards stay")
	fs.BoolVar(&f.allowKeyChange, "allow-key-change", false, "accept another key although a TLSA record may name the present one")
	f.registerAccount(cmd)
}

// registerAccount adds the flags that say at which CA, and as whom.
func (f *obtainFlags) registerAccount(cmd *cobra.Command) {
	fs := cmd.Flags()
	f.given = fs.Changed
	fs.StringVar(&f.directory, "directory", "", "the CA: a `NAME` such as letsencrypt, or the https URL of its directory")
	fs.StringVarP(&f.email, "email", "m", "", "`ADDRESS` where the CA may write to")
	fs.BoolVar(&f.agreeTOS, "agree-tos", false, "consent to the CA's terms of service")
	fs.StringVar(&f.eabKID, "eab-kid", "", "external account binding: the key `IDENTIFIER` that the CA gave")
	fs.StringVar(&f.eabFile, "eab-hmac-file", "", "external account binding: `FILE` with the key in base64url")
	if fs.Lookup("acme-trust") == nil {
		fs.StringVar(&f.acmeTrust, "acme-trust", "", "PEM `FILE` with the CA of the directory's own TLS")
	}
}

// dryOrder is what --dry-run is where certificates are ordered.
const dryOrder = "make a whole order at the CA's directory for trials; keep and install nothing"

func (a *app) obtainCommand() *cobra.Command {
	f := &obtainFlags{passOptions: passOptions{reason: "obtain"}}
	cmd := &cobra.Command{
		Use: "obtain [NAME... | --domain D... --challenge TYPE]", Short: "order certificates by ACME, and install them", Long: obtainHelp, Example: obtainExample,
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			return a.obtain(ctx, f, args, res)
		})),
	}
	f.register(cmd)
	cmd.Flags().SetNormalizeFunc(certbotNames)
	a.dryRunFlag(cmd, dryOrder)
	a.atCAFlags(cmd, f)
	return cmd
}

// atCAFlags makes the flags about the CA layers of the configuration, as every
// other scalar flag is.
func (a *app) atCAFlags(cmd *cobra.Command, f *obtainFlags) {
	cmd.PreRun = func(*cobra.Command, []string) {
		a.flags.acme = map[string]string{}
		for flag, key := range map[string]string{"directory": "acme.directory", "email": "acme.email", "agree-tos": "acme.agree_tos"} {
			if f.given(flag) {
				a.flags.acme[key] = cmd.Flag(flag).Value.String()
			}
		}
	}
}

// overCA puts the flags about the CA that are no scalars over the configuration.
func (a *app) overCA(f *obtainFlags) error {
	if f.acmeTrust != "" {
		a.conf.ACME.Trust = f.acmeTrust
	}
	if f.eabKID != "" || f.eabFile != "" {
		if f.eabKID == "" || f.eabFile == "" {
			return usagef("--eab-kid and --eab-hmac-file go together")
		}
		a.conf.ACME.EAB.KID, a.conf.ACME.EAB.HMACFile = f.eabKID, f.eabFile
	}
	return nil
}

func (a *app) obtain(ctx context.Context, f *obtainFlags, args []string, res *result) error {
	if err := a.overCA(f); err != nil {
		return err
	}
	list, err := a.obtainable(ctx, f, args, res)
	if err != nil {
		return err
	}
	o := f.passOptions
	if a.flags.dryRun && f.given("directory") {
		spec, err := a.accountSpec()
		if err != nil {
			return err
		}
		o.dryDirectory, o.dryRoots = spec.Directory, spec.Roots
	}
	all, err := a.passes(ctx, list, o, res)
	forgotten := f.fresh && a.forget(list[0])
	if err != nil {
		return err
	}
	switch {
	case len(list) == 0:
		res.headline = "nothing is missing: every configured certificate was obtained. Renewals: postcert renew"
	case a.flags.dryRun && res.status == statusOK:
		res.headline = "dry run: the CA issued a certificate for trial, which was not kept. Nothing was installed."
	case a.flags.dryRun:
		res.headline = "dry run: an order would fail. Nothing was stored or installed."
	case forgotten:
		res.headline = "not obtained: nothing was stored, and what is served stays. Correct what is named above, and run it again."
	default:
		res.headline = passHeadline(res, all)
	}
	return nil
}

// obtainable are the certificates that a command line is about: one by flags, the
// named ones, or those that are configured and missing.
func (a *app) obtainable(ctx context.Context, f *obtainFlags, args []string, res *result) ([]wish, error) {
	if len(f.domains) > 0 {
		if len(args) > 0 {
			return nil, usagef("name a configured certificate, or describe one with --domain")
		}
		w, err := a.byFlags(ctx, f)
		return []wish{w}, err
	}
	for _, flag := range []string{"challenge", "listen", "webroot", "provider", "credentials", "propagation", "name", "key-type", "key-policy", "profile", "preferred-chain"} {
		if f.given(flag) {
			return nil, usagef("--%s describes a certificate that --domain names", flag)
		}
	}
	list, err := a.wishes(args)
	if len(list) == 0 && err != nil {
		return nil, err
	}
	a.blame(res, err)
	list = slices.DeleteFunc(list, func(w wish) bool { return w.source != config.SourceACME })
	for _, name := range args {
		if err == nil && !slices.ContainsFunc(list, func(w wish) bool { return w.name == name }) {
			return nil, refuse("name_unknown", problem.At{File: a.conf.File}, "no certificate %q is configured to be ordered, and none was obtained", name)
		}
	}
	if len(args) == 0 && len(list) == 0 && err == nil {
		return nil, usagef("nothing is configured to be ordered: describe a certificate with --domain, or write it to %s", a.conf.File)
	}
	if len(args) > 0 || f.force || a.flags.dryRun {
		return list, nil
	}
	return a.missing(list)
}

// missing are those of which there is no certificate yet, or another one than is
// wanted now.
func (a *app) missing(list []wish) ([]wish, error) {
	m, err := a.manager()
	if err != nil {
		return nil, err
	}
	var out []wish
	for _, w := range list {
		st, err := m.StateOf(w.spec)
		if err != nil {
			return nil, err
		}
		switch acme.Next(w.spec, st, st.Current, a.now()).Reason {
		case acme.ReasonMissing, acme.ReasonSpec, acme.ReasonPending:
			out = append(out, w)
		}
	}
	return out, nil
}

// byFlags is the certificate that the flags describe. It is remembered, so that
// renew and the daemon know it.
func (a *app) byFlags(ctx context.Context, f *obtainFlags) (wish, error) {
	w := wish{source: config.SourceACME, remembered: true}
	var domains []string
	for _, d := range f.domains {
		for _, name := range strings.Split(d, ",") {
			domains = append(domains, strings.TrimSpace(name))
		}
	}
	challenge, err := f.challengeOf()
	if err != nil {
		return w, err
	}
	spec, account, err := a.atCA(acme.Spec{
		Name: f.name, Identifiers: domains, KeyType: acme.KeyType(f.keyType), KeyPolicy: acme.KeyPolicy(f.keyPolicy),
		Profile: f.profile, PreferredChain: f.preferredChain, Challenge: challenge,
	})
	if err != nil {
		return w, err
	}
	if spec.Name == "" {
		spec.Name = strings.Replace(strings.TrimSuffix(strings.ToLower(domains[0]), "."), "*", "_wildcard", 1)
	}
	if w.spec, err = normal(spec); err != nil {
		return w, err
	}
	w.name, w.account = w.spec.Name, account
	if _, err := a.conf.Certificate(w.name); err == nil {
		return w, usagef("%s is configured in %s: change it there, then: postcert obtain %s", w.name, a.conf.File, w.name)
	}
	if w.chosen = !f.noDeploy; w.chosen && !a.flags.dryRun {
		// Before the order: who has no Postfix to install it on should hear it now.
		s, err := a.oneInstance(ctx)
		if err != nil {
			return w, err
		}
		w.instance = s.instance.ConfigDirectory
	}
	if a.flags.dryRun {
		return w, nil
	}
	if err := atomicfile.Private(a.conf.StateDir); err != nil {
		return w, err
	}
	old, err := a.rememberedWishes([]string{w.name})
	f.fresh = len(old) == 0 && err == nil
	return w, a.remember(w)
}

// challengeOf is the challenge that the flags describe. The type need not be said
// where the rest tells it.
func (f *obtainFlags) challengeOf() (acme.Challenge, error) {
	c := acme.Challenge{Type: f.challenge, Listen: f.listen, Webroot: f.webroot, Provider: f.provider, Credentials: f.credentials, Propagation: f.propagation}
	switch {
	case c.Type == "" && c.Provider != "":
		c.Type = acme.DNS01
	case c.Type == "" && c.Webroot != "":
		c.Type = acme.HTTP01
	case c.Type == "":
		return c, usagef("--challenge is missing: http-01 (port 80 of this host), tls-alpn-01 (port 443) or dns-01 (--provider)")
	}
	for _, p := range []*string{&c.Webroot, &c.Credentials} {
		abs, err := absolute(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	return c, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
