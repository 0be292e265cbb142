package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// laid is a pair as it lies on disk, read back: what a feature is looked for
// in.
type laid struct {
	main, master     string
	mainAt, masterAt inode // what stands in the configuration directory
	real             inode // the file behind main.cf
}

// features is the written list of what administrators do in the two files. The
// corpus has each at least twice, told from the bytes and inodes on disk.
var features = []struct {
	name string
	has  func(l laid) bool
}{
	{"proxy: maps", inMain(`(?m)^[^#\n]*proxy:[a-z]+:`)},
	{"$name", inMain(`(?m)^[^#\n]*=.*\$[a-z_]`)},
	{"${name}", inMain(`(?m)^[^#\n]*\$\{[a-z_]+\}`)},
	{"$(name)", inMain(`(?m)^[^#\n]*\$\([a-z_]+\)`)},
	{"${name?value}", inMain(`(?m)^[^#\n]*\$\{[a-z_]+\?`)},
	{"${name:value}", inMain(`(?m)^[^#\n]*\$\{[a-z_]+:`)},
	{"${{a} == {b} ? {c} : {d}}", inMain(`\$\{\{.*==.*\?.*\{.*:.*\{`)},
	{"a certificate's path by macro", inMain(`(?m)^smtpd_tls_cert_file[ \t]*=.*\$`)},
	{"a parameter of the administrator's own", inMain(`(?m)^(my_cert|sub_cert|tlsdir|base|stage|note|greylisting|policyd-spf_time_limit) =`)},
	{"a key that follows the certificate by reference", inMain(`(?m)^smtpd_tls_key_file = \$smtpd_tls_cert_file`)},
	{"a client certificate that follows by reference", inMain(`(?m)^smtp_tls_(cert_file|CAfile) = \$smtpd_tls_`)},
	{"a pair in the legacy parameters", inMain(`(?m)^smtpd_tls_key_file[ \t]*=`)},
	{"smtpd_tls_chain_files", inMain(`(?m)^smtpd_tls_chain_files = *\S`)},
	{"smtpd_tls_eccert_file", inMain(`(?m)^smtpd_tls_eccert_file = *\S`)},
	{"several certificates", inMain(`(?ms)(^smtpd_tls_chain_files =[^=]*\.pem[^=]*\.pem)|(^smtpd_tls_cert_file.*^smtpd_tls_eccert_file = */)`)},
	{"no certificate", func(l laid) bool {
		return !regexp.MustCompile(`(?m)^smtpd_tls_(cert|chain|eccert)_files?`).MatchString(l.main)
	}},
	{"tables by server name", inMain(`(?m)^tls_server_sni_maps = \S`)},
	{"a parameter set twice", func(l laid) bool { return len(repeated(l.main)) > 0 }},
	{"a certificate set twice", func(l laid) bool { return slices.Contains(repeated(l.main), "smtpd_tls_cert_file") }},
	{"an entry of master.cf twice", inMaster(`(?ms)^submission inet.*^submission inet`)},
	{"continuation lines", inMain(`(?m)^[a-z][^\n]*\n[ \t]+[^ \t#\r\n]`)},
	{"a certificate's path on a continuation line", inMain(`(?m)^smtpd_tls_(cert|chain)_files?[ \t]*=[ \t]*\r?\n`)},
	{"a comment within a value", func(l laid) bool { return goesOnBehind(l.main, "#") }},
	{"a blank line within a value", func(l laid) bool { return goesOnBehind(l.main, "") }},
	{"a comment within an entry of master.cf", func(l laid) bool { return goesOnBehind(l.master, "#") }},
	{"an indented comment", inMain(`(?m)^[ \t]+#`)},
	{"a commented-out certificate", inMain(`(?m)^# ?(old: )?smtpd_tls_(cert|key)_file`)},
	{"no newline at the end of main.cf", func(l laid) bool { return !strings.HasSuffix(l.main, "\n") }},
	{"no newline at the end of master.cf", func(l laid) bool { return !strings.HasSuffix(l.master, "\n") }},
	{"a comment without a newline at the end", func(l laid) bool {
		return regexp.MustCompile(`(?:^|\n)#[^\n]*$`).MatchString(l.main) || regexp.MustCompile(`\n#[^\n]*$`).MatchString(l.master)
	}},
	{"CR LF in main.cf", func(l laid) bool { return strings.Contains(l.main, "\r\n") }},
	{"CR LF in master.cf", func(l laid) bool { return strings.Contains(l.master, "\r\n") }},
	{"tabs around the equals sign", inMain(`(?m)^smtpd_tls_cert_file\t+=`)},
	{"blanks at the end of a line", inMain(`(?m)^smtpd_tls_cert_file[^\n]*[ \t]\r?$`)},
	{"no blank around the equals sign", inMain(`(?m)^smtpd_tls_cert_file=/`)},
	{"columns", inMain(`(?m)^smtpd_tls_cert_file {3,}=`)},
	{"the key before the certificate", inMain(`(?ms)^smtpd_tls_key_file.*^smtpd_tls_cert_file`)},
	{"other things between certificate and key", inMain(`(?ms)^smtpd_tls_cert_file.*^my(hostname|destination).*^smtpd_tls_key_file`)},
	{"a line of more than 1,000 bytes", func(l laid) bool { return longLine(l.main) || longLine(l.master) }},
	{"comments that are not ASCII", func(l laid) bool {
		return slices.ContainsFunc([]byte(l.main), func(b byte) bool { return b >= 0x80 })
	}},
	{"a block of comments longer than the settings", func(l laid) bool {
		return strings.Count(l.main, "\n#") > strings.Count(l.main, " = ") && len(l.main) > 2000
	}},
	{"a number sign within a value", inMain(`(?m)^[a-z][^\n]*= *\S+.*[^ ]#`)},
	{"an entry with an address and a port", inMaster(`(?m)^[0-9.]+:[a-z0-9]+ `)},
	{"an entry with an IPv6 address", inMaster(`(?m)^\[[0-9a-f:]+\]:`)},
	{"an entry with a port's number", inMaster(`(?m)^[0-9]+ +inet`)},
	{"postscreen", inMaster(`(?m)^smtp +inet .*postscreen`)},
	{"a service of type pass", inMaster(`(?m)^smtpd +pass`)},
	{"a service of type fifo", inMaster(`(?m)^\S+ fifo `)},
	{"an smtpd on a UNIX-domain socket", inMaster(`(?m)^\S+ unix .* smtpd`)},
	{"a commented-out entry whose options are not", inMaster(`(?m)^#submission[^\n]*\n  -o`)},
	{"commented-out options within an entry", inMaster(`(?m)^submission[^\n]*\n(?:  -o[^\n]*\n)*# *-o`)},
	{"options on the entry's own line", inMaster(`(?m)^\S+ +inet.* smtpd .*-o `)},
	{"options in braces", inMaster(`-o \{`)},
	{"options glued to -o", inMaster(`-o[a-z]`)},
	{"-v", inMaster(`(?m)(^|[ \t])-v`)},
	{"an option with an empty value", inMaster(`(?m)-o [a-z_]+=\r?$`)},
	{"TLS in master.cf alone", func(l laid) bool {
		return !strings.Contains(l.main, "smtpd_tls_") && strings.Contains(l.master, "smtpd_tls_")
	}},
	{"a service with a certificate of its own", inMaster(`(?m)^[^#\n]*smtpd_tls_(cert|chain)_files? ?=`)},
	{"a service without TLS", inMaster(`(?m)^[^#\n]*smtpd_tls_security_level=none`)},
	{"implicit TLS", inMaster(`(?m)^[^#\n]*smtpd_tls_wrappermode ?= ?yes`)},
	{"the PROXY protocol", inMaster(`smtpd_upstream_proxy_protocol`)},
	{"milters", inMain(`(?m)^smtpd_milters ?=`)},
	{"a content filter", inMain(`(?m)^content_filter =`)},
	{"a policy service", inMain(`check_policy_service`)},
	{"SASL by Dovecot", inMain(`(?m)^smtpd_sasl_type ?= ?dovecot`)},
	{"several instances", inMain(`(?m)^multi_instance_name`)},
	{"compatibility_level 0", func(l laid) bool {
		m := regexp.MustCompile(`(?m)^compatibility_level ?= ?(\S+)`).FindStringSubmatch(l.main)
		return m == nil || m[1] == "0"
	}},
	{"maillog_file", inMain(`(?m)^maillog_file =`)},
	{"another mode than 0644", func(l laid) bool { return l.real.mode.Perm() != 0o644 }},
	{"another owner or group than root", func(l laid) bool { return l.real.uid != 0 || l.real.gid != 0 }},
	{"extended attributes", func(l laid) bool { return strings.Contains(l.real.xattrs, "user.") }},
	{"an access control list", func(l laid) bool { return strings.Contains(l.real.xattrs, "posix_acl_access") }},
	{"main.cf is an absolute link", func(l laid) bool { return filepath.IsAbs(l.mainAt.target) }},
	{"main.cf is a relative link", func(l laid) bool { return l.mainAt.target != "" && !filepath.IsAbs(l.mainAt.target) }},
	{"main.cf has a second name", func(l laid) bool { return l.real.links > 1 }},
	{"read-only, and last changed long ago", func(l laid) bool {
		return l.real.mode.Perm()&0o222 == 0 && time.Since(l.real.mtime) > 20*365*24*time.Hour
	}},
}

