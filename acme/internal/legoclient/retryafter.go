package legoclient

import (
	"net/http"
	"strings"
	"time"
)

// maxRetryAfter bounds what a server may ask us to wait: no date in the next
// century, and no overflow.
const maxRetryAfter = 366 * 24 * time.Hour

// retryAfter is the value of a Retry-After header (RFC 9110 section 10.2.3): a
// number of seconds, or a date in one of the three forms of section 5.6.7.
// A date counts from ref, the answer's own Date, so that the skew of a clock
// does not change the wait. What is negative, past or no such value is 0.
func retryAfter(value string, ref time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if digits(value) {
		var seconds int64
		for _, c := range value {
			seconds = seconds*10 + int64(c-'0')
			if seconds > int64(maxRetryAfter/time.Second) {
				return maxRetryAfter
			}
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// Compared before subtracted: time.Sub saturates, and the sum of two such would not.
	switch d := at.Sub(ref); {
	case d < 0:
		return 0
	case d > maxRetryAfter:
		return maxRetryAfter
	default:
		return d
	}
}

func digits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// answered is the retryAfter of one answer. now is ours, for an answer that has
// no Date.
func answered(h http.Header, now time.Time) time.Duration {
	ref := now
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		ref = date
	}
	return retryAfter(h.Get("Retry-After"), ref)
}
