package maillog

// masterKinds are what happens to processes and services, as far as TLS, its tables
// and its helpers can be the reason.
var masterKinds = []Kind{
	{
		ID: "throttled", Patterns: []string{`{program}: bad command startup -- throttling`},
		Effect: MailStopped,
		Means:  "a service ended before it had served anybody, and master(8) pauses it for service_throttle_time (60 s). The \"fatal:\" line before this one says why.",
		Now:    "connections to this service are accepted by the system and get no answer.",
		Do:     "mend what the \"fatal:\" line names. The service comes back by itself within a minute after that; postfix reload does not shorten it", Source: "postconf(5) service_throttle_time", Versions: all,
	}, {
		ID: "process_failed", Patterns: []string{`process {program} pid {pid} exit status {status}`},
		Effect: PeerFailed,
		Means:  "a process of Postfix ended with an error. The \"fatal:\" or \"panic:\" line before this one, with the same process id, says why.",
		Now:    "one session was lost; if it ends so each time, the service answers nobody.", Do: "mend what that line names", Source: "master(8)", Versions: all,
	}, {
		ID: "process_killed", Patterns: []string{`process {program} pid {pid} killed by signal {signal}`},
		Effect: PeerFailed,
		Means:  "a process of Postfix was killed: by signal 9 from the system for want of memory, or from a person; by 11 after a fault in a library.",
		Now:    "one session was lost; new ones get a new process.", Do: "look at the kernel's log of that moment (dmesg)", Source: "master(8)", Versions: all,
	}, {
		ID: "no_sasl", Patterns: []string{`no SASL authentication mechanisms`, `SASL per-process initialization failed*`},
		Effect: MailStopped,
		Means:  "smtpd_sasl_auth_enable = yes, and there is nothing to check passwords with: Dovecot's socket is not where smtpd_sasl_path says, as seen from the chroot, or no mechanism is left after smtpd_sasl_security_options.",
		Now:    "the service ends before it has served anybody: connections get no answer.",
		Do:     "start Dovecot with its auth socket in the queue directory (private/auth), or set smtpd_sasl_auth_enable = no on this service; then wait a minute", Source: "SASL_README; postconf(5) smtpd_sasl_path", Versions: all,
	}, {
		ID: "sasl_socket", Patterns: []string{`SASL: Connect to Dovecot auth socket '{socket}' failed: {reason...}`, `SASL: Connect to {socket} failed: {reason...}`},
		Effect: MailStopped,
		Means:  "Postfix cannot reach Dovecot, which checks the passwords.",
		Now:    "nobody can log in; a service that starts now ends at once.", Do: "start Dovecot; smtpd_sasl_path is relative to the queue directory, and must be one that a chroot can see", Source: "SASL_README", Versions: all,
	}, {
		ID: "no_relay_restriction", Patterns: []string{`in parameter {parameters...}, specify at least one working instance of: {what...}`},
		Effect: MailStopped,
		Means:  "the restrictions of this service would make it an open relay, and Postfix does not start it so.",
		Now:    "connections to this service get no answer.", Do: "smtpd_relay_restrictions must have reject_unauth_destination, defer_unauth_destination or reject", Source: "postconf(5) smtpd_relay_restrictions", Versions: all,
	}, {
		ID: "config_line", Patterns: []string{`{file...}, line {number}: missing '=' after attribute name: "{text...}"`, `{file}master.cf: line {number}: {reason...}`},
		Effect: MailStopped,
		Means:  "Postfix cannot read a line of its configuration.",
		Now:    "processes that start now end at once; after a reload, all of Postfix does.", Do: "mend the line; postfix check", Source: "postconf(5)", Versions: all,
	}, {
		ID: "bind_failed", Patterns: []string{`bind {address} port {port}: {reason...}`},
		Effect: MailStopped,
		Means:  "master(8) cannot open a port: another program has it, or the address is not this host's.",
		Now:    "master ends: the mail system is down.", Do: "find out who has the port (ss -ltnp), or take the service out of master.cf; then postfix start", Source: "master(8)", Versions: all,
	}, {
		ID: "tlsmgr_unreachable", Patterns: []string{`problem talking to server {socket}tlsmgr: {reason...}`, `connect to {socket}tlsmgr: {reason...}`},
		Effect: TLSOff,
		Means:  "tlsmgr(8), which keeps random numbers and TLS sessions for the others, cannot be reached: it is not in master.cf, or ends when it starts.",
		Now:    "processes wait for it, and go on without TLS.", Do: "look for lines of tlsmgr and master above this one", Source: "tlsmgr(8)", Versions: all,
	}, {
		ID: "lock_failed", Patterns: []string{`{file...}: unable to get exclusive lock: {reason...}`, `open lock file {file...}: unable to set exclusive lock: {reason...}`},
		Effect: MailStopped,
		Means:  "a file that one process alone may hold is held by another: two instances share a data directory or a TLS session cache, or a process of an earlier Postfix still runs.",
		Now:    "the process that wanted it ends. If that is tlsmgr(8), there is no TLS; if it is master(8), no Postfix.",
		Do:     "each instance needs a data_directory of its own; look who holds the file: fuser FILE", Source: "postconf(5) data_directory, smtpd_tls_session_cache_database", Versions: all,
	}, {
		ID: "cache_shared", Patterns: []string{`do not use the same TLS cache file {file} for {one} and {other}`},
		Effect: TLSOff,
		Means:  "two TLS session caches name one file.",
		Now:    "tlsmgr(8) does not start, so there is no TLS.", Do: "give each of smtpd_, smtp_ and lmtp_tls_session_cache_database a file of its own", Source: "postconf(5) smtpd_tls_session_cache_database", Versions: all,
	}, {
		ID: "cache_place", Patterns: []string{`request to update {what} {file...} in non-{owner} directory {directory...}`, `redirecting the request to {owner}-owned {directory...}`},
		Effect: None,
		Means:  "a TLS session cache or random file is named in a directory that is not Postfix's own. Postfix puts it into its data directory.",
		Now:    "nothing is affected.", Do: "write $data_directory in the value to be rid of the line", Source: "postconf(5) data_directory", Versions: all,
	}, {
		ID: "prng_file", Patterns: []string{`cannot open PRNG exchange file {file}: {reason...}`, `cannot fstat() the PRNG exchange file: {reason...}`},
		Effect: TLSOff,
		Means:  "tlsmgr(8) cannot open the file in which it keeps random numbers between runs.",
		Now:    "tlsmgr does not start, so there is no TLS.", Do: "look at the owner, the rights and the room of data_directory", Source: "postconf(5) tls_random_exchange_name", Versions: all,
	}, {
		ID: "entropy_source", Patterns: []string{`cannot open entropy device {device}: {reason...}`, `no entropy source specified with parameter {parameter}`, `encryption keys etc. may be predictable`},
		Effect: Weaker,
		Means:  "tlsmgr(8) has no source of random numbers of its own.",
		Now:    "TLS works; OpenSSL has a source of its own as well.", Do: "set tls_random_source = dev:/dev/urandom", Source: "postconf(5) tls_random_source", Versions: all,
	}, {
		ID: "table_changed", Patterns: []string{`table {table} has changed -- restarting`},
		Effect: None,
		Means:  "a lookup table was built again, and a process starts anew to read it. For tls_server_sni_maps that is when new certificates take effect without a reload.",
		Now:    "nothing is affected.", Do: "nothing", Source: "DATABASE_README", Versions: all,
	}, {
		ID: "reloaded", Patterns: []string{`reload -- version {version}, configuration {directory}`},
		Effect: None,
		Means:  "master(8) was told to read its configuration again. The line comes before it is read, so it proves nothing about what is in it.",
		Now:    "new connections get processes that read certificates anew.", Do: "nothing; postcert probe proves what they serve", Source: "postfix(1)", Versions: all,
	}, {
		ID: "started", Patterns: []string{`daemon started -- version {version}, configuration {directory}`},
		Effect: None,
		Means:  "Postfix was started.",
		Now:    "it takes connections.", Do: "nothing", Source: "postfix(1)", Versions: all,
	}, {
		ID: "stopped", Patterns: []string{`terminating on signal {signal}`},
		Effect: None,
		Means:  "a process of Postfix was told to end; if it is master(8), all of Postfix was.",
		Now:    "after master's line no mail comes in or goes out until Postfix is started.", Do: "if nobody meant it: postfix start", Source: "postfix(1)", Versions: all,
	},
}

// lastKinds are looked for after all others: a message that OpenSSL worded and no
// row above knows.
var lastKinds = []Kind{{
	ID: "alert_text", Patterns: []string{`SSL3 alert {direction}:{level}:{description...}`},
	Effect: PeerFailed,
	Means:  "at smtpd_tls_loglevel 2: an alert of TLS was sent (write) or received (read), with the description at the end.",
	Now:    "with the level fatal this session is over; warnings, such as close notify, are harmless.", Do: "look at the lines of the same process around it", Source: "RFC 8446 section 6", Versions: all,
}}
