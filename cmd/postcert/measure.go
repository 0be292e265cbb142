package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/metrics"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

// measure counts how a command ended, and writes the file for Prometheus, if the
// configuration asks for it. What cannot be written is a warning.
func (a *app) measure(res *result, st int, problems problem.List) {
	m := a.conf.Metrics
	if m.Textfile == "" && m.Listen == "" {
		return
	}
	if st == statusOK && len(a.touched)+len(a.passed) == 0 && res.command != "renew" {
		return // such as a hook that is called for another lineage
	}
	var renewed, failed []string
	for _, p := range a.passed {
		if p.ordered {
			renewed = append(renewed, p.wish.name)
		}
	}
	for _, p := range append(res.problems.Errors(), problems.Errors()...) {
		if !slices.Contains(failed, p.ID) {
			failed = append(failed, p.ID)
		}
	}
	err := a.counters().Count(context.Background(), renewed, failed)
	if err == nil && m.Textfile != "" {
		err = metrics.WriteTextfile(m.Textfile, a.snapshot())
	}
	if err != nil {
		res.problem(problem.Warn("metrics_unwritable", problem.At{File: m.Textfile, Parameter: "metrics"}, "the metrics were not written: %v", err))
	}
}

func (a *app) counters() metrics.Ledger {
	return metrics.Ledger{Dir: filepath.Join(a.conf.StateDir, "metrics")}
}

// snapshot is all that is known, from records: no listener is asked, no key is
// read, and what cannot be read is left out.
func (a *app) snapshot() metrics.Snapshot {
	reader := *a
	a = &reader
	a.readPast()
	s := metrics.Snapshot{Version: versionString()}
	s.Counters, _ = a.counters().Read()
	took := a.lastTook()
	for _, key := range a.records().Keys() {
		if d, ok := a.deployedState(key, took); ok {
			s.Deployed = append(s.Deployed, d)
		}
	}
	list, _ := a.wishes(nil)
	for _, w := range list {
		s.Certificates = append(s.Certificates, a.certificateState(w))
	}
	return s
}

func (a *app) deployedState(key status.Key, took map[status.Key]time.Duration) (metrics.Deployed, bool) {
	rec, err := a.records().Read(key.Instance, key.Name)
	if err != nil || rec == nil || rec.Wanted == "" && rec.LastError.Exit == 0 {
		return metrics.Deployed{}, false
	}
	in := a.inUse(rec)
	d := metrics.Deployed{
		Postfix: key.Instance, Name: key.Name, NotBefore: in.notBefore, NotAfter: in.notAfter, Installed: rec.Wanted == rec.Installed && rec.Retry == "",
		Drifted: rec.Drift != nil, LastDeploy: rec.LastTime, LastDuration: -1, LastExit: rec.LastError.Exit,
		LastSuccess: rec.LastSuccess, Attempt: rec.RetryAt(a.now()), Probed: rec.ProbedAt(a.now()),
	}
	if last, known := took[key]; known {
		d.LastDuration = last
	}
	if rec.Served == nil {
		return d, true
	}
	for _, l := range rec.Served.Listeners {
		if l.Ignored {
			continue
		}
		d.Listeners = append(d.Listeners, metrics.Listener{
			Service: l.Service, Address: l.Endpoint, SNI: l.SNI, KeyType: l.KeyType, Agrees: l.Agrees, NotAfter: l.NotAfter,
		})
	}
	return d, true
}

// lastTook is how long the last deploy of each certificate took, by the history.
func (a *app) lastTook() map[status.Key]time.Duration {
	e := &deploy.Engine{FS: atomicfile.OS, StateDir: a.conf.StateDir, Log: a.log, Now: a.now}
	list, err := e.History()
	if err != nil {
		return nil
	}
	out := map[status.Key]time.Duration{}
	for _, r := range list { // oldest first
		out[status.Key{Instance: r.Instance, Name: r.Name}] = time.Duration(r.Took) * time.Millisecond
	}
	return out
}

func (a *app) certificateState(w wish) metrics.Certificate {
	c := metrics.Certificate{Name: w.name}
	if turn, err := a.turns().Read(w.name); err == nil {
		c.LastPass = turn.Ended
	}
	if w.source != config.SourceACME {
		return c
	}
	m, err := a.manager()
	if err != nil {
		return c
	}
	st, err := m.StateOf(w.spec)
	if err != nil {
		return c
	}
	c.NextOrder = acme.Next(w.spec, st, st.Current, a.now()).Attempt
	if st.Window != nil && st.Current != nil && st.ARIFor == st.Current.SHA256 {
		c.WindowStart, c.WindowEnd = st.Window.Start, st.Window.End
	}
	return c
}

// listener is the daemon's /metrics.
type listener struct {
	at     string
	server *http.Server
}

// follow opens, moves or closes it as the configuration in force says. A port that
// is taken is no reason to renew nothing: it is said, and tried again when the
// configuration is read again.
func (l *listener) follow(at string, take func() metrics.Snapshot, log *slog.Logger) {
	if at == l.at && l.server != nil {
		return
	}
	l.close()
	if l.at = at; at == "" {
		return
	}
	socket, err := net.Listen("tcp", at)
	if err != nil {
		log.Error("the metrics cannot be scraped", "listen", at, "err", err)
		return
	}
	l.server = &http.Server{
		Handler: metrics.Handler(take), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	server := l.server
	go func() { _ = server.Serve(socket) }() // until close
	log.Info("metrics", "listen", socket.Addr().String())
}

func (l *listener) close() {
	if l.server != nil {
		_ = l.server.Close()
		l.server = nil
	}
}
