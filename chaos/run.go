package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// RunConfig says what to run.
type RunConfig struct {
	Scenario *Scenario
	Seed     uint64
	// Binary is the exonode to run; "" is the running program. Dir keeps the
	// cluster; "" is a temporary directory.
	Binary, Dir string
	// Addrs, where not empty, are the API addresses of a cluster that runs:
	// workload and checks alone, no faults.
	Addrs []string
	// Environment is the built-in policy of the cluster.
	Environment string
	// Version names the program, for the report.
	Version string
	// Progress is told what happens, in a line each, one after the other; nil is nobody.
	Progress func(at time.Duration, text string)
	Logger   *slog.Logger
}

// How long the parts of a run may take.
const (
	startLimit = time.Minute
	healLimit  = time.Minute
	watchLimit = 30 * time.Second
	// readLimit is how long one node may take to tell what it holds, and
	// lameLimit instead of it, and of healLimit, in a cluster that is in trouble.
	readLimit   = time.Minute
	lameLimit   = 10 * time.Second
	sampleEvery = 500 * time.Millisecond
	// settle is how long the workload goes on before the faults begin and
	// after they end.
	settle = 3 * time.Second
)

// run is one run under way.
type run struct {
	cfg   RunConfig
	names []string
	addrs []string
	rec   *history.Recorder
	// lab and control are nil where somebody else runs the cluster.
	lab     *lab.Lab
	control *Controller
	load    *load
	// changes are those of the members that are under way.
	changes sync.WaitGroup
	saying  sync.Mutex // held while Progress is called

	mu sync.Mutex // guards armed
	// armed are the crashes whose nodes may yet come to their point.
	armed []*armed
	// troubles are what went wrong after everything was mended: findings, not the
	// end of the run.
	troubles []string
}

// Run plays a scenario and returns what was recorded, with what the nodes hold in the
// end, as far as it could be read; who judges it is the caller. An error is one of the run
// itself: the lab did not start, or ctx ended.
func Run(ctx context.Context, cfg RunConfig) (result *history.Result, err error) {
	if cfg.Progress == nil {
		cfg.Progress = func(time.Duration, string) {}
	}
	r := &run{cfg: cfg}
	began := time.Now()
	plan, err := cfg.Scenario.Schedule(cfg.Seed)
	if err != nil {
		return nil, err
	}
	if len(cfg.Addrs) > 0 {
		r.addrs = cfg.Addrs
		for i := range r.addrs {
			r.names = append(r.names, fmt.Sprint("n", i+1))
		}
		r.rec = history.NewRecorder()
	} else {
		defer func() {
			if r.lab != nil {
				err = errors.Join(err, r.close())
			}
		}()
		if err := r.start(ctx); err != nil {
			return nil, err
		}
	}
	started := len(r.names)
	if r.load, err = startLoad(ctx, cfg.Scenario.Workload, r.names, r.addrs, r.rec, cfg.Seed); err != nil {
		return nil, err
	}
	if err := r.suffer(ctx, plan); err != nil {
		r.load.end()
		r.load.stopWatches()
		r.load.watches.Wait()
		return nil, err
	}
	h, final, err := r.finish(ctx)
	if err != nil {
		return nil, err
	}
	if r.control != nil {
		r.names = r.control.Names() // those that are gone have their part in the history
	}
	return &history.Result{
		Title: cfg.Scenario.Title, Seed: cfg.Seed, Version: cfg.Version, Began: began,
		Nodes: r.names, Joined: len(r.names) - started, History: h, Final: final,
	}, nil
}

