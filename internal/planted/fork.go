//go:build planted_fork

package planted

const bug = "fork"
