// Package servertest is a whole ledger in memory, without consensus, for tests
// of the server and of clients. It seals real entries, keeps the promises that
// server.Node makes (order, exactly-once, conflicts, durable denials), and fails
// on request, before or after an event is in the chain.
package servertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
)

// Ledger is one chain. Several Nodes may stand for it, as a cluster's do.
type Ledger struct {
	id  chain.ID
	now func() time.Time

	mu      sync.Mutex // guards what follows
	records []chain.Record
	leaves  []chain.Hash
	head    chain.Head
	keys    map[chain.Key]server.Lookup
	events  map[chain.Key]event
	grown   map[uint64]chan struct{} // by size, closed once the chain is larger
	decide  func(chain.Event) *chain.Verdict
}

// event is what is remembered of a submitted event.
type event struct {
	chain.Event
	verdict *chain.Verdict
	hash    chain.Hash
	time    int64
}

// NewLedger returns a chain that has its genesis entry. now is its clock; nil is
// time.Now.
func NewLedger(now func() time.Time) *Ledger {
	if now == nil {
		now = time.Now
	}
	l := &Ledger{
		id:     chain.ID{0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		now:    now,
		keys:   make(map[chain.Key]server.Lookup),
		events: make(map[chain.Key]event),
		grown:  make(map[uint64]chan struct{}),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seal(&chain.Event{
		Workspace: "system", Source: "exonode:genesis", ID: "0", Kind: "chain.genesis",
		Payload: []byte(`{}`), ContentType: api.DefaultContentType,
	}, "cluster", nil)
	return l
}

// Decide sets what stands for the gates: it returns the verdict on an event, nil
// for kinds without a gate. Deny and Escalate keep the event out of the chain.
func (l *Ledger) Decide(f func(chain.Event) *chain.Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decide = f
}

// Records returns all entries.
func (l *Ledger) Records() []chain.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Redact deletes an entry's envelope.
func (l *Ledger) Redact(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[seq].Envelope = nil
}

// commit decides events and seals what may be sealed, in order.
func (l *Ledger) commit(principal string, events []chain.Event) []server.Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	acks := make([]server.Ack, len(events))
	for i := range events {
		acks[i] = l.commitOne(principal, &events[i])
	}
	return acks
}

func (l *Ledger) commitOne(principal string, e *chain.Event) server.Ack {
	if err := check(e); err != nil {
		return server.Ack{Err: err}
	}
	key := e.Key()
	if found, ok := l.keys[key]; ok {
		return l.again(found, l.events[key], e)
	}
	var verdict *chain.Verdict
	if l.decide != nil {
		verdict = l.decide(*e)
	}
	state, kind, err := "sealed", "", (*api.Error)(nil)
	if verdict != nil {
		switch verdict.Decision {
		case chain.Deny:
			state, kind = "denied", "governance.deny"
			err = &api.Error{Code: api.GateDenied, Message: "gate " + verdict.Gate + " denies it", Hint: "declare less, or ask for another policy"}
		case chain.Escalate:
			state, kind = "pending", "governance.escalate"
			err = &api.Error{Code: api.Escalated, Message: "gate " + verdict.Gate + " asks for approval"}
		}
	}
	var sealed chain.Sealed
	if err == nil {
		sealed = l.seal(e, principal, verdict)
	} else {
		// Payloads of these are strings: marshalling can't fail.
		payload, _ := json.Marshal(map[string]string{"workspace": e.Workspace, "source": e.Source, "id": e.ID, "kind": e.Kind})
		sealed = l.seal(&chain.Event{
			Workspace: "system", Source: "exonode:gate", ID: fmt.Sprint(l.head.Size), Kind: kind,
			Payload: payload, ContentType: api.DefaultContentType,
		}, "cluster", verdict)
		err.Sequence, err.HasSequence = sealed.Sequence, true
	}
	l.keys[key] = server.Lookup{State: state, Sequence: sealed.Sequence}
	l.events[key] = event{Event: *e, verdict: verdict, hash: sealed.Head.Hash, time: sealed.Head.Time}
	ack := server.Ack{Sequence: sealed.Sequence, Hash: sealed.Head.Hash, Time: sealed.Head.Time, Verdict: verdict}
	if err != nil {
		ack.Err = err
	}
	return ack
}

// again answers an event whose identity is taken.
func (l *Ledger) again(found server.Lookup, before event, e *chain.Event) server.Ack {
	switch {
	case found.State != "sealed":
		return server.Ack{Err: &api.Error{Code: api.NotComparable, Message: "the id was used by an event that is " + found.State, Sequence: found.Sequence, HasSequence: true}}
	case !same(&before.Event, e):
		return server.Ack{Err: &api.Error{Code: api.Conflict, Message: "another event has this id", Hint: "use a new id", Sequence: found.Sequence, HasSequence: true}}
	default:
		return server.Ack{Sequence: found.Sequence, Hash: before.hash, Time: before.time, Verdict: before.verdict, Duplicate: true}
	}
}

// same reports whether two events with one identity have the same content.
func same(a, b *chain.Event) bool {
	return a.Kind == b.Kind && a.Subject == b.Subject && bytes.Equal(a.Payload, b.Payload) &&
		a.ContentType == b.ContentType && a.DataSchema == b.DataSchema &&
		slices.Equal(a.Causes, b.Causes) && a.Priority == b.Priority && a.ClientTime == b.ClientTime &&
		slices.Equal(a.Extensions, b.Extensions)
}

// check stands for the node's validation.
func check(e *chain.Event) *api.Error {
	if e.Workspace == "system" {
		return &api.Error{Code: api.ReservedSpace, Field: "workspace", Message: "only nodes write to workspace system"}
	}
	err := e.Validate(0)
	if err == nil {
		return nil
	}
	code, field := api.BadField, ""
	if f, ok := errors.AsType[*chain.FieldError](err); ok {
		field = f.Field
		if f.Reason == chain.TooLong {
			code = api.TooLarge
		}
	}
	return &api.Error{Code: code, Field: field, Message: err.Error()}
}

// seal appends an entry. The event is valid, so that failing is a bug.
func (l *Ledger) seal(e *chain.Event, principal string, v *chain.Verdict) chain.Sealed {
	sealed, err := chain.Seal(&chain.SealInput{
		ChainID: l.id, Prev: l.head, Stamp: l.now().UnixNano(),
		Event: e, Salt: [chain.SaltSize]byte{1}, Principal: principal, Verdict: v, SealingNode: "n1",
	})
	if err != nil {
		panic(fmt.Sprintf("servertest: seal a valid event: %v", err))
	}
	l.records = append(l.records, sealed.Record)
	l.leaves = append(l.leaves, chain.LeafHash(sealed.Header))
	l.head = sealed.Head
	for size, ch := range l.grown {
		if l.head.Size > size {
			close(ch)
			delete(l.grown, size)
		}
	}
	return sealed
}

// root is the RFC 6962 hash over leaves, by its definition.
func root(leaves []chain.Hash) chain.Hash {
	switch len(leaves) {
	case 0:
		return chain.EmptyRoot()
	case 1:
		return leaves[0]
	}
	k := split(len(leaves))
	return chain.NodeHash(root(leaves[:k]), root(leaves[k:]))
}

// inclusion is RFC 6962's PATH, consistency its SUBPROOF.
func inclusion(i int, leaves []chain.Hash) []chain.Hash {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if i < k {
		return append(inclusion(i, leaves[:k]), root(leaves[k:]))
	}
	return append(inclusion(i-k, leaves[k:]), root(leaves[:k]))
}

func consistency(m int, leaves []chain.Hash, whole bool) []chain.Hash {
	if m == len(leaves) {
		if whole {
			return nil
		}
		return []chain.Hash{root(leaves)}
	}
	k := split(len(leaves))
	if m <= k {
		return append(consistency(m, leaves[:k], whole), root(leaves[k:]))
	}
	return append(consistency(m-k, leaves[k:], false), root(leaves[:k]))
}

// split returns the largest power of two below n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}
