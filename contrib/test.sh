#!/bin/sh
# Everything that a change must pass, in the order in which it fails fastest.
#
#   sh contrib/test.sh [-short | -long] [packages...]
#
#   -short   go test -short: without the tests that take long
#   -long    the long forms too (POSTCERT_LONG=1), and 30 s of each fuzz target
#
# packages are as for go test; the default is ./... Each stage prints one line
# with its time; the first that fails ends the run, with its output. With CI set
# in the environment a skipped test is a failure.
#
# What the tests need is installed first, on Debian and Ubuntu as root; elsewhere
# what is missing is named. Installing Postfix never replaces another mail
# server, and no Postfix is left running on this host that was not before.
set -u
cd "$(dirname "$0")/.." || exit 1

usage() { echo "usage: sh contrib/test.sh [-short | -long] [packages...]" >&2; exit 2; }

form=
case "${1-}" in
-short | -long) form=$1; shift ;;
esac
for arg in "$@"; do
	case $arg in -*) usage ;; esac
done
[ $# -gt 0 ] || set -- ./...

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stage NAME COMMAND...: one line, and the output if it fails.
stage() {
	name=$1
	shift
	begin=$(date +%s)
	if "$@" >"$work/output" 2>&1; then
		printf 'ok    %-22s %4d s\n' "$name" $(($(date +%s) - begin))
		return
	fi
	printf 'FAIL  %-22s %4d s\n' "$name" $(($(date +%s) - begin))
	cat "$work/output"
	exit 1
}

packages='postfix postfix-mysql postfix-pcre openssl gcc libc6-dev acl attr patch strace procps iproute2 util-linux e2fsprogs ca-certificates'
programs='openssl gcc patch setfacl setfattr strace ps ip unshare mkfs.ext4 chattr'

installed() {
	case $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) in
	ii*) return 0 ;;
	esac
	return 1
}

postfix_runs() { command -v postfix >/dev/null && postfix status >/dev/null 2>&1; }

# stop_postfix ends what the package's own start has begun. A Postfix that is new
# on this host is not to come back at the next boot either.
stop_postfix() {
	if [ -d /run/systemd/system ]; then
		if [ "$1" = new ]; then
			systemctl disable --now postfix.service
		else
			systemctl stop postfix.service
		fi
	fi
	if postfix_runs; then postfix stop; fi
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		postfix_runs || return 0
		sleep 1
	done
	echo "the Postfix of this host was started by its installation and does not stop"
	return 1
}

install_needs() {
	if ! command -v go >/dev/null; then
		echo "missing: go (https://go.dev/dl, the version in go.mod)"
		return 1
	fi
	missing=
	if ! command -v dpkg-query >/dev/null; then
		for program in $programs postconf; do
			command -v "$program" >/dev/null || missing="$missing $program"
		done
		[ -z "$missing" ] && return
		echo "missing programs:$missing"
		return 1
	fi
	for package in $packages; do
		installed "$package" || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		echo "missing; as root: apt-get install --no-install-recommends$missing"
		return 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	postfix=old
	installed postfix || postfix=new
	running=no
	if postfix_runs; then running=yes; fi
	if [ $postfix = new ]; then # what it starts for a moment listens on loopback only
		echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections
	fi
	# --no-remove: Debian has one mail server at a time, and this may be somebody's.
	apt_install $missing || { apt-get update && apt_install $missing; } || return 1
	if [ $running = no ]; then stop_postfix $postfix; fi
}

apt_install() { apt-get install -y --no-install-recommends --no-remove "$@"; }

formatted() {
	changed=$(gofmt -l .) || return 1
	[ -z "$changed" ] || { echo "gofmt would change:"; echo "$changed"; return 1; }
}

# run_tests prints each package as it ends, then its own stage line, and the sum of
# testsummary as the last line of all.
run_tests() {
	limit=25m
	flags=
	noskip=
	case $form in
	-short) flags=-short ;;
	-long) limit=120m; export POSTCERT_LONG=1 ;;
	esac
	[ -z "${CI-}" ] || noskip=-noskip
	begin=$(date +%s)
	# -count=1: results depend on the Postfix of this host, which go's cache does
	# not know. The statuses go through files, as a pipe has only its last one.
	{
		{
			CGO_ENABLED=1 go test -race -count=1 -timeout "$limit" -json $flags "$@" 2>&1
			echo $? >"$work/go"
		} | "$work/testsummary" $noskip
		echo $? >"$work/summary"
	} | tee "$work/tests" | sed '$d'
	verdict=FAIL
	[ "$(cat "$work/go") $(cat "$work/summary")" = "0 0" ] && verdict=ok
	printf '%-5s %-22s %4d s\n' $verdict 'go test -race' $(($(date +%s) - begin))
	tail -n 1 "$work/tests"
	[ $verdict = ok ]
}

# fuzz gives each fuzz target of the packages its time.
fuzz() {
	for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "$@"); do
		targets=$(go test -list '^Fuzz' "$package" | grep '^Fuzz') || continue
		for target in $targets; do
			echo "$package $target"
			go test -run '^$' -fuzz "^$target\$" -fuzztime 30s -fuzzminimizetime 5s "$package" || return 1
		done
	done
}

PATH=$PATH:/usr/sbin:/sbin
export PATH
stage 'what the tests need' install_needs
stage 'gofmt -l' formatted
stage 'go vet' go vet "$@"
stage 'go build (static)' env CGO_ENABLED=0 go build -buildvcs=false -o /dev/null "$@"
stage 'staticcheck' go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 "$@"
[ "$form" != -long ] || stage 'fuzz' fuzz "$@"

stage 'testsummary' env CGO_ENABLED=0 go build -buildvcs=false -o "$work/testsummary" ./contrib/testsummary
run_tests "$@"
