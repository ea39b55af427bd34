package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/outbox"
)

// instant is a pipeline.Log that commits at once.
type instant struct {
	fsm   *fsm.FSM
	mu    sync.Mutex // guards index
	index uint64
}

type done struct{ response any }

func (d done) Error() error  { return nil }
func (d done) Response() any { return d.response }

func (i *instant) Apply(command []byte, _ time.Duration) pipeline.Future {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index++
	return done{i.fsm.ApplyBatch([]*raft.Log{{Index: i.index, Term: 2, Type: raft.LogCommand, Data: command}})[0]}
}

func (i *instant) Barrier(time.Duration) error { return nil }

// telling is a node that has something to tell, and a leader to tell it to.
type telling struct {
	*witness
	fsm      *fsm.FSM
	store    *ledgertest.Memory
	pipeline *pipeline.Pipeline
	log      bytes.Buffer
	stop     func()
}

func newTelling(t *testing.T, options outbox.Options) *telling {
	t.Helper()
	box, err := outbox.Open(t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	n := &telling{store: ledgertest.NewMemory()}
	n.fsm = newFSM(t, n.store, newGrowth(0))
	leader := newLeaderLog(t)
	log := &instant{fsm: n.fsm}
	for _, e := range leader.entries(1, 2) {
		n.fsm.ApplyBatch([]*raft.Log{e})
		log.index = e.Index
	}
	n.witness = &witness{nodeID: "n1", boot: "b00t", outbox: box, clock: time.Now, logger: slog.New(slog.NewTextHandler(&n.log, nil))}
	n.pipeline = pipeline.New(pipeline.Config{
		NodeID: "n1", Log: log, View: n.fsm.View, Head: func() chain.Head { return n.fsm.View().Head() },
		Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.pipeline.Run(ctx) // always nil
	}()
	n.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(n.stop)
	return n
}

// drained runs drain until the outbox is empty.
func (n *telling) drained(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.drain(ctx, n.pipeline) }()
	for n.outbox.Len() > 0 {
		select {
		case err := <-ended:
			t.Fatalf("drain ended: %v", err)
		case <-t.Context().Done():
			t.Fatalf("%d items are left", n.outbox.Len())
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// told returns the ids of what the node sealed.
func (n *telling) told(t *testing.T) (ids []string) {
	t.Helper()
	for seq := range n.store.Meta().Head.Size {
		rec, err := n.store.Record(seq)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := chain.DecodeHeader(rec.Header); err != nil {
			t.Fatal(err)
		} else if h.Source == sourceNode {
			ids = append(ids, strings.TrimPrefix(h.ID, "n1/b00t/"))
		}
	}
	return ids
}

func (n *telling) say(t *testing.T, cause string) {
	t.Helper()
	if err := n.write(catalog.KindMeshDisconnect, cause, "n2", catalog.MeshDisconnect{NodeID: "n2", Address: "a:1", Reason: "dead"}); err != nil {
		t.Fatal(err)
	}
}

// TestWitnessDelivers: everything comes into the chain once and in order, after
// the leader is there, whatever stands in between that can't.
func TestWitnessDelivers(t *testing.T) {
	n := newTelling(t, outbox.Options{})
	n.say(t, "first")
	if _, err := n.outbox.Append([]byte("not an event")); err != nil {
		t.Fatal(err)
	}
	refused := catalog.MeshDisconnect{} // lacks what its schema asks for
	if err := n.write("no.such.kind", "refused", "", refused); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 2 * drainBatch {
		want = append(want, fmt.Sprint(i))
		n.say(t, fmt.Sprint(i))
	}
	n.pipeline.SetRole(pipeline.Role{Leading: true})
	n.drained(t)
	if got := strings.Join(n.told(t), " "); got != "first "+strings.Join(want, " ") {
		t.Errorf("the chain has %s", got)
	}
	if log := n.log.String(); !strings.Contains(log, "no event") || !strings.Contains(log, "no.such.kind") {
		t.Errorf("the log does not tell what was left out: %s", log)
	}
	// A crash before the acknowledgement: it is told again.
	n.say(t, "first")
	n.drained(t)
	if got := n.told(t); len(got) != len(want)+1 {
		t.Errorf("%d entries, want %d: what is told twice is sealed once", len(got), len(want)+1)
	}
}

// TestWitnessFull: a node without a leader goes on although nobody takes what it
// has to tell.
func TestWitnessFull(t *testing.T) {
	n := newTelling(t, outbox.Options{MaxBytes: 1000})
	for i := range 20 {
		n.say(t, fmt.Sprint(i))
	}
	kept := n.outbox.Len()
	if kept == 0 || kept == 20 {
		t.Fatalf("%d of 20 events are kept", kept)
	}
	if !strings.Contains(n.log.String(), "outbox is full") {
		t.Error("the log does not say so")
	}
	n.pipeline.SetRole(pipeline.Role{Leading: true})
	n.drained(t)
	n.say(t, "after")
	n.drained(t)
	if got := n.told(t); len(got) != kept+1 || got[kept] != "after" {
		t.Errorf("the chain has %v", got)
	}
	if err := n.outbox.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.write("mesh.connect", "x", "", struct{}{}); err == nil || errors.Is(err, outbox.ErrFull) {
		t.Errorf("a closed outbox: %v", err)
	}
}

// TestWitnessID: a cause may be longer than an id.
func TestWitnessID(t *testing.T) {
	w := &witness{nodeID: "n1", boot: "b00t"}
	if id := w.id("init"); id != "n1/b00t/init" {
		t.Errorf("id is %s", id)
	}
	long := make([]byte, chain.MaxID)
	rand.Read(long)
	a, b := w.id(fmt.Sprintf("%x1", long)), w.id(fmt.Sprintf("%x2", long))
	if len(a) > chain.MaxID || a == b || a != w.id(fmt.Sprintf("%x1", long)) {
		t.Errorf("ids are %s and %s", a, b)
	}
}