func inMain(pattern string) func(laid) bool {
	re := regexp.MustCompile(pattern)
	return func(l laid) bool { return re.MatchString(l.main) }
}

func inMaster(pattern string) func(laid) bool {
	re := regexp.MustCompile(pattern)
	return func(l laid) bool { return re.MatchString(l.master) }
}

// repeated are the names that main.cf sets more than once.
func repeated(main string) []string {
	count := map[string]int{}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z_0-9]+)[ \t]*=`).FindAllStringSubmatch(main, -1) {
		if count[m[1]]++; count[m[1]] == 2 {
			out = append(out, m[1])
		}
	}
	return out
}

// goesOnBehind tells whether a logical line goes on behind a comment (begin is
// "#") or a blank line (begin is "").
func goesOnBehind(text, begin string) bool {
	open, seen := false, false
	for line := range strings.Lines(text) {
		body := strings.TrimSpace(line)
		switch {
		case body == "" || body[0] == '#':
			seen = seen || open && (begin == "" && body == "" || begin != "" && body != "")
		case line[0] == ' ' || line[0] == '\t':
			if seen {
				return true
			}
		default:
			open, seen = true, false
		}
	}
	return false
}

func longLine(text string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return len(l) > 1000 })
}

// Each feature of the list occurs at least twice in the corpus.
func TestCorpusFeatures(t *testing.T) {
	all := corpus(t)
	if len(all) < 200 || len(features) < 25 {
		t.Errorf("%d pairs and %d features, want 200 and 25", len(all), len(features))
	}
	count := make([]int, len(features))
	refused := 0
	distinct := map[string]bool{}
	for _, p := range all {
		l := p.laidIn(t)
		if l.main != string(p.main) || l.master != string(p.master) {
			t.Errorf("%s: the files on disk are others", p.name)
		}
		for i, f := range features {
			if f.has(l) {
				count[i]++
			}
		}
		if p.refused != "" {
			refused++
		}
		distinct[string(p.main)] = true
	}
	for i, f := range features {
		if count[i] < 2 {
			t.Errorf("%s: %d times, want 2", f.name, count[i])
		}
	}
	if refused*10 > len(all) {
		t.Errorf("%d of %d pairs are refused, want at most a tenth", refused, len(all))
	}
	t.Logf("R23: %d pairs (%d different main.cf), %d features, each at least %d times; %d pairs to be refused", len(all), len(distinct), len(features), slices.Min(count), refused)
}

// corpusSample is the corpus, with POSTCERT_LONG; without, the pairs that bring a
// feature which fewer than two before them have, and those that are refused.
func corpusSample(t *testing.T) []corpusPair {
	all := corpus(t)
	if long {
		return all
	}
	count := make([]int, len(features))
	return slices.DeleteFunc(all, func(p corpusPair) bool {
		brings := p.refused != ""
		l := p.laidIn(t)
		for i, f := range features {
			if f.has(l) {
				brings = brings || count[i] < 2
				count[i]++
			}
		}
		return !brings
	})
}

// laidIn lays the pair below a new directory and reads it back.
func (p *corpusPair) laidIn(t *testing.T) laid {
	t.Helper()
	root, err := os.MkdirTemp("/run", "corpus")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	main, master, err := p.lay(root)
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return readLaid(t, filepath.Join(root, p.dir), main, master)
}

func readLaid(t testing.TB, dir, main, master string) laid {
	t.Helper()
	var l laid
	read := func(path string, to *string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		*to = string(bytes.Clone(data))
	}
	read(main, &l.main)
	read(master, &l.master)
	for path, to := range map[string]*inode{filepath.Join(dir, "main.cf"): &l.mainAt, filepath.Join(dir, "master.cf"): &l.masterAt, main: &l.real} {
		n, err := inodeOf(path)
		if err != nil {
			t.Fatal(err)
		}
		*to = n
	}
	return l
}
