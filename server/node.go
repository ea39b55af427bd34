// Package server is what clients talk to: RPCs over gRPC, gRPC-Web, Connect and
// HTTP/JSON, CloudEvents over HTTP, plain JSON reads, health and metrics, all on
// one port. It converts, it decides nothing: what an event may and what becomes
// of it is the node's, which it calls through Node. Package node runs it.
package server

import (
	"context"
	"iter"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// Node is what the server needs of a node. All methods are safe for
// concurrent use. Errors are *api.Error, or a context's.
type Node interface {
	Writer
	Reader
	Operator
	Cataloger
	Tiles
	Checkpoints
	Witness
}

// Caller is who calls, as the server authenticated it.
type Caller struct {
	// Principal is "local" before governance authenticates callers.
	Principal  string
	Credential string
	OnBehalfOf string
}

// Writer submits events.
type Writer interface {
	// Submit checks events, queues them in order and returns at once; two
	// calls one after the other commit in that order unless one is retried.
	// It keeps events (the caller must not change them). A full queue is
	// api.QueueFull; an event that can't be accepted gets its error in its
	// Ack, and the others go on. It never blocks on consensus.
	Submit(ctx context.Context, caller Caller, events []chain.Event) (Pending, error)
}

// Pending is a Submit under way.
type Pending interface {
	// Wait returns one Ack per event, in order, once all are decided, or
	// ctx's error (the events may still commit). It may be called once.
	Wait(ctx context.Context) ([]Ack, error)
}

// Ack is what became of one event.
type Ack struct {
	// Sequence, Hash and Time are of the event's entry, or of the
	// governance entry that denied or escalated it (then Err says so too).
	Sequence  uint64
	Hash      chain.Hash
	Time      int64
	Duplicate bool
	// Verdict is nil where no gate was evaluated.
	Verdict *chain.Verdict
	// Err is an *api.Error where the event is not in the chain as sent.
	Err error
}

// Consistency says how fresh a read must be.
type Consistency struct {
	Level Level
	// Sequence is the entry that a Session read must see.
	Sequence uint64
}

// Level is a read's consistency level.
type Level uint8

// The levels.
const (
	Linearizable Level = iota // sees every event acknowledged before the read began
	Session                   // sees at least Consistency.Sequence
	Stale                     // whatever this node has
)

// Head is a node's newest entry with the tree's root.
type Head struct {
	chain.Head
	Root  chain.Hash
	Chain chain.ID
	Epoch uint64
}

// Lookup is what became of a key.
type Lookup struct {
	// State is "sealed", "denied", "pending" or "closed".
	State    string
	Sequence uint64
}

// Reader reads the local chain. Callers first Await the consistency that they
// need.
type Reader interface {
	// Await returns the chain's size once reading below it satisfies c.
	Await(ctx context.Context, c Consistency) (size uint64, err error)
	Head(ctx context.Context) (Head, error)
	// Record returns api.NotFound beyond the head.
	Record(ctx context.Context, seq uint64) (chain.Record, error)
	Lookup(ctx context.Context, key chain.Key) (Lookup, error)
	// Scan yields matching entries of [from, to) in order, or from to-1
	// down to from where reverse.
	Scan(ctx context.Context, f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error]
	// Grown returns a channel that is closed once the chain has more than
	// size entries.
	Grown(size uint64) <-chan struct{}
	// InclusionProof and ConsistencyProof are RFC 6962's, hashes in its
	// order.
	InclusionProof(ctx context.Context, seq, size uint64) ([]chain.Hash, error)
	ConsistencyProof(ctx context.Context, from, to uint64) ([]chain.Hash, error)
	RootAt(ctx context.Context, size uint64) (chain.Hash, error)
}

// Checkpoints are signed statements about the chain.
type Checkpoints interface {
	// FinalCheckpoint returns the newest final checkpoint, and waits until it
	// covers size entries.
	FinalCheckpoint(ctx context.Context, size uint64) (Checkpoint, error)
	// TrustPolicy is the C2SP tlog-policy by which checkpoints are final now.
	TrustPolicy(ctx context.Context) (string, error)
}

// Witness cosigns checkpoints of other logs (c2sp.org/tlog-witness).
type Witness interface {
	// AddCheckpoint answers a request to cosign; ok is false where this node is no
	// witness.
	AddCheckpoint(body []byte) (answer WitnessAnswer, ok bool)
}

// WitnessAnswer is an answer in HTTP's terms, which are the protocol's.
type WitnessAnswer struct {
	Status      int
	ContentType string
	Body        []byte
}

// Checkpoint is a signed note, with what it says.
type Checkpoint struct {
	Note []byte
	Size uint64
	Root chain.Hash
}

// CheckpointStatus is how checkpoints stand.
type CheckpointStatus struct {
	Size     uint64 // of the newest final one
	At       time.Time
	Cosigned int
	Problem  string            // why nothing newer is final
	Refusals map[string]string // by node id
	// Witnessed is the newest one with a quorum of outside witnesses, Witnesses why some
	// do not cosign, by name.
	Witnessed uint64
	Witnesses map[string]string
}

// Tiles is the local chain as a log that anyone's tools read (c2sp.org/tlog-tiles).
type Tiles interface {
	// TreeSize is the number of committed entries; what is below it stays.
	TreeSize(ctx context.Context) (uint64, error)
	// ReadTile returns the first width hashes of a tile that the tree has, or
	// more of them; the caller does not change them.
	ReadTile(ctx context.Context, level int, index uint64, width int) ([]byte, error)
	// Headers yields the encoded headers of [from, to), which the tree has,
	// each valid until the next one; an error ends it.
	Headers(ctx context.Context, from, to uint64) iter.Seq2[[]byte, error]
	// Checkpoint returns the newest published signed note, nil where there is
	// none. Its tree has at most TreeSize entries, asked for afterwards.
	Checkpoint(ctx context.Context) ([]byte, error)
}

// Operator shows and changes the cluster.
type Operator interface {
	Status(ctx context.Context) (Status, error)
	// AskMembers fills in what each member says of itself, of those that answer
	// within a moment.
	AskMembers(ctx context.Context, members []Member)
	// Remove takes a node out of the cluster for good; a leader that is
	// asked to remove itself hands over first.
	Remove(ctx context.Context, nodeID string) error
	// Leave takes this node out cleanly and then stops it.
	Leave(ctx context.Context) error
	// Transfer hands leadership to a node, or to the best one where "".
	Transfer(ctx context.Context, nodeID string) error
	// RotateLogKey has another key sign the log's checkpoints, and returns its
	// public half.
	RotateLogKey(ctx context.Context) ([]byte, error)
	// Ready is nil once the node serves; else what it waits for.
	Ready() error
}

// Cataloger shows the catalog of kinds and changes it, on behalf of a caller.
type Cataloger interface {
	// Kinds returns all kinds that events may have, sorted by name.
	Kinds(ctx context.Context) ([]catalog.Kind, error)
	// RegisterKind seals a catalog.register entry and returns its sequence;
	// where the kind is registered just so already, that of the entry which
	// did it.
	RegisterKind(ctx context.Context, caller Caller, name, gate string, schema []byte) (uint64, error)
	// RetireKind seals a catalog.retire entry and returns its sequence.
	RetireKind(ctx context.Context, caller Caller, name, reason string) (uint64, error)
}

// Status is a node's view of the cluster.
type Status struct {
	NodeID, Version, Phase string
	Chain                  chain.ID
	Leader                 string // node id; "" where none is known
	State                  string // Leader, Follower, Candidate, Shutdown
	Term                   uint64
	CommitIndex            uint64
	AppliedIndex           uint64
	LastLogIndex           uint64
	Head                   Head
	CatchUp                *Progress // nil where the node is not catching up
	QueueLength            int
	Started                time.Time
	Members                []Member
	Checkpoint             CheckpointStatus
	// Warning is what an operator must see to; "" where nothing.
	Warning string
}

// Progress is x of y entries.
type Progress struct{ Have, Want uint64 }

// Member is one server of the raft configuration, or a gossip member that is
// not in it (Suffrage "none").
type Member struct {
	NodeID   string
	ServerID string
	Name     string
	PeerAddr string
	APIAddr  string
	Suffrage string // voter, nonvoter, none
	Gossip   string // alive, suspect, dead, left, unknown
	Leader   bool
	// LastContact is how long ago the leader heard of it; negative where
	// unknown (only the leader knows).
	LastContact time.Duration
	Applied     uint64
	Version     string
	// State and Entries are the node's own word; "" and 0 where it was not asked or
	// did not answer.
	State   string
	Entries uint64
}
