package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var moment = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func notice(items ...Item) Notice {
	if len(items) == 0 {
		items = []Item{{Phase: Begins, Event: Failure, Instance: "/etc/postfix", Name: "mail.example.com", ID: "key_mismatch",
			Headline: "a deploy failed", What: "the key is another one", State: "the previous certificate", Do: "take the right key", Since: moment}}
	}
	return Notice{Schema: "postcert/v1", Host: "mx.example.com", Time: moment, Items: items}
}

// hostile is text that tries to be more than text, in each place where text of
// others can come from.
const hostile = "x\r\nBcc: victim@example.com\r\n\r\n.\r\nFrom evil\x00\x1b[2J\u202e\u2028 \xff ünïcode"

// A mail has the headers that it was given and no other, whatever its texts contain,
// in lines of ASCII, and says what it has to.
func TestMessage(t *testing.T) {
	for name, n := range map[string]Notice{
		"plain":   notice(),
		"hostile": {Host: hostile, Time: moment, Items: []Item{{Phase: Begins, Event: Rollback, Name: hostile, Instance: hostile, ID: hostile, Headline: hostile, What: hostile, State: hostile, Do: hostile}}},
		"long":    notice(Item{Name: "a", Headline: strings.Repeat("ü", 5000), What: strings.Repeat("word ", 5000)}),
		"many":    notice(Item{Name: "a", Phase: Begins}, Item{Name: "b", Phase: Ends, Event: Expiry}),
		"dots":    notice(Item{Name: "a", Headline: "h", What: ".\n.\nFrom here"}),
	} {
		t.Run(name, func(t *testing.T) {
			data := Mail{To: "postmaster"}.message(n)
			for line := range strings.Lines(string(data)) {
				if len(line) > 200 || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) {
					t.Errorf("the line %q", line)
				}
			}
			m, err := mail.ReadMessage(strings.NewReader(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Mime-Version", "Subject", "To"}
			if len(m.Header) != len(want) {
				t.Errorf("headers %v", m.Header)
			}
			for _, h := range want {
				if len(m.Header[h]) != 1 {
					t.Errorf("%s: %q", h, m.Header[h])
				}
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			if err != nil || len(subject) > maxSubject {
				t.Errorf("subject %q, %v", subject, err)
			}
			body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
			if err != nil || !strings.Contains(string(body), "postcert status") || strings.ContainsAny(string(body), "\x00\x1b\r") {
				t.Errorf("body %q, %v", body, err)
			}
		})
	}
	want := "postcert on mx.example.com: mail.example.com: a deploy failed"
	if got := notice().Subject(); got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
}

// A line of the log is one line, and not too long for anybody.
func TestLine(t *testing.T) {
	i := Item{Phase: Begins, Name: hostile, Headline: hostile, What: strings.Repeat(hostile, 100)}
	if l := i.Line(); strings.ContainsAny(l, "\r\n\x00\x1b\u202e\u2028") || len(l) > maxLine {
		t.Errorf("%q", l)
	}
}

// The mail log by syslog: facility mail, priority error, and by name; that
// something is over is no error. A socket that takes nothing does not hold us up.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := MailLog{Socket: path, Postfix: func() Postfix { return Postfix{CommandDirectory: "/nowhere"} }}
	if err := m.Send(t.Context(), notice(notice().Items[0], Item{Phase: Ends, Event: Failure, Name: "mail.example.com"})); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for _, want := range []string{"<19>", "<22>"} {
		n, err := c.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, want) || !strings.Contains(got, fmt.Sprintf(" postcert[%d]: ", os.Getpid())) {
			t.Errorf("%q, %v", got, err)
		}
	}
	start, last := time.Now(), error(nil)
	for range 5000 { // until the socket is full
		if last = m.syslog(t.Context(), notice().Items[0]); last != nil {
			break
		}
	}
	if last == nil || time.Since(start) > 8*time.Second {
		t.Errorf("a full socket: %v after %v", last, time.Since(start))
	}
}

// secret is the token of a notification URL.
const secret = "s3cr3tT0ken-4711"

