package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
)

// healthy is a history long enough for each mutation to find its place.
func healthy(seed uint64) (*history.History, *history.Final) {
	n := rand.New(rand.NewPCG(seed, 1))
	return newMachine(n.IntN).run(3000)
}

func TestHealthy(t *testing.T) {
	for seed := range uint64(20) {
		h, f := healthy(seed)
		for _, v := range check.All(h, f, check.Limits{Replicas: 3}) {
			if !v.OK || v.Checked == 0 || len(v.Notes) == 0 && v.Name != check.RealTimeOrder || v.Claim == "" {
				t.Errorf("seed %d, %s: %+v", seed, v.Name, v)
			}
		}
	}
}

func TestNothingProvesNothing(t *testing.T) {
	for _, v := range check.All(new(history.History), nil, check.Limits{}) {
		if v.OK || v.Checked != 0 || len(v.Evidence) == 0 {
			t.Errorf("%s: %+v", v.Name, v)
		}
	}
}

// pick returns the first operation from a random place on that matches.
func pick(n *rand.Rand, h *history.History, match func(*history.Op) bool) *history.Op {
	start := n.IntN(len(h.Ops))
	for i := range h.Ops {
		if op := &h.Ops[(start+i)%len(h.Ops)]; match(op) {
			return op
		}
	}
	return nil
}

func tries(h *history.History, k chain.Key) (count int) {
	for i := range h.Ops {
		if h.Ops[i].Kind == history.Append && h.Ops[i].Key == k {
			count++
		}
	}
	return count
}

// acked matches acknowledged appends of events that were tried once.
func acked(h *history.History) func(*history.Op) bool {
	return func(op *history.Op) bool {
		return op.Kind == history.Append && op.Outcome == history.OK && tries(h, op.Key) == 1
	}
}

func reads(kind history.Kind, at history.Consistency) func(*history.Op) bool {
	return func(op *history.Op) bool {
		return op.Kind == kind && op.Consistency == at && op.Outcome == history.OK
	}
}

// grow adds an entry to the final chain, at all nodes.
func grow(f *history.Final, k chain.Key) {
	seq := f.Size
	f.Entries = append(f.Entries, history.Entry{Sequence: seq, Hash: hashOf(seq), Key: k})
	f.Size++
	for i := range f.Replicas {
		f.Replicas[i].Size, f.Replicas[i].Hash, f.Replicas[i].Root = f.Size, hashOf(seq), rootOf(f.Size)
	}
}

// mutation makes a history wrong; it returns false where there is no place for it.
type mutation struct {
	name   string
	wrong  func(n *rand.Rand, h *history.History, f *history.Final) bool
	caught []string // by these, at least
	says   string   // in the evidence
}

