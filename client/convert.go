package client

import (
	"encoding/hex"
	"fmt"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// read takes over a node's acknowledgement.
func (a *Ack) read(m *exonodev1.Ack) error {
	a.Sequence = m.GetSequence()
	a.Time = m.GetTimeUnixNano()
	a.Duplicate = m.GetDuplicate()
	if v := m.GetVerdict(); v != nil {
		var err error
		if a.Verdict, err = api.VerdictFromProto(v); err != nil {
			return err
		}
	}
	if len(m.GetHash()) == 0 && m.GetError() != nil {
		return nil
	}
	return setHash(&a.Hash, m.GetHash(), "an acknowledgement")
}

func setHash(dst *chain.Hash, b []byte, of string) error {
	if len(b) != len(dst) {
		return fmt.Errorf("the hash of %s has %d bytes, want %d", of, len(b), len(dst))
	}
	copy(dst[:], b)
	return nil
}

func fromHead(m *exonodev1.ChainHead) (Head, error) {
	h := Head{Epoch: m.GetEpoch(), Size: m.GetSize(), Time: m.GetTimeUnixNano()}
	id, err := hex.DecodeString(m.GetChainId())
	if err != nil || len(id) != len(h.Chain) {
		return h, fmt.Errorf("the chain id %q of a head is not %d hex digits", m.GetChainId(), 2*len(h.Chain))
	}
	copy(h.Chain[:], id)
	if h.Size > 0 {
		if err := setHash(&h.Hash, m.GetHash(), "a head"); err != nil {
			return h, err
		}
	}
	return h, setHash(&h.Root, m.GetRoot(), "a head's root")
}

func fromStatus(m *exonodev1.StatusResponse, address string) Status {
	s := Status{
		Address: address,
		NodeID:  m.GetNodeId(), Version: m.GetVersion(), Phase: m.GetPhase(),
		Leader: m.GetLeader(), State: m.GetState(), Term: m.GetTerm(),
		CommitIndex: m.GetCommitIndex(), AppliedIndex: m.GetAppliedIndex(), LastLogIndex: m.GetLastLogIndex(),
		QueueLength: m.GetQueueLength(),
		Members:     fromMembers(m.GetMembers()),
		Ready:       m.GetReady(), NotReady: m.GetNotReady(),
	}
	if h, err := fromHead(m.GetHead()); err == nil {
		s.Head = h
	}
	if p := m.GetCatchUp(); p != nil {
		s.CatchUp = &Progress{Have: p.GetHave(), Want: p.GetWant()}
	}
	s.Warning = m.GetWarning()
	if c := m.GetCheckpoint(); c != nil {
		s.Checkpoint = CheckpointStatus{Size: c.GetFinalSize(), Cosigned: c.GetCosigned(), Problem: c.GetProblem(), Refusals: c.GetRefusals(), Witnessed: c.GetWitnessedSize(), Witnesses: c.GetWitnesses()}
		if t := c.GetFinalAt(); t != nil {
			s.Checkpoint.At = t.AsTime()
		}
	}
	if t := m.GetStarted(); t != nil {
		s.Started = t.AsTime()
	}
	return s
}

func fromMembers(ms []*exonodev1.Member) []Member {
	out := make([]Member, len(ms))
	for i, m := range ms {
		out[i] = Member{
			NodeID: m.GetNodeId(), ServerID: m.GetServerId(), Name: m.GetName(),
			PeerAddr: m.GetPeerAddr(), APIAddr: m.GetApiAddr(),
			Gossip: m.GetGossip(), Leader: m.GetLeader(),
			LastContact: -1,
			Applied:     m.GetApplied(), Version: m.GetVersion(),
			State: m.GetState(), Entries: m.GetEntries(),
		}
		switch m.GetSuffrage() {
		case exonodev1.Suffrage_SUFFRAGE_VOTER:
			out[i].Suffrage = "voter"
		case exonodev1.Suffrage_SUFFRAGE_NONVOTER:
			out[i].Suffrage = "nonvoter"
		case exonodev1.Suffrage_SUFFRAGE_NONE:
			out[i].Suffrage = "none"
		}
		if d := m.GetLastContact(); d != nil {
			out[i].LastContact = d.AsDuration()
		}
	}
	return out
}
