// Package history is what clients of a cluster did and saw while it was made to
// suffer, and what its nodes hold in the end: all that the checkers judge by, and the
// report draws.
//
// It holds data alone. Times are durations since the run began, on one monotonic
// clock of the process that records. It must not know who records it: a workload
// against processes, one against somebody else's cluster, and the simulation all do.
package history

import (
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
)

// Kind is what an operation does.
type Kind string

// The kinds.
const (
	Append Kind = "append" // one event, alone or on a stream
	Head   Kind = "head"   // reads the chain's head
	Lookup Kind = "lookup" // reads where a key stands
	Get    Kind = "get"    // reads an entry
	Member Kind = "member" // changes the cluster: join, leave, remove, transfer
	// Checkpoint reads the newest final checkpoint; its Size and Root are the note's.
	Checkpoint Kind = "checkpoint"
)

// Kinds are all kinds.
func Kinds() []Kind { return []Kind{Append, Head, Lookup, Get, Checkpoint, Member} }

// Consistency is how fresh a read was asked to be.
type Consistency string

// The consistencies.
const (
	Linearizable Consistency = "linearizable"
	Session      Consistency = "session"
	Stale        Consistency = "stale"
)

// Outcome is what a client knows of what became of its operation.
type Outcome string

// The outcomes.
const (
	OK Outcome = "ok"
	// Failed certainly had no effect.
	Failed Outcome = "failed"
	// Unknown may have had its effect, and may yet.
	Unknown Outcome = "unknown"
)

// Operator is the Client of operations that no client of the workload does.
const Operator = -1

// Disbelieved is the Code of an operation whose answer the client's own checks refused:
// a node said what can't be so.
const Disbelieved = "disbelieved"

// Op is one operation, as its client saw it.
type Op struct {
	// Client is who did it: operations of one client follow each other, but for
	// those on one stream, which overlap.
	Client int `json:"client"`
	// Node is whom it asked, by the lab's name; "" where the client chose.
	Node string `json:"node,omitempty"`
	Kind Kind   `json:"kind"`
	// Stream says that an append was sent on a stream.
	Stream bool `json:"stream,omitempty"`
	// Call is when it began, and Return when it ended; what never ended has the
	// end of the run.
	Call    time.Duration `json:"call"`
	Return  time.Duration `json:"return"`
	Outcome Outcome       `json:"outcome"`
	// Code is the API's, of what is not OK.
	Code string `json:"code,omitempty"`

	// Key is the event's, of Append and Lookup.
	Key chain.Key `json:"key,omitzero"`
	// Consistency is that of a read.
	Consistency Consistency `json:"consistency,omitempty"`
	// Found says whether a Lookup found an entry.
	Found bool `json:"found,omitempty"`
	// Sequence and Hash are the entry's, of an Append that is OK, a Lookup that
	// found, and a Get; Duplicate that the Append found itself in the chain.
	Sequence  uint64     `json:"sequence,omitempty"`
	Hash      chain.Hash `json:"hash,omitzero"`
	Duplicate bool       `json:"duplicate,omitempty"`
	// Size, HeadHash and Root are of the head that a Head read; Root is zero
	// where it was not told.
	Size     uint64     `json:"size,omitempty"`
	HeadHash chain.Hash `json:"head_hash,omitzero"`
	Root     chain.Hash `json:"root,omitzero"`
}

// Delivery is one entry that a watch delivered.
type Delivery struct {
	Watch    int           `json:"watch"`
	At       time.Duration `json:"at"`
	Sequence uint64        `json:"sequence"`
	Hash     chain.Hash    `json:"hash"`
}

// Watch is one watch of all entries. It may be resumed after a failure, and is still
// the same watch.
type Watch struct {
	ID int `json:"id"`
	// From is the first sequence that it asked for, and Until the sequence
	// before which it was stopped: it was told to go on until it had that.
	From, Until uint64
	// Disbelieved says what its nodes sent that the client's own checks refused,
	// the first few times.
	Disbelieved []string `json:"disbelieved,omitempty"`
}

