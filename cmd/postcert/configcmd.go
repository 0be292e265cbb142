package main

import (
	"context"
	"maps"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"postcert/cmd/postcert/internal/config"
)

// version is set at link time for a release; otherwise the build information
// of the Go toolchain says which commit this is.
var version = ""

func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, dirty := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			v = "devel-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return v + dirty
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Long: versionHelp, Args: usageArgs(cobra.NoArgs),
		Annotations: map[string]string{"config": "none"},
		RunE: a.runE(func(_ context.Context, _ []string, res *result) error {
			res.add("version", versionString())
			res.add("go", runtime.Version())
			res.add("platform", runtime.GOOS+"/"+runtime.GOARCH)
			a.text.printf("postcert %s (%s, %s/%s)\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		}),
	}
}

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "check or show the configuration", Long: configHelp,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use: "check [FILE]", Short: "say whether the configuration is right, with file and line", Long: configHelp, Args: usageArgs(cobra.MaximumNArgs(1)),
		Annotations: map[string]string{"config": "none"},
		RunE: a.runE(func(_ context.Context, args []string, res *result) error {
			return a.configCheck(args, res)
		}),
	}
	show := &cobra.Command{
		Use: "show", Short: "print the configuration in effect and where each value comes from", Long: configHelp, Args: usageArgs(cobra.NoArgs),
		RunE: a.runE(func(_ context.Context, _ []string, res *result) error {
			return a.configShow(res)
		}),
	}
	cmd.AddCommand(check, show)
	return cmd
}

func (a *app) configCheck(args []string, res *result) error {
	in := a.configSource()
	if len(args) == 1 {
		in.Flags["config"] = args[0]
	}
	conf, found := config.Load(in)
	res.add("file", conf.File)
	res.problems = append(res.problems, found...)
	if len(found.Errors()) > 0 {
		res.headline = "the configuration is not right; postcert would refuse to run with it."
		return errNo
	}
	res.headline = "the configuration is right."
	if !conf.Found {
		res.headline = "there is no configuration file; postcert runs with its defaults."
	}
	return nil
}

func (a *app) configShow(res *result) error {
	out, err := a.conf.Show()
	if err != nil {
		return err
	}
	res.add("file", a.conf.File)
	res.add("entries", emptyNotNull(a.conf.Entries()))
	a.text.printf("%s", out)
	return nil
}

// configSource is where scalar values may come from: flags, the environment
// that main copied, the file.
func (a *app) configSource() config.Input {
	flags := map[string]string{}
	for name, v := range map[string]string{
		"config": a.flags.config, "instance": a.flags.instance, "state_dir": a.flags.stateDir, "runtime_dir": a.flags.runDir,
	} {
		if v != "" {
			flags[name] = v
		}
	}
	maps.Copy(flags, a.flags.acme)
	return config.Input{Flags: flags, Environment: a.env}
}
