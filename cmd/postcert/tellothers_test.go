package main

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// urlSecret is the token of a notification URL.
const urlSecret = "s3cr3tT0ken-4711"

// webhook is a service that hears what it is told, on loopback.
func webhook(t *testing.T) (url string, heard func() []string) {
	t.Helper()
	c := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c <- r.URL.Path + "\n" + string(body)
	}))
	t.Cleanup(server.Close)
	return "generic://" + strings.TrimPrefix(server.URL, "http://") + "/" + urlSecret + "?disabletls=yes", func() []string {
		var out []string
		for {
			select {
			case s := <-c:
				out = append(out, s)
			default:
				return out
			}
		}
	}
}

// A webhook hears what went wrong and that it is over, once each; the token in its
// URL is in its file and nowhere else: not in what is said, logged or remembered,
// whatever fails.
func TestToldByWebhook(t *testing.T) {
	h := newTold(t, "")
	url, heard := webhook(t)
	file := filepath.Join(h.dir, "notify.url")
	h.write(file, []byte(url+"\n"))
	h.configure("notify: [{url_file: " + file + "}]\n")
	clean := func(a answer) {
		t.Helper()
		if strings.Contains(a.stdout+a.stderr+h.pf.Log(), urlSecret) {
			t.Errorf("the token is in the output or the log:\n%s%s", a.stdout, a.stderr)
		}
		for _, dir := range []string{h.state, h.run, h.pf.QueueDir} {
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					if data, _ := os.ReadFile(path); strings.Contains(string(data), urlSecret) {
						t.Errorf("the token is in %s", path)
					}
				}
				return nil
			})
		}
	}
	clean(h.renew("-vv").want(0))
	h.fails()
	clean(h.renew("-vv", "--json").want(3))
	clean(h.renew("-vv").want(3))
	if said := heard(); len(said) != 1 || !strings.HasPrefix(said[0], "/"+urlSecret+"\n") || !strings.Contains(said[0], "names_shrunk") {
		t.Errorf("the webhook heard %q", said)
	}
	h.mends()
	clean(h.renew().want(0))
	if said := heard(); len(said) != 1 || !strings.Contains(said[0], "over: ") {
		t.Errorf("the webhook heard %q", said)
	}
	// A service that is not there, and a URL that is none.
	for _, url := range []string{"generic://127.0.0.1:1/" + urlSecret + "?disabletls=yes", "nonsense://" + urlSecret} {
		h.write(file, []byte(url+"\n"))
		h.at(time.Duration(len(url)) * 24 * time.Hour / 10)
		h.fails()
		clean(h.renew("-vv", "--json").want(3).says("notify_failed"))
		clean(h.renew("-vv").want(3))
	}
	clean(h.postcert("config", "show", "--config", h.conf).want(0))
	h.mails(0)
}

// A program that hangs delays the command by its bound and no more, and changes
// neither how the command ends nor what it says; the mail log is told meanwhile.
// Nothing of it lives on.
func TestToldProgramHangs(t *testing.T) {
	h := newTold(t, "")
	program := filepath.Join(h.dir, "hang")
	h.write(program, []byte("#!/bin/sh\nexec sleep 4711\n"))
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	h.renew().want(0)
	h.fails()
	start := time.Now()
	plain := h.renew("--json").want(3)
	quick := time.Since(start)
	h.configure("notify: [{exec: [" + program + "]}, {mail: postmaster}]\n")
	h.mends()
	h.renew().want(0)
	h.fails()
	start = time.Now()
	a := h.renew("--json").want(3)
	if took := time.Since(start) - quick; took < 9*time.Second || took > 14*time.Second {
		t.Errorf("it took %v longer", took)
	}
	if n, m := len(plain.json()["problems"].([]any)), len(a.json()["problems"].([]any)); m != n+1 {
		t.Errorf("%d problems, without the program %d", m, n)
	}
	a.says("notify_failed").says("ended after 10s")
	if l := h.lines(3); len(l) != 3 {
		t.Errorf("the mail log: %q", l)
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), "4711") {
			t.Errorf("%s lives on: %q", f, data)
		}
	}
}

// Where Postfix is what is broken: while it does not run the mail waits in the
// queue; while it cannot read its own configuration nobody gets a mail, and the exit
// status and the warning tell. Both are made up for.
func TestToldWhilePostfixIsBroken(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	h.fails()
	h.pf.Stop()
	if a := h.renew(); a.status != 3 {
		t.Errorf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	if len(h.read()) != 0 {
		t.Error("there is a mail before Postfix runs")
	}
	h.pf.Start()
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), "name_mismatch") { // what is served cannot be asked
		t.Errorf("the subject is %q", m.subject())
	}
	h.mends()
	h.renew().want(0)
	h.mails(2)
	good := h.pf.Main()
	h.write(filepath.Join(h.pf.ConfigDir, "main.cf"), append(append([]byte{}, good...), "this is no parameter\nmyhostname = $broken(\n"...))
	a := h.renew()
	if a.status == 0 {
		t.Errorf("exit status 0\n%s%s", a.stdout, a.stderr)
	}
	h.write(filepath.Join(h.pf.ConfigDir, "main.cf"), good)
	h.at(25 * time.Hour)
	h.fails()
	h.renew().want(3)
	h.mails(3)
}

