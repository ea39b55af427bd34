package raftstore_test

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

// writes is a plain stable store, as raft-boltdb is one: each call writes one value. It
// records its writes.
type writes struct {
	data map[string][]byte
	log  []write
}

type write struct {
	key   string
	value []byte
}

func (w *writes) Set(k, v []byte) error {
	w.log = append(w.log, write{string(k), append([]byte(nil), v...)})
	w.data[string(k)] = w.log[len(w.log)-1].value
	return nil
}

func (w *writes) SetUint64(k []byte, v uint64) error {
	return w.Set(k, binary.BigEndian.AppendUint64(nil, v))
}

func (w *writes) Get(k []byte) ([]byte, error) {
	v, ok := w.data[string(k)]
	if !ok {
		return nil, errors.New("not found")
	}
	return v, nil
}

func (w *writes) GetUint64(k []byte) (uint64, error) {
	v, err := w.Get(k)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

// election is one that a node with a vote was asked in, and crashed before it answered.
type election struct {
	name string
	// term, and that of its vote for n3, and of its last log entry, 2, before.
	term, voted, entry uint64
	// asked is n2's request, which it wanted to grant; then comes probe, and must
	// not be granted.
	asked, probe *raft.RequestVoteRequest
	harm         string
}

// ask is a vote request of a candidate, whose log ends with last of lastTerm.
func ask(candidate string, term, last, lastTerm uint64) *raft.RequestVoteRequest {
	return &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate), Addr: []byte(candidate)},
		Term:      term, LastLogIndex: last, LastLogTerm: lastTerm,
	}
}

var elections = []election{
	{
		// n2 led term 5, by the votes of itself and n3, and entry 2 is on n1 and n2.
		name: "log", term: 5, voted: 4, entry: 5, asked: ask("n2", 6, 2, 5), probe: ask("n3", 6, 1, 1),
		harm: "a vote for a candidate that lacks what is acknowledged",
	},
	{
		// What n2 asked in term 4 comes late.
		name: "twice", term: 4, voted: 4, entry: 4, asked: ask("n2", 6, 2, 4), probe: ask("n2", 4, 2, 4),
		harm: "a second vote in term 4",
	},
}

// grants starts n1 of three over a store, hands it a request and returns its answer.
// Its log has two entries, of term 1 and of the given.
func grants(t *testing.T, entry uint64, stable raft.StableStore, req *raft.RequestVoteRequest) bool {
	t.Helper()
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogOutput = "n1", io.Discard
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	members := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}, {ID: "n2", Address: "n2"}, {ID: "n3", Address: "n3"}}}
	logs := raft.NewInmemStore()
	if err := logs.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(members)},
		{Index: 2, Term: entry, Type: raft.LogNoop},
	}); err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("n1")
	_, other := raft.NewInmemTransport("other")
	other.Connect("n1", trans)
	r, err := raft.NewRaft(conf, new(raft.MockFSM), logs, stable, raft.NewInmemSnapshotStore(), trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	}()
	var resp raft.RequestVoteResponse
	if err := other.RequestVote("n1", "n1", req, &resp); err != nil {
		t.Fatal(err)
	}
	return resp.Granted
}

// crashes has n1 vote in an election, and crash before it answers, with every part of
// what it wrote for it on disk; it returns after how many of those it then grants the
// probe. With ordered, only beginnings are on disk.
func (e election) crashes(t *testing.T, ordered bool, open func(*writes) raft.StableStore) (bad, all int) {
	t.Helper()
	disk := &writes{data: make(map[string][]byte)}
	s := open(disk)
	for _, err := range []error{
		s.SetUint64([]byte("CurrentTerm"), e.term), s.SetUint64([]byte("LastVoteTerm"), e.voted), s.Set([]byte("LastVoteCand"), []byte("n3")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := maps.Clone(disk.data)
	disk.log = nil
	if !grants(t, e.entry, s, e.asked) {
		t.Fatal("what was to be granted is not")
	}
	n := len(disk.log)
	for part := range 1 << n {
		if ordered && part&(part+1) != 0 {
			continue
		}
		after := &writes{data: maps.Clone(before)}
		for i, w := range disk.log {
			if part>>i&1 == 1 {
				after.data[w.key] = w.value
			}
		}
		all++
		if grants(t, e.entry, open(after), e.probe) {
			bad++
		}
	}
	return bad, all
}

// TestTrapVoteWithoutTerm: raft writes a vote and its term in three calls. After a crash
// between them, over a plain store it gives votes that it must not give: over ours, none.
func TestTrapVoteWithoutTerm(t *testing.T) {
	plain := func(w *writes) raft.StableStore { return w }
	ours := func(w *writes) raft.StableStore {
		v, err := raftstore.OpenVote(w)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, e := range elections {
		t.Run(e.name, func(t *testing.T) {
			if bad, all := e.crashes(t, false, ours); bad > 0 {
				t.Errorf("%s, after %d of %d crashes", e.harm, bad, all)
			}
			bad, all := e.crashes(t, false, plain)
			if bad == 0 {
				t.Errorf("over a plain store nothing is wrong after any of %d crashes", all)
			}
			inOrder, beginnings := e.crashes(t, true, plain)
			t.Logf("over a plain store: %s, after %d of %d crashes; where writes come to the disk in order, after %d of %d",
				e.harm, bad, all, inOrder, beginnings)
		})
	}
}
