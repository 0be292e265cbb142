package deploy

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// The note of a journal is read by another process, maybe of another day: all
// that an undo needs comes back, and it holds no key.
func TestNote(t *testing.T) {
	old, now := "/etc/old.pem", "/etc/postfix/tls/mail.pem"
	pair := testPair(t)
	asked := Expectation{
		Listener: cf.Listener{Service: "192.0.2.1:465", Type: "inet"}, Sessions: 2, New: true,
		Endpoint: probe.Endpoint{Network: "tcp", Address: "192.0.2.1:465", Mode: probe.Implicit, ServerName: "mail.example.com", KeyType: "rsa", ProxyProtocol: true, Timeout: time.Minute},
		Baseline: answer(chain("leaf", "ca")),
	}
	ignored, broken := asked, asked
	ignored.Ignore = true
	broken.Baseline = probe.Result{Reason: probe.TLSNotAvailable}
	p := &Plan{
		Instance: "/etc/postfix", Name: "mail", Pair: pair, Running: Master{Running: true, PID: 7, Unit: "postfix@-.service"},
		Change: Change{Reason: "install-cert"}, Former: []Expectation{asked, ignored, broken},
		Edits: []cf.Edit{{Parameter: "smtpd_tls_cert_file", Old: &old, New: &now, OldText: "/etc/old.pem  "}, {Service: "smtp/inet", Parameter: "x"}},
	}
	n := p.note(4, time.Now().UTC().Truncate(time.Second))
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "PRIVATE") {
		t.Error("a key in the note")
	}
	var back note
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	n.Baseline[0].Endpoint.Timeout = 0 // how long is the undo's own matter
	if !reflect.DeepEqual(n, back) {
		t.Errorf("%+v\nwant %+v", back, n)
	}
	if !back.Configures || !back.Running || back.Unit == "" || back.Generation != 4 || back.Leaf != pair.Fingerprint() {
		t.Errorf("note: %+v", back)
	}
	if len(back.Baseline) != 1 {
		t.Fatalf("%d questions, want that of the listener which served TLS and is not ignored", len(back.Baseline))
	}
	x := back.expectations()[0]
	if x.Listener.ID() != asked.Listener.ID() || x.Endpoint.ServerName != "mail.example.com" || x.Endpoint.KeyType != "rsa" ||
		!x.Endpoint.ProxyProtocol || x.Endpoint.Mode != probe.Implicit || x.Sessions != 2 || x.wasBroken() {
		t.Errorf("expectation: %+v", x)
	}
	if v, _ := judge(asked.Baseline, x.Accept); v != probe.Proven {
		t.Errorf("what was served before is %s", v)
	}
	if v, _ := judge(answer(chain("new", "ca")), x.Accept); v != probe.Contradicted {
		t.Errorf("what was not served before is %s", v)
	}
}

func TestRehearsedJSON(t *testing.T) {
	for want, r := range map[string]Rehearsed{
		"true": {OK: true}, "false": {}, `"no \"postfix\" here"`: {Reason: `no "postfix" here`},
	} {
		if got, err := json.Marshal(r); err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}
