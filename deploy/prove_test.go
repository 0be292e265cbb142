package deploy

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// chain is a made-up chain: these tests compare bytes, nobody reads them.
func chain(certs ...string) [][]byte {
	out := make([][]byte, len(certs))
	for i, c := range certs {
		out[i] = []byte(c)
	}
	return out
}

func answer(raw [][]byte) probe.Result { return probe.Result{Reason: probe.OK, Raw: raw} }

func TestJudge(t *testing.T) {
	old, new := chain("old", "ca"), chain("new", "ca")
	tests := []struct {
		name    string
		result  probe.Result
		accept  [][][]byte
		verdict probe.Verdict
		reason  probe.Reason
	}{
		{"the one chain", answer(new), [][][]byte{new}, probe.Proven, probe.OK},
		{"the second of two", answer(new), [][][]byte{old, new}, probe.Proven, probe.OK},
		{"another leaf", answer(old), [][][]byte{new}, probe.Contradicted, probe.OtherLeaf},
		{"the leaf alone", answer(chain("new")), [][][]byte{new}, probe.Contradicted, probe.OtherChain},
		{"one certificate more", answer(chain("new", "ca", "root")), [][][]byte{new}, probe.Contradicted, probe.OtherChain},
		{"another order", answer(chain("ca", "new")), [][][]byte{new}, probe.Contradicted, probe.OtherLeaf},
		{"nothing presented", answer(nil), [][][]byte{new}, probe.Contradicted, probe.OtherLeaf},
		{"any good handshake", answer(old), nil, probe.Proven, probe.OK},
		{"no handshake is not a good one", probe.Result{Reason: probe.Refused}, nil, probe.NotVerified, probe.Refused},
		{"no connection", probe.Result{Reason: probe.Refused}, [][][]byte{new}, probe.NotVerified, probe.Refused},
		{"TLS not available", probe.Result{Reason: probe.TLSNotAvailable}, [][][]byte{new}, probe.Contradicted, probe.TLSNotAvailable},
		{"an alert", probe.Result{Reason: probe.HandshakeFailed}, [][][]byte{new}, probe.Contradicted, probe.HandshakeFailed},
		{"an empty chain proves nothing", answer(new), [][][]byte{{}}, probe.NotVerified, probe.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if v, r := judge(tt.result, tt.accept); v != tt.verdict || r != tt.reason {
				t.Errorf("%s, %s; want %s, %s", v, r, tt.verdict, tt.reason)
			}
		})
	}
}

// seen makes an observation of a listener that served TLS before, or did not.
func seen(v probe.Verdict, before probe.Reason) Observation {
	return Observation{Verdict: v, Expectation: Expectation{Baseline: probe.Result{Reason: before}}}
}

