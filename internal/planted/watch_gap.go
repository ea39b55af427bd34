//go:build planted_watch_gap

package planted

const bug = "watch_gap"
