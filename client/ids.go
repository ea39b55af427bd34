package client

import (
	"encoding/binary"
	"time"

	"github.com/oklog/ulid/v2"
)

// newID returns a fresh event id: a ULID, 48 bits of milliseconds and 80 random
// bits in 26 characters. Order within a millisecond is not kept: the chain has
// the order.
func newID(rand func() uint64) string {
	var id ulid.ULID
	if err := id.SetTime(ulid.Timestamp(time.Now())); err != nil {
		// Only after the year 10889.
		panic(err)
	}
	binary.BigEndian.PutUint16(id[6:], uint16(rand()))
	binary.BigEndian.PutUint64(id[8:], rand())
	return id.String()
}