// What the default is not: nobody is told, or somebody else.
func TestToldAsConfigured(t *testing.T) {
	h := newTold(t, "notify: none\n")
	h.renew().want(0)
	h.fails()
	h.renew().want(3)
	if l := h.lines(0); len(l) != 0 {
		t.Errorf("the mail log: %q", l)
	}
	h.mails(0)
	h.configure("notify: [{mail: admin@" + hostName + ", on: [expiry]}]\n")
	h.renew().want(3)
	if l := h.lines(1); len(l) != 1 {
		t.Errorf("the mail log: %q", l)
	}
	h.mails(0)
	// Weeks later nothing newer was deployed: it expires, and then it has.
	h.at(75 * 24 * time.Hour)
	h.renew().want(3)
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), "expires in") || m.head.Get("Delivered-To") != "admin@"+hostName {
		t.Errorf("%v", m)
	}
	h.at(91 * 24 * time.Hour)
	h.renew().want(3)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "EXPIRED") {
		t.Errorf("the subject is %q", m.subject())
	}
}

// A deploy that is undone, and an undo that is not complete, by what only a real
// Postfix can do; recover closes it.
func TestToldRollbackAndIncomplete(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	h.mends()
	h.with(failAt+"=Reload 1").postcert("renew", "--config", h.conf).want(4)
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), "rolled back") {
		t.Errorf("the subject is %q", m.subject())
	}
	tls := filepath.Join(h.pf.ConfigDir, "tls")
	mend := func() { _ = exec.Command("chattr", "-i", tls).Run() }
	t.Cleanup(mend)
	h.with(failAt+"=Reload 1", doAt+"=commit end: chattr +i "+tls).postcert("renew", "--config", h.conf).want(5)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "ROLLBACK INCOMPLETE") || !strings.Contains(m.text, "postcert recover") {
		t.Errorf("%v", m)
	}
	mend()
	h.postcert("recover").want(0)
	h.renew().want(0)
	if m := h.mails(3)[2]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("the subject is %q", m.subject())
	}
}

// What a person has seen on a terminal is in the mail log, and no mail: it is told
// the next day, if it lasts.
func TestToldAtTerminal(t *testing.T) {
	postfixtest.Need(t, "script")
	h := newTold(t, "")
	h.renew().want(0)
	h.fails()
	cmd := h.command("renew", "--config", h.conf)
	var words []string
	for _, a := range cmd.Args {
		words = append(words, "'"+a+"'")
	}
	tty := exec.Command("script", "-qec", strings.Join(words, " "), "/dev/null")
	tty.Env = append(cmd.Env, "SHELL=/bin/sh")
	h.finish(tty).want(3).says("names_shrunk")
	if l := h.lines(1); len(l) != 1 {
		t.Errorf("the mail log: %q", l)
	}
	h.renew().want(3)
	h.mails(0)
	h.at(25 * time.Hour)
	h.renew().want(3)
	h.mails(1)
}

// with is a host whose program also gets these variables.
func (h *told) with(env ...string) *host {
	c := *h.host
	c.env = append(append([]string{}, h.env...), env...)
	return &c
}

// value is a metric's value in a text, by the beginning of its line.
func value(text, metric string) string {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(metric) + `[^ ]* (.*)$`).FindStringSubmatch(text)
	if m == nil {
		return "none"
	}
	return m[1]
}

