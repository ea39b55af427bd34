package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/checkpoints"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/node/raftstore"
)

// serveFlags are the flags of serve, as they come.
type serveFlags struct {
	data, cluster, name            string
	peer, gossip, advertise, api   string
	seeds                          []string
	mdns                           bool
	expect                         int
	tlsCert, tlsKey                string
	insecure                       bool
	logBackend, timing             string
	writeTimeout                   time.Duration
	snapshotBytes, snapshotEntries uint64
	checkpoints                    time.Duration
	mldsa                          bool
	witnesses, witnessLogs         string
	witnessName                    string
	queueEvents, queueBytes        int
	maxPayload                     int
	logLevel, logFormat            string
	exitWithStdin                  bool
	pprof, chaos, chaosPlan        string
}

// untilEOF returns a context that also ends when r does. A supervisor holds the
// other end: however it dies, its nodes stop.
func untilEOF(ctx context.Context, r io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long: `Run one node of a cluster until it is interrupted.

A node with an empty data directory forms a new cluster with the others where
--bootstrap-expect says how many there are, and joins a running one otherwise.
Nodes find each other by --seeds and by --mdns. A node that has data goes on
from it.`,
		Example: `  exonode serve --cluster cluster.json --data /var/lib/exonode --bootstrap-expect 3 --mdns
  exonode serve --cluster cluster.json --data /var/lib/exonode --seeds nodes.example.org:7480`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(a.stderr, f.logLevel, f.logFormat)
			if err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			cfg, err := f.config(logger)
			if err != nil {
				return err
			}
			cfg.Sources = sources(cmd, a.configFile)
			cfg.Chaos = f.chaos != ""
			n, err := boot(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			logger.Info("serving", "api", n.APIAddr(), "node", n.NodeID())
			ctx := cmd.Context()
			if f.exitWithStdin {
				ctx = untilEOF(ctx, a.stdin)
			}
			wait, err := servePprof(ctx, f.pprof, logger)
			if err != nil {
				return err
			}
			defer wait()
			waitFaults, err := serveFaults(ctx, f.chaos, f.chaosPlan, n.Faults(), logger)
			if err != nil {
				return err
			}
			defer waitFaults()
			return n.Run(ctx)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *serveFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", "", "data `directory`; it is made where missing")
	flags.StringVar(&f.cluster, "cluster", "cluster.json", "cluster `file`, from exonode init")
	flags.StringVar(&f.name, "name", "", "the node's `name`, for people (default: the host's)")
	flags.StringVar(&f.peer, "peer-listen", "0.0.0.0:7480", "`address` for other nodes, TCP")
	flags.StringVar(&f.gossip, "gossip-listen", "0.0.0.0:7481", "`address` for gossip, TCP and UDP")
	flags.StringVar(&f.advertise, "advertise", "", "`host` that other nodes reach this one by")
	flags.StringVar(&f.api, "api-listen", "127.0.0.1:7482", "`address` for clients")
	flags.StringSliceVar(&f.seeds, "seeds", nil, "`addresses` or DNS names of other nodes, separated by commas")
	flags.BoolVar(&f.mdns, "mdns", false, "find other nodes by multicast DNS")
	flags.IntVar(&f.expect, "bootstrap-expect", 0, "form a new cluster once this many nodes have found each other; 0 only joins")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate `file` (PEM) for the API")
	flags.StringVar(&f.tlsKey, "tls-key", "", "key `file` (PEM) for the API")
	flags.BoolVar(&f.insecure, "api-insecure", false, "serve the API without TLS beyond loopback: anybody there can read and submit")
	flags.StringVar(&f.logBackend, "raft-log", "", "store of raft's log, wal or boltdb; a data directory keeps the one it was made with (default: that, or wal)")
	flags.StringVar(&f.timing, "timing", "lan", "raft's patience: lan, or loopback for nodes of one machine")
	flags.DurationVar(&f.writeTimeout, "write-timeout", 10*time.Second, "deadline of one write of raft's log; the process ends after it")
	flags.Uint64Var(&f.snapshotBytes, "snapshot-bytes", 64<<20, "bytes of raft log after which a snapshot is taken")
	flags.Uint64Var(&f.snapshotEntries, "snapshot-logs", 16384, "raft log entries after which a snapshot is taken")
	flags.DurationVar(&f.checkpoints, "checkpoint-interval", checkpoints.DefaultInterval, "how often the leader makes a checkpoint while the chain grows")
	flags.BoolVar(&f.mldsa, "ml-dsa", false, "cosign checkpoints with ML-DSA-44 (FIPS 204) besides Ed25519")
	flags.StringVar(&f.witnesses, "witnesses", "", "policy `file` (C2SP tlog-policy) with outside witnesses, their addresses, and the quorum that makes a checkpoint witnessed")
	flags.StringVar(&f.witnessLogs, "witness-logs", "", "policy `file` with other logs: be a witness of these, at /witness/")
	flags.StringVar(&f.witnessName, "witness-name", "", "`name` of the key of that witness (default \"exonode/witness/\" and the node id)")
	flags.IntVar(&f.queueEvents, "queue-events", 1<<16, "events that may wait on this node")
	flags.IntVar(&f.queueBytes, "queue-bytes", 64<<20, "bytes of events that may wait on this node")
	flags.IntVar(&f.maxPayload, "max-payload", 1<<20, "bytes that a payload may have; the same on all nodes")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&f.pprof, "pprof", "", "serve Go's profiles at this `address` of the loopback")
	flags.StringVar(&f.chaos, "chaos", "", "let faults be injected into this node, at this `address` of the loopback: for the chaos lab, never for evidence")
	flags.StringVar(&f.chaosPlan, "chaos-plan", "", "`file` with the faults that the node has from the start, with --chaos")
	_ = flags.MarkHidden("chaos-plan") // for the chaos lab
	flags.BoolVar(&f.exitWithStdin, "exit-with-stdin", false, "stop when standard input ends")
	_ = flags.MarkHidden("exit-with-stdin") // for supervisors
}