// start brings the lab up.
func (r *run) start(ctx context.Context) (err error) {
	r.lab, err = lab.New(ctx, lab.Config{
		Binary: r.cfg.Binary, Nodes: r.cfg.Scenario.Nodes, Dir: r.cfg.Dir, Environment: r.cfg.Environment,
		Args: r.cfg.Scenario.Args, Chaos: true,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := r.lab.StartAll(ctx); err != nil {
		return err
	}
	if r.control, err = NewController(r.lab, r.cfg.Seed); err != nil {
		return err
	}
	r.names, r.addrs = r.control.Names(), r.lab.Addrs()
	r.rec = history.NewRecorder()
	r.say("%d nodes run in %s", len(r.names), r.lab.Dir())
	return nil
}

func (r *run) close() error {
	var err error
	if r.control != nil {
		err = r.control.Close()
	}
	return errors.Join(err, r.lab.Close())
}

func (r *run) say(format string, args ...any) {
	r.saying.Lock()
	defer r.saying.Unlock()
	r.cfg.Progress(r.rec.Now(), fmt.Sprintf(format, args...))
}

// suffer carries the schedule out, and mends everything in the end.
func (r *run) suffer(ctx context.Context, plan []Planned) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sampling sync.WaitGroup
	defer sampling.Wait()
	defer cancel()
	sampling.Go(func() { r.sample(ctx) })
	if !sleepUntil(ctx, r.rec, r.rec.Now()+settle) {
		return ctx.Err()
	}
	if r.control == nil {
		sleepUntil(ctx, r.rec, r.rec.Now()+r.cfg.Scenario.Length)
		return context.Cause(ctx)
	}
	defer r.changes.Wait()
	if err := r.play(ctx, plan); err != nil {
		return err
	}
	if _, _, err := r.control.Do(ctx, Action{Verb: "heal"}); err != nil {
		r.trouble("not everything was mended: %v", err)
	}
	for _, a := range r.armedNow() {
		r.disarm(a)
	}
	r.fault(history.Fault{Kind: "heal", Text: "everything mended"})
	r.changes.Wait()
	r.names, r.addrs = r.control.Members()
	r.await(ctx)
	if !sleepUntil(ctx, r.rec, r.rec.Now()+settle) {
		return ctx.Err()
	}
	return nil
}

func (r *run) fault(f history.Fault) int {
	r.say("%s", f.Text)
	return r.rec.Fault(f)
}

// trouble notes what went wrong in the end, once the run is to go on all the same.
func (r *run) trouble(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("trouble: %s", text)
	r.troubles = append(r.troubles, text)
}

// patience is how long the end waits for what takes no time in a cluster that is well.
func (r *run) patience(well time.Duration) time.Duration {
	if len(r.troubles) > 0 {
		return min(well, lameLimit)
	}
	return well
}

// play carries the actions out at their times, and mends each at its time, whatever others
// wait for. What nodes do by themselves, such as to end over a disk that hangs, is mended
// at once, unless the fault would end them again.
func (r *run) play(ctx context.Context, plan []Planned) error {
	r.rec.Plan(countFaults(plan))
	start := r.rec.Now()
	end := start + r.cfg.Scenario.Length
	// What still waits at the end, for a leader or for its time, is over then; changes
	// of the members go on.
	playing, cancel := context.WithCancel(ctx)
	var steps sync.WaitGroup
	defer steps.Wait()
	defer cancel()
	steps.Go(func() { r.keep(playing) })
	for _, p := range plan {
		if !sleepUntil(ctx, r.rec, start+p.At) {
			return context.Cause(ctx)
		}
		if changesMembers(p.Verb) {
			r.changes.Go(func() { r.change(ctx, p.Action) })
			continue
		}
		begun := make(chan struct{})
		steps.Go(func() { r.step(playing, p, sync.OnceFunc(func() { close(begun) })) })
		<-begun // what two actions at one time draw does not depend on the scheduler
	}
	if !sleepUntil(ctx, r.rec, end) {
		return context.Cause(ctx)
	}
	return nil
}

// countFaults counts what a plan breaks, and not what it mends.
func countFaults(plan []Planned) (n int) {
	for _, p := range plan {
		if p.breaks() {
			n++
		}
	}
	return n
}

// breaks reports whether the action is a fault, not the end of some.
func (p Planned) breaks() bool { return p.Verb != "heal" && p.Verb != "start" }

// step carries one action out, and mends it at its time. It calls begun once others may
// begin.
func (r *run) step(ctx context.Context, p Planned, begun func()) {
	act, text, err := r.control.do(ctx, p.Action, begun)
	begun()
	if err != nil {
		// Nobody leads, or the node to hand over to is down: that is as may be.
		// What could not be broken is not.
		r.say("not done: %s: %v", p.Action, err)
	}
	if act == nil {
		if p.Verb == "heal" {
			for _, a := range r.armedNow() {
				r.disarm(a)
			}
		}
		switch {
		case err == nil:
			r.fault(history.Fault{Kind: p.Verb, Text: text, Moment: p.Verb != "heal"})
		case p.breaks():
			r.rec.Missed(history.Missed{Text: p.Action.String(), Why: err.Error(), Reason: history.NotDone})
		}
		return
	}
	var crash *armed
	id := 0
	if p.Verb == "crash" {
		r.say("%s", text)
		crash = r.arm(act)
	} else {
		id = r.fault(history.Fault{Kind: p.Verb, Text: text, Nodes: act.Nodes})
	}
	if p.For == 0 || !sleepUntil(ctx, r.rec, r.rec.Now()+p.For) {
		return // the end mends it
	}
	if err := r.control.Undo(ctx, act); err != nil && ctx.Err() == nil {
		r.say("not mended at once: %s: %v", text, err)
	}
	if crash != nil {
		r.disarm(crash)
		return
	}
	r.fault(history.Fault{Kind: "heal", Text: "mended: " + text, Nodes: act.Nodes, Mends: id})
}

// armed is a crash that is set, and what is recorded of it.
type armed struct {
	act *Active

	mu sync.Mutex // guards the fields below
	// faults came of it, and seen is how many nodes they are of.
	faults []history.Fault
	seen   int
	over   bool // it was disarmed
}

func (r *run) arm(act *Active) *armed {
	a := &armed{act: act}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = append(r.armed, a)
	return a
}

func (r *run) armedNow() []*armed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.armed)
}

