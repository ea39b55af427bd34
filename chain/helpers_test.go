package chain_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/exonode/exonode/chain"
)

// testChain is a chain in memory, with its tiles.
type testChain struct {
	records []chain.Record
	headers []chain.Header
	heads   []chain.Head // heads[i] is the head of i entries
	head    chain.Head
	tree    *chain.Tree
	tiles   memoryTiles
	// keepBytes: Records yields the stored bytes themselves.
	keepBytes bool
}

// memoryTiles holds full tiles.
type memoryTiles map[tileID][]byte

type tileID struct {
	level int
	index uint64
}

func (m memoryTiles) put(level int, index uint64, tile []byte) {
	if _, ok := m[tileID{level, index}]; ok {
		panic("a tile was completed twice")
	}
	if len(tile) != chain.TileSize {
		panic("a full tile is not full")
	}
	m[tileID{level, index}] = tile
}

func (m memoryTiles) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := m[tileID{level, index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:width*32], nil
}

func (m memoryTiles) clone() memoryTiles {
	c := make(memoryTiles, len(m))
	for id, tile := range m {
		c[id] = slices.Clone(tile)
	}
	return c
}

var testID = chain.ID{0xe0, 0xe1, 0xe2, 0xe3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const testStart = 1_780_000_000_000_000_000

// add seals an event onto the chain.
func (c *testChain) add(tb testing.TB, in chain.SealInput) *chain.Record {
	tb.Helper()
	in.ChainID, in.Prev = testID, c.head
	if in.Principal == "" {
		in.Principal = "local"
	}
	if in.Stamp == 0 {
		in.Stamp = testStart + int64(c.head.Size)*1000
	}
	binary.BigEndian.PutUint64(in.Salt[:], c.head.Size)
	if err := in.Event.Validate(0); err != nil {
		tb.Fatal(err)
	}
	s, err := chain.Seal(&in)
	if err != nil {
		tb.Fatal(err)
	}
	h, err := chain.DecodeHeader(s.Header)
	if err != nil {
		tb.Fatal(err)
	}
	c.records = append(c.records, s.Record)
	c.headers = append(c.headers, h)
	c.head = s.Head
	c.heads = append(c.heads, s.Head)
	c.tree.Append(s.Header, c.tiles.put)
	return &c.records[len(c.records)-1]
}

func (c *testChain) addEvents(tb testing.TB, n int) {
	tb.Helper()
	for range n {
		e := typicalEvent()
		e.ID = fmt.Sprintf("event-%d", c.head.Size)
		c.add(tb, chain.SealInput{Event: &e, SealingNode: "node-1"})
	}
}

func systemEvent(kind, id, payload string) *chain.Event {
	return &chain.Event{
		Workspace: "system", Source: "exonode:node", ID: id, Kind: kind,
		Payload: []byte(payload), ContentType: "application/json",
	}
}

// newTestChain returns a chain of n entries, genesis included.
func newTestChain(tb testing.TB, n int) *testChain {
	tb.Helper()
	c := &testChain{tree: &chain.Tree{}, tiles: memoryTiles{}, heads: []chain.Head{{}}}
	if n == 0 {
		return c
	}
	c.add(tb, chain.SealInput{Event: systemEvent("chain.genesis", "genesis", `{"format":"test"}`)})
	c.addEvents(tb, n-1)
	return c
}

func (c *testChain) Size() uint64 { return uint64(len(c.records)) }

// Records yields records whose bytes are overwritten before the next one, as
// the contract of chain.Source allows.
func (c *testChain) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		var buf [3][]byte
		keep := func(i int, p []byte) []byte {
			for j := range buf[i] {
				buf[i][j] = 0xff
			}
			if p == nil {
				return nil
			}
			buf[i] = append(buf[i][:0], p...)
			return buf[i]
		}
		for _, r := range c.records[from:to] {
			if err := ctx.Err(); err != nil {
				yield(chain.Record{}, err)
				return
			}
			if c.keepBytes {
				if !yield(r, nil) {
					return
				}
				continue
			}
			r.Header, r.Envelope, r.Beside = keep(0, r.Header), keep(1, r.Envelope), keep(2, r.Beside)
			if !yield(r, nil) {
				return
			}
		}
	}
}

// copy returns a chain whose records can be changed; the tree is shared.
func (c *testChain) copy() *testChain {
	d := *c
	d.records = make([]chain.Record, len(c.records))
	for i, r := range c.records {
		r.Header, r.Envelope, r.Beside = slices.Clone(r.Header), slices.Clone(r.Envelope), slices.Clone(r.Beside)
		d.records[i] = r
	}
	d.tiles = c.tiles.clone()
	return &d
}

// typicalEvent is an event with 256 bytes of payload.
func typicalEvent() chain.Event {
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = 'a' + byte(i%26)
	}
	copy(payload, `{"text":"`)
	copy(payload[len(payload)-2:], `"}`)
	return chain.Event{
		Workspace: "default", Source: "urn:agent:planner/7", ID: "01J8Z0000000000000000000", Kind: "agent.spawn",
		SchemaVersion: 1, Subject: "agent/42", Payload: payload, ContentType: "application/json",
		ClientTime: testStart,
	}
}

func typicalHeader() chain.Header {
	e := typicalEvent()
	return chain.Header{
		Version: 1, ChainID: testID, Sequence: 123456, Previous: chain.HeaderHash(nil), Time: testStart,
		Workspace: e.Workspace, Source: e.Source, ID: e.ID, Kind: e.Kind, SchemaVersion: 1, Subject: e.Subject,
		Principal: "local", Envelope: chain.EnvelopeRef{Hash: chain.EnvelopeHash(nil), Size: 256, ContentType: e.ContentType},
		Verdict: &chain.Verdict{
			Gate: "agent.spawn", Decision: chain.Permit, Revision: 3, PolicyHash: chain.PolicyHash(nil),
			Effective: chain.Effect{2000, 0, 0, 3000, 0}, Profile: "thresholds/1",
		},
		ClientTime: testStart, SealingNode: "n-abcdefghijklmnopqrstuvwxyz",
	}
}
