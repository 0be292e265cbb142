package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"time"

	"postcert/acme/internal/legoclient"
	"postcert/deploy/lock"
	"postcert/verify/problem"
)

func TestClassify(t *testing.T) {
	protocol := func(typ string, status int) error {
		return &legoclient.Error{Kind: legoclient.Protocol, Type: typ, Status: status}
	}
	challenge := func(typ string) error { return &legoclient.Error{Kind: legoclient.ChallengeFailed, Type: typ} }
	limited := func(after time.Duration, detail string) error {
		return &legoclient.Error{Kind: legoclient.RateLimited, Type: "rateLimited", Status: 429, RetryAfter: after, Detail: detail}
	}
	const pausePage = "Your account is temporarily prevented from requesting certificates for x and possibly others. Please visit: https://portal.example/unpause"
	for _, c := range []struct {
		name string
		err  error
		want Class
	}{
		{"nothing", nil, ClassNone},
		{"dial", &legoclient.Error{Kind: legoclient.Network}, ClassNetwork},
		{"503 HTML", &legoclient.Error{Kind: legoclient.Network, Status: 503}, ClassNetwork},
		{"500 problem", protocol("serverInternal", 500), ClassNetwork},
		{"502 problem", protocol("", 502), ClassNetwork},
		{"bad nonce", protocol("badNonce", 400), ClassNetwork},
		{"429", limited(time.Hour, ""), ClassRateLimited},
		{"429 in words", limited(0, "too many certificates (5) already issued, retry after 2027-01-02 03:04:05 UTC: see https://letsencrypt.org/docs/rate-limits"), ClassRateLimited},
		{"429 without anything", limited(0, ""), ClassRateLimited},
		{"429 with a page of documentation", limited(0, "too many requests, see https://ca.example/limits"), ClassRateLimited},
		{"503 rateLimited", &legoclient.Error{Kind: legoclient.RateLimited, Type: "rateLimited", Status: 503}, ClassRateLimited},
		{"paused", limited(0, "Your account is paused: https://portal.example/unpause?jwt=x"), ClassPaused},
		{"paused, boulder's words", limited(0, pausePage), ClassPaused},
		{"connection", challenge("connection"), ClassValidation},
		{"dns", challenge("dns"), ClassValidation},
		{"unauthorized of a name", challenge("unauthorized"), ClassValidation},
		{"tls", challenge("tls"), ClassValidation},
		{"incorrectResponse", challenge("incorrectResponse"), ClassValidation},
		{"caa", challenge("caa"), ClassValidation},
		{"caa at finalize", protocol("caa", 403), ClassValidation},
		{"no such account", protocol("accountDoesNotExist", 400), ClassAccount},
		{"EAB", protocol("externalAccountRequired", 403), ClassAccount},
		{"new terms", protocol("userActionRequired", 403), ClassAccount},
		{"deactivated", protocol("unauthorized", 403), ClassAccount},
		{"malformed", protocol("malformed", 400), ClassRequest},
		{"rejectedIdentifier", protocol("rejectedIdentifier", 400), ClassRequest},
		{"unsupportedIdentifier", protocol("unsupportedIdentifier", 400), ClassRequest},
		{"invalidProfile", protocol("invalidProfile", 400), ClassRequest},
		{"badCSR", protocol("badCSR", 400), ClassRequest},
		{"badPublicKey", protocol("badPublicKey", 400), ClassRequest},
		{"unknown type", protocol("somethingNew", 400), ClassRequest},
		{"404", protocol("", 404), ClassRequest},
		{"replaced", protocol("alreadyReplaced", 409), ClassReplaces},
		{"not ready", protocol("orderNotReady", 403), ClassPending},
		{"port", &legoclient.Error{Kind: legoclient.Local}, ClassLocal},
		{"canceled", &legoclient.Error{Kind: legoclient.Canceled, Err: context.Canceled}, ClassCanceled},
		{"context", fmt.Errorf("x: %w", context.Canceled), ClassCanceled},
		{"deadline", context.DeadlineExceeded, ClassCanceled},
		{"lock", &lock.HeldError{}, ClassLocal},
		{"lock and context", fmt.Errorf("%w (%w)", &lock.HeldError{}, context.Canceled), ClassLocal},
		{"disk", fmt.Errorf("x: %w", &fs.PathError{Err: fs.ErrPermission}), ClassLocal},
		{"own", fmt.Errorf("x: %w", &Error{Class: ClassBadCert}), ClassBadCert},
		{"refusal", problem.List{problem.New("key_change_refused", problem.At{}, "x")}, ClassRefused},
		{"names in any order", errors.Join(challenge("dns"), &legoclient.Error{Kind: legoclient.Network}), ClassValidation},
		{"names in the other order", errors.Join(&legoclient.Error{Kind: legoclient.Network}, challenge("dns")), ClassValidation},
		{"a limit among names", errors.Join(challenge("dns"), limited(0, ""), challenge("tls")), ClassRateLimited},
		{"joined twice", errors.Join(errors.Join(challenge("dns")), fmt.Errorf("y: %w", errors.Join(limited(0, "account paused https://x.example")))), ClassPaused},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Classify(c.err)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if !got.valid() {
				t.Error("not a class")
			}
			if c.err == nil {
				return
			}
			var e *Error
			if err := failure(c.err); !errors.As(err, &e) || e.Class == ClassNone {
				t.Errorf("failure: %#v", err)
			}
			if c.name != "own" && (len(e.Problems) == 0 || e.Problems[0].ID == "") {
				t.Errorf("no problem: %+v", e)
			}
		})
	}
}