// crashes records which nodes have come to the point of a crash: those are faults, to set
// it is none.
func (r *run) crashes(a *armed) {
	down := r.control.Crashed(a.act)
	a.mu.Lock()
	defer a.mu.Unlock()
	if fresh := down[a.seen:]; len(fresh) > 0 {
		f := history.Fault{Kind: "crash", Text: fmt.Sprintf("%s crashed %s", strings.Join(fresh, ", "), a.act.Point), Nodes: fresh}
		f.ID = r.fault(f)
		a.faults, a.seen = append(a.faults, f), len(down)
	}
}

// disarm records the end of a crash that was undone.
func (r *run) disarm(a *armed) {
	r.mu.Lock()
	r.armed = slices.DeleteFunc(r.armed, func(other *armed) bool { return other == a })
	r.mu.Unlock()
	r.crashes(a)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	a.over = true
	if len(a.faults) == 0 {
		r.say("taken back: %s: no node came there", a.act.Text)
		r.rec.Missed(history.Missed{Text: a.act.Action.String(), Why: "no node came there", Reason: history.NeverReached})
	}
	for _, f := range a.faults {
		r.fault(history.Fault{Kind: "heal", Text: "mended: " + f.Text, Nodes: f.Nodes, Mends: f.ID})
	}
}

// keep starts what ended by itself, and records who crashed, until ctx ends.
func (r *run) keep(ctx context.Context) {
	for sleepUntil(ctx, r.rec, r.rec.Now()+sampleEvery) {
		for _, a := range r.armedNow() {
			r.crashes(a)
		}
		ended, err := r.control.Revive(ctx)
		if err != nil && ctx.Err() == nil {
			r.say("not started again at once: %v", err)
		}
		if len(ended) > 0 {
			r.fault(history.Fault{Kind: "restart", Text: strings.Join(ended, ", ") + " had ended; started again", Nodes: ended, Moment: true})
		}
	}
}

