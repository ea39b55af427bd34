//go:build planted_double

package planted

const bug = "double"