// Fault is something that was made to go wrong, or was mended.
type Fault struct {
	At time.Duration `json:"at"`
	// Kind is what a scenario calls it: partition, kill, disk and so on; heal
	// mends everything.
	Kind string `json:"kind"`
	// Text says it for people: "n1 and n2 cut from n3, n4 and n5".
	Text string `json:"text"`
	// Nodes are those that it concerns.
	Nodes []string `json:"nodes,omitempty"`
	// ID numbers what goes wrong from 1, where it is known when that is mended;
	// Mends is the ID of what a heal mends, 0 where it mends everything.
	ID    int `json:"id,omitempty"`
	Mends int `json:"mends,omitempty"`
	// Moment is what is over at once, such as a transfer of leadership.
	Moment bool `json:"moment,omitempty"`
}

// Missed is a fault that was planned and did not come to pass.
type Missed struct {
	At time.Duration `json:"at"`
	// Text is the action, as the scenario writes it, and Why what kept it from being
	// done.
	Text string `json:"text"`
	Why  string `json:"why"`
	// Reason says it for programs.
	Reason Reason `json:"reason"`
}

// Reason is why a fault was missed.
type Reason string

// The reasons.
const (
	NotDone Reason = "not-done" // it could not be done
	// NeverReached is of a crash at a point that its node did not come to.
	NeverReached Reason = "never-reached"
	// Busy is of a change of the members beside one that was under way.
	Busy Reason = "busy"
)

// Sample is how the cluster looked at one moment.
type Sample struct {
	At time.Duration `json:"at"`
	// Nodes are the lab's, in order.
	Nodes []NodeSample `json:"nodes"`
	// Cut has, for each node, to which others what it sends does not come.
	Cut map[string][]string `json:"cut,omitempty"`
}

// NodeSample is one node in a Sample.
type NodeSample struct {
	Name string `json:"name"`
	// Up says that its process runs, and is not paused.
	Up bool `json:"up"`
	// Paused says that its process stands still.
	Paused bool `json:"paused,omitempty"`
	// Answered says that it told the rest of this within the sample's time.
	Answered bool `json:"answered,omitempty"`
	// Leads says that it says that it leads.
	Leads   bool   `json:"leads,omitempty"`
	Leader  string `json:"leader,omitempty"` // by the lab's name
	Term    uint64 `json:"term,omitempty"`
	Size    uint64 `json:"size,omitempty"`
	Applied uint64 `json:"applied,omitempty"`
}

// Entry is one entry of the chain in the end.
type Entry struct {
	Sequence uint64     `json:"sequence"`
	Hash     chain.Hash `json:"hash"`
	Key      chain.Key  `json:"key"`
	Kind     string     `json:"kind"`
	Time     int64      `json:"time"` // Unix nanoseconds
}

// Replica is what one node holds in the end.
type Replica struct {
	Node string `json:"node"`
	Size uint64 `json:"size"`
	// Hash and Root are those at the size that all were compared at.
	Hash chain.Hash `json:"hash"`
	Root chain.Hash `json:"root"`
	// Digest is over all headers and envelopes up to there.
	Digest chain.Hash `json:"digest"`
	// Verdicts is how many verdicts were evaluated again.
	Verdicts uint64 `json:"verdicts"`
	// Problems are what verification found.
	Problems []string `json:"problems,omitempty"`
}

// Final is what the nodes hold once everything was mended.
type Final struct {
	// Size is what the replicas were compared at.
	Size     uint64    `json:"size"`
	Replicas []Replica `json:"replicas"`
	// Troubles are what did not come to pass once everything was mended: nodes
	// that do not serve again, a last event that is not taken. The rest is then
	// what could be read all the same.
	Troubles []string `json:"troubles,omitempty"`
	// Entries are the chain below Size, from one node, in order.
	Entries []Entry `json:"-"`
	// RootAt returns the root over the first n entries.
	RootAt func(n uint64) (chain.Hash, error) `json:"-"`
}

