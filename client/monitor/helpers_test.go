package monitor_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/chain/tlogtiles"
	"github.com/exonode/exonode/client/monitor"
)

var chainID = chain.ID{0xe0, 0xe1, 0xe2, 0xe3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const (
	base     = "exonode/e0e1e2e30405060708090a0b0c0d0e0f"
	foreign  = "log.example/entries"
	signedAt = 1_780_000_000
)

// testLog makes what a log publishes. It is a value: copies of it are forks.
type testLog struct {
	base    string
	epoch   uint64
	entries [][]byte
	head    chain.Head
}

func (l testLog) origin() string {
	if l.base == foreign {
		return foreign
	}
	return fmt.Sprintf("%s/%d", l.base, l.epoch)
}

func newLog(n int) testLog {
	l := testLog{base: base}
	l.seal("chain.genesis", "system", "genesis", nil)
	return l.grown(n - 1)
}

// grown returns the log with n more entries.
func (l testLog) grown(n int) testLog { return l.with(n, "event") }

// with returns the log with n more entries whose ids begin so.
func (l testLog) with(n int, id string) testLog {
	l.entries = slices.Clone(l.entries)
	for range n {
		if l.base == foreign {
			l.entries = append(l.entries, fmt.Appendf(nil, "%s %d", id, len(l.entries)))
			continue
		}
		l.seal("test.event", "default", fmt.Sprint(id, "-", l.head.Size), nil)
	}
	return l
}

// recovered returns the log of the next epoch, which keeps n entries.
func (l testLog) recovered(n int) testLog {
	l = l.cut(n)
	l.epoch++
	l.seal("chain.recover", "system", fmt.Sprint("recover-", l.epoch), nil)
	return l
}

func (l testLog) cut(n int) testLog {
	h, err := chain.DecodeHeader(l.entries[n-1])
	if err != nil {
		panic(err)
	}
	l.entries = slices.Clone(l.entries[:n])
	l.head = chain.Head{Size: uint64(n), Hash: chain.HeaderHash(l.entries[n-1]), Time: h.Time}
	return l
}

// cutAny is cut, also of leaves that are no headers.
func (l testLog) cutAny(n int) testLog {
	if l.base != foreign {
		return l.cut(n)
	}
	l.entries = l.entries[:n:n]
	return l
}

// seal adds an entry, which change may make a bad one.
func (l *testLog) seal(kind, workspace, id string, change func(*chain.Header)) {
	in := chain.SealInput{
		ChainID: chainID, Epoch: l.epoch, Prev: l.head, Stamp: signedAt*1e9 + int64(l.head.Size), Principal: "local",
		Event: &chain.Event{Workspace: workspace, Source: "urn:test", ID: id, Kind: kind, Payload: []byte("{}"), ContentType: "application/json"},
	}
	if workspace != "system" {
		in.SealingNode = "node-1"
	}
	binary.BigEndian.PutUint64(in.Salt[:], l.head.Size)
	s, err := chain.Seal(&in)
	if err != nil {
		panic(err)
	}
	header, head := s.Header, s.Head
	if change != nil {
		h, err := chain.DecodeHeader(header)
		if err != nil {
			panic(err)
		}
		change(&h)
		if header, err = h.MarshalBinary(); err != nil {
			panic(err)
		}
		head = chain.Head{Size: head.Size, Hash: chain.HeaderHash(header), Time: h.Time}
	}
	l.entries, l.head = append(l.entries, header), head
}

var (
	logKey    = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	cosignKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
)

func signers(origin string) (log, by *checkpoint.Signer) {
	log, err := checkpoint.NewLogSigner(origin, logKey)
	if err != nil {
		panic(err)
	}
	if by, err = checkpoint.NewCosigner("node-1.example", cosignKey); err != nil {
		panic(err)
	}
	return log, by
}

func policy(origin string) *checkpoint.Policy {
	log, by := signers(origin)
	lk, ck := log.Key(), by.Key()
	p, err := checkpoint.ParsePolicy([]byte("log " + lk.String() + "\nwitness node-1 " + ck.String() + "\nquorum node-1\n"))
	if err != nil {
		panic(err)
	}
	return p
}

func (l testLog) note() *checkpoint.Note {
	var tree chain.Tree
	for _, e := range l.entries {
		tree.Append(e, nil)
	}
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: l.origin(), Size: tree.Size(), Root: tree.Root()}}
	log, by := signers(l.origin())
	for _, s := range []*checkpoint.Signer{log, by} {
		signature, err := s.Sign(&n.Checkpoint, signedAt)
		if err != nil {
			panic(err)
		}
		n.Add(signature)
	}
	return n
}

