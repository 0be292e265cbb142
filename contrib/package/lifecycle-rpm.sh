#!/bin/sh
# What happens to a host on which the .rpm is installed, upgraded and erased, while
# Postfix serves mail:
#
#   sh lifecycle-rpm.sh OLD.rpm NEW.rpm
#
# To be run as root in a machine that is thrown away: it has systemd, Postfix,
# openssl and rpm, and nothing of postcert. It may be a Debian one, whose rpm knows
# nothing of Debian's packages: the program, the scriptlets and their arguments are
# the same. The exit status says whether something was not as it must be.
set -u
old=${1:?OLD.rpm} new=${2:?NEW.rpm}
. "$(dirname "$0")/lifecycle.sh"

verified() { equal "$(rpm -V --nodeps postcert)" ''; }

# As RPM-based distributions have it: what no preset names is not enabled.
mkdir -p /etc/systemd/system-preset
echo 'disable *' >/etc/systemd/system-preset/99-default-disable.preset

echo '# install'
is 'rpm -i' run rpm --nodeps -i "$old"
is 'Postfix is as it was' postfix_is "$before"
is 'the timer is enabled and waits' state postcert-renew.timer 'enabled active'
is 'the path unit is enabled and waits' state postcert-recover.path 'enabled active'
is 'recover is enabled for the boot' equal "$(systemctl is-enabled postcert-recover-boot.service)" enabled
is 'the daemon is not enabled' state postcert.service 'disabled inactive'
is 'files, modes and owners are those of the package' verified
is 'no configuration, and its directory is private' equal "$(stat -c '%a %U' /etc/postcert)$(ls -A /etc/postcert)" '700 root'
is 'install-cert' run postcert install-cert --cert "$work/fullchain.pem" --key "$work/privkey.pem" --trust "$work/ca.pem" --host $name
is 'openssl sees it' equal "$(served)" "$pair"

echo '# upgrade, with a timer that the administrator turned off'
systemctl disable --now postcert-renew.timer >/dev/null 2>&1
is 'rpm -U' run rpm --nodeps -U "$new"
is 'one version is installed' equal "$(rpm -qa postcert | wc -l)" 1
is 'the timer stays disabled' state postcert-renew.timer 'disabled inactive'
is 'the path unit waits' state postcert-recover.path 'enabled active'
is 'Postfix is as it was' postfix_is "$pair"

echo '# another version, while the daemon runs'
is 'the daemon' systemctl enable --now postcert.service
was=$(systemctl show -p MainPID --value postcert.service)
is 'rpm -U --oldpackage' run rpm --nodeps -U --oldpackage "$old"
is 'the daemon runs, as another process' restarted "$was"
is 'the daemon runs, and a pass of the timer does nothing' daemon_first 'disabled inactive'
is 'its program is the one on disk' equal "$(readlink "/proc/$(systemctl show -p MainPID --value postcert.service)/exe")" /usr/bin/postcert
is 'Postfix is as it was' postfix_is "$pair"

echo '# erase'
is 'rpm -e' run rpm -e postcert
is 'it says what Postfix goes on with' says "$tls/$name.pem"
is 'nothing of ours runs' not pgrep -x postcert
is 'no link of a unit is left' no_unit
is 'the state is there' [ -d /var/lib/postcert/generations ]
is 'Postfix is as it was' postfix_is "$pair"

echo '# where systemd does not run'
is 'rpm -i' run unshare -m sh -c 'mount -t tmpfs none /run && rpm --nodeps -i "$0"' "$new"
systemctl daemon-reload
is 'enabled, and not started' state postcert-renew.timer 'enabled inactive'
is 'rpm -e' run unshare -m sh -c 'mount -t tmpfs none /run && rpm -e postcert'
is 'no link of a unit is left' no_unit
is 'Postfix is as it was' postfix_is "$pair"
exit $failed
