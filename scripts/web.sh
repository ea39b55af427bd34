#!/bin/sh
# Puts the verifier for browsers and Node.js together in a directory, which is made:
# verify.wasm, client/web's files, and Go's wasm_exec.js, which must be of the same
# version of Go as the .wasm.
set -eu
dir=$1
cd "$(dirname "$0")/.."
go=${GO:-go}
mkdir -p "$dir"
GOOS=js GOARCH=wasm CGO_ENABLED=0 "$go" build -trimpath -ldflags='-s -w' -o "$dir/verify.wasm" ./client/web/wasm
cp client/web/*.js client/web/index.html client/web/package.json "$dir/"
root=$("$go" env GOROOT)
cp "$root/lib/wasm/wasm_exec.js" "$dir/"
cp "$root/LICENSE" "$dir/wasm_exec.LICENSE"
