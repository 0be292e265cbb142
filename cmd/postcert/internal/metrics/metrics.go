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
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

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

// desc is one metric.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("postcert_"+name, help, labels, nil)
}

var (
	onPostfix  = []string{"postfix", "certificate"}
	onListener = []string{"postfix", "certificate", "service", "address", "sni", "key_type"}

	buildInfo    = desc("build_info", "Version of postcert; always 1.", "version")
	notAfter     = desc("installed_not_after_timestamp_seconds", "When the installed certificate expires.", onPostfix...)
	notBefore    = desc("installed_not_before_timestamp_seconds", "When the installed certificate became valid.", onPostfix...)
	wanted       = desc("wanted_installed", "1 if the installed certificate is the one that is wanted.", onPostfix...)
	drifted      = desc("drift", "1 if what is there differs from what was proven, without postcert's doing.", onPostfix...)
	probed       = desc("last_probe_timestamp_seconds", "When the listeners were asked last.", onPostfix...)
	lastDeploy   = desc("last_deploy_timestamp_seconds", "When the last deploy ended.", onPostfix...)
	lastDuration = desc("last_deploy_duration_seconds", "How long the last deploy took.", onPostfix...)
	lastOK       = desc("last_deploy_success", "1 if the last deploy succeeded.", onPostfix...)
	lastExit     = desc("last_deploy_exit_status", "Exit status of the last deploy; 4 is rolled back, 5 is an incomplete rollback.", onPostfix...)
	lastSuccess  = desc("last_success_timestamp_seconds", "When a deploy succeeded last.", onPostfix...)
	attempt      = desc("next_deploy_timestamp_seconds", "When what failed is deployed again.", onPostfix...)

	served = desc("served_not_after_timestamp_seconds", "When the certificate expires that a listener presented.", onListener...)
	agrees = desc("served_agrees", "1 if a listener presented the installed certificate.", onListener...)

	lastPass    = desc("last_pass_timestamp_seconds", "When the last pass over a certificate came to its end.", "certificate")
	windowStart = desc("ari_window_start_timestamp_seconds", "Begin of the window in which the CA would like the renewal.", "certificate")
	windowEnd   = desc("ari_window_end_timestamp_seconds", "End of the window in which the CA would like the renewal.", "certificate")
	nextOrder   = desc("next_order_timestamp_seconds", "When the next order is made.", "certificate")
	renewals    = desc("renewals_total", "Certificates that were obtained or renewed.", "certificate")
	failures    = desc("failures_total", "Problems that made a command fail, by id.", "id")
)

var all = []*prometheus.Desc{
	buildInfo, notAfter, notBefore, wanted, drifted, probed, lastDeploy, lastDuration, lastOK, lastExit, lastSuccess, attempt,
	served, agrees, lastPass, windowStart, windowEnd, nextOrder, renewals, failures,
}

// collector makes metrics of a snapshot, each time it is asked.
type collector struct{ take func() Snapshot }

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range all {
		out <- d
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.take()
	g := gauges{out}
	g.value(buildInfo, 1, s.Version)
	for _, d := range s.Deployed {
		g.deployed(d)
	}
	for _, x := range s.Certificates {
		g.time(lastPass, x.LastPass, x.Name)
		g.time(windowStart, x.WindowStart, x.Name)
		g.time(windowEnd, x.WindowEnd, x.Name)
		g.time(nextOrder, x.NextOrder, x.Name)
	}
	for name, n := range s.Counters.Renewals {
		g.metric(renewals, prometheus.CounterValue, float64(n), name)
	}
	for id, n := range s.Counters.Failures {
		g.metric(failures, prometheus.CounterValue, float64(n), id)
	}
}

type gauges struct{ out chan<- prometheus.Metric }

// metric sends one sample. A path may be any bytes; a label value may not.
func (g gauges) metric(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "?")
	}
	m, err := prometheus.NewConstMetric(d, kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	g.out <- m
}

func (g gauges) value(d *prometheus.Desc, v float64, labels ...string) {
	g.metric(d, prometheus.GaugeValue, v, slices.Clone(labels)...)
}

func (g gauges) time(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		g.value(d, float64(t.UnixMilli())/1000, labels...)
	}
}

func (g gauges) truth(d *prometheus.Desc, so bool, labels ...string) {
	v := 0.0
	if so {
		v = 1
	}
	g.value(d, v, labels...)
}

func (g gauges) deployed(d Deployed) {
	on := []string{d.Postfix, d.Name}
	g.time(notAfter, d.NotAfter, on...)
	g.time(notBefore, d.NotBefore, on...)
	g.truth(wanted, d.Installed, on...)
	g.truth(drifted, d.Drifted, on...)
	g.time(probed, d.Probed, on...)
	g.time(lastSuccess, d.LastSuccess, on...)
	g.time(attempt, d.Attempt, on...)
	if !d.LastDeploy.IsZero() {
		g.time(lastDeploy, d.LastDeploy, on...)
		g.truth(lastOK, d.LastExit == 0, on...)
		g.value(lastExit, float64(d.LastExit), on...)
		if d.LastDuration >= 0 {
			g.value(lastDuration, d.LastDuration.Seconds(), on...)
		}
	}
	seen := map[Listener]bool{}
	for _, l := range d.Listeners {
		key := Listener{Service: l.Service, Address: strings.ToValidUTF8(l.Address, "?"), SNI: l.SNI, KeyType: l.KeyType}
		if seen[key] { // a series that is there twice makes the whole scrape fail
			continue
		}
		seen[key] = true
		at := append(on[:2:2], l.Service, l.Address, l.SNI, l.KeyType)
		g.time(served, l.NotAfter, at...)
		g.truth(agrees, l.Agrees, at...)
	}
}

func registry(take func() Snapshot) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{take})
	return r
}

// Text is a snapshot in Prometheus' text format.
func Text(s Snapshot) ([]byte, error) {
	families, err := registry(func() Snapshot { return s }).Gather()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// WriteTextfile writes a snapshot to a file for node_exporter, which runs as
// somebody else and may look at any moment: the file can be read by all, and is
// replaced as a whole. What a killed run left beside it is removed.
func WriteTextfile(path string, s Snapshot) error {
	data, err := Text(s)
	if err != nil {
		return err
	}
	if _, err := atomicfile.Sweep(atomicfile.OS, filepath.Dir(path), time.Now().Add(-time.Minute)); err != nil {
		return err
	}
	return atomicfile.Write(atomicfile.OS, path, data, atomicfile.Attr{Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
}

// Handler answers scrapes, one at a time.
func Handler(take func() Snapshot) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(take), promhttp.HandlerOpts{MaxRequestsInFlight: 1, Timeout: 10 * time.Second}))
	return mux
}
