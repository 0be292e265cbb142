package deploy

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/cf"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// The plan invariant: a difference is planned if it is of an edit, or follows
// one by a reference that the scheme knows.
func TestPlanned(t *testing.T) {
	p := &Plan{
		Edits: []cf.Edit{
			{Parameter: "smtpd_tls_cert_file"},
			{Service: "submission/inet", Parameter: "smtpd_tls_key_file"},
		},
		Scheme: cf.Scheme{Dependants: []string{"tlsproxy_tls_cert_file", "smtps/inet:smtpd_tls_key_file"}},
	}
	p.Before.Parameters = map[string]string{"smtp_tls_cert_file": "$smtpd_tls_cert_file", "mynetworks": "127.0.0.0/8"}
	p.Candidate.Parameters = map[string]string{"smtp_tls_cert_file": "$smtpd_tls_cert_file", "mynetworks": "0.0.0.0/0"}
	tests := []struct {
		name    string
		d       cf.Difference
		want    bool
		release bool // want, when the change is a release
	}{
		{"edited in main.cf", cf.Difference{Parameter: "smtpd_tls_cert_file"}, true, true},
		{"edited in main.cf, seen in a service", cf.Difference{Service: "smtp/inet", Parameter: "smtpd_tls_cert_file"}, true, true},
		{"edited in this service", cf.Difference{Service: "submission/inet", Parameter: "smtpd_tls_key_file"}, true, true},
		{"edited in another service", cf.Difference{Service: "smtp/inet", Parameter: "smtpd_tls_key_file"}, false, true},
		{"edited in a service, seen in main.cf", cf.Difference{Parameter: "smtpd_tls_key_file"}, false, true},
		{"follows", cf.Difference{Parameter: "tlsproxy_tls_cert_file"}, true, true},
		{"follows in its service", cf.Difference{Service: "smtps/inet", Parameter: "smtpd_tls_key_file"}, true, true},
		{"follows, but is not known to", cf.Difference{Parameter: "smtp_tls_cert_file"}, false, true},
		{"something else", cf.Difference{Parameter: "mynetworks"}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p.Change.Release = false
			if got := p.planned(tt.d); got != tt.want {
				t.Errorf("planned: %v, want %v", got, tt.want)
			}
			p.Change.Release = true
			if got := p.planned(tt.d); got != tt.release {
				t.Errorf("planned by a release: %v, want %v", got, tt.release)
			}
		})
	}
}

// A log socket that the warnings of starting daemons can fill is warned of, and
// no other one.
func TestLogStalls(t *testing.T) {
	const twice, same = "a = 1\na = 2\n", "a = 1\na = 1\n"
	for _, tt := range []struct {
		name, main, logFile, processes string
		running                        bool
		limit, line                    int // line: of the warning, 0 for none
	}{
		{"the kernel's default", "b = 0\n" + twice, "/var/log/x", "100", true, 10, 2},
		{"the default of systemd", twice, "/var/log/x", "100", true, 512, 0},
		{"many overridden", strings.Repeat(twice, 3), "/var/log/x", "100", true, 499, 1},
		{"many processes", twice, "/var/log/x", "1000", true, 512, 1},
		{"the same value", same, "/var/log/x", "100", true, 10, 0},
		{"syslog", twice, "", "100", true, 10, 0},
		{"stopped", twice, "/var/log/x", "100", false, 10, 0},
		{"no number", twice, "/var/log/x", "many", true, 10, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Plan{}
			p.Running.Running = tt.running
			p.Before.Main = cf.File{Path: "/m", Data: []byte(tt.main)}
			p.Before.Parameters = map[string]string{"maillog_file": tt.logFile, "default_process_limit": tt.processes}
			p.logStalls(tt.limit)
			if got := p.Problems; len(got) != min(tt.line, 1) || len(got) == 1 && (got[0].ID != "log_socket_small" || got[0].At.Line != tt.line) {
				t.Errorf("problems %+v, want a warning at line %d", got, tt.line)
			}
		})
	}
}

// otherCandidate is a Postfix that reads more out of an edit than was meant.
type otherCandidate struct {
	MTA
	reads cf.Snapshot
}

func (m otherCandidate) Candidate(context.Context, []byte, []byte) (cf.Snapshot, error) {
	return m.reads, nil
}

