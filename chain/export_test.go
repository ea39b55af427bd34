package chain

// DigestInput is what EventDigest hashes.
func DigestInput(id ID, epoch uint64, e *Event) []byte { return digestInput(id, epoch, e) }
