#!/bin/sh
# Runs every fuzz target of the tree for the time given (3s), or a number of
# inputs (2000x: the go command can report its own deadline as a failure where a
# busy machine makes workers late), one after the other. Each starts from its
# committed corpus.
set -eu
time=${1:-3s}
count=0
for package in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
	for target in $(grep -h '^func Fuzz' "$package"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | sort -u); do
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" >/tmp/fuzz.$$ 2>&1 || {
			cat /tmp/fuzz.$$
			rm -f /tmp/fuzz.$$
			exit 1
		}
		count=$((count + 1))
	done
done
rm -f /tmp/fuzz.$$
[ "$count" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
echo "$count fuzz targets, $time each: nothing found"
