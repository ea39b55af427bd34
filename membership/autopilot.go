package membership

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// AutopilotConfig is what Autopilot needs.
type AutopilotConfig struct {
	Changer *Changer
	// Input returns a fresh view; its requests are not looked at.
	Input func() PlanInput
	// Stats asks the servers, in parallel and until ctx ends, how far they
	// are. A server that does not answer is left out.
	Stats func(ctx context.Context, servers []raft.ServerID) map[raft.ServerID]autopilot.ServerStats
	// Update and Reconcile are how often servers are asked, and voters
	// changed; 0 is 2 s and 10 s.
	Update, Reconcile time.Duration
	Log               *slog.Logger
}

// Autopilot promotes stable non-voters, and removes dead voters whose place
// others took, while this node leads.
//
// Around raft-autopilot 0.3 it minds that
//   - a server in the configuration that KnownServers lacks is removed at once,
//     and one that is known as anything but alive counts as dead: so all of the
//     configuration is always known, and alive unless it failed;
//   - stabilisation is not waited for by a new leader: the promoter here does;
//   - a server that does not answer keeps its last, healthy statistics: here it
//     gets some that are not;
//   - NotifyState is called under a lock, and RemoveFailedServer inline: both
//     only leave word;
//   - Stop does not wait, and the instance keeps what it learnt: each Run has
//     its own instance, and joins it;
//   - it logs to standard error unless told otherwise.
type Autopilot struct {
	cfg AutopilotConfig
	// state is raft-autopilot's latest, for Healthy.
	state atomic.Pointer[autopilot.State]
}

// NewAutopilot checks cfg.
func NewAutopilot(cfg AutopilotConfig) (*Autopilot, error) {
	if cfg.Changer == nil || cfg.Input == nil || cfg.Stats == nil || cfg.Log == nil {
		return nil, errors.New("membership: AutopilotConfig lacks Changer, Input, Stats or Log")
	}
	return &Autopilot{cfg: cfg}, nil
}

// Run works until ctx ends, which must be when leadership does, and joins what
// it started. A change that raft has accepted holds it up until raft decides.
func (a *Autopilot) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raftLog := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Debug})
	raftLog.RegisterSink(slogSink{a.cfg.Log})
	run := &autopilotRun{
		a:    a,
		raft: a.cfg.Changer.raft,
		dead: make(chan raft.ServerID, 16),
	}
	pilot := autopilot.New(
		witnessed{Raft: run.raft, ctx: ctx, changer: a.cfg.Changer}, run,
		autopilot.WithLogger(raftLog),
		autopilot.WithPromoter(promoter{new(autopilot.StablePromoter)}),
		autopilot.WithUpdateInterval(a.cfg.Update),
		autopilot.WithReconcileInterval(a.cfg.Reconcile),
	)
	var wg sync.WaitGroup
	wg.Go(func() { run.bury(ctx) })
	pilot.Start(ctx)
	<-ctx.Done()
	<-pilot.Stop()
	wg.Wait()
	a.state.Store(nil)
	return nil
}

// Healthy reports the latest judgement of each server, and how many more may
// fail; ok is false where this node does not lead.
func (a *Autopilot) Healthy() (servers map[string]bool, tolerance int, ok bool) {
	s := a.state.Load()
	if s == nil {
		return nil, 0, false
	}
	servers = make(map[string]bool, len(s.Servers))
	for id, srv := range s.Servers {
		servers[string(id)] = srv.Health.Healthy
	}
	return servers, s.FailureTolerance, true
}

// autopilotRun is raft-autopilot's view of the application, for one leadership.
type autopilotRun struct {
	a    *Autopilot
	raft autopilot.Raft
	dead chan raft.ServerID
}

var _ autopilot.ApplicationIntegration = (*autopilotRun)(nil)