// change has the members changed, which may take a while, and the clients know of it.
func (r *run) change(ctx context.Context, a Action) {
	op := history.Op{Client: history.Operator, Kind: history.Member, Call: r.rec.Now(), Outcome: history.OK}
	_, text, err := r.control.Do(ctx, a)
	if err != nil {
		r.say("not done: %s: %v", a, err)
		missed := history.Missed{Text: a.String(), Why: err.Error(), Reason: history.NotDone}
		if errors.Is(err, errChanging) {
			missed.Reason = history.Busy
			r.rec.Missed(missed)
			return
		}
		r.rec.Missed(missed)
	}
	if op.Return = r.rec.Now(); err != nil {
		op.Outcome, op.Code = history.Unknown, err.Error()
	} else {
		r.fault(history.Fault{Kind: "members", Text: text, Moment: true})
	}
	r.rec.Op(op)
	r.load.know(r.control.Members())
}

func sleepUntil(ctx context.Context, rec *history.Recorder, at time.Duration) bool {
	t := time.NewTimer(at - rec.Now())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sample records how the nodes are, until ctx ends.
func (r *run) sample(ctx context.Context) {
	if r.control == nil {
		return
	}
	for ctx.Err() == nil {
		s := r.control.Sample(ctx)
		s.At = r.rec.Now()
		r.rec.Sample(s)
		if !sleepUntil(ctx, r.rec, s.At+sampleEvery) {
			return
		}
	}
}

// await waits until all nodes serve again, for healLimit.
func (r *run) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	for {
		_, err := r.control.Revive(ctx)
		if err == nil {
			var up []string
			for _, n := range r.names {
				if r.lab.Running(n) {
					up = append(up, n)
				}
			}
			if err = r.lab.WaitReady(ctx, up...); err == nil {
				r.say("all nodes serve again")
				return
			}
		}
		if ctx.Err() != nil {
			r.trouble("the cluster does not come back within %v: %v", healLimit, err)
			return
		}
		r.say("not back yet: %v", err)
	}
}

// finish ends the workload and reads what all nodes hold. What can't be read is a
// trouble; an error is the end of ctx.
func (r *run) finish(ctx context.Context) (*history.History, *history.Final, error) {
	r.load.end()
	admin, err := client.New(client.Config{Addresses: r.addrs, Workspace: "chaos", RetryFor: healLimit})
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = admin.Close() }() // nothing of it is under way
	size := r.size(ctx, admin)
	// One event behind what is compared: the watches see that they are there.
	r.load.until.Store(size)
	last := r.load.event(0, 1<<30, r.load.rng(0))
	last.Source += "/end"
	if err := within(ctx, r.patience(healLimit), func(ctx context.Context) error {
		_, err := admin.Append(ctx, last)
		return err
	}); err != nil {
		r.trouble("append the last event: %v", err)
	}
	ended := r.rec.Now() // the clients have; watches may yet catch up
	seen, cancel := context.WithTimeout(ctx, r.patience(watchLimit))
	defer cancel()
	r.load.endWatches(seen)
	h := r.rec.End()
	h.Length = ended
	size = covers(size, h.Deliveries)
	r.say("reading what the nodes hold")
	final := r.final(ctx, admin, size)
	return h, final, context.Cause(ctx)
}

// covers returns the size that has all that was delivered: what nodes write of themselves
// may have come, and been delivered, between the reading of the size and the word to the
// watches that it is the end.
func covers(size uint64, delivered []history.Delivery) uint64 {
	for _, d := range delivered {
		size = max(size, d.Sequence+1)
	}
	return size
}

// size is how long the chain is in the end: as the cluster says, or else the longest that
// any node has.
func (r *run) size(ctx context.Context, admin *client.Client) (size uint64) {
	err := within(ctx, r.patience(watchLimit), func(ctx context.Context) error {
		for size == 0 {
			h, err := admin.Head(ctx)
			if err != nil {
				return err
			}
			size = h.Size
		}
		return nil
	})
	if err == nil {
		return size
	}
	r.trouble("read the head: %v", err)
	for _, addr := range r.addrs {
		node, err := admin.On(addr)
		if err != nil {
			continue
		}
		_ = within(ctx, time.Second, func(ctx context.Context) error { // who does not answer is seen below
			h, err := node.At(client.Stale).Head(ctx)
			size = max(size, h.Size)
			return err
		})
	}
	return size
}

// within calls what may take a while, and no longer.
func within(ctx context.Context, limit time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return call(ctx)
}
