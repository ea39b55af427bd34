package ledgertest

import (
	"encoding/binary"
	"fmt"

	"github.com/exonode/exonode/chain"
)

// Builder makes the Updates of one chain, deterministically: the same calls make
// the same bytes. It is for one goroutine.
type Builder struct {
	// Chain is the chain's id.
	Chain chain.ID
	// Head is the last entry made.
	Head chain.Head
	// Index is the raft index of the last Update made.
	Index uint64
}

// NewBuilder returns a Builder of the chain with the given id's first byte.
func NewBuilder(id byte) *Builder { return &Builder{Chain: chain.ID{id}} }

// Event returns the n-th of an endless list of events: of a few kinds, sources,
// and workspaces, with a payload of size bytes.
func Event(n uint64, size int) chain.Event {
	kinds := [...]string{"agent.spawn", "agent.stop", "agent.tool.call", "deploy.start", "git.commit"}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = "0123456789abcdef"[(n+uint64(i)*7)%16]
	}
	return chain.Event{
		Workspace:   fmt.Sprintf("team-%d", n%3),
		Source:      fmt.Sprintf("host-%d/agent", n%7),
		ID:          fmt.Sprintf("event-%08d", n),
		Kind:        kinds[n%uint64(len(kinds))],
		Subject:     fmt.Sprintf("subject/%d", n%11),
		Payload:     payload,
		ContentType: "application/json",
	}
}

// Next returns an Update of one event per argument, with a folded state that
// names its raft index.
func (b *Builder) Next(events ...chain.Event) *chain.Update {
	b.Index++
	u := &chain.Update{
		State:       fmt.Appendf(nil, "state at %d", b.Index),
		Applied:     b.Index,
		AppliedTerm: 1 + b.Index/100,
	}
	for i := range events {
		u.Entries = append(u.Entries, b.Seal(&events[i]))
	}
	return u
}

// escalation returns an Update of a governance.escalate entry, with something
// beside it.
func (b *Builder) escalation() *chain.Update {
	e := Event(b.Head.Size, 20)
	e.Workspace, e.Kind = "system", "governance.escalate"
	u := b.Next(e)
	u.Entries[0].Beside = []byte("the reserved event's envelope")
	return u
}

// Redact makes the entry of a redaction.
func (b *Builder) Redact(target uint64) chain.Sealing {
	e := Event(b.Head.Size, 0)
	e.Workspace, e.Kind, e.Payload = "system", "chain.redact", fmt.Appendf(nil, `{"target_seq":%d}`, target)
	return b.Seal(&e)
}

// NextN returns an Update of the n events of Event that follow the head.
func (b *Builder) NextN(n, size int) *chain.Update {
	events := make([]chain.Event, n)
	for i := range events {
		events[i] = Event(b.Head.Size+uint64(i), size)
	}
	return b.Next(events...)
}

// Seal makes the entry of an event and moves the head to it. Entry 0 is made the
// chain's genesis, whatever its kind and workspace were.
func (b *Builder) Seal(event *chain.Event) chain.Sealing {
	e := *event
	if b.Head.Size == 0 {
		e.Workspace, e.Kind = "system", "chain.genesis"
	}
	in := chain.SealInput{
		ChainID:     b.Chain,
		Prev:        b.Head,
		Stamp:       1_700_000_000_000_000_000 + int64(b.Head.Size)*1000,
		Event:       &e,
		Principal:   fmt.Sprintf("principal-%d", b.Head.Size%2),
		SealingNode: "node-a",
	}
	binary.BigEndian.PutUint64(in.Salt[:], b.Head.Size)
	sealed, err := chain.Seal(&in)
	if err != nil {
		panic(err) // the caller's event is not valid
	}
	b.Head = sealed.Head
	return chain.Sealing{
		Record:    sealed.Record,
		Hash:      sealed.Head.Hash,
		Time:      sealed.Head.Time,
		Key:       e.Key(),
		Kind:      e.Kind,
		Principal: in.Principal,
	}
}
