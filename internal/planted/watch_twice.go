//go:build planted_watch_twice

package planted

const bug = "watch_twice"
