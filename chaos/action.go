package chaos

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exonode/exonode/faults"
)

// ErrAction is wrapped where an action is not one: its text says what is wanted.
var ErrAction = errors.New("not an action")

// Action is one thing that goes wrong, as people write it: a verb, whom it concerns,
// and how much. ParseAction makes it from words, and String the words again.
type Action struct {
	Verb string
	// Groups are whom it concerns: selectors in each. Most verbs take one.
	Groups [][]string
	// Delay, Jitter and Offset are of slow, disk and clock; Part, from 0 to 1,
	// of drop and reorder; Rate, in bytes a second, of throttle.
	Delay, Jitter, Offset time.Duration
	Part                  float64
	Rate                  int64
	// Disk is what happens to it: slow, hang, eio, enospc; Store to what of it.
	Disk  string
	Store faults.Store
	// Point is where a node crashes, after passing it so often: 0 is the first time
	// that it comes there.
	Point faults.Point
	After int
}

// Selectors of nodes that are no names. They are resolved when the action is carried
// out.
const (
	Leader   = "leader"
	Follower = "follower" // one that does not lead
	Any      = "any"
	All      = "all"
	Minority = "minority" // some that are no quorum
	Majority = "majority" // the others of the last minority; where there was none, more than half
)

// selectors are all of them, for people.
var selectors = []string{Leader, Follower, Any, Minority, Majority, All}

// verb says how an action is written.
type verb struct {
	usage string
	parse func(a *Action, words []string) error
}

// verbs are what may go wrong, by name.
var verbs = map[string]verb{
	"partition": {"partition GROUP GROUP...", func(a *Action, w []string) error {
		if len(w) < 2 {
			return errWords
		}
		for len(w) > 0 {
			var err error
			if w, err = a.take(w); err != nil {
				return err
			}
		}
		return overlap(a.Groups, true)
	}},
	"isolate": {"isolate NODES", func(a *Action, w []string) error {
		if err := oneGroup(a, w); err != nil {
			return err
		}
		if slices.Contains(a.Groups[0], All) {
			return errNoOthers
		}
		return nil
	}},
	"oneway": {"oneway FROM TO", func(a *Action, w []string) error {
		if err := twoGroups(a, w); err != nil {
			return err
		}
		from, to := a.Groups[0], a.Groups[1]
		if len(from) == 1 && slices.Equal(from, to) && !byChance(from[0]) && from[0] != All {
			return errToItself
		}
		return nil
	}},
	"slow": {"slow NODES DELAY [JITTER]", func(a *Action, w []string) (err error) {
		if w, err = a.take(w); err != nil || len(w) == 0 || len(w) > 2 {
			return or(err)
		}
		if a.Delay, err = time.ParseDuration(w[0]); err == nil && len(w) == 2 {
			a.Jitter, err = time.ParseDuration(w[1])
		}
		if err == nil && a.Delay == 0 && a.Jitter == 0 {
			return errors.New("a link that is 0 slower is as it was: give a delay such as 100ms")
		}
		return err
	}},
	"drop":    {"drop NODES PERCENT", part},
	"reorder": {"reorder NODES PERCENT", part},
	"throttle": {"throttle NODES BYTES-A-SECOND", func(a *Action, w []string) (err error) {
		if w, err = a.take(w); err != nil || len(w) != 1 {
			return or(err)
		}
		if a.Rate, err = strconv.ParseInt(w[0], 10, 64); err == nil && a.Rate <= 0 {
			return fmt.Errorf("%d bytes a second: want at least 1; to cut a link altogether there are isolate and partition", a.Rate)
		}
		return err
	}},
	"kill":  {"kill NODES", oneGroup},
	"pause": {"pause NODES", oneGroup},
	"disk": {"disk NODES slow DELAY|hang|eio|enospc [raft-log|raft-vote|ledger]", func(a *Action, w []string) (err error) {
		if w, err = a.take(w); err != nil || len(w) == 0 {
			return or(err)
		}
		a.Disk, w = w[0], w[1:]
		switch a.Disk {
		case "slow":
			if len(w) == 0 {
				return errWords
			}
			if a.Delay, err = time.ParseDuration(w[0]); err != nil {
				return err
			}
			if a.Delay <= 0 {
				return fmt.Errorf("a disk that is %v slower: want more than 0, such as 50ms", a.Delay)
			}
			w = w[1:]
		case "hang", "eio", "enospc":
		default:
			return fmt.Errorf("%q is none of slow, hang, eio, enospc", a.Disk)
		}
		switch len(w) {
		case 0:
			return nil
		case 1:
			a.Store = faults.Store(w[0])
			return nil
		}
		return errWords
	}},
	"clock": {"clock NODES OFFSET", func(a *Action, w []string) (err error) {
		if w, err = a.take(w); err != nil || len(w) != 1 {
			return or(err)
		}
		a.Offset, err = time.ParseDuration(w[0])
		return err
	}},
	"crash": {"crash NODES POINT [TIMES]", func(a *Action, w []string) (err error) {
		if w, err = a.take(w); err != nil || len(w) == 0 || len(w) > 2 {
			return or(err)
		}
		a.Point = faults.Point(w[0])
		if len(w) == 2 {
			a.After, err = strconv.Atoi(w[1])
		}
		return err
	}},
	"transfer": {"transfer [NODE]", func(a *Action, w []string) error {
		if len(w) == 0 {
			a.Groups = [][]string{{Follower}}
			return nil
		}
		return oneGroup(a, w)
	}},
	"join": {"join", func(_ *Action, w []string) error {
		if len(w) > 0 {
			return errWords
		}
		return nil
	}},
	"remove":  {"remove NODE", oneGroup},
	"leave":   {"leave NODE", oneGroup},
	"replace": {"replace NODE", oneGroup},
	"start":   {"start NODES", oneGroup},
	"heal": {"heal", func(_ *Action, w []string) error {
		if len(w) > 0 {
			return errWords
		}
		return nil
	}},
}

