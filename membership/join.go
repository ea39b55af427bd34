package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/exonode/exonode/chain"
)

// JoinConfig is what Join needs.
type JoinConfig struct {
	Self    Member
	Genesis chain.Hash
	// Candidates are addresses where members may be, best first.
	Candidates func() []string
	Call       Call
	// Pin makes the transport accept raft calls from these members.
	Pin func([]Member)
	// Prefetch brings the chain up to a head near the one given, from any
	// of the members; it resumes where an earlier call stopped.
	Prefetch func(ctx context.Context, from []Member, head chain.Head) error
	// Rand yields jitter in [0,1).
	Rand func() float64
	Log  *slog.Logger
}

// Timing of a join. commitLimit covers a change of leaders on the way.
const (
	joinFirst   = 250 * time.Millisecond
	joinMax     = 5 * time.Second
	commitLimit = 30 * time.Second
	// insist is in how many rounds on end all that answer must refuse before
	// Join believes them, some four seconds. Whoever is heard first, by a
	// multicast that anybody on the network may send, need not be a member.
	insist = 5
)

// Join gets a node without raft state into an existing cluster, and returns its
// configuration once this node is in it; raft is to be started then, without
// bootstrapping, with those members pinned. It tries until ctx ends, but gives
// up with ErrRemoved, and with ErrForeignCluster, ErrWrongSecret or ErrRefused
// where all that answer say so, several times on end.
func Join(ctx context.Context, cfg JoinConfig) ([]Member, error) {
	if cfg.Candidates == nil || cfg.Call == nil || cfg.Pin == nil || cfg.Prefetch == nil || cfg.Rand == nil || cfg.Log == nil {
		return nil, errors.New("membership: JoinConfig is incomplete")
	}
	j := &joiner{cfg: cfg}
	delay := joinFirst
	refusals := 0 // rounds on end
	for {
		members, err := j.round(ctx)
		if err == nil {
			return members, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("membership: join: %w (last: %w)", ctx.Err(), err)
		}
		if !final(err) {
			refusals = 0
		} else if refusals++; refusals == insist || errors.Is(err, ErrRemoved) {
			return nil, fmt.Errorf("membership: join: %w", err)
		}
		if text := err.Error(); text != j.logged {
			cfg.Log.Info("joining the cluster; trying again", "error", err)
			j.logged = text
		}
		if perr := pause(ctx, delay, cfg.Rand); perr != nil {
			return nil, fmt.Errorf("membership: join: %w (last: %w)", perr, err)
		}
		delay = min(2*delay, joinMax)
	}
}

// joiner is one run of Join.
type joiner struct {
	cfg    JoinConfig
	known  []string // members' addresses, learnt from begin
	logged string
}

// final reports whether asking again is no use, if it is true. A removal is: only
// a member that proved the secret is believed to say it.
func final(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, ErrForeignCluster) ||
		errors.Is(err, ErrWrongSecret) || errors.Is(err, ErrRefused)
}

// round asks every address until one lets the node in. Its error is final only
// where all that answered refused.
func (j *joiner) round(ctx context.Context) ([]Member, error) {
	addrs := except(append(j.cfg.Candidates(), j.known...), j.cfg.Self.PeerAddr)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: no candidate address", ErrUnavailable)
	}
	var worst error
	seen := make(map[string]bool)
	for _, addr := range addrs {
		if seen[addr] {
			continue
		}
		seen[addr] = true
		members, err := j.via(ctx, addr)
		if err == nil {
			return members, nil
		}
		if errors.Is(err, ErrRemoved) {
			return nil, err
		}
		if worst == nil || final(worst) && !final(err) {
			worst = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, worst
}

// via joins through one member.
func (j *joiner) via(ctx context.Context, addr string) ([]Member, error) {
	begin, err := j.begin(ctx, addr)
	if err != nil {
		return nil, err
	}
	j.cfg.Pin(begin.Members)
	if begin.In {
		return begin.Members, nil
	}
	if err := j.cfg.Prefetch(ctx, begin.Members, begin.Head); err != nil {
		return nil, fmt.Errorf("prefetch: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	request := JoinRequest{Genesis: j.cfg.Genesis, Self: j.cfg.Self}
	if _, _, err := ask[JoinCommitReply](call, j.cfg.Call, addr, MethodJoinCommit, request); err != nil {
		return nil, err
	}
	begin, err = j.begin(ctx, addr)
	if err != nil {
		return nil, err
	}
	j.cfg.Pin(begin.Members)
	if !begin.In {
		return nil, fmt.Errorf("%w: %s has not seen the new configuration yet", ErrUnavailable, addr)
	}
	return begin.Members, nil
}

func (j *joiner) begin(ctx context.Context, addr string) (JoinBeginReply, error) {
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	request := JoinRequest{Genesis: j.cfg.Genesis, Self: j.cfg.Self}
	reply, _, err := ask[JoinBeginReply](call, j.cfg.Call, addr, MethodJoinBegin, request)
	if err != nil {
		return JoinBeginReply{}, err
	}
	for _, m := range reply.Members {
		if m.PeerAddr != "" && len(j.known) < maxAsked && !slices.Contains(j.known, m.PeerAddr) {
			j.known = append(j.known, m.PeerAddr)
		}
	}
	return reply, nil
}
