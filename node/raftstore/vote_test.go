package raftstore_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

// memory is a stable store that counts writes and can fail.
type memory struct {
	data   map[string][]byte
	writes int
	fail   error
}

func newMemory() *memory { return &memory{data: make(map[string][]byte)} }

func (m *memory) Set(k, v []byte) error {
	if m.fail != nil {
		return m.fail
	}
	m.writes++
	m.data[string(k)] = append([]byte(nil), v...)
	return nil
}

func (m *memory) Get(k []byte) ([]byte, error) {
	v, ok := m.data[string(k)]
	if !ok {
		return nil, errors.New("not found")
	}
	return v, nil
}

func (m *memory) SetUint64([]byte, uint64) error   { return errors.New("not used") }
func (m *memory) GetUint64([]byte) (uint64, error) { return 0, errors.New("not used") }

func (m *memory) clone() *memory {
	c := newMemory()
	for k, v := range m.data {
		c.data[k] = v
	}
	return c
}

func open(t *testing.T, under raft.StableStore) *raftstore.Vote {
	t.Helper()
	v, err := raftstore.OpenVote(under)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// state reads the vote as raft does.
func state(t *testing.T, v *raftstore.Vote) (term, voteTerm uint64, candidate string) {
	t.Helper()
	get := func(key string) uint64 {
		n, err := v.GetUint64([]byte(key))
		if err != nil && err.Error() != "not found" {
			t.Fatal(err)
		}
		return n
	}
	c, err := v.Get([]byte("LastVoteCand"))
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	return get("CurrentTerm"), get("LastVoteTerm"), string(c)
}

// TestVoteCrash crashes at every write of a sequence of terms and votes: what
// is read back is always a vote that was cast whole.
func TestVoteCrash(t *testing.T) {
	type step struct {
		key string
		num uint64
		txt string
	}
	steps := []step{
		{key: "CurrentTerm", num: 5},
		{key: "LastVoteTerm", num: 5}, {key: "LastVoteCand", txt: "a"},
		{key: "CurrentTerm", num: 6},
		{key: "CurrentTerm", num: 7},
		{key: "LastVoteTerm", num: 7}, {key: "LastVoteCand", txt: "b"},
	}
	valid := map[[2]any]bool{{uint64(0), ""}: true, {uint64(5), "a"}: true, {uint64(7), "b"}: true}
	under := newMemory()
	v := open(t, under)
	for i, s := range steps {
		var err error
		if s.txt != "" {
			err = v.Set([]byte(s.key), []byte(s.txt))
		} else {
			err = v.SetUint64([]byte(s.key), s.num)
		}
		if err != nil {
			t.Fatal(err)
		}
		term, voteTerm, candidate := state(t, open(t, under.clone()))
		if !valid[[2]any{voteTerm, candidate}] {
			t.Errorf("crash after step %d: vote of term %d for %q was never cast", i, voteTerm, candidate)
		}
		if s.key == "CurrentTerm" && term != s.num {
			t.Errorf("crash after step %d: term %d, want %d", i, term, s.num)
		}
	}
	if term, voteTerm, candidate := state(t, open(t, under)); term != 7 || voteTerm != 7 || candidate != "b" {
		t.Errorf("got term %d, vote %d for %q", term, voteTerm, candidate)
	}
}

func TestVoteErrors(t *testing.T) {
	under := newMemory()
	v := open(t, under)
	if _, err := v.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("empty store: %v, want exactly %q", err, "not found")
	}
	if err := v.Set([]byte("LastVoteCand"), []byte("a")); err == nil {
		t.Error("a candidate without a term was accepted")
	}
	if err := v.SetUint64([]byte("CurrentTerm"), 3); err != nil {
		t.Fatal(err)
	}
	under.fail = errors.New("disk")
	if err := v.SetUint64([]byte("CurrentTerm"), 4); !errors.Is(err, under.fail) {
		t.Errorf("write error is %v", err)
	}
	if n, _ := v.GetUint64([]byte("CurrentTerm")); n != 3 {
		t.Errorf("term %d after a failed write, want 3", n)
	}
	for key := range under.data {
		under.data[key][0] ^= 1
	}
	if _, err := raftstore.OpenVote(under); err == nil {
		t.Error("a damaged record was accepted")
	}
}

func FuzzVoteRecord(f *testing.F) {
	under := newMemory()
	v, err := raftstore.OpenVote(under)
	if err != nil {
		f.Fatal(err)
	}
	_ = v.SetUint64([]byte("CurrentTerm"), 9)
	_ = v.SetUint64([]byte("LastVoteTerm"), 9)
	_ = v.Set([]byte("LastVoteCand"), []byte("node"))
	for key, rec := range under.data {
		f.Add(rec)
		f.Fuzz(func(t *testing.T, b []byte) {
			m := newMemory()
			m.data[key] = b
			v, err := raftstore.OpenVote(m)
			if err != nil {
				return
			}
			// What opens is written back the same.
			term, _, _ := state(t, v)
			if err := v.SetUint64([]byte("CurrentTerm"), term); err != nil {
				t.Fatal(err)
			}
			if string(m.data[key]) != string(b) {
				t.Fatalf("%x came back as %x", b, m.data[key])
			}
		})
	}
}

// hungStable is a stable store whose writes wait.
type hungStable struct {
	*raft.InmemStore
	until chan struct{}
}

func (h hungStable) Set(key, val []byte) error {
	<-h.until
	return h.InmemStore.Set(key, val)
}

// TestVoteHangs: while a vote is written, what is known of the one before is told. A
// node whose disk hangs answers others as long as it lives.
func TestVoteHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := hungStable{raft.NewInmemStore(), make(chan struct{}, 1)}
		v, err := raftstore.OpenVote(under)
		if err != nil {
			t.Fatal(err)
		}
		under.until <- struct{}{}
		if err := v.SetUint64([]byte("CurrentTerm"), 3); err != nil {
			t.Fatal(err)
		}
		written := make(chan error)
		go func() { written <- v.SetUint64([]byte("CurrentTerm"), 4) }()
		synctest.Wait()
		if term := v.Term(); term != 3 {
			t.Errorf("term %d while the next is written, want 3", term)
		}
		close(under.until)
		if err := <-written; err != nil || v.Term() != 4 {
			t.Errorf("term %d, %v, want 4", v.Term(), err)
		}
	})
}
