package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// scanState is a listener of the one Postfix that is scanned: how it is set up, and
// what is known to be wrong with its certificate.
type scanState struct {
	name    string
	address string // an address of its own at port 587, for which STARTTLS is due
	leaf    certtest.Leaf
	noChain bool   // the intermediate is not sent
	option  string // of its service in master.cf
	words   string // that postcert probe must say of its certificate; "ok" if it is good
}

func scanStates() []scanState {
	day := 24 * time.Hour
	mail := certtest.Leaf{Names: []string{name}, Key: "rsa"}
	expired, other := mail, mail
	expired.NotBefore, expired.NotAfter = time.Now().Add(-90*day), time.Now().Add(-day)
	other.Names = []string{"www.example.test"}
	return []scanState{
		{name: "good", address: "127.0.0.1", leaf: mail, words: "ok"},
		{name: "expired", address: "127.0.0.2", leaf: expired, words: "expired"},
		{name: "no intermediate", address: "127.0.0.3", leaf: mail, noChain: true, words: "issuer"},
		{name: "another name", address: "127.0.0.4", leaf: other, words: "does not cover " + name},
		{name: "TLS 1.0 allowed", address: "127.0.0.5", leaf: mail, option: "smtpd_tls_mandatory_protocols=!SSLv2,!SSLv3", words: "ok"},
		{name: "TLS 1.2 alone", address: "127.0.0.6", leaf: mail, option: "smtpd_tls_mandatory_protocols=TLSv1.2", words: "ok"},
	}
}

func (s scanState) port() string { return s.address + ":587" }

// question is what more than one of the programs says something about.
type question string

// The questions. Each is answered by yes or no.
const (
	goodCertificate question = "the certificate satisfies a client that checks"
	offersTLS10     question = "TLS 1.0 is offered"
	offersTLS11     question = "TLS 1.1 is offered"
	offersTLS12     question = "TLS 1.2 is offered"
	offersTLS13     question = "TLS 1.3 is offered"
	offers3DES      question = "3DES is offered"
	offersRSA       question = "RSA key exchange is offered"
	offersAnonymous question = "anonymous suites are offered"
)

// answers are what one program says about one listener. What it says nothing about
// is not in it.
type answers map[question]bool

// scanner is a program that is asked about listeners.
type scanner struct {
	key, title string
	run        func(ctx context.Context, states []scanState) map[string]answers // by the name of a state
	each       bool                                                             // it is asked about one listener at a time
}

// scanHost is the Postfix that is scanned.
type scanHost struct {
	*host
	pf     *postfixtest.Instance
	states []scanState
}

func newScanHost(t testing.TB, binary string) *scanHost {
	t.Helper()
	postfixtest.Need(t, "openssl", "sslscan", "testssl")
	root := certtest.NewCA(t, certtest.Authority{Key: "rsa"})
	h := &scanHost{host: &host{t: t, binary: binary, dir: t.TempDir(), ca: root.Intermediate(t, certtest.Authority{})}, states: scanStates()}
	h.trust = filepath.Join(h.dir, "root.pem")
	h.write(h.trust, certtest.EncodeCerts(root.Cert))
	var services []string
	for i, s := range h.states {
		pair, file := h.ca.Leaf(t, s.leaf), filepath.Join(h.dir, fmt.Sprint(i, ".pem"))
		pem := pair.PostfixPEM()
		if s.noChain {
			pem = append(pair.KeyPEM(), certtest.EncodeCerts(pair.Cert)...)
		}
		h.write(file, pem)
		services = append(services, s.port()+" inet n - n - - smtpd", "  -o smtpd_tls_security_level=encrypt", "  -o smtpd_tls_cert_file="+file)
		if s.option != "" {
			services = append(services, "  -o "+s.option)
		}
	}
	h.pf = postfixtest.New(t, postfixtest.Options{Cert: filepath.Join(h.dir, "0.pem"), Only25: true, Master: services,
		Main: []string{"smtpd_tls_mandatory_protocols = !SSLv2, !SSLv3, !TLSv1, !TLSv1.1"}})
	h.pf.Start()
	return h
}

// scanners are those who are asked. audit and harden read the configuration and ask
// all listeners in one go; the others are told which.
func (h *scanHost) scanners() []scanner {
	return []scanner{
		{"audit_config", "postcert audit --no-handshakes", func(ctx context.Context, s []scanState) map[string]answers { return h.audit(ctx, s, "--no-handshakes") }, false},
		{"audit", "postcert audit", func(ctx context.Context, s []scanState) map[string]answers { return h.audit(ctx, s) }, false},
		{"probe", "postcert probe", h.probe, false},
		{"harden", "postcert harden --dry-run", h.harden, false},
		{"sslscan", "sslscan", h.sslscan, true},
		{"testssl", "testssl.sh -p -s -S", h.testssl, true},
	}
}

// output runs a program to its end, whatever its status: 8 is an answer of ours, and
// testssl.sh counts what it does not like. stdout is what it said.
func (h *scanHost) output(ctx context.Context, path string, args ...string) []byte {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "TERM=dumb")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil || cmd.ProcessState == nil {
		h.t.Fatalf("%s: %v\n%s%s", path, err, out, stderr.String())
	}
	return out
}

// scanReport is what was measured and what was said.
type scanReport struct {
	Slack    float64           `json:"slack"`
	Series   map[string]series `json:"nanoseconds"`
	Verdicts []verdict         `json:"verdicts"`
	Bounds   []bound           `json:"bounds"`

	titles [][2]string
}

