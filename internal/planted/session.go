//go:build planted_session

package planted

const bug = "session"
