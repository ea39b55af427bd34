#!/bin/sh
# Runs every fuzz target of the tree for the time given (3s), or a number of
# inputs (2000x: a deadline can be reported as a failure where a busy machine makes
# workers late), one after the other. Each starts from its committed corpus. A package's
# targets share one binary.
set -eu
time=${1:-3s}
count=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for package in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
	go test -c -fuzz Fuzz -o "$dir/fuzz.test" "$package"
	for target in $(grep -h '^func Fuzz' "$package"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | sort -u); do
		(cd "$package" && "$dir/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" \
			-test.fuzzcachedir "$dir/cache") >"$dir/out" 2>&1 || {
			cat "$dir/out"
			exit 1
		}
		count=$((count + 1))
	done
done
[ "$count" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
echo "$count fuzz targets, $time each: nothing found"
