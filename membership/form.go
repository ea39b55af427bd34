package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
)

// FormConfig is what Form needs.
type FormConfig struct {
	// Handler must be answering peers' calls already, and shares its
	// Promises and Expect (at least 1).
	Handler *Handler
	// Candidates are addresses where peers may be.
	Candidates func() []string
	Call       Call
	// Nonce returns fresh random bits for a proposal.
	Nonce func() (chain.ID, error)
	// Rand yields jitter in [0,1).
	Rand func() float64
	Log  *slog.Logger
}

// Outcome says how a node without raft state begins.
type Outcome struct {
	// Step is StepBootstrap (bootstrap raft with Members), StepStart
	// (start raft without bootstrapping; pin Members) or StepJoin (call
	// Join, trying Addrs first).
	Step    Step
	Members []Member
	Addrs   []string
}

// Timing of formation.
const (
	formEvery  = 250 * time.Millisecond
	callLimit  = 2 * time.Second
	helloFresh = 3 * time.Second
	dialMax    = 2 * time.Second // between attempts at a silent address
	maxAsked   = 256             // addresses
	parallel   = 16              // calls at a time
)

// Form asks candidates until the node knows how to begin, and returns that. It
// returns ErrHasState where raft state exists, an error of the promise store,
// or ctx's. After StepBootstrap, or StepStart, the promise stays held; it means
// nothing once raft state exists.
func Form(ctx context.Context, cfg FormConfig) (Outcome, error) {
	if cfg.Handler == nil || cfg.Handler.cfg.Expect < 1 || cfg.Candidates == nil || cfg.Call == nil || cfg.Nonce == nil || cfg.Rand == nil || cfg.Log == nil {
		return Outcome{}, errors.New("membership: FormConfig is incomplete")
	}
	f := &former{cfg: cfg, h: cfg.Handler, heard: make(map[string]HeardHello), dials: newDials(cfg.Rand)}
	for {
		if f.h.cfg.Cluster.HasState() {
			return Outcome{}, fmt.Errorf("%w: a node with state does not form a cluster", ErrHasState)
		}
		f.askAround(ctx)
		if err := ctx.Err(); err != nil {
			return Outcome{}, fmt.Errorf("membership: form: %w", err)
		}
		held := f.h.cfg.Promises.Held()
		d := f.decide(held)
		out, done, again, err := f.act(ctx, d, held)
		if err != nil || done {
			return out, err
		}
		if again {
			continue
		}
		if err := pause(ctx, formEvery, cfg.Rand); err != nil {
			return Outcome{}, fmt.Errorf("membership: form: %s: %w", d.Reason, err)
		}
	}
}

// former is one run of Form; its goroutine owns it.
type former struct {
	cfg    FormConfig
	h      *Handler
	heard  map[string]HeardHello // by node id
	peers  []string              // addresses that peers told of
	dials  *dials
	reason string // last logged
}

func (f *former) decide(held *Proposal) FormationDecision {
	d := DecideFormation(FormationInput{
		Now:     time.Now(),
		Self:    f.h.cfg.Self,
		Genesis: f.h.cfg.Genesis,
		Expect:  f.h.cfg.Expect,
		Promise: held,
		Hellos:  slices.Collect(maps.Values(f.heard)),
		Fresh:   helloFresh,
	})
	if text := string(d.Step) + d.Reason; text != f.reason {
		f.cfg.Log.Info("forming the cluster", "step", d.Step, "reason", d.Reason)
		f.reason = text
	}
	return d
}

// askAround says hello to every address that is due, at once, and waits for
// the answers.
func (f *former) askAround(ctx context.Context) {
	var (
		mu    sync.Mutex // guards what the calls write below
		wg    sync.WaitGroup
		slots = make(chan struct{}, parallel)
	)
	request := f.h.introduction()
	for _, addr := range f.dials.due(time.Now(), f.addresses()) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			call, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			reply, peer, err := ask[Hello](call, f.cfg.Call, addr, MethodHello, request)
			mu.Lock()
			defer mu.Unlock()
			if peer == f.h.cfg.Self.NodeID {
				f.dials.ignore(addr) // one of our own addresses
				return
			}
			f.dials.done(addr, err, time.Now(), f.cfg.Log)
			if err != nil || reply.Self.NodeID != peer {
				return
			}
			f.heard[peer] = HeardHello{Hello: reply, Addr: addr, At: time.Now()}
			for _, p := range reply.Peers {
				if len(f.peers) < maxAsked && !slices.Contains(f.peers, p) {
					f.peers = append(f.peers, p)
				}
			}
		})
	}
	wg.Wait()
}

