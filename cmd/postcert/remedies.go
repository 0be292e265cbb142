package main

import (
	"strings"

	"postcert/verify/problem"
)

// remedies say what to do about each problem, by its id. {file}, {parameter},
// {service}, {endpoint} and {sni} stand for the place. A test makes sure that
// every id which the program can report is here.
var remedies = map[string]string{
	// telling people
	"notify_failed":      "see the reason; what was not told is told by a later pass, and is in the mail log. Who is told: notify: in the configuration",
	"metrics_unwritable": "make the directory of {file}, on a file system with room; it is what node_exporter is given with --collector.textfile.directory",

	// reading the inputs
	"input_missing":        "check the path; certbot keeps lineages in /etc/letsencrypt/live/NAME",
	"input_unreadable":     "run it as root, and check the file system",
	"input_not_regular":    "name the file itself, not a directory, device or pipe; for standard input use --tar -",
	"input_not_directory":  "name a lineage directory, or use --cert and --key for files",
	"input_too_large":      "this is no certificate or key file; name fullchain.pem and privkey.pem",
	"input_untrusted_path": "let root own the file and the directories above it, or name it on the command line as root",
	"lineage_unsettled":    "nothing, if a client is at work: it is tried again; otherwise find out what writes to the directory of {file}",
	"source_stale":         "see what the client says about its last renewal; let lineage: name the directory that it writes to, and mount directories, not single files",
	"tar_invalid":          "make it with: tar c -C DIR fullchain.pem privkey.pem",

	// calls of a deploy hook
	"hook_unrecognised":  "look at \"postcert help hook\" for how each ACME client calls it; by hand, with flags before the directory: postcert hook [FLAGS] LINEAGE_DIR",
	"hook_ambiguous":     "call it with the files: postcert hook --cert FILE --key FILE",
	"hook_incomplete":    "call it as the ACME client does, see \"postcert help hook\"; or with the files: postcert hook --cert FILE --key FILE",
	"hook_value_refused": "look who calls it: no ACME client gives such a value; nothing was read or run",
	"hook_not_ours":      "if it is for this mail server, adopt it once: postcert install-cert {file}",
	"hook_left":          "if it is for this mail server again, adopt it once: postcert install-cert {file}",

	// form of the pair
	"pem_empty":        "name fullchain.pem and privkey.pem; if this is one of them, the ACME client wrote an empty file: renew, or use its last good copy",
	"pem_truncated":    "the file is cut off; copy it again, or renew the certificate",
	"pem_is_der":       "convert it: openssl x509 -inform der -in {file} -out cert.pem",
	"pem_bom":          "save it without a byte order mark: sed -i '1s/^\\xef\\xbb\\xbf//' {file}",
	"pem_label":        "convert it to plain CERTIFICATE blocks: openssl x509 -in {file} -out cert.pem",
	"pem_header":       "remove the headers inside the PEM block, or convert the file with openssl",
	"pem_encoding":     "save it as plain ASCII text",
	"pem_wrong_type":   "name the file with the certificate (fullchain.pem) and the one with the key (privkey.pem)",
	"der_trailing":     "the block holds more than the certificate; export it again",
	"der_invalid":      "the certificate is damaged; renew it",
	"sig_weak":         "have it issued again with SHA-256 or better",
	"args_swapped":     "swap the files given to --cert and --key",
	"cert_missing":     "name the file with the certificate: fullchain.pem",
	"chain_conflict":   "give the intermediates once: in --cert or in --chain",
	"chain_order":      "put the leaf first, then each issuer after the certificate it issued",
	"chain_duplicate":  "remove the copy",
	"key_missing":      "name the private key with --key, usually privkey.pem",
	"key_mismatch":     "use the key that this certificate was issued for; after a failed renewal both files may be of different age",
	"key_encrypted":    "Postfix cannot ask for a passphrase: openssl pkey -in {file} -out privkey.pem",
	"key_format":       "convert it: openssl pkey -in {file} -out privkey.pem",
	"key_multiple":     "leave only the key of this certificate in the file",
	"key_inconsistent": "the key is damaged; renew the certificate with a new key",
	"key_weak":         "use RSA of at least 2048 bits, or ECDSA P-256",
	"key_too_large":    "use RSA of at most 4096 bits, or ECDSA P-256",
	"key_perms":        "let only root read it: chmod 600 {file}",
	"key_not_first":    "put the key before its certificate",
	"key_ed25519":      "many mail servers cannot use Ed25519; prefer ECDSA P-256",
	"encoding_differs": "report this: our own encoding was not read back as it was written",
	"root_included":    "nothing: the root is left out of what is installed",

	// judgement of the pair
	"chain_incomplete":      "use fullchain.pem instead of cert.pem, or add the intermediates with --chain",
	"chain_bad_signature":   "the intermediate is not the one that signed; take the chain that came with this certificate",
	"chain_unused":          "remove the certificate that is not part of the chain",
	"chain_expired":         "take the present chain from the CA, or renew the certificate",
	"chain_not_yet_valid":   "check this host's clock, or take the present chain from the CA",
	"chain_not_ca":          "take the chain that came with this certificate",
	"cert_expired":          "renew the certificate first",
	"cert_not_yet_valid":    "check this host's clock, or wait",
	"cert_validity_order":   "the certificate can never be valid; have it issued again",
	"purpose_eku":           "use a certificate for TLS servers (serverAuth)",
	"purpose_ku":            "use a certificate whose key usage allows digital signatures",
	"eku_absent":            "prefer a certificate with the extended key usage serverAuth",
	"leaf_is_ca":            "install a server certificate, not a CA's",
	"san_missing":           "have it issued with the host names as subjectAltName",
	"name_mismatch":         "have it issued for that name too, or allow its absence: --allow-name NAME",
	"name_illegal":          "have it issued again with a proper DNS name",
	"names_shrunk":          "have it issued for all names that are served until now, or use --allow-fewer-names",
	"ext_critical":          "Postfix and OpenSSL do not know this extension; have it issued without",
	"ext_invalid":           "this is no certificate for TLS servers; have one issued for them",
	"cert_precert":          "this is a pre-certificate; take the certificate itself from the CA",
	"must_staple":           "Postfix does not staple OCSP responses; have it issued without must-staple",
	"name_constraint":       "the CA may not issue for that name; use another CA",
	"pathlen":               "take the chain that came with this certificate",
	"self_signed":           "use a certificate of a CA, or --allow-self-signed",
	"not_trusted":           "add the CA as a trust anchor: --trust CA.pem",
	"trust_invalid":         "name a PEM file with root certificates only: --trust CA.pem, or trust: in the configuration",
	"no_trust_anchors":      "install the package ca-certificates, or name the CA: --trust CA.pem",
	"issuer_staging":        "this is a test certificate of the CA's staging; order one from its production",
	"downgrade":             "the served certificate is newer; look whether the lineage was turned back, or use --allow-downgrade",
	"revoked":               "renew the certificate; it was revoked",
	"helo_name_not_covered": "nothing, unless clients connect to that name",

	// the instance
	"postfix_missing":            "install postfix, or name its directory: --instance DIR (and command_directory)",
	"instance_ambiguous":         "name one: --instance NAME",
	"instance_unknown":           "list them: postmulti -l",
	"config_broken":              "mend it first; Postfix itself could not reload it: postconf -n, postconf -M",
	"candidate_rejected":         "look at the line that postconf names; nothing was changed",
	"config_not_replaceable":     "make the file replaceable (mount, chattr, read-only file system), or use layout: keep",
	"plan_invariant":             "report this with your main.cf and master.cf; nothing was changed",
	"value_not_utf8":             "write that value in UTF-8 (a path can be a symbolic link with a plain name), then run this again",
	"plan_stale":                 "run it again",
	"tls_not_enabled":            "TLS is off; switch it on with --enable (smtpd_tls_security_level = may), or in main.cf",
	"override_present":           "change it too: --adopt-overrides; or remove the line from master.cf",
	"stale_slot":                 "remove it: postconf -X {parameter}; then run this again",
	"mixed_chain_file":           "put the keys of each type into a file of their own, and name all files in {parameter}",
	"legacy_ignored":             "nothing now; to tidy up: postconf -X of the legacy parameters, which Postfix ignores",
	"key_type_changed":           "old clients may need RSA; if so, have an RSA certificate issued",
	"sni_maps_present":           "tls_server_sni_maps holds its own copy for this name: remove the name from the table, run this, and rebuild it with postmap -F",
	"client_certificate_follows": "give smtp_tls_cert_file a value of its own, or remove it: postconf -X smtp_tls_cert_file",
	"service_unknown":            "list the services: postconf -M",
	"keep_differs":               "install it where main.cf points to, or use layout: auto",
	"listener_not_bindable":      "mend or remove that line of master.cf first; Postfix would not survive a reload",
	"broken_before":              "nothing, if it is proven now; else look at the mail log",
	"postfix_check":              "look at it when there is time; it was so before",
	"history_full":               "make room before the next change: df -h {file}; df -i {file}",
	"postfix_check_slow":         "nothing, if the queue is meant to be that large: mailq | tail -1",
	"journal_open":               "mend what it names (a full disk, a read-only file system); then: postcert recover",
	"log_socket_small":           "remove the setting without effect (postconf shows the one that holds), or make the socket larger before Postfix starts: sysctl net.unix.max_dgram_qlen=512",
	"reload_by_signal":           "mend what stands in its way: postfix reload must work before the next change",
	"rehearsal_not_run":          "mend what stands in its way (make room, if it is a full disk), or take the risk: --no-rehearsal",
	"rehearsal_refused":          "this host's Postfix cannot serve this pair; the log lines above say why. Nothing was changed",
	"services_unsupported":       "name one certificate for each service, or install it for one at a time: --service SERVICE",
	"companion_account":          "name an owner and a group that exist on this host, by name or number, in companions[].export",
	"companion_down":             "if it should run, start it; the next deploy, or postcert renew, asks it again",
	"companion_left":             "point its configuration at other files, or leave it: the copies stay valid until they expire",
	"companion_program":          "name the program by its absolute path; it and the directories above it must belong to root, and nobody else may write there",
	"companion_reload":           "reload it by hand, then ask: postcert status",
	"export_directory":           "make the directory, or correct companions[].export.directory",
	"export_not_replaceable":     "make the file and its directory writable: no immutable attribute, no read-only or bind mount, enough room",

	// names and generations
	"name_invalid":       "give it a name of letters, digits, dots and hyphens: --name mail.example.com",
	"name_unknown":       "list what is installed: postcert status",
	"name_ambiguous":     "name one",
	"generation_unknown": "list them: postcert history",
	"not_adopted":        "there is nothing to release",

	// ends of a transaction, and other failures
	"rolled_back":         "read the cause above; then run it again",
	"rollback_incomplete": "follow the commands below, now",
	"busy":                "wait for the other run, or look what it does: postcert history",
	"interrupted":         "run it again",
	"timeout":             "run it again, with a longer --timeout if one was given: postcert renew",
	"disk_full":           makeRoom,
	"read_only":           "remount the file system for writing and run it again",
	"permission":          "run it as root",
	"state_not_writable":  "run it as root, make {file} a writable directory, or name another: --state-dir DIR",
	"directory_untrusted": "let root own {file} and all directories above it, writable by nobody else; or name another",
	"program_missing":     "install it, or name its directory: command_directory in the configuration",
	"program_failed":      "run that program by hand to see more",
	"failed":              "",
	"usage":               "see: postcert help",
	"mx_lookup":           "check the domain and this host's resolver",

	// state
	"installed_unreadable": "install the certificate again: postcert install-cert",
	"wanted_not_installed": "run the install again; postcert history says why it failed",
	"transaction_open":     "settle it: postcert recover",
	"not_running":          "start Postfix: systemctl start postfix",
	"drift_file":           "put back what was proven: postcert rollback NAME --to GENERATION; if it was meant: postcert install-cert",
	"drift_parameter":      "put back what was proven: postcert rollback NAME --to GENERATION; if it was meant: postcert release",
	"no_pass":              "start it: systemctl status postcert postcert.timer; or call now: postcert renew",
	"drift_not_reloaded":   "postfix reload, then ask again: postcert renew; if it stays, look who answers there: ss -ltnp",
	"drift_table":          "build it again: postmap -F, with the table as it is named; or let it be done: drift: repair in the configuration",
	"table_unbuildable":    "mend the table's source or the file that it names, then: postmap -F, with the table as it is named; Postfix goes on with what the table held",
	"deploy_refused":       "mend what it names: renew the certificate at its client, or correct the configuration; it is deployed at the next look by itself, sooner: postcert renew",
	"expires_soon":         "look why it was not renewed: postcert history, the client's own log; or renew it now: postcert renew --force",
	"change_running":       "ask again when it has ended: postcert status",
	"record_unreadable":    "mend what it names; the record is made again from the history at the next change",
	"served_differs":       "look at what answers there (ss -ltnp, the mail log); reload Postfix, then ask again; postcert history says what happened last",

	// ACME: what is asked for
	"domain_missing":         "name at least one: --domain mail.example.com",
	"domain_too_many":        "leave some out, or have several certificates; the profile classic allows 100 names",
	"domain_duplicate":       "leave one of them out",
	"domain_redundant":       "leave one of them out",
	"domain_invalid":         "correct the name",
	"domain_idn":             "write it in its xn-- form: idn2 NAME",
	"domain_ip":              "name the host instead of its address",
	"domain_wildcard":        "use a dns-01 challenge: --challenge dns-01 --provider NAME",
	"spec_name":              "give it a name of letters, digits, dots and hyphens: --name mail.example.com",
	"spec_key":               "choose one of those",
	"profile_unknown":        "choose a profile that the CA lists, or leave it out",
	"challenge_invalid":      "correct what describes the challenge; see: postcert help obtain",
	"directory_invalid":      "write the https URL of the CA's directory, or a name such as letsencrypt",
	"directory_roots":        "name a PEM file with the CA's own root: --acme-trust FILE, or acme.trust in the configuration",
	"acme_directory_unknown": "write letsencrypt, letsencrypt-staging, google, zerossl, actalis or sslcom-ecc, or the https URL of the directory",
	"acme_trust_unreadable":  "name a PEM file that root can read: --acme-trust FILE, or acme.trust in the configuration",
	"staging_unknown":        "name a directory for trials: --dry-run --directory URL",
	"also_unsupported":       "remove also: from that certificate",
	"sni_unsupported":        "make it the instance's certificate, or have one certificate for all names",
	"interval_too_long":      "call renew more often, and say so: --interval 1h; or run: postcert daemon",

	// ACME: the account
	"account_missing":      "register it: postcert account register --agree-tos",
	"account_contact":      "write the address without mailto:",
	"account_refused":      "read what the CA says; perhaps: postcert account register --agree-tos",
	"account_lost":         "register it again: postcert account register --agree-tos",
	"terms_not_agreed":     "read them, then: --agree-tos, or acme.agree_tos: true in the configuration",
	"terms_changed":        "read them, then: postcert account register --agree-tos",
	"eab_required":         "get a key identifier and a key from the CA, then: --eab-kid ID --eab-hmac-file FILE",
	"eab_file":             "put the key alone into a file that only root can read: chmod 600 {file}",
	"rollover_unsupported": "nothing; the account goes on with its key",

	// ACME: an order
	"acme_busy":            "wait for the other run",
	"acme_canceled":        "run it again: the order is resumed",
	"acme_failed":          "run it again with -vv to see more",
	"acme_state_damaged":   "restore {file} from a backup, or move the directory away: the certificate is then ordered again",
	"state_remote":         "put state_dir on a file system of this host alone",
	"acme_state_later":     "a later postcert wrote it; use that one",
	"ca_unreachable":       "look at the network, the directory's URL and --acme-trust; the daemon and the renewal timer try again by themselves, else run it again",
	"ca_rate_limited":      "nothing: it is tried again when the CA allows it",
	"ca_paused":            "visit the page that the CA names; it is tried again every day",
	"validation_failed":    "make the name lead to this host, for IPv4 and IPv6, or its DNS record appear; try it: postcert obtain --dry-run NAME",
	"challenge_failed":     "free the port, or correct the directory or the credentials that it names; see: ss -ltnp",
	"order_pending":        "nothing: the order is resumed by itself",
	"order_refused":        "correct what the CA complains about",
	"order_waits":          "mend the reason; it is tried again at that time, sooner: postcert renew --force",
	"issued_not_installed": "mend the reason; it is deployed again by itself where the daemon or a timer runs, sooner: postcert renew",
	"order_pace":           "nothing: it is ordered at that time",
	"order_backoff":        "nothing: it is tried again at that time; sooner: --force",
	"order_cap":            "nothing: it is tried again at that time; a CA allows five a week for one set of names",
	"order_guard":          "mend what the CA could not validate; it is tried again at that time",
	"order_ari":            "nothing: it is tried again at that time",
	"key_change_refused":   "publish a TLSA record for the new key first, or take the risk: --allow-key-change",
	"certificate_refused":  "report it to the CA; it is put aside, and another one is ordered later",
	"certificate_missing":  "obtain it first: postcert obtain",
	"revoke_reason":        "choose one of those",
	"chain_not_offered":    "choose one of the chains that the CA offers, or none",
	"dns_provider_unknown": "correct the name; one that is not in this program: --provider exec, with the program of contrib/dns",
	"dns_credentials":      "let only root read the file, and write into it what the message names",
	"domain_elsewhere":     "nothing, if a proxy or NAT forwards it; else correct the A and AAAA records",
	"domain_no_address":    "publish an A or AAAA record for it, or use a dns-01 challenge",
	"domain_unresolved":    "look at this host's resolver",
	"dry_run_directory":    "name a directory for trials: --dry-run --directory URL",
	"clock_off":            "set this host's clock: timedatectl",
	"renewal_late":         "read why, and mend it; then: postcert renew",
	"not_deployed":         "name it in instances: certificate:, or install it by: postcert install-cert",

	// configuration file
	"config_unreadable":  "check the path and that root can read it",
	"config_unknown_key": "correct or remove the key; postcert.yaml(5) lists all",
	"config_type":        "write the value in the form that is asked for",
	"config_value":       "correct the value",
	"config_missing":     "add the key",
	"config_documents":   "leave one document in the file",
	"config_syntax":      "correct the YAML at that line",
	"config_writable":    "let only root write it: chown root: {file} && chmod go-w {file}",
}

// whoAnswers is the remedy for a change that one listener contradicted.
const whoAnswers = "see who answers at {endpoint}: ss -ltnp; if that is not this Postfix, leave it out: --ignore-listener {endpoint}"

// makeRoom is the remedy for a full disk: of space or of inodes, which the
// kernel does not tell apart.
const makeRoom = "make room and run it again; see: df -h {file}; df -i {file}"

func remedy(p problem.Problem) string {
	text := remedies[p.ID]
	switch {
	case p.ID == "rolled_back" && p.At.Endpoint != "":
		text = whoAnswers
	case p.ID == "rolled_back" && p.At.File != "":
		text = makeRoom
	}
	return strings.NewReplacer("{file}", p.At.File, "{parameter}", p.At.Parameter, "{service}", p.At.Service,
		"{endpoint}", p.At.Endpoint, "{sni}", p.At.SNI).Replace(text)
}
