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
	// At is when it comes first, since the faults began.
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
	// Faults are the kinds that it chooses from; none is all of FaultKinds.
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

// Validate names the first field that can't be carried out.
func (s *Scenario) Validate() error {
	if s.Nodes < 1 || s.Nodes > 9 {
		return fmt.Errorf("%w: nodes is %d, want 1 to 9", ErrScenario, s.Nodes)
	}
	if s.Length <= 0 {
		return fmt.Errorf("%w: length is %v, want more than 0", ErrScenario, s.Length)
	}
	for i, st := range s.Steps {
		if st.At < 0 || st.Every < 0 || st.For < 0 {
			return fmt.Errorf("%w: steps[%d]: at, every and for are at least 0", ErrScenario, i)
		}
		if st.Every > 0 && st.Every < 100*time.Millisecond {
			return fmt.Errorf("%w: steps[%d].every is %v, want at least 100ms", ErrScenario, i, st.Every)
		}
		if _, err := ParseAction(st.Do); err != nil {
			return fmt.Errorf("%w: steps[%d].do: %w", ErrScenario, i, err)
		}
	}
	if r := s.Random; r != nil {
		if r.Every < 100*time.Millisecond || r.For < 0 {
			return fmt.Errorf("%w: random.every is %v and random.for %v, want at least 100ms and 0", ErrScenario, r.Every, r.For)
		}
		for _, f := range r.Faults {
			if _, ok := faultKinds[f]; !ok {
				return fmt.Errorf("%w: random.faults: %q is none of %s", ErrScenario, f, strings.Join(FaultKinds(), ", "))
			}
		}
	}
	for _, b := range append(slices.Collect(maps.Values(s.Limits.ByKind)), s.Limits.Overall, s.Limits.Fault) {
		if b.Rate < 0 || b.Silence < 0 {
			return fmt.Errorf("%w: limits: rate and silence are at least 0", ErrScenario)
		}
	}
	return s.Workload.validate()
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
		random, err := s.Random.schedule(rand.New(rand.NewPCG(seed, 2)), s.Length)
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
func (r *Random) schedule(rng *rand.Rand, length time.Duration) ([]Planned, error) {
	kinds := slices.Clone(r.Faults)
	if len(kinds) == 0 {
		kinds = FaultKinds()
	}
	around := func(d time.Duration) time.Duration { return d/2 + time.Duration(rng.Float64()*float64(d)) }
	var plan []Planned
	var deck []string
	for at := around(r.Every); at < length; at += around(r.Every) {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		text := faultKinds[deck[0]](rng)
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

// faultKinds draw an action of a kind.
var faultKinds = map[string]func(*rand.Rand) string{
	"partition": func(r *rand.Rand) string {
		return one(r, "partition minority majority", "partition minority majority", "isolate leader", "isolate any")
	},
	"oneway": func(r *rand.Rand) string {
		return one(r, "oneway leader all", "oneway any all", "oneway follower leader", "oneway leader follower")
	},
	"slow": func(r *rand.Rand) string {
		return fmt.Sprintf("slow %s %dms %dms", one(r, "any", "leader", "all"), 5+r.IntN(200), 1+r.IntN(100))
	},
	"drop": func(r *rand.Rand) string {
		return fmt.Sprintf("drop %s %d%%", one(r, "any", "leader", "all"), 1+r.IntN(20))
	},
	"reorder": func(r *rand.Rand) string { return fmt.Sprintf("reorder all %d%%", 5+r.IntN(60)) },
	"throttle": func(r *rand.Rand) string {
		return fmt.Sprintf("throttle %s %d", one(r, "any", "leader"), 20_000+r.IntN(500_000))
	},
	"kill":  func(r *rand.Rand) string { return "kill " + one(r, "leader", "leader", "any", "minority", "all") },
	"pause": func(r *rand.Rand) string { return "pause " + one(r, "leader", "leader", "any", "minority") },
	"disk": func(r *rand.Rand) string {
		store := one(r, "", " raft-log", " ledger", " raft-vote")
		what := one(r, fmt.Sprintf("slow %dms", 1+r.IntN(60)), "hang", "eio", "enospc")
		return "disk " + one(r, "leader", "any") + " " + what + store
	},
	"clock": func(r *rand.Rand) string {
		return fmt.Sprintf("clock %s %v", one(r, "leader", "any", "minority"), time.Duration(r.IntN(7200)-3600)*time.Second)
	},
	"crash": func(r *rand.Rand) string {
		points := []string{"before-append", "mid-append", "after-append", "before-vote", "after-vote", "before-apply", "after-apply", "before-snapshot", "after-snapshot"}
		return fmt.Sprintf("crash %s %s %d", one(r, "leader", "any"), one(r, points...), r.IntN(20))
	},
	"transfer": func(*rand.Rand) string { return "transfer follower" },
	"members":  func(r *rand.Rand) string { return "replace " + one(r, "leader", "follower", "any") },
}

func one(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }
