package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exonode/exonode/api"
)

// metrics are the server's; their labels have a fixed, small set of values:
// routes, and the codes of package api.
type metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
	events   *prometheus.CounterVec
	// sealed and duplicate are children of events, looked up once.
	sealed, duplicate prometheus.Counter
}

const okCode = "ok"

func newMetrics(registry *prometheus.Registry, node Operator) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "exonode_api_requests_total",
			Help: "Requests that have been answered, by route and code.",
		}, []string{"route", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "exonode_api_request_seconds",
			Help:    "Time from a request's arrival to its answer, by route; streams excepted.",
			Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1, 2, 4, 8, 16, 32},
		}, []string{"route"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "exonode_api_streams",
			Help: "Streams that are open, by route.",
		}, []string{"route"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "exonode_api_events_total",
			Help: "Events that were submitted to this node's API, by what became of them: sealed, duplicate, or an error code.",
		}, []string{"result"}),
	}
	m.sealed = m.events.WithLabelValues("sealed")
	m.duplicate = m.events.WithLabelValues("duplicate")
	for _, c := range []prometheus.Collector{m.requests, m.latency, m.streams, m.events, newNodeCollector(node)} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// call is one request under way.
type call struct {
	metrics *metrics
	route   string
	start   time.Time
	stream  bool
}

func (m *metrics) begin(route string) call {
	return call{metrics: m, route: route, start: time.Now()}
}

func (m *metrics) beginStream(route string) call {
	m.streams.WithLabelValues(route).Inc()
	return call{metrics: m, route: route, stream: true}
}

// end counts the call and returns its error as Connect's.
func (c call) end(err error) error {
	code := okCode
	if err != nil {
		code = string(api.AsError(err).Code)
	}
	c.metrics.requests.WithLabelValues(c.route, code).Inc()
	if c.stream {
		c.metrics.streams.WithLabelValues(c.route).Dec()
	} else {
		c.metrics.latency.WithLabelValues(c.route).Observe(time.Since(c.start).Seconds())
	}
	return toConnect(err)
}

// acks counts what became of events.
func (m *metrics) acks(acks []Ack) {
	sealed, duplicate := 0, 0
	for i := range acks {
		switch {
		case acks[i].Err != nil:
			m.events.WithLabelValues(string(api.AsError(acks[i].Err).Code)).Inc()
		case acks[i].Duplicate:
			duplicate++
		default:
			sealed++
		}
	}
	m.sealed.Add(float64(sealed))
	m.duplicate.Add(float64(duplicate))
}

// route counts the requests of a route that is no RPC. Its code is the HTTP
// status.
func (m *metrics) route(pattern string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := m.begin(pattern)
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(sw, r)
		m.requests.WithLabelValues(c.route, strconv.Itoa(sw.status)).Inc()
		m.latency.WithLabelValues(c.route).Observe(time.Since(c.start).Seconds())
	})
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// scrapeTimeout bounds how long a scrape waits for the node's status.
const scrapeTimeout = 2 * time.Second

// nodeCollector reads the node's status when it is scraped.
type nodeCollector struct {
	node   Operator
	gauges []nodeGauge
	up     *prometheus.Desc
}

type nodeGauge struct {
	desc  *prometheus.Desc
	value func(Status) float64
}

func newNodeCollector(node Operator) *nodeCollector {
	gauge := func(name, help string, value func(Status) float64) nodeGauge {
		return nodeGauge{desc: prometheus.NewDesc(name, help, nil, nil), value: value}
	}
	return &nodeCollector{
		node: node,
		up:   prometheus.NewDesc("exonode_ready", "1 where the node serves.", nil, nil),
		gauges: []nodeGauge{
			gauge("exonode_chain_entries", "Entries of the chain that this node has.", func(s Status) float64 { return float64(s.Head.Size) }),
			gauge("exonode_chain_head_time_seconds", "Time of the newest entry, in Unix seconds.", func(s Status) float64 { return float64(s.Head.Time) / 1e9 }),
			gauge("exonode_chain_epoch", "Recoveries and restores of the chain.", func(s Status) float64 { return float64(s.Head.Epoch) }),
			gauge("exonode_raft_term", "Raft's term.", func(s Status) float64 { return float64(s.Term) }),
			gauge("exonode_raft_commit_index", "Raft's commit index, as this node knows it.", func(s Status) float64 { return float64(s.CommitIndex) }),
			gauge("exonode_raft_applied_index", "The last raft log entry that is applied.", func(s Status) float64 { return float64(s.AppliedIndex) }),
			gauge("exonode_raft_last_log_index", "The last entry of the raft log.", func(s Status) float64 { return float64(s.LastLogIndex) }),
			gauge("exonode_queue_length", "Events that wait to be committed.", func(s Status) float64 { return float64(s.QueueLength) }),
			gauge("exonode_is_leader", "1 where this node leads.", func(s Status) float64 { return flag(s.State == "Leader") }),
			gauge("exonode_has_leader", "1 where this node knows a leader.", func(s Status) float64 { return flag(s.Leader != "") }),
			gauge("exonode_members_voters", "Voters of the cluster.", func(s Status) float64 {
				n := 0
				for _, m := range s.Members {
					if m.Suffrage == "voter" {
						n++
					}
				}
				return float64(n)
			}),
			gauge("exonode_catchup_missing", "Entries that the node still has to fetch while it is catching up.", func(s Status) float64 {
				if s.CatchUp == nil || s.CatchUp.Want < s.CatchUp.Have {
					return 0
				}
				return float64(s.CatchUp.Want - s.CatchUp.Have)
			}),
		},
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	for _, g := range c.gauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector. A node that can't tell its status is
// not ready; its gauges are then absent rather than wrong.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, flag(c.node.Ready() == nil))
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	status, err := c.node.Status(ctx)
	if err != nil {
		return
	}
	for _, g := range c.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(status))
	}
}
