package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/rehearsal"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

const openNonblock = syscall.O_NONBLOCK | syscall.O_CLOEXEC

// site is one instance with the engine that changes it.
type site struct {
	instance postfix.Instance
	settings config.Instance // of the configuration file; zero if it names none
	engine   *deploy.Engine
	unfit    error  // why the configuration allows no change here
	inputs   string // of a deploy that is tried again by itself: see app.inputs
}

// instances finds the Postfix instances that a command is about: all that offer
// TLS, if none is named. unread is of those whose configuration Postfix cannot
// read: who asks goes on with the others, and says so.
func (a *app) instances(ctx context.Context) (sites []*site, unread, err error) {
	found, err := postfix.Find(ctx, postfix.Options{
		Instance: a.conf.Instance, CommandDirectory: a.conf.CommandDirectory, RuntimeDirectory: a.conf.RuntimeDir, Log: a.log,
	})
	switch list := problem.From(err); {
	case len(found) > 0 && list.Has("config_broken"):
		unread = err
	case err != nil && !list.Has("instance_ambiguous"):
		return nil, nil, err
	}
	for _, i := range found {
		sites = append(sites, a.site(ctx, i))
	}
	return sites, unread, nil
}

// oneInstance is for a command that changes: it must be told which, if there
// are several.
func (a *app) oneInstance(ctx context.Context) (*site, error) {
	all, unread, err := a.instances(ctx)
	if err = errors.Join(err, unread); err != nil {
		return nil, err
	}
	if len(all) > 1 {
		return nil, ambiguous(all)
	}
	return all[0], nil
}

func (a *app) site(ctx context.Context, i postfix.Instance) *site {
	s := &site{instance: i}
	for _, c := range a.conf.Instances {
		if filepath.Clean(c.ConfigDirectory) == filepath.Clean(i.ConfigDirectory) {
			s.settings = c
		}
	}
	fs := a.seams.fs
	if fs == nil {
		fs = atomicfile.OS
	}
	var m deploy.MTA = mta{i}
	if a.seams.mta != nil {
		m = a.seams.mta(m)
	}
	s.engine = &deploy.Engine{
		MTA:    m,
		Stage:  stage{rehearsal.Stage{RuntimeDir: a.conf.RuntimeDir, OpenSSL: opensslPath(), Log: a.log}},
		Prober: prober{settings: s.settings},
		Store:  &generation.Store{FS: fs, Dir: a.generationsDir(), Now: a.now},
		FS:     fs, Host: postfix.Host(ctx), Instance: i.ConfigDirectory, StateDir: a.conf.StateDir, Keep: a.conf.KeepGenerations,
		FileSwitchDeadline: a.seams.deadline, ConfigureDeadline: a.seams.deadline,
		Progress: a.seams.progress, Log: a.log, Now: a.now, Command: a.command,
	}
	s.engine.Companions, s.unfit = companions(a.conf)
	return s
}

func (a *app) generationsDir() string { return filepath.Join(a.conf.StateDir, "generations") }

// change adds to c what the configuration says about the instance.
func (a *app) change(s *site, c deploy.Change) deploy.Change {
	set := s.settings
	c.Layout, c.Rehearsal = deploy.Layout(orText(string(set.Layout), "auto")), deploy.RehearsalMode(orText(string(set.Rehearsal), "auto"))
	c.Policy.Names = append(c.Policy.Names, set.Names...)
	c.SNI = append(c.SNI, set.SNI...)
	c.IgnoreListeners = append(c.IgnoreListeners, set.IgnoreListeners...)
	if own := ownServices(set, c); len(own) > 0 && c.Service == "" {
		c.Name, c.Service = own[0].Certificate, own[0].Service
	}
	if c.Name == "" && c.Service == "" {
		c.Name = set.Certificate
	}
	return c
}

// ownServices are the services that the configuration gives the certificate of
// this change to, by the name it was given or that of its lineage.
func ownServices(set config.Instance, c deploy.Change) []config.Service {
	name := orText(c.Name, c.Lineage)
	var out []config.Service
	for _, s := range set.Services {
		if s.Certificate == name && name != set.Certificate {
			out = append(out, s)
		}
	}
	return out
}

