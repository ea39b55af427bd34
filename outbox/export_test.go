package outbox

// What the tests of the codec need.
var (
	AppendSegmentHeader = appendSegmentHeader
	AppendBatches       = appendBatches
	AppendRecord        = appendRecord
	AppendRemoved       = appendRemoved
)

// ParseSegment returns what parseSegment found: the header, the number of
// records, the end of the last good batch, and a re-encoding of it.
func ParseSegment(data []byte) (first, acked uint64, records int, end int64, err error) {
	p, err := parseSegment(data)
	return p.first, p.acked, len(p.records), p.end, err
}
