// Package metrics tells Prometheus what postcert knows: as a file for the textfile
// collector of node_exporter, written after each pass, and as an HTTP handler for
// the daemon.
//
// Both show a [Snapshot], which the caller makes of records on disk. No listener is
// asked and no key is read for it, so a scrape costs a few small files, and what it
// shows is as old as postcert_last_probe_timestamp_seconds says.
//
// Names follow Prometheus' conventions: a prefix, base units, times as Unix seconds,
// _total for what only grows. The instance of Postfix is the label "postfix",
// because "instance" is the scraped host's. A certificate that was given back has no
// metrics; a time that is not known is left out, not 0.
package metrics

import (
	"net/http"
	"os"
	"path/filepath"
	"time"

	"postcert/deploy/atomicfile"
)

// Snapshot is everything at one moment.
type Snapshot struct {
	Version      string
	Deployed     []Deployed
	Certificates []Certificate
	Counters     Counters
}

// Deployed is a certificate on an instance.
type Deployed struct {
	Postfix, Name        string
	NotBefore, NotAfter  time.Time // of what is installed
	Installed            bool      // what is wanted is what is installed
	Drifted              bool
	Probed               time.Time
	Listeners            []Listener
	LastDeploy           time.Time
	LastDuration         time.Duration // negative: not known
	LastExit             int
	LastSuccess, Attempt time.Time // Attempt is when what failed is deployed again
}

// Listener is what one listener presented when it was asked last.
type Listener struct {
	Service, Address, SNI, KeyType string
	Agrees                         bool
	NotAfter                       time.Time
}

// Certificate is one that is kept, wherever it is served.
type Certificate struct {
	Name                   string
	LastPass               time.Time
	WindowStart, WindowEnd time.Time // in which the CA would like the renewal (RFC 9773)
	NextOrder              time.Time
}

var (
	onPostfix  = []string{"postfix", "certificate"}
	onListener = []string{"postfix", "certificate", "service", "address", "sni", "key_type"}

	buildInfo    = gauge("build_info", "Version of postcert; always 1.", "version")
	notAfter     = gauge("installed_not_after_timestamp_seconds", "When the installed certificate expires.", onPostfix...)
	notBefore    = gauge("installed_not_before_timestamp_seconds", "When the installed certificate became valid.", onPostfix...)
	wanted       = gauge("wanted_installed", "1 if the installed certificate is the one that is wanted.", onPostfix...)
	drifted      = gauge("drift", "1 if what is there differs from what was proven, without postcert's doing.", onPostfix...)
	probed       = gauge("last_probe_timestamp_seconds", "When the listeners were asked last.", onPostfix...)
	lastDeploy   = gauge("last_deploy_timestamp_seconds", "When the last deploy ended.", onPostfix...)
	lastDuration = gauge("last_deploy_duration_seconds", "How long the last deploy took.", onPostfix...)
	lastOK       = gauge("last_deploy_success", "1 if the last deploy succeeded.", onPostfix...)
	lastExit     = gauge("last_deploy_exit_status", "Exit status of the last deploy; 4 is rolled back, 5 is an incomplete rollback.", onPostfix...)
	lastSuccess  = gauge("last_success_timestamp_seconds", "When a deploy succeeded last.", onPostfix...)
	attempt      = gauge("next_deploy_timestamp_seconds", "When what failed is deployed again.", onPostfix...)

	served = gauge("served_not_after_timestamp_seconds", "When the certificate expires that a listener presented.", onListener...)
	agrees = gauge("served_agrees", "1 if a listener presented the installed certificate.", onListener...)

	lastPass    = gauge("last_pass_timestamp_seconds", "When the last pass over a certificate came to its end.", "certificate")
	windowStart = gauge("ari_window_start_timestamp_seconds", "Begin of the window in which the CA would like the renewal.", "certificate")
	windowEnd   = gauge("ari_window_end_timestamp_seconds", "End of the window in which the CA would like the renewal.", "certificate")
	nextOrder   = gauge("next_order_timestamp_seconds", "When the next order is made.", "certificate")
	renewals    = counter("renewals_total", "Certificates that were obtained or renewed.", "certificate")
	failures    = counter("failures_total", "Problems that made a command fail, by id.", "id")
)

// Text is a snapshot in Prometheus' text format.
func Text(s Snapshot) []byte {
	p := page{}
	p.value(buildInfo, 1, s.Version)
	for _, d := range s.Deployed {
		p.deployed(d)
	}
	for _, x := range s.Certificates {
		p.time(lastPass, x.LastPass, x.Name)
		p.time(windowStart, x.WindowStart, x.Name)
		p.time(windowEnd, x.WindowEnd, x.Name)
		p.time(nextOrder, x.NextOrder, x.Name)
	}
	for name, n := range s.Counters.Renewals {
		p.value(renewals, float64(n), name)
	}
	for id, n := range s.Counters.Failures {
		p.value(failures, float64(n), id)
	}
	return p.text()
}

func (p page) deployed(d Deployed) {
	on := []string{d.Postfix, d.Name}
	p.time(notAfter, d.NotAfter, on...)
	p.time(notBefore, d.NotBefore, on...)
	p.truth(wanted, d.Installed, on...)
	p.truth(drifted, d.Drifted, on...)
	p.time(probed, d.Probed, on...)
	p.time(lastSuccess, d.LastSuccess, on...)
	p.time(attempt, d.Attempt, on...)
	if !d.LastDeploy.IsZero() {
		p.time(lastDeploy, d.LastDeploy, on...)
		p.truth(lastOK, d.LastExit == 0, on...)
		p.value(lastExit, float64(d.LastExit), on...)
		if d.LastDuration >= 0 {
			p.value(lastDuration, d.LastDuration.Seconds(), on...)
		}
	}
	for _, l := range d.Listeners {
		at := append(on[:2:2], l.Service, l.Address, l.SNI, l.KeyType)
		p.time(served, l.NotAfter, at...)
		p.truth(agrees, l.Agrees, at...)
	}
}

// WriteTextfile writes a snapshot to a file for node_exporter, which runs as
// somebody else and may look at any moment: the file can be read by all, and is
// replaced as a whole. What a killed run left beside it is removed.
func WriteTextfile(path string, s Snapshot) error {
	if _, err := atomicfile.Sweep(atomicfile.OS, filepath.Dir(path), time.Now().Add(-time.Minute)); err != nil {
		return err
	}
	return atomicfile.Write(atomicfile.OS, path, Text(s), atomicfile.Attr{Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
}

// Handler answers scrapes, one at a time, in the text format, which every
// Prometheus takes.
func Handler(take func() Snapshot) http.Handler {
	turn := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		default:
			http.Error(w, "another scrape is being answered", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(Text(take())) // who hung up asks again
	})
	return mux
}
