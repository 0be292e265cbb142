#!/bin/sh
# Everything that a change must pass, in the order in which it fails fastest.
#
#   sh contrib/test.sh [-short | -long] [packages...]
#
#   -short   go test -short, and without the proofs, the mutants and the fuzzing
#   -long    the long forms of the proofs (POSTCERT_LONG=1): hours
#
# First the tests with the race detector. Then the proofs, without it: tests named
# TestProof..., which show the figures of README.md. Then contrib/dns, a module of
# its own with some 200 others below it, the mutants, each of which a test must
# notice, and a minute for each fuzz target.
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

packages='postfix postfix-mysql postfix-pcre bind9 dovecot-imapd certbot lego dehydrated uacme acmetool curl openssl gcc libc6-dev acl attr patch strace procps iproute2 util-linux e2fsprogs ca-certificates prometheus systemd lintian rpm rpm2cpio cpio mandoc groff-base sslscan testssl.sh'
[ "$form" != -long ] || packages="$packages xfsprogs btrfs-progs"
programs='openssl named dovecot certbot lego gcc patch setfacl setfattr strace ps ip unshare mkfs.ext4 chattr promtool journalctl lintian rpm rpm2cpio cpio mandoc groff sslscan testssl'

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
	named=old
	installed bind9 || named=new
	dovecot=old
	installed dovecot-core || dovecot=new
	prometheus=old # for its promtool
	installed prometheus || prometheus=new
	running=no
	if postfix_runs; then running=yes; fi
	if [ $postfix = new ]; then # what it starts for a moment listens on loopback only
		echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections
	fi
	# A unit that is masked is not started by its installation.
	if [ $prometheus = new ] && [ -d /run/systemd/system ]; then systemctl mask --runtime prometheus.service; fi
	# --no-remove: Debian has one mail server at a time, and this may be somebody's.
	got=0
	apt_install $missing || { apt-get update && apt_install $missing; } || got=1
	if [ $prometheus = new ] && [ -d /run/systemd/system ]; then
		systemctl unmask --runtime prometheus.service
		systemctl disable prometheus.service
	elif [ $prometheus = new ] && [ -x /etc/init.d/prometheus ]; then
		/etc/init.d/prometheus stop
	fi
	[ $got = 0 ] || return 1
	if [ $named = new ] && [ -d /run/systemd/system ]; then systemctl disable --now named.service; fi
	if [ $dovecot = new ] && [ -d /run/systemd/system ]; then
		systemctl disable --now dovecot.socket dovecot.service
	elif [ $dovecot = new ] && [ -x /etc/init.d/dovecot ]; then
		/etc/init.d/dovecot stop || :
	fi
	if [ $running = no ]; then stop_postfix $postfix; fi
}

apt_install() { apt-get install -y --no-install-recommends --no-remove "$@"; }

formatted() {
	changed=$(gofmt -l .) || return 1
	[ -z "$changed" ] || { echo "gofmt would change:"; echo "$changed"; return 1; }
}

# go_test FLAGS runs tests and keeps what they say, as JSON, in files: a part's
# output in $work/NAME.json, its status in $work/NAME.status.
#
# -count=1: results depend on the Postfix of this host, which go's cache does not
# know. The statuses go through files, as a pipe has only its last one.
go_test() {
	name=$1
	shift
	go test -count=1 -timeout "$limit" -json $short "$@" >"$work/$name.json" 2>&1
	echo $? >"$work/$name.status"
}

# finish NAME TITLE BEGIN FILES: the packages, what failed, the figures, and the
# stage's line of what go_test left in files.
finish() {
	cat "$work"/$1*.json | "$work/testsummary" $noskip -slowest 8 -figures '^[RDS][0-9]+[^:]*: ' >"$work/$1.summary"
	echo $? >"$work/$1-summary.status"
	sed '$d' "$work/$1.summary"
	tail -n 1 "$work/$1.summary" >>"$work/counts"
	verdict=FAIL
	[ "$(cat "$work"/$1*.status | sort -u)" = 0 ] && verdict=ok
	printf '%-5s %-22s %4d s\n' $verdict "$2" $(($(date +%s) - $3))
	[ $verdict = ok ] || { total; exit 1; }
}

