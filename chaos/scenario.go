package chaos

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/faults"
)

// ErrScenario is wrapped where a scenario can't be read: its text names the field.
var ErrScenario = errors.New("scenario")

// Scenario is what a run does, as a file says it.
type Scenario struct {
	// Title says in a line what is tried.
	Title string `yaml:"title"`
	// About says more, for people.
	About string `yaml:"about"`
	// Nodes is how many there are, and Length how long faults come, if nobody
	// says otherwise: 5 and a minute where they are zero.
	Nodes  int           `yaml:"nodes"`
	Length time.Duration `yaml:"length"`
	// Args are further arguments of every `exonode serve`.
	Args []string `yaml:"args"`
	// Workload is what clients do meanwhile.
	Workload Workload `yaml:"workload"`
	// Steps are faults at their times, Random ones that the seed chooses.
	Steps  []Step  `yaml:"steps"`
	Random *Random `yaml:"random"`
	// Limits are what progress is held against.
	Limits check.Limits `yaml:"limits"`
}

// Step is a fault at a time, once or again and again.
type Step struct {
	// At is when it comes first, since the faults began, which is a few seconds after
	// the load; less than the scenario's length.
	At time.Duration `yaml:"at"`
	// Every repeats it until the end; 0 does not.
	Every time.Duration `yaml:"every"`
	// Do is the action, as ParseAction reads it.
	Do string `yaml:"do"`
	// For is after what time it is mended; 0 leaves it as it is until the end.
	For time.Duration `yaml:"for"`
}

// Random is a schedule that the seed chooses.
type Random struct {
	// Faults are the kinds that it chooses from; none is all of FaultKinds that there
	// can be with the scenario's nodes.
	Faults []string `yaml:"faults"`
	// Every is the mean time between two faults, and For the mean time before
	// one is mended: 6 s and 4 s where they are zero.
	Every time.Duration `yaml:"every"`
	For   time.Duration `yaml:"for"`
}

// Defaults of a scenario.
const (
	defaultNodes  = 5
	defaultLength = time.Minute
	defaultEvery  = 6 * time.Second
	defaultFor    = 4 * time.Second
)

// MaxNodes is how many nodes a scenario begins with at most.
const MaxNodes = 9

//go:embed scenarios/*.yaml
var builtIn embed.FS

// Scenarios are the built-in ones, by name.
func Scenarios() ([]string, error) {
	entries, err := fs.ReadDir(builtIn, "scenarios")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names, nil
}

// LoadScenario reads a built-in scenario by its name, or else a file.
func LoadScenario(name string) (*Scenario, error) {
	b, err := builtIn.ReadFile(path.Join("scenarios", name+".yaml"))
	if err != nil {
		if b, err = os.ReadFile(name); err != nil {
			names, nerr := Scenarios()
			if nerr != nil {
				return nil, nerr
			}
			return nil, fmt.Errorf("%w: %q is neither a file (%w) nor one of %s", ErrScenario, name, err, strings.Join(names, ", "))
		}
	}
	s, err := ParseScenario(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// ParseScenario reads a scenario in YAML, and checks it.
func ParseScenario(b []byte) (*Scenario, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	s := new(Scenario)
	if err := d.Decode(s); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrScenario, err)
	}
	if s.Nodes == 0 {
		s.Nodes = defaultNodes
	}
	if s.Length == 0 {
		s.Length = defaultLength
	}
	if r := s.Random; r != nil {
		if r.Every == 0 {
			r.Every = defaultEvery
		}
		if r.For == 0 {
			r.For = defaultFor
		}
	}
	return s, s.Validate()
}

// SetLength has faults come for another time, and drops the steps that begin after it. It
// returns how many those are.
func (s *Scenario) SetLength(length time.Duration) (dropped int) {
	before := len(s.Steps)
	s.Length = length
	s.Steps = slices.DeleteFunc(slices.Clone(s.Steps), func(st Step) bool { return st.At >= length })
	return before - len(s.Steps)
}

// SetFaults has faults of some kinds come by chance, instead of those that it says.
func (s *Scenario) SetFaults(kinds []string) {
	r := Random{Every: defaultEvery, For: defaultFor}
	if s.Random != nil {
		r = *s.Random
	}
	r.Faults = kinds
	s.Random = &r
}

// Faults is how many faults come by a seed: none where the length is too short for any.
func (s *Scenario) Faults(seed uint64) (int, error) {
	plan, err := s.Schedule(seed)
	return countFaults(plan), err
}

// Breaks reports whether the scenario has faults.
func (s *Scenario) Breaks() bool { return len(s.Steps) > 0 || s.Random != nil }