// The file for Prometheus says after each pass what is so: a good deploy, then one
// that fails; and the daemon answers the same on loopback.
func TestMetrics(t *testing.T) {
	h := newTold(t, "")
	file := filepath.Join(h.dir, "postcert.prom")
	h.configure("notify: none\nmetrics: {textfile: " + file + ", listen: \"127.0.0.1:9939\"}\n")
	text := func() string {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	h.renew().want(0)
	want := map[string]string{
		"postcert_last_deploy_success": "1", "postcert_wanted_installed": "1", "postcert_drift": "0", "postcert_last_deploy_exit_status": "0",
		"postcert_served_agrees": "1", "postcert_failures_total": "none",
	}
	check := func(text string) {
		t.Helper()
		for metric, v := range want {
			if got := value(text, metric); got != v {
				t.Errorf("%s is %s, want %s", metric, got, v)
			}
		}
	}
	check(text())
	if v := value(text(), "postcert_last_deploy_duration_seconds"); v == "none" || v == "0" {
		t.Errorf("the last deploy took %s seconds", v)
	}
	leaf := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	leaf.WriteFiles(t, h.lineage)
	h.renew().want(0)
	if got, want := value(text(), "postcert_served_not_after_timestamp_seconds"), fmt.Sprint(leaf.Cert.NotAfter.Unix()); !sameNumber(got, want) {
		t.Errorf("served until %s, want %s", got, want)
	}
	h.fails()
	h.renew().want(3)
	want["postcert_last_deploy_success"], want["postcert_wanted_installed"], want["postcert_last_deploy_exit_status"] = "0", "0", "3"
	want[`postcert_failures_total{id="names_shrunk"}`] = "1"
	delete(want, "postcert_failures_total")
	check(text())
	h.scraped(func(body string) {
		delete(want, `postcert_failures_total{id="names_shrunk"}`) // it may have tried again
		check(body)
	})
}

// scraped starts the daemon and asks it for its metrics. Then it moves the listener,
// and closes it, without a restart.
func (h *told) scraped(look func(body string)) {
	t := h.t
	t.Helper()
	a := &acmeHost{host: h.host}
	if err := os.Link(h.trust, a.issuers()); err != nil {
		t.Fatal(err)
	}
	d := a.daemon("--config", h.conf)
	d.says("listen=127.0.0.1:9939", 20*time.Second)
	r, err := http.Get("http://127.0.0.1:9939/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	look(string(body))
	h.configure("notify: none\nmetrics: {listen: \"[::1]:9940\"}\n")
	d.signal(syscall.SIGHUP)
	d.says("listen=[::1]:9940", 20*time.Second)
	if _, err := http.Get("http://127.0.0.1:9939/metrics"); err == nil {
		t.Error("the former address is open")
	}
	h.configure("notify: none\n")
	d.signal(syscall.SIGHUP)
	d.until("the listener is closed", 20*time.Second, func() bool {
		_, err := http.Get("http://[::1]:9940/metrics")
		return err != nil
	})
	d.ends(20 * time.Second)
}

func sameNumber(a, b string) bool {
	var x, y float64
	_, err1 := fmt.Sscan(a, &x)
	_, err2 := fmt.Sscan(b, &y)
	return err1 == nil && err2 == nil && x-y < 1 && y-x < 1
}

// S45: somebody puts an old certificate back. It is told as what it is, once, and
// closed when it is right again.
func TestS45Told(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	old, err := os.ReadFile(h.ours())
	if err != nil {
		t.Fatal(err)
	}
	h.mends()
	h.renew().want(0)
	now, err := os.ReadFile(h.ours())
	if err != nil {
		t.Fatal(err)
	}
	h.write(h.ours(), old)
	h.pf.Reload()
	h.at(25 * time.Hour)
	if a := h.renew(); a.status == 0 {
		t.Errorf("exit status 0\n%s%s", a.stdout, a.stderr)
	}
	h.renew()
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), "not what was deployed") || !strings.Contains(m.text, "holds generation 1 again") {
		t.Errorf("%s\n%s", m.subject(), m.text)
	}
	h.write(h.ours(), now)
	h.pf.Reload()
	h.at(50 * time.Hour)
	h.renew().want(0)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("the subject is %q", m.subject())
	}
}

// A daemon that is started again and again, and makes a pass that fails each time,
// sends one mail; and it is one of its processes that sends it.
func TestToldByDaemonOnce(t *testing.T) {
	h := newTold(t, "")
	h.renew().want(0)
	h.fails()
	a := &acmeHost{host: h.host}
	if err := os.Link(h.trust, a.issuers()); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		h.at(time.Duration(n) * 3 * time.Hour)
		if err := os.RemoveAll(filepath.Join(h.state, "turns")); err != nil {
			t.Fatal(err)
		}
		d := a.daemon("--config", h.conf)
		d.says("id=names_shrunk", 20*time.Second)
		d.says("name="+hostName+" status=3", 20*time.Second)
		d.ends(10 * time.Second)
	}
	h.mails(1)
	if l := h.lines(1); len(l) != 1 {
		t.Errorf("the mail log: %q", l)
	}
}

// S40, S41: certbot calls the hook and forgets how it ended: postmaster knows. That
// the hook has nothing to do with another lineage closes nothing and tells nobody;
// the next good renewal closes it.
func TestS40ToldByHook(t *testing.T) {
	h := newTold(t, "")
	hook := func(lineage string) answer {
		return h.with("RENEWED_LINEAGE="+lineage, "RENEWED_DOMAINS="+hostName).postcert("hook", "--config", h.conf)
	}
	hook(h.lineage).want(0)
	h.fails()
	if a := hook(h.lineage); a.status == 0 {
		t.Errorf("exit status 0\n%s%s", a.stdout, a.stderr)
	}
	if m := h.mails(1)[0]; !strings.Contains(m.subject(), ": "+hostName+": ") || !strings.Contains(m.subject(), "failed") {
		t.Errorf("the subject is %q", m.subject())
	}
	hook(h.host.lineage(certtest.Leaf{Names: []string{"other.example.test"}})).want(0)
	h.mails(1)
	h.mends()
	hook(h.lineage).want(0)
	if m := h.mails(2)[1]; !strings.Contains(m.subject(), "over: ") {
		t.Errorf("the subject is %q", m.subject())
	}
}