var mutations = []mutation{
	{"an acknowledged event is not in the chain", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, acked(h))
		f.Entries[op.Sequence].Key = chain.Key{ID: "another"}
		return true
	}, []string{check.Acknowledged}, "lost"},
	{"the chain ends before an acknowledged event", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, acked(h))
		f.Entries, f.Size = f.Entries[:op.Sequence], op.Sequence
		return true
	}, []string{check.Acknowledged, check.Heads, check.Watches, check.Linearizable}, "the chain has"},
	{"an acknowledged event stands twice", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		grow(f, pick(n, h, acked(h)).Key)
		return true
	}, []string{check.Acknowledged, check.AtMostOnce}, "doubled"},
	{"an unacknowledged event stands twice", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, acked(h))
		op.Outcome = history.Unknown
		grow(f, op.Key)
		return true
	}, []string{check.AtMostOnce}, "doubled"},
	{"two tries were told that they appended", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, func(op *history.Op) bool { return op.Outcome == history.OK && op.Duplicate })
		if op == nil {
			return false
		}
		again := *op
		again.Duplicate = false
		h.Ops = append(h.Ops, again)
		op.Duplicate = false
		return true
	}, []string{check.Acknowledged}, "appended twice"},
	{"an acknowledgement tells another hash", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		pick(n, h, acked(h)).Hash[30]++
		return true
	}, []string{check.Acknowledged, check.Heads}, "another hash"},
	{"an acknowledgement tells another sequence", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, acked(h))
		op.Sequence, op.Hash = op.Sequence-1, hashOf(op.Sequence-1)
		return true
	}, []string{check.Acknowledged}, "moved"},
	{"what certainly failed stands", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		pick(n, h, acked(h)).Outcome = history.Failed
		return true
	}, []string{check.AtMostOnce}, "failed, and stands"},
	{"events change places", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, acked(h))
		b := pick(n, h, func(op *history.Op) bool { return acked(h)(op) && op.Call > a.Return })
		if b == nil {
			return false
		}
		a.Sequence, b.Sequence = b.Sequence, a.Sequence
		a.Hash, b.Hash = b.Hash, a.Hash
		f.Entries[a.Sequence].Key, f.Entries[b.Sequence].Key = a.Key, b.Key
		return true
	}, []string{check.RealTimeOrder, check.Linearizable}, "was acknowledged"},
	{"a head misses what was acknowledged", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, acked(h))
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Head, history.Linearizable)(op) && op.Call > a.Return
		})
		if op == nil {
			return false
		}
		op.Size, op.HeadHash, op.Root = a.Sequence, hashOf(a.Sequence-1), rootOf(a.Sequence)
		return true
	}, []string{check.Linearizable}, "was not there before"},
	{"a head goes back behind another client's", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, reads(history.Head, history.Linearizable))
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Head, history.Linearizable)(op) && op.Call > a.Return && op.Client != a.Client
		})
		if op == nil || a.Size < 2 {
			return false
		}
		op.Size, op.HeadHash, op.Root = a.Size-1, hashOf(a.Size-2), rootOf(a.Size-1)
		return true
	}, []string{check.Linearizable}, "was not there before"},
	{"a stale head shows what is not sent yet", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, reads(history.Head, history.Stale))
		a := pick(n, h, func(a *history.Op) bool { return acked(h)(a) && a.Call > op.Return })
		if a == nil {
			return false
		}
		op.Size, op.HeadHash, op.Root = a.Sequence+1, hashOf(a.Sequence), rootOf(a.Sequence+1)
		return true
	}, []string{check.Linearizable}, "was there by"},
	{"a lookup misses what was acknowledged", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, acked(h))
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Lookup, history.Linearizable)(op) && op.Call > a.Return
		})
		if op == nil {
			return false
		}
		op.Key, op.Found, op.Sequence, op.Hash = a.Key, false, 0, chain.Hash{}
		return true
	}, []string{check.Linearizable}, "not found"},
	{"a lookup finds another event", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, func(op *history.Op) bool { return op.Kind == history.Lookup && op.Found })
		op.Sequence, op.Hash = 0, hashOf(0)
		return true
	}, []string{check.Linearizable}, "that is system/exonode/genesis"},
	{"an entry is missing that was acknowledged", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, acked(h))
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Get, history.Linearizable)(op) && op.Call > a.Return
		})
		if op == nil {
			return false
		}
		op.Outcome, op.Code, op.Sequence, op.Hash = history.Failed, "not_found", a.Sequence, chain.Hash{}
		return true
	}, []string{check.Linearizable}, "no entry"},
	{"a watch delivers what is not sent yet", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, func(op *history.Op) bool { return acked(h)(op) && op.Call > time.Second })
		for i := range h.Deliveries {
			if d := &h.Deliveries[i]; d.Sequence == a.Sequence {
				d.At = a.Call - 1
			}
		}
		return true
	}, []string{check.Linearizable}, "delivered at"},
	{"a session goes back", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Head, history.Session)(op) && op.Call > 5*time.Second
		})
		op.Size, op.HeadHash, op.Root = 1, hashOf(0), rootOf(1)
		return true
	}, []string{check.Session}, "was answered from"},
	{"a session misses the client's own event", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		a := pick(n, h, acked(h))
		op := pick(n, h, func(op *history.Op) bool {
			return reads(history.Lookup, history.Session)(op) && op.Client == a.Client && op.Call > a.Return
		})
		if op == nil {
			return false
		}
		op.Key, op.Found, op.Sequence, op.Hash = a.Key, false, 0, chain.Hash{}
		return true
	}, []string{check.Session}, "was answered from"},
	{"a stale head is of another chain", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, func(op *history.Op) bool { return reads(history.Head, history.Stale)(op) && op.Size > 0 })
		op.HeadHash[20]++
		return true
	}, []string{check.Heads}, "another chain"},
	{"a head has another root", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, func(op *history.Op) bool { return op.Kind == history.Head && op.Size > 0 })
		op.Root[20]++
		return true
	}, []string{check.Heads}, "root"},
	{"a checkpoint is of another tree", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		asCheckpoint(n, h).Root[20]++
		return true
	}, []string{check.Heads}, "root"},
	{"a checkpoint is of entries that there never were", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		asCheckpoint(n, h).Size = f.Size + 1
		return true
	}, []string{check.Heads}, "beyond the end"},
	{"an entry has another hash", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		pick(n, h, reads(history.Get, history.Session)).Hash[20]++
		return true
	}, []string{check.Heads}, "another chain"},
	{"a client does not believe an answer", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		op := pick(n, h, reads(history.Get, history.Session))
		op.Outcome, op.Code = history.Failed, history.Disbelieved
		return true
	}, []string{check.Heads}, "refused the answer"},
	{"a watch skips", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		i := n.IntN(len(h.Deliveries) - 1)
		h.Deliveries = slices.Delete(h.Deliveries, i, i+1)
		return true
	}, []string{check.Watches}, "skipped"},
	{"a watch repeats", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		i := n.IntN(len(h.Deliveries))
		h.Deliveries = slices.Insert(h.Deliveries, i, h.Deliveries[i])
		return true
	}, []string{check.Watches}, "again"},
	{"a watch stops short", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Deliveries = h.Deliveries[:len(h.Deliveries)-1]
		return true
	}, []string{check.Watches}, "stopped short"},
	{"a watch delivers another chain", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Deliveries[n.IntN(len(h.Deliveries))].Hash[3]++
		return true
	}, []string{check.Watches}, "another chain"},
	{"a watch delivers beyond the end", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Deliveries = append(h.Deliveries, history.Delivery{Watch: 1, At: h.Length, Sequence: f.Size, Hash: hashOf(f.Size)})
		return true
	}, []string{check.Watches}, "beyond the end"},
	{"a watch is sent what its client refuses", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Watches[0].Disbelieved = []string{"the watch was at 512 already"}
		return true
	}, []string{check.Watches}, "at 512 already"},
	{"a watch was not recorded", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Watches = nil
		return true
	}, []string{check.Watches}, "not recorded"},
	{"a node stores another byte", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas[n.IntN(3)].Digest[5]++
		return true
	}, []string{check.Replicas}, "digest"},
	{"a node has another head", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas[n.IntN(3)].Hash[5]++
		return true
	}, []string{check.Replicas}, "head hash"},
	{"all nodes have another root than clients are judged by", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		for i := range f.Replicas {
			f.Replicas[i].Root[5]++
		}
		return true
	}, []string{check.Replicas}, "the tree that clients are judged by"},
	{"a node is behind", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas[n.IntN(3)].Size--
		return true
	}, []string{check.Replicas}, "was to be compared"},
	{"a node is missing", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas = f.Replicas[1:]
		return true
	}, []string{check.Replicas}, "2 nodes were compared"},
	{"a node does not verify", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas[n.IntN(3)].Problems = []string{"entry 5: verdict permit, the policy says deny"}
		return true
	}, []string{check.Replicas, check.Verdicts}, "verdict permit"},
	{"a node evaluated nothing", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Replicas[n.IntN(3)].Verdicts = 0
		return true
	}, []string{check.Verdicts}, "evaluated no verdict"},
	{"entries are missing", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Entries[2].Sequence = 3
		return true
	}, []string{check.Replicas}, "where 2 belongs"},
	{"nothing is written for a minute", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Faults = []history.Fault{{At: h.Length / 2, Kind: "partition", Text: "n1 cut from n2 and n3"}}
		h.Length += time.Minute
		return true
	}, []string{check.Progress}, "partition (n1 cut from n2 and n3)"},
	{"little is written", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Length *= 1000
		return true
	}, []string{check.Progress}, "the least is 1.0"},
	{"the cluster does not come back", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		f.Troubles = []string{"n2 is not ready: it has no leader"}
		return true
	}, []string{check.Recovery}, "n2 is not ready"},
	{"nothing was looked up", func(n *rand.Rand, h *history.History, f *history.Final) bool {
		h.Ops = slices.DeleteFunc(h.Ops, func(op history.Op) bool { return op.Kind == history.Lookup })
		return true
	}, []string{check.Workload}, "lookup: 0 went well"},
}