// The plan invariant: where postconf sees another difference than the planned
// ones, the change is refused and says which.
func TestPlanInvariant(t *testing.T) {
	parse := func(cert, networks string) cf.Snapshot {
		main := "smtpd_tls_cert_file = " + cert + "\nmynetworks = 127.0.0.0/8\n"
		all := "mail_version = 3.7.11\nsmtpd_tls_cert_file = " + cert + "\nmynetworks = 127.0.0.0/8\n"
		s, err := cf.Parse("/etc/postfix", cf.File{Path: "main.cf", Data: []byte(main)}, cf.File{Path: "master.cf"},
			cf.Outputs{All: []byte(all), Expanded: []byte("mynetworks = " + networks + "\nsmtpd_tls_cert_file = " + cert + "\n")})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before, file := parse("/old.pem", "127.0.0.0/8"), "/new.pem"
	for networks, want := range map[string]string{"127.0.0.0/8": "", "0.0.0.0/0": "mynetworks"} {
		p := &Plan{Before: before, Edits: []cf.Edit{before.Edit("", "smtpd_tls_cert_file", &file)}}
		after := parse(file, networks)
		if want != "" { // what stands in main.cf is another value, too
			after.Parameters["mynetworks"] = networks
		}
		e := &Engine{MTA: otherCandidate{reads: after}}
		err := e.candidate(context.Background(), p)
		list := problem.From(err)
		if want == "" && err != nil || want != "" && (!list.Has("plan_invariant") || list[0].At.Parameter != want) {
			t.Errorf("with mynetworks = %s: %v", networks, err)
		}
	}
}

// A value that JSON would change can't be kept for an undo.
func TestUnwritable(t *testing.T) {
	latin1, fine := "/etc/ssl/caf\xe9.pem", "/etc/ssl/café.pem"
	for _, tt := range []struct {
		name string
		ed   cf.Edit
		want int
	}{
		{"UTF-8", cf.Edit{Parameter: "a", Old: &fine, New: &fine, OldText: fine}, 0},
		{"old", cf.Edit{Parameter: "a", Old: &latin1}, 1},
		{"new", cf.Edit{Service: "smtp/inet", Parameter: "a", New: &latin1}, 1},
		{"as it stands", cf.Edit{Parameter: "a", Old: &fine, OldText: latin1}, 1},
	} {
		if got := unwritable(cf.Snapshot{}, []cf.Edit{tt.ed, {Parameter: "b"}}); len(got) != tt.want {
			t.Errorf("%s: %v, want %d problems", tt.name, got, tt.want)
		}
	}
}

// instance writes the files that a made-up configuration names, and returns it.
func instance(t *testing.T, parameters map[string]string, files map[string][]byte) cf.Snapshot {
	t.Helper()
	dir := t.TempDir()
	s := cf.Snapshot{Dir: dir, Parameters: map[string]string{"queue_directory": dir}}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, v := range parameters {
		s.Parameters[name] = v
	}
	return s
}

// What proves a question: the pair alone where it is to be served; elsewhere
// what was served, and what the files hold that a new process reads.
func TestAccept(t *testing.T) {
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	rsa, ec := ca.Leaf(t, certtest.Leaf{Key: "rsa"}), ca.Leaf(t, certtest.Leaf{})
	both := map[string]string{"smtpd_tls_chain_files": "rsa.pem, ec.pem"}
	s := instance(t, both, map[string][]byte{"rsa.pem": rsa.PostfixPEM(), "ec.pem": ec.PostfixPEM()})
	raw := func(p *certtest.Pair) [][]byte { return [][]byte{p.Cert.Raw, ca.Cert.Raw} }
	pair := testPair(t)
	mine := rawChain(pair.Chain())
	served := chain("served", "before")
	p := &Plan{Pair: pair, Before: s, Candidate: s}
	moved := &Plan{Pair: pair, Before: s, Candidate: instance(t, map[string]string{"smtpd_tls_cert_file": "rsa.pem"}, map[string][]byte{"rsa.pem": rsa.PostfixPEM()})}
	tests := []struct {
		name string
		plan *Plan
		x    Expectation
		want [][][]byte
	}{
		{"of the pair", p, Expectation{New: true}, [][][]byte{mine}},
		{"of the pair, by its type", p, Expectation{New: true, Endpoint: probe.Endpoint{KeyType: "ecdsa"}}, [][][]byte{mine}},
		{"the other type of the same service", p, Expectation{New: true, Endpoint: probe.Endpoint{KeyType: "rsa"}, Baseline: answer(served)}, [][][]byte{served, raw(rsa)}},
		{"left alone", p, Expectation{Baseline: answer(served), Endpoint: probe.Endpoint{KeyType: "ecdsa"}}, [][][]byte{served, raw(ec)}},
		{"left alone, not served before", p, Expectation{Endpoint: probe.Endpoint{KeyType: "rsa"}}, [][][]byte{raw(rsa)}},
		{"other files than before", moved, Expectation{Baseline: answer(served)}, [][][]byte{raw(rsa)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.plan.accept(tt.x)
			if !slices.EqualFunc(got, tt.want, sameChain) {
				t.Errorf("%d chains, want %d, or not the same ones", len(got), len(tt.want))
			}
		})
	}
	if got := p.accept(Expectation{Baseline: answer(served)}); len(got) != 3 {
		t.Errorf("a service of two types, asked for none: %d chains, want what was served and both", len(got))
	}
}

// Unchanged is only what is installed, configured and proven already.
func TestAgrees(t *testing.T) {
	pair := testPair(t)
	mine := rawChain(pair.Chain())
	dir := t.TempDir()
	file := filepath.Join(dir, "mail.pem")
	if err := os.WriteFile(file, pair.Postfix(), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Expectation{Accept: [][][]byte{mine}, Baseline: answer(mine)}
	other := Expectation{Accept: [][][]byte{mine}, Baseline: answer(chain("old"))}
	ignored := other
	ignored.Ignore = true
	plan := func(edit func(p *Plan)) *Plan {
		p := &Plan{Pair: pair, Files: []PlannedFile{{Path: file, Part: PartPostfix}}, Expect: []Expectation{good, good}}
		edit(p)
		return p
	}
	tests := []struct {
		name string
		edit func(p *Plan)
		want bool
	}{
		{"all agree", func(*Plan) {}, true},
		{"beside an ignored one", func(p *Plan) { p.Expect = append(p.Expect, ignored) }, true},
		{"one serves another", func(p *Plan) { p.Expect = append(p.Expect, other) }, false},
		{"one is silent", func(p *Plan) { p.Expect[1].Baseline = probe.Result{Reason: probe.Refused} }, false},
		{"nobody was asked", func(p *Plan) { p.Expect = nil }, false},
		{"only ignored ones", func(p *Plan) { p.Expect = []Expectation{ignored} }, false},
		{"an edit", func(p *Plan) { p.Edits = []cf.Edit{{Parameter: "x"}} }, false},
		{"a release", func(p *Plan) { p.Pair, p.Change.Release = keypair.Pair{}, true }, false},
		{"no pair, and nothing to do", func(p *Plan) { p.Pair = keypair.Pair{} }, true},
		{"no pair, and a file", func(p *Plan) { p.Pair, p.Change.Files = keypair.Pair{}, []FileChange{{}} }, false},
		{"a file that is not there", func(p *Plan) { p.Files = []PlannedFile{{Path: file + "x", Part: PartPostfix}} }, false},
		{"a file with other bytes", func(p *Plan) { p.Files = []PlannedFile{{Path: file, Part: PartFullchain}} }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := plan(tt.edit).agrees(); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestServerNames(t *testing.T) {
	wild := certtest.NewCA(t, certtest.Authority{}).Leaf(t, certtest.Leaf{Names: []string{"*.example.com", "mail.example.com", "smtp.example.com"}})
	pair, _, err := keypair.Parse(keypair.Input{Name: "c", Data: wild.FullchainPEM()}, keypair.Input{Name: "k", Data: wild.KeyPEM()}, keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{Pair: pair, Change: Change{SNI: []string{"other.example.net", "mail.example.com"}}}
	if got, want := p.serverNames(), []string{"", "mail.example.com", "other.example.net"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (&Plan{}).serverNames(); !slices.Equal(got, []string{""}) {
		t.Errorf("without a pair: %q", got)
	}
}
