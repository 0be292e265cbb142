package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"postcert/deploy/program"
)

// Restart makes a master run again that is gone. It does nothing if one runs.
// old is what Master said while it ran: if it belonged to a systemd service of
// Postfix and systemd manages this host, that unit is restarted ("start" would
// be a no-op for a unit that still counts as active). Otherwise "postfix start"
// runs, and the new master is moved to the control groups where the old one
// was: one that stayed in ours would be ended with us, as when certbot.service
// runs a hook and ends.
//
// nil means that a master runs. It may still be wrong about its certificates.
func (i Instance) Restart(ctx context.Context, old Master) error {
	now, err := i.Master(ctx)
	if err != nil {
		return err
	}
	if now.Running {
		return nil
	}
	if old.Unit != "" && underSystemd() {
		unitErr := i.restartUnit(ctx, old.Unit)
		if unitErr == nil {
			return nil
		}
		if i.Log != nil {
			i.Log.Warn("restarting the unit of Postfix", "unit", old.Unit, "err", unitErr)
		}
		if errors.Is(unitErr, errOtherUnit) {
			old.Cgroups = nil // it ends with that unit, perhaps with us
		}
		// No mail is worse than mail from outside its unit.
		if err := i.start(ctx, old); err != nil {
			return errors.Join(unitErr, err)
		}
		return nil
	}
	return i.start(ctx, old)
}

// start runs postfix start and moves what it started out of our reach.
func (i Instance) start(ctx context.Context, old Master) error {
	apart, err := i.startAgain(ctx)
	if err != nil {
		return err
	}
	m, err := i.Master(ctx)
	if err != nil {
		return err
	}
	if !m.Running {
		return ErrNotRunning
	}
	if apart {
		return nil
	}
	if err := moveGroup(m, old.Cgroups); err != nil {
		return fmt.Errorf("postfix runs, and ends when we do: %w", err)
	}
	return nil
}

// startPatience is for how long a start that fails is tried again.
const startPatience = 5 * time.Second

// startAgain starts Postfix until that succeeds. The children of a master that
// was killed keep its sockets until they notice, and until then the new one ends
// because it cannot listen there. apart tells that it is not our child.
func (i Instance) startAgain(ctx context.Context) (apart bool, err error) {
	for began := time.Now(); ; {
		late := time.Since(began) > startPatience
		err := i.startApart(ctx)
		apart := err == nil
		if errors.Is(err, errNoManager) || late && err != nil {
			_, err = i.script(ctx, startTime, "start")
		}
		if err == nil || ctx.Err() != nil || late {
			return apart, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
		if m, merr := i.Master(ctx); merr == nil && m.Running {
			return false, nil
		}
	}
}

// errNoManager says that no service manager can start anything for us.
var errNoManager = errors.New("no systemd-run")

// startApart has systemd start Postfix as a service of its own (systemd-run(1)). A
// master that we start is our child: it would keep what a sandboxed service may not
// do, for as long as it runs.
func (i Instance) startApart(ctx context.Context) error {
	if !underSystemd() {
		return errNoManager
	}
	for _, path := range []string{"/usr/bin/systemd-run", "/bin/systemd-run"} {
		if !isFile(path) {
			continue
		}
		_, err := i.run(ctx, program.Command{Path: path, Timeout: startTime, Args: []string{
			"--quiet", "--collect", "--service-type=forking", "--property=GuessMainPID=no",
			"--description=Postfix of " + i.ConfigDirectory + ", started by postcert",
			"--", filepath.Join(i.commandDirectory(), "postfix"), "-c", i.ConfigDirectory, "start"}})
		return err
	}
	return errNoManager
}

// underSystemd is sd_booted(3).
func underSystemd() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// systemctlPaths are where systemctl(1) can be.
var systemctlPaths = []string{"/usr/bin/systemctl", "/bin/systemctl"}

// errOtherUnit says that a unit had the master in it without being Postfix's.
var errOtherUnit = errors.New("not a service of Postfix")

func (i Instance) restartUnit(ctx context.Context, unit string) error {
	for _, path := range systemctlPaths {
		if !isFile(path) {
			continue
		}
		r, err := i.run(ctx, program.Command{Path: path, Args: []string{"show", "--property=ExecStart", "--", unit}})
		if err != nil {
			return err
		}
		// A master that an earlier hook started may have run in, say,
		// certbot.service. Restarting that would do anything but this.
		if !startsPostfix(string(r.Stdout)) {
			return fmt.Errorf("%s: %w", unit, errOtherUnit)
		}
		if _, err := i.run(ctx, program.Command{Path: path, Args: []string{"restart", "--", unit}, Timeout: startTime}); err != nil {
			return err
		}
		return i.awaitMaster(ctx, unit)
	}
	return errors.New("systemctl is not installed")
}

// awaitMaster: a unit of type forking has its master when systemctl returns;
// others may need a moment.
func (i Instance) awaitMaster(ctx context.Context, unit string) error {
	for range 50 {
		m, err := i.Master(ctx)
		if err != nil || m.Running {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s was restarted, and no master runs", unit)
}

// startsPostfix reads systemctl show --property=ExecStart: "ExecStart={
// path=PROGRAM ; argv[]=... }". A unit may name the program without a directory,
// as that of Debian 13 does.
func startsPostfix(execStart string) bool {
	_, after, _ := strings.Cut(execStart, "path=")
	path, _, _ := strings.Cut(after, " ")
	switch filepath.Base(path) {
	case "postfix", "postmulti", "master":
		return true
	}
	return false
}

// ending are the hierarchies that service managers end processes by; the
// others limit memory and the like.
var ending = map[string]bool{"": true, "name=systemd": true}

// moveGroup moves the master m and its children from every control group that
// they share with this process to the one in old. Where that is gone or was
// not known, they go to the root of the hierarchy, if they would end with us.
func moveGroup(m Master, old map[string]string) error {
	ours := cgroupsOf(os.Getpid())
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for hierarchy, path := range m.Cgroups {
		want, known := old[hierarchy]
		if !known && ending[hierarchy] {
			want, known = "/", true
		}
		if !known || path != ours[hierarchy] || path == want {
			continue
		}
		mount, ok := mounts[hierarchy]
		if !ok {
			return fmt.Errorf("the control groups %q are not mounted", hierarchy)
		}
		target := mount.dir(want)
		if _, err := os.Stat(target); err != nil {
			target = mount.point
		}
		if err := moveProcesses(m.PID, filepath.Join(target, "cgroup.procs"), mount.dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// moveProcesses moves the process group pgid. New children are born where
// their parent is, so the master goes first; a second look finds those who
// were born meanwhile.
func moveProcesses(pgid int, procs, from string) error {
	if err := os.WriteFile(procs, []byte(strconv.Itoa(pgid)), 0); err != nil {
		return fmt.Errorf("moving master to its control group: %w", err)
	}
	for range 10 {
		data, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("listing a control group: %w", err)
		}
		moved := false
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil || pid == 0 { // 0: not in our pid namespace
				continue
			}
			if group, err := syscall.Getpgid(pid); err != nil || group != pgid {
				continue
			}
			moved = true
			if err := os.WriteFile(procs, []byte(field), 0); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("moving process %d to its control group: %w", pid, err)
			}
		}
		if !moved {
			return nil
		}
	}
	return errors.New("processes of Postfix stay in our control group")
}