// check refuses numbers that mean nothing. 0 would mean the default to a node,
// and is no number that a person gives for one of these.
func (f *serveFlags) check() error {
	for _, n := range []struct {
		flag  string
		value int64
	}{
		{"max-payload", int64(f.maxPayload)}, {"queue-events", int64(f.queueEvents)}, {"queue-bytes", int64(f.queueBytes)},
		{"write-timeout", int64(f.writeTimeout)}, {"checkpoint-interval", int64(f.checkpoints)}, {"snapshot-bytes", int64(min(f.snapshotBytes, 1))}, {"snapshot-logs", int64(min(f.snapshotEntries, 1))},
	} {
		if n.value <= 0 {
			return usagef("--%s: want more than 0", n.flag)
		}
	}
	return errors.Join(checkLoopback("--pprof", f.pprof), checkLoopback("--chaos", f.chaos))
}

// config turns the flags into a node's configuration.
// boot opens a node. A signal ends it at any point, as a crash would: each is one that a
// node comes back from.
func boot(ctx context.Context, cfg node.Config) (*node.Node, error) {
	type outcome struct {
		n   *node.Node
		err error
	}
	done := make(chan outcome, 1)
	go func() { // ends with the process where it is not waited for
		n, err := node.New(cfg)
		done <- outcome{n, err}
	}()
	select {
	case o := <-done:
		return o.n, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *serveFlags) config(logger *slog.Logger) (node.Config, error) {
	cfg := node.Config{
		DataDir: f.data, Name: f.name, Version: version(), Build: build(),
		Listen:    node.Listen{Peer: f.peer, Gossip: f.gossip, Advertise: f.advertise},
		Discovery: node.Discovery{Seeds: f.seeds, MDNS: f.mdns, Expect: f.expect},
		API:       node.API{Listen: f.api, Insecure: f.insecure},
		Storage: node.Storage{
			LogBackend: raftstore.Backend(f.logBackend), WriteTimeout: f.writeTimeout,
			SnapshotBytes: f.snapshotBytes, SnapshotLogs: f.snapshotEntries,
		},
		Checkpoints: node.Checkpoints{Interval: f.checkpoints, MLDSA: f.mldsa, WitnessName: f.witnessName},
		Limits:      pipeline.Limits{QueueEvents: f.queueEvents, QueueBytes: f.queueBytes, Payload: f.maxPayload},
		Logger:      logger,
		Fatal: func(err error) {
			logger.Error("the node can't go on", "error", err)
			os.Exit(exitFatal)
		},
	}
	if f.witnesses != "" {
		p, err := readTrustPolicy(f.witnesses)
		if err != nil {
			return cfg, err
		}
		cfg.Checkpoints.Witnesses = p
	}
	if f.witnessLogs != "" {
		p, err := readTrustPolicy(f.witnessLogs)
		if err != nil {
			return cfg, err
		}
		for _, l := range p.Logs {
			cfg.Checkpoints.WitnessLogs = append(cfg.Checkpoints.WitnessLogs, l.Key)
		}
	}
	switch f.timing {
	case "lan":
		cfg.Timing = node.LAN()
	case "loopback":
		cfg.Timing = node.Loopback()
	default:
		return cfg, usagef("--timing is %q: choose lan or loopback", f.timing)
	}
	var err error
	if cfg.Cluster, err = node.LoadClusterFile(f.cluster); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return cfg, misuse(codeClusterFile, fmt.Sprintf("make one with `exonode init --out %s`, and give the same file to every node", f.cluster), err)
		}
		return cfg, err
	}
	switch {
	case f.tlsCert == "" && f.tlsKey == "":
	case f.tlsCert == "" || f.tlsKey == "":
		return cfg, usagef("--tls-cert and --tls-key go together")
	default:
		pair, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return cfg, misuse(codeTLS, "", fmt.Errorf("load the API's certificate: %w", err))
		}
		cfg.API.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usagef("--log-format is %q: choose text or json", format)
}