func TestWeigh(t *testing.T) {
	const fine, broken = probe.OK, probe.TLSNotAvailable
	good, silent, other := seen(probe.Proven, fine), seen(probe.NotVerified, fine), seen(probe.Contradicted, fine)
	never := seen(probe.Contradicted, broken)
	ignored := other
	ignored.Expectation.Ignore = true
	tests := []struct {
		name   string
		seen   []Observation
		demand bool
		want   Outcome // "" is an undo
	}{
		{"all proven", []Observation{good, good}, true, Installed},
		{"one contradicted", []Observation{good, other}, false, ""},
		{"one silent after a rehearsed file switch", []Observation{good, silent}, false, NotVerified},
		{"one silent after a change of configuration", []Observation{good, silent}, true, ""},
		{"all silent after a rehearsed file switch", []Observation{silent}, false, NotVerified},
		{"broken before and still", []Observation{good, never}, true, NotVerified},
		{"broken before, silent now", []Observation{good, seen(probe.NotVerified, broken)}, true, NotVerified},
		{"broken before, proven now", []Observation{seen(probe.Proven, broken)}, true, Installed},
		{"what only OpenSSL could read is not broken", []Observation{good, seen(probe.Contradicted, probe.Unreadable)}, false, ""},
		{"an ignored one", []Observation{good, ignored}, true, Installed},
		{"nothing but ignored ones", []Observation{ignored}, true, NotVerified},
		{"nobody asked", nil, false, NotVerified},
		{"a contradiction beside a broken one", []Observation{never, other}, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := weigh(tt.seen, tt.demand)
			var against *ContradictedError
			if got != tt.want || errors.As(err, &against) != (tt.want == "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// scripted answers each handshake with the next result, the last one for ever.
type scripted struct {
	mu      sync.Mutex
	results []probe.Result
	asked   int
}

func (s *scripted) Handshakes(_ context.Context, _ probe.Endpoint, n int) []probe.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]probe.Result, n)
	for i := range out {
		out[i] = s.results[min(s.asked, len(s.results)-1)]
		s.asked++
	}
	return out
}

// One of three sessions that presents something else outweighs two that are
// right; a listener that comes round in time is proven.
func TestProof(t *testing.T) {
	old, new := answer(chain("old")), answer(chain("new"))
	x := Expectation{Accept: [][][]byte{chain("new")}, Baseline: old, Sessions: 3}
	broken := x
	broken.Baseline = probe.Result{Reason: probe.Refused}
	ignored := x
	ignored.Ignore = true
	tests := []struct {
		name     string
		ask      Expectation
		results  []probe.Result
		deadline time.Duration
		want     probe.Verdict
		least    int // attempts
		most     int
	}{
		{"all three", x, []probe.Result{new}, time.Second, probe.Proven, 1, 1},
		{"one of three is another", x, []probe.Result{new, old, new, new}, time.Second, probe.Proven, 2, 2},
		{"never", x, []probe.Result{new, new, old, new, new, old, new, new, old, old}, 10 * time.Millisecond, probe.Contradicted, 2, 9},
		{"contradicted once after the deadline is not enough", x, []probe.Result{old, old, old, new}, 0, probe.Proven, 2, 2},
		{"one silent of three", x, []probe.Result{new, {Reason: probe.Timeout}, new, {Reason: probe.Timeout}}, 0, probe.NotVerified, 2, 9},
		{"a contradiction outweighs silence", x, []probe.Result{{Reason: probe.Timeout}, old}, 0, probe.Contradicted, 2, 9},
		{"an ignored one is asked once", ignored, []probe.Result{old}, time.Second, probe.Contradicted, 1, 1},
		{"what was broken before is not waited for", broken, []probe.Result{{Reason: probe.Refused}}, time.Hour, probe.NotVerified, 1, 6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := proof{prober: &scripted{results: tt.results}, deadline: tt.deadline}
			o := p.observe(context.Background(), []Expectation{tt.ask})[0]
			if o.Verdict != tt.want || o.Attempts < tt.least || o.Attempts > tt.most {
				t.Errorf("%s after %d attempts; want %s after %d to %d", o.Verdict, o.Attempts, tt.want, tt.least, tt.most)
			}
		})
	}
}

func TestIgnored(t *testing.T) {
	tests := []struct {
		addr string
		list []string
		want bool
	}{
		{"192.0.2.1:465", []string{"192.0.2.1:465"}, true},
		{"192.0.2.1:465", []string{":465"}, true},
		{"192.0.2.1:465", []string{"465"}, true},
		{"192.0.2.1:465", []string{"192.0.2.1"}, true},
		{"[2001:db8::1]:465", []string{"2001:db8::1"}, true},
		{"[2001:db8::1]:465", []string{"192.0.2.1", "[2001:db8::1]:465"}, true},
		{"192.0.2.1:465", nil, false},
		{"192.0.2.1:465", []string{"192.0.2.1:25", "25", ":25", "192.0.2.2", "46", "192.0.2"}, false},
		{"/var/spool/postfix/public/smtp", []string{"", "25"}, false},
		{"/var/spool/postfix/public/smtp", []string{"/var/spool/postfix/public/smtp"}, true},
	}
	for _, tt := range tests {
		if got := ignored(tt.addr, tt.list); got != tt.want {
			t.Errorf("ignored(%q, %q) = %v", tt.addr, tt.list, got)
		}
	}
}

// No more sessions are held open than the service has processes: the one too
// many would wait for ever.
func TestSessionsFor(t *testing.T) {
	for limit, want := range map[string]int{"-": 2, "1": 1, "2": 2, "3": 3, "50": 3, "0": 3} {
		s := cf.Snapshot{
			Parameters: map[string]string{"default_process_limit": "2"},
			Services:   []cf.Service{{Name: "smtp", Type: "inet", ProcessLimit: limit}},
		}
		if got := sessionsFor(s, "smtp/inet"); got != want {
			t.Errorf("maxproc %q: %d sessions, want %d", limit, got, want)
		}
	}
}
