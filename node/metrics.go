package node

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what the node counts itself; the server has more of them, from
// its status.
type metrics struct {
	snapshots     prometheus.Histogram
	snapshotBytes prometheus.Gauge
}

// newMetrics registers the node's metrics. The pipeline and catch-up count for
// themselves and are read when the metrics are.
func (n *Node) newMetrics() (*metrics, error) {
	m := &metrics{
		snapshots: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "exonode_snapshot_seconds",
			Help:    "Time to take a snapshot, from the request to the truncated log.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		snapshotBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "exonode_snapshot_bytes",
			Help: "Bytes of the newest snapshot that this node took.",
		}),
	}
	all := []prometheus.Collector{
		m.snapshots, m.snapshotBytes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	stats := n.pipeline.Stats()
	for _, c := range []struct {
		name, help string
		value      func() uint64
	}{
		{"exonode_catchup_fetched_entries_total", "Entries that were fetched from other nodes, since the process began.", n.catchup.Fetched},
		{"exonode_pipeline_commands_total", "Commands that this node proposed as leader.", load(&stats.Commands)},
		{"exonode_pipeline_events_total", "Events in these commands.", load(&stats.Events)},
		{"exonode_pipeline_forwards_total", "Groups of events that this node forwarded to a leader.", load(&stats.Forwards)},
		{"exonode_pipeline_barriers_total", "Barriers for reads that no command carried.", load(&stats.Barriers)},
		{"exonode_pipeline_retries_total", "Events that were sent again, since their attempt failed.", load(&stats.Retries)},
	} {
		all = append(all, prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: c.name, Help: c.help},
			func() float64 { return float64(c.value()) },
		))
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, n.registry.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

func load(c *atomic.Uint64) func() uint64 { return c.Load }

// snapshot counts one that was taken.
func (m *metrics) snapshot(took time.Duration, bytes int64) {
	m.snapshots.Observe(took.Seconds())
	m.snapshotBytes.Set(float64(bytes))
}
