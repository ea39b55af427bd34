package ledger

import (
	"context"
	"fmt"
)

// Purge makes Pebble write the files anew that may still have the bytes of
// redacted envelopes; the old files are deleted soon after it returns. It is no
// part of a redaction, which is complete once its Update is committed, and may
// take long. Bytes can remain for a while in a log file that Pebble keeps to
// write over, in the file system's free space, and below it.
func (s *Store) Purge(ctx context.Context, seqs ...uint64) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	// While a promoted range is moved, its envelopes stand in both spaces.
	for _, sp := range [...]space{mainSpace, stagingSpace} {
		for _, t := range [...]table{tableEnvelope, tableBeside} {
			for _, seq := range seqs {
				start, end := appendSeqKey(nil, sp, t, seq), appendSeqKey(nil, sp, t, seq+1)
				if err := s.db.Compact(ctx, start, end, false); err != nil {
					return fmt.Errorf("ledger: purge entry %d: %w", seq, err)
				}
			}
		}
	}
	return nil
}
