package rehearsal

import "strings"

// smtpdTimeout is how many seconds a private daemon waits for its client.
const smtpdTimeout = 5

// keeps tells whether a parameter decides what TLS does on a server, so that
// the private Postfix must have its value. smtp_tls_* and tlsproxy_client_* are
// the client's side.
func keeps(name string) bool {
	for _, prefix := range []string{"smtpd_tls_", "tls_", "tlsproxy_tls_", "postscreen_tls_"} {
		if strings.HasPrefix(name, prefix) {
			// The generator's files and sockets are not the certificate's business.
			return !strings.HasPrefix(name, "tls_random_")
		}
	}
	switch name {
	case "smtpd_use_tls", "smtpd_enforce_tls", // before smtpd_tls_security_level, and still read
		"tlsproxy_use_tls", "tlsproxy_enforce_tls",
		"postscreen_use_tls", "postscreen_enforce_tls":
		return true
	}
	return false
}

// forced has the values of kept parameters that may not be production's.
var forced = map[string]string{
	// tlsmgr(8) opens these for writing and locks them. While production's
	// file is locked by another tlsmgr, its own dies and port 25 is silent.
	"smtpd_tls_session_cache_database": "",

	// The summary of each handshake, and no more: 3 and 4 log hex dumps.
	"smtpd_tls_loglevel":      "1",
	"tlsproxy_tls_loglevel":   "1",
	"postscreen_tls_loglevel": "1",

	// We have no client certificate to show.
	"smtpd_tls_req_ccert":      "no",
	"tlsproxy_tls_req_ccert":   "no",
	"postscreen_tls_req_ccert": "no",
}

// carried are parameters that have nothing to do with TLS and without which
// the daemons do not start, or read other files than production's do.
var carried = []string{
	"compatibility_level",
	"mail_owner", "setgid_group", "default_privs",
	"daemon_directory", "command_directory",
	"meta_directory", "shlib_directory", // plug-ins for the types of lookup tables
	"default_database_type", // the type of a table that names none
	"myhostname", "mydomain",
}

type setting struct{ name, value string }

// inert has a value for each parameter whose default is not harmless here.
// Parameters that are neither here nor kept or carried are not written, and so
// have Postfix's default: no SASL, no milters, no policy service.
var inert = []setting{
	// Paths. data_directory and what follows are relative to queue_directory,
	// where the daemons work: mail_owner opens them, and cannot pass through
	// the directories above, which are root's.
	{"data_directory", "data"},
	{"tls_random_exchange_name", "data/prng_exch"},
	{"address_verify_map", ""},
	{"postscreen_cache_map", ""},

	// No network. The address is there because smtpd resolves its own.
	{"inet_protocols", "all"},
	{"inet_interfaces", "127.0.0.1"},
	{"master_service_disable", ""},
	{"disable_dns_lookups", "yes"},
	{"smtpd_peername_lookup", "no"},

	// No lookup tables: the defaults of these name some.
	{"alias_maps", ""},
	{"alias_database", ""},
	{"local_recipient_maps", ""},
	{"mydestination", ""},
	{"mynetworks", ""},
	{"relay_domains", ""},
	{"virtual_alias_maps", ""},
	{"virtual_alias_domains", ""},
	{"virtual_mailbox_maps", ""},
	{"virtual_mailbox_domains", ""},
	{"local_header_rewrite_clients", ""},

	// No mail: MAIL FROM is rejected, and nothing is mailed to postmaster
	// about it. There is no cleanup(8) either that could take a message.
	{"smtpd_delay_reject", "no"},
	{"smtpd_sender_restrictions", "reject"},
	{"smtpd_relay_restrictions", "reject"},
	{"smtpd_recipient_restrictions", "reject"},
	{"smtpd_data_restrictions", "reject"},
	{"smtpd_etrn_restrictions", "reject"},
	{"disable_vrfy_command", "yes"},
	{"notify_classes", ""},

	// No anvil(8), and no pauses.
	{"smtpd_client_connection_count_limit", "0"},
	{"smtpd_error_sleep_time", "0"},
	{"ipc_timeout", "5s"},

	// postscreen(8): see the package comment.
	{"postscreen_greet_banner", ""},
	{"postscreen_access_list", ""},
	{"postscreen_dnsbl_sites", ""},
	{"postscreen_bare_newline_enable", "yes"},
	{"postscreen_bare_newline_action", "ignore"},
	{"postscreen_upstream_proxy_protocol", "haproxy"},
	{"postscreen_command_time_limit", "5s"},
	{"postscreen_watchdog_timeout", "10s"},

	// proxymap(8) serves the SNI table, should that be a proxy: table.
	{"proxy_read_maps", "$tls_server_sni_maps"},
}
