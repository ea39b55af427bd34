#!/usr/bin/env bash
# Runs a command over a commit, with the code that is no test's as it was before it: a test
# that shows what the commit mended fails.
#
#	scripts/before.sh COMMIT go test ./node -run TestReadLogAhead
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify "$1^{commit}")
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
git archive "$commit" | tar -x -C "$dir"
git diff --name-only --no-renames "$commit~1" "$commit" -- '*.go' ':!*_test.go' ':!test' | while read -r file; do
	git show "$commit~1:$file" >"$dir/$file" 2>/dev/null || rm -f "$dir/$file" # it is new
done
cd "$dir"
"$@"
