package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// errChanging refuses a change of the members beside another.
var errChanging = errors.New("another change of the members is under way")

const (
	// changeLimit is how long a change of the members may take, faults included.
	changeLimit = time.Minute
	// changeEvery is how often it is looked at, and tried again.
	changeEvery = 250 * time.Millisecond
)

// change adds a node to the cluster, takes one out for good, or does the one and then the
// other, and waits until the cluster has done it. Other actions are carried out meanwhile.
func (c *Controller) change(ctx context.Context, a Action) (string, error) {
	if !c.changing.TryLock() {
		return "", errChanging
	}
	defer c.changing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, changeLimit)
	defer cancel()
	old, err := c.target(ctx, a)
	if err != nil {
		return "", err
	}
	text := ""
	if a.Verb == "join" || a.Verb == "replace" {
		n, err := c.add()
		if err != nil {
			return "", err
		}
		text = n.Name + " joined"
		if err := c.voter(ctx, n); err != nil {
			return text, fmt.Errorf("%s does not become a voter: %w", n.Name, err)
		}
	}
	if old == "" {
		return text, nil
	}
	if text != "" {
		text += ", "
	}
	text += old + map[string]string{"leave": " left"}[a.Verb]
	if a.Verb != "leave" {
		text += " was removed"
	}
	return text, c.takeOut(ctx, old, a.Verb == "leave")
}

// target is whom a change takes out; "" is nobody.
func (c *Controller) target(ctx context.Context, a Action) (string, error) {
	if err := c.identify(ctx); err != nil {
		return "", err
	}
	leader, err := c.leaderFor(ctx, &a, func() {})
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	groups, err := c.resolve(&a, leader)
	switch {
	case err != nil || len(groups) == 0:
		return "", err
	case len(groups[0]) != 1:
		return "", fmt.Errorf("%w: %s takes one node at a time", ErrAction, a.Verb)
	case c.ids[groups[0][0]] == "":
		return "", fmt.Errorf("the id of %s is not known: it has not answered yet", groups[0][0])
	}
	return groups[0][0], nil
}

// add starts one more node, with what is wrong by now.
func (c *Controller) add() (lab.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.lab.Add()
	if err != nil {
		return n, err
	}
	return n, errors.Join(c.connect(), c.lab.WritePlan(n.Name, c.planOf(n.Name)), c.lab.Start(n.Name))
}

// voter waits until a node is a voter, and has the faults in force know it.
func (c *Controller) voter(ctx context.Context, n lab.Node) error {
	return until(ctx, func() (bool, error) {
		err := c.identify(ctx)
		id := c.IDs()[n.Name]
		if err != nil || id == "" {
			return false, err
		}
		s, err := c.suffrage(ctx, id)
		if err != nil || s != "voter" {
			return false, err
		}
		c.mu.Lock()
		err = c.write()
		c.mu.Unlock()
		return true, errors.Join(err, c.tell(ctx, nil))
	})
}

// suffrage is what a node is in the cluster, "none" where it is not in it.
func (c *Controller) suffrage(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c.mu.Lock()
	admin := c.admin
	c.mu.Unlock()
	members, err := admin.Members(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(members, func(m client.Member) bool { return m.NodeID == id })
	if i < 0 {
		return "none", nil
	}
	return members[i].Suffrage, nil
}

// takeOut takes a node out of the cluster for good: it is asked to leave, or removed.
func (c *Controller) takeOut(ctx context.Context, name string, leave bool) error {
	c.mu.Lock()
	id, node := c.ids[name], ""
	for _, n := range c.lab.Nodes() {
		if n.Name == name {
			node = n.API
		}
	}
	admin, err := client.New(client.Config{Addresses: c.lab.Addrs(), Stall: time.Second, RetryFor: 10 * time.Second})
	// From here on it may be gone at any moment: it is not started again.
	c.gone[name] = true
	c.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }() // nothing of it is under way
	return until(ctx, func() (bool, error) {
		if leave {
			err = admin.Leave(ctx, node, id)
		} else {
			err = admin.Remove(ctx, id)
		}
		if err == nil {
			return true, nil
		}
		// It may have happened all the same.
		s, serr := c.suffrage(ctx, id)
		return serr == nil && s == "none", err
	})
}

// until calls again and again until something is so, or ctx ends; its error is then the
// last that there was.
func until(ctx context.Context, so func() (bool, error)) error {
	for {
		ok, err := so()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(changeEvery):
		}
	}
}