// Validate names the first field that can't be carried out.
func (s *Scenario) Validate() error {
	if s.Nodes < 1 || s.Nodes > MaxNodes {
		return fmt.Errorf("%w: nodes is %d, want 1 to %d", ErrScenario, s.Nodes, MaxNodes)
	}
	if s.Length <= 0 {
		return fmt.Errorf("%w: length is %v, want more than 0", ErrScenario, s.Length)
	}
	for i, st := range s.Steps {
		if err := s.validateStep(&st); err != nil {
			return fmt.Errorf("%w: steps[%d]%w", ErrScenario, i, err)
		}
	}
	if r := s.Random; r != nil {
		if r.Every < 100*time.Millisecond || r.For < 0 {
			return fmt.Errorf("%w: random.every is %v and random.for %v, want at least 100ms and 0", ErrScenario, r.Every, r.For)
		}
		for _, f := range r.Faults {
			kind, ok := faultKinds[f]
			if !ok {
				return fmt.Errorf("%w: random.faults: %q is none of %s", ErrScenario, f, strings.Join(FaultKinds(), ", "))
			}
			if s.Nodes < kind.nodes {
				return fmt.Errorf("%w: random.faults: with %s there is no %s, which takes at least %d", ErrScenario, plural(s.Nodes, "node", "nodes"), f, kind.nodes)
			}
		}
	}
	if err := validateLimits(&s.Limits); err != nil {
		return fmt.Errorf("%w: limits%w", ErrScenario, err)
	}
	return s.Workload.validate()
}

// validateStep begins its errors with the field.
func (s *Scenario) validateStep(st *Step) error {
	if st.At < 0 || st.Every < 0 || st.For < 0 {
		return errors.New(": at, every and for are at least 0")
	}
	if st.At >= s.Length {
		return fmt.Errorf(".at is %v, which never comes: length is %v", st.At, s.Length)
	}
	if st.Every > 0 && st.Every < 100*time.Millisecond {
		return fmt.Errorf(".every is %v, want at least 100ms", st.Every)
	}
	a, err := ParseAction(st.Do)
	if err != nil {
		return fmt.Errorf(".do: %w", err)
	}
	// It is tried again and again, and may fit once others have joined.
	last := st.At
	if st.Every > 0 {
		last += (s.Length - st.At - 1) / st.Every * st.Every
	}
	if err := a.fits(s.nodesBy(last)); err != nil {
		return fmt.Errorf(".do: %w", err)
	}
	return nil
}

// nodesBy is how many nodes there may have been by a time, at most: those that join are
// named after those that there are.
func (s *Scenario) nodesBy(at time.Duration) int {
	n := s.Nodes
	for _, st := range s.Steps {
		a, err := ParseAction(st.Do)
		if err != nil || a.Verb != "join" && a.Verb != "replace" || st.At >= at {
			continue
		}
		n++
		if st.Every > 0 {
			n += int((at - st.At - 1) / st.Every)
		}
	}
	if r := s.Random; r != nil && (len(r.Faults) == 0 || slices.Contains(r.Faults, "members")) && r.Every > 0 {
		n += int(2 * at / r.Every) // they are half of the mean apart, at least
	}
	return n
}

// validateLimits begins its errors with the field.
func validateLimits(l *check.Limits) error {
	for kind, n := range l.Least {
		if !slices.Contains(history.Kinds(), kind) {
			return fmt.Errorf(".least: %q is none of %s", kind, list(history.Kinds()))
		}
		if n < 0 {
			return fmt.Errorf(".least: %s is %d, want at least 0", kind, n)
		}
	}
	for kind := range l.ByKind {
		if !slices.Contains(recordedKinds(), kind) {
			return fmt.Errorf(".by_kind: %q is none of %s", kind, strings.Join(recordedKinds(), ", "))
		}
	}
	if l.Replicas < 0 {
		return fmt.Errorf(".replicas is %d, want at least 0", l.Replicas)
	}
	for _, b := range append(slices.Collect(maps.Values(l.ByKind)), l.Overall, l.Fault) {
		if b.Rate < 0 || b.Silence < 0 {
			return errors.New(": rate and silence are at least 0")
		}
	}
	return nil
}

func list(kinds []history.Kind) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

// recordedKinds are the kinds of what a run records as a fault, or the end of one, and of
// the time before the first, sorted.
func recordedKinds() []string {
	kinds := slices.DeleteFunc(Verbs(), changesMembers)
	kinds = append(kinds, "members", "restart", check.Calm)
	slices.Sort(kinds)
	return kinds
}

// Planned is one action of a schedule.
type Planned struct {
	At  time.Duration
	For time.Duration // 0 is until the end
	Action
}

