package main

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/deploy"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// companions are the other daemons of the configuration, as the engine takes
// them. One whose accounts do not exist here cannot be given a key.
func companions(conf config.Config) ([]deploy.Companion, error) {
	var out []deploy.Companion
	for i, c := range conf.Companions {
		to := deploy.Companion{Name: c.Name, Certificate: c.Certificate, Reload: c.Reload}
		if c.Export != (config.Export{}) {
			uid, gid, err := accounts(c.Export)
			if err != nil {
				return nil, refuse("companion_account", problem.At{File: conf.File, Parameter: fmt.Sprintf("companions[%d].export", i)}, "%v", err)
			}
			to.Export = deploy.Export{Directory: c.Export.Directory, UID: uid, GID: gid}
		}
		for _, text := range c.Probe {
			e, err := parseEndpoint(text)
			if err != nil {
				return nil, err
			}
			to.Probe = append(to.Probe, e)
		}
		out = append(out, to)
	}
	return out, nil
}

// accounts are the numbers of an export's owner and group.
func accounts(x config.Export) (uid, gid uint32, err error) {
	owner, group := x.Owner, x.Group
	if u, lerr := user.Lookup(owner); lerr == nil {
		owner = u.Uid
	}
	if g, lerr := user.LookupGroup(group); lerr == nil {
		group = g.Gid
	}
	u, err := strconv.ParseUint(owner, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("there is no user %s", x.Owner)
	}
	g, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("there is no group %s", x.Group)
	}
	return uint32(u), uint32(g), nil
}

// companionLimit is more than a daemon needs to be told to read its files.
const companionLimit = 30 * time.Second

// command runs the reload command of a companion.
func (a *app) command(ctx context.Context, argv []string) error {
	_, err := program.Run(ctx, program.Command{Path: argv[0], Args: argv[1:], Timeout: companionLimit})
	return err
}
