package chaos

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// Controller carries actions out on a lab. Its methods are safe for concurrent use: what
// waits for the cluster, such as an action on a leader that there is not, holds up
// nothing else.
type Controller struct {
	lab  *lab.Lab
	rand *rand.Rand // under mu

	// mu guards the fields below. It is held while it is decided what is wrong with
	// whom, and while processes are ended and started, never while a node is asked or
	// told something.
	mu    sync.Mutex
	admin *client.Client
	// replaced are the clients before admin, which may still be in use.
	replaced []*client.Client
	// ids are the node ids, by the lab's names, of nodes that ever answered.
	ids map[string]string
	// active are the actions that were carried out and not undone, in order. What they
	// point to is never changed, only replaced.
	active []*Active
	// last is the ID of the newest action.
	last int
	// crashed are the nodes that reached the point of an action, by its ID.
	crashed map[int][]string
	// minority is the last one that was selected.
	minority []string
	// gone are nodes that were taken out of the cluster for good.
	gone map[string]bool
	// telling has a lock for each node, held while it is told its plan: the last that
	// it is told is the newest.
	telling map[string]*sync.Mutex

	// changing is held by the one change of the members that is under way.
	changing sync.Mutex
}

// Active is an action that was carried out.
type Active struct {
	Action
	// ID tells it from others.
	ID int
	// Text says it for people, with the names of the nodes that were selected.
	Text string
	// Nodes are those that it concerns.
	Nodes []string

	groups [][]string // the action's, resolved
	since  time.Time
}

// NewController returns a controller of a lab whose nodes were started for chaos. The
// caller calls Close.
func NewController(l *lab.Lab, seed uint64) (*Controller, error) {
	c := &Controller{
		lab: l, rand: rand.New(rand.NewPCG(seed, 1)), ids: make(map[string]string), gone: make(map[string]bool),
		crashed: make(map[int][]string), telling: make(map[string]*sync.Mutex),
	}
	return c, c.connect()
}

// connect has the controller know all nodes of the lab.
func (c *Controller) connect() error {
	admin, err := client.New(client.Config{Addresses: c.lab.Addrs(), Stall: time.Second, RetryFor: 10 * time.Second})
	if err != nil {
		return err
	}
	if c.admin != nil {
		c.replaced = append(c.replaced, c.admin)
	}
	c.admin = admin
	return nil
}

// Close lets the lab be as it is.
func (c *Controller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.admin.Close()
	for _, old := range c.replaced {
		err = errors.Join(err, old.Close())
	}
	c.replaced = nil
	return err
}

// Names are the names of all nodes of the lab.
func (c *Controller) Names() []string {
	var names []string
	for _, n := range c.lab.Nodes() {
		names = append(names, n.Name)
	}
	return names
}

// Members are the names and API addresses of the nodes that were not taken out of the
// cluster.
func (c *Controller) Members() (names, addrs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.lab.Nodes() {
		if !c.gone[n.Name] {
			names, addrs = append(names, n.Name), append(addrs, n.API)
		}
	}
	return names, addrs
}

// Gone are the names of nodes that were taken out of the cluster.
func (c *Controller) Gone() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.gone))
}

// members are the names of Members; c.mu is held.
func (c *Controller) members() []string {
	return slices.DeleteFunc(c.Names(), func(n string) bool { return c.gone[n] })
}

// errNoLeader says that an action concerns the leader, and that there was none for
// leaderLimit.
var errNoLeader = errors.New("no node says that it leads")

const (
	// leaderLimit is how long an action waits for a leader.
	leaderLimit = 10 * time.Second
	// leaderEvery is how often it looks for one.
	leaderEvery = 50 * time.Millisecond
)

// Do carries an action out. What it returns can be undone, but for actions that are
// over at once, of which it returns nil. Where it returns both what can be undone and an
// error, not all nodes have been told.
func (c *Controller) Do(ctx context.Context, a Action) (*Active, string, error) {
	return c.do(ctx, a, func() {})
}

// do is Do. It calls begun once it has done what takes no time, or waits for the cluster:
// who carries actions out in an order goes on then. begun may be called twice.
func (c *Controller) do(ctx context.Context, a Action, begun func()) (*Active, string, error) {
	defer begun()
	if changesMembers(a.Verb) {
		begun()
		text, err := c.change(ctx, a)
		return nil, text, err
	}
	if err := c.identify(ctx); err != nil {
		return nil, "", err
	}
	leader, err := c.leaderFor(ctx, &a, begun)
	if err != nil {
		return nil, "", err
	}
	act, started, err := c.begin(&a, leader)
	if act == nil {
		return nil, "", err
	}
	begun()
	switch a.Verb {
	case "transfer":
		return nil, act.Text, c.transfer(ctx, leader, act.Nodes[0])
	case "heal", "start":
		return nil, act.Text, errors.Join(err, c.tell(ctx, started))
	}
	return act, act.Text, errors.Join(err, c.tell(ctx, nil))
}

