package lineage

import (
	"errors"
	"strings"
	"testing"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

func src(cert, key string) keypair.Source {
	return keypair.Source{Cert: cert, Key: key, Foreign: true}
}

// Each client's call, as its source or manual says that it is; the places are in
// the comments of recognise.go.
func TestRecognise(t *testing.T) {
	const le = "/etc/letsencrypt/live/mail.example.com"
	tests := []struct {
		name   string
		args   []string
		env    map[string]string
		dir    string
		stdin  string
		client string
		want   []keypair.Source
		dirs   []string
		// neither lineages nor an error
		nothing, foreign bool
	}{
		{name: "certbot", env: map[string]string{"RENEWED_LINEAGE": le, "RENEWED_DOMAINS": "mail.example.com smtp.example.com"},
			client: Certbot, want: []keypair.Source{src(le+"/fullchain.pem", le+"/privkey.pem")}, dirs: []string{le}},
		{name: "certbot, final slash", env: map[string]string{"RENEWED_LINEAGE": le + "/"},
			client: Certbot, want: []keypair.Source{src(le+"/fullchain.pem", le+"/privkey.pem")}, dirs: []string{le}},
		{name: "lego v4", env: map[string]string{
			"LEGO_ACCOUNT_EMAIL": "a@example.com", "LEGO_CERT_DOMAIN": "mail.example.com",
			"LEGO_CERT_PATH": "/var/lib/lego/certificates/mail.example.com.crt", "LEGO_CERT_KEY_PATH": "/var/lib/lego/certificates/mail.example.com.key"},
			client: Lego, want: []keypair.Source{src("/var/lib/lego/certificates/mail.example.com.crt", "/var/lib/lego/certificates/mail.example.com.key")}, dirs: []string{""}},
		{name: "lego v4, relative --path", dir: "/srv", env: map[string]string{
			"LEGO_CERT_PATH": "lego/certificates/a.crt", "LEGO_CERT_KEY_PATH": "lego/certificates/a.key"},
			client: Lego, want: []keypair.Source{src("/srv/lego/certificates/a.crt", "/srv/lego/certificates/a.key")}, dirs: []string{""}},
		{name: "lego v5", env: map[string]string{
			"LEGO_HOOK_ACCOUNT_EMAIL": "a@example.com", "LEGO_HOOK_CERT_NAME": "mail.example.com", "LEGO_HOOK_CERT_DOMAINS": "mail.example.com,x.example.com",
			"LEGO_HOOK_CERT_PATH": "/l/a.crt", "LEGO_HOOK_CERT_KEY_PATH": "/l/a.key", "LEGO_HOOK_ISSUER_CERT_PATH": "/l/a.issuer.crt"},
			client: Lego, want: []keypair.Source{src("/l/a.crt", "/l/a.key")}, dirs: []string{""}},
		{name: "acme.sh", env: map[string]string{
			"CERT_PATH": "/root/.acme.sh/a_ecc/a.cer", "CERT_KEY_PATH": "/root/.acme.sh/a_ecc/a.key", "CA_CERT_PATH": "/root/.acme.sh/a_ecc/ca.cer",
			"CERT_FULLCHAIN_PATH": "/root/.acme.sh/a_ecc/fullchain.cer", "Le_Domain": "a"},
			client: AcmeSh, want: []keypair.Source{src("/root/.acme.sh/a_ecc/fullchain.cer", "/root/.acme.sh/a_ecc/a.key")}, dirs: []string{"/root/.acme.sh/a_ecc"}},
		{name: "dehydrated", args: []string{"deploy_cert", "a", "/d/a/privkey.pem", "/d/a/cert.pem", "/d/a/fullchain.pem", "/d/a/chain.pem", "1700000000"},
			client: Dehydrated, want: []keypair.Source{src("/d/a/fullchain.pem", "/d/a/privkey.pem")}, dirs: []string{"/d/a"}},
		{name: "dehydrated challenge", args: []string{"deploy_challenge", "a", "-tok", "-val"}, client: Dehydrated, nothing: true},
		{name: "dehydrated sync", args: []string{"sync_cert", "/d/a/privkey-1.pem", "x", "y", "z", "u"}, client: Dehydrated, nothing: true},
		{name: "dehydrated unchanged", args: []string{"unchanged_cert", "a", "/k", "/c", "/f", "/h"}, client: Dehydrated, nothing: true},
		{name: "dehydrated exit", args: []string{"exit_hook", "some error"}, client: Dehydrated, nothing: true},
		{name: "dehydrated's trial", args: []string{"this_hookscript_is_broken__dehydrated_is_working_fine__please_ignore_unknown_hooks_in_your_script"}, client: Dehydrated, nothing: true},
		{name: "acmetool", args: []string{"live-updated"}, env: map[string]string{"ACME_STATE_DIR": "/var/lib/acme"}, stdin: "a.example.com\nb.example.com\n",
			client: Acmetool, dirs: []string{"/var/lib/acme/live/a.example.com", "/var/lib/acme/live/b.example.com"},
			want: []keypair.Source{src("/var/lib/acme/live/a.example.com/fullchain", "/var/lib/acme/live/a.example.com/privkey"),
				src("/var/lib/acme/live/b.example.com/fullchain", "/var/lib/acme/live/b.example.com/privkey")}},
		{name: "acmetool, nothing changed", args: []string{"live-updated"}, env: map[string]string{"ACME_STATE_DIR": "/var/lib/acme"}, client: Acmetool},
		{name: "acmetool challenge", args: []string{"challenge-http-start", "a", "t", "f"}, env: map[string]string{"ACME_STATE_DIR": "/var/lib/acme"}, client: Acmetool, foreign: true},
		{name: "by hand", args: []string{le}, client: Command, want: []keypair.Source{src(le+"/fullchain.pem", le+"/privkey.pem")}, dirs: []string{le}},
		{name: "by hand, relative", args: []string{"./a"}, dir: "/srv", client: Command, want: []keypair.Source{src("/srv/a/fullchain.pem", "/srv/a/privkey.pem")}, dirs: []string{"/srv/a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Recognise(Input{Args: tt.args, Env: tt.env, Dir: tt.dir, Stdin: func() ([]byte, error) { return []byte(tt.stdin), nil }})
			if err != nil {
				t.Fatal(err)
			}
			if got.Client != tt.client || got.Nothing != tt.nothing || got.Foreign != tt.foreign || len(got.Lineages) != len(tt.want) {
				t.Fatalf("got %+v", got)
			}
			for i, l := range got.Lineages {
				if l.Source != tt.want[i] || l.Dir != tt.dirs[i] {
					t.Errorf("lineage %q with %+v, want %q with %+v", l.Dir, l.Source, tt.dirs[i], tt.want[i])
				}
			}
		})
	}
}

// What no client gives is refused by its id, whatever else the call holds.
func TestRecogniseRefuses(t *testing.T) {
	certbot := func(v string) map[string]string { return map[string]string{"RENEWED_LINEAGE": v} }
	acme := map[string]string{"ACME_STATE_DIR": "/var/lib/acme"}
	tests := []struct {
		name  string
		args  []string
		env   map[string]string
		stdin string
		want  string
	}{
		{"nothing", nil, nil, "", "hook_unrecognised"},
		{"an option", []string{"--", "-x"}, nil, "", "hook_unrecognised"},
		{"a sentence", []string{"rm -rf"}, nil, "", "hook_unrecognised"},
		{"a post-hook of certbot", nil, map[string]string{"RENEWED_DOMAINS": "a b"}, "", "hook_unrecognised"},
		{"two directories", []string{"/a", "/b"}, nil, "", "hook_unrecognised"},
		{"event and environment", []string{"deploy_cert"}, certbot("/etc/letsencrypt/live/a"), "", "hook_unrecognised"},
		{"two clients", nil, map[string]string{"RENEWED_LINEAGE": "/a", "LEGO_CERT_PATH": "/b"}, "", "hook_ambiguous"},
		{"relative", nil, certbot("live/a"), "", "hook_value_refused"},
		{"up", nil, certbot("/etc/letsencrypt/live/../../shadow"), "", "hook_value_refused"},
		{"newline", nil, certbot("/etc/letsencrypt/live/a\n/b"), "", "hook_value_refused"},
		{"NUL", nil, certbot("/etc/letsencrypt/live/a\x00b"), "", "hook_value_refused"},
		{"escape sequence", nil, certbot("/etc/\x1b]0;x\x07"), "", "hook_value_refused"},
		{"not UTF-8", nil, certbot("/etc/\xff"), "", "hook_value_refused"},
		{"1 MiB", nil, certbot("/" + strings.Repeat("a", 1<<20)), "", "hook_value_refused"},
		{"command substitution", nil, certbot("$(touch /tmp/x)"), "", "hook_value_refused"},
		{"lego without key", nil, map[string]string{"LEGO_CERT_PATH": "/a.crt"}, "", "hook_incomplete"},
		{"lego, relative, no directory", nil, map[string]string{"LEGO_CERT_PATH": "a.crt", "LEGO_CERT_KEY_PATH": "a.key"}, "", "hook_value_refused"},
		{"acme.sh without key", nil, map[string]string{"CERT_FULLCHAIN_PATH": "/a"}, "", "hook_incomplete"},
		{"dehydrated, cut off", []string{"deploy_cert", "a", "/k"}, nil, "", "hook_incomplete"},
		{"dehydrated, hostile key", []string{"deploy_cert", "a", "/k\n", "/c", "/f", "/h", "1"}, nil, "", "hook_value_refused"},
		{"acmetool without state", []string{"live-updated"}, nil, "", "hook_incomplete"},
		{"acmetool, slash", []string{"live-updated"}, acme, "a/b\n", "hook_value_refused"},
		{"acmetool, up", []string{"live-updated"}, acme, "..\n", "hook_value_refused"},
		{"acmetool, hidden", []string{"live-updated"}, acme, ".ssh\n", "hook_value_refused"},
		{"acmetool, NUL", []string{"live-updated"}, acme, "a\x00b\n", "hook_value_refused"},
		{"acmetool, many", []string{"live-updated"}, acme, strings.Repeat("a\n", 2000), "hook_value_refused"},
		{"acmetool, relative state", []string{"live-updated"}, map[string]string{"ACME_STATE_DIR": "acme"}, "a\n", "hook_value_refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Recognise(Input{Args: tt.args, Env: tt.env, Stdin: func() ([]byte, error) { return []byte(tt.stdin), nil }})
			if !problem.From(err).Has(tt.want) || len(got.Lineages) > 0 {
				t.Errorf("got %+v, %v; want %s", got, err, tt.want)
			}
			if err != nil && ((strings.ContainsAny(err.Error(), "\x00\x1b\n") || strings.Contains(err.Error(), "\xff")) || len(err.Error()) > 600) {
				t.Errorf("the message carries the value: %.200q", err)
			}
		})
	}
	_, err := Recognise(Input{Args: []string{"live-updated"}, Env: acme, Stdin: func() ([]byte, error) { return nil, errors.New("closed") }})
	if !problem.From(err).Has("hook_incomplete") {
		t.Errorf("no standard input: %v", err)
	}
}

// Files that are named in the call.
func TestNamed(t *testing.T) {
	got, err := Named(Input{Dir: "/srv"}, keypair.Source{Cert: "a.crt", Key: "/k", Chain: "c"})
	if err != nil {
		t.Fatal(err)
	}
	want := keypair.Source{Cert: "/srv/a.crt", Key: "/k", Chain: "/srv/c", Foreign: true}
	if l := got.Lineages[0]; l.Source != want || !l.Named || l.Dir != "" {
		t.Errorf("got %+v", l)
	}
	if _, err := Named(Input{}, keypair.Source{Cert: "a.crt"}); !problem.From(err).Has("hook_value_refused") {
		t.Errorf("relative in a deleted directory: %v", err)
	}
	if _, err := Named(Input{}, keypair.Source{Key: "/k"}); !problem.From(err).Has("hook_incomplete") {
		t.Errorf("without a certificate: %v", err)
	}
}
