#!/bin/sh
# Whether Postfix's own postfix-script, as it is released and without the changes of
# a distribution, has something to say about what postcert leaves on disk:
#
#   sh upstream-check.sh POSTCERT POSTFIX-SCRIPT
#
# POSTFIX-SCRIPT is conf/postfix-script of a release; Debian's postfix_*.orig.tar.gz
# has it ("apt-get source --download-only postfix"). It takes the place of the host's, so this is for a machine that is thrown away, as root. RPM-based
# distributions use it unchanged, and it judges links and modes in the
# configuration directory in another way than Debian's.
set -u
postcert=${1:?POSTCERT} script=${2:?POSTFIX-SCRIPT}
. "$(dirname "$0")/lifecycle.sh"

install_pair() { "$postcert" install-cert --cert "$work/fullchain.pem" --key "$work/privkey.pem" --trust "$work/ca.pem" --host $name "$@"; }
renewed() { pair && install_pair; }

here=$(postconf -h daemon_directory)/postfix-script
is 'the release has another script than this distribution' not cmp -s "$script" "$here"
is 'it takes its place' cp "$script" "$here"
complaints=$(check)
is 'install-cert' install_pair
is 'openssl sees it' equal "$(served)" "$pair"
is 'postfix check says what it said before' equal "$(check)" "$complaints"
is 'a second generation' renewed
is 'openssl sees it' equal "$(served)" "$(fingerprint "$work/fullchain.pem")"
is 'postfix check says what it said before' equal "$(check)" "$complaints"

# It does look: each of these is told.
chmod g+w "$tls/$name.pem"
is 'a key file that the group may write is told' complains "/tls/$name.pem"
chmod g-w "$tls/$name.pem"
chown postfix "$tls/$name.pem"
is 'a key file that is not of root is told' complains "/tls/$name.pem"
chown root "$tls/$name.pem"
ln -s ../main.cf "$tls/link"
is 'so is a link, whose mode is never right' complains /tls/link
rm "$tls/link"
is 'rollback' "$postcert" rollback
is 'release' "$postcert" release
is 'openssl sees what was before' equal "$(served)" "$before"
is 'postfix check says what it said before' equal "$(check)" "$complaints"
exit $failed
