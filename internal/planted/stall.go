//go:build planted_stall

package planted

const bug = "stall"
