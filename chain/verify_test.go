package chain_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/exonode/exonode/chain"
)

// verify runs Verify with one and several workers, demands the same outcome, and
// returns it.
func verify(t *testing.T, src chain.Source, opts chain.VerifyOptions) (chain.VerifyReport, error) {
	t.Helper()
	opts.Workers = 1
	r1, err1 := chain.Verify(t.Context(), src, opts)
	opts.Workers = 4
	r4, err4 := chain.Verify(t.Context(), src, opts)
	if fmt.Sprint(err1) != fmt.Sprint(err4) || r1.Head != r4.Head || r1.Root != r4.Root || r1.Redacted != r4.Redacted {
		t.Fatalf("one worker: %v, %v; four: %v, %v", r1.Head, err1, r4.Head, err4)
	}
	return r4, err4
}

func wantBad(t *testing.T, err error, seq uint64, part chain.Part) {
	t.Helper()
	var bad *chain.BadEntryError
	if !errors.As(err, &bad) {
		t.Fatalf("error %v, want a *BadEntryError for %s of entry %d", err, part, seq)
	}
	if bad.Sequence != seq || bad.Part != part {
		t.Fatalf("%v; want %s of entry %d", err, part, seq)
	}
}

func TestVerifyGood(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 1000} {
		c := newTestChain(t, n)
		root, checked := c.tree.Root(), uint64(0)
		opts := chain.VerifyOptions{
			ChainID: &testID, Head: &c.head, Root: &root, Tiles: c.tiles,
			Check: func(e *chain.Entry) error {
				if e.Header.Sequence != checked%uint64(n) || e.Envelope == nil || e.Hash != c.heads[e.Header.Sequence+1].Hash {
					return fmt.Errorf("entry %d is not the one after the last", e.Header.Sequence)
				}
				checked++
				return nil
			},
		}
		var last chain.Progress
		opts.Progress = func(p chain.Progress) { last = p }
		r, err := verify(t, c, opts)
		if err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
		if checked != 2*uint64(n) { // verify runs twice
			t.Errorf("%d entries: %d checked", n, checked)
		}
		if last.Done != uint64(n) || last.Total != uint64(n) {
			t.Errorf("%d entries: last progress %+v", n, last)
		}
		if r.Entries != uint64(n) || r.Head != c.head || r.Root != root || r.Tiles != uint64(n/256) || r.Tree.Size() != uint64(n) {
			t.Errorf("%d entries: report %+v", n, r)
		}
		if n > 0 && r.ChainID != testID {
			t.Errorf("chain id %v", r.ChainID)
		}
	}
}