// History is what was recorded.
type History struct {
	// Length is how long the run took, without the end's checks.
	Length     time.Duration `json:"length"`
	Ops        []Op          `json:"-"`
	Watches    []Watch       `json:"watches"`
	Deliveries []Delivery    `json:"-"`
	Faults     []Fault       `json:"faults"`
	// Planned is how many faults the schedule had, 0 where there was no schedule;
	// Missed are those of them that did not come to pass.
	Planned int      `json:"planned,omitempty"`
	Missed  []Missed `json:"missed,omitempty"`
	Samples []Sample `json:"-"`
}

// Recorder collects a History. Its methods are safe for concurrent use.
type Recorder struct {
	began time.Time

	mu sync.Mutex // guards h
	h  History
}

// NewRecorder begins a history now.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Now is how long the run has taken so far.
func (r *Recorder) Now() time.Duration { return time.Since(r.began) }

// Op adds an operation that ended, or that nobody waits for any more.
func (r *Recorder) Op(op Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Ops = append(r.h.Ops, op)
}

// Watched adds a watch that has ended.
func (r *Recorder) Watched(w Watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Watches = append(r.h.Watches, w)
}

// Delivered adds an entry that a watch delivered now.
func (r *Recorder) Delivered(watch int, sequence uint64, hash chain.Hash) {
	at := r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Deliveries = append(r.h.Deliveries, Delivery{Watch: watch, At: at, Sequence: sequence, Hash: hash})
}

// Fault adds what goes wrong, or is mended, now. It returns the fault's ID, which it
// fills in unless the fault mends something or is over at once.
func (r *Recorder) Fault(f Fault) int {
	f.At = r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !f.Moment && f.Mends == 0 {
		f.ID = len(r.h.Faults) + 1
	}
	r.h.Faults = append(r.h.Faults, f)
	return f.ID
}

// Plan says how many faults are to come.
func (r *Recorder) Plan(faults int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Planned = faults
}

// Missed adds a planned fault that did not come to pass.
func (r *Recorder) Missed(m Missed) {
	m.At = r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Missed = append(r.h.Missed, m)
}

// Sample adds how the cluster looks.
func (r *Recorder) Sample(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Samples = append(r.h.Samples, s)
}

// Peek returns the operations so far. The caller must not change them.
func (r *Recorder) Peek() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.h.Ops
}

// End returns what was recorded; nothing may be added any more.
func (r *Recorder) End() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Length = r.Now()
	return &r.h
}

// Verdict is what one checker found.
type Verdict struct {
	// Name is the checker's.
	Name string `json:"name"`
	// Claim is what it holds the cluster to, in a sentence.
	Claim string `json:"claim"`
	OK    bool   `json:"ok"`
	// Checked is how many things it looked at; a checker that looked at none
	// proves nothing, and is not OK.
	Checked int `json:"checked"`
	// Evidence says what is wrong, each in a line: operations, sequences, times.
	Evidence []string `json:"evidence,omitempty"`
	// Notes are figures for people.
	Notes []string `json:"notes,omitempty"`
}

// Result is a whole run, as the report shows it.
type Result struct {
	// Title names the scenario, Command repeats the run, Seed is the
	// schedule's.
	Title   string    `json:"title"`
	Command string    `json:"command"`
	Seed    uint64    `json:"seed"`
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	Nodes   []string  `json:"nodes"`
	// Joined is how many of the Nodes, the last ones, joined while it ran.
	Joined   int       `json:"joined,omitempty"`
	History  *History  `json:"history"`
	Final    *Final    `json:"final"`
	Verdicts []Verdict `json:"verdicts"`
	// Pictures are HTML pages that checkers drew, by name: Porcupine's.
	Pictures map[string][]byte `json:"-"`
}

// Held reports whether every checker is content.
func (r *Result) Held() bool {
	for _, v := range r.Verdicts {
		if !v.OK {
			return false
		}
	}
	return len(r.Verdicts) > 0
}
