package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// contrib is what we ship for Prometheus and Grafana.
const contrib = "../../../../contrib"

// full is a snapshot in which everything is known.
func full() Snapshot {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Snapshot{
		Version: "1.0",
		Deployed: []Deployed{{
			Postfix: "/etc/postfix", Name: "mail.example.com", NotBefore: at, NotAfter: at.AddDate(0, 3, 0), Installed: true, Probed: at,
			LastDeploy: at, LastDuration: 1500 * time.Millisecond, LastExit: 4, LastSuccess: at, Attempt: at.Add(time.Hour),
			Listeners: []Listener{
				{Service: "smtp/inet", Address: "192.0.2.1:25", NotAfter: at.AddDate(0, 3, 0), Agrees: true},
				{Service: "smtp/inet", Address: "192.0.2.1:25", NotAfter: at.AddDate(0, 3, 0), Agrees: true}, // by another way to ask
				{Service: "unix\"\n\\", Address: "/run/x\xff", SNI: "mail.example.com", KeyType: "rsa"},
			},
		}},
		Certificates: []Certificate{{Name: "mail.example.com", LastPass: at, WindowStart: at, WindowEnd: at.Add(day), NextOrder: at}},
		Counters:     Counters{Renewals: map[string]int64{"mail.example.com": 7}, Failures: map[string]int64{"key_mismatch": 2}},
	}
}

const day = 24 * time.Hour

// all are the metrics that there are.
var all = []*metric{
	buildInfo, notAfter, notBefore, wanted, drifted, probed, lastDeploy, lastDuration, lastOK, lastExit, lastSuccess, attempt,
	served, agrees, lastPass, windowStart, windowEnd, nextOrder, renewals, failures,
}

// sample is a line of the text format with its labels.
var sample = regexp.MustCompile(`(?m)^(postcert_[a-z_]+)(?:\{([^}]*)\})? `)

// printed are the metrics of a text, with the labels that each has.
func printed(t *testing.T, text []byte) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, m := range sample.FindAllSubmatch(text, -1) {
		var labels []string
		for _, l := range regexp.MustCompile(`([a-z_]+)="`).FindAllSubmatch(m[2], -1) {
			labels = append(labels, string(l[1]))
		}
		out[string(m[1])] = labels
	}
	if len(out) < 10 {
		t.Fatalf("only %d metrics in\n%s", len(out), text)
	}
	return out
}

func textOf(t *testing.T, s Snapshot) []byte {
	t.Helper()
	text := Text(s)
	seen := map[string]bool{}
	for _, m := range sample.FindAllString(string(text), -1) {
		if seen[m] {
			t.Errorf("%s is there twice", m)
		}
		seen[m] = true
	}
	return text
}

