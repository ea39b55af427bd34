package checkpoints

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

var testID = chain.ID{0xc0, 15: 0xee}

// files are a disk in memory, shared by the lives of a node.
type files struct {
	mu sync.Mutex // guards m
	m  map[string][]byte
}

func (f *files) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.m[path.Base(name)]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (f *files) WriteFile(name string, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[path.Base(name)] = bytes.Clone(b)
	return nil
}

func (f *files) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[path.Base(to)] = f.m[path.Base(from)]
	delete(f.m, path.Base(from))
	return nil
}

func (f *files) Remove(name string) error { return nil }
func (f *files) SyncDir(string) error     { return nil }

// member is one node: a state machine over a store in memory, and its service.
type member struct {
	*Service
	c     *cluster
	id    string
	disk  *files
	store *ledgertest.Memory
	fsm   *fsm.FSM
	down  atomic.Bool
	// ahead is how far ahead the node's clock is, in nanoseconds.
	ahead atomic.Int64

	mu    sync.Mutex // guards the fields below
	tree  chain.Tree
	roots []chain.Hash // of 0, 1, … entries
	moved chan struct{}
}

// cluster applies the same log on all members, as raft would.
type cluster struct {
	mu sync.Mutex // guards index, salts and the stores: one command at a time
	// net guards members and order, which the test alone changes.
	net     sync.RWMutex
	t       *testing.T
	members map[string]*member
	order   []string
	leading atomic.Value // string
	index   uint64
	logs    []raft.Log // all that was applied
	salts   uint64
	started context.Context
}

// newCluster returns members n1 to nN, of which n1 leads, and whose chain has begun. It is
// for a bubble. The services run until the test ends.
func newCluster(t *testing.T, n int, configure func(id string, cfg *Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, members: make(map[string]*member), started: t.Context()}
	c.leading.Store("n1")
	for i := range n {
		c.order = append(c.order, fmt.Sprint("n", i+1))
	}
	for _, id := range c.order {
		c.add(id, configure)
	}
	var servers raft.Configuration
	for _, id := range c.order {
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(id + ".i"), Address: raft.ServerAddress(id), Suffrage: raft.Voter})
	}
	c.apply(&raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)})
	key, err := c.members["n1"].BeginLog()
	c.must(err)
	policy, err := gates.BuiltIn(gates.Production)
	c.must(err)
	document, err := (&fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: testID, ClusterName: "test",
		Created: time.Now(), Environment: string(gates.Production), Policy: policy.Encode(),
	}).Encode()
	c.must(err)
	c.command(fsm.Command{Genesis: &fsm.GenesisCommand{Stamp: time.Now().UnixNano(), Node: "n1", Document: document, LogKey: key}})
	return c
}

func (c *cluster) leader() string { return c.leading.Load().(string) }

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) add(id string, configure func(string, *Config)) {
	c.t.Helper()
	m := &member{c: c, id: id, disk: &files{m: map[string][]byte{}}, store: ledgertest.NewMemory(), roots: []chain.Hash{new(chain.Tree).Root()}, moved: make(chan struct{})}
	var err error
	m.fsm, err = fsm.New(fsm.Config{
		Store: m.store, Staging: m.store, ChainID: testID, NodeID: id,
		Fatal: func(err error) { c.t.Error(err) }, Logger: slog.New(slog.DiscardHandler),
	})
	c.must(err)
	c.net.Lock()
	c.members[id] = m
	c.net.Unlock()
	m.start(configure)
}

// start opens and runs a service over the member's disk.
func (m *member) start(configure func(string, *Config)) {
	m.c.t.Helper()
	cfg := Config{
		NodeID: m.id, Chain: testID, Keys: "keys", Signed: "signed", FS: m.disk,
		View: m.fsm.View, Tree: m, Records: m.records, Grown: m.grown, Consistency: m.consistency,
		Leading: func() bool { return m.c.leader() == m.id }, Leader: m.c.leader,
		Members: func() []string {
			return slices.DeleteFunc(m.c.ids(), func(id string) bool { return id == m.id })
		},
		Voter: m.votes, Call: m.call, Write: m.write,
		Now: func() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) }, Log: slog.New(slog.DiscardHandler),
	}
	if configure != nil {
		configure(m.id, &cfg)
	}
	var err error
	m.Service, err = Open(cfg)
	m.c.must(err)
	go m.Run(m.c.started) // ends with the test; its error is always nil
}

func (m *member) votes(id string) bool {
	return slices.ContainsFunc(m.fsm.View().Configuration().Servers, func(s fsm.Server) bool { return fsm.NodeID(s.ID) == id && s.Voter })
}

var errDown = errors.New("it is down")

func (m *member) call(ctx context.Context, id, method string, request []byte) ([]byte, error) {
	to := m.c.get(id)
	if to == nil || to.down.Load() || m.down.Load() {
		return nil, errDown
	}
	return to.Handlers()[method](ctx, m.id, request)
}

// write seals what a node witnesses of itself at once.
func (m *member) write(kind, cause, subject string, payload any) error {
	b, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	p := m.c.event(kind, m.id+"/"+cause, string(b))
	p.Workspace, p.Source, p.Principal = "system", "exonode:node", fsm.NodePrincipal(m.id)
	m.c.seal(p)
	return nil
}

func (m *member) Size() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.roots) - 1)
}

func (m *member) RootAt(size uint64) (chain.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roots[size], nil
}

