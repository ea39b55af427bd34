package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// Controller carries actions out on a lab. Its methods are safe for concurrent use;
// actions are carried out one after the other.
type Controller struct {
	lab   *lab.Lab
	admin *client.Client
	rand  *rand.Rand // under mu

	mu sync.Mutex // guards the fields below, and is held while an action is carried out
	// ids are the node ids, by the lab's names, of nodes that ever answered.
	ids map[string]string
	// active are the actions that were carried out and not undone, in order.
	active []*Active
	// minority is the last one that was selected.
	minority []string
	// gone are nodes that were taken out of the cluster for good.
	gone map[string]bool
	// changing is held by the one change of the members that is under way, which
	// takes mu for moments only.
	changing sync.Mutex
}

// Active is an action that was carried out.
type Active struct {
	Action
	// Text says it for people, with the names of the nodes that were selected.
	Text string
	// Nodes are those that it concerns.
	Nodes []string

	groups [][]string // the action's, resolved
}

// NewController returns a controller of a lab whose nodes were started for chaos. The
// caller calls Close.
func NewController(l *lab.Lab, seed uint64) (*Controller, error) {
	c := &Controller{lab: l, rand: rand.New(rand.NewPCG(seed, 1)), ids: make(map[string]string), gone: make(map[string]bool)}
	return c, c.connect()
}

// connect has the controller know all nodes of the lab.
func (c *Controller) connect() error {
	admin, err := client.New(client.Config{Addresses: c.lab.Addrs(), Stall: time.Second, RetryFor: 10 * time.Second})
	if err != nil {
		return err
	}
	if c.admin != nil {
		err = c.admin.Close()
	}
	c.admin = admin
	return err
}

// Close lets the lab be as it is.
func (c *Controller) Close() error { return c.admin.Close() }

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

// Do carries an action out. What it returns can be undone, but for actions that are
// over at once, of which it returns nil.
func (c *Controller) Do(ctx context.Context, a Action) (*Active, string, error) {
	switch a.Verb {
	case "join", "remove", "leave", "replace":
		text, err := c.change(ctx, a)
		return nil, text, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.identify(ctx); err != nil {
		return nil, "", err
	}
	groups, err := c.resolve(ctx, &a)
	if err != nil {
		return nil, "", err
	}
	act := &Active{Action: a, groups: groups, Nodes: slices.Compact(slices.Sorted(slices.Values(slices.Concat(groups...))))}
	act.Text = act.say(c.members())
	switch a.Verb {
	case "heal":
		return nil, act.Text, c.healAll(ctx)
	case "start":
		return nil, act.Text, c.startAgain(ctx, act.Nodes)
	case "transfer":
		return nil, act.Text, c.transfer(ctx, act.Nodes[0])
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
	return act, act.Text, errors.Join(err, c.plan(ctx))
}

// transfer asks the leader to hand over.
func (c *Controller) transfer(ctx context.Context, to string) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	addrs := c.lab.Addrs()
	slices.SortStableFunc(addrs, func(a, b string) int { return c.distance(leader, a) - c.distance(leader, b) })
	asker, err := client.New(client.Config{Addresses: addrs, RetryFor: 5 * time.Second})
	if err != nil {
		return err
	}
	return errors.Join(asker.Transfer(ctx, c.ids[to]), asker.Close())
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
	defer c.mu.Unlock()
	c.active = slices.DeleteFunc(c.active, func(a *Active) bool { return a == act })
	return c.settle(ctx)
}

// Active are the actions that were carried out and not undone.
func (c *Controller) Active() []*Active {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.active)
}

func (c *Controller) healAll(ctx context.Context) error {
	c.active = nil
	return c.settle(ctx)
}

// startAgain ends what keeps nodes from running.
func (c *Controller) startAgain(ctx context.Context, names []string) error {
	for _, act := range c.active {
		if act.Verb == "kill" || act.Verb == "pause" {
			act.Nodes = slices.DeleteFunc(slices.Clone(act.Nodes), func(n string) bool { return slices.Contains(names, n) })
		}
	}
	return c.settle(ctx)
}