// TestVerifyFromAnywhere: verification in two parts finds what one finds.
func TestVerifyFromAnywhere(t *testing.T) {
	c := newTestChain(t, 600)
	for _, cut := range []int{0, 1, 100, 256, 300, 512, 599, 600} {
		prefix := *c
		prefix.records = c.records[:cut]
		first, err := chain.Verify(t.Context(), &prefix, chain.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		root := c.tree.Root()
		r, err := verify(t, c, chain.VerifyOptions{Start: first.Start(), Head: &c.head, Root: &root, Tiles: c.tiles})
		if err != nil {
			t.Fatalf("from %d: %v", cut, err)
		}
		if r.Entries != uint64(600-cut) || r.Head != c.head {
			t.Errorf("from %d: %+v", cut, r)
		}
		if cut > 0 && cut < 600 {
			wrong := first.Start()
			wrong.Head.Hash[0] ^= 1
			_, err := verify(t, c, chain.VerifyOptions{Start: wrong})
			wantBad(t, err, uint64(cut), chain.PartLink)
		}
	}
	r, err := chain.Verify(t.Context(), c, chain.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	short := *c
	short.records = c.records[:10]
	_, err = verify(t, &short, chain.VerifyOptions{Start: r.Start()})
	wantBad(t, err, 10, chain.PartHead)
	if _, err := chain.Verify(t.Context(), c, chain.VerifyOptions{Start: &chain.Start{Head: c.heads[5]}}); err == nil {
		t.Error("a start without its tree was accepted")
	}
}

// TestEveryFlippedByte flips one bit of every byte of some entries: the sequence
// is named, whichever part of the entry it is.
func TestEveryFlippedByte(t *testing.T) {
	long, short := newTestChain(t, 259), newTestChain(t, 5)
	for _, seq := range []int{0, 1, 3, 4, 100, 254, 255, 256, 257, 258} {
		// Every byte in the short chain, some in the long one.
		c, step := long, 37
		if seq < 5 {
			c, step = short, 1
		}
		for part, pick := range map[string]func(*chain.Record) []byte{
			"header":   func(r *chain.Record) []byte { return r.Header },
			"envelope": func(r *chain.Record) []byte { return r.Envelope },
		} {
			d := c.copy()
			b := pick(&d.records[seq])
			for i := 0; i < len(b); i += step {
				b[i] ^= 1 << (i % 8)
				_, err := chain.Verify(t.Context(), d, chain.VerifyOptions{Head: &c.head, Workers: 1})
				var bad *chain.BadEntryError
				if !errors.As(err, &bad) || bad.Sequence != uint64(seq) {
					t.Fatalf("%s of %d, byte %d: %v", part, seq, i, err)
				}
				b[i] ^= 1 << (i % 8)
			}
		}
	}
}

func TestFlippedTiles(t *testing.T) {
	c := newTestChain(t, 700)
	for id := range c.tiles {
		for _, at := range []int{0, 1000, chain.TileSize - 1} {
			d := c.copy()
			d.tiles[id][at] ^= 0x10
			_, err := verify(t, d, chain.VerifyOptions{Tiles: d.tiles})
			from := id.index*256 + uint64(at/32)
			wantBad(t, err, from, chain.PartTile)
			var te *chain.TileError
			if !errors.As(err, &te) || te.Level != id.level || te.Index != id.index || te.From != from || te.To != from+1 {
				t.Errorf("tile %v, byte %d: %v", id, at, err)
			}
		}
	}
	d := c.copy()
	delete(d.tiles, tileID{0, 1})
	_, err := verify(t, d, chain.VerifyOptions{Tiles: d.tiles})
	wantBad(t, err, 256, chain.PartTile)
}

// TestHeaderIsBlamedBeforeItsTile: where an altered header shows by its
// successor's link, the stored tile that differs from it is right.
func TestHeaderIsBlamedBeforeItsTile(t *testing.T) {
	c := newTestChain(t, 300)
	c.headers[254].Subject = "forged"
	forged, err := c.headers[254].MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	c.records[254].Header = forged
	_, err = verify(t, c, chain.VerifyOptions{Tiles: c.tiles})
	wantBad(t, err, 254, chain.PartHeader)
}

// TestFlippedUpperTile has a tile of level 1.
func TestFlippedUpperTile(t *testing.T) {
	if testing.Short() {
		t.Skip("65,536 entries")
	}
	c := newTestChain(t, 65_540)
	if _, err := verify(t, c, chain.VerifyOptions{Tiles: c.tiles, Head: &c.head}); err != nil {
		t.Fatal(err)
	}
	c.tiles[tileID{1, 0}][32*7] ^= 1
	_, err := verify(t, c, chain.VerifyOptions{Tiles: c.tiles})
	wantBad(t, err, 7*256, chain.PartTile)
	var te *chain.TileError
	if !errors.As(err, &te) || te.Level != 1 || te.From != 7*256 || te.To != 8*256 {
		t.Errorf("%v", err)
	}
}

// reseal makes a chain of c's headers, changed by change, with all links and
// hashes made anew: what a forger with the keys to the store can do.
func reseal(t *testing.T, c *testChain, change func(seq int, h *chain.Header)) *testChain {
	t.Helper()
	d := &testChain{tree: &chain.Tree{}, tiles: memoryTiles{}}
	var prev chain.Hash
	for i, h := range c.headers {
		h.Previous = prev
		change(i, &h)
		b, err := h.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		r := c.records[i]
		r.Header = b
		d.records = append(d.records, r)
		prev = chain.HeaderHash(b)
		d.head = chain.Head{Size: uint64(i) + 1, Hash: prev, Time: h.Time}
		d.tree.Append(b, d.tiles.put)
	}
	return d
}

func TestVerifyRules(t *testing.T) {
	c := newTestChain(t, 10)
	tests := []struct {
		name   string
		change func(seq int, h *chain.Header)
		seq    uint64
		part   chain.Part
	}{
		{"another chain", func(i int, h *chain.Header) {
			if i >= 4 {
				h.ChainID[0] ^= 1
			}
		}, 4, chain.PartHeader},
		{"a gap", func(i int, h *chain.Header) {
			if i >= 4 {
				h.Sequence++
			}
		}, 4, chain.PartHeader},
		{"same time", func(i int, h *chain.Header) {
			if i == 5 {
				h.Time = c.headers[4].Time
			}
		}, 5, chain.PartTime},
		{"epoch up", func(i int, h *chain.Header) {
			if i >= 6 {
				h.Epoch = 1
			}
		}, 6, chain.PartEpoch},
		{"epoch up at chain.recover outside system", func(i int, h *chain.Header) {
			if i >= 6 {
				h.Epoch, h.Kind = 1, "chain.recover"
			}
		}, 6, chain.PartEpoch},
		{"chain.recover without another epoch", func(i int, h *chain.Header) {
			if i == 6 {
				h.Workspace, h.Kind = "system", "chain.recover"
			}
		}, 6, chain.PartEpoch},
		{"epoch down", func(i int, h *chain.Header) {
			if i < 6 {
				h.Epoch = 1
			} else {
				h.Workspace, h.Kind = "system", "chain.recover"
			}
		}, 6, chain.PartEpoch},
		{"first is no genesis", func(i int, h *chain.Header) {
			if i == 0 {
				h.Kind = "chain.export"
			}
		}, 0, chain.PartHeader},
		{"genesis outside system", func(i int, h *chain.Header) {
			if i == 0 {
				h.Workspace = "default"
			}
		}, 0, chain.PartHeader},
		{"genesis with a predecessor", func(i int, h *chain.Header) {
			if i == 0 {
				h.Previous[0] = 1
			}
		}, 0, chain.PartLink},
		{"second genesis", func(i int, h *chain.Header) {
			if i == 3 {
				h.Workspace, h.Kind = "system", "chain.genesis"
			}
		}, 3, chain.PartHeader},
		{"wrong payload size", func(i int, h *chain.Header) {
			if i == 7 {
				h.Envelope.Size++
			}
		}, 7, chain.PartEnvelope},
		{"broken link", func(i int, h *chain.Header) {
			if i == 8 {
				h.Previous[3] ^= 1
			}
		}, 7, chain.PartHeader}, // 9 vouches for 8: 7 is not the one it was
		{"broken last link", func(i int, h *chain.Header) {
			if i == 9 {
				h.Previous[3] ^= 1
			}
		}, 8, chain.PartHeader}, // so does the head for 9
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := reseal(t, c, tt.change)
			_, err := verify(t, d, chain.VerifyOptions{Head: &d.head})
			wantBad(t, err, tt.seq, tt.part)
		})
	}
	broken := reseal(t, c, tests[len(tests)-1].change)
	_, err := verify(t, broken, chain.VerifyOptions{})
	wantBad(t, err, 9, chain.PartLink) // nobody vouches
	other := chain.ID{1}
	_, err = verify(t, c, chain.VerifyOptions{ChainID: &other})
	wantBad(t, err, 0, chain.PartHeader)
}