var (
	errWords    = errors.New("the words do not fit")
	errNoOthers = errors.New("there are no others that they would be cut from; every link is cut by a partition with each node as a group")
	errToItself = errors.New("what a node sends to itself goes over no link")
)

// byChance reports whether a selector means another node each time that it is resolved.
func byChance(selector string) bool { return selector == Any || selector == Follower }

// overlap returns an error where groups have a node in common: it would be cut from
// itself. Selectors that chance resolves are not, before they are resolved.
func overlap(groups [][]string, selectors bool) error {
	seen := make(map[string]int)
	for i, g := range groups {
		for _, name := range g {
			if selectors && byChance(name) {
				continue
			}
			if other, ok := seen[name]; ok && other != i {
				return fmt.Errorf("%s is in two groups, and can't be cut from itself", name)
			}
			seen[name] = i
			if selectors && name == All && len(groups) > 1 {
				return errNoOthers
			}
		}
	}
	return nil
}

func or(err error) error {
	if err == nil {
		err = errWords
	}
	return err
}

func oneGroup(a *Action, w []string) error {
	w, err := a.take(w)
	if err == nil && len(w) > 0 {
		err = errWords
	}
	return err
}

func twoGroups(a *Action, w []string) (err error) {
	if w, err = a.take(w); err != nil {
		return err
	}
	return oneGroup(a, w)
}

func part(a *Action, w []string) (err error) {
	if w, err = a.take(w); err != nil || len(w) != 1 {
		return or(err)
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(w[0], "%"), 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		return fmt.Errorf("%q is no percentage from 0 to 100", w[0])
	}
	a.Part = percent / 100
	return nil
}

// take takes the first word as a group.
func (a *Action) take(w []string) ([]string, error) {
	if len(w) == 0 {
		return nil, errWords
	}
	group := strings.Split(w[0], ",")
	if slices.Contains(group, "") {
		return nil, fmt.Errorf("%q names nobody between two commas", w[0])
	}
	a.Groups = append(a.Groups, group)
	return w[1:], nil
}

