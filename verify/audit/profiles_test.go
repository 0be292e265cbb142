package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/cf"
)

// TestProfileRules: profiles name rules that exist, each once.
func TestProfileRules(t *testing.T) {
	all := map[string]bool{}
	for _, r := range Rules() {
		all[r.ID] = true
	}
	used := map[string]bool{}
	for _, p := range Profiles {
		for i, id := range p.rules {
			used[id] = true
			if !all[id] || slices.Index(p.rules, id) != i {
				t.Errorf("%s: %s is no rule, or there twice", p.Name, id)
			}
		}
		if len(p.Rules()) != len(p.rules) {
			t.Errorf("%s: %d rules, want %d", p.Name, len(p.Rules()), len(p.rules))
		}
	}
	for id := range all {
		if !used[id] {
			t.Errorf("%s is in no profile", id)
		}
	}
	if _, ok := Find("nonsense"); ok {
		t.Error("found a profile that does not exist")
	}
}

// runbookMain and runbookMaster are the lines of the runbook, by hand.
var runbookMain = []string{
	"smtp_tls_security_level = may", "smtp_tls_note_starttls_offer = yes",
	"smtpd_tls_security_level = may", "smtpd_tls_auth_only = yes", "smtpd_tls_loglevel = 1", "smtpd_tls_received_header = yes",
	"smtpd_tls_mandatory_ciphers = high", "smtpd_tls_exclude_ciphers = aNULL, MD5, DES, 3DES, RC4, EXPORT, eNULL",
	"tls_preempt_cipherlist = yes",
}

var runbookServices = []string{
	"smtpd_tls_security_level=encrypt", "smtpd_sasl_auth_enable=yes", "smtpd_tls_auth_only=yes",
	"smtpd_relay_restrictions=permit_sasl_authenticated,reject",
}

// TestRunbookExactly: the edits of the runbook make the runbook's lines, and no
// other line; what the version ignores is left out, and said.
func TestRunbookExactly(t *testing.T) {
	runbook, _ := Find("runbook")
	for version, grade := range map[string]bool{"3.5.25": true, "3.6.0": false, "3.7.11": false, "3.9.1": false, "3.11.6": false} {
		t.Run(version, func(t *testing.T) {
			s := snapshot(t, version, "# nothing\n", "smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd\nsubmissions inet n - n - - smtpd\n"+rest)
			edits, conflicts := Edits(Run(s, Facts{}, runbook.Rules()))
			if len(conflicts) > 0 {
				t.Fatalf("conflicts: %s", said(conflicts))
			}
			main, master, err := cf.Apply(s.Main.Data, s.Master.Data, edits)
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{"# nothing"}, runbookMain...)
			if grade {
				want = append(want, "smtpd_tls_eecdh_grade = strong")
			}
			if got := strings.Split(strings.TrimSpace(string(main)), "\n"); !sameLines(got, want) {
				t.Errorf("main.cf is\n%s", main)
			}
			entries := strings.Split(string(master), "\n")
			for _, name := range []string{"submission", "submissions"} {
				want := slices.Clone(runbookServices)
				if name == "submissions" {
					want = append(want, "smtpd_tls_wrappermode=yes")
				}
				var got []string
				for _, line := range entries[1+slices.IndexFunc(entries, func(l string) bool { return strings.HasPrefix(l, name+" ") }):] {
					option, ok := strings.CutPrefix(strings.TrimSpace(line), "-o ")
					if !ok {
						break
					}
					got = append(got, option)
				}
				if !sameLines(got, want) {
					t.Errorf("%s has %q, want %q", name, got, want)
				}
			}
			if left := runbook.LeftOut(version); (len(left) == 0) != grade {
				t.Errorf("left out: %v", left)
			}
			after := snapshot(t, version, string(main), string(master))
			for _, f := range Run(after, Facts{}, runbook.Rules()) {
				if strings.HasPrefix(f.Rule.ID, "runbook_") {
					t.Errorf("afterwards: %s", f.Message)
				}
			}
		})
	}
}

