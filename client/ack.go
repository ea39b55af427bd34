package client

import (
	"fmt"
	"time"

	"github.com/exonode/exonode/chain"
)

// Ack says where an event stands in the chain. It is on the disks of a quorum
// of the cluster's voters.
type Ack struct {
	// Key is the event's identity, with what the client filled in.
	Key chain.Key
	// Sequence, Hash and Time (Unix nanoseconds) are of the event's entry;
	// beside an *api.Error that says denied or escalated, of the governance
	// entry that did so.
	Sequence uint64
	Hash     chain.Hash
	Time     int64
	// Duplicate is whether the event was in the chain before this call, or
	// before this call's last attempt.
	Duplicate bool
	// Verdict is the gate's decision; nil where no gate was evaluated.
	Verdict *chain.Verdict
}

// Result is one event's outcome in a batch: Err is as Append's.
type Result struct {
	Ack Ack
	Err error
}

// Head is the newest entry of a chain as a node told it, with the Merkle root
// over all headers.
type Head struct {
	Chain chain.ID
	Epoch uint64
	// Size is the number of entries; 0 is the empty chain.
	Size uint64
	// Hash and Time are of entry Size-1.
	Hash chain.Hash
	Time int64
	Root chain.Hash
}

// String is for people.
func (h Head) String() string {
	if h.Size == 0 {
		return fmt.Sprintf("chain %v epoch %d: empty", h.Chain, h.Epoch)
	}
	return fmt.Sprintf("chain %v epoch %d: %d entries, head hash %v, root %v", h.Chain, h.Epoch, h.Size, h.Hash, h.Root)
}

// Consistency says how fresh a read is.
type Consistency uint8

// The levels.
const (
	// Linearizable reads see every event that was acknowledged, to anyone,
	// before they began. They need a leader.
	Linearizable Consistency = iota
	// Session reads see at least all that this Client has seen: what it was
	// acknowledged, and what it read. Any node that is that far serves them.
	Session
	// Stale reads see whatever the node has.
	Stale
)

// String is the level's name.
func (c Consistency) String() string {
	switch c {
	case Linearizable:
		return "linearizable"
	case Session:
		return "session"
	case Stale:
		return "stale"
	}
	return fmt.Sprintf("Consistency(%d)", uint8(c))
}

// Entry is an entry whose bytes were checked: Header and Envelope are decoded
// from Record, whose header hashes to Hash, and whose envelope is the one that
// the header commits to.
type Entry struct {
	// Record has the exact bytes.
	chain.Record
	Hash   chain.Hash
	Header chain.Header
	// Envelope is nil where it is redacted. That the redaction itself is
	// legitimate is for `exonode verify`, which sees the whole chain.
	Envelope *chain.Envelope
}

// Status is one node's view of itself and of the cluster.
type Status struct {
	// Address is the node that answered.
	Address                string
	NodeID, Version, Phase string
	Leader                 string // node id; "" where none is known
	State                  string // Leader, Follower, Candidate, Shutdown
	Term                   uint64
	CommitIndex            uint64
	AppliedIndex           uint64
	LastLogIndex           uint64
	Head                   Head
	CatchUp                *Progress // nil where it is not catching up
	QueueLength            uint64
	Started                time.Time
	Members                []Member
	Ready                  bool
	NotReady               string // what it waits for
	Checkpoint             CheckpointStatus
	Warning                string // what an operator must see to; "" where nothing
}

// CheckpointStatus is how checkpoints stand, as a node knows it.
type CheckpointStatus struct {
	// Size is that of the newest final checkpoint's tree, 0 where there is none; At is
	// when the node had it, Cosigned by how many voters.
	Size     uint64
	At       time.Time
	Cosigned uint32
	// Problem is why nothing newer becomes final, "" where nothing stands against it;
	// Refusals are the voters' reasons, by node id, where the node leads.
	Problem  string
	Refusals map[string]string
	// Witnessed is the size of the newest one with a quorum of outside witnesses;
	// Witnesses are why some do not cosign, by name, where the node leads.
	Witnessed uint64
	Witnesses map[string]string
}

// Progress is x of y entries.
type Progress struct{ Have, Want uint64 }

// Member is one server of the cluster, or one that only gossips with it
// (Suffrage "none").
type Member struct {
	NodeID, ServerID, Name string
	PeerAddr, APIAddr      string
	Suffrage               string // voter, nonvoter, none
	Gossip                 string // alive, suspect, dead, left, unknown
	Leader                 bool
	// LastContact is how long ago the leader heard of it; negative where
	// unknown.
	LastContact time.Duration
	Applied     uint64
	Version     string
	// State and Entries are the node's own word, where ClusterStatus was asked and it
	// answered; "" and 0 otherwise.
	State   string
	Entries uint64
}

// Lookup is what became of an event.
type Lookup struct {
	State LookupState
	// Entry is the event's own, or the governance entry that decided it;
	// nil where State is Unknown.
	Entry *Entry
}

// LookupState is what became of an event.
type LookupState uint8

// The states.
const (
	Unknown LookupState = iota // never sealed, denied or escalated
	Sealed                     // in the chain
	Denied                     // by its gate; the id is consumed
	Pending                    // waits for approval
	Closed                     // its request was rejected or expired
)

// String is the state's name.
func (s LookupState) String() string {
	switch s {
	case Unknown:
		return "unknown"
	case Sealed:
		return "sealed"
	case Denied:
		return "denied"
	case Pending:
		return "pending"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("LookupState(%d)", uint8(s))
}
