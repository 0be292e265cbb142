package main

import (
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// post is a mail as it lies in postmaster's mailbox.
type post struct {
	head mail.Header
	text string
}

func (p post) subject() string {
	s, _ := new(mime.WordDecoder).DecodeHeader(p.head.Get("Subject"))
	return s
}

// told is a mail host whose postmaster has a mailbox, and a clock that a test sets.
type told struct {
	*host
	box, clock, conf, lineage string
}

// newTold starts one that keeps the certificate of a lineage, with more of a
// configuration.
func newTold(t *testing.T, more string) *told {
	t.Helper()
	h := &told{host: newHost(t, postfixtest.Options{})}
	dir := filepath.Join(h.pf.Dir, "mail")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	h.box = filepath.Join(dir, "box")
	h.pf.ReplaceMain("local_transport = discard:", "local_transport = virtual:\nvirtual_mailbox_base = "+dir+
		"\nvirtual_mailbox_maps = static:box\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534")
	h.pf.Reload()
	h.clock = filepath.Join(h.dir, "clock")
	h.env = []string{childClock + "=" + h.clock}
	h.at(0)
	h.lineage = h.host.lineage(certtest.Leaf{})
	h.conf = filepath.Join(h.dir, "postcert.yaml")
	h.configure(more)
	return h
}

func (h *told) configure(more string) {
	h.write(h.conf, []byte(fmt.Sprintf("certificates: [{name: %s, source: watch, lineage: %s}]\ninstances: [{config_directory: %s, certificate: %[1]s}]\ntrust: [%[4]s]\n%s",
		hostName, h.lineage, h.pf.ConfigDir, h.trust, more)))
}

// at sets the clock to so long after the real time.
func (h *told) at(d time.Duration) { h.write(h.clock, []byte(d.String())) }

func (h *told) renew(more ...string) answer {
	h.t.Helper()
	return h.postcert(append([]string{"renew", "--config", h.conf}, more...)...)
}

// fails makes the next deploys fail: the certificate lacks the name that is served.
func (h *told) fails() {
	h.t.Helper()
	h.ca.Leaf(h.t, certtest.Leaf{Names: []string{"other.example.test"}}).WriteFiles(h.t, h.lineage)
}

// breaks makes them fail before they begin: key and certificate do not belong
// together.
func (h *told) breaks() {
	h.t.Helper()
	h.write(filepath.Join(h.lineage, "privkey.pem"), h.ca.Leaf(h.t, certtest.Leaf{Names: []string{hostName}}).KeyPEM())
}

// mends puts a good pair there.
func (h *told) mends() {
	h.t.Helper()
	h.ca.Leaf(h.t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(h.t, h.lineage)
}

// mails are those in the mailbox, once there are n; the queue must be empty, so
// that no other is on its way.
func (h *told) mails(n int) []post {
	h.t.Helper()
	var out []post
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out = h.read()
		if len(out) >= n && !h.queued() || time.Now().After(end) {
			break
		}
	}
	if len(out) != n {
		h.t.Fatalf("%d mails in the mailbox, want %d: %v\n%s", len(out), n, out, h.pf.Log())
	}
	return out
}

func (h *told) queued() bool {
	for _, q := range []string{"maildrop", "incoming", "active", "deferred"} {
		found := false
		_ = filepath.WalkDir(filepath.Join(h.pf.QueueDir, q), func(_ string, d os.DirEntry, err error) error {
			found = found || err == nil && !d.IsDir()
			return nil
		})
		if found {
			return true
		}
	}
	return false
}

func (h *told) read() []post {
	h.t.Helper()
	data, err := os.ReadFile(h.box)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	var out []post
	for i, text := range strings.Split("\n"+string(data), "\nFrom ") {
		if i == 0 {
			continue
		}
		_, text, _ = strings.Cut(text, "\n")
		m, err := mail.ReadMessage(strings.NewReader(text))
		if err != nil {
			h.t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, post{m.Header, string(body)})
	}
	return out
}

// lines are those that postcert wrote to the mail log, once there are n: postlogd(8)
// writes them in its own time.
func (h *told) lines(n int) []string {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var out []string
		for line := range strings.Lines(h.pf.Log()) {
			if strings.Contains(line, " postcert[") {
				out = append(out, line)
			}
		}
		if len(out) >= n || time.Now().After(end) {
			return out
		}
	}
}