// changesMembers reports whether a verb changes who is in the cluster.
func changesMembers(verb string) bool {
	return slices.Contains([]string{"join", "remove", "leave", "replace"}, verb)
}

// begin resolves an action, and does all of it that a node need not be told of. It
// returns nil where it did nothing, and the nodes that it started.
func (c *Controller) begin(a *Action, leader string) (act *Active, started []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	groups, err := c.resolve(a, leader)
	if err != nil {
		return nil, nil, err
	}
	c.last++
	act = &Active{Action: *a, ID: c.last, groups: groups, Nodes: nodesOf(groups), since: time.Now()}
	act.Text = act.say(c.members())
	switch a.Verb {
	case "heal":
		c.notice()
		c.active = nil
		started, err = c.arrange()
		return act, started, err
	case "start":
		c.startAgain(act.Nodes)
		started, err = c.arrange()
		return act, started, err
	case "transfer":
		return act, nil, nil
	}
	c.active = append(c.active, act)
	for _, name := range act.Nodes {
		switch a.Verb {
		case "kill":
			err = errors.Join(err, ignoreDown(c.lab, name, c.lab.Kill(name)))
		case "pause":
			err = errors.Join(err, ignoreDown(c.lab, name, c.lab.Pause(name)))
		}
	}
	return act, nil, errors.Join(err, c.write())
}

// nodesOf are the nodes of groups, each once and sorted.
func nodesOf(groups [][]string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(groups...))))
}

// transfer asks the leader to hand over.
func (c *Controller) transfer(ctx context.Context, leader, to string) error {
	if leader == "" {
		var err error
		if leader, err = c.waitLeader(ctx); err != nil {
			return err
		}
	}
	addrs := c.lab.Addrs()
	slices.SortStableFunc(addrs, func(a, b string) int { return c.distance(leader, a) - c.distance(leader, b) })
	asker, err := client.New(client.Config{Addresses: addrs, RetryFor: 5 * time.Second})
	if err != nil {
		return err
	}
	return errors.Join(asker.Transfer(ctx, c.IDs()[to]), asker.Close())
}

// distance is 0 for a node's own address.
func (c *Controller) distance(name, addr string) int {
	for _, n := range c.lab.Nodes() {
		if n.Name == name && n.API == addr {
			return 0
		}
	}
	return 1
}

// ignoreDown forgets that what does not run could not be stopped: it crashed by
// another action.
func ignoreDown(l *lab.Lab, name string, err error) error {
	if err != nil && !l.Running(name) {
		return nil
	}
	return err
}

// Undo mends what an action broke. What other actions break stays broken.
func (c *Controller) Undo(ctx context.Context, act *Active) error {
	c.mu.Lock()
	c.notice()
	c.active = slices.DeleteFunc(c.active, func(a *Active) bool { return a.ID == act.ID })
	started, err := c.arrange()
	c.mu.Unlock()
	return errors.Join(err, c.tell(ctx, started))
}

// Active are the actions that were carried out and not undone, as they are by now: who was
// started again is no part of them.
func (c *Controller) Active() []Active {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notice()
	var list []Active
	for _, act := range c.active {
		a := *act
		if down := c.crashed[a.ID]; len(down) > 0 {
			a.Text = crashedText(&a, down)
		}
		list = append(list, a)
	}
	return list
}

// Crashed are the nodes that reached the point of an action and ended there, also after it
// was undone.
func (c *Controller) Crashed(act *Active) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notice()
	return slices.Clone(c.crashed[act.ID])
}

// notice finds out who has reached the point of an action; c.mu is held.
func (c *Controller) notice() {
	for _, act := range c.active {
		if act.Verb != "crash" {
			continue
		}
		for _, name := range act.Nodes {
			if !slices.Contains(c.crashed[act.ID], name) && c.lab.Crashed(name).After(act.since) {
				c.crashed[act.ID] = append(c.crashed[act.ID], name)
			}
		}
	}
}

// startAgain ends what keeps nodes from running; c.mu is held. An action that concerns
// nobody any more is over.
func (c *Controller) startAgain(names []string) {
	c.notice()
	var left []*Active
	for _, act := range c.active {
		started := func(n string) bool {
			return slices.Contains(names, n) && (act.Verb != "crash" || slices.Contains(c.crashed[act.ID], n))
		}
		if stops := act.Verb == "kill" || act.Verb == "pause" || act.Verb == "crash"; stops && slices.ContainsFunc(act.Nodes, started) {
			rest := *act
			rest.Nodes = slices.DeleteFunc(slices.Clone(act.Nodes), started)
			rest.groups = [][]string{rest.Nodes}
			rest.Text = rest.say(c.members())
			act = &rest
		}
		if len(act.Nodes) > 0 {
			left = append(left, act)
		}
	}
	c.active = left
}