// Revive starts nodes that ended although no action has them down: they crashed where
// they were told to, or gave up their disk. It returns their names.
func (c *Controller) Revive(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ended []string
	for _, name := range c.Names() {
		if !c.lab.Running(name) && !c.held(name) && !c.removed(name) {
			ended = append(ended, name)
		}
	}
	if len(ended) == 0 {
		return nil, nil
	}
	return ended, c.settle(ctx)
}

// held reports whether an action keeps a node from running, or would end it again at
// once.
func (c *Controller) held(name string) bool {
	return slices.ContainsFunc(c.active, func(a *Active) bool {
		stops := a.Verb == "kill" || a.Verb == "disk" && a.Disk != "slow" || a.Verb == "crash"
		return stops && slices.Contains(a.Nodes, name)
	})
}

// settle has every node run that no action stops, with what is wrong with it. Plans are
// written before anything starts: by the one before, a node could crash as soon as it
// runs.
func (c *Controller) settle(ctx context.Context) error {
	werr := c.write()
	started, rerr := c.revive()
	return errors.Join(werr, rerr, c.tell(ctx, started))
}

// revive has every node run that no action stops. It returns those that it started.
func (c *Controller) revive() (started []string, err error) {
	var errs []error
	for _, name := range c.Names() {
		paused := slices.ContainsFunc(c.active, func(a *Active) bool { return a.Verb == "pause" && slices.Contains(a.Nodes, name) })
		switch {
		case !c.lab.Running(name):
			if !c.held(name) && !c.removed(name) {
				errs = append(errs, c.lab.Start(name))
				started = append(started, name)
			}
		case !paused:
			errs = append(errs, ignoreDown(c.lab, name, c.lab.Resume(name)))
		}
	}
	return started, errors.Join(errs...)
}

// removed reports whether a node was taken out of the cluster, as we or its log know.
func (c *Controller) removed(name string) bool { return c.gone[name] || c.lab.Removed(name) }

// identify learns the ids of nodes that answer.
func (c *Controller) identify(ctx context.Context) error {
	for _, n := range c.lab.Nodes() {
		if c.ids[n.Name] != "" {
			continue
		}
		s, err := c.status(ctx, n)
		if err == nil {
			c.ids[n.Name] = s.NodeID
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
	r, err := c.admin.On(n.API)
	if err != nil {
		return client.Status{}, err
	}
	return r.Status(ctx)
}

// resolve finds whom an action's selectors mean now.
func (c *Controller) resolve(ctx context.Context, a *Action) (groups [][]string, err error) {
	var leader string
	for _, g := range a.Groups {
		var names []string
		for _, selector := range g {
			if leader == "" && (selector == Leader || selector == Follower) {
				if leader, err = c.leader(ctx); err != nil {
					return nil, err
				}
			}
			picked, err := c.pick(selector, leader, slices.Concat(groups...))
			if err != nil {
				return nil, err
			}
			names = append(names, picked...)
		}
		groups = append(groups, names)
	}
	return groups, nil
}

// pick resolves one selector. What other groups of the action have is not picked by
// chance.
func (c *Controller) pick(selector, leader string, taken []string) ([]string, error) {
	all := c.members()
	free := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(taken, n) })
	one := func(from []string) ([]string, error) {
		if len(from) == 0 {
			return nil, fmt.Errorf("%w: there is nobody left to be %s", ErrAction, selector)
		}
		return []string{from[c.rand.IntN(len(from))]}, nil
	}
	switch selector {
	case Leader:
		return []string{leader}, nil
	case Follower:
		return one(slices.DeleteFunc(free, func(n string) bool { return n == leader }))
	case Any:
		return one(free)
	case All:
		return all, nil
	case Minority:
		c.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		most := (len(all) - 1) / 2
		if most == 0 {
			return nil, fmt.Errorf("%w: %d nodes have no minority", ErrAction, len(all))
		}
		c.minority = all[:1+c.rand.IntN(most)]
		return c.minority, nil
	case Majority:
		return slices.DeleteFunc(all, func(n string) bool { return slices.Contains(c.minority, n) }), nil
	}
	if !slices.Contains(all, selector) {
		return nil, fmt.Errorf("%w: there is no node %q; the nodes are %s, and %s", ErrAction, selector, strings.Join(all, ", "),
			strings.Join([]string{Leader, Follower, Any, Minority, Majority, All}, ", "))
	}
	return []string{selector}, nil
}

