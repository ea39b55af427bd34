package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/exonode/exonode/client"
)

// Row is what a cell measured.
type Row struct {
	Cell
	Name      string  `json:"name"`
	Events    int64   `json:"events"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"events_per_second"`
	P50       Millis  `json:"p50_ms"`
	P99       Millis  `json:"p99_ms"`
	Max       Millis  `json:"max_ms"`
	// CPU is the processor time of an event in microseconds: of the leader,
	// of the other nodes together, and of this process, which is the
	// clients. It is absent where the processes are not ours.
	CPU *CPU `json:"cpu_us_per_event,omitempty"`
}

// CPU is processor time by who used it.
type CPU struct {
	Leader    float64 `json:"leader"`
	Followers float64 `json:"followers"`
	Clients   float64 `json:"clients"`
}

// Millis is a duration that JSON has in milliseconds.
type Millis time.Duration

// MarshalJSON implements json.Marshaler.
func (m Millis) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.3f", float64(m)/float64(time.Millisecond)), nil
}

// measure runs the cells and then checks what the cluster kept.
func (b *bench) measure(ctx context.Context, cells []Cell) error {
	run := ulid.Make().String()
	b.acked = newAcked("urn:exonode:bench:" + run)
	admin, err := client.New(client.Config{Addresses: b.addrs, TLS: b.cfg.TLS, Workspace: workspace, Source: b.acked.source})
	if err != nil {
		return err
	}
	defer admin.Close()
	for i, c := range cells {
		if err := b.leaderFirst(ctx, admin); err != nil {
			return err
		}
		b.next(c.Name())
		row, err := b.cell(ctx, c, fmt.Sprintf("%02d-", i))
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		leader := b.addrs[0]
		if err := b.leaderFirst(ctx, admin); err != nil {
			return err
		}
		if b.addrs[0] != leader {
			b.warn("%s: the leader changed from %s to %s meanwhile", c.Name(), leader, b.addrs[0])
		}
		b.report.Rows = append(b.report.Rows, row)
		if b.cfg.Row != nil {
			b.cfg.Row(row)
		}
	}
	for _, p := range b.procs {
		b.report.Processes = append(b.report.Processes, p.use(b.addrs[0]))
	}
	return errors.Join(b.heapProfiles(ctx), b.check(ctx, admin))
}

// leaderEvery is how often the nodes are asked who leads, while none does.
const leaderEvery = 100 * time.Millisecond

// leaderFirst puts the address of the node that leads first.
func (b *bench) leaderFirst(ctx context.Context, admin *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	for {
		for i, addr := range b.addrs {
			r, err := admin.On(addr)
			if err != nil {
				return err
			}
			s, err := r.Status(ctx)
			if err != nil {
				return fmt.Errorf("ask %s whether it leads: %w", addr, err)
			}
			if s.State == "Leader" {
				addrs := slices.Clone(b.addrs)
				b.addrs = slices.Insert(slices.Delete(addrs, i, i+1), 0, addr)
				return nil
			}
		}
		if len(b.cfg.Addresses) > 0 {
			b.warn("no address is the leader's; cells for the leader go to %s", b.addrs[0])
			return nil
		}
		if err := pause(ctx, leaderEvery); err != nil {
			return fmt.Errorf("no node leads: %w", err)
		}
	}
}

// cell measures one cell.
func (b *bench) cell(ctx context.Context, c Cell, prefix string) (row Row, err error) {
	l := &load{
		cell: c, prefix: prefix, lat: newLatencies(), acked: b.acked, some: make(chan struct{}),
		ev: event{source: b.acked.source, kind: c.kind(), payload: payload(c.Gated, b.cfg.Payload)},
	}
	ctx, l.fail = context.WithCancel(ctx)
	defer l.fail()
	wait, err := b.startLoad(ctx, l)
	if err != nil {
		return row, err
	}
	joined := false
	stop := func() error {
		if joined {
			return nil
		}
		joined = true
		l.stop.Store(true)
		return wait()
	}
	// What a writer failed with says more than that it ended ctx.
	defer func() {
		if serr := stop(); serr != nil {
			err = serr
		}
	}()
	if err := pause(ctx, min(b.cfg.Duration/4, time.Second)); err != nil {
		return row, err
	}
	profiles := b.startProfiles(ctx, c)
	defer func() { err = errors.Join(err, profiles()) }()
	before := b.sample()
	started := time.Now()
	l.measuring.Store(true)
	if err := pause(ctx, b.cfg.Duration); err != nil {
		return row, err
	}
	select { // a cell that is too short for one event takes longer
	case <-l.some:
	case <-ctx.Done():
		return row, ctx.Err()
	}
	l.measuring.Store(false)
	events, elapsed, after := l.counted.Load(), time.Since(started), b.sample()
	err = stop()
	row = Row{
		Cell: c, Name: c.Name(), Events: events, Seconds: elapsed.Seconds(), PerSecond: float64(events) / elapsed.Seconds(),
		P50: Millis(l.lat.quantile(50)), P99: Millis(l.lat.quantile(99)), Max: Millis(l.lat.quantile(100)),
	}
	if len(b.procs) > 0 {
		row.CPU = b.cpu(before, after, events)
	}
	return row, err
}

// sample is the processor time that each process used so far.
func (b *bench) sample() []time.Duration {
	out := make([]time.Duration, len(b.procs))
	for i, p := range b.procs {
		out[i] = p.cpu()
	}
	return out
}

func (b *bench) cpu(before, after []time.Duration, events int64) *CPU {
	cpu := new(CPU)
	for i, p := range b.procs {
		each := float64((after[i] - before[i]).Microseconds()) / float64(events)
		switch p.api {
		case "":
			cpu.Clients += each
		case b.addrs[0]:
			cpu.Leader += each
		default:
			cpu.Followers += each
		}
	}
	return cpu
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
