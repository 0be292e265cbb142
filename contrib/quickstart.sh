#!/bin/sh
# Shows what postcert does, on a private Postfix: first with the certificates of a
# throw-away CA, then by itself, with a real ACME server (Pebble) on loopback.
#
#	sh contrib/quickstart.sh
#
# It installs what is missing (postfix, openssl, iproute2), builds postcert, and
# runs everything in a network of its own and a temporary directory. The host's
# own Postfix is not touched, and nothing is left behind. After each command an
# independent "openssl s_client" tells what the listeners really serve.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

need_root() {
	[ "$(id -u)" = 0 ] || { echo "quickstart: run it as root: it starts a private Postfix" >&2; exit 2; }
}

# install_missing installs Debian packages without starting their services.
install_missing() {
	want=
	command -v postconf >/dev/null 2>&1 || [ -x /usr/sbin/postconf ] || want="$want postfix"
	command -v openssl >/dev/null 2>&1 || want="$want openssl"
	command -v ip >/dev/null 2>&1 || [ -x /sbin/ip ] || want="$want iproute2"
	[ -z "$want" ] && return
	command -v apt-get >/dev/null 2>&1 || { echo "quickstart: please install:$want" >&2; exit 2; }
	echo "installing:$want"
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086
	RUNLEVEL=1 apt-get install -y -q $want >/dev/null 2>&1 ||
		{ apt-get update -q >/dev/null && RUNLEVEL=1 apt-get install -y -q $want >/dev/null; }
	# The package starts Postfix where an init system runs; it was not there
	# before, so it need not stay up.
	case $want in *postfix*) postfix stop >/dev/null 2>&1 || : ;; esac
}

if [ "${POSTCERT_DEMO-}" = "" ]; then
	need_root
	install_missing
	command -v go >/dev/null 2>&1 || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null 2>&1 || { echo "quickstart: Go 1.26 is needed: https://go.dev/dl/" >&2; exit 2; }
	demo=$(mktemp -d /tmp/postcert.XXXXXX)
	trap 'rm -rf "$demo"' EXIT
	trap 'exit 130' INT TERM
	echo "building postcert ..."
	(cd "$here" && CGO_ENABLED=0 go build -trimpath -o "$demo/postcert" ./cmd/postcert && CGO_ENABLED=0 go build -o "$demo/impostor" ./contrib/impostor)
	# The CA is needed later, and is built meanwhile.
	(cd "$here" && CGO_ENABLED=0 go build -o "$demo/testca.new" ./contrib/testca && mv "$demo/testca.new" "$demo/testca") &
	# A network, a process table and mounts of its own: ports 25, 465 and 587 are
	# free there, and every process ends with it.
	POSTCERT_DEMO=$demo unshare --net --mount --pid --fork --kill-child --mount-proc sh "$here/contrib/quickstart.sh" && status=0 || status=$?
	exit $status
fi

demo=$POSTCERT_DEMO
PATH=$demo:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
etc=$demo/etc
ip link set lo up

bold= plain=
[ -t 1 ] && bold=$(printf '\033[1m') plain=$(printf '\033[0m')
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

# run shows a postcert command, runs it, and shows its exit status.
run() {
	printf '\n$ postcert %s\n' "$*"
	code=0
	postcert "$@" --instance "$etc" --state-dir "$demo/state" --runtime-dir "$demo/run" 2>&1 || code=$?
	printf '(exit status %s)\n' "$code"
}

# expect ends the demonstration if the last command ended otherwise.
expect() { [ "$code" = "$1" ] || { echo "quickstart: expected exit status $1, got $code" >&2; exit 1; }; }

# see shows what openssl is served on each listener.
see() {
	echo "what openssl s_client sees:"
	for l in "25 -starttls smtp" "587 -starttls smtp" "465"; do
		# shellcheck disable=SC2086
		set -- $l
		port=$1; shift
		openssl s_client -connect "127.0.0.1:$port" "$@" -servername mail.example.com </dev/null 2>/dev/null |
			openssl x509 -noout -subject -serial 2>/dev/null | tr '\n' ' ' | sed "s/^/  port $port: /" || :
		echo
	done
}

