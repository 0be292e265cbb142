package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/verify/problem"
)

// revocationReasons are the words for the reasons that CAs take from subscribers.
var revocationReasons = map[string]acme.RevocationReason{
	"unspecified": acme.Unspecified, "key-compromise": acme.KeyCompromise, "superseded": acme.Superseded, "cessation": acme.CessationOfOperation,
}

func (a *app) revokeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "revoke the live certificate at the CA", Long: revokeHelp, Example: revokeExample,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.revoke(ctx, args[0], reason, res)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "`REASON`: unspecified, key-compromise, superseded or cessation")
	a.dryRunFlag(cmd, "show what would be revoked; ask nobody")
	return cmd
}

func (a *app) revoke(ctx context.Context, name, reason string, res *result) error {
	code, ok := revocationReasons[strings.ToLower(reason)]
	if !ok {
		return usagef("--reason %q: it is unspecified, key-compromise, superseded or cessation", reason)
	}
	list, err := a.wishes([]string{name})
	if len(list) == 0 && err != nil {
		return err
	}
	if len(list) == 0 || list[0].source != config.SourceACME {
		return refuse("name_unknown", problem.At{}, "no certificate %q was obtained here", name)
	}
	m, err := a.manager()
	if err != nil {
		return err
	}
	st, err := m.StateOf(list[0].spec)
	if err != nil {
		return err
	}
	if st.Current == nil {
		return refuse("name_unknown", problem.At{}, "there is no certificate of %s to revoke", name)
	}
	res.add("name", name)
	res.add("reason", strings.ToLower(reason))
	res.add("serial", st.Current.Serial)
	res.add("fingerprint", st.Current.SHA256)
	what := fmt.Sprintf("%s, serial %s, sha256 %s…", name, st.Current.Serial, st.Current.SHA256[:16])
	if a.flags.dryRun {
		res.headline = "dry run: would be revoked: " + what
		return nil
	}
	if err := m.Revoke(ctx, list[0].spec, code); err != nil {
		res.headline = "not revoked: " + what
		return err
	}
	res.headline = "revoked: " + what + ". It is still served. Replace it now: postcert renew --force " + name
	if code == acme.KeyCompromise {
		res.headline += " --allow-key-change"
	}
	return nil
}