// TestVerifyRecovery: an epoch begins with a chain.recover that says which entry it
// goes on from.
func TestVerifyRecovery(t *testing.T) {
	const format = `{"epoch":%d,"last_seq":%d,"head_hash":"%v","lost_peers":[],"reason":""}`
	for name, test := range map[string]struct {
		payload func(before chain.Head) string
		good    bool
	}{
		"right":          {func(h chain.Head) string { return fmt.Sprintf(format, 2, h.Size-1, h.Hash) }, true},
		"another epoch":  {func(h chain.Head) string { return fmt.Sprintf(format, 1, h.Size-1, h.Hash) }, false},
		"another entry":  {func(h chain.Head) string { return fmt.Sprintf(format, 2, h.Size-2, h.Hash) }, false},
		"another hash":   {func(h chain.Head) string { return fmt.Sprintf(format, 2, h.Size-1, chain.Hash{}) }, false},
		"no hash":        {func(chain.Head) string { return `{"epoch":2,"last_seq":6}` }, false},
		"an odd number":  {func(h chain.Head) string { return fmt.Sprintf(format, 2, h.Size-1, h.Hash)[:9] + "2.0}" }, false},
		"nothing at all": {func(chain.Head) string { return "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestChain(t, 7)
			c.add(t, chain.SealInput{Epoch: 2, Event: systemEvent("chain.recover", "r", test.payload(c.head)), RaftIndex: 9})
			for i := range 3 {
				c.add(t, chain.SealInput{Epoch: 2, Event: systemEvent("boot.ready", fmt.Sprint(i), "{}"), SealingNode: "n"})
			}
			r, err := verify(t, c, chain.VerifyOptions{Head: &c.head})
			if !test.good {
				wantBad(t, err, 7, chain.PartEpoch)
			} else if err != nil || r.Epoch != 2 {
				t.Errorf("epoch %d, %v", r.Epoch, err)
			}
		})
	}
}

