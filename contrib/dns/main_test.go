package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-acme/lego/v4/log"
	"github.com/miekg/dns"
)

// asProgram makes the test binary behave as postcert-dns.
const asProgram = "POSTCERT_DNS_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	log.Logger = stdlog.New(io.Discard, "", 0)
	if os.Getenv(asProgram) != "" {
		holderEnvironment = append(holderEnvironment, asProgram+"=1")
		main()
	}
	os.Exit(m.Run())
}

const keyAuth = "token.thumbprint"

// world is a resolver, a fake of Cloudflare's API, and a file of credentials.
type world struct {
	t        *testing.T
	resolver string
	file     string
	runtime  string

	mu    sync.Mutex
	calls []string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, runtime: filepath.Join(t.TempDir(), "run")}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeSOA && dns.CanonicalName(q.Question[0].Name) == "example.net." {
			m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.net.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: "ns.example.net.", Mbox: "x.example.net."}}
		}
		if q.Question[0].Qtype == dns.TypeCNAME { // a CNAME that has changed since postcert followed it
			m.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "elsewhere.example."}}
		}
		_ = rw.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	w.resolver = conn.LocalAddr().String()
	api := httptest.NewServer(w)
	t.Cleanup(api.Close)
	w.file = filepath.Join(t.TempDir(), "cloudflare.env")
	content := "# Cloudflare\nexport CF_DNS_API_TOKEN='s3cr3t'\nCLOUDFLARE_BASE_URL=" + api.URL + "\n"
	if err := os.WriteFile(w.file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	var record struct{ Name, Content string }
	_ = json.Unmarshal(body, &record) // there is none in most
	if r.Method != http.MethodGet {
		w.calls = append(w.calls, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+record.Name+" "+record.Content))
	}
	if r.Header.Get("Authorization") != "Bearer s3cr3t" {
		rw.WriteHeader(http.StatusForbidden)
	}
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(rw, `{"success":true,"result":[{"id":"zone1","name":"example.net"}]}`)
		return
	}
	_, _ = io.WriteString(rw, `{"success":true,"result":{"id":"rec`+strconv.Itoa(len(w.calls))+`"}}`)
}