// Every class: the first waits, that the last one stays, that the end of the
// certificate bounds them, that jitter is at most 5 %.
func TestBackoff(t *testing.T) {
	now := epoch
	far := now.Add(90 * day)
	limited := &legoclient.Error{Kind: legoclient.RateLimited, RetryAfter: 34 * time.Hour}
	text := &legoclient.Error{Kind: legoclient.RateLimited, Detail: "retry after 2027-01-02 03:00:00 UTC"}
	for _, c := range []struct {
		name     string
		class    Class
		err      error
		notAfter time.Time
		want     []time.Duration
	}{
		{"network", ClassNetwork, nil, far, []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, time.Hour}},
		{"network, Retry-After", ClassNetwork, &legoclient.Error{RetryAfter: 2 * time.Hour}, far, []time.Duration{2 * time.Hour, 2 * time.Hour}},
		{"network, Retry-After of a year", ClassNetwork, &legoclient.Error{RetryAfter: 365 * day}, far, []time.Duration{6 * time.Hour}},
		{"pending", ClassPending, nil, far, []time.Duration{time.Minute, 5 * time.Minute}},
		{"local", ClassLocal, nil, far, []time.Duration{2 * time.Minute, 10 * time.Minute, time.Hour, time.Hour}},
		{"validation", ClassValidation, nil, far, []time.Duration{15 * time.Minute, time.Hour, 4 * time.Hour, day, day}},
		{"validation, no certificate", ClassValidation, nil, time.Time{}, []time.Duration{15 * time.Minute, time.Hour, 4 * time.Hour, day}},
		{"validation, 16 h left", ClassValidation, nil, now.Add(16 * time.Hour), []time.Duration{15 * time.Minute, time.Hour, 2 * time.Hour, 2 * time.Hour}},
		{"validation, 1 h left", ClassValidation, nil, now.Add(time.Hour), []time.Duration{15 * time.Minute, 15 * time.Minute, 15 * time.Minute}},
		{"validation, expired", ClassValidation, nil, now.Add(-time.Hour), []time.Duration{15 * time.Minute, time.Hour, 4 * time.Hour, day}},
		{"rate limit", ClassRateLimited, limited, far, []time.Duration{34 * time.Hour, 34 * time.Hour}},
		{"rate limit in words", ClassRateLimited, text, far, []time.Duration{27 * time.Hour}},
		{"rate limit of a year", ClassRateLimited, &legoclient.Error{RetryAfter: 365 * day}, far, []time.Duration{8 * day}},
		{"rate limit without a time", ClassRateLimited, nil, far, []time.Duration{time.Hour, 4 * time.Hour, day, day}},
		{"paused", ClassPaused, nil, far, []time.Duration{day, day}},
		{"account", ClassAccount, nil, far, []time.Duration{day, day}},
		{"request", ClassRequest, nil, far, []time.Duration{day, day}},
		{"refused", ClassRefused, nil, far, []time.Duration{day, day}},
		{"bad certificate", ClassBadCert, nil, far, []time.Duration{day, day}},
		{"replaces", ClassReplaces, nil, far, []time.Duration{0}},
		{"canceled", ClassCanceled, nil, far, []time.Duration{0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, want := range c.want {
				got := Backoff(c.class, i+1, c.err, now, c.notAfter).Sub(now)
				if got < want || got > want+want/20+2*time.Second {
					t.Errorf("failure %d: %s, want %s and at most 5 %% more", i+1, got, want)
				}
				if again := Backoff(c.class, i+1, c.err, now, c.notAfter).Sub(now); again != got {
					t.Error("not pure")
				}
			}
		})
	}
	if !slices.Contains(severity, ClassRefused) || len(severity) != 13 {
		t.Error("a class is missing in the order of severity")
	}
}

func TestGuards(t *testing.T) {
	now := epoch
	ago := func(d ...time.Duration) (out []time.Time) {
		for _, x := range d {
			out = append(out, now.Add(-x))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		times []time.Time
		want  time.Duration // until free; 0: free
	}{
		{"none", nil, 0},
		{"two", ago(time.Minute, 2*time.Minute), 0},
		{"three", ago(time.Minute, 2*time.Minute, 50*time.Minute), 10 * time.Minute},
		{"three, one old", ago(time.Minute, 2*time.Minute, 61*time.Minute), 0},
		{"four", ago(time.Minute, 2*time.Minute, 40*time.Minute, 50*time.Minute), 20 * time.Minute},
		{"in any order", ago(50*time.Minute, time.Minute, 2*time.Minute), 10 * time.Minute},
		{"in the future, after a change of the clock", ago(-365*day, -365*day, -365*day), time.Hour},
	} {
		got := guarded(c.times, now)
		if c.want == 0 && !got.IsZero() || c.want > 0 && !got.Equal(now.Add(c.want)) {
			t.Errorf("%s: got %s, want in %s", c.name, got, c.want)
		}
	}
}
