//go:build planted_lost_ack

package planted

const bug = "lost_ack"
