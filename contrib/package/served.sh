# Part of the scripts that run when the package goes: what Postfix still reads.

# postfix_directories prints the configuration directory of each instance
# (multi_instance_directories, postconf(5)), one a line. Postfix may be gone too.
postfix_directories() {
	{
		postconf -h config_directory || echo /etc/postfix
		postconf -h multi_instance_directories || ls -d /etc/postfix-* || :
	} 2>/dev/null | tr ', \t' '\n\n\n' | sed '/^\//!d' | sort -u
}

# postfix_settings prints what main.cf and master.cf of all instances say: as
# written, without comments, and as Postfix expands it.
postfix_settings() {
	for directory in $(postfix_directories); do
		for file in "$directory/main.cf" "$directory/master.cf"; do
			[ ! -f "$file" ] || sed '/^[[:space:]]*#/d' "$file"
		done
		postconf -c "$directory" -nx 2>/dev/null || :
		postconf -c "$directory" -Px 2>/dev/null || :
	done
}

# tls_files ANSWER prints the files in <config_directory>/tls which are named
# there (yes) or not (no), one a line.
tls_files() {
	settings=$(postfix_settings)
	for directory in $(postfix_directories); do
		for file in "$directory"/tls/*.pem; do
			[ -f "$file" ] || continue
			named=no
			if printf '%s\n' "$settings" | grep -qF "tls/${file##*/}"; then named=yes; fi
			[ $named != "$1" ] || printf '  %s\n' "$file"
		done
	done
}

# hook_links prints the links by which certbot called postcert.
hook_links() {
	for link in /etc/letsencrypt/renewal-hooks/*/*; do
		[ ! -L "$link" ] || [ "$(readlink "$link")" != /usr/bin/postcert ] || printf '  %s\n' "$link"
	done
}

# say_gone says what a Postfix without postcert means.
say_gone() {
	used=$(tls_files yes)
	if [ -n "$used" ]; then
		printf '%s\n' "postcert: Postfix was not touched. It goes on serving, until they expire:" "$used" \
			"  Nobody renews and deploys them now. To let Postfix use what it used before," \
			"  install postcert again, and run: postcert release"
	fi
	links=$(hook_links)
	if [ -n "$links" ]; then
		printf '%s\n' "postcert: certbot's deploy hook leads nowhere now, and can be removed:" "$links"
	fi
	if [ -e /var/lib/postcert/journal/open.json ]; then
		printf '%s\n' "postcert: a change of the certificate was interrupted and is not settled." \
			"  Install postcert again, and run: postcert recover"
	fi
}