// files are those that the log publishes at its size, and no others.
func (l testLog) files() files {
	f := files{"checkpoint": l.note().Bytes()}
	var tree chain.Tree
	put := func(level int, index uint64, tile []byte) {
		f[tlogtiles.Tile{Level: level, Index: index, Width: len(tile) / 32}.Path()] = slices.Clone(tile)
	}
	for _, e := range l.entries {
		tree.Append(e, put)
	}
	for level := range chain.TileLevels {
		if index, partial := tree.Partial(level); len(partial) > 0 {
			put(level, index, partial)
		}
	}
	for from := 0; from < len(l.entries); from += chain.TileWidth {
		var b []byte
		part := l.entries[from:min(from+chain.TileWidth, len(l.entries))]
		for _, e := range part {
			b = tlogtiles.AppendEntry(b, e)
		}
		f[tlogtiles.Tile{Entries: true, Index: uint64(from / chain.TileWidth), Width: len(part)}.Path()] = b
	}
	return f
}

// files is a monitor.Source.
type files map[string][]byte

func (f files) Fetch(_ context.Context, path string, limit int64) ([]byte, error) {
	b, ok := f[path]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("%s has %d bytes, the monitor takes %d", path, len(b), limit)
	}
	return b, nil
}

// change returns the files with one byte of one file changed.
func (f files) change(path string, at int) files {
	f = maps.Clone(f)
	f[path] = slices.Clone(f[path])
	f[path][at] ^= 1
	return f
}

// follower is a monitor whose log changes under its hands.
type follower struct {
	tb     testing.TB
	policy *checkpoint.Policy
	disk   monitor.FS
	m      *monitor.Monitor
	now    files
}

func follow(tb testing.TB, p *checkpoint.Policy) *follower {
	f := &follower{tb: tb, policy: p, disk: newDisk()}
	f.restart()
	return f
}

func (f *follower) Fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	return f.now.Fetch(ctx, path, limit)
}

// restart opens the state anew.
func (f *follower) restart() {
	f.tb.Helper()
	m, err := monitor.Open(monitor.Config{Source: f, Policy: f.policy, FS: f.disk})
	if err != nil {
		f.tb.Fatal(err)
	}
	f.m = m
}

func (f *follower) round(now files) (*monitor.Result, error) {
	f.now = now
	return f.m.Round(f.tb.Context())
}

// good is a round that verifies the log.
func (f *follower) good(l testLog) *monitor.Result {
	f.tb.Helper()
	r, err := f.round(l.files())
	if err != nil {
		f.tb.Fatalf("%s of %d: %v", l.origin(), len(l.entries), err)
	}
	if n := f.m.Verified(); n.Checkpoint.Size != uint64(len(l.entries)) || n.Checkpoint.Origin != l.origin() {
		f.tb.Fatalf("verified is %d of %s", n.Checkpoint.Size, n.Checkpoint.Origin)
	}
	return r
}

// fails is a round that does not, and leaves what was verified.
func (f *follower) fails(now files, want error) {
	f.tb.Helper()
	before := f.m.Verified()
	if _, err := f.round(now); !errors.Is(err, want) {
		f.tb.Fatalf("%v, want %v", err, want)
	}
	if f.m.Verified() != before {
		f.tb.Fatalf("verified is %v", f.m.Verified())
	}
}

// caught is a round that finds misbehaviour, with evidence that proves itself to others,
// and, where two checkpoints are named, of those.
func (f *follower) caught(now files, kind evidence.Kind, notes ...testLog) *evidence.Evidence {
	f.tb.Helper()
	_, err := f.round(now)
	var m *monitor.MisbehaviourError
	if !errors.As(err, &m) {
		f.tb.Fatalf("not caught: %v", err)
	}
	if m.Finding.Kind != kind {
		f.tb.Fatalf("%s (%s), want %s", m.Finding.Kind, m.Finding.What, kind)
	}
	if !strings.HasPrefix(m.File, "evidence-") {
		f.tb.Fatalf("no evidence: %v", err)
	}
	b, err := f.disk.ReadFile(m.File)
	if err != nil {
		f.tb.Fatal(err)
	}
	e, err := evidence.Parse(b)
	if err != nil {
		f.tb.Fatal(err)
	}
	finding, err := e.Verify(f.policy)
	if err != nil {
		f.tb.Fatal(err)
	}
	if finding.Kind != kind {
		f.tb.Fatalf("the file says %s", finding.Kind)
	}
	if len(notes) == 2 && (!bytes.Equal(e.First.Bytes(), notes[0].note().Bytes()) || !bytes.Equal(e.Second.Bytes(), notes[1].note().Bytes())) {
		f.tb.Fatalf("it is of %d and %d entries", e.First.Checkpoint.Size, e.Second.Checkpoint.Size)
	}
	return e
}
