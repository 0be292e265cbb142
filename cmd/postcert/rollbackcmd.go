package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"postcert/deploy"
	"postcert/deploy/postfix"
)

func (a *app) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history [NAME]", Short: "list what was done", Long: historyHelp,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.history(ctx, args, res)
		}),
	}
}

func (a *app) history(ctx context.Context, args []string, res *result) error {
	sites, unread, err := a.instances(ctx)
	if err != nil {
		return err
	}
	a.blame(res, unread)
	tb := &table{head: []string{"time", "name", "generation", "what", "rehearsed", "outcome"}}
	all := []deploy.Record{}
	for _, s := range sites {
		records, err := s.engine.History()
		if err != nil {
			return err
		}
		for _, r := range records {
			if len(args) == 1 && r.Name != args[0] {
				continue
			}
			all = append(all, r)
			tb.add(outcomeColour(r.Outcome), r.Time.UTC().Format(time.DateTime), r.Name, generationWords(r.Generation), r.Reason, r.RehearsedWords(), string(r.Outcome)+causeWords(r))
		}
	}
	a.text.table(tb)
	res.add("history", all)
	if len(all) == 0 {
		res.headline = "nothing was done yet."
	}
	return nil
}

func causeWords(r deploy.Record) string {
	if r.Cause == "" {
		return ""
	}
	return ": " + shorten(r.Cause, 80)
}

func outcomeColour(o deploy.Outcome) string {
	switch o {
	case deploy.Installed, deploy.Unchanged:
		return green
	case deploy.NotVerified, deploy.RolledBack, deploy.Refused:
		return yellow
	}
	return red
}

func (a *app) rollbackCommand() *cobra.Command {
	var to int
	var ignore []string
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use: "rollback [NAME]", Short: "install an earlier generation again", Long: rollbackHelp, Example: rollbackExample,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			if cmd.Flags().Changed("to") && to < 1 {
				return usagef("--to %d: generations are numbered from 1; to give the certificate back: postcert release", to)
			}
			s, err := a.oneInstance(ctx)
			if err != nil {
				return err
			}
			return a.transact(ctx, s, func(ctx context.Context) (deploy.Change, error) {
				c, err := s.engine.Rollback(ctx, first(args), to)
				c.IgnoreListeners = ignore
				return a.change(s, c), err
			}, res)
		})),
	}
	cmd.Flags().IntVar(&to, "to", 0, "`GENERATION` to go back to (default: the one before the present one)")
	cmd.Flags().StringArrayVar(&ignore, "ignore-listener", nil, "`ADDRESS` that need not prove the certificate (repeatable)")
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

func (a *app) releaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "release [NAME]", Short: "let Postfix use the files again that it used before", Long: releaseHelp, Example: releaseExample,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(a.telling(func(ctx context.Context, args []string, res *result) error {
			s, err := a.oneInstance(ctx)
			if err != nil {
				return err
			}
			return a.transact(ctx, s, func(ctx context.Context) (deploy.Change, error) {
				c, err := s.engine.Release(ctx, first(args))
				return a.change(s, c), err
			}, res)
		})),
	}
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) recoverCommand() *cobra.Command {
	return &cobra.Command{
		Use: "recover", Short: "settle a change that was interrupted", Long: recoverHelp,
		Args:        usageArgs(cobra.NoArgs),
		Annotations: map[string]string{unattended: "yes"},
		RunE: a.runE(a.telling(func(ctx context.Context, _ []string, res *result) error {
			return a.recover(ctx, res)
		})),
	}
}

// recover settles each instance's open transaction. The journal knows which
// instance it belongs to, so an instance whose configuration cannot be read at
// the moment is settled as well.
func (a *app) recover(ctx context.Context, res *result) error {
	s, err := a.journalSite(ctx)
	if err != nil {
		return err
	}
	if s == nil {
		res.headline = "nothing to recover."
		return nil
	}
	s.engine.Progress = a.progress(s.engine.Progress)
	rep, err := s.engine.Settle(ctx, lockWait)
	if rep == nil {
		if err == nil {
			res.headline = "nothing to recover."
		}
		return err
	}
	a.recordStatus(s, rep, interruption(rep, err))
	res.add("transaction", transactionOf(rep))
	a.showReport(rep)
	switch rep.Outcome {
	case deploy.Installed:
		res.headline = fmt.Sprintf("recovered: %s was proven before the interruption; the journal is closed.", rep.Plan.Name)
	case deploy.RolledBack:
		res.headline = fmt.Sprintf("recovered: the interrupted change of %s is undone%s.", rep.Plan.Name, provenWords(rep))
	default:
		res.headline = headline(rep, err, false)
	}
	return err
}

// interruption is how the interrupted change ended, for the status: that its
// undo went well is no success of the certificate that was wanted.
func interruption(rep *deploy.Report, err error) error {
	if err == nil && rep.Outcome == deploy.RolledBack {
		return &deploy.RolledBackError{Cause: errors.New(rep.Cause)}
	}
	return err
}

// journalSite is the instance that an open transaction belongs to, or the
// instance named on the command line; nil if there is nothing to recover.
func (a *app) journalSite(ctx context.Context) (*site, error) {
	s := a.site(ctx, postfix.Instance{
		ConfigDirectory: a.conf.Instance, CommandDirectory: a.conf.CommandDirectory,
		RuntimeDirectory: a.conf.RuntimeDir, Log: a.log,
	})
	dir, err := s.engine.OpenInstance(ctx)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return s, nil
	}
	s.instance.ConfigDirectory = dir
	return a.site(ctx, s.instance), nil
}
