package membership

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/exonode/exonode/chain"
)

// FormationInput is all that a forming node decides from.
type FormationInput struct {
	Now     time.Time
	Self    Member
	Genesis chain.Hash
	// Expect is how many servers the first configuration has. Where twice
	// as many nodes or more look for each other while the network is
	// split, two clusters can form.
	Expect int
	// Promise is the proposal this node durably promised; nil is none.
	Promise *Proposal
	// Hellos are the answers of peers, authenticated.
	Hellos []HeardHello
	// Fresh is how old a hello may be to count.
	Fresh time.Duration
}

// HeardHello is a peer's answer.
type HeardHello struct {
	Hello
	// Addr is where it answered.
	Addr string
	At   time.Time
}

// Step is what a forming node does next.
type Step string

// The steps.
const (
	// StepWait: nothing to do but ask again.
	StepWait Step = "wait"
	// StepStart: this node is in the configuration that others started
	// with; it starts raft and waits for the leader.
	StepStart Step = "start"
	// StepJoin: a cluster exists without this node.
	StepJoin Step = "join"
	// StepPropose: promise Members itself, unless Promise stands already,
	// and ask Ask to promise.
	StepPropose Step = "propose"
	// StepWithdraw: give up its own proposal, itself first.
	StepWithdraw Step = "withdraw"
	// StepVoid: drop the promise to a proposer that is in another
	// configuration by now.
	StepVoid Step = "void"
	// StepBootstrap: all promised; Members is the first configuration.
	StepBootstrap Step = "bootstrap"
)

// FormationDecision is the next step and why.
type FormationDecision struct {
	Step Step `json:"step"`
	// Reason is for people.
	Reason string `json:"reason"`
	// Members is the configuration to propose, bootstrap or start with.
	Members []Member `json:"members,omitempty"`
	// Addrs are members' addresses to join by.
	Addrs []string `json:"addrs,omitempty"`
	// Ask are addresses of members that have not promised yet.
	Ask []string `json:"ask,omitempty"`
	// Release are promises that peers hold for earlier proposals of this
	// node; they are withdrawn whatever the step.
	Release []Orphan `json:"release,omitempty"`
}

// Orphan is a promise that its proposer gave up.
type Orphan struct {
	Addr   string     `json:"addr"`
	Digest chain.Hash `json:"digest"`
}

// DecideFormation is the whole protocol's judgement, as a pure function.
//
// Why two configurations are never bootstrapped where fewer than twice Expect
// nodes take part: any two sets of Expect nodes share a node; a node holds one
// promise at a time; only the proposer, in its own incarnation, releases its
// promises, and gives up its own, durably, before any other; and it bootstraps
// only while all members, itself included, hold the very same attempt.
func DecideFormation(in FormationInput) FormationDecision {
	peers := freshHellos(in)
	d := decideStep(in, peers)
	for _, h := range peers {
		if h.State == Forming && h.Promise != nil && h.Promise.Proposer == in.Self.ServerID &&
			(in.Promise == nil || in.Promise.Digest() != h.Promise.Digest) {
			d.Release = append(d.Release, Orphan{Addr: h.Addr, Digest: h.Promise.Digest})
		}
	}
	return d
}

func decideStep(in FormationInput, peers []HeardHello) FormationDecision {
	if d, ok := decideExisting(in, peers); ok {
		return d
	}
	candidates, notes := formingPeers(in, peers)
	if in.Promise == nil {
		return decideUnbound(in, candidates, notes)
	}
	if in.Promise.Proposer().ServerID != in.Self.ServerID {
		return waitFor("promised to %s; waiting for it to start the cluster or to withdraw", in.Promise.Proposer().NodeID)
	}
	return decideProposer(in, peers, candidates)
}

// decideExisting handles peers that are in a cluster already.
func decideExisting(in FormationInput, peers []HeardHello) (FormationDecision, bool) {
	var member *HeardHello
	var addrs []string
	void := false
	for _, h := range peers {
		if h.State != InRaft {
			continue
		}
		if hasServer(h.Members, in.Self.ServerID) {
			return FormationDecision{
				Step:    StepStart,
				Reason:  fmt.Sprintf("%s started a cluster with this node", h.Self.NodeID),
				Members: slices.Clone(h.Members),
				Addrs:   []string{h.Addr},
			}, true
		}
		member = &h
		addrs = append(addrs, h.Addr)
		// The proposer is in a configuration without us. It got there by
		// another promise or by joining, and gave up this attempt before
		// either; or the attempt was started and we were removed since.
		void = void || in.Promise != nil && hasServer(h.Members, in.Promise.Proposer().ServerID)
	}
	switch {
	case member == nil:
		return FormationDecision{}, false
	case in.Promise == nil:
		return FormationDecision{
			Step:   StepJoin,
			Reason: fmt.Sprintf("%s is in a cluster already", member.Self.NodeID),
			Addrs:  addrs,
		}, true
	case in.Promise.Proposer().ServerID == in.Self.ServerID:
		return FormationDecision{
			Step:   StepWithdraw,
			Reason: fmt.Sprintf("%s is in a cluster already", member.Self.NodeID),
		}, true
	case void:
		return FormationDecision{
			Step:   StepVoid,
			Reason: fmt.Sprintf("%s, which asked for this node's promise, is in a cluster without it", in.Promise.Proposer().NodeID),
		}, true
	default:
		return waitFor("promised to %s, but %s is in a cluster without this node; waiting for %[1]s to withdraw",
			in.Promise.Proposer().NodeID, member.Self.NodeID), true
	}
}

