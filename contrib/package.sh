#!/bin/sh
# Builds the packages:
#
#   sh contrib/package.sh [VERSION]
#
#   dist/postcert_VERSION_amd64.deb
#   dist/postcert-VERSION.x86_64.rpm
#
# VERSION is the newest entry of contrib/package/changelog, unless it is given. The
# date in the packages is that entry's, or SOURCE_DATE_EPOCH: with the same Go, the
# same source becomes the same bytes, on any day, in any directory, from a clone or
# from an archive without git. What is in them is said in contrib/package/nfpm.yaml
# alone. It needs Go, and the network once, for nfpm and the modules.
set -eu
umask 022
cd "$(dirname "$0")/.."

# Newer ones do not build with the Go of go.mod.
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

newest=$(sed -n '1s/^postcert (\([^)]*\)) .*/\1/p' contrib/package/changelog)
VERSION=${1:-$newest}
case $VERSION in
[0-9]*.[0-9]*) ;;
*)
	echo "package.sh: $VERSION is not a version such as 0.2.0" >&2
	exit 2
	;;
esac
date=$(sed -n '/^ -- /{s/^ -- .*>  //p;q;}' contrib/package/changelog)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date -d "$date" +%s)}

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export VERSION SOURCE_DATE_EPOCH

# What a developer's own settings would change in the binary is set here. The
# commit is not stamped into it, as an archive does not know it.
GOFLAGS= GOEXPERIMENT= GOFIPS140=off CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1
export GOFLAGS GOEXPERIMENT GOFIPS140 CGO_ENABLED GOOS GOARCH GOAMD64
go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$stage/postcert" ./cmd/postcert

# third_party prints each module that is linked, with its version and licence: the
# text that has to go with the binary.
third_party() {
	printf 'postcert contains parts of these modules of others.\n'
	{
		go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/postcert
		echo "go $(go env GOVERSION) $(go env GOROOT)"
	} | LC_ALL=C sort -u | while read -r module at dir; do
		printf '\n\n==== %s %s\n' "$module" "$at"
		for text in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ ! -f "$text" ] || { echo; cat "$text"; }
		done
	done
}
third_party >"$stage/third-party"
gzip -9n "$stage/third-party"

for shell in bash zsh fish; do
	"$stage/postcert" completion $shell >"$stage/completion.$shell"
done
# -n: neither the name nor the time of the file.
for page in postcert.1 postcert.yaml.5; do
	gzip -9n <contrib/man/$page >"$stage/$page.gz"
done
gzip -9n <contrib/package/changelog >"$stage/changelog.gz"
for script in deb/postinst deb/prerm deb/postrm rpm/post rpm/preun rpm/postun; do
	mkdir -p "$stage/${script%/*}"
	sed -e '/^#INCLUDE served.sh$/{r contrib/package/served.sh' -e 'd;}' contrib/package/$script >"$stage/$script"
done

sed "s|@STAGE@|$stage|" contrib/package/nfpm.yaml >"$stage/nfpm.yaml"

mkdir -p dist
for package in "deb dist/postcert_${VERSION}_amd64.deb" "rpm dist/postcert-$VERSION.x86_64.rpm"; do
	env -u GOOS -u GOARCH go run $nfpm package --config "$stage/nfpm.yaml" --packager "${package%% *}" --target "$stage/out"
	mv "$stage/out" "${package#* }"
	echo "${package#* }"
done
