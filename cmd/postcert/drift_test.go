package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// drifted is a host with two generations, of which the second is served; and with
// a configuration that says what is done about a drift.
type drifted struct {
	*host
	old, now    string // leaves
	first, file []byte // of tls/NAME.pem
	before      []byte // main.cf of before the adoption
	conf        string
}

func newDrifted(t *testing.T, mode string) *drifted {
	t.Helper()
	d := &drifted{host: newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})}
	d.before = d.pf.Main()
	a, b := d.lineage(certtest.Leaf{}), d.lineage(certtest.Leaf{})
	d.old, d.now = d.leafOf(a), d.leafOf(b)
	d.postcert("install-cert", a).want(0)
	d.first = d.read(d.installed())
	d.postcert("install-cert", b).want(0)
	d.file = d.read(d.installed())
	d.conf = filepath.Join(d.dir, "drift.yaml")
	d.write(d.conf, []byte(fmt.Sprintf("instances: [{config_directory: %s, drift: %s}]\n", d.pf.ConfigDir, mode)))
	return d
}

func (h *host) read(path string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return data
}

// renew asks a listener that disagrees for a second, not for the usual four.
func (d *drifted) renew() answer {
	return d.with(testDeadline+"=1s").postcert("renew", "--config", d.conf, "--json")
}

// only25 fails the test unless openssl is shown this leaf on port 25.
func (h *host) only25(leaf string) {
	h.t.Helper()
	postfixtest.WaitServed(h.t, postfixtest.SMTP, postfixtest.StartTLS, leaf)
}

// drifts are what somebody does to a host behind our back, what is told of it, and
// whether the old certificate is what openssl is shown then.
var drifts = []struct {
	name  string
	do    func(d *drifted)
	ids   []string
	says  string
	shown bool
}{
	{"an old file restored", func(d *drifted) { d.write(d.installed(), d.first); d.pf.Reload() },
		[]string{"drift_file", "served_differs"}, "holds generation 1 again", true},
	{"an old file restored, not reloaded", func(d *drifted) { d.write(d.installed(), d.first) },
		[]string{"drift_file"}, "holds generation 1 again", false},
	{"the file removed", func(d *drifted) { _ = os.Remove(d.installed()) }, []string{"drift_file"}, "is gone", false},
	{"a parameter edited back", func(d *drifted) { d.pf.SetMain(d.before); d.pf.Reload() },
		[]string{"drift_parameter", "served_differs"}, "smtpd_tls_cert_file is ", false},
	{"somebody else's certificate in the file", func(d *drifted) {
		postfixtest.WritePair(d.t, d.installed(), "stranger.example.test")
		d.pf.Reload()
	}, []string{"drift_file", "served_differs"}, "none of the generations", false},
}

// S45: somebody restores an old file, removes it, or edits main.cf back. It is told,
// with what differs, by a renew at which nothing is due; it is left as it is; and
// status says no until somebody puts it back.
func TestS45DriftIsTold(t *testing.T) {
	d := newDrifted(t, "report")
	d.renew().want(0)
	for _, tt := range drifts {
		t.Run(tt.name, func(t *testing.T) {
			tt.do(d)
			before := d.pf.Files()
			a := d.renew().want(8)
			for _, id := range tt.ids {
				if !a.has(id) {
					t.Errorf("%v, want %s", a.ids(), id)
				}
			}
			a.says(tt.says)
			for _, x := range postfixtest.Compare(before, d.pf.Files()) {
				t.Errorf("it was to be left alone, and changed: %s", x)
			}
			if tt.shown {
				d.only25(d.old)
			}
			r := d.record()
			if r.Drift == nil || r.Served == nil || r.Served.Agrees || len(r.Drift.Differences) == 0 || !strings.Contains(r.Drift.Differences[0].Words, tt.says) {
				t.Errorf("the record: %+v %+v", r.Served, r.Drift)
			}
			since := r.Drift.Since
			d.renew().want(8)
			if r := d.record(); !r.Drift.Since.Equal(since) || !r.Drift.Seen.After(since) {
				t.Errorf("told as of %v, seen %v; it began at %v", r.Drift.Since, r.Drift.Seen, since)
			}
			d.postcert("status").want(8)
			d.postcert("rollback", hostName, "--to", "2").want(0)
			d.only25(d.now)
			d.renew().want(0)
			if r := d.record(); r.Drift != nil || !r.Served.Agrees {
				t.Errorf("after it was put back: %+v %+v", r.Served, r.Drift)
			}
			d.postcert("status").want(0)
		})
	}
}