// Revive starts nodes that ended although no action has them down: they crashed where
// they were told to, or gave up their disk. It returns their names.
func (c *Controller) Revive(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	c.notice()
	ended := slices.DeleteFunc(c.Names(), func(name string) bool {
		return c.lab.Running(name) || c.held(name) || c.removed(name)
	})
	if len(ended) == 0 {
		c.mu.Unlock()
		return nil, nil
	}
	started, err := c.arrange()
	c.mu.Unlock()
	return ended, errors.Join(err, c.tell(ctx, started))
}

// held reports whether an action keeps a node from running, or would end it again at
// once.
func (c *Controller) held(name string) bool {
	return slices.ContainsFunc(c.active, func(a *Active) bool {
		stops := a.Verb == "kill" || a.Verb == "disk" && a.Disk != "slow"
		// What is down for another reason comes up armed.
		stops = stops || a.Verb == "crash" && slices.Contains(c.crashed[a.ID], name)
		return stops && slices.Contains(a.Nodes, name)
	})
}

// arrange has every node run that no action stops, with what is wrong with it; c.mu is
// held, and the nodes that it did not start are yet to be told. Plans are written before
// anything starts: by the one before, a node could crash as soon as it runs.
func (c *Controller) arrange() (started []string, err error) {
	werr := c.write()
	started, err = c.revive()
	return started, errors.Join(werr, err)
}

// revive has every node run that no action stops. It returns those that it started.
func (c *Controller) revive() (started []string, err error) {
	var errs []error
	for _, name := range c.Names() {
		switch {
		case !c.lab.Running(name):
			if !c.held(name) && !c.removed(name) {
				errs = append(errs, c.lab.Start(name))
				started = append(started, name)
			}
		case !c.paused(name):
			errs = append(errs, ignoreDown(c.lab, name, c.lab.Resume(name)))
		}
	}
	return started, errors.Join(errs...)
}

// removed reports whether a node was taken out of the cluster, as we or its log know.
func (c *Controller) removed(name string) bool { return c.gone[name] || c.lab.Removed(name) }

// identify learns the ids of nodes that answer.
func (c *Controller) identify(ctx context.Context) error {
	known := c.IDs()
	nodes := slices.DeleteFunc(slices.Clone(c.lab.Nodes()), func(n lab.Node) bool { return known[n.Name] != "" })
	found := make([]string, len(nodes))
	var asking sync.WaitGroup
	for i, n := range nodes {
		asking.Go(func() {
			if s, err := c.status(ctx, n); err == nil {
				found[i] = s.NodeID
			}
		})
	}
	asking.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, n := range nodes {
		if found[i] != "" {
			c.ids[n.Name] = found[i]
		}
	}
	if len(c.ids) == 0 {
		return errors.New("no node answers")
	}
	return nil
}

// statusTimeout is how long a node may take to tell how it is.
const statusTimeout = 500 * time.Millisecond

func (c *Controller) status(ctx context.Context, n lab.Node) (client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	c.mu.Lock()
	admin := c.admin
	c.mu.Unlock()
	r, err := admin.On(n.API)
	if err != nil {
		return client.Status{}, err
	}
	return r.Status(ctx)
}

// Sample tells how the lab is.
func (c *Controller) Sample(ctx context.Context) history.Sample {
	_ = c.identify(ctx) // who does not answer is shown so
	return c.sample(ctx)
}

// sample is Sample of the nodes whose ids are known.
func (c *Controller) sample(ctx context.Context) history.Sample {
	nodes := c.lab.Nodes()
	s := history.Sample{Nodes: make([]history.NodeSample, len(nodes)), Cut: make(map[string][]string)}
	names := make(map[string]string)
	c.mu.Lock()
	for name, id := range c.ids {
		names[id] = name
	}
	for i, n := range nodes {
		out := &s.Nodes[i]
		runs, paused := c.lab.Running(n.Name), c.paused(n.Name)
		out.Name, out.Up, out.Paused = n.Name, runs && !paused, runs && paused
		for _, other := range nodes {
			if slices.ContainsFunc(c.active, func(a *Active) bool { return a.link().Cut && a.concerns(n.Name, other.Name) && n.Name != other.Name }) {
				s.Cut[n.Name] = append(s.Cut[n.Name], other.Name)
			}
		}
	}
	c.mu.Unlock()
	var asking sync.WaitGroup
	for i, n := range nodes {
		out := &s.Nodes[i]
		if !out.Up {
			continue
		}
		asking.Go(func() {
			st, err := c.status(ctx, n)
			if err != nil {
				return
			}
			out.Answered, out.Leads, out.Term = true, st.State == "Leader", st.Term
			out.Leader, out.Size, out.Applied = names[st.Leader], st.Head.Size, st.AppliedIndex
		})
	}
	asking.Wait()
	return s
}

// IDs are the node ids that are known, by the lab's names.
func (c *Controller) IDs() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.ids)
}
