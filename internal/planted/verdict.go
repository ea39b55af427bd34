//go:build planted_verdict

package planted

const bug = "verdict"
