package legoclient

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

func nameServer(t *testing.T) *acmetest.CA {
	t.Helper()
	return acmetest.Start(t, acmetest.Options{})
}

func TestEffective(t *testing.T) {
	t.Parallel()
	ca := nameServer(t)
	d := ca.DNS
	d.SetCNAME("_acme-challenge.one.test", "x.alias.test")
	d.SetCNAME("_acme-challenge.UPPER.test", "X.Alias.test")
	d.SetCNAME("_acme-challenge.loop.test", "b.loop.test")
	d.SetCNAME("b.loop.test", "_acme-challenge.loop.test")
	d.SetFailing("_acme-challenge.broken.test", true)
	silent := []string{"127.0.0.1:1"}
	tests := []struct {
		name, domain string
		ch           Challenge
		want         string
		fails        string
	}{
		{"plain", "plain.test", Challenge{}, "_acme-challenge.plain.test.", ""},
		{"alias", "one.test", Challenge{}, "x.alias.test.", ""},
		{"alias in capitals", "upper.test", Challenge{}, "x.alias.test.", ""},
		{"not wanted", "one.test", Challenge{DisableCNAME: true}, "_acme-challenge.one.test.", ""},
		{"loop", "loop.test", Challenge{}, "", "more than 10"},
		{"failing", "broken.test", Challenge{}, "", "SERVFAIL"},
		{"nobody answers", "one.test", Challenge{Resolvers: silent}, "_acme-challenge.one.test.", ""},
		{"one answers", "one.test", Challenge{Resolvers: append(silent, d.Addr)}, "x.alias.test.", ""},
	}
	for _, tt := range tests {
		if tt.ch.Resolvers == nil {
			tt.ch.Resolvers = []string{d.Addr}
		}
		res, err := newResolver(tt.ch.Resolvers)
		if err != nil {
			t.Fatal(err)
		}
		got, err := dnsWay{tt.ch}.effective(t.Context(), res, task{identifier: tt.domain, domain: tt.domain})
		if got != tt.want || (err == nil) != (tt.fails == "") {
			t.Errorf("%s: got %q, %v", tt.name, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestPropagation(t *testing.T) {
	t.Parallel()
	ca := nameServer(t)
	_, port, _ := net.SplitHostPort(ca.DNS.Addr)
	wait := func(p propagation, r record) (time.Duration, error) {
		began := time.Now()
		err := p.wait(t.Context(), []record{r})
		return time.Since(began), err
	}
	res, err := newResolver([]string{ca.DNS.Addr})
	if err != nil {
		t.Fatal(err)
	}
	res.port = port
	p := propagation{res: res, timeout: 5 * time.Second, interval: time.Second}
	r := record{identifier: "a.test", fqdn: "_acme-challenge.a.test.", keyAuth: "x"}

	ca.DNS.AddTXT(r.fqdn, "another")
	ca.DNS.AddTXT(r.fqdn, r.value())
	if took, err := wait(p, r); err != nil || took > 400*time.Millisecond {
		t.Errorf("visible: %v after %s", err, took)
	}
	ca.DNS.SetLag(time.Second)
	if took, err := wait(p, r); err != nil || took < 400*time.Millisecond || took > 3*time.Second {
		t.Errorf("late: %v after %s", err, took)
	}
	ca.DNS.SetLag(time.Hour)
	p.timeout = 700 * time.Millisecond
	took, err := wait(p, r)
	if e := failure(t, err); e.Kind != Local || e.Identifier != "a.test" || !strings.Contains(e.Detail, "not on ns.acmetest.test") || took > 2*time.Second {
		t.Errorf("never: %+v after %s", e, took)
	}
	// Nobody can be asked: behind a firewall only the time helps, all of it.
	res.port = "1"
	if took, err := wait(p, r); err != nil || took < p.timeout {
		t.Errorf("unreachable: %v after %s", err, took)
	}
	nowhere, err := newResolver([]string{"127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	p.res = nowhere
	if took, err := wait(p, r); err != nil || took < p.timeout {
		t.Errorf("no resolver: %v after %s", err, took)
	}
}

// TestPropagationOfOrder: a record that is not there in time costs no validation.
func TestPropagationOfOrder(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	w.DNS.SetLag(time.Hour)
	z := &zone{dns: w.DNS}
	s := solver(t, Challenge{Type: DNS01, DNS: z, Propagation: time.Second, Resolvers: []string{w.DNS.Addr}})
	o := w.order(OrderRequest{Identifiers: []string{"a.test"}})
	if err := w.client.Solve(t.Context(), w.acct, o, s); failure(t, err).Kind != Local {
		t.Errorf("got %v", err)
	}
	if n := w.Count(acmetest.Challenge); n != 0 {
		t.Errorf("%d validations", n)
	}
	if left := w.DNS.TXT(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestSequential: a provider that can hold one record at a time gets one.
func TestSequential(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	z := &oneRecord{zone{dns: w.DNS}}
	s := solver(t, Challenge{Type: DNS01, DNS: z, Resolvers: []string{w.DNS.Addr}})
	names := []string{"*.a.test", "a.test"}
	w.verified(w.issue(s, OrderRequest{Identifiers: names}), names...)
	want := []string{"present _acme-challenge.a.test.", "cleanup _acme-challenge.a.test."}
	if !slices.Equal(z.calls, append(want, want...)) {
		t.Errorf("got %q", z.calls)
	}
}

type oneRecord struct{ zone }

func (*oneRecord) Sequential() bool { return true }

func TestResolvers(t *testing.T) {
	got, err := newResolver([]string{"192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:5353", "dns.example.test"})
	want := []string{"192.0.2.1:53", "192.0.2.1:5353", "[2001:db8::1]:53", "[2001:db8::1]:53", "[2001:db8::1]:5353", "dns.example.test:53"}
	if err != nil || !slices.Equal(got.servers, want) {
		t.Errorf("got %q, %v", got.servers, err)
	}
	if _, err := newResolver([]string{""}); err == nil {
		t.Error("an empty name server")
	}
	var e *Error
	if _, err := newResolver([]string{":53"}); !errors.As(err, &e) || e.Kind != Local {
		t.Errorf("got %v", err)
	}
}
