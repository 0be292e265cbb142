# Part of lifecycle-deb.sh and lifecycle-rpm.sh: what is asked, and of whom.
#
# Each line that they print is one thing that must be so; the first word is ok or
# FAIL. openssl says what is served; the process of master(8) says whether Postfix
# was touched.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tls=$(postconf -h config_directory)/tls
name=mail.example.test
failed=0

# is WHAT COMMAND...: the command must succeed.
is() {
	what=$1
	shift
	if "$@" >"$work/output" 2>&1; then
		echo "ok    $what"
	else
		echo "FAIL  $what"
		sed 's/^/      | /' "$work/output"
		failed=1
	fi
}

not() { ! "$@"; }
equal() { [ "$1" = "$2" ] || { echo "<$1> is not <$2>"; return 1; }; }
says() { grep -qF -- "$1" "$work/said" || { cat "$work/said"; return 1; }; }
silent() { ! grep -F -- "$1" "$work/said"; }
state() { equal "$(systemctl is-enabled "$1" 2>/dev/null) $(systemctl is-active "$1")" "$2"; }
no_unit() { equal "$(find /etc/systemd/system /run/systemd/system -name "postcert*")" ''; }

# served prints the fingerprint of what port 25 presents.
served() {
	openssl s_client -connect 127.0.0.1:25 -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256
}
fingerprint() { openssl x509 -noout -fingerprint -sha256 -in "$1"; }

# postfix_is FINGERPRINT: what is served, also after a reload, by the same master,
# and without a new complaint of Postfix's own check.
postfix_is() {
	equal "$(served)" "$1" && equal "$(master)" "$master" &&
		equal "$(check)" "$complaints" && postfix reload 2>&1 && sleep 1 && equal "$(served)" "$1"
}
# check is what "postfix check" has to say. It says so to a terminal only, and
# elsewhere to the log.
check() { script -qec 'postfix check' /dev/null </dev/null | tr -d '\r' | sort; }
complains() { check | grep -F -- "$1"; }
master() { tr -d ' ' <"$(postconf -h queue_directory)/pid/master.pid"; }


# skipped is how often systemd has said that a pass is not for it. It forgets a
# unit's Result with the unit, which nothing holds once the timer is disabled.
skipped() { journalctl --sync && journalctl -q --no-pager -o cat -u postcert-renew.service | grep -c "Skipped due to 'exec-condition'"; }

# daemon_first TIMER: the timer stays as it was, and what it starts does nothing
# while the daemon runs.
daemon_first() {
	skips=$(skipped)
	state postcert.service 'enabled active' && state postcert-renew.timer "$1" &&
		systemctl start postcert-renew.service &&
		equal "$(skipped)" $((skips + 1)) &&
		equal "$(systemctl is-active postcert.service)" active
}
restarted() { equal "$(systemctl is-active postcert.service)" active && not equal "$(systemctl show -p MainPID --value postcert.service)" "$1"; }

run() { "$@" >"$work/said" 2>&1; }

# pair makes a CA and a leaf for $name, once.
pair() {
	openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=Throw-away CA' -keyout "$work/ca.key" -out "$work/ca.pem" &&
		openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$work/privkey.pem" -out "$work/leaf.csr" &&
		printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n' $name >"$work/ext" &&
		openssl x509 -req -in "$work/leaf.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 20 -extfile "$work/ext" -out "$work/fullchain.pem"
}

master=$(master) || exit 1
complaints=$(check)
before=$(served)
is 'a pair of a throw-away CA' pair
pair=$(fingerprint "$work/fullchain.pem")
