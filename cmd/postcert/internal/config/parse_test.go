package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"postcert/verify/problem"
)

const example = "../../../../contrib/postcert.yaml.example"

// good is a certificate that is right, for files whose subject is another.
const good = "certificates: [{name: m, domains: [m.example.com], challenge: {type: http-01}}]\n"

func messages(list problem.List) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.ID+" "+p.Message)
	}
	return out
}

func TestParseReportsWhatAndWhere(t *testing.T) {
	tests := []struct {
		name string
		file string
		want []string
	}{
		{"empty file", "", nil},
		{"comments only", "# nothing\n", nil},
		{"nothing where a list may be", "certificates:\ntrust:\nacme:\nnotify:\n", nil},
		{"unknown key, nearest name", "certificates:\n  - name: m\n    domain: [m.example.com]\n    challenge: {type: http-01}\n",
			[]string{`config_unknown_key postcert.yaml:3: unknown key "domain" in certificates[0]; did you mean "domains"?`}},
		{"unknown key at the top", "staet_dir: /x\n",
			[]string{`config_unknown_key postcert.yaml:1: unknown key "staet_dir"; did you mean "state_dir"?`}},
		{"unknown key like nothing", "zzzzzzzz: 1\n", []string{`config_unknown_key postcert.yaml:1: unknown key "zzzzzzzz"`}},
		{"a key in capitals is another key", "STATE_DIR: /x\n",
			[]string{`config_unknown_key postcert.yaml:1: unknown key "STATE_DIR"; did you mean "state_dir"?`}},
		{"a key twice", "state_dir: /a\ntrust: []\nstate_dir: /b\n",
			[]string{`config_unknown_key postcert.yaml:3: key "state_dir" is given twice, first in line 1`}},
		{"a merge key", "acme: &a {email: a@example.com}\nmetrics: {<<: *a}\n",
			[]string{`config_unknown_key postcert.yaml:2: a key in metrics is not a word`}},
		{"1 is not true", "acme:\n  agree_tos: 1\n",
			[]string{`config_type postcert.yaml:2: acme.agree_tos must be true or false, not a number (quotes make it text)`}},
		{"yes is not true", "acme:\n  agree_tos: yes\n",
			[]string{`config_type postcert.yaml:2: acme.agree_tos must be true or false, not text`}},
		{"text is not a list", "certificates:\n- name: m\n  domains: m.example.com\n  challenge: {type: http-01}\n",
			[]string{`config_type postcert.yaml:3: certificates[0].domains must be a list, not text`}},
		{"a number is not text", "certificates:\n- name: 7\n  domains: [m.example.com]\n  challenge: {type: http-01}\n",
			[]string{`config_type postcert.yaml:2: certificates[0].name must be text, not a number (quotes make it text)`}},
		{"nothing is not text", "state_dir:\n", []string{`config_type postcert.yaml:1: state_dir must be text, not nothing`}},
		{"nothing is no entry", good + "instances:\n-\n",
			[]string{`config_type postcert.yaml:3: instances[0] must be keys and values, not nothing`}},
		{"the file is a list", "- a\n", []string{`config_type postcert.yaml:1: the file must be keys and values, not a list`}},
		{"a number with a fraction", "keep_generations: 3.0\n",
			[]string{`config_type postcert.yaml:1: keep_generations must be a whole number, not a number (quotes make it text)`}},
		{"a time without a unit", "certificates: [{name: m, domains: [m.example.com],\n  challenge: {type: dns-01, provider: ovh, propagation: 60}}]\n",
			[]string{`config_type postcert.yaml:2: certificates[0].challenge.propagation must be a time with its unit, such as 60s or 5m, not a number (quotes make it text)`}},
		{"a time of zero without a unit", "certificates: [{name: m, domains: [m.example.com],\n  challenge: {type: dns-01, provider: ovh, propagation: \"0\"}}]\n",
			[]string{`config_type postcert.yaml:2: certificates[0].challenge.propagation must be a time with its unit, such as 60s or 5m, not text`}},
		{"two documents", "state_dir: /x\n---\nstate_dir: /y\n",
			[]string{`config_documents postcert.yaml:2: a second YAML document begins here; only one is read`}},
		{"not YAML", "state_dir: [\n", []string{`config_syntax postcert.yaml:1: not YAML: did not find expected node content`}},
		{"relative path", "state_dir: var\n", []string{`config_value postcert.yaml:1: state_dir: "var" is not an absolute path`}},
		{"a secret in the place of its file is not repeated", "acme:\n  eab: {kid: k, hmac_file: c2VjcmV0}\n",
			[]string{`config_value postcert.yaml:2: acme.eab.hmac_file: is not the absolute path of a file`}},
		{"all at once", "state_dir: x\nagree: 1\nkeep_generations: 1\n", []string{
			`config_value postcert.yaml:1: state_dir: "x" is not an absolute path`,
			`config_unknown_key postcert.yaml:2: unknown key "agree"`,
			`config_value postcert.yaml:3: keep_generations: 1 is not between 2 and 100`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, list := Parse("/etc/postcert/postcert.yaml", []byte(tt.file))
			if got := messages(list); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			for _, p := range list {
				if p.At.File != "/etc/postcert/postcert.yaml" || p.At.Line == 0 {
					t.Errorf("%s has the place %+v", p.Message, p.At)
				}
			}
		})
	}
}