func orText(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// mta makes a postfix.Instance what the engine needs.
type mta struct{ postfix.Instance }

func (m mta) Master(ctx context.Context) (deploy.Master, error) {
	st, err := m.Instance.Master(ctx)
	return deploy.Master{Running: st.Running, PID: st.PID, Unit: st.Unit, Cgroups: st.Cgroups}, err
}

func (m mta) Restart(ctx context.Context, was deploy.Master) error {
	return m.Instance.Restart(ctx, postfix.Master{Running: was.Running, PID: was.PID, Unit: was.Unit, Cgroups: was.Cgroups})
}

func (m mta) LogSince(ctx context.Context, t time.Time) ([]string, error) {
	lines, err := m.Instance.LogSince(ctx, t)
	var out []string
	for _, l := range lines {
		if explains(l.Text) && l.Tag != "postcert" && !slices.Contains(out, l.String()) {
			out = append(out, l.String())
		}
	}
	const last = 20
	return out[max(0, len(out)-last):], err
}

// explains tells a line about a fault or about TLS from the daily business of a
// mail server.
func explains(line string) bool {
	for _, word := range []string{"warning:", "error:", "fatal:", "panic:", "TLS", "SSL", "throttling", "terminating"} {
		if strings.Contains(line, word) {
			return true
		}
	}
	return false
}

// stage makes a rehearsal.Stage what the engine needs.
type stage struct{ rehearsal.Stage }

func (s stage) Sweep(ctx context.Context) error { return s.Stage.Sweep(ctx) }

func (s stage) Rehearse(ctx context.Context, r deploy.Rehearsal) ([]deploy.Presented, error) {
	want := map[string]map[string][][]byte{}
	dir, err := s.files(&r)
	if dir != "" {
		defer os.RemoveAll(dir)
	}
	if err != nil {
		return nil, err
	}
	c := rehearsal.Candidate{
		Version: r.Candidate.Version, DaemonDirectory: r.Candidate.Effective("", "daemon_directory"),
		Parameters: r.Candidate.Expanded, Substitute: r.Substitute,
		Expect: func(s rehearsal.Service, _, keyType string) [][]byte { return want[s.ID][keyType] },
	}
	for _, act := range r.Services {
		want[act.Service.ID()] = act.Want
		c.Services = append(c.Services, service(r.Candidate, act))
	}
	rep, err := s.Stage.Rehearse(ctx, c)
	var out []deploy.Presented
	for _, p := range rep.Served {
		out = append(out, deploy.Presented{Service: p.Service, Result: p.Result})
	}
	if missing := saslMissing(r, rep); missing != nil {
		return out, missing // also where its daemon died of that
	}
	if refused, ok := errors.AsType[*rehearsal.RefusedError](err); ok {
		return out, &deploy.RefusedError{Why: refusedWords(refused), Log: refused.Log}
	}
	return out, err
}

// files writes what files will hold into a directory of their own, side by side, as
// a table's text and its index must be, and has them take the place of the live ones.
func (s stage) files(r *deploy.Rehearsal) (dir string, err error) {
	if len(r.Files) == 0 {
		return "", nil
	}
	if err := os.MkdirAll(s.RuntimeDir, 0o700); err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(s.RuntimeDir, "files-"); err != nil {
		return "", err
	}
	by := maps.Clone(r.Substitute)
	if by == nil {
		by = map[string]string{}
	}
	for path, data := range r.Files {
		by[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(by[path], data, 0o600); err != nil {
			return dir, err
		}
	}
	r.Substitute = by
	return dir, nil
}

func service(s cf.Snapshot, act deploy.Act) rehearsal.Service {
	out := rehearsal.Service{
		ID: act.Service.ID(), Implicit: act.Listener.Implicit, Postscreen: act.Listener.Postscreen,
		SNI: act.SNI, KeyTypes: slices.Sorted(maps.Keys(act.Want)), Parameters: map[string]string{}, AnyChain: act.Good,
	}
	if act.Auth {
		out.SASL = saslOf(s, act.Service)
	}
	// Behind postscreen it is tlsproxy that shows the certificate.
	tlsproxy := out.ID
	if act.Listener.Postscreen {
		tlsproxy = "tlsproxy/unix"
	}
	for name := range s.Parameters {
		switch {
		case strings.HasPrefix(name, "tlsproxy_tls_"):
			out.Parameters[name] = s.Effective(tlsproxy, name)
		case strings.HasPrefix(name, "smtpd_tls_"), strings.HasPrefix(name, "tls_"):
			out.Parameters[name] = s.Effective(out.ID, name)
		}
	}
	return out
}

// refusedWords says in one line what the private Postfix did instead of serving
// the candidate; its log is told separately.
func refusedWords(e *rehearsal.RefusedError) string {
	if len(e.Served) == 0 {
		return "the rehearsal refuses it: the private Postfix's log says that it cannot be served"
	}
	first := e.Served[0]
	words := fmt.Sprintf("the rehearsal refuses it: as %s of a private Postfix, %s", first.Service, deploy.Words(first.Result))
	if o := (deploy.Observation{Result: first.Result, Reason: first.Reason}); first.Result.Reason == probe.OK {
		words = fmt.Sprintf("the rehearsal refuses it: %s of a private Postfix %s", first.Service, o.Words())
	}
	if n := len(e.Served) - 1; n > 0 {
		words += fmt.Sprintf(", and %d more handshakes", n)
	}
	return words
}

// prober asks listeners, by the detours that the configuration names.
type prober struct{ settings config.Instance }

func (p prober) Handshakes(ctx context.Context, e probe.Endpoint, n int) []probe.Result {
	return handshakes(ctx, p.detour(e), n)
}

// detour applies what the configuration says about how to reach a listener.
func (p prober) detour(e probe.Endpoint) probe.Endpoint {
	e.OpenSSL = opensslPath()
	for _, d := range p.settings.Probe {
		if d.Listener != e.Address {
			continue
		}
		if d.Address != "" {
			e.Address = d.Address
		}
		e.ProxyProtocol = e.ProxyProtocol || d.ProxyProtocol
		if d.Timeout > 0 {
			e.Timeout = d.Timeout
		}
	}
	return e
}

// handshakes opens n sessions and closes them only when all are answered, so
// that n processes answer: consecutive ones could all meet the same.
func handshakes(ctx context.Context, e probe.Endpoint, n int) []probe.Result {
	results := make([]probe.Result, n)
	open := make([]*probe.Session, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { open[i], results[i] = probe.Open(ctx, e) })
	}
	wg.Wait()
	for _, s := range open {
		wg.Go(s.Close)
	}
	wg.Wait()
	return results
}

// opensslPath is openssl(1), which is asked where crypto/tls cannot choose a
// key type.
func opensslPath() string {
	const path = "/usr/bin/openssl"
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func ambiguous(all []*site) error {
	var names []string
	for _, s := range all {
		names = append(names, s.instance.String())
	}
	return refuse("instance_ambiguous", problem.At{}, "several Postfix instances offer TLS: %s", strings.Join(names, ", "))
}
