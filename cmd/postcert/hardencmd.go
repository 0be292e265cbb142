package main

import (
	"context"

	"github.com/spf13/cobra"

	"postcert/verify/audit"
)

const hardenHelp = `harden brings the TLS settings of Postfix into line with a profile of audit: it
carries out the remedies of what audit finds, in one proven change, or undoes them.

  runbook      the settings and the two submission services of the runbook, exactly
  recommended  what Postfix's own documentation of this version advises
  strict       recommended, and TLS 1.2 or later for users

What this Postfix has deprecated is left out, and said. So is what a person has to
decide; postcert audit has it. Parameters that name certificates are left to
install-cert.

First the diff is shown, then which clients in the log of the last 30 days would have
been turned away: by a version of TLS, by a cipher, for a password in clear. A private
Postfix must then serve the new settings, and what is in between: new main.cf with the
options that running services still have. If that does not serve, master.cf and
main.cf are changed one after the other, each proven, in the order that does.

Afterwards openssl plays clients, from TLS 1.0 to 1.3, with RSA and ECDSA, with old and
new ciphers, at every listener. Those that could connect before, and that the new
settings do not mean to turn away, must get through; TLS 1.2 and 1.3 in any case. If
one does not, all is undone, and that is proven.

A service with AUTH is added only if the private Postfix offers AUTH inside TLS, and
not before, from the real SASL service. Without one: --without-submission.

--undo takes back what harden did, later too: each parameter only if it still has the
value that harden gave it. What somebody has changed since stays, and is said. With
names (smtpd_tls_auth_only, submission/inet, or both joined by /) only these. If a
service then takes passwords without TLS, status says so until it does not.

EXIT STATUS
` + statusTable

const hardenExample = `  postcert harden --profile runbook --dry-run
  postcert harden --profile recommended
  postcert harden --profile runbook --without-submission
  postcert harden --undo
  postcert harden --undo smtpd_tls_auth_only`

type hardenFlags struct {
	profile           string
	undo              bool
	withoutSubmission bool
}

func (a *app) hardenCommand() *cobra.Command {
	var f hardenFlags
	cmd := &cobra.Command{
		Use: "harden --profile PROFILE | --undo [PARAMETER...]", Short: "bring the TLS settings into line with a profile, proven or undone", Long: hardenHelp, Example: hardenExample,
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			profile, ok := audit.Find(f.profile)
			switch {
			case f.undo && (f.profile != "" || f.withoutSubmission):
				return usagef("--undo stands alone, with the names of parameters if not all is meant")
			case f.undo:
				return a.hardenUndo(ctx, args, res)
			case len(args) > 0:
				return usagef("%q: names of parameters are for --undo", args[0])
			case f.profile == "":
				return usagef("say what is meant: --profile with one of %s, or --undo", profileNames())
			case !ok:
				return usagef("--profile %q: use %s", f.profile, profileNames())
			}
			return a.harden(ctx, f, profile, res)
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.profile, "profile", "", "`LIST` of rules: "+profileNames())
	fs.BoolVar(&f.withoutSubmission, "without-submission", false, "leave ports 587 and 465 as they are")
	fs.BoolVar(&f.undo, "undo", false, "take back what harden did, or the named parameters of it")
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

// leftJSON is what a profile finds and harden does not do.
type leftJSON struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
	Words   string `json:"words"` // why not, or what to do
}

// clientJSON is one cell of the matrix of clients.
type clientJSON struct {
	Service  string `json:"service"`
	Endpoint string `json:"endpoint"`
	Client   string `json:"client"`
	Demand   demand `json:"demand"`
	Before   bool   `json:"before"` // it connected
	After    string `json:"after"`  // "yes", "no", or "" where it was not asked
}

// hardenJSON is what harden says besides the plan.
type hardenJSON struct {
	Profile string        `json:"profile"`
	Order   []string      `json:"order"` // the files, one transaction each; "both" is one for both
	Why     string        `json:"why"`   // of the order
	LeftOut []leftOutJSON `json:"left_out"`
	Left    []leftJSON    `json:"left"`
	Log     peerLog       `json:"log"`
	Clients []clientJSON  `json:"clients"`
}
