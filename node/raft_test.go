package node

import "testing"

func TestTrailing(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		bytes, logs, everyBytes, everyLogs uint64
		want                               uint64
	}{
		"nothing applied yet":            {0, 0, 64 * mib, 16384, maxTrailing},
		"small entries":                  {1000 * 300, 1000, 64 * mib, 16384, maxTrailing},
		"full commands":                  {1000 * 128 << 10, 1000, 64 * mib, 16384, 511},
		"entries of 1 MiB":               {1000 * mib, 1000, 64 * mib, 16384, minTrailing},
		"as many as make a snapshot due": {1000 * 300, 1000, 64 * mib, 500, 500},
		"never too few":                  {1000 * 300, 1000, 4096, 50, minTrailing},
	}
	for name, tc := range tests {
		if got := trailing(tc.bytes, tc.logs, tc.everyBytes, tc.everyLogs); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}