// leader is the node that says that it leads, in the newest term. It waits for one.
func (c *Controller) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		best, term := "", uint64(0)
		for _, n := range c.sample(ctx).Nodes {
			if n.Leads && n.Term >= term {
				best, term = n.Name, n.Term
			}
		}
		if best != "" {
			return best, nil
		}
		select {
		case <-ctx.Done():
			return "", errors.New("no node says that it leads")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Sample tells how the lab is.
func (c *Controller) Sample(ctx context.Context) history.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.identify(ctx) // who does not answer is shown so
	return c.sample(ctx)
}

// sample is Sample; c.mu is held.
func (c *Controller) sample(ctx context.Context) history.Sample {
	nodes := c.lab.Nodes()
	s := history.Sample{Nodes: make([]history.NodeSample, len(nodes)), Cut: make(map[string][]string)}
	names := make(map[string]string)
	for name, id := range c.ids {
		names[id] = name
	}
	var wg sync.WaitGroup
	for i, n := range nodes {
		out := &s.Nodes[i]
		out.Name, out.Up = n.Name, c.lab.Running(n.Name) && !c.paused(n.Name)
		for _, other := range nodes {
			if slices.ContainsFunc(c.active, func(a *Active) bool { return a.link().Cut && a.concerns(n.Name, other.Name) && n.Name != other.Name }) {
				s.Cut[n.Name] = append(s.Cut[n.Name], other.Name)
			}
		}
		if !out.Up {
			continue
		}
		wg.Go(func() {
			st, err := c.status(ctx, n)
			if err != nil {
				return
			}
			out.Answered, out.Leads, out.Term = true, st.State == "Leader", st.Term
			out.Leader, out.Size, out.Applied = names[st.Leader], st.Head.Size, st.AppliedIndex
		})
	}
	wg.Wait()
	return s
}

// say says an action for people.
func (a *Active) say(all []string) string {
	list := func(names []string) string {
		if len(names) == len(all) && len(all) > 1 {
			return "all nodes"
		}
		if len(names) < 2 {
			return strings.Join(names, "")
		}
		return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
	}
	be := func(names []string, one, many string) string {
		if len(names) == 1 {
			return one
		}
		return many
	}
	nodes := list(a.Nodes)
	switch a.Verb {
	case "partition":
		var parts []string
		for _, g := range a.groups {
			parts = append(parts, list(g))
		}
		return strings.Join(parts, " | ") + ": cut from each other"
	case "isolate":
		return nodes + " cut from the others"
	case "oneway":
		return fmt.Sprintf("what %s %s does not reach %s", list(a.groups[0]), be(a.groups[0], "sends", "send"), list(a.groups[1]))
	case "slow":
		return fmt.Sprintf("links of %s are %v slower", nodes, a.Delay)
	case "drop":
		return fmt.Sprintf("links of %s lose %.3g%%", nodes, 100*a.Part)
	case "reorder":
		return fmt.Sprintf("links of %s reorder %.3g%% of gossip", nodes, 100*a.Part)
	case "throttle":
		return fmt.Sprintf("links of %s carry %d bytes/s", nodes, a.Rate)
	case "kill":
		return nodes + " killed"
	case "pause":
		return nodes + " paused"
	case "disk":
		what := map[string]string{"slow": fmt.Sprintf("%v slower", a.Delay), "hang": "hangs", "eio": "fails (EIO)", "enospc": "is full (ENOSPC)"}[a.Disk]
		return fmt.Sprintf("the %s of %s %s", cmp.Or(string(a.Store), "disk"), nodes, what)
	case "clock":
		return fmt.Sprintf("the clock of %s is off by %v", nodes, a.Offset)
	case "crash":
		return fmt.Sprintf("%s %s %s", nodes, be(a.Nodes, "crashes", "crash"), a.Point)
	case "transfer":
		return "leadership goes to " + nodes
	case "start":
		return nodes + " started again"
	case "heal":
		return "everything mended"
	}
	return a.String()
}

// IDs are the node ids that are known, by the lab's names.
func (c *Controller) IDs() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.ids)
}
