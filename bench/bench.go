package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/exonode/exonode/chaos/lab"
)

// Config says what to measure. It is not changed after Run began.
type Config struct {
	// Binary is the exonode that the nodes run; "" is the running program.
	Binary string
	// Addresses are the API addresses of a cluster that runs; none starts one
	// of Nodes processes. Its machine's limits and its processes are not
	// measured.
	Addresses []string
	// TLS is the configuration for https addresses; nil is the default.
	TLS *tls.Config
	// Nodes is how many processes to start; 3 where 0.
	Nodes int
	// Dir is where the cluster is made, in a directory of its own that is
	// removed; "" is the system's directory for temporary files. The limits
	// of the disk are measured there too.
	Dir string

	// Duration is how long a cell is measured, after a warm-up of a quarter
	// of it and a second at most.
	Duration time.Duration
	// Writers are the numbers of concurrent writers.
	Writers []int
	// Payload is the size of an event's payload in bytes.
	Payload int
	// Only names what to measure: a cell or a limit is where its name has
	// one of these in it. None is all.
	Only []string
	// ProfileDir, where not "", gets a CPU profile of every process for
	// every cell, and heap profiles at the end.
	ProfileDir string

	// Progress, where not nil, is told what is measured next.
	Progress func(done, total int, name string)
	// Row, where not nil, is told of each cell as soon as it is measured.
	Row func(Row)
}

// The smallest payload that is an event of the kinds used here.
const minPayload = 96

func (cfg *Config) setDefaults() error {
	switch {
	case len(cfg.Addresses) > 0:
		cfg.Nodes = len(cfg.Addresses)
	case cfg.Nodes == 0:
		cfg.Nodes = 3
	}
	if cfg.Binary == "" {
		var err error
		if cfg.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the exonode binary: %w", err)
		}
	}
	switch {
	case cfg.Duration <= 0:
		return fmt.Errorf("a cell of %v measures nothing", cfg.Duration)
	case cfg.Payload < minPayload || cfg.Payload > 1<<20:
		return fmt.Errorf("payload of %d bytes: choose %d to %d", cfg.Payload, minPayload, 1<<20)
	case len(cfg.Writers) == 0:
		return errors.New("no number of writers")
	}
	for _, n := range cfg.Writers {
		if n < 1 || n > 100_000 {
			return fmt.Errorf("%d writers: choose 1 to 100,000", n)
		}
	}
	return nil
}

// wanted reports whether a name was asked for.
func (cfg *Config) wanted(name string) bool {
	for _, part := range cfg.Only {
		if strings.Contains(name, part) {
			return true
		}
	}
	return len(cfg.Only) == 0
}

// Report is what a run found.
type Report struct {
	Machine Machine `json:"machine"`
	Config  struct {
		Nodes    int     `json:"nodes"`
		Payload  int     `json:"payload_bytes"`
		Duration float64 `json:"seconds_per_cell"`
	} `json:"config"`
	Limits    []Limit       `json:"limits,omitempty"`
	Rows      []Row         `json:"cells"`
	Processes []ProcessUse  `json:"processes,omitempty"`
	Check     *Check        `json:"check,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Took      time.Duration `json:"took_ns"`
}

// Machine is where a run took place.
type Machine struct {
	CPUs       int    `json:"cpus"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	FileSystem string `json:"file_system,omitempty"`
	// LoadBefore and LoadAfter are the load averages of a minute, as the
	// system tells them.
	LoadBefore string `json:"load_before,omitempty"`
	LoadAfter  string `json:"load_after,omitempty"`
}

// Run measures. The report is as far as it came where there is an error; a
// *LostError says that the cluster did not keep what it acknowledged.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	started := time.Now()
	r := &Report{Machine: Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH}}
	r.Machine.LoadBefore = loadAverage()
	r.Config.Nodes, r.Config.Payload, r.Config.Duration = cfg.Nodes, cfg.Payload, cfg.Duration.Seconds()
	b := &bench{cfg: cfg, report: r}
	err := b.run(ctx)
	r.Machine.LoadAfter = loadAverage()
	r.Took = time.Since(started)
	return r, err
}

// bench is one run under way.
type bench struct {
	cfg    Config
	report *Report

	addrs []string // the leader's first
	lab   *lab.Lab // nil for a cluster that runs already
	procs []*process
	acked *acked
	total int
	done  int
	// pprof are the profiling addresses of nodes by name.
	pprof map[string]string
}

func (b *bench) run(ctx context.Context) (err error) {
	limits, cells := b.limits(), b.cells()
	if len(limits)+len(cells) == 0 {
		return fmt.Errorf("nothing has %s in its name", strings.Join(b.cfg.Only, " or "))
	}
	b.total = len(limits) + len(cells)
	if len(b.cfg.Addresses) > 0 {
		b.addrs = b.cfg.Addresses
		return b.measure(ctx, cells)
	}
	dir, err := os.MkdirTemp(b.cfg.Dir, "exonode-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.report.Machine.FileSystem = fileSystem(dir)
	if b.report.Machine.FileSystem == "tmpfs" {
		b.warn("%s is in memory: nothing is synced to a disk; choose another with --dir", dir)
	}
	if err := b.measureLimits(ctx, dir, limits); err != nil || len(cells) == 0 {
		return err
	}
	if err := b.start(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	return b.measure(ctx, cells)
}

// formTimeout bounds the start of the cluster.
const formTimeout = time.Minute

// start runs a cluster.
func (b *bench) start(ctx context.Context, dir string) (err error) {
	cfg := lab.Config{Binary: b.cfg.Binary, Nodes: b.cfg.Nodes, Dir: dir, Environment: "production"}
	if b.cfg.ProfileDir != "" {
		cfg.NodeArgs = b.pprofArgs
	}
	if b.lab, err = lab.New(ctx, cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	if err := b.lab.StartAll(ctx); err != nil {
		return errors.Join(err, b.lab.Close())
	}
	b.addrs = b.lab.Addrs()
	for _, n := range b.lab.Nodes() {
		pid, err := b.lab.PID(n.Name)
		if err != nil {
			return errors.Join(err, b.lab.Close())
		}
		b.procs = append(b.procs, newProcess(n.Name, n.API, pid))
	}
	b.procs = append(b.procs, newProcess("bench", "", os.Getpid()))
	return nil
}

func (b *bench) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.report.Warnings, text) {
		b.report.Warnings = append(b.report.Warnings, text)
	}
}

func (b *bench) next(name string) {
	if b.cfg.Progress != nil {
		b.cfg.Progress(b.done, b.total, name)
	}
	b.done++
}
