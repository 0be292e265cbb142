#!/bin/sh
# What happens to a host on which the .deb is installed, upgraded, removed and
# purged, while Postfix serves mail:
#
#   sh lifecycle-deb.sh OLD.deb NEW.deb
#
# To be run as root in a Debian machine that is thrown away: it has systemd,
# Postfix and openssl, and nothing of postcert. The exit status says whether
# something was not as it must be.
set -u
old=${1:?OLD.deb} new=${2:?NEW.deb}
. "$(dirname "$0")/lifecycle.sh"

echo '# install'
is 'dpkg -i' run dpkg -i "$old"
is 'Postfix is as it was' postfix_is "$before"
is 'the timer is enabled and waits' state postcert-renew.timer 'enabled active'
is 'the path unit is enabled and waits' state postcert-recover.path 'enabled active'
is 'recover is enabled for the boot' equal "$(systemctl is-enabled postcert-recover-boot.service)" enabled
is 'the daemon is not enabled' state postcert.service 'disabled inactive'
is 'no configuration, and its directory is private' equal "$(stat -c '%a %U' /etc/postcert)$(ls -A /etc/postcert)" '700 root'
is 'the manual pages and the program' [ -s /usr/share/man/man1/postcert.1.gz -a -x /usr/bin/postcert ]
is 'install-cert' run postcert install-cert --cert "$work/fullchain.pem" --key "$work/privkey.pem" --trust "$work/ca.pem" --host $name
is 'openssl sees it' equal "$(served)" "$pair"
is 'Postfix has nothing to say about it' equal "$(check)" "$complaints"
chmod g+w "$tls/$name.pem"
is 'as it would' complains "/tls/$name.pem"
chmod g-w "$tls/$name.pem"

echo '# upgrade, with units that the administrator turned off'
systemctl disable --now postcert-renew.timer >/dev/null 2>&1
systemctl mask --now postcert-recover.path >/dev/null 2>&1
is 'dpkg -i of the newer' run dpkg -i "$new"
is 'Postfix is as it was' postfix_is "$pair"
is 'the timer stays disabled' state postcert-renew.timer 'disabled inactive'
is 'the path unit stays masked' state postcert-recover.path 'masked inactive'
systemctl unmask postcert-recover.path >/dev/null 2>&1
systemctl enable --now postcert-recover.path >/dev/null 2>&1

echo '# upgrade, while the daemon runs, started and enabled by the administrator'
is 'the daemon' systemctl enable --now postcert.service
was=$(systemctl show -p MainPID --value postcert.service)
is 'dpkg -i' run dpkg -i "$new"
is 'another process' not equal "$(systemctl show -p MainPID --value postcert.service)" "$was"
is 'the daemon runs, and a pass of the timer does nothing' daemon_first 'disabled inactive'
is 'its program is the one on disk' equal "$(readlink "/proc/$(systemctl show -p MainPID --value postcert.service)/exe")" /usr/bin/postcert
is 'Postfix is as it was' postfix_is "$pair"
systemctl disable --now postcert.service >/dev/null 2>&1
is 'started by hand it is restarted too' systemctl start postcert.service
was=$(systemctl show -p MainPID --value postcert.service)
is 'dpkg -i' run dpkg -i "$new"
is 'the daemon runs, as another process' restarted "$was"
is 'the daemon is not enabled by that' equal "$(systemctl is-enabled postcert.service)" disabled

echo '# remove'
mkdir -p /etc/letsencrypt/renewal-hooks/deploy && ln -sf /usr/bin/postcert /etc/letsencrypt/renewal-hooks/deploy/postcert
is 'dpkg -r' run dpkg -r postcert
is 'it says what Postfix goes on with' says "$tls/$name.pem"
is 'and which hook leads nowhere' says /etc/letsencrypt/renewal-hooks/deploy/postcert
is 'nothing of ours runs' not pgrep -x postcert
is 'Postfix is as it was' postfix_is "$pair"
is 'the state is there' [ -d /var/lib/postcert/generations ]

echo '# install again, and purge'
is 'dpkg -i' run dpkg -i "$new"
is 'the timer stays disabled' equal "$(systemctl is-enabled postcert-renew.timer)" disabled
is 'status knows what is served' run postcert status
is 'dpkg -P' run dpkg -P postcert
is 'it says what Postfix goes on with' says "$tls/$name.pem"
is 'it says what is kept' says /var/lib/postcert/generations
is 'Postfix is as it was' postfix_is "$pair"
is 'the generations are kept' [ -f "$(ls /var/lib/postcert/generations/*/$name/*/postfix.pem | head -n 1)" ]
is 'status and history are not' not test -e /var/lib/postcert/status -o -e /var/lib/postcert/history -o -e /var/lib/postcert/lock
is 'no link of a unit is left' no_unit
is 'neither is the directory of the configuration' not test -e /etc/postcert

echo '# release, and purge'
is 'dpkg -i' run dpkg -i "$new"
is 'a new installation enables the timer' state postcert-renew.timer 'enabled active'
is 'release' run postcert release
is 'openssl sees what was before' equal "$(served)" "$before"
is 'dpkg -P' run dpkg -P postcert
is 'nothing is said to be in use' silent 'goes on serving'
is 'no state is left' not test -e /var/lib/postcert
is 'Postfix is as it was' postfix_is "$before"

echo '# what is not settled or not ours is kept'
mkdir -p /var/lib/postcert/journal /var/lib/postcert/history && : >/var/lib/postcert/journal/open.json
is 'dpkg -i' run dpkg --unpack "$new"
is 'dpkg -P with an open journal' run dpkg -P postcert
is 'it says so' says 'was interrupted and is not settled'
is 'all of it is kept' [ -e /var/lib/postcert/journal/open.json -a -d /var/lib/postcert/history ]
rm -r /var/lib/postcert
mkdir -p /var/lib/postcert/acme /etc/dovecot && echo 'ssl_cert = </var/lib/postcert/acme/x.pem' >/etc/dovecot/zz-postcert.conf
is 'dpkg -i' run dpkg --unpack "$new"
is 'dpkg -P with another program that names a file of it' run dpkg -P postcert
is 'it says which' says /etc/dovecot/zz-postcert.conf
is 'all of it is kept' [ -d /var/lib/postcert/acme ]
rm -r /var/lib/postcert /etc/dovecot/zz-postcert.conf

echo '# where services are not to be started'
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
is 'dpkg -i with a policy-rc.d that forbids it' run dpkg -i "$new"
is 'enabled, and not started' state postcert-renew.timer 'enabled inactive'
is 'dpkg -P' run dpkg -P postcert
rm /usr/sbin/policy-rc.d
is 'dpkg -i without systemd' run unshare -m sh -c 'mount -t tmpfs none /run && dpkg -i "$0"' "$new"
systemctl daemon-reload
is 'enabled, and not started' state postcert-renew.timer 'enabled inactive'
is 'dpkg -P without systemd' run unshare -m sh -c 'mount -t tmpfs none /run && dpkg -P postcert'
is 'no link of a unit is left' no_unit
is 'Postfix is as it was' postfix_is "$before"
exit $failed
