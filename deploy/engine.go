package deploy

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix/cf"
)

// Directory is where below an instance's configuration directory the files
// that Postfix reads are kept.
const Directory = "tls"

// Deadlines of the proof. The longer one exceeds service_throttle_time (60 s):
// postconf(5): a daemon that died at start is not started again for that long,
// and a reload does not shorten it.
const (
	FileSwitchDeadline = 20 * time.Second
	ConfigureDeadline  = 75 * time.Second
)

// Engine runs changes on one Postfix instance. All fields without a comment on
// their zero value must be set.
type Engine struct {
	MTA    MTA
	Stage  Stage // nil: rehearsals never run
	Prober Prober
	Store  *generation.Store
	FS     atomicfile.FS
	Host   cf.Host

	Companions []Companion
	Command    func(ctx context.Context, argv []string) error // runs a companion's reload command; nil: it cannot be run

	Instance string // configuration directory; History is about this one
	StateDir string // lock, journal, history
	Keep     int    // generations kept; 0 is 3

	FileSwitchDeadline time.Duration // 0 is FileSwitchDeadline
	ConfigureDeadline  time.Duration // 0 is ConfigureDeadline

	Progress func(Event)      // nil: nobody watches
	Log      *slog.Logger     // nil: discarded
	Now      func() time.Time // nil: time.Now
}

func (e *Engine) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

func (e *Engine) logger() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (e *Engine) journalDir() string { return filepath.Join(e.StateDir, "journal") }
func (e *Engine) historyDir() string { return filepath.Join(e.StateDir, "history") }
func (e *Engine) lockPath() string   { return filepath.Join(e.StateDir, "lock") }

// deadline is how long listeners are asked before a change counts as not
// proven.
func (e *Engine) deadline(configures bool) time.Duration {
	if configures {
		return orDefault(e.ConfigureDeadline, ConfigureDeadline)
	}
	return orDefault(e.FileSwitchDeadline, FileSwitchDeadline)
}

func orDefault(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

func jsonString(s string) ([]byte, error) { return json.Marshal(s) }

// undoContext is a context that the signal which ended the command does not
// cancel: an undo, once begun, is finished.
func undoContext(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

func orInt(n, def int) int {
	if n > 0 {
		return n
	}
	return def
}
