package raftstore

// FrameEnds returns where raft-wal's frames end in a segment, in bytes, and those of
// them that end a write.
func FrameEnds(b []byte) (all, writes []int64) {
	for at := int64(fileHeader); ; {
		kind, _, _, next := frame(b, at)
		if kind == 0 {
			return all, writes
		}
		all = append(all, next)
		if kind == 3 {
			writes = append(writes, next)
		}
		at = next
	}
}