// ParseAction reads an action. Its error wraps ErrAction and says how it is written.
func ParseAction(words ...string) (Action, error) {
	words = strings.Fields(strings.Join(words, " "))
	if len(words) == 0 {
		return Action{}, fmt.Errorf("%w: nothing is said", ErrAction)
	}
	v, ok := verbs[words[0]]
	if !ok {
		return Action{}, fmt.Errorf("%w: %q is none of %s", ErrAction, words[0], strings.Join(Verbs(), ", "))
	}
	a := Action{Verb: words[0]}
	if err := v.parse(&a, words[1:]); err != nil {
		return Action{}, fmt.Errorf("%w: %q: %w; want: %s", ErrAction, strings.Join(words, " "), err, v.usage)
	}
	// What the faults themselves would refuse is refused here already.
	plan := faults.Plan{Links: map[string]faults.Link{"n": a.link()}, Disk: a.disk(), Crash: faults.Crash{Point: a.Point, After: a.After}}
	if err := plan.Validate(); err != nil {
		return Action{}, fmt.Errorf("%w: %q: %w; want: %s", ErrAction, strings.Join(words, " "), err, v.usage)
	}
	return a, nil
}

// Verbs are all verbs, sorted.
func Verbs() []string {
	var names []string
	for name := range verbs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Usage is how an action of a verb is written.
func Usage(name string) string { return verbs[name].usage }

// fits returns an error where an action can't be carried out on n nodes, n1 to nN, whoever
// its selectors turn out to be.
func (a *Action) fits(n int) error {
	least, why := 1, ""
	for _, selector := range slices.Concat(a.Groups...) {
		need := map[string]int{Follower: 2, Minority: 3}[selector]
		if need == 0 && !slices.Contains(selectors, selector) {
			digits, named := strings.CutPrefix(selector, "n")
			number, err := strconv.Atoi(digits)
			if !named || err != nil || number < 1 || strconv.Itoa(number) != digits {
				return fmt.Errorf("%q is neither a node, such as n1, nor one of %s", selector, strings.Join(selectors, ", "))
			}
			need = number
		}
		if need > least {
			least, why = need, "there is no "+selector
		}
	}
	if a.link() != (faults.Link{}) || a.Verb == "transfer" {
		if least < 2 {
			least, why = 2, a.Verb+" is between nodes"
		}
	}
	if n < least {
		return fmt.Errorf("%s: of %s %s", a, plural(n, "node", "nodes"), why)
	}
	return nil
}

// link is what the action does to each link that it concerns.
func (a *Action) link() faults.Link {
	switch a.Verb {
	case "partition", "isolate", "oneway":
		return faults.Link{Cut: true}
	case "slow":
		return faults.Link{Delay: faults.Duration(a.Delay), Jitter: faults.Duration(a.Jitter)}
	case "drop":
		return faults.Link{Drop: a.Part}
	case "reorder":
		return faults.Link{Reorder: a.Part}
	case "throttle":
		return faults.Link{Rate: a.Rate}
	}
	return faults.Link{}
}

// disk is what the action does to the disk of each node that it concerns.
func (a *Action) disk() faults.Disk {
	if a.Verb != "disk" {
		return faults.Disk{}
	}
	d := faults.Disk{}
	if a.Store != "" {
		d.Stores = []faults.Store{a.Store}
	}
	switch a.Disk {
	case "slow":
		d.Slow = faults.Duration(a.Delay)
	case "hang":
		d.Hang = true
	default:
		d.Error = strings.ToUpper(a.Disk)
	}
	return d
}

// String is the action in the words that ParseAction reads.
func (a Action) String() string {
	words := []string{a.Verb}
	for _, g := range a.Groups {
		words = append(words, strings.Join(g, ","))
	}
	switch a.Verb {
	case "slow":
		words = append(words, a.Delay.String())
		if a.Jitter > 0 {
			words = append(words, a.Jitter.String())
		}
	case "drop", "reorder":
		words = append(words, strconv.FormatFloat(100*a.Part, 'g', 6, 64)+"%")
	case "throttle":
		words = append(words, strconv.FormatInt(a.Rate, 10))
	case "disk":
		words = append(words, a.Disk)
		if a.Disk == "slow" {
			words = append(words, a.Delay.String())
		}
		if a.Store != "" {
			words = append(words, string(a.Store))
		}
	case "clock":
		words = append(words, a.Offset.String())
	case "crash":
		words = append(words, string(a.Point))
		if a.After > 0 {
			words = append(words, strconv.Itoa(a.After))
		}
	}
	return strings.Join(words, " ")
}
