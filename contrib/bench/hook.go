package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
	"postcert/verify/probe"
)

// hookReport is what the deploy hook costs the client that calls it: certbot calls
// it for each certificate, whether it has to do with mail or not.
type hookReport struct {
	Slack     float64 `json:"slack"`
	Unchanged series  `json:"unchanged_ns"` // the certificate that is served already
	Proof     series  `json:"proof_ns"`     // of that: three sessions to each listener, held open
	Other     series  `json:"other_ns"`     // another's lineage
	Certbot   series  `json:"certbot_ns"`   // certbot --version: what its own start costs
	Renewal   series  `json:"renewal_ns"`   // a certificate that was renewed
	Failed    series  `json:"failed_ns"`    // one that a listener contradicts
	Bounds    []bound `json:"bounds"`
}

// measureHook takes turns, round after round.
func measureHook(ctx context.Context, t testing.TB, s settings, progress io.Writer) hookReport {
	rep := hookReport{Slack: s.slack}
	binary := prepare(t, s, progress)
	h := newHookHost(t, binary)
	other := h.other()
	for n := range s.rounds {
		fmt.Fprintf(progress, "round %d of %d\n", n+1, s.rounds)
		h.age(h.ours, time.Hour)
		rep.Unchanged = append(rep.Unchanged, h.hook(ctx, h.live, "unchanged", 0))
		rep.Proof = append(rep.Proof, h.proof(ctx))
		rep.Other = append(rep.Other, h.hook(ctx, other, "", 0))
		if _, err := exec.LookPath("certbot"); err == nil {
			began := time.Now()
			h.program(ctx, "", "certbot", "--version")
			rep.Certbot = append(rep.Certbot, time.Since(began))
		}
		l := h.renewed()
		rep.Renewal = append(rep.Renewal, h.hook(ctx, h.live, "installed", 0))
		h.serves(h.ours, l)
	}
	for range s.contradicted {
		fmt.Fprintln(progress, "a listener that contradicts")
		end := h.impostor(h.ours.address + ":465")
		h.renewed()
		rep.Failed = append(rep.Failed, h.hook(ctx, h.live, "rolled_back", 4))
		end()
	}
	rep.Bounds = rep.bounds()
	return rep
}

// hookHost is a host with one instance, which listens on all addresses, so that
// somebody else can answer at one of them.
type hookHost struct {
	*host
	live string // the lineage that is ours
}

func newHookHost(t testing.TB, binary string) *hookHost {
	t.Helper()
	root := certtest.NewCA(t, certtest.Authority{})
	h := &host{t: t, binary: binary, dir: t.TempDir(), begin: time.Now().Add(-time.Hour), ca: root.Intermediate(t, certtest.Authority{})}
	h.trust = filepath.Join(h.dir, "root.pem")
	h.write(h.trust, certtest.EncodeCerts(root.Cert))
	h.ours = h.instance("all")
	h.ours.address = "127.0.0.1"
	hh := &hookHost{host: h, live: filepath.Join(h.dir, "live", name)}
	l := hh.renewed()
	l.Dir = hh.live
	h.postcert(context.Background(), l, true)
	return hh
}

