package deploy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// weather is a listener in a world whose clock is that of a synctest bubble:
// until some time it is silent, or says something else, then it is right.
type weather struct {
	begin  time.Time
	until  time.Duration
	before probe.Result
}

func (w *weather) Handshakes(ctx context.Context, e probe.Endpoint, n int) []probe.Result {
	r := answer(chain("new", "ca"))
	if time.Since(w.begin) < w.until {
		if r = w.before; r.Reason == probe.Timeout {
			time.Sleep(e.Timeout) // nobody says a word
		}
	}
	out := make([]probe.Result, n)
	for i := range out {
		out[i] = r
	}
	return out
}

// R11: a proof ends when it is proven, and else not before its deadline and
// soon after it. It waits by the monotonic clock: the bubble's, here.
func TestProofClockDeadlines(t *testing.T) {
	silent := probe.Result{Reason: probe.Timeout}
	const never = 24 * time.Hour
	for _, tt := range []struct {
		name        string
		deadline    time.Duration
		until       time.Duration
		before      probe.Result
		want        probe.Verdict
		least, most time.Duration
	}{
		{"right at once", FileSwitchDeadline, 0, silent, probe.Proven, 0, time.Second},
		{"silent for 10 s", FileSwitchDeadline, 10 * time.Second, silent, probe.Proven, 10 * time.Second, 27 * time.Second},
		{"throttled for 60 s", ConfigureDeadline, time.Minute, probe.Result{Reason: probe.Refused}, probe.Proven, time.Minute, 63 * time.Second},
		{"throttled for 60 s, a file switch", FileSwitchDeadline, time.Minute, probe.Result{Reason: probe.Refused}, probe.NotVerified, FileSwitchDeadline, 25 * time.Second},
		{"silent for ever", FileSwitchDeadline, never, silent, probe.NotVerified, FileSwitchDeadline, FileSwitchDeadline + 3*latePatience},
		{"silent for ever, configuration", ConfigureDeadline, never, silent, probe.NotVerified, ConfigureDeadline, ConfigureDeadline + 3*latePatience},
		{"another leaf for ever", FileSwitchDeadline, never, answer(chain("old", "ca")), probe.Contradicted, FileSwitchDeadline, 25 * time.Second},
		{"another leaf until the last moment", FileSwitchDeadline, FileSwitchDeadline, answer(chain("old", "ca")), probe.Proven, FileSwitchDeadline, 25 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := proof{prober: &weather{begin, tt.until, tt.before}, deadline: tt.deadline}
				got := p.observe(t.Context(), []Expectation{{
					Listener: cf.Listener{Service: "smtp", Type: "inet"}, Endpoint: probe.Endpoint{Address: "192.0.2.1:25"},
					Accept: [][][]byte{chain("new", "ca")}, Baseline: answer(chain("old", "ca")), Sessions: sessions,
				}})
				took := time.Since(begin)
				if got[0].Verdict != tt.want || took < tt.least || took > tt.most {
					t.Errorf("%s after %v, want %s after %v to %v", got[0].Verdict, took, tt.want, tt.least, tt.most)
				}
			})
		})
	}
}
