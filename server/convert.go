package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// fillAck writes a into the message p. It shares a's hash and verdict.
func fillAck(p *exonodev1.Ack, a *Ack) {
	p.Sequence = a.Sequence
	p.Duplicate = a.Duplicate
	p.TimeUnixNano = a.Time
	if a.Err != nil {
		p.Error = api.ErrorToProto(ackError(a))
	}
	if !a.Hash.IsZero() {
		p.Hash = a.Hash[:]
	}
	p.Verdict = api.VerdictToProto(a.Verdict)
}

// ackError returns a.Err with the sequence of the governance entry that decided,
// where the node has left it out.
func ackError(a *Ack) *api.Error {
	e := api.AsError(a.Err)
	if !e.HasSequence && (e.Code == api.GateDenied || e.Code == api.Escalated) {
		with := *e
		with.Sequence, with.HasSequence = a.Sequence, true
		return &with
	}
	return e
}

func consistencyFrom(p *exonodev1.Consistency) (Consistency, error) {
	switch p.GetLevel() {
	case exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_UNSPECIFIED, exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_LINEARIZABLE:
		if p.GetSequence() != 0 {
			return Consistency{}, &api.Error{Code: api.BadField, Field: "consistency.sequence", Message: "a sequence is for session reads only", Hint: "set level to CONSISTENCY_LEVEL_SESSION"}
		}
		return Consistency{Level: Linearizable}, nil
	case exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION:
		return Consistency{Level: Session, Sequence: p.GetSequence()}, nil
	case exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_STALE:
		return Consistency{Level: Stale}, nil
	default:
		return Consistency{}, &api.Error{Code: api.BadField, Field: "consistency.level", Message: "unknown consistency level"}
	}
}

func headToProto(h Head) *exonodev1.ChainHead {
	return &exonodev1.ChainHead{
		Size:         h.Size,
		Hash:         h.Hash[:],
		TimeUnixNano: h.Time,
		Root:         h.Root[:],
		ChainId:      h.Chain.String(),
		Epoch:        h.Epoch,
	}
}

func hashesToProto(list []chain.Hash) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i][:]
	}
	return out
}

func statusToProto(s Status, ready error) *exonodev1.StatusResponse {
	p := &exonodev1.StatusResponse{
		NodeId:       s.NodeID,
		Version:      s.Version,
		Phase:        s.Phase,
		Leader:       s.Leader,
		State:        s.State,
		Term:         s.Term,
		CommitIndex:  s.CommitIndex,
		AppliedIndex: s.AppliedIndex,
		LastLogIndex: s.LastLogIndex,
		Head:         headToProto(s.Head),
		QueueLength:  uint64(max(s.QueueLength, 0)),
		Members:      membersToProto(s.Members),
		Ready:        ready == nil,
	}
	if ready != nil {
		p.NotReady = api.AsError(ready).Message
	}
	p.Warning = s.Warning
	c := &s.Checkpoint
	p.Checkpoint = &exonodev1.CheckpointStatus{
		FinalSize: c.Size, Cosigned: uint32(c.Cosigned), Problem: c.Problem, Refusals: c.Refusals,
		WitnessedSize: c.Witnessed, Witnesses: c.Witnesses,
	}
	if !c.At.IsZero() {
		p.Checkpoint.FinalAt = timestamppb.New(c.At)
	}
	if s.CatchUp != nil {
		p.CatchUp = &exonodev1.Progress{Have: s.CatchUp.Have, Want: s.CatchUp.Want}
	}
	if !s.Started.IsZero() {
		p.Started = timestamppb.New(s.Started)
	}
	return p
}

func membersToProto(list []Member) []*exonodev1.Member {
	out := make([]*exonodev1.Member, len(list))
	for i, m := range list {
		out[i] = &exonodev1.Member{
			NodeId:      m.NodeID,
			ServerId:    m.ServerID,
			Name:        m.Name,
			PeerAddr:    m.PeerAddr,
			ApiAddr:     m.APIAddr,
			Suffrage:    suffrage(m.Suffrage),
			Gossip:      m.Gossip,
			Leader:      m.Leader,
			LastContact: contact(m.LastContact),
			Applied:     m.Applied,
			Version:     m.Version,
			State:       m.State,
			Entries:     m.Entries,
		}
	}
	return out
}

func contact(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}

func suffrage(s string) exonodev1.Suffrage {
	switch s {
	case "voter":
		return exonodev1.Suffrage_SUFFRAGE_VOTER
	case "nonvoter":
		return exonodev1.Suffrage_SUFFRAGE_NONVOTER
	case "none":
		return exonodev1.Suffrage_SUFFRAGE_NONE
	default:
		return exonodev1.Suffrage_SUFFRAGE_UNSPECIFIED
	}
}

func lookupState(s string) exonodev1.LookupState {
	switch s {
	case "sealed":
		return exonodev1.LookupState_LOOKUP_STATE_SEALED
	case "denied":
		return exonodev1.LookupState_LOOKUP_STATE_DENIED
	case "pending":
		return exonodev1.LookupState_LOOKUP_STATE_PENDING
	case "closed":
		return exonodev1.LookupState_LOOKUP_STATE_CLOSED
	default:
		return exonodev1.LookupState_LOOKUP_STATE_UNSPECIFIED
	}
}