func sameLines(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// TestDeprecatedLevelKeepsLevels: whatever is set where, the level of main.cf and
// of each service is the same after the old parameters are gone.
func TestDeprecatedLevelKeepsLevels(t *testing.T) {
	level := func(s cf.Snapshot, id string) string {
		l, _ := newView(s, Facts{}).serverLevel(id)
		return l
	}
	names := []string{"smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_security_level"}
	mix := func(yesNo, levels []string) (out [][]string) {
		for _, x := range yesNo {
			for _, y := range yesNo {
				for _, z := range levels {
					out = append(out, []string{x, y, z})
				}
			}
		}
		return out
	}
	mains := mix([]string{"", "yes"}, []string{"", "EMPTY", "may"}) // no is the default
	overrides := mix([]string{"", "yes", "no"}, []string{"", "EMPTY", "may", "none"})
	n := 0
	for _, inMain := range mains {
		for _, by := range overrides {
			main, master := "", "smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd\n"
			for i, name := range names {
				if v := inMain[i]; v != "" {
					main += name + " = " + strings.TrimPrefix(v, "EMPTY") + "\n"
				}
				if v := by[i]; v != "" {
					master += "  -o " + name + "=" + strings.TrimPrefix(v, "EMPTY") + "\n"
				}
			}
			s := snapshot(t, "3.7.11", main, master+rest)
			edits, conflicts := Edits(Run(s, Facts{}, []Rule{rule(t, "deprecated_level")}))
			a, b, err := cf.Apply(s.Main.Data, s.Master.Data, edits)
			if err != nil || len(conflicts) > 0 {
				t.Fatal(err, conflicts)
			}
			after := snapshot(t, "3.7.11", string(a), string(b))
			for _, id := range []string{"", "smtp/inet", "submission/inet"} {
				if level(s, id) != level(after, id) {
					t.Fatalf("%q: level %s became %s\n%s%s\n%s%s", id, level(s, id), level(after, id), main, master, a, b)
				}
			}
			if strings.Contains(string(a)+string(b), "use_tls") || strings.Contains(string(a)+string(b), "enforce_tls") {
				t.Fatalf("an old parameter is left:\n%s%s", a, b)
			}
			n++
		}
	}
	t.Logf("%d configurations", n)
}

// TestOrder: the worst comes first, then it goes by file and line, whatever the
// order of the rules.
func TestOrder(t *testing.T) {
	s := snapshot(t, "3.7.11", "smtpd_tls_loglevel = 4\nsmtpd_tls_protocols = !SSLv3 #\nsmtpd_tls_chain_files = /a\nsmtpd_tls_ciphers = strong\nsmtpd_tls_security_level = may\n", usual+rest)
	rules := Rules()
	first := Run(s, Facts{}, rules)
	var lines []int
	for i, f := range first {
		if i > 0 && !first[i-1].Rule.Severity.AtLeast(f.Rule.Severity) {
			t.Errorf("%s comes after %s", f.Rule.ID, first[i-1].Rule.ID)
		}
		if f.Rule.Severity == Error {
			lines = append(lines, f.At.Line)
		}
	}
	if !slices.Equal(lines, []int{2, 4}) {
		t.Errorf("errors in lines %v", lines)
	}
	slices.Reverse(rules)
	if again := Run(s, Facts{}, rules); said(first) != said(again) {
		t.Errorf("by other rules first:\n%s\n%s", said(first), said(again))
	}
}

// TestEditsConflict: what two findings want to be different is said, not done.
func TestEditsConflict(t *testing.T) {
	one, two := "1", "2"
	f := func(v *string) *Finding {
		return (&Finding{}).with(cf.Edit{Parameter: "a", New: v})
	}
	edits, conflicts := Edits([]*Finding{f(&one), f(&one), f(&two), f(nil)})
	if len(edits) != 1 || *edits[0].New != "1" || len(conflicts) != 2 {
		t.Errorf("%d edits, %d conflicts", len(edits), len(conflicts))
	}
}

func TestVersions(t *testing.T) {
	for _, x := range []struct {
		a, b string
		want bool
	}{
		{"3.5.25", "3.6", true}, {"3.6.0", "3.6", false}, {"3.10.3", "3.9", false}, {"3.9.14", "3.10", true},
		{"3.12-20260821", "3.12", false}, {"2.11.1", "3.0", true}, {"4.0", "3.11", false}, {"nonsense", "2.3", true},
	} {
		if got := before(x.a, x.b); got != x.want {
			t.Errorf("before(%s, %s) is %v", x.a, x.b, got)
		}
	}
	r := Rule{Since: "3.6", Until: "3.9"}
	for version, want := range map[string]bool{"3.5.9": false, "3.6.1": true, "3.8.20": true, "3.9.0": false} {
		if r.Holds(version) != want {
			t.Errorf("holds for %s: %v", version, !want)
		}
	}
}

func TestProtocols(t *testing.T) {
	for _, x := range []struct{ value, version, bad, allowed string }{
		{"!SSLv2, !SSLv3", "3.5.25", "", "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3"},
		{">=TLSv1", "3.7.11", "", "TLSv1 TLSv1.1 TLSv1.2 TLSv1.3"},
		{">=TLSv1.2 <=TLSv1.2", "3.6.0", "", "TLSv1.2"},
		{">=0303", "3.6.0", "", "TLSv1.2 TLSv1.3"},
		{">=0x0303", "3.6.0", "", "TLSv1.2 TLSv1.3"},
		{">= TLSv1.2", "3.7.11", "", "TLSv1.2"}, // ">=" alone is no bound
		{"tlsv1.2:TLSV1.3", "3.7.11", "", "TLSv1.2 TLSv1.3"},
		{"!SSLv3 #", "3.7.11", "#", ""},
		{"! SSLv3", "3.7.11", "!", ""},
		{">=TLSv1.2", "3.5.25", ">=TLSv1.2", ""},
		{"SSLv23", "3.7.11", "SSLv23", ""},
		{">=SSLv2", "3.7.11", ">=SSLv2", ""},
	} {
		p := parseProtocols(x.value, x.version)
		if p.bad != x.bad || p.bad == "" && strings.Join(p.allowed(), " ") != x.allowed {
			t.Errorf("%q on %s: bad %q, allowed %v", x.value, x.version, p.bad, p.allowed())
		}
	}
}

func TestReadTable(t *testing.T) {
	got := fmt.Sprint(ReadTable([]byte("# c\nexample.com\tencrypt\n\n  ciphers=high\n# d\n.example.net   secure  match=x\nlone\n")))
	if want := "[{example.com encrypt ciphers=high 2} {.example.net secure  match=x 6} {lone  7}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPolicyFault(t *testing.T) {
	for _, x := range []struct{ policy, version, fault string }{
		{"encrypt", "3.7.11", ""},
		{"may protocols=!SSLv2:!SSLv3 ciphers=medium", "3.7.11", ""},
		{"secure match=a:b connection_reuse=yes servername=c", "3.4.0", ""},
		{"none garbage", "3.7.11", ""}, // only a warning
		{"dane-only enable_rpk=yes", "3.9.0", ""},
		{"secure policy_type=sts policy_ttl=9", "3.10.0", ""},
		{"", "3.7.11", "empty"},
		{"must", "3.7.11", "no security level"},
		{"encrypt nonsense", "3.7.11", "name=value"},
		{"encrypt cyphers=high", "3.7.11", "no attribute"},
		{"encrypt ciphers=strong", "3.7.11", "no cipher grade"},
		{"encrypt ciphers=", "3.7.11", "no value"},
		{"encrypt match=a", "3.7.11", "not for level encrypt"},
		{"fingerprint tafile=/x", "3.7.11", "not for level fingerprint"},
		{"encrypt protocols=>=TLSv1.2", "3.5.25", "no protocol"},
		{"encrypt enable_rpk=yes", "3.8.20", "of Postfix 3.9"},
	} {
		got := policyFault(x.policy, x.version)
		if (got == "") != (x.fault == "") || !strings.Contains(got, x.fault) {
			t.Errorf("%q on %s: %q, want %q", x.policy, x.version, got, x.fault)
		}
	}
}

// FuzzRun: whatever stands in the two files, no rule panics, the answer is the
// same twice, and edits can be carried out.
func FuzzRun(f *testing.F) {
	for _, r := range rows {
		main, own := strings.CutPrefix(r.main, "-")
		if !own {
			main = usualMain + r.main
		}
		f.Add(main, strings.TrimPrefix(orWord(r.master, usual), "NOREST ")+rest)
	}
	f.Fuzz(func(t *testing.T, main, master string) {
		s, err := cf.Parse("/d", cf.File{Path: "/d/main.cf", Data: []byte(main)}, cf.File{Path: "/d/master.cf", Data: []byte(master)}, cf.Outputs{All: []byte("mail_version = 3.7.11\ninet_interfaces = all\ninet_protocols = all\n")})
		if err != nil {
			return // such a configuration is refused before it is audited
		}
		first, second := Run(s, Facts{}, Rules()), Run(s, Facts{}, Rules())
		if said(first) != said(second) {
			t.Fatalf("twice it is another answer:\n%s\n%s", said(first), said(second))
		}
		NeedsOf(s)
	})
}
