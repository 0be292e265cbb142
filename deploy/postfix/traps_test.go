package postfix

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// trap is a way in which Postfix surprises a deploy tool, with the tests that
// show it handled ("directory.TestName" or "directory.TestName/subtest", from
// the top of the module), or the reason why there is nothing to test.
type trap struct {
	number int
	what   string
	tests  []string
	reason string
}

var traps = []trap{
	{1, "chain_files set: cert_file and key_file are ignored", []string{"deploy/postfix/cf.TestCertificateEdits/chain beside legacy"}, ""},
	{2, "a missing chain file: STARTTLS still answers 220", []string{"deploy/postfix/rehearsal.TestRefuses/a missing chain file"}, ""},
	{3, "key not first, or two keys of one algorithm", []string{"deploy/postfix/rehearsal.TestRefuses/a chain file with the key last", "deploy/postfix/cf.TestCertificateEdits/chain, our type twice"}, ""},
	{4, "a stale certificate of the same algorithm in another slot wins", []string{"deploy/postfix/cf.TestCertificateEdits/stale slot of our type is cleared"}, ""},
	{5, "certificate and key swapped one by one", []string{"deploy/postfix/cf.TestCertificateEdits/legacy pair", "deploy/journal.TestEveryCrashLeadsToOldOrNew"}, ""},
	{6, "SNI tables hold copies of the keys", []string{"deploy/postfix/cf.TestCertificateEdits/SNI table with our name"}, ""},
	{7, "master.cf overrides beat main.cf, also by indirection and on tlsproxy", []string{"deploy/postfix/cf.TestCertificateEdits/override by indirection", "deploy/postfix/cf.TestCertificateEdits/tlsproxy override"}, ""},
	{8, "an edit that does nothing and says it did", []string{"deploy/postfix.TestCandidateIsWhatComes", "deploy/postfix/cf.TestApplyRefuses"}, ""},
	{9, "no final newline: postconf -e glues", []string{"deploy/postfix/cf.TestApplyCorpus/no final newline"}, ""},
	{10, "postconf -e resets the mode and breaks links", []string{"deploy/postfix.TestReplaceKeepsAttributes", "deploy/postfix.TestReplaceFollowsLinks"}, ""},
	{11, "comments in values, continuation lines, duplicates", []string{"deploy/postfix/cf.TestApplyCorpus/text that looks like a comment", "deploy/postfix/cf.TestApplyCorpus/duplicate, last wins"}, ""},
	{12, "postfix check proves nothing about TLS", []string{"deploy/postfix.TestCheckOfBadPair", "deploy/postfix/rehearsal.TestRefuses/the key of another certificate"}, ""},
	{13, "a syntax error at SIGHUP ends master", []string{"deploy/postfix.TestBroken", "deploy/postfix.TestReloadOfBroken"}, ""},
	{14, "reload is asynchronous", []string{"deploy/postfix.TestReloadIsComplete"}, ""},
	{15, "a hot main.cf makes everything wait", []string{"deploy/postfix.TestSnapshotSpeed"}, ""},
	{16, "connections after the reload may see the old certificate", []string{"deploy/postfix.TestReloadIsComplete", "verify/probe.TestOpenHoldsSessions"}, ""},
	{17, "a fatal service is throttled for 60 s, and reload does not help", []string{"deploy/postfix/rehearsal.TestRefuses/an invalid security level"}, ""},
	{18, "a listener that cannot be bound ends master", []string{"deploy/postfix.TestReloadEndsMaster"}, ""},
	{19, "inet_interfaces and inet_protocols need stop and start", nil, "no edit of ours names them: cf.CertificateEdits knows the TLS parameters alone"},
	{20, "Debian's postfix.service is a dummy", []string{"deploy/postfix.TestRestartByUnit", "deploy/postfix.TestUnitOf"}, ""},
	{21, "plain postfix reload acts on all instances", []string{"deploy/postfix.TestOnlyThisInstance", "deploy/postfix.TestFind"}, ""},
	{22, "a local probe never sees tlsproxy", []string{"deploy/postfix/rehearsal.TestPostscreen"}, ""},
	{23, "PROXY protocol, wrapper mode on odd ports", []string{"deploy/postfix/cf.TestListeners", "verify/probe.TestNetworks/PROXY header"}, ""},
	{24, "banner etiquette", []string{"verify/probe.TestRealPostfix"}, ""},
	{25, "a listener that was broken before must not cause a rollback", nil, "is the engine's judgement: deploy compares with the baseline it took"},
	{26, "keys: root, 0600, regular files", []string{"verify/keypair.TestKeyMode"}, ""},
	{27, ">=TLSv1.2 on Postfix 3.5 disables TLS", []string{"deploy/postfix/rehearsal.TestRefuses/an invalid protocol list"}, ""},
	{28, "DANE: a new key without its TLSA record defers mail", nil, "nothing below the commands looks up DNS: it is for those that make keys"},
	{29, "chains of 3 or 4, empty common names", []string{"verify/probe.TestCompare", "verify.TestCovers"}, ""},
	{30, "resumption and two certificates hide the truth", []string{"verify/probe.TestKeyTypeAgainstOpenSSL", "deploy/postfix/rehearsal.TestServiceWithTwoCertificates"}, ""},
	{31, "somebody else edits main.cf meanwhile", []string{"deploy/postfix.TestReplaceBesidePostconf", "deploy/postfix.TestReplaceRefuses/a file changed meanwhile", "deploy/journal.TestUndoConflicts"}, ""},
	{32, "logs differ and prove nothing", []string{"deploy/postfix.TestParseLog", "deploy/postfix.TestLogSinceShared", "deploy/postfix.TestLogSinceJournal"}, ""},
	{33, "Received can lack TLS information", nil, "nothing here reads Received headers; a mail proof has to allow for it"},
}

// Every trap is dealt with: by tests that exist, or by a reason.
func TestTraps(t *testing.T) {
	found := testNames(t, filepath.Join("..", ".."))
	for n, tr := range traps {
		if tr.number != n+1 {
			t.Errorf("trap %d stands at place %d", tr.number, n+1)
		}
		if (len(tr.tests) == 0) == (tr.reason == "") {
			t.Errorf("trap %d needs tests or a reason, not both", tr.number)
		}
		for _, name := range tr.tests {
			if !found[name] {
				t.Errorf("trap %d: there is no test %s", tr.number, name)
			}
		}
	}
	if len(traps) != 33 {
		t.Errorf("%d traps, want 33", len(traps))
	}
}

// testNames are the tests below root as trap names them. Every text constant
// in a test function counts as a subtest's name.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		addTests(found, filepath.ToSlash(dir), file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func addTests(found map[string]bool, dir string, file *ast.File) {
	tables := texts(file) // a table can stand outside its test
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
			continue
		}
		name := dir + "." + f.Name.Name
		found[name] = true
		for _, text := range tables {
			found[name+"/"+text] = true
		}
	}
}

func texts(file *ast.File) []string {
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				out = append(out, text)
			}
		}
		return true
	})
	return out
}