// S45 with drift: repair: what was proven is installed again and proven, by openssl
// too, and what differed is told once.
func TestS45DriftIsRepaired(t *testing.T) {
	d := newDrifted(t, "repair")
	main := d.pf.Main()
	for _, tt := range drifts[:4] {
		t.Run(tt.name, func(t *testing.T) {
			tt.do(d)
			a := d.postcert("renew", "--config", d.conf, "--json").want(0).says(tt.says)
			if !a.has(tt.ids[0]) {
				t.Errorf("%v, want %s as a warning", a.ids(), tt.ids[0])
			}
			d.only25(d.now)
			if string(d.read(d.installed())) != string(d.file) || string(d.pf.Main()) != string(main) {
				t.Error("file or main.cf are not what was proven")
			}
			if r := d.record(); r.Drift != nil || !r.Served.Agrees || r.Generation != 2 || r.LastOutcome != "installed" {
				t.Errorf("the record: %+v", r)
			}
			if a := d.renew().want(0); len(a.ids()) > 0 {
				t.Errorf("told again: %v", a.ids())
			}
			d.postcert("status").want(0)
		})
	}
	for _, r := range d.postcert("history", "--json").want(0).json()["history"].([]any)[2:] {
		if r := r.(map[string]any); r["reason"] != "repair" || r["generation"] != 2.0 {
			t.Errorf("history: %v", r)
		}
	}
}

// A master that was not reloaded: the file is right, and a process of before still
// serves what it read; here an impostor in front of the listener.
func TestS45NotReloaded(t *testing.T) {
	d := newDrifted(t, "report")
	d.write(d.installed(), d.first)
	d.pf.Reload()
	d.only25(d.old) // a process that has read the old file lives on for a while
	d.write(d.installed(), d.file)
	a := d.renew()
	if a.status == 8 && !a.has("drift_not_reloaded") {
		t.Errorf("%v, want drift_not_reloaded", a.ids())
	}
	t.Logf("exit status %d: %v", a.status, a.ids())
	d.pf.Reload()
	d.only25(d.now)
	d.renew().want(0)
}

// A table whose index is older than the file it holds a copy of.
func TestS45StaleTable(t *testing.T) {
	d := newDrifted(t, "report")
	pair, table := filepath.Join(d.dir, "other.pem"), filepath.Join(d.pf.ConfigDir, "sni")
	postfixtest.WritePair(t, pair, "other.example.test")
	d.write(table, []byte("# names\nother.example.test "+pair+"\n"))
	if out, err := exec.Command("postmap", "-F", "hash:"+table).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.pf.AppendMain("tls_server_sni_maps = hash:" + table)
	d.pf.Reload()
	d.renew().want(0)
	later := time.Now().Add(2 * time.Second)
	for _, file := range []string{pair, table} {
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
		// status sees it before a renewal has, and once when one has told it, too.
		if a := d.postcert("status", "--json").want(8); !a.has("drift_table") || len(a.ids()) != 1 {
			t.Errorf("%s: status says %v", file, a.ids())
		}
		if a := d.renew().want(8); !a.has("drift_table") || len(a.ids()) != 1 {
			t.Errorf("%s: %v", file, a.ids())
		}
		if a := d.postcert("status", "--json").want(8); !a.has("drift_table") || len(a.ids()) != 1 {
			t.Errorf("%s: then status says %v", file, a.ids())
		}
		if err := os.Chtimes(table+".db", later, later); err != nil {
			t.Fatal(err)
		}
		d.postcert("status", "--json").want(0)
		d.renew().want(0)
		later = later.Add(time.Minute)
	}
}

