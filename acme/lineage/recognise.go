package lineage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Clients whose calls are recognised. Command is a call that names its files on
// the command line, as getssl, uacme, step and certmonger are set up to do.
const (
	Certbot    = "certbot"
	Lego       = "lego"
	AcmeSh     = "acme.sh"
	Dehydrated = "dehydrated"
	Acmetool   = "acmetool"
	Command    = "command"
)

// Call is one call of a deploy hook, understood.
type Call struct {
	Client string
	Event  string // what the client calls it; "" where it has one event only
	// Nothing says that the call is about no new certificate: it ends well, with
	// nothing done. Foreign says that it asks for something a deploy hook cannot
	// do, such as answering a challenge, and must be told so: acmetool takes
	// success for an answer.
	Nothing, Foreign bool
	Lineages         []Lineage
}

// Lineage is a place where a client keeps a certificate and its key.
type Lineage struct {
	Client string
	Dir    string // its own directory, links as given; "" if others' files lie beside its own
	Source keypair.Source
	// Issuer is a file with the intermediates, for a Source that turns out to hold
	// the leaf alone; "" if there is none.
	Issuer string
	// Named says that somebody wrote these very files into the call.
	Named bool
}

// String is how the lineage is called in messages: its directory, or its file.
func (l Lineage) String() string {
	if l.Dir != "" {
		return l.Dir
	}
	return l.Source.Cert
}