func promtool(t *testing.T, stdin []byte, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 && args[1] == "metrics" {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Prometheus' own tool finds nothing wrong with what is printed, and with the rules,
// each of which is silent when all is well and fires when nothing is.
func TestPromtool(t *testing.T) {
	postfixtest.Need(t, "promtool")
	promtool(t, textOf(t, full()), ".", "check", "metrics")
	promtool(t, textOf(t, Snapshot{Version: "1"}), ".", "check", "metrics")
	dir := filepath.Join(contrib, "prometheus")
	promtool(t, nil, dir, "check", "rules", "postcert.rules.yml")
	promtool(t, nil, dir, "test", "rules", "postcert.rules.test.yml")
}

// asked is what a query asks for: metrics, each with the labels it selects by.
var asked = regexp.MustCompile(`(postcert_[a-z_]+)(?:\{([^}]*)\})?`)

// queries are those of the rules and of the dashboard, by where they are.
func queries(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	rules, err := os.ReadFile(filepath.Join(contrib, "prometheus/postcert.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	out["rules"] = string(rules)
	data, err := os.ReadFile(filepath.Join(contrib, "grafana/postcert.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct {
				Expr, LegendFormat string
			}
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for n, q := range p.Targets {
			out[fmt.Sprintf("panel %q, query %d", p.Title, n)] = q.Expr + " " + q.LegendFormat
		}
	}
	if len(out) < 10 {
		t.Fatalf("%d queries only", len(out))
	}
	return out
}

// What rules and dashboard ask for exists, with the labels they use; and what exists
// is asked for by one of them.
func TestQueries(t *testing.T) {
	exists := printed(t, textOf(t, full()))
	used := map[string]bool{}
	for where, q := range queries(t) {
		labels := []string{"instance"} // the scraped host's
		for _, m := range asked.FindAllStringSubmatch(q, -1) {
			used[m[1]] = true
			have, ok := exists[m[1]]
			if !ok {
				t.Errorf("%s asks for %s, which does not exist", where, m[1])
			}
			labels = append(labels, have...)
			for _, l := range regexp.MustCompile(`([a-z_]+)\s*[=!]`).FindAllStringSubmatch(m[2], -1) {
				if l[1] != "instance" && !slices.Contains(have, l[1]) {
					t.Errorf("%s selects %s by %s, which it does not have", where, m[1], l[1])
				}
			}
		}
		for _, l := range regexp.MustCompile(`\{\{ ?(?:\$labels\.)?([a-z_]+) ?\}\}`).FindAllStringSubmatch(q, -1) {
			if l[1] != "end" && l[1] != "else" && !slices.Contains(labels, l[1]) {
				t.Errorf("%s shows the label %s, which none of its metrics has", where, l[1])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exists)) {
		if !used[name] {
			t.Errorf("%s is in no rule and on no dashboard", name)
		}
	}
	if len(exists) != len(all) {
		t.Errorf("%d metrics are described and %d printed", len(all), len(exists))
	}
}

// The file can be read by node_exporter, is replaced as a whole, and a link in its
// place is not followed.
func TestTextfile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "postcert.prom")
	for range 2 {
		if err := WriteTextfile(path, full()); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 1 {
		t.Errorf("the directory has %q", names)
	}
	if data, _ := os.ReadFile(path); !bytes.Equal(data, textOf(t, full())) {
		t.Errorf("the file has\n%s", data)
	}
	target := filepath.Join(dir, "precious")
	if err := os.WriteFile(target, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.prom")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteTextfile(link, full()); err == nil {
		t.Error("a link was replaced")
	}
	if data, _ := os.ReadFile(target); string(data) != "x" {
		t.Error("a link was followed")
	}
}

// The handler shows what is so at that moment, and nothing but /metrics.
func TestHandler(t *testing.T) {
	s := full()
	server := httptest.NewServer(Handler(func() Snapshot { return s }))
	defer server.Close()
	get := func(path string) (int, string) {
		r, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(r.Body); err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, b.String()
	}
	if status, text := get("/metrics"); status != 200 || text != string(textOf(t, s)) {
		t.Errorf("%d\n%s", status, text)
	}
	s.Version = "2.0"
	if _, text := get("/metrics"); !strings.Contains(text, `version="2.0"`) {
		t.Errorf("not what is so now:\n%s", text)
	}
	if status, _ := get("/debug/pprof/"); status != 404 {
		t.Errorf("/debug/pprof/: %d", status)
	}
}

// One scrape at a time, in a format that every Prometheus reads.
func TestHandlerOneAtATime(t *testing.T) {
	begun, goOn := make(chan bool), make(chan bool)
	server := httptest.NewServer(Handler(func() Snapshot { begun <- true; <-goOn; return full() }))
	defer server.Close()
	first := make(chan *http.Response)
	go func() {
		r, err := http.Get(server.URL + "/metrics")
		if err != nil {
			t.Error(err)
		}
		first <- r
	}()
	<-begun
	second, err := http.Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	second.Body.Close()
	close(goOn)
	r := <-first
	if r == nil {
		t.FailNow()
	}
	defer r.Body.Close()
	if second.StatusCode != http.StatusServiceUnavailable || r.StatusCode != http.StatusOK {
		t.Errorf("the first %d, one beside it %d", r.StatusCode, second.StatusCode)
	}
	if got := r.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type: %s", got)
	}
}

// Counters survive the process that counts, and count from 0 when they are lost.
func TestCounters(t *testing.T) {
	l := Ledger{filepath.Join(t.TempDir(), "metrics")}
	for range 3 {
		if err := l.Count(t.Context(), []string{"a"}, []string{"key_mismatch", "busy"}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := l.Read()
	if err != nil || c.Renewals["a"] != 3 || c.Failures["busy"] != 3 {
		t.Errorf("%v, %v", c, err)
	}
	if err := os.WriteFile(l.path(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Count(t.Context(), []string{"a"}, nil); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Read(); err != nil || c.Renewals["a"] != 1 {
		t.Errorf("%v, %v", c, err)
	}
}