func (w *world) took() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// postcertDNS runs the program as postcert's exec does.
func (w *world) postcertDNS(env []string, args ...string) (string, error) {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	all := append([]string{"-runtime", w.runtime, "-resolver", w.resolver, "-credentials", w.file}, args...)
	cmd := exec.Command(self, all...)
	cmd.Env = append([]string{asProgram + "=1", "PATH=/usr/bin:/bin"}, env...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) must(op, fqdn, keyAuth string) {
	w.t.Helper()
	if out, err := w.postcertDNS([]string{keyAuthorization + "=" + keyAuth}, "cloudflare", op, fqdn, value(keyAuth)); err != nil {
		w.t.Fatalf("%s %s: %v: %s", op, fqdn, err, out)
	}
}

// holders are the processes that wait for a clean-up in this world.
func (w *world) holders() (pids []int) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range dirs {
		data, _ := os.ReadFile(path) // it may be gone
		words := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if slices.Contains(words, w.runtime) && words[len(words)-1] == holdWord {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *world) gone() {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(w.holders()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("still there: %v", w.holders())
		}
	}
	if sockets, _ := filepath.Glob(w.runtime + "/*.sock"); len(sockets) > 0 {
		w.t.Errorf("left: %v", sockets)
	}
}

// Two processes write and remove exactly the names that they are told, with a
// provider of lego that remembers what it has made in memory only.
func TestPresentAndCleanUp(t *testing.T) {
	w := newWorld(t)
	names := []string{"_acme-challenge.mail.example.net.", "mail-example-com.acme.example.net."}
	for i, fqdn := range names {
		w.must("present", fqdn, keyAuth+strconv.Itoa(i))
		want := "POST /zones/zone1/dns_records " + strings.TrimSuffix(fqdn, ".") + ` "` + value(keyAuth+strconv.Itoa(i)) + `"`
		if got := w.took(); !slices.Equal(got, []string{want}) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if pids := w.holders(); len(pids) != 1 {
		t.Errorf("holders: %v", pids)
	}
	for i, fqdn := range names {
		w.must("cleanup", fqdn, keyAuth+strconv.Itoa(i))
		if got := w.took(); !slices.Equal(got, []string{"DELETE /zones/zone1/dns_records/rec1"}) {
			t.Errorf("%q", got)
		}
	}
	w.gone()
}

// A holder that is told to end removes what it has made; so does one whose time
// is over.
func TestHolderEnds(t *testing.T) {
	w := newWorld(t)
	w.must("present", "_acme-challenge.mail.example.net.", keyAuth)
	w.took()
	for _, pid := range w.holders() {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	w.gone()
	if got := w.took(); !slices.Equal(got, []string{"DELETE /zones/zone1/dns_records/rec1"}) {
		t.Errorf("%q", got)
	}
	out, err := w.postcertDNS([]string{keyAuthorization + "=" + keyAuth}, "-hold", "100ms", "cloudflare", "present", "_acme-challenge.mail.example.net.", value(keyAuth))
	if err != nil {
		t.Fatal(out)
	}
	w.gone()
	if got := w.took(); len(got) != 2 || !strings.HasPrefix(got[1], "DELETE ") {
		t.Errorf("%q", got)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	good := []string{keyAuthorization + "=" + keyAuth}
	const fqdn = "_acme-challenge.mail.example.net."
	tests := []struct {
		name   string
		env    []string
		args   []string
		mode   os.FileMode
		status int
		want   string
	}{
		{"no key authorization", nil, []string{"cloudflare", "present", fqdn, value(keyAuth)}, 0o600, 1, keyAuthorization + " is not set"},
		{"another value", good, []string{"cloudflare", "present", fqdn, "x"}, 0o600, 1, "does not belong to VALUE"},
		{"unknown provider", good, []string{"cloudfare", "present", fqdn, value(keyAuth)}, 0o600, 1, "no provider"},
		{"unknown operation", good, []string{"cloudflare", "presents", fqdn, value(keyAuth)}, 0o600, 2, "neither present nor cleanup"},
		{"relative name", good, []string{"cloudflare", "present", "example.net", value(keyAuth)}, 0o600, 2, "final dot"},
		{"too few arguments", good, []string{"cloudflare", "present"}, 0o600, 2, "four arguments"},
		{"credentials that others can read", good, []string{"cloudflare", "present", fqdn, value(keyAuth)}, 0o640, 1, "mode 0640"},
		{"missing variables", good, []string{"ovh", "present", fqdn, value(keyAuth)}, 0o600, 1, "ovh"},
		{"clean-up of what was never made", good, []string{"cloudflare", "cleanup", fqdn, value(keyAuth)}, 0o600, 1, "unknown record ID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Chmod(w.file, tt.mode); err != nil {
				t.Fatal(err)
			}
			out, err := w.postcertDNS(tt.env, tt.args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tt.status || !strings.Contains(out, tt.want) {
				t.Errorf("%v: %s; want %d, %q", err, out, tt.status, tt.want)
			}
			if strings.Contains(out, "s3cr3t") {
				t.Error("the secret was printed")
			}
		})
	}
	w.gone()
}

func TestVariable(t *testing.T) {
	for _, tt := range []struct{ line, name, value, err string }{
		{"A_B=c", "A_B", "c", ""},
		{" export A = 'b c' ", "A", "b c", ""},
		{`A="b"`, "A", "b", ""},
		{"# x", "", "", ""},
		{"", "", "", ""},
		{"A=", "A", "", ""},
		{"A='b", "", "", "quotes"},
		{"a=b", "", "", "NAME=VALUE"},
		{"A", "", "", "NAME=VALUE"},
		{"A=b # c", "", "", "quotes"},
	} {
		name, value, err := variable(tt.line)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %v", tt.line, err)
			}
			continue
		}
		if err != nil || name != tt.name || value != tt.value {
			t.Errorf("%q: %q, %q, %v", tt.line, name, value, err)
		}
	}
}

// The list of providers is lego's, and postcert's list of what is here is ours.
func TestCodes(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/go-acme/lego/v4").Output()
	if err != nil {
		t.Fatal(err)
	}
	legos := literals(t, filepath.Join(strings.TrimSpace(string(out)), "providers/dns/zz_gen_dns_providers.go"), func(n ast.Node) []ast.Expr {
		if c, ok := n.(*ast.CaseClause); ok {
			return c.List
		}
		return nil
	})
	if !slices.Equal(codes, legos) {
		t.Errorf("lego has %d providers, the list %d: %v, %v", len(legos), len(codes), without(legos, codes), without(codes, legos))
	}
	postcerts := literals(t, "../../acme/internal/legoclient/dns/codes.go", func(n ast.Node) []ast.Expr {
		if c, ok := n.(*ast.CompositeLit); ok {
			return c.Elts
		}
		return nil
	})
	if !slices.Equal(codes, postcerts) {
		t.Errorf("postcert's list differs: %v, %v", without(postcerts, codes), without(codes, postcerts))
	}
}

// literals are the strings at the places in a Go file that pick chooses, sorted.
func literals(t *testing.T, path string, pick func(ast.Node) []ast.Expr) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		for _, e := range pick(n) {
			if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, s)
			}
		}
		return true
	})
	slices.Sort(found)
	return found
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}