// S45 with drift: repair, for a table: it is built again, so that openssl is shown
// the new certificate of its name. One that cannot be built is left as it is, and
// so is what it serves.
func TestS45StaleTableIsRepaired(t *testing.T) {
	d := newDrifted(t, "repair")
	pair, table := filepath.Join(d.dir, "other.pem"), filepath.Join(d.pf.ConfigDir, "sni")
	shown := func() string {
		t.Helper()
		leaf, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS, "-servername", "other.example.test")
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	renewed := func(age time.Duration) string {
		postfixtest.WritePair(t, pair, "other.example.test")
		then := time.Now().Add(-age)
		if err := os.Chtimes(pair, then, then); err != nil {
			t.Fatal(err)
		}
		return d.leafAt(pair)
	}
	first := renewed(3 * time.Hour)
	d.write(table, []byte("other.example.test "+pair+"\n"))
	old := time.Now().Add(-2 * time.Hour)
	sh(t, "postmap -F hash:%s", table)
	for _, path := range []string{table, table + ".db"} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	d.pf.AppendMain("tls_server_sni_maps = hash:" + table)
	d.pf.Reload()
	d.renew().want(0)
	second := renewed(time.Hour)
	if got := shown(); got != first || first == second {
		t.Fatalf("%s is shown before the repair, want %s", got, first)
	}
	if a := d.renew().want(0); !a.has("drift_table") || len(a.ids()) != 1 {
		t.Errorf("%v, want drift_table as a warning", a.ids())
	}
	if got := shown(); got != second {
		t.Errorf("%s is shown after the repair, want %s", got, second)
	}
	if r := d.record(); r.Drift != nil || !r.Served.Agrees {
		t.Errorf("the record: %+v %+v", r.Served, r.Drift)
	}
	if a := d.renew().want(0); len(a.ids()) > 0 {
		t.Errorf("told again: %v", a.ids())
	}

	// A key that is gone.
	d.write(table, []byte("other.example.test "+pair+"\nmore.example.test "+d.dir+"/nothing.pem\n"))
	before := d.read(table + ".db")
	a := d.renew().want(3)
	if !a.has("table_unbuildable") || !a.has("drift_table") {
		t.Errorf("%v", a.ids())
	}
	a.says("nothing.pem")
	if string(d.read(table+".db")) != string(before) || shown() != second {
		t.Error("the table was touched, or is not served any more")
	}
	// It does not keep the certificate from being put back.
	d.write(d.installed(), d.first)
	d.pf.Reload()
	if a := d.renew().want(3); !a.has("table_unbuildable") || !a.has("drift_file") {
		t.Errorf("%v", a.ids())
	}
	d.only25(d.now)
	if left, _ := filepath.Glob(filepath.Join(d.run, "*", "table*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A repair that fails is told, and not tried again by itself at each turn.
func TestS45RepairFails(t *testing.T) {
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	failed := func(exit int, since, last time.Time) *status.Record {
		return &status.Record{LastError: status.Failure{Exit: exit}, LastTime: last, Drift: &status.Drift{Since: since}}
	}
	for _, tt := range []struct {
		name string
		rec  *status.Record
		want bool
	}{
		{"no drift is known", &status.Record{LastError: status.Failure{Exit: 5}, LastTime: day}, false},
		{"it failed an hour ago", failed(5, day.Add(-2*time.Hour), day.Add(-time.Hour)), true},
		{"it failed yesterday", failed(5, day.Add(-50*time.Hour), day.Add(-21*time.Hour)), false},
		{"something else failed before the drift", failed(5, day.Add(-time.Hour), day.Add(-2*time.Hour)), false},
		{"another run was at work", failed(statusBusy, day.Add(-2*time.Hour), day.Add(-time.Hour)), false},
		{"it succeeded", failed(0, day.Add(-2*time.Hour), day.Add(-time.Hour)), false},
		{"the clock went back", failed(5, day.Add(time.Hour), day.Add(2*time.Hour)), false},
	} {
		if got := repairFailed(tt.rec, day); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// S45 for a certificate that another client renews: a pass at which the lineage has
// not changed does not deploy over what somebody put there; the next renewal does.
func TestS45OfALineage(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"inet_protocols = ipv4"}})
	lineage := h.lineage(certtest.Leaf{})
	conf := h.watching(lineage)
	renew := func(want int) answer {
		return h.with(testDeadline+"=1s").postcert("renew", "--config", conf, "--json").want(want)
	}
	renew(0)
	old, leaf := h.read(h.installed()), h.leafOf(lineage)
	h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, lineage)
	h.postcert("renew", "--config", conf).want(0)
	h.write(h.installed(), old)
	h.pf.Reload()
	before := h.pf.Files()
	if a := renew(8); !a.has("drift_file") {
		t.Errorf("%v", a.ids())
	}
	for _, x := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("it was to be left alone, and changed: %s", x)
	}
	h.only25(leaf)
	h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, lineage)
	h.postcert("renew", "--config", conf).want(0)
	h.only25(h.leafOf(lineage))
	renew(0)
}