func TestParseRefusesValues(t *testing.T) {
	cert := func(body string) string { return "certificates:\n- {" + body + "}\n" }
	inst := func(body string) string {
		return good + "instances: [{config_directory: /etc/postfix, " + body + "}]\n"
	}
	tests := []struct {
		name string
		file string
		want string // a part of the one message
	}{
		{"certificate without a name", cert("domains: [a.example.com], challenge: {type: http-01}"), "certificates[0].name: is missing"},
		{"certificate name is a path", cert("name: ../x, domains: [a.example.com], challenge: {type: http-01}"), `"../x" is not a name`},
		{"certificate name with a leading underscore", cert("name: _a, domains: [a.example.com], challenge: {type: http-01}"), `"_a" is not a name`},
		{"certificate name of the second key", cert(`name: a+rsa, domains: [a.example.com], challenge: {type: http-01}`), `"a+rsa" is not a name`},
		{"certificate twice", "certificates:\n- &c {name: m, domains: [m.example.com], challenge: {type: http-01}}\n- *c\n", "certificates[1].name: \"m\" is there twice"},
		{"no domains", cert("name: a, challenge: {type: http-01}"), "certificates[0].domains: is missing"},
		{"domain in capitals", cert("name: a, domains: [A.example.com], challenge: {type: http-01}"), "not in lower case"},
		{"domain not ASCII", cert("name: a, domains: [ü.example.com], challenge: {type: http-01}"), "xn--"},
		{"domain is an address", cert("name: a, domains: [192.0.2.1], challenge: {type: http-01}"), "is an address"},
		{"domain with a final dot", cert("name: a, domains: [a.example.com.], challenge: {type: http-01}"), "not a DNS name"},
		{"domain twice", cert("name: a, domains: [a.example.com, a.example.com], challenge: {type: http-01}"), "domains[1]: \"a.example.com\" is there twice"},
		{"wildcard over HTTP", cert(`name: a, domains: ["*.example.com"], challenge: {type: http-01}`), "needs a dns-01 challenge"},
		{"wildcard inside", cert(`name: a, domains: ["a.*.example.com"], challenge: {type: dns-01, provider: ovh}`), "not a DNS name"},
		{"no challenge", cert("name: a, domains: [a.example.com]"), "certificates[0].challenge.type: is missing"},
		{"misspelt challenge", cert("name: a, domains: [a.example.com], challenge: {type: dns01}"), `"dns01" is not http-01, tls-alpn-01 or dns-01; did you mean "dns-01"?`},
		{"dns-01 without provider", cert("name: a, domains: [a.example.com], challenge: {type: dns-01}"), "challenge.provider: is missing"},
		{"provider with http-01", cert("name: a, domains: [a.example.com], challenge: {type: http-01, provider: ovh}"), "challenge.provider: has no effect with type: http-01"},
		{"listen and webroot", cert(`name: a, domains: [a.example.com], challenge: {type: http-01, listen: ":80", webroot: /w}`), "cannot be used together"},
		{"unknown source", cert("name: a, domains: [a.example.com], source: amce"), `did you mean "acme"?`},
		{"watch without lineage", cert("name: a, source: watch"), "certificates[0].lineage: is empty"},
		{"watch with a challenge", cert("name: a, source: watch, lineage: /l, challenge: {type: http-01}"), "challenge: has no effect with source: watch"},
		{"watch with a preferred chain", cert("name: a, source: watch, lineage: /l, preferred_chain: ISRG Root X1"), "preferred_chain: has no effect with source: watch"},
		{"lineage with acme", cert("name: a, domains: [a.example.com], lineage: /l, challenge: {type: http-01}"), "is for source: watch only"},
		{"unknown key type", cert("name: a, domains: [a.example.com], challenge: {type: http-01}, key: {type: rsa1024}"), `"rsa1024" is not`},
		{"unknown key policy", cert("name: a, domains: [a.example.com], challenge: {type: http-01}, key: {policy: keep}"), `"keep" is not rotate`},
		{"second key of the same algorithm", cert("name: a, domains: [a.example.com], challenge: {type: http-01}, also: [ec384]"), "same algorithm"},
		{"third key", cert("name: a, domains: [a.example.com], challenge: {type: http-01}, also: [rsa2048, rsa4096]"), "one too many"},
		{"instance without directory", "instances: [{layout: auto}]\n", "config_directory: is missing"},
		{"instance twice", "instances: [{config_directory: /e}, {config_directory: /e/}]\n", `"/e" is there twice`},
		{"unknown certificate", good + "instances: [{config_directory: /e, certificate: mm}]\n", `no certificate named "mm"; did you mean "m"?`},
		{"SNI names the default", inst("certificate: m, sni: [m]"), "is served already"},
		{"service without type", inst("services: [{service: smtps, certificate: m}]"), "is not service/type"},
		{"service without certificate", inst("services: [{service: smtps/inet}]"), "services[0].certificate: is missing"},
		{"unknown layout", inst("layout: pairs"), `did you mean "pair"?`},
		{"unknown rehearsal", inst("rehearsal: always"), "is not auto or required"},
		{"unknown drift", inst("drift: repiar"), `did you mean "repair"?`},
		{"drift that is a truth value", inst("drift: yes"), "instances[0].drift"},
		{"required name that is none", inst("names: [a b]"), "not a DNS name"},
		{"listener without port", inst("ignore_listeners: [127.0.0.1]"), "neither service/type nor IP:port"},
		{"probe without listener", inst(`probe: [{address: "127.0.0.1:25"}]`), "probe[0].listener: is missing"},
		{"probe address by name", inst(`probe: [{listener: smtp/inet, address: "localhost:25"}]`), "neither IP:port"},
		{"companion without name", "companions: [{reload: [/bin/true]}]\n", "companions[0].name: is missing"},
		{"companion that does nothing", "companions: [{name: d}]\n", "does nothing"},
		{"companion's program by name", "companions: [{name: d, reload: [doveadm, reload]}]\n", "not the absolute path of a program"},
		{"companion's probe without port", `companions: [{name: d, probe: ["imaps://127.0.0.1"]}]`, "is not a URL such as"},
		{"companion's probe by HTTP", `companions: [{name: d, probe: ["https://127.0.0.1:993"]}]`, "is not a URL such as"},
		{"export without directory", "companions: [{name: d, export: {owner: root}}]\n", "export.directory: is empty"},
		{"export to a strange owner", `companions: [{name: d, export: {directory: /d, owner: "a b"}}]`, "not the name or number of an account"},
		{"relative trust", "trust: [ca.pem]\n", "trust[0]: \"ca.pem\" is not an absolute path"},
		{"directory over http", "acme: {directory: \"http://ca.example.com/dir\"}\n", "nor an https URL"},
		{"not an address", "acme: {email: admin}\n", "not a mail address"},
		{"kid alone", "acme: {eab: {kid: k}}\n", "hmac_file: is missing"},
		{"notify something else", "notify: nobody\n", "must be a list, or the word none, not text"},
		{"notify without URL", "notify: [{on: [failure]}]\n", "url_file: is missing"},
		{"notify on nothing known", "notify: [{url_file: /u, on: [fail]}]\n", "is not failure, rollback, expiry, drift or recovery"},
		{"notify two ways at once", "notify: [{url_file: /u, mail: postmaster}]\n", "more than one of url_file, exec and mail"},
		{"notify a program by name", "notify: [{exec: [mail, -s]}]\n", "not the absolute path of a program"},
		{"notify an option", "notify: [{mail: -oQ/tmp}]\n", "neither a mail address"},
		{"notify two addresses", "notify: [{mail: \"a@example.com, b@example.com\"}]\n", "neither a mail address"},
		{"notify a header", "notify: [{mail: \"a@example.com\\nBcc: b@example.com\"}]\n", "neither a mail address"},
		{"notify of recovery alone", "notify: [{mail: postmaster, on: [recovery]}]\n", "names recovery only"},
		{"metrics without port", "metrics: {listen: 127.0.0.1}\n", "is not a loopback address with a port"},
		{"metrics by name", "metrics: {listen: \"localhost:9939\"}\n", "is not a loopback address with a port"},
		{"metrics for all", "metrics: {listen: \":9939\"}\n", "is not a loopback address with a port"},
		{"metrics for all, as an address", "metrics: {listen: \"0.0.0.0:9939\"}\n", "is not a loopback address with a port"},
		{"metrics for the network", "metrics: {listen: \"192.0.2.1:9939\"}\n", "is not a loopback address with a port"},
		{"metrics for all, IPv6", "metrics: {listen: \"[::]:9939\"}\n", "is not a loopback address with a port"},
		{"metrics that nobody reads", "metrics: {textfile: /var/lib/x/postcert.txt}\n", "does not end with .prom"},
		{"empty state_dir", "state_dir: \"\"\n", "must be an absolute path"},
		{"same directories", "state_dir: /run/postcert/\n", "same directory"},
		{"control character in a path", "state_dir: \"/a\\nb\"\n", "control character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, list := Parse("postcert.yaml", []byte(tt.file))
			if len(list) != 1 || !strings.Contains(list[0].Message, tt.want) {
				t.Errorf("got\n%s\nwant one with\n%s", strings.Join(messages(list), "\n"), tt.want)
			}
		})
	}
}

