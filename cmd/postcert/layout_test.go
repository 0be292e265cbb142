package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "postcert"

// top is everything that the top level holds beside dot files, and what builds
// leave there (.gitignore).
var top = []string{"cmd", "acme", "deploy", "verify", "contrib", "testdata", "go.mod", "go.sum", "README.md", "LICENSE", "postcert", "dist"}

// leaves may be imported by every package. They import nothing of ours but the
// form in which problems are told.
var leaves = []string{"verify/problem", "verify/keypair", "deploy/postfix/cf", "deploy/program", "deploy/atomicfile", "deploy/lock"}

// testHelp is imported by tests and by other test help only. contrib/bench is a
// program that stages a host as tests do, contrib/testca one that is a CA.
var testHelp = []string{"verify/certtest", "verify/probe/smtptest", "acme/acmetest", "acme/lineage/lineagetest", "deploy/postfix/postfixtest", "deploy/atomicfile/crashfs", "contrib/bench", "contrib/testca", "contrib/machines"}

// room is what one package may import of ours, beside the leaves and what is
// below its own internal folder.
type room struct {
	path    string
	imports []string
}

// rooms is the house: acme is where certificates come from, verify asks
// questions, deploy makes changes. acme imports nothing of deploy or verify,
// verify nothing of deploy or acme, leaves excepted. cmd/postcert wires them and
// may import all.
var rooms = []room{
	{"cmd/postcert", []string{"*"}},
	{"cmd/postcert/internal/config", []string{"acme", "deploy"}},
	{"cmd/postcert/internal/daemon", nil},
	{"cmd/postcert/internal/status", []string{"deploy/generation"}}, // its names on disk are the generations'
	{"cmd/postcert/internal/notify", []string{"cmd/postcert/internal/status"}},
	{"cmd/postcert/internal/metrics", []string{"cmd/postcert/internal/status"}},
	{"acme", nil},
	{"acme/internal/legoclient", nil},
	{"acme/internal/legoclient/dns", nil},
	{"acme/lineage", nil},
	{"acme/watch", []string{"acme/lineage"}}, // how a path is followed
	{"verify", nil},
	{"verify/probe", nil},
	{"verify/maillog", nil},
	{"verify/audit", []string{"verify/maillog"}},
	{"verify/delivery", []string{"verify/probe", "verify/maillog"}},
	{"deploy", []string{"verify", "verify/probe", "deploy/journal", "deploy/generation"}},
	{"deploy/journal", nil},
	{"deploy/generation", nil},
	{"deploy/postfix", []string{"verify/maillog"}}, // the form of a line of a log
	{"deploy/postfix/rehearsal", []string{"verify/probe"}},
	{"deploy/postfix/table", nil},
	{"contrib/fuzz", nil},
	{"contrib/impostor", nil},
	{"contrib/load", nil},
	{"contrib/mutants", nil},
	{"contrib/package", nil},
	{"contrib/systemd", nil},
	{"contrib/testsummary", nil},
}

// outside is each import from outside of ours that has an owner: only these
// packages may have it. Anything that is neither here nor in the standard library
// is refused, so that a new dependency is a decision.
var outside = []struct {
	prefix string
	owners []string
}{
	{"os/exec", []string{"deploy/program", "contrib/fuzz", "contrib/mutants"}},
	{"github.com/spf13/cobra", []string{"cmd/postcert"}},
	{"github.com/spf13/pflag", []string{"cmd/postcert"}},
	{"github.com/spf13/viper", []string{"cmd/postcert/internal/config"}},
	{"go.yaml.in/yaml/v3", []string{"cmd/postcert/internal/config"}},
	{"github.com/coreos/go-systemd/v22", []string{"cmd/postcert/internal/daemon"}},
	{"github.com/nicholas-fedor/shoutrrr", []string{"cmd/postcert/internal/notify"}},
	{"github.com/go-acme/lego/v4", []string{"acme/internal/legoclient", "acme/internal/legoclient/dns"}},
	{"github.com/go-jose/go-jose/v4", []string{"acme/internal/legoclient"}},
	{"github.com/miekg/dns", []string{"acme/internal/legoclient", "acme/internal/legoclient/dns"}},
	{"github.com/fsnotify/fsnotify", []string{"acme/watch"}},
}

// listed is what go list says of one package.
type listed struct {
	ImportPath string
	Imports    []string // of the package, without its tests
}

