#!/bin/sh
# Runs the scenarios on real Debian machines, from nothing to the table:
#
#   sh contrib/machines/test.sh [FLAG...] [RELEASE...]
#
# RELEASE is 11 12 13 14, or bullseye bookworm trixie forky; all of them without
# one. The flags are those of the program (go run ./contrib/machines -h), such as
# -run REGEXP, -v, -o FILE; with -q first, there are the failures and the table only.
#
# As root, on Debian: it installs mmdebstrap, systemd-container and openssl if they
# are missing; Go must be there. It builds the package, makes a tree of packages
# for each release from the host's own Debian mirror (kept in -trees for the next
# run), boots machines on loopback networks of their own, and leaves nothing
# behind but the trees and dist/.
set -eu
cd "$(dirname "$0")/../.."

PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
export PATH

command -v go >/dev/null || { echo "missing: go (https://go.dev/dl, the version in go.mod)" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "to be run as root: it boots machines" >&2; exit 1; }

say() { echo "$@"; }
[ "${1-}" != -q ] || say() { :; }

missing=
for need in mmdebstrap:mmdebstrap systemd-nspawn:systemd-container openssl:openssl nsenter:util-linux; do
	command -v "${need%%:*}" >/dev/null || missing="$missing ${need#*:}"
done
if [ -n "$missing" ]; then
	say "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086
	apt-get install -y -q --no-install-recommends --no-remove $missing >/dev/null 2>&1 ||
		{ apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends --no-remove $missing >/dev/null; }
fi

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$tools"

say 'building the packages and the programs for the machines'
# packages VERSION NAME: as NAME.deb and NAME.rpm among the tools.
packages() {
	sh contrib/package.sh $1 >"$tools/built" || { cat "$tools/built"; exit 1; }
	for form in deb rpm; do
		cp "$(grep "^dist/.*\\.$form\$" "$tools/built")" "$tools/$2.$form"
	done
}
packages 0.0.1 older
rm -f dist/*0.0.1*
packages '' postcert
cp -R contrib/package "$tools/package"
for program in testca impostor; do
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -o "$tools/$program" "./contrib/$program"
done
CGO_ENABLED=0 go build -buildvcs=false -o "$tools/machines" ./contrib/machines

# In the background, so that a signal reaches this shell, which passes it on.
"$tools/machines" -tools "$tools" "$@" &
run=$!
trap 'kill -TERM $run 2>/dev/null' INT TERM
status=0
while :; do
	wait $run && status=0 || status=$?
	kill -0 $run 2>/dev/null || break
done
exit $status
