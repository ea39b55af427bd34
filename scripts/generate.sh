#!/bin/sh
# Generates the Go code of api/ from its protobuf schema, by scripts/protogen and the
# plugins at the versions below, after buf has linted it. With --check, fails where
# the committed code is stale, and changes nothing; so whoever changes the schema
# has it linted.
#
# The tools are built once into the user's cache directory (override with
# EXONODE_TOOLS); nothing of them enters go.mod.
set -eu

BUF=v1.50.0
PROTOC_GEN_GO=v1.36.12
PROTOC_GEN_CONNECT_GO=v1.21.1

cd "$(dirname "$0")/../api"

tools=${EXONODE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/exonode-tools/$BUF-$PROTOC_GEN_GO-$PROTOC_GEN_CONNECT_GO}
mkdir -p "$tools"

install_tool() { # name, package@version
	[ -x "$tools/$1" ] || GOBIN=$tools GOFLAGS=-mod=mod CGO_ENABLED=0 go install "$2"
}
install_tool protoc-gen-go "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOC_GEN_GO"
install_tool protoc-gen-connect-go "connectrpc.com/connect/cmd/protoc-gen-connect-go@$PROTOC_GEN_CONNECT_GO"
PATH=$tools:$PATH
export PATH
generate() { # directory to write to
	(cd ../scripts/protogen && CGO_ENABLED=0 go build -o "$tools/protogen" .)
	protogen -out "$1" exonode/v1/exonode.proto go=paths=source_relative connect-go=paths=source_relative,simple
}

case ${1-} in
"")
	install_tool buf "github.com/bufbuild/buf/cmd/buf@$BUF"
	buf lint
	generate .
	;;
--check)
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	generate "$out"
	for f in exonode/v1/exonode.pb.go exonode/v1/exonodev1connect/exonode.connect.go; do
		cmp "$f" "$out/$f" || {
			echo "generate.sh: api/$f is stale: run scripts/generate.sh" >&2
			exit 1
		}
	done
	;;
*)
	echo "usage: scripts/generate.sh [--check]" >&2
	exit 2
	;;
esac