// Name is what the client calls it: the last part of its directory, or the file
// without its extension.
func (l Lineage) Name() string {
	if l.Dir != "" {
		return filepath.Base(l.Dir)
	}
	base := filepath.Base(l.Source.Cert)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// Input is what a call is recognised by.
type Input struct {
	Args []string // behind "hook"
	Env  map[string]string
	// Dir is the working directory, for what is given relative to it; "" if it is
	// not known, because it was deleted.
	Dir string
	// Stdin reads standard input. It is called for acmetool alone.
	Stdin func() ([]byte, error)
}

// Limits of what a call may hold. PATH_MAX of Linux is 4096.
const (
	maxPath  = 4096
	maxNames = 1000
)

// Recognise understands a call of a deploy hook. What it takes from the
// environment are paths: names of domains, account and whatever else is there
// are never looked at.
//
// Errors are a problem.List with one of these ids:
//   - hook_unrecognised: neither arguments nor environment are of a known client.
//   - hook_ambiguous: the environment is of more than one.
//   - hook_incomplete: a part of what the client always gives is missing.
//   - hook_value_refused: a value that no client gives: not absolute, with "..",
//     a control character, or too long.
func Recognise(in Input) (Call, error) {
	client, err := ByEnvironment(in.Env)
	if err != nil {
		return Call{}, err
	}
	if len(in.Args) > 0 {
		return byArguments(in, client)
	}
	switch client {
	case Certbot:
		return certbot(in)
	case lego4, lego5:
		return lego(in, client)
	case AcmeSh:
		return acmeSh(in)
	}
	return Call{}, refuse("hook_unrecognised", "no ACME client is recognised: neither its arguments nor its environment (RENEWED_LINEAGE, LEGO_CERT_PATH, LEGO_HOOK_CERT_PATH, CERT_FULLCHAIN_PATH) are there")
}

func refuse(id, format string, args ...any) error {
	return problem.List{problem.New(id, problem.At{}, format, args...)}
}

// The two generations of lego have the same variables under other names.
// v4 cmd/hook.go: "LEGO_CERT_PATH"; v5 cmd/internal/hook/metadata.go:
// envPrefix = "LEGO_HOOK_". https://github.com/go-acme/lego, docs/content/migration/cli.md.
const (
	lego4 = "LEGO_"
	lego5 = "LEGO_HOOK_"
)

// ByEnvironment tells whose environment it is; "" if nobody's.
func ByEnvironment(env map[string]string) (string, error) {
	var found []string
	for _, c := range []struct{ client, variable string }{
		{Certbot, "RENEWED_LINEAGE"}, {lego4, lego4 + "CERT_PATH"}, {lego5, lego5 + "CERT_PATH"}, {AcmeSh, "CERT_FULLCHAIN_PATH"},
	} {
		if env[c.variable] != "" {
			found = append(found, c.client)
		}
	}
	if len(found) > 1 {
		return "", refuse("hook_ambiguous", "the environment is that of several ACME clients at once, so whose call this is cannot be told")
	}
	return strings.Join(found, ""), nil
}

// certbot: "RENEWED_LINEAGE ... will point to the config live subdirectory (for
// example, "/etc/letsencrypt/live/example.com") containing the new certificates
// and keys" (certbot --help deploy-hook; _internal/hooks.py, _run_deploy_hook).
// The hook directory's programs are called the same way, for every lineage.
func certbot(in Input) (Call, error) {
	dir, err := absolute(in, "RENEWED_LINEAGE", in.Env["RENEWED_LINEAGE"], false)
	if err != nil {
		return Call{}, err
	}
	return Call{Client: Certbot, Lineages: []Lineage{directory(Certbot, dir)}}, nil
}

// directory is a lineage in the form that certbot made common.
func directory(client, dir string) Lineage {
	return Lineage{Client: client, Dir: dir, Source: keypair.Source{
		Cert: filepath.Join(dir, "fullchain.pem"), Key: filepath.Join(dir, "privkey.pem"), Foreign: true,
	}}
}

// lego keeps all certificates in one directory: NAME.crt, which holds the chain
// unless --no-bundle was given, NAME.key and NAME.issuer.crt. Its paths are
// relative where --path was (cmd/certs_storage.go, GetFileName).
func lego(in Input, prefix string) (Call, error) {
	cert, err := absolute(in, prefix+"CERT_PATH", in.Env[prefix+"CERT_PATH"], true)
	if err != nil {
		return Call{}, err
	}
	key, err := absolute(in, prefix+"CERT_KEY_PATH", in.Env[prefix+"CERT_KEY_PATH"], true)
	if err != nil {
		return Call{}, err
	}
	// LEGO_ISSUER_CERT_PATH came with v4.15; the file has always been there.
	issuer := strings.TrimSuffix(cert, filepath.Ext(cert)) + ".issuer.crt"
	return Call{Client: Lego, Lineages: []Lineage{{Client: Lego, Source: keypair.Source{Cert: cert, Key: key, Foreign: true}, Issuer: issuer}}}, nil
}

// acmeSh: --reloadcmd, --renew-hook and --post-hook are run with CERT_PATH,
// CERT_KEY_PATH, CA_CERT_PATH, CERT_FULLCHAIN_PATH and Le_Domain exported, in the
// directory of the certificate (acme.sh, _installcert and _on_issue_success).
func acmeSh(in Input) (Call, error) {
	cert, err := absolute(in, "CERT_FULLCHAIN_PATH", in.Env["CERT_FULLCHAIN_PATH"], false)
	if err != nil {
		return Call{}, err
	}
	key, err := absolute(in, "CERT_KEY_PATH", in.Env["CERT_KEY_PATH"], false)
	if err != nil {
		return Call{}, err
	}
	l := Lineage{Client: AcmeSh, Source: keypair.Source{Cert: cert, Key: key, Foreign: true}}
	if filepath.Dir(cert) == filepath.Dir(key) {
		l.Dir = filepath.Dir(cert)
	}
	return Call{Client: AcmeSh, Lineages: []Lineage{l}}, nil
}

// byArguments understands a call that says in its arguments what it is about.
func byArguments(in Input, client string) (Call, error) {
	event := in.Args[0]
	switch {
	case strings.Contains(event, "/"):
		return lineageDirectory(in)
	case client != "":
		return Call{}, refuse("hook_unrecognised", "an environment with the paths of a certificate, and %s as argument: whose call this is cannot be told", quoted(event))
	case in.Env["ACME_STATE_DIR"] != "" || event == acmetoolEvent:
		return acmetool(in, event)
	case event == dehydratedEvent:
		return dehydrated(in)
	case isEvent(event):
		// dehydrated: "please ignore unknown hooks in your script".
		return Call{Client: Dehydrated, Event: event, Nothing: true}, nil
	}
	return Call{}, refuse("hook_unrecognised", "%s is no event of a known ACME client", quoted(event))
}

// isEvent tells a name of an event, known or not, from anything else.
func isEvent(s string) bool {
	return len(s) <= 256 && s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// lineageDirectory is a call that names one directory with fullchain.pem and
// privkey.pem, as install-cert takes it.
func lineageDirectory(in Input) (Call, error) {
	if len(in.Args) > 1 {
		return Call{}, refuse("hook_unrecognised", "one lineage directory can be given, and %d arguments are; for files use --cert and --key", len(in.Args))
	}
	dir, err := absolute(in, "the lineage directory", in.Args[0], true)
	if err != nil {
		return Call{}, err
	}
	l := directory(Command, dir)
	l.Named = true
	return Call{Client: Command, Lineages: []Lineage{l}}, nil
}

// Named is a call that names the files: the same for every client that can be
// told to run a command with fixed arguments.
//
//   - getssl: RELOAD_CMD, which it hands to the shell (getssl, reload_service). It
//     keeps fullchain.crt and DOMAIN.key below ~/.getssl/DOMAIN.
//   - uacme: behind "uacme issue ... &&", as it has no deploy hook.
//   - step: "step ca renew --exec", cut at each blank, without a shell
//     (command/ca/renew.go, runExecCmd), so no path can have one. It writes leaf
//     and intermediates to one file, and leaves the key as it is.
//   - certmonger: "getcert request -C" (getcert-request(1)). Its certificate file
//     holds the leaf alone, so that it needs --chain.
func Named(in Input, src keypair.Source) (Call, error) {
	src.Foreign = true
	for _, p := range []struct {
		name string
		path *string
	}{{"--cert", &src.Cert}, {"--key", &src.Key}, {"--chain", &src.Chain}} {
		if *p.path == "" && p.name != "--cert" {
			continue
		}
		var err error
		if *p.path, err = absolute(in, p.name, *p.path, true); err != nil {
			return Call{}, err
		}
	}
	return Call{Client: Command, Lineages: []Lineage{{Client: Command, Source: src, Named: true}}}, nil
}

// dehydrated calls its hook with an event and that event's own arguments:
// deploy_cert DOMAIN KEYFILE CERTFILE FULLCHAINFILE CHAINFILE TIMESTAMP
// (docs/examples/hook.sh). All others are nothing to us: sync_cert comes before
// the links are switched, and unchanged_cert for every certificate, every day.
const dehydratedEvent = "deploy_cert"

func dehydrated(in Input) (Call, error) {
	if len(in.Args) < 6 {
		return Call{}, refuse("hook_incomplete", "dehydrated's %s has at least 5 arguments, and there are %d", dehydratedEvent, len(in.Args)-1)
	}
	key, err := absolute(in, "KEYFILE", in.Args[2], false)
	if err != nil {
		return Call{}, err
	}
	cert, err := absolute(in, "FULLCHAINFILE", in.Args[4], false)
	if err != nil {
		return Call{}, err
	}
	l := Lineage{Client: Dehydrated, Source: keypair.Source{Cert: cert, Key: key, Foreign: true}}
	if filepath.Dir(cert) == filepath.Dir(key) {
		l.Dir = filepath.Dir(cert)
	}
	return Call{Client: Dehydrated, Event: dehydratedEvent, Lineages: []Lineage{l}}, nil
}

// acmetool: "The "live-updated" hook is invoked when one or more symlinks in the
// "live" directory are created or updated. ... Each object invoked MUST have
// passed to stdin a list of the names of the symlinks", one a line, and
// "ACME_STATE_DIR MUST be set to the absolute path of the State Directory"
// (_doc/SCHEMA.md, "Hooks"). Below live/NAME are fullchain and privkey.
const acmetoolEvent = "live-updated"

// AcmetoolEvent tells whether acmetool calls its hooks with this.
func AcmetoolEvent(arg string) bool {
	return arg == acmetoolEvent || strings.HasPrefix(arg, "challenge-") && isEvent(arg)
}

func acmetool(in Input, event string) (Call, error) {
	c := Call{Client: Acmetool, Event: event}
	if event != acmetoolEvent {
		if !isEvent(event) {
			return Call{}, refuse("hook_unrecognised", "%s is no event of acmetool", quoted(event))
		}
		c.Foreign = true
		return c, nil
	}
	state, err := absolute(in, "ACME_STATE_DIR", in.Env["ACME_STATE_DIR"], false)
	if err != nil {
		return Call{}, err
	}
	list, err := in.Stdin()
	if err != nil {
		return Call{}, refuse("hook_incomplete", "acmetool's list of names on standard input: %v", err)
	}
	names := strings.Fields(string(list))
	if len(names) > maxNames {
		return Call{}, refuse("hook_value_refused", "acmetool's list has %d names, more than %d", len(names), maxNames)
	}
	for _, name := range names {
		if err := hostile("a name on standard input", name); err != nil {
			return Call{}, err
		}
		if strings.ContainsRune(name, '/') || name[0] == '.' {
			return Call{}, refuse("hook_value_refused", "a name on standard input is %s, which is no name of a directory", quoted(name))
		}
		dir := filepath.Join(state, "live", name)
		c.Lineages = append(c.Lineages, Lineage{Client: Acmetool, Dir: dir, Source: keypair.Source{
			Cert: filepath.Join(dir, "fullchain"), Key: filepath.Join(dir, "privkey"), Foreign: true,
		}})
	}
	return c, nil
}

// absolute judges a path of a call, and makes one that is relative to the working
// directory absolute where the client may give such.
func absolute(in Input, what, path string, relative bool) (string, error) {
	if path == "" {
		return "", refuse("hook_incomplete", "%s is not given", what)
	}
	if err := hostile(what, path); err != nil {
		return "", err
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	switch {
	case !relative:
		return "", refuse("hook_value_refused", "%s is %s, which is not absolute", what, quoted(path))
	case in.Dir == "":
		return "", refuse("hook_value_refused", "%s is %s, which is not absolute, and the working directory is gone", what, quoted(path))
	}
	return filepath.Join(in.Dir, path), nil
}

// hostile refuses what no client gives: whoever set it has something else in mind.
func hostile(what, value string) error {
	switch {
	case len(value) > maxPath:
		return refuse("hook_value_refused", "%s has %d bytes, more than any path", what, len(value))
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return refuse("hook_value_refused", "%s is %s, which holds a control character", what, quoted(value))
	case slices.Contains(strings.Split(value, string(os.PathSeparator)), ".."):
		return refuse("hook_value_refused", "%s is %s, which goes up by \"..\"", what, quoted(value))
	}
	return nil
}

// quoted is the beginning of a value, in a form that cannot harm a terminal.
func quoted(value string) string {
	const most = 80
	if len(value) > most {
		return fmt.Sprintf("%+q and %d bytes more", value[:most], len(value)-most)
	}
	return fmt.Sprintf("%+q", value)
}
