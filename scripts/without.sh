#!/usr/bin/env bash
# Runs a command over the current commit with one file edited by sed: a test that shows
# what was taken out fails.
#
#	scripts/without.sh /stalled/d node/raft.go go test ./node -run TestStalledApply
set -euo pipefail
cd "$(dirname "$0")/.."
edit=$1 file=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
git archive HEAD | tar -x -C "$dir"
cd "$dir"
sed -i "$edit" "$file"
if git diff --quiet --no-index "$OLDPWD/$file" "$file"; then
	echo "the edit changes nothing in $file" >&2
	exit 2
fi
"$@"