// renewed puts the next certificate into the lineage.
func (h *hookHost) renewed() lineage {
	h.t.Helper()
	l := h.renewal()
	err := os.MkdirAll(h.live, 0o700)
	for _, f := range []string{"fullchain.pem", "privkey.pem"} {
		data, rerr := os.ReadFile(filepath.Join(l.Dir, f))
		err = errors.Join(err, rerr, os.WriteFile(filepath.Join(h.live, f), data, 0o600))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

// other is a lineage that has nothing to do with mail.
func (h *hookHost) other() string {
	h.t.Helper()
	dir := filepath.Join(h.dir, "other", "www.example.net")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	h.ca.Leaf(h.t, certtest.Leaf{Names: []string{"www.example.net"}}).WriteFiles(h.t, dir)
	return dir
}

// hook calls the hook as certbot does, but for --json, and returns what certbot
// waits. outcome is what the deploy must end with, "" for none, status what the
// hook must.
func (h *hookHost) hook(ctx context.Context, lineage, outcome string, status int) time.Duration {
	h.t.Helper()
	cmd := exec.CommandContext(ctx, h.binary, "hook", "--trust", h.trust, "--instance", h.ours.ConfigDir,
		"--state-dir", h.ours.Dir+"/state", "--runtime-dir", runtimeDir+"/postcert", "--json")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "RENEWED_LINEAGE=" + lineage}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	var said struct {
		Hook struct {
			Lineages []struct {
				Deploys []struct {
					Transaction struct {
						Outcome string `json:"outcome"`
					} `json:"transaction"`
				} `json:"deploys"`
			} `json:"lineages"`
		} `json:"hook"`
	}
	if jerr := json.Unmarshal([]byte(stdout.String()), &said); jerr != nil || cmd.ProcessState.ExitCode() != status || len(said.Hook.Lineages) != 1 {
		h.t.Fatalf("hook: %v, %v\n%s%s", err, jerr, stdout.String(), stderr.String())
	}
	got := ""
	for _, d := range said.Hook.Lineages[0].Deploys {
		got = d.Transaction.Outcome
	}
	if got != outcome {
		h.t.Fatalf("the deploy ended with %q, want %q\n%s", got, outcome, stdout.String())
	}
	return took
}

// proof asks each listener what a proof asks, and nothing besides.
func (h *hookHost) proof(ctx context.Context) time.Duration {
	h.t.Helper()
	open := make(chan *probe.Session, 100)
	began := time.Now()
	var wg sync.WaitGroup
	for _, address := range []string{"127.0.0.1", "[::1]"} {
		for _, at := range listeners {
			var mode probe.Mode // STARTTLS
			if at.mode == postfixtest.Implicit {
				mode = probe.Implicit
			}
			for range 3 {
				wg.Go(func() {
					s, r := probe.Open(ctx, probe.Endpoint{Mode: mode, Address: address + ":" + at.port})
					if r.Reason != probe.OK {
						h.t.Errorf("%s:%s: %v", address, at.port, r.Reason)
						return
					}
					open <- s
				})
			}
		}
	}
	wg.Wait()
	took := time.Since(began)
	close(open)
	for s := range open {
		s.Close()
	}
	return took
}

// impostor answers at an address with a certificate of its own until it is ended.
func (h *hookHost) impostor(address string) func() {
	h.t.Helper()
	program, pair := filepath.Join(h.t.TempDir(), "impostor"), filepath.Join(h.t.TempDir(), "pair.pem")
	h.program(context.Background(), "", "go", "build", "-o", program, "postcert/contrib/impostor")
	leaf := postfixtest.WritePair(h.t, pair, "impostor.invalid")
	cmd := exec.Command(program, "-listen", address, "-implicit", "-pem", pair)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	postfixtest.WaitServed(h.t, address, postfixtest.Implicit, leaf)
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// bounds are the figures of the hook.
func (r hookReport) bounds() []bound {
	var out []bound
	add := func(name, unit string, value, limit float64) {
		limit *= max(r.Slack, 1)
		out = append(out, bound{name, value, limit, unit, value <= limit})
	}
	add("hook, unchanged, beyond its proof", "ms", ms(r.Unchanged.median()-r.Proof.median()), 100)
	add("hook, another's lineage", "ms", ms(r.Other.median()), 20)
	if len(r.Certbot) > 0 {
		add("hook, another's lineage / certbot's start", "x", float64(r.Other.median())/float64(r.Certbot.median()), 0.1)
	}
	if len(r.Failed) > 0 { // lego gives a hook two minutes
		add("hook, contradicted and undone", "s", r.Failed.quantile(1).Seconds(), 80)
	}
	return out
}

func (r hookReport) missed() []string { return missed(r.Bounds) }

func (r hookReport) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "deploy hook, %d rounds, milliseconds\n", len(r.Unchanged))
	for _, x := range []struct {
		title string
		series
	}{{"another's lineage", r.Other}, {"unchanged", r.Unchanged}, {"  its proof alone", r.Proof}, {"renewed", r.Renewal}, {"contradicted and undone", r.Failed}, {"certbot --version", r.Certbot}} {
		if len(x.series) == 0 {
			continue
		}
		fmt.Fprintf(&b, "  %-30s median %7.1f   min %7.1f   max %7.1f\n", x.title, ms(x.median()), ms(x.quantile(0)), ms(x.quantile(1)))
	}
	for _, x := range r.Bounds {
		fmt.Fprintf(&b, "%s\n", x)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