// addresses are all places to ask.
func (f *former) addresses() []string {
	addrs := append(f.cfg.Candidates(), f.h.Callers()...)
	addrs = append(addrs, f.peers...)
	if p := f.h.cfg.Promises.Held(); p != nil {
		for _, m := range p.Members {
			addrs = append(addrs, m.PeerAddr)
		}
	}
	return except(addrs, f.h.cfg.Self.PeerAddr)
}

// act carries a decision out. held is the promise that it was decided by: the
// handler may have given or released one since. again asks for another round
// at once.
func (f *former) act(ctx context.Context, d FormationDecision, held *Proposal) (out Outcome, done, again bool, err error) {
	for _, o := range d.Release {
		f.withdraw(ctx, o.Addr, o.Digest)
	}
	switch d.Step {
	case StepStart:
		return Outcome{Step: StepStart, Members: d.Members, Addrs: d.Addrs}, true, false, nil
	case StepJoin:
		if err := f.h.cfg.Promises.Close(); errors.Is(err, ErrPromised) {
			return Outcome{}, false, true, nil // promised a moment ago
		} else if err != nil {
			return Outcome{}, false, false, err
		}
		return Outcome{Step: StepJoin, Addrs: d.Addrs}, true, false, nil
	case StepBootstrap:
		return Outcome{Step: StepBootstrap, Members: d.Members}, true, false, nil
	case StepPropose:
		again, err := f.propose(ctx, d, held)
		return Outcome{}, false, again, err
	case StepVoid:
		return Outcome{}, false, true, f.h.cfg.Promises.Release(held.Digest())
	case StepWithdraw:
		return Outcome{}, false, false, f.giveUp(ctx, *held)
	case StepWait:
	}
	return Outcome{}, false, false, nil
}

// propose promises to itself, durably, before it asks anybody. It reports
// whether another promise came in.
func (f *former) propose(ctx context.Context, d FormationDecision, held *Proposal) (progress bool, err error) {
	if held == nil {
		nonce, err := f.cfg.Nonce()
		if err != nil {
			return false, fmt.Errorf("membership: nonce: %w", err)
		}
		p, err := f.h.cfg.Promises.Promise(Proposal{Genesis: f.h.cfg.Genesis, Nonce: nonce, Members: d.Members})
		if errors.Is(err, ErrPromised) {
			return true, nil // to another, a moment ago: decide anew
		}
		if err != nil {
			return false, err
		}
		held = &p
		progress = len(p.Members) == 1
	}
	for _, addr := range d.Ask {
		call, cancel := context.WithTimeout(ctx, callLimit)
		reply, peer, err := ask[PromiseReply](call, f.cfg.Call, addr, MethodPromise, PromiseRequest{Proposal: *held})
		cancel()
		if err != nil {
			f.cfg.Log.Debug("peer did not promise", "address", addr, "error", err)
			continue
		}
		// The next round of hellos is what counts; this only hastens it.
		if _, ok := f.heard[peer]; ok && reply.Held.Digest == held.Digest() {
			progress = true
		}
	}
	return progress, nil
}

// giveUp withdraws the node's own proposal. Its own promise goes first: from
// then on it can't bootstrap this attempt, whatever happens to the calls. Peers
// that miss theirs are told again when they say hello.
func (f *former) giveUp(ctx context.Context, held Proposal) error {
	digest := held.Digest()
	if err := f.h.cfg.Promises.Release(digest); err != nil {
		return err
	}
	for _, m := range held.Members {
		if h, ok := f.heard[m.NodeID]; ok && m.ServerID != f.h.cfg.Self.ServerID {
			f.withdraw(ctx, h.Addr, digest)
		}
	}
	return nil
}

func (f *former) withdraw(ctx context.Context, addr string, digest chain.Hash) {
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, _, err := ask[WithdrawReply](call, f.cfg.Call, addr, MethodWithdraw, WithdrawRequest{
		Genesis:  f.h.cfg.Genesis,
		Digest:   digest,
		ServerID: f.h.cfg.Self.ServerID,
	})
	if err != nil {
		f.cfg.Log.Debug("withdrawal not delivered", "address", addr, "error", err)
	}
}
