package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/verify/certtest"
)

// What is missing is told with the command that installs it.
func TestLacking(t *testing.T) {
	all := (&issuing{}).contestants(true)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	err := lacking(all)
	if err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends lego certbot") {
		t.Errorf("with nothing there: %v", err)
	}
	for _, program := range []string{"certbot", "lego"} {
		if err := os.WriteFile(filepath.Join(dir, program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err = lacking(all); program == "certbot" && (err == nil || !strings.HasSuffix(err.Error(), "recommends lego")) {
			t.Errorf("with certbot there: %v", err)
		}
	}
	if err != nil {
		t.Errorf("with both there: %v", err)
	}
	if err := lacking((&issuing{}).contestants(false)); err != nil {
		t.Errorf("without peers: %v", err)
	}
}

// openssl accepts what was ordered, and nothing else.
func TestJudge(t *testing.T) {
	dir := t.TempDir()
	i := &issuing{t: t, issuers: filepath.Join(dir, "issuers.pem")}
	root := certtest.NewCA(t, certtest.Authority{})
	ca := root.Intermediate(t, certtest.Authority{})
	i.write(i.issuers, certtest.EncodeCerts(root.Cert))
	good := ca.Leaf(t, certtest.Leaf{Names: []string{"a.test"}})
	other := ca.Leaf(t, certtest.Leaf{Names: []string{"a.test"}})
	foreign := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{}).Leaf(t, certtest.Leaf{Names: []string{"a.test"}})
	for _, tt := range []struct {
		title      string
		chain, key []byte
		message    string
	}{
		{"as ordered", good.FullchainPEM(), good.KeyPEM(), ""},
		{"another key", good.FullchainPEM(), other.KeyPEM(), "not for the key"},
		{"another name", ca.Leaf(t, certtest.Leaf{Names: []string{"b.test"}}).FullchainPEM(), good.KeyPEM(), "hostname mismatch"},
		{"a name too many", ca.Leaf(t, certtest.Leaf{Names: []string{"a.test", "b.test"}}).FullchainPEM(), good.KeyPEM(), "want a.test alone"},
		{"another CA", foreign.FullchainPEM(), foreign.KeyPEM(), "unable to get local issuer"},
		{"no chain", certtest.EncodeCerts(good.Cert), good.KeyPEM(), "unable to get local issuer"},
		{"expired", ca.Leaf(t, certtest.Leaf{Names: []string{"a.test"}, NotBefore: time.Now().Add(-100 * 24 * time.Hour)}).FullchainPEM(), good.KeyPEM(), "expired"},
		{"nothing", nil, nil, "openssl verify"},
	} {
		p := pair{filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")}
		i.write(p.chain, tt.chain)
		i.write(p.key, tt.key)
		err := i.judge(t.Context(), p, "a.test")
		if (err == nil) != (tt.message == "") || err != nil && !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%s: %v, want %q", tt.title, err, tt.message)
		}
	}
	large := ca.Leaf(t, certtest.Leaf{Names: []string{"a.test"}, Key: "p384"})
	p := pair{filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")}
	i.write(p.chain, large.FullchainPEM())
	i.write(p.key, large.KeyPEM())
	if err := i.judge(t.Context(), p, "a.test"); err == nil || !strings.Contains(err.Error(), "not a key on P-256") {
		t.Errorf("a key on P-384: %v", err)
	}
}

// The floor is an order with not one message too many.
func TestFloor(t *testing.T) {
	i := newIssuing(t, "")
	turns := i.contest(t.Context(), 2, []issuer{i.floor()}, io.Discard)["floor"]
	if len(turns) != 2 {
		t.Fatalf("%d turns, want 2", len(turns))
	}
	for _, c := range turns {
		// It asks for an order and an authorization until they are ready.
		want := requests{acmetest.NewOrder: 1, acmetest.Challenge: 1, acmetest.Finalize: 1, acmetest.Certificate: 1}
		for kind, n := range c.Requests {
			if kind != acmetest.Authz && kind != acmetest.Order && want[kind] != n {
				t.Errorf("%d requests of kind %s in %v, want %d", n, kind, c.Requests, want[kind])
			}
		}
		if c.Took <= 0 || c.Requests[acmetest.Certificate] != 1 {
			t.Errorf("it took %v, requests %v", c.Took, c.Requests)
		}
	}
}

// A turn that leaves another certificate than was ordered ends the contest.
func TestTurn(t *testing.T) {
	dir := t.TempDir()
	_, err := outsideTests(t.Context(), func(t testing.TB) cost {
		i := &issuing{t: t, issuers: filepath.Join(dir, "issuers.pem")}
		who := issuer{"liar", "a liar", "", func(context.Context, string) cost { return cost{} }, func(string) pair {
			return pair{filepath.Join(dir, "none"), filepath.Join(dir, "none")}
		}}
		return i.turn(t.Context(), who, "a.test")
	})
	if err == nil || !strings.HasPrefix(err.Error(), "a liar: ") {
		t.Errorf("error %v", err)
	}
}

// A program that fails ends the contest with its words.
func TestProgramFails(t *testing.T) {
	i := newIssuing(t, "")
	_, err := outsideTests(t.Context(), func(t testing.TB) cost {
		failing := *i
		failing.t = t
		return failing.program(t.Context(), []string{"WORDS=no such CA"}, "/bin/sh", "-c", `echo "$WORDS" >&2; exit 3`)
	})
	if err == nil || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), "no such CA") {
		t.Errorf("error %v", err)
	}
}

