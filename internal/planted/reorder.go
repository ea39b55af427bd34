//go:build planted_reorder

package planted

const bug = "reorder"