func (r *autopilotRun) AutopilotConfig() *autopilot.Config {
	p := r.a.cfg.Input().Policy
	return &autopilot.Config{
		CleanupDeadServers:      p.RemoveDead,
		LastContactThreshold:    p.LastContact,
		MaxTrailingLogs:         p.MaxTrailingLogs,
		MinQuorum:               uint(max(p.MinVoters, 1)),
		ServerStabilizationTime: p.Stabilization,
	}
}

func (r *autopilotRun) NotifyState(s *autopilot.State) { r.a.state.Store(s) }

// KnownServers covers raft's own configuration, read now, whatever the view
// says.
func (r *autopilotRun) KnownServers() map[raft.ServerID]*autopilot.Server {
	known := make(map[raft.ServerID]*autopilot.Server)
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return known
	}
	in := r.a.cfg.Input()
	for _, s := range f.Configuration().Servers {
		status := autopilot.NodeAlive
		i := slices.IndexFunc(in.Servers, func(v Server) bool { return v.ServerID == string(s.ID) })
		if i >= 0 {
			if state, _ := assess(in, in.Servers[i]); state == PeerFailed && !in.LeaderSince.IsZero() {
				status = autopilot.NodeFailed
			}
		}
		known[s.ID] = &autopilot.Server{
			ID:         s.ID,
			Name:       string(s.Address),
			Address:    s.Address,
			NodeStatus: status,
			NodeType:   autopilot.NodeVoter,
			IsLeader:   string(s.ID) == in.Self && !in.LeaderSince.IsZero(),
		}
	}
	return known
}

// FetchServerStats fills in the leader from raft itself, and what makes a
// server unhealthy where it did not answer.
func (r *autopilotRun) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	self := raft.ServerID(r.a.cfg.Input().Self)
	var others []raft.ServerID
	for id := range servers {
		if id != self {
			others = append(others, id)
		}
	}
	slices.Sort(others)
	got := r.a.cfg.Stats(ctx, others)
	out := make(map[raft.ServerID]*autopilot.ServerStats, len(servers))
	for _, id := range others {
		s, ok := got[id]
		if !ok {
			s = autopilot.ServerStats{LastContact: math.MaxInt64}
		}
		out[id] = &s
	}
	if term, err := strconv.ParseUint(r.raft.Stats()["last_log_term"], 10, 64); err == nil {
		out[self] = &autopilot.ServerStats{LastTerm: term, LastIndex: r.raft.LastIndex()}
	}
	return out
}

// RemoveFailedServer must return at once. A full queue loses nothing: the next
// round asks again.
func (r *autopilotRun) RemoveFailedServer(s *autopilot.Server) {
	select {
	case r.dead <- s.ID:
	default:
	}
}

// bury removes dead voters, judged anew when their turn comes.
func (r *autopilotRun) bury(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-r.dead:
			action, ok := MayRemoveDead(r.a.cfg.Input(), string(id))
			if !ok {
				continue
			}
			if err := r.a.cfg.Changer.Apply(ctx, action); err != nil && ctx.Err() == nil {
				r.a.cfg.Log.Warn("dead server was not removed", "server", id, "error", err)
			}
		}
	}
}

// promoter promotes one stable non-voter a round, and has nothing removed but
// failed voters.
type promoter struct{ *autopilot.StablePromoter }

func (promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	now := time.Now()
	var stable []raft.ServerID
	for id, srv := range s.Servers {
		if srv.State == autopilot.RaftNonVoter && srv.Health.IsStable(now, c.ServerStabilizationTime) {
			stable = append(stable, id)
		}
	}
	slices.Sort(stable)
	return autopilot.RaftChanges{Promotions: stable[:min(len(stable), 1)]}
}

func (promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, f *autopilot.FailedServers) *autopilot.FailedServers {
	return &autopilot.FailedServers{FailedVoters: f.FailedVoters}
}

// slogSink hands raft-autopilot's log lines on.
type slogSink struct{ log *slog.Logger }

func (s slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Info:
		to = slog.LevelInfo
	case hclog.Warn, hclog.Error:
		to = slog.LevelWarn
	}
	s.log.Log(context.Background(), to, "autopilot: "+msg, args...)
}
