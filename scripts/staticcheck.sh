#!/bin/sh
# Runs staticcheck, at the version below, over the packages given. It is built
# once into the user's cache directory; nothing of it enters go.mod. SA1019 is
# off: the transport must carry fields of raft's messages that are deprecated.
set -eu
STATICCHECK=v0.8.2
tools=${EXONODE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/exonode-tools}/staticcheck-$STATICCHECK
[ -x "$tools/staticcheck" ] || GOBIN=$tools GOFLAGS=-mod=mod CGO_ENABLED=0 go install "honnef.co/go/tools/cmd/staticcheck@$STATICCHECK"
exec "$tools/staticcheck" -checks 'all,-SA1019,-ST1000,-ST1003,-ST1016,-ST1020,-ST1021,-ST1022' "$@"
