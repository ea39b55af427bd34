//go:build planted_head

package planted

const bug = "head"
