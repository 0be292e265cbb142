package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// Service is one of the services that shoutrrr knows: ntfy, gotify, Matrix, Slack,
// Telegram, a webhook and so on. The URL that names it holds its token, so it is
// read from a file of root's and goes nowhere else. Not even an error of the
// library is passed on: it may quote the URL, or the half of it that matters.
type Service struct {
	URLFile string
	On      func(what string) bool
}

func (s Service) ID() string { return "url_file:" + s.URLFile }

func (s Service) Wants(what string) bool { return s.On == nil || s.On(what) }

// Send reads the URL and sends the notice there.
func (s Service) Send(ctx context.Context, n Notice) error {
	url, err := readSecret(s.URLFile)
	if err != nil {
		return fmt.Errorf("the notification service: %w", err)
	}
	if err := s.send(ctx, url, n); err != nil {
		return fmt.Errorf("the notification service of %s: %s", s.URLFile, harmless(err))
	}
	return nil
}

// send gives the library its time. It takes no context: what has not ended when
// the time is over ends with the process.
func (s Service) send(ctx context.Context, url string, n Notice) (err error) {
	if scheme, _, _ := strings.Cut(url, ":"); strings.EqualFold(scheme, "logger") {
		return errTellsNobody
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil { // a fault of the library is not one of ours
				done <- errFault
			}
		}()
		sender, err := shoutrrr.CreateSender(url)
		if err != nil {
			done <- errURL
			return
		}
		sender.Timeout = sendLimit
		params := types.Params{}
		params.SetTitle(n.Subject())
		done <- errors.Join(sender.Send(n.Text(), &params)...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.DeadlineExceeded
	}
}

var (
	errTellsNobody = errors.New("the service \"logger\" tells nobody")
	errFault       = errors.New("the library that speaks to it failed")
	errURL         = errors.New("the line in that file is not a notification URL that is known: see https://shoutrrr.nickfedor.com")
)

// harmless says why a service was not told, in words of ours only.
func harmless(err error) string {
	for _, ours := range []error{errTellsNobody, errFault, errURL} {
		if errors.Is(err, ours) {
			return ours.Error()
		}
	}
	text := err.Error()
	var wait net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &wait) && wait.Timeout() {
		return fmt.Sprintf("no answer within %s", sendLimit)
	}
	for _, k := range known {
		if m := k.form.FindStringSubmatch(text); m != nil {
			if len(m) > 1 {
				return fmt.Sprintf(k.words, m[1])
			}
			return k.words
		}
	}
	return "it could not be told"
}

// known are the faults that a person can do something about. Most of the library's
// services have made text of the error behind theirs, so it is text that is
// looked at. Of what is found only the number of a status is told.
var known = []struct {
	form  *regexp.Regexp
	words string
}{
	{regexp.MustCompile(`timed out|deadline exceeded|i/o timeout|Client\.Timeout`), "no answer in time"},
	{regexp.MustCompile(`no such host|server misbehaving`), "its name could not be resolved"},
	{regexp.MustCompile(`connection refused`), "connection refused"},
	{regexp.MustCompile(`network is unreachable|no route to host`), "it cannot be reached from here"},
	{regexp.MustCompile(`x509:|tls:|certificate`), "its TLS certificate is not trusted, or the TLS handshake failed"},
	{regexp.MustCompile(`(?i)status(?: code)?:? "?([1-5][0-9]{2})\b`), "it answered with the HTTP status %s"},
}