// S40: a renewal whose deploy fails, called by something that ignores exit codes:
// postmaster gets one mail and the mail log one line at error priority; more
// failures within a day say nothing; the next day they do; and when it is mended,
// one mail closes it, and then there is silence.
func TestS40Alarm(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	served := h.served()
	h.fails()
	h.renew().want(3)
	h.serves(served)
	first := h.mails(1)[0]
	for name, want := range map[string]string{
		"Auto-Submitted": "auto-generated", "Return-Path": "<>", "Delivered-To": "postmaster@" + hostName, "To": "postmaster@" + hostName,
	} {
		if got := first.head.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, want := range []string{hostName, "failed", "previous certificate is served", "names_shrunk"} {
		if !strings.Contains(first.subject(), want) {
			t.Errorf("the subject %q does not say %q", first.subject(), want)
		}
	}
	for _, want := range []string{"What happened", "What is served now", "Generation 1 is installed", "What to do next", "postcert status", "tried again"} {
		if !strings.Contains(strings.Join(strings.Fields(first.text), " "), want) {
			t.Errorf("the mail does not say %q:\n%s", want, first.text)
		}
	}
	if l := h.lines(1); len(l) != 1 || !strings.Contains(l[0], ": error: certificate "+hostName) || !strings.Contains(l[0], "names_shrunk") {
		t.Errorf("the mail log: %q", l)
	}
	h.postcert("status", "--config", h.conf).want(8)
	for n := range 10 {
		h.at(time.Duration(n+1) * 2 * time.Hour)
		h.renew().want(3)
	}
	h.mails(1)
	h.at(25 * time.Hour)
	h.renew().want(3)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "still: ") {
		t.Errorf("the second day: %q", m.subject())
	}
	h.mends()
	h.renew().want(0)
	h.serves(h.leafOf(h.lineage))
	if m := h.mails(3)[2]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("mended: %q", m.subject())
	}
	if l := h.lines(3); len(l) != 3 || strings.Contains(l[2], "error:") {
		t.Errorf("the mail log: %q", l)
	}
	h.renew().want(0)
	h.mails(3)
	h.postcert("status", "--config", h.conf).want(0)
}

// S53: what goes well is not told: ten renewals, no mail, nothing on standard
// error, nothing of ours in the mail log.
func TestS53Quiet(t *testing.T) {
	h := newTold(t, "")
	for range 10 {
		h.mends()
		if a := h.renew("-q").want(0); a.stderr != "" || a.stdout != "" {
			t.Errorf("it says\n%s%s", a.stdout, a.stderr)
		}
		h.serves(h.leafOf(h.lineage))
	}
	h.mails(0)
	if l := h.lines(0); len(l) != 0 {
		t.Errorf("the mail log: %q", l)
	}
	if _, err := os.Stat(filepath.Join(h.state, "notify")); !os.IsNotExist(err) {
		t.Errorf("something was written down as told: %v", err)
	}
}

// What fails before it comes to Postfix is told as well, and closed.
func TestToldBeforeDeploy(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	h.breaks()
	h.renew().want(3)
	h.renew().want(3)
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), ": "+hostName+": ") || !strings.Contains(m.subject(), "key_mismatch") {
		t.Errorf("the subject is %q", m.subject())
	}
	h.mends()
	h.renew().want(0)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("mended: %q", m.subject())
	}
	// A person's own command, of which there is no record.
	h.postcert("install-cert", filepath.Join(h.dir, "nowhere")).want(3)
	h.postcert("install-cert", filepath.Join(h.dir, "nowhere")).want(3)
	if m := h.mails(3)[2]; !strings.Contains(m.subject(), "install-cert failed") || !strings.Contains(m.subject(), "input_missing") {
		t.Errorf("the subject is %q", m.subject())
	}
	h.postcert("install-cert", h.lineage).want(0)
	h.mails(4)
	// An instance of the configuration that is not there any more.
	good, err := os.ReadFile(h.conf)
	if err != nil {
		t.Fatal(err)
	}
	h.write(h.conf, []byte(strings.ReplaceAll(string(good), h.pf.ConfigDir, h.pf.ConfigDir+"/gone")))
	if a := h.renew(); a.status == 0 {
		t.Errorf("exit status 0\n%s%s", a.stdout, a.stderr)
	}
	if m := h.mails(5)[4]; !strings.Contains(m.subject(), ": "+hostName+": it cannot be deployed") {
		t.Errorf("the subject is %q", m.subject())
	}
}