func TestExample(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	c, list := Parse("postcert.yaml", data)
	if list != nil {
		t.Fatalf("problems in the example: %s", strings.Join(messages(list), "\n"))
	}
	first := Certificate{
		Name: "mail.example.com", Domains: []string{"mail.example.com", "smtp.example.com"}, Source: SourceACME,
		Challenge: Challenge{Type: DNS01, Provider: "ovh", Credentials: "/etc/postcert/ovh.env", Propagation: time.Minute},
		Profile:   "tlsserver", Key: Key{EC256, KeyAuto},
	}
	if got := c.Certificates[0]; !reflect.DeepEqual(got, first) {
		t.Errorf("certificates[0] is %+v, want %+v", got, first)
	}
	if got, want := c.Certificates[1].Key, (Key{EC256, KeyAuto}); got != want {
		t.Errorf("default key %v, want %v", got, want)
	}
	in := c.Instances[0]
	if got, want := in.Services, []Service{{"submissions/inet", "legacy.example.org"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("services %v, want %v", got, want)
	}
	if got, want := in.Probe, []Probe{{"192.0.2.1:25", "127.0.0.1:10025", true, 20 * time.Second}}; !reflect.DeepEqual(got, want) {
		t.Errorf("probe %v, want %v", got, want)
	}
	if got, want := c.Companions[0].Reload, []string{"/usr/bin/doveadm", "reload"}; !reflect.DeepEqual(got, want) {
		t.Errorf("reload %v, want %v", got, want)
	}
}

// TestExampleNamesEveryKey: a key that nobody can find in the example is as good
// as absent.
func TestExampleNamesEveryKey(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ == notifyType {
			typ = targetsType.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for key, sub := range keysOf(typ) {
			if !strings.Contains(string(data), key+":") {
				t.Errorf("the example does not show the key %q", key)
			}
			visit(sub)
		}
	}
	visit(configType)
}

func TestAliasBomb(t *testing.T) {
	file := "certificates:\n- &c {name: m, domains: &d [" + strings.Repeat("a.example.com, ", 2000) + "a.example.com], challenge: {type: http-01}}\n" +
		strings.Repeat("- *c\n", 20000)
	start := time.Now()
	_, list := Parse("postcert.yaml", []byte(file))
	if !list.Has("config_value") || len(list) > maxProblems {
		t.Errorf("%d problems, %v", len(list), list.Error()[:min(200, len(list.Error()))])
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestTooLarge(t *testing.T) {
	file := "state_dir: /x\n#" + strings.Repeat("x", MaxSize)
	if _, list := Parse("postcert.yaml", []byte(file)); !list.Has("config_unreadable") {
		t.Errorf("got %v", list)
	}
}