// verdict is what the programs said to one question about one listener.
type verdict struct {
	State    string          `json:"state"`
	Question question        `json:"question"`
	Judge    bool            `json:"openssl"`
	Said     map[string]bool `json:"said"` // by the key of the program; who says nothing is not in it
}

// measureScan lets each program look at the same listeners, and compares what they
// say with what openssl s_client does.
func measureScan(ctx context.Context, t testing.TB, s settings, progress io.Writer) scanReport {
	rep := scanReport{Slack: s.slack, Series: map[string]series{}}
	binary := prepare(t, s, progress)
	h := newScanHost(t, binary)
	all := h.scanners()
	for n := range s.rounds {
		fmt.Fprintf(progress, "round %d of %d\n", n+1, s.rounds)
		for _, who := range all {
			if who.key == "testssl" && n >= s.slow {
				continue // it takes longer than all the others together
			}
			began := time.Now()
			who.run(ctx, h.states[:1])
			rep.Series[who.key] = append(rep.Series[who.key], time.Since(began))
			time.Sleep(calm)
		}
	}
	fmt.Fprintln(progress, "verdicts")
	rep.Verdicts = h.compare(ctx, all)
	for _, who := range all {
		rep.titles = append(rep.titles, [2]string{who.key, who.title})
	}
	rep.Bounds = rep.bounds()
	return rep
}

// compare asks everybody about every listener, those who look at one at a time two
// at once.
func (h *scanHost) compare(ctx context.Context, all []scanner) []verdict {
	h.t.Helper()
	said := map[string]map[string]answers{}
	for _, who := range all {
		if !who.each {
			said[who.key] = who.run(ctx, h.states)
			continue
		}
		said[who.key] = map[string]answers{}
		var mutex sync.Mutex
		var wg sync.WaitGroup
		slots := make(chan struct{}, 2)
		for _, s := range h.states {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				got := who.run(ctx, []scanState{s})
				mutex.Lock()
				defer mutex.Unlock()
				said[who.key][s.name] = got[s.name]
			})
		}
		wg.Wait()
	}
	var out []verdict
	for _, s := range h.states {
		judge := h.judge(ctx, s)
		for _, q := range []question{goodCertificate, offersTLS10, offersTLS11, offersTLS12, offersTLS13, offers3DES, offersRSA, offersAnonymous} {
			v := verdict{s.name, q, judge[q], map[string]bool{}}
			for key, by := range said {
				if a, ok := by[s.name][q]; ok {
					v.Said[key] = a
				}
			}
			out = append(out, v)
		}
	}
	return out
}

// ours tells the programs that are postcert.
func ours(key string) bool { return key != "sslscan" && key != "testssl" }

// wrong are the verdicts of some programs that openssl contradicts, in words.
func (r scanReport) wrong(who func(key string) bool) []string {
	var out []string
	for _, v := range r.Verdicts {
		for key, said := range v.Said {
			if who(key) && said != v.Judge {
				out = append(out, fmt.Sprintf("%s: %q: %s says %v, openssl %v", v.State, v.Question, key, said, v.Judge))
			}
		}
	}
	slices.Sort(out)
	return out
}

// open are the questions that another program answers and postcert does not.
func (r scanReport) open() (out []string) {
	for _, v := range r.Verdicts {
		mine, theirs := false, false
		for key := range v.Said {
			mine, theirs = mine || ours(key), theirs || !ours(key)
		}
		if theirs && !mine && !slices.Contains(out, string(v.Question)) {
			out = append(out, string(v.Question))
		}
	}
	return out
}

// answered counts the verdicts of a program.
func (r scanReport) answered(key string) (n int) {
	for _, v := range r.Verdicts {
		if _, ok := v.Said[key]; ok {
			n++
		}
	}
	return n
}

func (r scanReport) bounds() []bound {
	var out []bound
	add := func(name, unit string, value, limit float64) {
		limit *= max(r.Slack, 1)
		out = append(out, bound{name, value, limit, unit, value <= limit})
	}
	median := func(key string) float64 { return ms(r.Series[key].median()) }
	add("audit of one instance, without handshakes", "ms", median("audit_config"), 300)
	add("audit of one instance, with handshakes", "ms", median("audit"), 2000)
	add("probe of a listener / sslscan", "x", median("probe")/median("sslscan"), 1)
	add("audit of all listeners / testssl.sh of one", "x", median("audit")/median("testssl"), 0.1)
	add("verdicts of postcert that openssl contradicts", "", float64(len(r.wrong(ours))), 0)
	return out
}

func (r scanReport) missed() []string { return append(missed(r.Bounds), r.wrong(ours)...) }

func (r scanReport) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "scans, milliseconds; verdicts on %d questions, and those that openssl contradicts\n", len(r.Verdicts))
	for _, x := range r.titles {
		s := r.Series[x[0]]
		fmt.Fprintf(&b, "  %-32s median %7.0f   min %7.0f   max %7.0f   of %d   verdicts %2d   wrong %d\n", x[1], ms(s.median()), ms(s.quantile(0)), ms(s.quantile(1)), len(s),
			r.answered(x[0]), len(r.wrong(func(key string) bool { return key == x[0] })))
	}
	for _, line := range r.wrong(func(string) bool { return true }) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	for _, q := range r.open() {
		fmt.Fprintf(&b, "  postcert does not answer: %s\n", q)
	}
	for _, x := range r.Bounds {
		fmt.Fprintf(&b, "%s\n", x)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
