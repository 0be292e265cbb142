package main

import (
	"context"
	"strings"
	"sync"

	"postcert/deploy/postfix"
	"postcert/deploy/postfix/rehearsal"
	"postcert/verify/probe"
)

// floor is what a renewal cannot leave out, without any of what surrounds it.
// It runs inside this process, which is warm and need not be started. Its
// handshakes come right after the reload: where one meets the tlsmgr(8) of
// before, Postfix pauses for a second, so the floor is the quickest round.
func (h *host) floor(ctx context.Context) {
	h.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { h.program(ctx, "", postfixCommand, "-c", h.ours.ConfigDir, "check") })
	if err := h.rehearse(ctx); err != nil {
		h.t.Fatal(err)
	}
	wg.Wait()
	h.program(ctx, "", postfixCommand, "-c", h.ours.ConfigDir, "reload")
	for _, at := range listeners {
		wg.Go(func() {
			e := probe.Endpoint{Address: h.ours.address + ":" + at.port}
			if at.port == "465" {
				e.Mode = probe.Implicit
			}
			if r := probe.Handshake(ctx, e); r.Reason != probe.OK {
				h.t.Errorf("%s: %s %s", e.Address, r.Reason, r.Detail)
			}
		})
	}
	wg.Wait()
}

// rehearsal prepares one of the configuration as it is, and returns what runs
// it: a private Postfix, one handshake for each service.
func (h *host) rehearsal() func(context.Context) error {
	h.t.Helper()
	ctx := h.t.Context()
	s, err := postfix.Instance{ConfigDirectory: h.ours.ConfigDir}.Snapshot(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	c := rehearsal.Candidate{Version: s.Version, DaemonDirectory: s.Effective("", "daemon_directory"), Parameters: s.Expanded}
	for _, id := range []string{"smtp/inet", "submission/inet", "submissions/inet"} {
		service := rehearsal.Service{ID: id, Implicit: id == "submissions/inet", Parameters: map[string]string{}}
		for p := range s.Parameters {
			if strings.HasPrefix(p, "smtpd_tls_") || strings.HasPrefix(p, "tls_") {
				service.Parameters[p] = s.Effective(id, p)
			}
		}
		c.Services = append(c.Services, service)
	}
	stage := rehearsal.Stage{RuntimeDir: runtimeDir + "/floor"}
	return func(ctx context.Context) error {
		_, err := stage.Rehearse(ctx, c)
		return err
	}
}