# A throw-away CA: root, intermediate, and leaves.
ca() {
	openssl ecparam -name prime256v1 -genkey -noout -out "$demo/$1.key"
	openssl req -new -key "$demo/$1.key" -subj "/O=Throw-away/CN=$2" -out "$demo/$1.csr"
	printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' >"$demo/$1.ext"
	if [ "$1" = root ]; then set -- "$1" -signkey "$demo/root.key"; else set -- "$1" -CA "$demo/root.pem" -CAkey "$demo/root.key"; fi
	name=$1; shift
	openssl x509 -req -in "$demo/$name.csr" "$@" -set_serial "0x$(openssl rand -hex 8)" -days 30 -sha256 -extfile "$demo/$name.ext" -out "$demo/$name.pem" 2>/dev/null
}

# lineage DIR CN KEY... makes a directory as certbot keeps one.
lineage() {
	dir=$demo/live/$1 cn=$2; shift 2
	mkdir -p "$dir"
	openssl genpkey "$@" -out "$dir/privkey.pem" 2>/dev/null
	openssl req -new -key "$dir/privkey.pem" -subj "/CN=$cn" -out "$demo/leaf.csr"
	printf 'subjectAltName=DNS:mail.example.com\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n' >"$demo/leaf.ext"
	openssl x509 -req -in "$demo/leaf.csr" -CA "$demo/intermediate.pem" -CAkey "$demo/intermediate.key" \
		-set_serial "0x$(openssl rand -hex 8)" -days 20 -sha256 -extfile "$demo/leaf.ext" -out "$dir/cert.pem" 2>/dev/null
	cat "$dir/cert.pem" "$demo/intermediate.pem" >"$dir/fullchain.pem"
}

umask 077
ca root "Root"
ca intermediate "Intermediate"
ec="-algorithm EC -pkeyopt ec_paramgen_curve:prime256v1"
# shellcheck disable=SC2086
{
	lineage first first $ec
	lineage renewed renewed $ec
	lineage third third $ec
}
lineage weak weak -algorithm RSA -pkeyopt rsa_keygen_bits:2048
mkdir -p "$demo/live/mixed"
cp "$demo/live/first/privkey.pem" "$demo/live/mixed/privkey.pem"
cp "$demo/live/renewed/fullchain.pem" "$demo/live/mixed/fullchain.pem"

# The private Postfix: an ordinary main.cf with a self-signed certificate, as a
# fresh Debian has it, on ports 25, 587 and 465.
umask 022
mkdir -p "$etc" "$demo/queue" "$demo/data" "$demo/log"
chmod 755 "$demo"
mail_owner=$(postconf -dh mail_owner)
chown "$mail_owner" "$demo/data"
openssl req -x509 -newkey rsa:3072 -nodes -keyout "$demo/snakeoil.key" -out "$demo/snakeoil.pem" -days 30 -subj /CN=snakeoil 2>/dev/null
cat >"$etc/main.cf" <<EOF
# A mail server like many others.
compatibility_level = 3.6
queue_directory = $demo/queue
data_directory = $demo/data
maillog_file = $demo/log/mail.log
maillog_file_prefixes = $demo
myhostname = mail.example.com
mydestination = localhost
inet_interfaces = all
alias_maps =
alias_database =

# TLS
smtpd_tls_cert_file = $demo/snakeoil.pem
smtpd_tls_key_file = $demo/snakeoil.key
smtpd_tls_security_level = may
# Only strong keys: RSA of 2048 bits is too short here.
tls_medium_cipherlist = aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3
EOF
cat >"$etc/master.cf" <<EOF
smtp       inet  n  -  n  -  -  smtpd
submission inet  n  -  n  -  -  smtpd
  -o smtpd_tls_security_level=encrypt
submissions inet n  -  n  -  -  smtpd
  -o smtpd_tls_wrappermode=yes
tlsmgr     unix  -  -  n  1000? 1 tlsmgr
rewrite    unix  -  -  n  -  -  trivial-rewrite
cleanup    unix  n  -  n  -  0  cleanup
qmgr       unix  n  -  n  300 1  qmgr
bounce     unix  -  -  n  -  0  bounce
anvil      unix  -  -  n  -  1  anvil
proxymap   unix  -  -  n  -  -  proxymap
postlog    unix-dgram n - n  -  1  postlogd
EOF
postfix -c "$etc" check >/dev/null 2>&1 || :
"$(postconf -dh daemon_directory)/master" -c "$etc" -w
trust="--trust $demo/root.pem"

