package chaos

import (
	"cmp"
	"fmt"
	"strings"
)

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
		text := fmt.Sprintf("armed: %s %s %s", nodes, be(a.Nodes, "crashes", "crash"), a.Point)
		if a.After > 0 {
			text += fmt.Sprintf(", having passed it %s", plural(a.After, "time", "times"))
		}
		return text
	case "transfer":
		return "leadership goes to " + nodes
	case "start":
		return nodes + " started again"
	case "heal":
		return "everything mended"
	}
	return a.String()
}

// crashedText says which nodes of a crash have reached its point.
func crashedText(a *Active, down []string) string {
	text := strings.Join(down, ", ") + " crashed " + string(a.Point)
	if rest := without(a.Nodes, down); len(rest) > 0 {
		text += "; armed: " + strings.Join(rest, ", ")
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
