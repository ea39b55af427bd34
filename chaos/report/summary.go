package report

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

// Format names the shape of the JSON. A change that would mislead a reader of the
// old one gets a new number; a new field does not.
const Format = "exonode-chaos-report/1"

// Seconds is a time since the run began, or how long something took; in JSON it is a
// decimal number of seconds, to the microsecond. Below zero it is none, in JSON null.
type Seconds time.Duration

// None is no time: nothing was measured.
const None Seconds = -1

// Duration returns s as what it is.
func (s Seconds) Duration() time.Duration { return time.Duration(s) }

// MarshalJSON implements json.Marshaler.
func (s Seconds) MarshalJSON() ([]byte, error) {
	if s < 0 {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, s.Duration().Round(time.Microsecond).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f *float64
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("seconds: %w", err)
	}
	*s = None
	if f != nil {
		*s = Seconds(time.Duration(*f * float64(time.Second)).Round(time.Microsecond))
	}
	return nil
}

// Interval is a part of the run.
type Interval struct {
	From  Seconds `json:"from"`
	Until Seconds `json:"until"`
}

// Duration is how long the interval is.
func (i Interval) Duration() time.Duration { return time.Duration(i.Until - i.From) }

// Summary is what a report shows of a run.
type Summary struct {
	Format string `json:"format"`
	// Held says that there were checkers, and that all of them are content.
	Held   bool   `json:"held"`
	Run    Run    `json:"run"`
	Counts Counts `json:"counts"`
	// Longest is the longest time without a successful append: between two of
	// them, or an end of the run and the nearest.
	Longest Interval `json:"longest_without_a_write"`
	// Operations are what clients did, by kind and how it was asked.
	Operations []Operation `json:"operations"`
	// Codes are the API's, of what was not OK, the most frequent first.
	Codes    []Code            `json:"codes"`
	Verdicts []history.Verdict `json:"verdicts"`
	Faults   []Fault           `json:"faults"`
	// Missed are the faults that were planned and did not come to pass, in order.
	Missed []Missed `json:"missed"`
	// States are what each node was, node by node and in order of time.
	States []State `json:"states"`
	// Cuts are the times in which links were cut, in order; what is missing had
	// none.
	Cuts     []Cut     `json:"cuts"`
	Series   Series    `json:"series"`
	Replicas []Replica `json:"replicas"`
	// Pictures are the names of those that checkers drew; the HTML holds them.
	Pictures []string `json:"pictures"`
}

// Run says what ran.
type Run struct {
	Title   string    `json:"title"`
	Command string    `json:"command"`
	Seed    uint64    `json:"seed"`
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	Length  Seconds   `json:"length"`
	Nodes   []string  `json:"nodes"`
	// Joined is how many of the nodes joined while it ran.
	Joined int `json:"joined,omitempty"`
}

// Counts are the totals of a run.
type Counts struct {
	// Acknowledged, Unknown and Failed count appends by their outcome.
	// Duplicates are those of the acknowledged that found themselves in the
	// chain.
	Acknowledged int `json:"acknowledged"`
	Duplicates   int `json:"duplicates"`
	Unknown      int `json:"unknown"`
	Failed       int `json:"failed"`
	// Reads counts those that were answered.
	Reads      int `json:"reads"`
	Watches    int `json:"watches"`
	Deliveries int `json:"deliveries"`
	// Faults counts what went wrong, without what mended it. NotDone counts what was
	// planned and could not be done, and NeverReached crashes at points that no node
	// came to: neither is in Faults.
	Faults       int `json:"faults"`
	NotDone      int `json:"not_done"`
	NeverReached int `json:"never_reached"`
	// Elections counts the terms in which a sample saw a node lead, without
	// the first: an election between two samples that nobody won is in Terms
	// alone, which is by how much the term grew.
	Elections int    `json:"elections"`
	Terms     uint64 `json:"terms"`
	// Chain is how many entries the chain has in the end.
	Chain uint64 `json:"chain"`
}

// Operation is what became of one kind of operation. The latencies are of those that
// were OK.
type Operation struct {
	Kind        history.Kind        `json:"kind"`
	Stream      bool                `json:"stream,omitempty"`
	Consistency history.Consistency `json:"consistency,omitempty"`
	OK          int                 `json:"ok"`
	Unknown     int                 `json:"unknown"`
	Failed      int                 `json:"failed"`
	Latency     Latency             `json:"latency"`
}

// Latency is how long operations took. P50 and P99 are exact to a hundredth.
type Latency struct {
	P50 Seconds `json:"p50"`
	P99 Seconds `json:"p99"`
	Max Seconds `json:"max"`
}

// Code is how often the API answered with a code.
type Code struct {
	Code  string `json:"code"`
	Count int    `json:"count"`
}

// Fault is one fault, from when it was made to when it was mended.
type Fault struct {
	Interval
	Kind  string   `json:"kind"`
	Text  string   `json:"text"`
	Nodes []string `json:"nodes,omitempty"`
	// Mended says that it was before the run ended.
	Mended bool `json:"mended"`
	// Acknowledged counts the appends that succeeded meanwhile, PerSecond is
	// their rate, and Lowest the rate in the worst bucket of the series that
	// lies in it as a whole; null where none does.
	Acknowledged int      `json:"acknowledged"`
	PerSecond    float64  `json:"per_second"`
	Lowest       *float64 `json:"lowest_per_second"`
	// Longest is the longest time without a successful append that the fault
	// has a part of; it may reach beyond it.
	Longest Seconds `json:"longest_without_a_write"`
}

// Missed is a fault that was planned and did not come to pass.
type Missed struct {
	At     Seconds        `json:"at"`
	Text   string         `json:"text"`
	Why    string         `json:"why"`
	Reason history.Reason `json:"reason"`
}

// What a node was.
const (
	Leads   = "leads"
	Follows = "follows"
	Silent  = "silent" // it runs, and did not answer
	Down    = "down"   // it does not run, or is paused
)

// State is what a node was for a time.
type State struct {
	Interval
	Node  string `json:"node"`
	State string `json:"state"`
	Term  uint64 `json:"term,omitempty"` // of what leads
}

// Cut is a time in which links were cut.
type Cut struct {
	Interval
	// Cut has, for each node, to which others what it sends does not come.
	Cut map[string][]string `json:"cut"`
	// Links is how many links that are, each way counted.
	Links int `json:"links"`
}

// Series are appends over time, by when they ended: one element for each bucket.
// Bucket i is from i times the bucket's width; the last one may be shorter.
type Series struct {
	Bucket       Seconds `json:"bucket"`
	Acknowledged []int   `json:"acknowledged"`
	Unknown      []int   `json:"unknown"`
	Failed       []int   `json:"failed"`
	// ByNode are the acknowledged, by the node that was asked; "" is where the
	// client chose.
	ByNode map[string][]int `json:"by_node"`
	// P50, P99 and Max are the latencies of the acknowledged.
	P50 []Seconds `json:"p50"`
	P99 []Seconds `json:"p99"`
	Max []Seconds `json:"max"`
}

// Replica is what a node holds in the end.
type Replica struct {
	Node string `json:"node"`
	Size uint64 `json:"size"`
	// Applied is raft's index, as the last sample that it answered had it; 0
	// where none did.
	Applied  uint64     `json:"applied"`
	Digest   chain.Hash `json:"digest"`
	Root     chain.Hash `json:"root"`
	Verdicts uint64     `json:"verdicts"`
	// Equal says that digest, head and root are those of most.
	Equal    bool     `json:"equal"`
	Problems []string `json:"problems,omitempty"`
}