func TestMutationsAreCaught(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			made := 0
			for seed := range uint64(8) {
				h, f := healthy(seed)
				if !m.wrong(rand.New(rand.NewPCG(seed, 2)), h, f) {
					continue
				}
				made++
				vs := check.All(h, f, check.Limits{Replicas: 3})
				names, evidence := failed(vs), fmt.Sprint(vs)
				for _, name := range m.caught {
					if !slices.Contains(names, name) {
						t.Errorf("seed %d: %s does not catch it; these do: %v", seed, name, names)
					}
				}
				if !strings.Contains(evidence, m.says) {
					t.Errorf("seed %d: nothing says %q: %s", seed, m.says, evidence)
				}
			}
			if made == 0 {
				t.Error("no history had a place for it")
			}
		})
	}
}

// Each checker is shown to fail, alone or beside others.
func TestEachCheckerFailed(t *testing.T) {
	caught := map[string]bool{check.Porcupine: true} // see TestPicture
	for _, m := range mutations {
		for _, name := range m.caught {
			caught[name] = true
		}
	}
	for _, v := range check.All(new(history.History), nil, check.Limits{}) {
		if !caught[v.Name] {
			t.Errorf("nothing makes %s fail", v.Name)
		}
	}
}

func TestPicture(t *testing.T) {
	h, f := healthy(1)
	_, pictures := check.Judge(h, f, small)
	if page := pictures["porcupine"]; !strings.Contains(string(page), "<html") {
		t.Errorf("the picture is %.80q", page)
	}
	a := pick(rand.New(rand.NewPCG(1, 1)), h, acked(h))
	last := &h.Ops[len(h.Ops)-1]
	*last = history.Op{Client: 77, Kind: history.Lookup, Consistency: history.Linearizable, Key: a.Key, Outcome: history.OK, Call: h.Length, Return: h.Length}
	vs, pictures := check.Judge(h, f, small)
	names := failed(vs)
	if !slices.Contains(names, check.Porcupine) || !slices.Contains(names, check.Linearizable) {
		t.Errorf("failed: %v", names)
	}
	if page := string(pictures["porcupine-1"]); !strings.Contains(page, "client 77") {
		t.Errorf("the conflict is not in the picture: %d bytes", len(page))
	}
}

// asCheckpoint makes a read of a head one of a checkpoint, which tells the same tree.
func asCheckpoint(n *rand.Rand, h *history.History) *history.Op {
	op := pick(n, h, func(op *history.Op) bool { return reads(history.Head, history.Stale)(op) && op.Size > 0 })
	op.Kind, op.Consistency, op.HeadHash = history.Checkpoint, "", chain.Hash{}
	return op
}