// A daemon that ends by itself, or whose turns fail, ends the bench at once and
// with its words.
func TestDayFails(t *testing.T) {
	for _, tt := range []struct{ title, script, message string }{
		{"it ends", "echo no configuration >&2; exit 2", "no configuration"},
		{"it fails to end well", ready + `trap 'echo ending badly >&2; exit 4' TERM; ` + turned("0") + wait, "ending badly"},
		{"a turn fails", ready + turned("6") + wait, "ended with status 6"},
	} {
		t.Run(tt.title, func(t *testing.T) {
			i := newIssuing(t, filepath.Join(t.TempDir(), "postcert"))
			if err := os.WriteFile(i.binary, []byte("#!/bin/bash\n"+tt.script), 0o755); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, err := outsideTests(t.Context(), func(t testing.TB) bool {
				failing := *i
				failing.t = t
				state := filepath.Join(i.dir, "daemon")
				_, config := failing.configure(state, "daemon", 1)
				d := failing.daemon(t.Context(), config, filepath.Join(i.dir, "notify"))
				d.turn(t.Context(), state, "n1.daemon.bench.test", time.Time{})
				if now, peak := d.memory(); now <= 0 || peak < now {
					t.Errorf("memory %d, at most %d", now, peak)
				}
				d.end()
				return true
			})
			if err == nil || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("error %v, want %q", err, tt.message)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("it took %v to notice", took)
			}
		})
	}
}

// Parts of a daemon for TestDayFails, in the shell.
const (
	ready = `perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_DGRAM, 0); send($s, "READY=1", 0, sockaddr_un($ENV{NOTIFY_SOCKET}))'; `
	wait  = `for i in $(seq 300); do sleep 0.1; done`
)

// turned writes down a turn that ended with this status. The state directory is
// that of the configuration, $3.
func turned(status string) string {
	return `mkdir -p "$(dirname "$3")/turns"; echo '{"began":"2030-01-01T00:00:00Z","ended":"2030-01-01T00:00:01Z","exit":` + status +
		`}' >"$(dirname "$3")/turns/n1.daemon.bench.test.json"; `
}

// What is above its bound is told as missed, and one within the slack is not.
func TestACMEBounds(t *testing.T) {
	const mib = 1 << 20
	turns := func(took time.Duration, peak int64) []cost {
		return []cost{{Took: took * time.Millisecond, CPU: took * time.Millisecond, Peak: peak, Requests: requests{"order": 3}}}
	}
	r := acmeReport{
		Slack: 1, Certificates: 1,
		Turns: map[string][]cost{"postcert": turns(560, 24*mib), "floor": turns(10, 0), "lego": turns(500, 30*mib), "certbot": turns(2000, 20*mib)},
		Batch: &cost{Took: 100 * time.Millisecond, Peak: 31 * mib},
		Day:   &day{End: 29 * mib, Peak: 33 * mib},
	}
	names := func() []string {
		r.Bounds = r.bounds()
		var out []string
		for _, b := range r.Bounds {
			if !b.OK {
				out = append(out, b.Name)
			}
		}
		return out
	}
	want := []string{"wall time / lego", "peak memory / certbot", "wall time / the floor and half a second", "peak memory of all in one process", "daemon at its largest"}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("missed are %q, want %q", got, want)
	}
	var out strings.Builder
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "certbot certonly") || len(r.missed()) != len(want) {
		t.Errorf("%v, missed %q\n%s", err, r.missed(), out.String())
	}
	r.Turns["postcert"][0].Requests["order"] = maxRequests + 1
	if got := names(); !slices.Contains(got, "requests of an order") {
		t.Errorf("missed are %q, without the requests", got)
	}
	r.Turns["postcert"][0].Requests["order"] = maxRequests
	r.Slack = 1.25
	if got := names(); len(got) > 0 {
		t.Errorf("missed with slack are %q", got)
	}
}

// TestProofBenchAcme is the contest of -acme without other people's clients, and
// a short day. It is slow only where an order has come to wait for something: certbot takes
// more than two seconds, and lego mostly five.
func TestProofBenchAcme(t *testing.T) {
	s := settings{certificates: 3, daily: 3, ticks: 60, slack: 1.25}
	if os.Getenv("POSTCERT_LONG") != "" {
		s.certificates, s.daily, s.ticks = 50, dayCertificates, minutesADay
	}
	rep := measureACME(t.Context(), t, s, false, io.Discard)
	var out strings.Builder
	if err := rep.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Logf("D7, bounds times %v:\n%s", s.slack, out.String())
	for _, b := range rep.missed() {
		t.Error(b)
	}
}
