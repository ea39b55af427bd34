package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/exonode/exonode/bench/limits"
)

// Limit is what this machine could do at most.
type Limit struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"per_second"`
	// Bytes are those of one sync, or of one event.
	Bytes int    `json:"bytes"`
	P50   Millis `json:"p50_ms"`
	P99   Millis `json:"p99_ms"`
	Max   Millis `json:"max_ms"`
}

// limit is one to be measured.
type limit struct {
	name   string
	bytes  int
	disk   bool
	caller int
	group  bool
}

// limits are those to be measured, in order.
func (b *bench) limits() []limit {
	if len(b.cfg.Addresses) > 0 {
		return nil
	}
	var all []limit
	add := func(l limit) {
		if b.cfg.wanted(l.name) {
			all = append(all, l)
		}
	}
	for _, block := range []int{4 << 10, 128 << 10} {
		add(limit{name: fmt.Sprintf("limit=fdatasync/block=%dKiB", block>>10), bytes: block, disk: true})
	}
	for _, group := range []bool{false, true} {
		for _, n := range b.cfg.Writers {
			add(limit{name: fmt.Sprintf("limit=raft/group-commit=%t/writers=%d", group, n), bytes: b.cfg.Payload, caller: n, group: group})
		}
	}
	return all
}

// measureLimits measures in a directory that is on the cluster's disk.
func (b *bench) measureLimits(ctx context.Context, dir string, all []limit) (err error) {
	var r *limits.Raft
	raftDir := filepath.Join(dir, "raft-alone")
	defer func() {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
		err = errors.Join(err, os.RemoveAll(raftDir))
	}()
	for _, l := range all {
		b.next(l.name)
		var res limits.Result
		switch {
		case l.disk:
			res, err = limits.Sync(ctx, dir, l.bytes, min(b.cfg.Duration, 3*time.Second))
		default:
			if r == nil {
				if r, err = limits.NewRaft(raftDir, b.cfg.Nodes); err != nil {
					return err
				}
			}
			res, err = r.Measure(ctx, l.caller, l.bytes, l.group, min(b.cfg.Duration, 3*time.Second))
		}
		if err != nil {
			return err
		}
		b.report.Limits = append(b.report.Limits, Limit{
			Name: l.name, Bytes: l.bytes, PerSecond: res.PerSecond, P50: Millis(res.P50), P99: Millis(res.P99), Max: Millis(res.Max),
		})
	}
	return nil
}