say "A fresh Postfix with a self-signed certificate"
see

say "1. The first install: the diff is shown, every listener must prove it"
# shellcheck disable=SC2086
run install-cert "$demo/live/first" --name mail.example.com $trust; expect 0
see

say "2. A renewal: one file is renamed, main.cf stays as it is"
# shellcheck disable=SC2086
run install-cert "$demo/live/renewed" $trust; expect 0
see

say "3. A certificate with the key of another one: refused, nothing is touched"
# shellcheck disable=SC2086
run install-cert "$demo/live/mixed" $trust; expect 3
see

say "4. A pair that only this host's OpenSSL rejects: stopped by the rehearsal"
# shellcheck disable=SC2086
run install-cert "$demo/live/weak" $trust; expect 3
see

say "5. A good pair, but another program answers on port 465: rolled back"
openssl pkey -in "$demo/snakeoil.key" >"$demo/impostor.pem" && cat "$demo/snakeoil.pem" >>"$demo/impostor.pem"
impostor -implicit -listen 127.0.0.1:465 -pem "$demo/impostor.pem" -for 50s >/dev/null 2>&1 &
other=$!
sleep 1
# shellcheck disable=SC2086
run install-cert "$demo/live/third" $trust; expect 4
kill "$other"
wait "$other" 2>/dev/null || :
echo "(the other program has ended)"
see

say "6. Back to the certificate before"
run rollback; expect 0
see

say "7. Wanted, installed and served"
run status
run history; expect 0

# From here on postcert is its own ACME client. The CA is Pebble, in a process of
# its own; it validates by http-01, on port 80 of this private network, and wishes
# the first certificate to be renewed 6 seconds after it was issued.
mkdir -p "$demo/ca"
printf '127.0.0.1 localhost mail.example.com\n' >"$demo/hosts"
mount --bind "$demo/hosts" /etc/hosts
n=0
until [ -x "$demo/testca" ] || [ $n -gt 600 ]; do
	sleep 0.2
	n=$((n + 1))
done
testca -dir "$demo/ca" -http 80 -for 120s -renew-after 6s -refuse-after 2 >"$demo/ca/url" &
n=0
until [ -s "$demo/ca/url" ] || [ $n -gt 50 ]; do
	sleep 0.1
	n=$((n + 1))
done
url=$(cat "$demo/ca/url")

# certificate is the serial number that port 25 serves, by openssl.
certificate() {
	openssl s_client -connect 127.0.0.1:25 -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null
}

# differs WHAT WAS: another certificate than WAS must be served.
differs() { [ "$(certificate)" != "$2" ] || { echo "quickstart: $1 changed nothing: $2" >&2; exit 1; }; }

say "8. Without another client: order a certificate by ACME, and install it"
before=$(certificate)
run obtain -d mail.example.com --challenge http-01 --directory "$url" --acme-trust "$demo/ca/acme-roots.pem" \
	-m postmaster@example.com --agree-tos --trust "$demo/ca/issuers.pem"; expect 0
differs "the order" "$before"
see

say "9. The daemon renews it when the CA would like it, and proves it on every listener"
before=$(certificate)
printf '\n$ postcert daemon\n'
postcert daemon --trust "$demo/ca/issuers.pem" --instance "$etc" --state-dir "$demo/state" --runtime-dir "$demo/run" 2>&1 &
daemon=$!
n=0
while [ "$(certificate)" = "$before" ] && [ $n -lt 100 ]; do
	sleep 0.2
	n=$((n + 1))
done
sleep 1
kill -TERM $daemon
wait $daemon && code=0 || code=$?
printf '(exit status %s, by SIGTERM)\n' "$code"; expect 0
differs "the renewal" "$before"
see

say "10. A renewal that fails: the CA is down; the certificate stays, and the next attempt is known"
before=$(certificate)
run renew --force mail.example.com --trust "$demo/ca/issuers.pem"; expect 6
[ "$(certificate)" = "$before" ] || { echo "quickstart: another certificate is served after a failed renewal" >&2; exit 1; }
see
run status; expect 0
