package maillog

// What follows when TLS could not be set up by a server process.
const (
	offNow   = "TLS is off in this process: STARTTLS is answered with 454, the implicit-TLS port is closed at once. Where TLS is optional (smtpd_tls_security_level = may) mail still comes in, in plain text."
	chainDo  = "put the pair in order: postcert verify names the fault, postcert install-cert LINEAGE_DIR installs a pair that was tried before. A process keeps what it read: after a repair by hand, postfix reload"
	certText = "postconf(5) smtpd_tls_cert_file, smtpd_tls_key_file"
	chainDoc = "postconf(5) smtpd_tls_chain_files"
)

// loadKinds are what smtpd(8) and tlsproxy(8) say when they read certificates, keys
// and TLS settings. smtp(8) has rows of its own before these: there it is about the
// client certificate.
var loadKinds = []Kind{
	{
		ID:       "cert_unusable",
		Patterns: []string{`cannot get {type} certificate from file "{file...}": disabling TLS support`},
		Effect:   TLSOff,
		Means:    "Postfix could not read the certificate: the file is missing, damaged, no PEM, or not for root to read. The next line, \"TLS library problem\", has OpenSSL's reason. \"RSA\" is the name of the setting, not of what is in the file.",
		Now:      offNow, Do: chainDo, Source: certText, Versions: all,
	}, {
		ID:       "key_unusable",
		Patterns: []string{`cannot get {type} private key from file "{file...}": disabling TLS support`},
		Effect:   TLSOff,
		Means:    "Postfix could not use the private key: the file is missing or damaged, the key is encrypted, or it belongs to another certificate. The next line, \"TLS library problem\", has OpenSSL's reason.",
		Now:      offNow, Do: chainDo, Source: certText, Versions: all,
	}, {
		ID: "key_mismatch",
		Patterns: []string{
			`{type} private key in {file...} does not match public key in {certificate...}: disabling TLS support`,
			`key at index {index} in {file...} does not match next certificate`,
			`error loading certificate chain: key at index {index} in {file...} does not match the certificate`,
			`TLS library problem: *:key values mismatch:*`,
			`TLS library problem: *:private key mismatch:*`,
		},
		Effect: TLSOff,
		Means:  "the private key belongs to another certificate. That happens when one of two files was renewed and the other was not, or when both were replaced one after the other and a process read them in between.",
		Now:    offNow, Do: chainDo, Source: certText, Versions: all,
	}, {
		ID:       "chain_file_missing",
		Patterns: []string{`error opening chain file: {file...}: {reason...}`},
		Effect:   TLSOff,
		Means:    "a file of smtpd_tls_chain_files cannot be opened. Postfix only warns: STARTTLS is offered and answered with 220, and then the handshake fails.",
		Now:      "each TLS handshake fails, for want of a certificate; clients that must have TLS cannot deliver or send. In plain text mail still comes in where TLS is optional.",
		Do:       chainDo, Source: chainDoc, Versions: all,
	}, {
		ID:       "sni_chain_bad",
		Patterns: []string{`error loading private keys and certificates from: SNI data for {sni}: aborting TLS handshake`},
		Effect:   TLSOff,
		Means:    "the entry of tls_server_sni_maps for this server name cannot be used: the files named there were not one key and its chain when the table was built.",
		Now:      "clients that ask for this name get a TLS alert and no mail session; other names are served.",
		Do:       "rebuild the table from files that are in order: postmap -F TYPE:FILE, or postcert install-cert, which does it",
		Source:   "postconf(5) tls_server_sni_maps", Versions: all,
	}, {
		ID:       "chain_file_bad", // also where smtpd_tls_key_file = $smtpd_tls_cert_file: one file is read as a chain file is
		Patterns: []string{`error loading private keys and certificates from: {file...}: disabling TLS support`},
		Effect:   TLSOff,
		Means:    "the file does not hold keys, each with its certificate and chain. It is one of smtpd_tls_chain_files, or the one file that smtpd_tls_cert_file and smtpd_tls_key_file name together. The line before this one says what is wrong with it.",
		Now:      offNow, Do: chainDo, Source: chainDoc, Versions: all,
	}, {
		ID: "chain_form",
		Patterns: []string{
			`error loading chain from {file...}: key not first`,
			`No PEM data in {file...}`,
			`No private key found in {file...}`,
			`No certs for key at index {index} in {file...}`,
			`error loading certificate chain: key at index {index} in {file...} not followed by a certificate`,
			`error loading certificate (PEM object number {index}) from {file...}`,
			`error loading private key (PEM object number {index}) from {file...}`,
		},
		Effect: TLSOff,
		Means:  "a file of smtpd_tls_chain_files does not have the form that Postfix reads: first a private key, then its certificate, then the intermediates, all in PEM.",
		Now:    offNow, Do: chainDo, Source: chainDoc, Versions: all,
	}, {
		ID:       "chain_second_key",
		Patterns: []string{`ignoring 2nd key at index {index} in {file...} after 1st at {first}`},
		Effect:   Weaker,
		Means:    "a file of smtpd_tls_chain_files has two private keys in a row. The second one is left out.",
		Now:      "the first key is used; whether TLS works depends on its certificate, which later lines tell.",
		Do:       "leave one key before each certificate: postcert install-cert writes it so", Source: chainDoc, Versions: all,
	}, {
		ID:       "chain_pem_type",
		Patterns: []string{`loading {file...}: ignoring PEM type: {type...}`},
		Effect:   None,
		Means:    "a file of smtpd_tls_chain_files has a PEM block that is neither a key nor a certificate, such as EC PARAMETERS. Postfix skips it.",
		Now:      "nothing is affected.", Do: "nothing; remove the block to be rid of the line", Source: chainDoc, Versions: all,
	}, {
		ID:       "cert_none",
		Patterns: []string{`No server certs available. TLS won't be enabled`, `No server certs available. TLS can't be enabled`},
		Effect:   TLSOff,
		Means:    "TLS is asked for, and no certificate is configured, or none could be read.",
		Now:      offNow, Do: "install one: postcert install-cert LINEAGE_DIR", Source: "postconf(5) smtpd_tls_cert_file, smtpd_tls_chain_files", Versions: all,
	}, {
		ID:       "protocols_invalid",
		Patterns: []string{`Invalid TLS protocol list "{list...}": disabling TLS support`},
		Effect:   TLSOff,
		Means:    "the value of smtpd_tls_protocols or smtpd_tls_mandatory_protocols is not one that this Postfix understands. The form >=TLSv1.2 needs Postfix 3.6; text behind a # in the same line belongs to the value.",
		Now:      offNow,
		Do:       "correct it, on Postfix before 3.6 by exclusion (!SSLv2, !SSLv3, !TLSv1, !TLSv1.1); then postfix reload", Source: "postconf(5) smtpd_tls_protocols", Versions: all,
	}, {
		ID:       "ca_unreadable",
		Patterns: []string{`cannot load Certification Authority data, {file...}: disabling TLS support`, `error loading client CA names from: {file...}`},
		Effect:   TLSOff,
		Means:    "the file or directory of trust anchors (smtpd_tls_CAfile, smtpd_tls_CApath; smtp_tls_ in the client) cannot be read or has no certificate in it.",
		Now:      "TLS is off in this process, although the certificate may be good: a server answers STARTTLS with 454, a client sends in plain text or keeps the mail, by its security level.",
		Do:       "name a file that root can read, such as /etc/ssl/certs/ca-certificates.crt, or empty the parameter if no client certificates are judged; then postfix reload", Source: "postconf(5) smtpd_tls_CAfile, smtp_tls_CAfile", Versions: all,
	}, {
		ID:       "cipher_setting",
		Patterns: []string{`*invalid cipher grade: "{grade...}"`, `*invalid unary '!+-@' in cipher exclusion: {exclusion...}`, `*error setting cipher grade: "{grade...}"`},
		Effect:   TLSOff,
		Means:    "a setting of ciphers is not one that Postfix understands: a grade is high, medium, low, export or null; an exclusion names ciphers without any sign before them.",
		Now:      "each TLS session that the setting is for is refused; smtpd goes on offering STARTTLS.",
		Do:       "correct smtpd_tls_ciphers, smtpd_tls_mandatory_ciphers or the exclude_ciphers parameters (smtp_tls_ in the client); then postfix reload", Source: "postconf(5) smtpd_tls_ciphers, smtpd_tls_exclude_ciphers", Versions: all,
	}, {
		ID:       "level_invalid",
		Patterns: []string{`Invalid TLS level "{level...}"`, `invalid tls security level: "{level...}"`},
		Effect:   MailStopped,
		Means:    "smtpd_tls_security_level, or smtp_tls_security_level in the client, is no level that Postfix knows. The process ends before it has served anybody.",
		Now:      "connections to this service are accepted and get no answer, for a minute after each attempt; with smtp(8), no mail goes out.",
		Do:       "correct the value; a server knows none, may and encrypt. Then postfix reload; the pause of service_throttle_time (60 s) is not shortened by that", Source: "postconf(5) smtpd_tls_security_level", Versions: all,
	}, {
		ID:       "level_unsupported",
		Patterns: []string{`{parameter}: unsupported TLS level "{level}", using "encrypt"`},
		Effect:   Weaker,
		Means:    "smtpd_tls_security_level has a level that only a client can have. Postfix takes encrypt in its place.",
		Now:      "clients must use TLS on this service.", Do: "write what is meant: may on port 25, encrypt on submission", Source: "postconf(5) smtpd_tls_security_level", Versions: all,
	}, {
		ID:       "legacy_ignored",
		Patterns: []string{`Both smtpd_tls_chain_files and one or more of the legacy *`, `Both smtp_tls_chain_files and one or more of the legacy *`},
		Effect:   Weaker,
		Means:    "both smtpd_tls_chain_files and the older certificate parameters are set. Postfix uses the chain files and does not look at the others: editing smtpd_tls_cert_file changes nothing.",
		Now:      "what is in the chain files is served.", Do: "empty the parameters that are not meant; postcert install-cert sees which one counts", Source: chainDoc, Versions: all,
	}, {
		ID:       "ccert_impossible",
		Patterns: []string{`Can't require client certs unless TLS is required`},
		Effect:   Weaker,
		Means:    "smtpd_tls_req_ccert = yes, and TLS itself is optional on this service. Postfix then asks for client certificates and does not insist.",
		Now:      "clients without a certificate are let in.", Do: "set smtpd_tls_security_level = encrypt on the service that must see certificates, never on a public port 25", Source: "postconf(5) smtpd_tls_req_ccert", Versions: all,
	}, {
		ID:       "tls_not_built",
		Patterns: []string{`TLS has been selected, but TLS support is not compiled in`, `TLS support is not compiled in -- exiting`},
		Effect:   TLSOff,
		Means:    "this Postfix was built without TLS.",
		Now:      "no TLS, in or out.", Do: "install a build with TLS; your distribution's package has it", Source: "TLS_README", Versions: all,
	}, {
		ID:       "openssl_version",
		Patterns: []string{`run-time library vs. compile-time header version mismatch: OpenSSL {running} may not be compatible with OpenSSL {built}`},
		Effect:   Weaker,
		Means:    "Postfix runs with another OpenSSL than the one it was built for.",
		Now:      "TLS may work, or fail in odd ways.", Do: "upgrade Postfix and OpenSSL together, from one source of packages; then postfix stop and postfix start", Source: "TLS_README", Versions: all,
	}, {
		ID:       "dh_unreadable",
		Patterns: []string{`cannot load {bits} DH parameters from file {file...} -- using compiled-in defaults`, `cannot load DH parameters from file {file...} -- using compiled-in defaults`, `error opening DH parameter file "{file...}": {reason...} -- using compiled-in defaults`, `error decoding DH parameters from file "{file...}" -- using compiled-in defaults`},
		Effect:   None,
		Means:    "smtpd_tls_dh1024_param_file cannot be read. Postfix takes parameters of its own.",
		Now:      "nothing is affected.", Do: "remove the parameter: Postfix 3.8 and newer does not need it", Source: "postconf(5) smtpd_tls_dh1024_param_file", Versions: all,
	}, {
		ID:       "no_entropy",
		Patterns: []string{`no entropy for TLS key generation: disabling TLS support`},
		Effect:   TLSOff,
		Means:    "tlsmgr(8), which hands out random numbers, did not answer.",
		Now:      offNow, Do: "look for lines of tlsmgr and master above this one: tlsmgr must be in master.cf, and able to start", Source: "tlsmgr(8)", Versions: all,
	}, {
		ID:       "tls_disabled",
		Patterns: []string{`disabling TLS support`, `{reason...}: disabling TLS support`, `{reason...}, disabling TLS support`},
		Effect:   TLSOff,
		Means:    "Postfix could not set up TLS. The words before \"disabling TLS support\", or the lines before this one, say why.",
		Now:      offNow, Do: chainDo, Source: "TLS_README", Versions: all,
	},
}
