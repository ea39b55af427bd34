//go:build !planted_lost_ack && !planted_double && !planted_reorder && !planted_stale_read && !planted_session && !planted_watch_gap && !planted_watch_twice && !planted_fork && !planted_verdict && !planted_head && !planted_stall

package planted

const bug = ""
