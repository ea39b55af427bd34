package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// resolve finds whom an action's selectors mean now, and refuses what would be no fault of
// those; c.mu is held. leader is who leads, where a selector asks for it.
func (c *Controller) resolve(a *Action, leader string) (groups [][]string, err error) {
	if err := c.divide(a); err != nil {
		return nil, err
	}
	for _, g := range a.Groups {
		var names []string
		for _, selector := range g {
			picked, err := c.pick(selector, leader, slices.Concat(groups...))
			if err != nil {
				return nil, err
			}
			names = append(names, picked...)
		}
		groups = append(groups, names)
	}
	switch a.Verb {
	case "partition":
		err = overlap(groups, false)
	case "isolate":
		if others := without(c.members(), groups[0]); len(others) == 0 {
			err = errNoOthers
		}
	case "oneway":
		if all := nodesOf(groups); len(all) < 2 {
			err = errToItself
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrAction, a, err)
	}
	return groups, nil
}

// divide draws a minority where an action asks for one, or for a majority that no earlier
// minority leaves. To start nodes again it draws none: they are those that were drawn.
func (c *Controller) divide(a *Action) error {
	selectors := slices.Concat(a.Groups...)
	anew := slices.Contains(selectors, Minority)
	if !anew && !slices.Contains(selectors, Majority) {
		return nil
	}
	all := c.members()
	kept := len(all) - len(without(all, c.minority))
	drawn := kept > 0 && 2*kept < len(all)
	switch most := (len(all) - 1) / 2; {
	case a.Verb == "start" && c.minority == nil:
		return fmt.Errorf("%w: no minority was drawn before; name the nodes to start, or all", ErrAction)
	case a.Verb == "start", drawn && !anew:
	case most == 0 && anew:
		return fmt.Errorf("%w: %d nodes have no minority", ErrAction, len(all))
	case most == 0:
		c.minority = nil // of two nodes the majority is both
	default:
		c.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		c.minority = all[:1+c.rand.IntN(most)]
	}
	return nil
}

// without are those of all that are not among some.
func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(some, n) })
}

// pick resolves one selector. What other groups of the action have is not picked by
// chance.
func (c *Controller) pick(selector, leader string, taken []string) ([]string, error) {
	all := c.members()
	free := without(all, taken)
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
		return one(without(free, []string{leader}))
	case Any:
		return one(free)
	case All:
		return all, nil
	case Minority:
		return c.minority, nil
	case Majority:
		return without(all, c.minority), nil
	}
	if !slices.Contains(all, selector) {
		return nil, fmt.Errorf("%w: there is no node %q; the nodes are %s, and %s", ErrAction, selector, strings.Join(all, ", "), strings.Join(selectors, ", "))
	}
	return []string{selector}, nil
}

// leaderFor returns who leads, where an action asks for it. Where nobody does it calls
// begun and waits for one.
func (c *Controller) leaderFor(ctx context.Context, a *Action, begun func()) (string, error) {
	if all := slices.Concat(a.Groups...); !slices.Contains(all, Leader) && !slices.Contains(all, Follower) {
		return "", nil
	}
	if leader := leaderOf(c.sample(ctx)); leader != "" {
		return leader, nil
	}
	begun()
	return c.waitLeader(ctx)
}

// waitLeader waits until a node says that it leads.
func (c *Controller) waitLeader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderLimit)
	defer cancel()
	for {
		if leader := leaderOf(c.sample(ctx)); leader != "" {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return "", errNoLeader
		case <-time.After(leaderEvery):
		}
	}
}

// leaderOf is the node that says that it leads, in the newest term.
func leaderOf(s history.Sample) string {
	best, term := "", uint64(0)
	for _, n := range s.Nodes {
		if n.Leads && n.Term >= term {
			best, term = n.Name, n.Term
		}
	}
	return best
}
