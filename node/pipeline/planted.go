package pipeline

import (
	"math/rand/v2"
	"time"

	"github.com/exonode/exonode/server"
)

// What the bugs of package planted do that takes more than a line.

// early takes some events out of a group and acknowledges them, with the sequence that
// comes next and a hash that is in the chain, before raft has them.
func (p *Pipeline) early(items []*item, then func(*item)) []*item {
	live := items[:0]
	for _, it := range items {
		if it.internal || rand.IntN(100) > 0 {
			live = append(live, it)
			continue
		}
		head := p.cfg.Head()
		it.finish(server.Ack{Sequence: head.Size, Hash: head.Hash, Time: head.Time, Verdict: it.proposal.Verdict})
		then(it)
	}
	return live
}

// later puts an event back in a while. Nobody waits for it any more.
func (p *Pipeline) later(it *item) {
	it.open = true
	time.AfterFunc(100*time.Millisecond, func() { p.queue.restore([]*item{it}) })
}