// Schedule is what a seed makes of a scenario, in the order of the times. Whom
// selectors mean is not known before the actions are carried out; all else is.
func (s *Scenario) Schedule(seed uint64) ([]Planned, error) {
	var plan []Planned
	for _, st := range s.Steps {
		a, err := ParseAction(st.Do)
		if err != nil {
			return nil, err
		}
		for at := st.At; at < s.Length; at += st.Every {
			plan = append(plan, Planned{At: at, For: st.For, Action: a})
			if st.Every == 0 {
				break
			}
		}
	}
	if s.Random != nil {
		random, err := s.Random.schedule(rand.New(rand.NewPCG(seed, 2)), s.Length, s.Nodes)
		if err != nil {
			return nil, err
		}
		plan = append(plan, random...)
	}
	slices.SortStableFunc(plan, func(a, b Planned) int { return int(a.At - b.At) })
	return plan, nil
}

// schedule draws faults of each kind in turn, so that none is missing from a run that
// is long enough.
func (r *Random) schedule(rng *rand.Rand, length time.Duration, nodes int) ([]Planned, error) {
	kinds := slices.Clone(r.Faults)
	if len(kinds) == 0 {
		kinds = slices.DeleteFunc(FaultKinds(), func(name string) bool { return nodes < faultKinds[name].nodes })
	}
	d := draw{rng, nodes}
	around := func(d time.Duration) time.Duration { return d/2 + time.Duration(rng.Float64()*float64(d)) }
	var plan []Planned
	var deck []string
	for at := around(r.Every); at < length; at += around(r.Every) {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		text := faultKinds[deck[0]].draw(d)
		deck = deck[1:]
		a, err := ParseAction(text)
		if err != nil {
			return nil, err
		}
		plan = append(plan, Planned{At: at, For: around(r.For), Action: a})
	}
	return plan, nil
}

// FaultKinds are the kinds of faults that --faults and random.faults name, sorted.
func FaultKinds() []string {
	var names []string
	for name := range faultKinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// faultKind is a kind of faults that come by chance.
type faultKind struct {
	nodes int // it takes at least
	draw  func(draw) string
}

// draw is what faults are drawn from: chance, and how many nodes there are.
type draw struct {
	*rand.Rand
	nodes int
}

// faultKinds draw an action of a kind.
var faultKinds = map[string]faultKind{
	"partition": {2, func(d draw) string {
		return d.one("partition minority majority", "partition minority majority", "isolate leader", "isolate any")
	}},
	"oneway": {2, func(d draw) string {
		return d.one("oneway leader all", "oneway any all", "oneway follower leader", "oneway leader follower")
	}},
	"slow": {2, func(d draw) string {
		return fmt.Sprintf("slow %s %dms %dms", d.one("any", "leader", "all"), 5+d.IntN(200), 1+d.IntN(100))
	}},
	"drop": {2, func(d draw) string {
		return fmt.Sprintf("drop %s %d%%", d.one("any", "leader", "all"), 1+d.IntN(20))
	}},
	"reorder": {2, func(d draw) string { return fmt.Sprintf("reorder all %d%%", 5+d.IntN(60)) }},
	"throttle": {2, func(d draw) string {
		return fmt.Sprintf("throttle %s %d", d.one("any", "leader"), 20_000+d.IntN(500_000))
	}},
	"kill":  {1, func(d draw) string { return "kill " + d.one("leader", "leader", "any", "minority", "all") }},
	"pause": {1, func(d draw) string { return "pause " + d.one("leader", "leader", "any", "minority") }},
	"disk": {1, func(d draw) string {
		store := d.one("", " raft-log", " ledger", " raft-vote")
		what := d.one(fmt.Sprintf("slow %dms", 1+d.IntN(60)), "hang", "eio", "enospc")
		return "disk " + d.one("leader", "any") + " " + what + store
	}},
	"clock": {1, func(d draw) string {
		return fmt.Sprintf("clock %s %v", d.one("leader", "any", "minority"), time.Duration(d.IntN(7200)-3600)*time.Second)
	}},
	"crash": {1, func(d draw) string {
		var points []string
		for _, p := range faults.Points() {
			points = append(points, string(p))
		}
		return fmt.Sprintf("crash %s %s %d", d.one("leader", "any"), d.one(points...), d.IntN(20))
	}},
	"transfer": {2, func(draw) string { return "transfer follower" }},
	"members":  {1, func(d draw) string { return "replace " + d.one("leader", "follower", "any") }},
}

// one draws one of some, but for those that so few nodes don't have.
func (d draw) one(of ...string) string {
	of = slices.DeleteFunc(of, func(text string) bool {
		return d.nodes < 3 && strings.Contains(text, Minority) || d.nodes < 2 && strings.Contains(text, Follower)
	})
	return of[d.IntN(len(of))]
}