// TestLayoutImports compares what go list says with the tables above.
func TestLayoutImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 3 {
		t.Fatalf("go list names %d packages only", len(packages))
	}
	for _, wrong := range violations(packages) {
		t.Error(wrong)
	}
}

// violations are the imports that the tables do not allow, in words.
func violations(packages []listed) []string {
	var wrong []string
	for _, p := range packages {
		name := ours(p.ImportPath)
		isLeaf, isHelp := slices.Contains(leaves, name), slices.Contains(testHelp, name)
		i := slices.IndexFunc(rooms, func(r room) bool { return r.path == name })
		if i < 0 && !isLeaf && !isHelp {
			wrong = append(wrong, fmt.Sprintf("package %s is not in the table of the layout", name))
			continue
		}
		for _, path := range p.Imports {
			imported := ours(path)
			var allowed bool
			switch {
			case imported == "":
				allowed = isHelp || outsideAllowed(name, path)
			case isHelp:
				allowed = true
			case isLeaf:
				allowed = imported == "verify/problem"
			case slices.Contains(testHelp, imported):
				allowed = false
			default:
				allowed = slices.Contains(leaves, imported) || rooms[i].allows(imported)
			}
			if !allowed {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, which the layout does not allow", name, path))
			}
		}
	}
	return wrong
}

func (r room) allows(imported string) bool {
	return slices.Contains(r.imports, "*") || slices.Contains(r.imports, imported) ||
		strings.HasPrefix(imported, r.path+"/internal/")
}

func outsideAllowed(name, path string) bool {
	for _, o := range outside {
		if path == o.prefix || strings.HasPrefix(path, o.prefix+"/") {
			return slices.Contains(o.owners, name)
		}
	}
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") // the standard library; import "C" as well
}

// ours is the path of a package inside the module; "" for a foreign one.
func ours(path string) string {
	if rest, found := strings.CutPrefix(path, module+"/"); found {
		return rest
	}
	return ""
}

// TestLayoutViolations: the comparison sees what it is there for.
func TestLayoutViolations(t *testing.T) {
	tests := []struct {
		name, from, imports string
		want                bool
	}{
		{"standard library", "verify", "crypto/x509", true},
		{"a leaf", "acme", "postcert/deploy/lock", true},
		{"in the table", "deploy", "postcert/verify/probe", true},
		{"wiring", "cmd/postcert", "postcert/deploy/postfix/rehearsal", true},
		{"own internal", "acme", "postcert/acme/internal/legoclient", true},
		{"the library's owner", "cmd/postcert/internal/config", "github.com/spf13/viper", true},
		{"leaf tells problems", "verify/keypair", "postcert/verify/problem", true},
		{"help for tests uses all", "deploy/postfix/postfixtest", "os/exec", true},
		{"acme to verify", "acme", "postcert/verify", false},
		{"acme to deploy", "acme", "postcert/deploy/journal", false},
		{"verify to deploy", "verify/probe", "postcert/deploy/postfix", false},
		{"leaf to leaf", "deploy/lock", "postcert/deploy/atomicfile", false},
		{"deploy to its Postfix", "deploy", "postcert/deploy/postfix", false},
		{"another one's library", "cmd/postcert", "github.com/spf13/viper", false},
		{"below another one's library", "verify", "github.com/go-acme/lego/v4/certcrypto", false},
		{"a library that nobody decided on", "verify", "golang.org/x/exp/maps", false},
		{"starting programs", "verify/probe", "os/exec", false},
		{"help for tests", "cmd/postcert", "postcert/verify/certtest", false},
		{"an unknown package", "verify/util", "fmt", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := violations([]listed{{module + "/" + tt.from, []string{tt.imports}}})
			if (len(got) == 0) != tt.want {
				t.Errorf("%s imports %s: %q", tt.from, tt.imports, got)
			}
		})
	}
}

// TestLayoutFiles: nothing new at the top level, no file that has outgrown its
// one subject.
func TestLayoutFiles(t *testing.T) {
	dir := root(t)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !strings.HasSuffix(e.Name(), ".test") && !slices.Contains(top, e.Name()) {
			t.Errorf("%s does not belong to the top level", e.Name())
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != dir && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(data, []byte("\n")); n > 500 {
			t.Errorf("%s has %d lines, more than 500", path, n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}