// urlFile writes a notification URL to a file that only we read.
func urlFile(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify.url")
	if err := os.WriteFile(path, []byte("# ours\n"+url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A webhook gets the words; its token is in the request and nowhere else.
func TestService(t *testing.T) {
	heard := make(chan [2]string, 9)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		heard <- [2]string{r.URL.String(), string(body)}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	path := urlFile(t, "generic://"+host+"/hook/"+secret+"?disabletls=yes&template=json")
	if err := (Service{URLFile: path}).Send(t.Context(), notice()); err != nil {
		t.Fatal(err)
	}
	got := <-heard
	var said struct{ Title, Message string }
	if err := json.Unmarshal([]byte(got[1]), &said); err != nil || said.Title != notice().Subject() || said.Message != notice().Text() {
		t.Errorf("heard %q, %v", got[1], err)
	}
	if !strings.Contains(got[0], secret) {
		t.Errorf("asked %q", got[0])
	}
}

// Whatever goes wrong with a service, the error says why and never where to: not
// the URL, not a part of it.
func TestServiceErrors(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such hook "+r.URL.Path, http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	dead := httptest.NewServer(nil)
	gone := strings.TrimPrefix(dead.URL, "http://")
	dead.Close()
	for _, tt := range []struct{ name, url, says string }{
		{"refused by the service", "generic://" + host + "/" + secret + "?disabletls=yes", "HTTP status 401"},
		{"nobody there", "generic://" + gone + "/" + secret + "?disabletls=yes", "connection refused"},
		{"no TLS there", "generic://" + host + "/" + secret, "TLS"},
		{"no such service", "nonsense://" + secret + "@" + host, "not a notification URL"},
		{"no URL", "://" + secret, "not a notification URL"},
		{"control characters", "generic://" + secret + "\x7f/", "not a notification URL"},
		{"a port that is none", "ntfy://user:" + secret + "@localhost:99999/" + secret, ""},
		{"a user and a password", "gotify://user:" + secret + "@" + gone + "/" + secret + "?disabletls=yes", ""},
		{"telegram without chats", "telegram://" + secret + "@telegram", "not a notification URL"},
		{"discord", "discord://" + secret + "@", "not a notification URL"},
		{"slack", "slack://hook:" + secret + "@webhook", "not a notification URL"},
		{"tells nobody", "logger://" + secret, "tells nobody"},
		{"smtp", "smtp://user:" + secret + "@" + gone + "/?from=a@example.com&to=b@example.com&usestarttls=no", ""},
		{"matrix", "matrix://user:" + secret + "@" + gone + "/?disableTLS=yes&rooms=x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := Service{URLFile: urlFile(t, tt.url)}.Send(t.Context(), notice())
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			for _, part := range []string{secret, secret[:8], host, gone, "4711"} {
				if strings.Contains(text, part) {
					t.Errorf("the error has %q: %s", part, text)
				}
			}
			if !strings.Contains(text, tt.says) {
				t.Errorf("the error does not say %q: %s", tt.says, text)
			}
		})
	}
}

// A URL is taken from a file of ours alone.
func TestURLFile(t *testing.T) {
	good := urlFile(t, "generic://x/"+secret)
	if got, err := readSecret(good); err != nil || got != "generic://x/"+secret {
		t.Errorf("%q, %v", got, err)
	}
	for name, path := range map[string]string{
		"missing":     filepath.Join(t.TempDir(), "none"),
		"a directory": t.TempDir(),
		"empty":       urlFile(t, ""),
		"two":         urlFile(t, "generic://x/"+secret+"\ngeneric://y/"+secret),
		"readable":    func() string { p := urlFile(t, "generic://"+secret); _ = os.Chmod(p, 0o644); return p }(),
		"writable":    func() string { p := urlFile(t, "generic://"+secret); _ = os.Chmod(p, 0o602); return p }(),
		"of another":  func() string { p := urlFile(t, "generic://"+secret); _ = os.Chown(p, 65534, 0); return p }(),
		"in another's hands": func() string {
			p := urlFile(t, "generic://"+secret)
			_ = os.Chmod(filepath.Dir(p), 0o777)
			return p
		}(),
	} {
		if os.Geteuid() != 0 && name == "of another" {
			continue
		}
		if _, err := readSecret(path); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// script is a program of ours.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tell")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A program gets the notice as JSON and an environment that says nothing; one that
// others can change is not run; its own words are not passed on.
func TestExec(t *testing.T) {
	t.Setenv("POSTCERT_SECRET", secret)
	out := filepath.Join(t.TempDir(), "out")
	p := script(t, "env >"+out+".env; cat >"+out+"; echo $1 >>"+out+".env\n")
	if err := (Exec{Argv: []string{p, "word"}}).Send(t.Context(), notice()); err != nil {
		t.Fatal(err)
	}
	var n Notice
	data, err := os.ReadFile(out)
	if err != nil || json.Unmarshal(data, &n) != nil || n.Subject() != notice().Subject() || n.Schema != "postcert/v1" {
		t.Errorf("%s, %v", data, err)
	}
	env, _ := os.ReadFile(out + ".env")
	if strings.Contains(string(env), secret) || !strings.Contains(string(env), "word") || !strings.Contains(string(env), "LC_ALL=C") {
		t.Errorf("environment\n%s", env)
	}
	bad := script(t, "echo "+secret+"; echo "+secret+" >&2; exit 7\n")
	if err := (Exec{Argv: []string{bad, secret}}).Send(t.Context(), notice()); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "status 7") {
		t.Errorf("%v", err)
	}
	if err := os.Chmod(p, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := (Exec{Argv: []string{p}}).Send(t.Context(), notice()); err == nil || !strings.Contains(err.Error(), "not run") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	hangs := script(t, "sleep 60 & sleep 60\n")
	if err := (Exec{Argv: []string{hangs}}).Send(ctx, notice()); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
