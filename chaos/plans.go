package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/faults"
)

// write writes what is wrong with each node, for when it starts; c.mu is held.
func (c *Controller) write() error {
	var errs []error
	for _, n := range c.lab.Nodes() {
		errs = append(errs, c.lab.WritePlan(n.Name, c.planOf(n.Name)))
	}
	return errors.Join(errs...)
}

// tell tells each node that runs what is wrong with it, but those that have just started:
// they read it. c.mu is not held: a node may be slow to take it.
func (c *Controller) tell(ctx context.Context, started []string) error {
	nodes := c.lab.Nodes()
	errs := make([]error, len(nodes))
	var telling sync.WaitGroup
	for i, n := range nodes {
		if slices.Contains(started, n.Name) {
			continue
		}
		telling.Go(func() {
			lock := c.tellingOf(n.Name)
			lock.Lock()
			defer lock.Unlock()
			// As it is by now, which may be after other actions.
			plan := func() (p faults.Plan, wanted bool) {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.planOf(n.Name), c.lab.Running(n.Name) && !c.paused(n.Name)
			}
			if err := putPlan(ctx, n.Chaos, plan); err != nil {
				errs[i] = fmt.Errorf("tell %s what is wrong with it: %w", n.Name, err)
			}
		})
	}
	telling.Wait()
	return errors.Join(errs...)
}

func (c *Controller) tellingOf(name string) *sync.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.telling[name] == nil {
		c.telling[name] = new(sync.Mutex)
	}
	return c.telling[name]
}

func (c *Controller) paused(name string) bool {
	return slices.ContainsFunc(c.active, func(a *Active) bool { return a.Verb == "pause" && slices.Contains(a.Nodes, name) })
}

// planOf is everything that is wrong at a node: the sum of all actions.
func (c *Controller) planOf(name string) faults.Plan {
	p := faults.Plan{Links: make(map[string]faults.Link)}
	for _, a := range c.active {
		for _, other := range c.Names() {
			id := c.ids[other]
			if other == name || id == "" {
				continue
			}
			l := p.Links[id]
			if a.concerns(name, other) {
				l = worse(l, a.link())
			}
			if a.Verb == "oneway" && a.concerns(other, name) {
				l.Deaf = true
			}
			if l != (faults.Link{}) {
				p.Links[id] = l
			}
		}
		if !slices.Contains(a.Nodes, name) {
			continue
		}
		switch a.Verb {
		case "disk":
			p.Disk = a.disk()
		case "clock":
			p.Clock.Offset = faults.Duration(a.Offset)
		case "crash":
			p.Crash = faults.Crash{Point: a.Point, After: a.After}
		}
	}
	return p
}

// concerns reports whether an action is about what one node sends to another.
func (a *Active) concerns(from, to string) bool {
	in := func(i int, name string) bool { return slices.Contains(a.groups[i], name) }
	switch a.Verb {
	case "partition":
		// Who is in no group is cut from nobody.
		at := func(name string) int {
			return slices.IndexFunc(a.groups, func(g []string) bool { return slices.Contains(g, name) })
		}
		return at(from) >= 0 && at(to) >= 0 && at(from) != at(to)
	case "oneway":
		return in(0, from) && in(1, to)
	case "isolate", "slow", "drop", "reorder", "throttle":
		return in(0, from) || in(0, to)
	}
	return false
}

// worse is a link with two faults.
func worse(a, b faults.Link) faults.Link {
	a.Cut, a.Deaf = a.Cut || b.Cut, a.Deaf || b.Deaf
	a.Delay, a.Jitter = max(a.Delay, b.Delay), max(a.Jitter, b.Jitter)
	a.Drop, a.Reorder = max(a.Drop, b.Drop), max(a.Reorder, b.Reorder)
	if b.Rate > 0 && (a.Rate == 0 || b.Rate < a.Rate) {
		a.Rate = b.Rate
	}
	return a
}

// tellLimit is how long a node may take to take its plan: one that was just started on a
// busy machine has yet to listen.
const tellLimit = 15 * time.Second

// putPlan replaces a node's plan by the one that there is at the time, for as long as the
// node is to have one.
func putPlan(ctx context.Context, addr string, plan func() (p faults.Plan, wanted bool)) error {
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	var last error
	for {
		p, wanted := plan()
		if !wanted {
			return nil
		}
		if last != nil && ctx.Err() != nil {
			return last
		}
		b, err := json.Marshal(p)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+addr+"/plan", bytes.NewReader(b))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			text, rerr := io.ReadAll(io.LimitReader(resp.Body, 4096))
			resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				return nil
			}
			return errors.Join(rerr, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text))))
		}
		last = err
		select { // it may be about to listen
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