# total is the last line of all: the sum of the stages.
total() {
	awk '{ p += $1; f += $3; s += $5 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$work/counts"
}

# The package whose tests are most of the time, nearly all of it waiting for
# Postfix, runs in parts side by side. postfixtest gives each its own ports.
parted=postcert/cmd/postcert
parts=3

# race_tests runs everything but the proofs with the race detector.
race_tests() {
	begin=$(date +%s)
	rest=$(go list "$@" | grep -vx "$parted")
	CGO_ENABLED=1
	export CGO_ENABLED
	pids=
	if go list "$@" | grep -qx "$parted"; then
		go test -race -list '^(Test|Example|Fuzz)' $parted >"$work/list" 2>&1 || { cat "$work/list"; exit 1; }
		for part in $(seq $parts); do
			tests=$(awk -v n=$parts -v k="$part" '/^(Test|Example|Fuzz)/ && !/^TestProof[A-Z]/ && NR % n == k % n' "$work/list" | paste -sd '|' -)
			go_test "race-$part" -race -run "^($tests)\$" $parted &
			pids="$pids $!"
		done
	fi
	[ -z "$rest" ] || go_test race-rest -race -skip '^TestProof[A-Z]' $rest
	[ -z "$pids" ] || wait $pids
	unset CGO_ENABLED
	finish race 'go test -race' "$begin"
}

# This proof waits for many minutes, nearly all of it for time-outs: -long only.
later='^TestProofOpenSSL$'

# proofs runs the tests named TestProof..., which measure, without the race
# detector: one package after the other, as they share their work out themselves.
proofs() {
	begin=$(date +%s)
	with=
	for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "$@"); do
		if grep -qs '^func TestProof[A-Z]' "$(go list -f '{{.Dir}}' "$package")"/*_test.go; then
			with="$with $package"
		fi
	done
	[ -n "$with" ] || return 0
	CGO_ENABLED=0
	export CGO_ENABLED
	go_test proof -p 1 -run '^TestProof[A-Z]' -skip "$later" $with
	unset CGO_ENABLED
	finish proof 'proofs' "$begin"
}

# shown runs a program that prints a line per result, and then the stage's line.
shown() {
	name=$1
	shift
	begin=$(date +%s)
	verdict=ok
	"$@" || verdict=FAIL
	printf '%-5s %-22s %4d s\n' $verdict "$name" $(($(date +%s) - begin))
	[ $verdict = ok ] || { total; exit 1; }
}

PATH=$PATH:/usr/sbin:/sbin
export PATH
stage 'what the tests need' install_needs
stage 'gofmt -l' formatted
stage 'go vet' go vet "$@"
stage 'go build (static)' env CGO_ENABLED=0 go build -buildvcs=false -o /dev/null "$@"
stage 'staticcheck' go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 "$@"

# Tests build it where there is no network: its modules are to be there by then.
[ "$form" = -short ] || stage 'contrib/dns, its modules' sh -c 'cd contrib/dns && go list -deps ./... && go list -deps -test ./...'
stage 'testsummary' env CGO_ENABLED=0 go build -buildvcs=false -o "$work/testsummary" ./contrib/testsummary

limit=60m
short=
noskip=
case $form in
-short) short=-short ;;
-long) limit=12h; later='^$'; export POSTCERT_LONG=1 ;;
esac
[ -z "${CI-}" ] || noskip=-noskip
race_tests "$@"
if [ "$form" != -short ]; then
	proofs "$@"
	CGO_ENABLED=0
	export CGO_ENABLED
	stage 'contrib/dns' sh -c 'cd contrib/dns && go vet ./... && go test -count=1 ./...'
	shown 'mutants' go run ./contrib/mutants
	shown 'fuzz, a minute each' go run ./contrib/fuzz -time 60s -jobs 11 "$@"
fi
total
