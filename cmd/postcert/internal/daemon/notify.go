package daemon

import (
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// Manager is the service manager that started us, told through the protocol of
// sd_notify(3): Type=notify, WatchdogSec=, ExecReload= with a signal.
//
// It is also right where there is none: then nothing is sent. What cannot be sent
// changes nothing about certificates, so no error is reported.
type Manager struct{ last string }

// NewManager takes the variables of the service manager from the environment that
// main copied and cleared. The library looks for them in the process environment,
// so they are put back there; programs that we start get a fixed environment and
// never see them.
func NewManager(env map[string]string) *Manager {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if v := env[name]; v != "" {
			os.Setenv(name, v)
		}
	}
	return &Manager{}
}

// Watchdog is the time within which the service manager wants a sign of life; 0
// if it wants none.
func (m *Manager) Watchdog() time.Duration {
	d, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return d
}

// Status sends a line for people, if it is another one than before.
func (m *Manager) Status(words string) {
	if words != m.last {
		m.last = words
		m.send("STATUS=" + words)
	}
}

// Alive is a sign of life (WATCHDOG=1).
func (m *Manager) Alive() { m.send(systemd.SdNotifyWatchdog) }

// Ready says that the start or a reload is over.
func (m *Manager) Ready() { m.send(systemd.SdNotifyReady) }

// Reloading says that a reload begins; Ready ends it. Type=notify-reload wants the
// time of it (CLOCK_MONOTONIC) to tell one reload from another.
func (m *Manager) Reloading() {
	m.send(systemd.SdNotifyReloading + "\n" + systemd.SdNotifyMonotonicUsec())
}

// Stopping says that we are about to end.
func (m *Manager) Stopping() { m.send(systemd.SdNotifyStopping) }

func (m *Manager) send(state string) { _, _ = systemd.SdNotify(false, state) }
