package dns

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// fault is a failure whose kind its place of origin knows.
type fault struct {
	kind  Kind
	after time.Duration // what the provider asked for; 0: nothing
	err   error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func faulty(kind Kind, text string) error { return &fault{kind: kind, err: errors.New(text)} }

// told is the text of an error without the values it may hold, and nothing but
// the text: what is behind an error of a library may be a request with its
// credentials.
type told struct {
	text string
	ctx  error // the context's error, if that was the reason
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.ctx }

// redactor replaces the values of secret fields in texts.
type redactor struct{ replace *strings.Replacer }

// newRedactor hides the secrets in the forms in which they may turn up: as they
// are, quoted, and escaped in a URL or in JSON. A value of one or two characters
// is no secret, and hiding it would garble every text.
func newRedactor(secrets []string) redactor {
	var pairs []string
	seen := map[string]bool{}
	for _, v := range secrets {
		if len(v) < 3 {
			continue
		}
		quoted := strconv.Quote(v)
		for _, form := range []string{v, quoted[1 : len(quoted)-1], escapePath(v), escapeQuery(v), basicAuth(v)} {
			if form != "" && !seen[form] {
				seen[form] = true
				pairs = append(pairs, form, "(hidden)")
			}
		}
	}
	return redactor{strings.NewReplacer(pairs...)}
}

// secretsOf are the values of the secret fields.
func secretsOf(fields []Field, values map[string]string) []string {
	var secrets []string
	for _, f := range fields {
		if f.Secret && values[f.Name] != "" {
			secrets = append(secrets, values[f.Name])
		}
	}
	return secrets
}

// maxText bounds the text of an error: an API may answer with a page of HTML.
const maxText = 600

func (r redactor) text(err error) string {
	s := r.replace.Replace(err.Error())
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	return s
}

// judge makes an *Error of what went wrong. The context's end is the reason if it
// has ended; then what the place of origin knows; then the last HTTP answer.
func judge(e *Error, ctx context.Context, err error, last answer, r redactor) *Error {
	e.Status, e.RetryAfter = last.status, last.after
	t := &told{text: r.text(err)}
	e.Err = t
	var f *fault
	switch {
	case ctx.Err() != nil:
		e.Kind, t.ctx = Canceled, ctx.Err()
		if t.text == "" || errors.Is(err, ctx.Err()) {
			t.text = ctx.Err().Error()
		}
	case errors.As(err, &f):
		e.Kind = f.kind
		if f.after > 0 {
			e.RetryAfter = f.after
		}
	case last.failed:
		e.Kind = Unavailable
	default:
		e.Kind = kindOfStatus(last.status)
	}
	return e
}

func kindOfStatus(status int) Kind {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Refused
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusRequestTimeout, status >= 500:
		return Unavailable
	}
	return Failed
}

// retryAfter reads the header of that name (RFC 9110 section 10.2.3): seconds or
// a date. Nonsense and what lies in the past are 0, more than a day is a day.
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
		d = time.Duration(min(max(n, 0), 24*60*60)) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), 24*time.Hour)
}