func TestVerifyEnds(t *testing.T) {
	c := newTestChain(t, 300)
	head := c.head
	head.Hash[0] ^= 1
	_, err := verify(t, c, chain.VerifyOptions{Head: &head})
	wantBad(t, err, 299, chain.PartHead)
	root := chain.Hash{1}
	_, err = verify(t, c, chain.VerifyOptions{Root: &root})
	wantBad(t, err, 299, chain.PartRoot)
	_, err = verify(t, c, chain.VerifyOptions{Check: func(e *chain.Entry) error {
		if e.Header.Sequence >= 70 {
			return errors.New("not this one")
		}
		return nil
	}})
	wantBad(t, err, 70, chain.PartCheck)
	// An earlier fault wins over a later one, and over what a checker says.
	d := c.copy()
	d.records[200].Envelope[9] ^= 1
	d.records[290].Header[0] ^= 1
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 200, chain.PartEnvelope)
}

// TestRemovedReorderedDoubled: entries in the wrong place.
func TestRemovedReorderedDoubled(t *testing.T) {
	c := newTestChain(t, 20)
	d := c.copy()
	d.records = slices.Delete(d.records, 7, 8)
	_, err := verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 7, chain.PartRecord)
	d = c.copy()
	d.records[7], d.records[8] = d.records[8], d.records[7]
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 7, chain.PartRecord)
	d = c.copy()
	d.records = d.records[:19]
	_, err = verify(t, d, chain.VerifyOptions{Head: &c.head})
	wantBad(t, err, 18, chain.PartHead)
	d = c.copy()
	d.records[5].Header = nil
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 5, chain.PartHeader)
}

// brokenSource fails after some entries.
type brokenSource struct {
	*testChain
	after int
	err   error
}