// decideUnbound is for a node without a promise. candidates are sorted and
// contain itself.
func decideUnbound(in FormationInput, candidates []HeardHello, notes []string) FormationDecision {
	if len(candidates) < in.Expect {
		reason := fmt.Sprintf("%d of %d nodes found", len(candidates), in.Expect)
		return waitFor("%s", strings.Join(append([]string{reason}, notes...), "; "))
	}
	first := candidates[:in.Expect]
	if first[0].Self.ServerID == in.Self.ServerID {
		return FormationDecision{
			Step:    StepPropose,
			Reason:  "this node has the lowest id of those found",
			Members: membersOf(first),
			Ask:     addrsOf(first[1:]),
		}
	}
	return waitFor("waiting for %s, which has the lowest id, to propose", first[0].Self.NodeID)
}

// decideProposer is for a node whose own proposal stands.
func decideProposer(in FormationInput, peers, candidates []HeardHello) FormationDecision {
	digest := in.Promise.Digest()
	missing, gone := make([]string, 0), make([]string, 0)
	var askAddrs []string
	for _, m := range in.Promise.Members {
		if m.ServerID == in.Self.ServerID {
			continue
		}
		i := slices.IndexFunc(peers, func(h HeardHello) bool { return h.Self.ServerID == m.ServerID })
		if i < 0 {
			missing, gone = append(missing, m.NodeID), append(gone, m.NodeID)
			continue
		}
		if p := peers[i].Promise; p == nil || p.Digest != digest {
			missing = append(missing, m.NodeID)
			askAddrs = append(askAddrs, peers[i].Addr)
		}
	}
	if len(missing) == 0 {
		return FormationDecision{
			Step:    StepBootstrap,
			Reason:  "all members promised",
			Members: in.Promise.Members,
		}
	}
	if lowest := candidates[0].Self; lowest.ServerID < in.Self.ServerID {
		return FormationDecision{
			Step:   StepWithdraw,
			Reason: fmt.Sprintf("%s has a lower id", lowest.NodeID),
		}
	}
	if len(in.Promise.Members) != in.Expect {
		return FormationDecision{
			Step:   StepWithdraw,
			Reason: fmt.Sprintf("this node now expects %d nodes, not %d", in.Expect, len(in.Promise.Members)),
		}
	}
	if len(gone) > 0 && len(candidates) >= in.Expect {
		return FormationDecision{
			Step:   StepWithdraw,
			Reason: fmt.Sprintf("%s does not answer, but enough others do", strings.Join(gone, ", ")),
		}
	}
	return FormationDecision{
		Step:    StepPropose,
		Reason:  fmt.Sprintf("waiting for %s to promise", strings.Join(missing, ", ")),
		Members: in.Promise.Members,
		Ask:     askAddrs,
	}
}

// freshHellos keeps the newest fresh hello of each node of our genesis, sorted
// by server id.
func freshHellos(in FormationInput) []HeardHello {
	newest := make(map[string]HeardHello)
	for _, h := range in.Hellos {
		if h.Genesis != in.Genesis || h.Self.NodeID == in.Self.NodeID || in.Now.Sub(h.At) > in.Fresh {
			continue
		}
		if have, ok := newest[h.Self.NodeID]; !ok || h.At.After(have.At) {
			newest[h.Self.NodeID] = h
		}
	}
	out := make([]HeardHello, 0, len(newest))
	for _, h := range newest {
		out = append(out, h)
	}
	sortHellos(out)
	return out
}

func sortHellos(hs []HeardHello) {
	slices.SortFunc(hs, func(a, b HeardHello) int { return strings.Compare(a.Self.ServerID, b.Self.ServerID) })
}

// formingPeers returns who could be in a first configuration, this node among
// them, sorted by server id; and why others could not.
func formingPeers(in FormationInput, peers []HeardHello) (candidates []HeardHello, notes []string) {
	candidates = append(candidates, HeardHello{Hello: Hello{Self: in.Self}})
	for _, h := range peers {
		switch {
		case h.State != Forming:
		case h.Expect != in.Expect:
			notes = append(notes, fmt.Sprintf("%s expects %d nodes, this one %d: give all the same --bootstrap-expect", h.Self.NodeID, h.Expect, in.Expect))
		case boundElsewhere(in, peers, h):
			notes = append(notes, fmt.Sprintf("%s is bound by a promise to a node that does not answer; if that node is gone for good, run exonode reset on %[1]s", h.Self.NodeID))
		default:
			candidates = append(candidates, h)
		}
	}
	sortHellos(candidates)
	return candidates, notes
}

// boundElsewhere reports a peer whose promise nobody here can release.
func boundElsewhere(in FormationInput, peers []HeardHello, h HeardHello) bool {
	if h.Promise == nil || h.Promise.Proposer == in.Self.ServerID || h.Promise.Proposer == h.Self.ServerID {
		return false
	}
	return !slices.ContainsFunc(peers, func(o HeardHello) bool { return o.Self.ServerID == h.Promise.Proposer })
}

func membersOf(hs []HeardHello) []Member {
	out := make([]Member, len(hs))
	for i, h := range hs {
		out[i] = h.Self
		if out[i].PeerAddr == "" {
			out[i].PeerAddr = h.Addr
		}
	}
	return out
}

func addrsOf(hs []HeardHello) []string {
	out := make([]string, len(hs))
	for i, h := range hs {
		out[i] = h.Addr
	}
	return out
}

func waitFor(format string, args ...any) FormationDecision {
	return FormationDecision{Step: StepWait, Reason: fmt.Sprintf(format, args...)}
}