// consistency is for trees below 256 entries: all of one is in its edge.
func (m *member) consistency(from, to uint64) ([]chain.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return chain.ConsistencyProof(from, to, m.tree.Reader(nil))
}

func (m *member) grown(size uint64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if uint64(len(m.roots)-1) > size {
		done := make(chan struct{})
		close(done)
		return done
	}
	return m.moved
}

func (m *member) records(_ context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		for seq := from; seq < to; seq++ {
			if r, err := m.store.Record(seq); !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// apply has members apply a log entry; all where none are named.
func (c *cluster) apply(l *raft.Log, ids ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(ids) == 0 {
		ids = c.ids()
	}
	c.index++
	l.Index, l.Term = c.index, 1
	c.logs = append(c.logs, *l)
	for _, id := range ids {
		c.get(id).apply(l)
	}
}

// apply applies a log entry.
func (m *member) apply(l *raft.Log) {
	t := m.c.t
	t.Helper()
	if b, ok := m.fsm.ApplyBatch([]*raft.Log{l})[0].(*fsm.BatchResult); ok {
		for _, r := range b.Results {
			if r.Err != nil {
				t.Fatalf("%s: %v", m.id, r.Err)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for size := uint64(len(m.roots) - 1); size < m.store.Meta().Head.Size; size++ {
		r, err := m.store.Record(size)
		m.c.must(err)
		m.tree.Append(r.Header, nil)
		m.roots = append(m.roots, m.tree.Root())
	}
	close(m.moved)
	m.moved = make(chan struct{})
}

func (c *cluster) command(cmd fsm.Command, ids ...string) {
	c.t.Helper()
	b, err := cmd.AppendBinary(nil)
	c.must(err)
	c.apply(&raft.Log{Type: raft.LogCommand, Data: b}, ids...)
}

// ids are the members' names, and get is one of them.
func (c *cluster) ids() []string {
	c.net.RLock()
	defer c.net.RUnlock()
	return slices.Clone(c.order)
}

func (c *cluster) get(id string) *member {
	c.net.RLock()
	defer c.net.RUnlock()
	return c.members[id]
}

// join adds members that are where the others are.
func (c *cluster) join(ids ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.add(id, nil)
		for i := range c.logs {
			c.get(id).apply(&c.logs[i])
		}
		c.net.Lock()
		c.order = append(c.order, id)
		c.net.Unlock()
	}
}

// vote makes members the voters.
func (c *cluster) vote(ids ...string) {
	c.t.Helper()
	var servers raft.Configuration
	for _, id := range ids {
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(id + ".i"), Address: raft.ServerAddress(id), Suffrage: raft.Voter})
	}
	c.apply(&raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)})
}

// recorded are the notes of the chain.checkpoint entries.
func (c *cluster) recorded() (notes []*checkpoint.Note) {
	c.t.Helper()
	m := c.members["n1"]
	for r, err := range m.records(c.t.Context(), 0, m.Size()) {
		c.must(err)
		e, err := r.Decode()
		c.must(err)
		if e.Header.Kind != catalog.KindChainCheckpoint {
			continue
		}
		var p catalog.ChainCheckpoint
		c.must(json.Unmarshal(e.Envelope.Payload, &p))
		n, err := checkpoint.ParseNote([]byte(p.Note))
		c.must(err)
		notes = append(notes, n)
	}
	return notes
}

// event is an event with a fresh salt.
func (c *cluster) event(kind, id, payload string) fsm.Proposal {
	c.mu.Lock()
	c.salts++
	salt := &[chain.SaltSize]byte{byte(c.salts), byte(c.salts >> 8)}
	c.mu.Unlock()
	return fsm.Proposal{
		Event: chain.Event{
			Workspace: "app", Source: "test:source", ID: id, Kind: kind, SchemaVersion: 1,
			Payload: []byte(payload), ContentType: "application/json", Salt: salt,
		},
		Principal: "local",
	}
}

// seal commits an event on members, stamped by the leader's clock; all where none are
// named.
func (c *cluster) seal(p fsm.Proposal, ids ...string) {
	c.t.Helper()
	leader := c.get(c.leader())
	c.command(fsm.Command{Batch: &fsm.Batch{
		Stamp: time.Now().Add(time.Duration(leader.ahead.Load())).UnixNano(), Node: c.leader(),
		Revision: leader.fsm.View().Revision(), Events: []fsm.Proposal{p},
	}}, ids...)
}

// try commits an event that may be refused, and returns how the first member answers.
func (c *cluster) try(p fsm.Proposal) fsm.Result {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := (&fsm.Command{Batch: &fsm.Batch{
		Stamp: time.Now().UnixNano(), Node: c.leader(),
		Revision: c.members[c.leader()].fsm.View().Revision(), Events: []fsm.Proposal{p},
	}}).AppendBinary(nil)
	c.must(err)
	c.index++
	l := raft.Log{Type: raft.LogCommand, Data: b, Index: c.index, Term: 1}
	c.logs = append(c.logs, l)
	var first fsm.Result
	for i, id := range c.ids() {
		r := c.get(id).fsm.ApplyBatch([]*raft.Log{&l})[0].(*fsm.BatchResult).Results[0]
		if i == 0 {
			first = r
		}
	}
	return first
}

// grow commits n ungated events.
func (c *cluster) grow(n int, ids ...string) {
	c.t.Helper()
	for range n {
		c.seal(c.event("agent.exit", hex.EncodeToString(fmt.Append(nil, "e", c.members[c.leader()].Size())), `{}`), ids...)
	}
}