func (s brokenSource) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		n := 0
		for r, err := range s.testChain.Records(ctx, from, to) {
			if n == s.after {
				if s.err != nil {
					yield(chain.Record{}, s.err)
				}
				return
			}
			n++
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestReadErrors(t *testing.T) {
	c := newTestChain(t, 600)
	broken := errors.New("cable unplugged")
	for _, after := range []int{0, 1, 255, 256, 599} {
		_, err := verify(t, brokenSource{c, after, broken}, chain.VerifyOptions{})
		var bad *chain.BadEntryError
		if !errors.Is(err, broken) || errors.As(err, &bad) {
			t.Errorf("after %d: %v, want the source's error and no bad entry", after, err)
		}
		_, err = verify(t, brokenSource{c, after, chain.ErrNotFound}, chain.VerifyOptions{})
		wantBad(t, err, uint64(after), chain.PartRecord)
		_, err = verify(t, brokenSource{c, after, nil}, chain.VerifyOptions{})
		wantBad(t, err, uint64(after), chain.PartRecord)
	}
	_, err := verify(t, brokenSource{c, 9, &chain.BadEntryError{Sequence: 9, Part: chain.PartRecord, Err: broken}}, chain.VerifyOptions{})
	wantBad(t, err, 9, chain.PartRecord)
}

// indexedChain is a chain with indexes, of which something is wrong.
type indexedChain struct {
	*testChain
	err   error
	calls int
}

func (s *indexedChain) CheckIndexes(context.Context) error {
	s.calls++
	return s.err
}

// TestIndexesAreCheckedLast: what is wrong with an entry comes before what is wrong
// with an index.
func TestIndexesAreCheckedLast(t *testing.T) {
	c := &indexedChain{testChain: newTestChain(t, 20)}
	if _, err := chain.Verify(t.Context(), c, chain.VerifyOptions{}); err != nil || c.calls != 1 {
		t.Errorf("%v, %d calls", err, c.calls)
	}
	c.err = &chain.BadEntryError{Sequence: 3, Part: chain.PartIndex, Err: errors.New("gone")}
	_, err := chain.Verify(t.Context(), c, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartIndex)
	c.testChain = c.copy()
	c.records[7].Header[0] ^= 1
	_, err = chain.Verify(t.Context(), c, chain.VerifyOptions{})
	wantBad(t, err, 7, chain.PartHeader)
}

func TestCheckRecord(t *testing.T) {
	c := newTestChain(t, 3)
	redaction := c.add(t, chain.SealInput{Event: systemEvent("chain.redact", "r", `{"target_seq":2}`)})
	c.add(t, chain.SealInput{Event: systemEvent("chain.redact", "itself", `{"target_seq":4}`)})
	for i, want := range []bool{false, false, false, true, false} {
		e, err := c.records[i].Check()
		if err != nil || e.Header.Sequence != uint64(i) || e.Envelope == nil {
			t.Fatalf("entry %d: %+v, %v", i, e, err)
		}
		if target, ok := e.Redacts(); ok != want || ok && target != 2 {
			t.Errorf("entry %d redacts %d, %t", i, target, ok)
		}
	}
	redaction.Envelope[3] ^= 1
	_, err := redaction.Check()
	wantBad(t, err, 3, chain.PartEnvelope)
	redaction.Envelope = nil
	if e, err := redaction.Check(); err != nil || e.Envelope != nil {
		t.Errorf("without its envelope: %v", err)
	} else if _, ok := e.Redacts(); ok {
		t.Error("a redaction without its envelope names an entry")
	}
}

// TestVerifyCancelled: cancelling ends it with the context's error, wherever it
// is, and leaves nothing running (the test would not end its bubble else).
func TestVerifyCancelled(t *testing.T) {
	c := newTestChain(t, 6000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chain.Verify(ctx, c, chain.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("before it began: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r, err := chain.Verify(ctx, c, chain.VerifyOptions{Workers: 2, Progress: func(p chain.Progress) { cancel() }})
	var bad *chain.BadEntryError
	if !errors.Is(err, context.Canceled) || errors.As(err, &bad) || r.Entries == 0 || r.Entries == 6000 {
		t.Errorf("in the middle, after %d entries: %v", r.Entries, err)
	}
}

// TestLargeEntries: entries that fill a batch by their size.
func TestLargeEntries(t *testing.T) {
	c := newTestChain(t, 1)
	for i := range 12 {
		e := typicalEvent()
		e.ID = fmt.Sprint(i)
		e.Payload = make([]byte, []int{300 << 10, 1 << 20, 10}[i%3])
		c.add(t, chain.SealInput{Event: &e})
	}
	c.addEvents(t, 300)
	root := c.tree.Root()
	if _, err := verify(t, c, chain.VerifyOptions{Head: &c.head, Root: &root, Tiles: c.tiles}); err != nil {
		t.Fatal(err)
	}
	c.records[8].Envelope[500_000] ^= 1
	_, err := verify(t, c, chain.VerifyOptions{})
	wantBad(t, err, 8, chain.PartEnvelope)
}
