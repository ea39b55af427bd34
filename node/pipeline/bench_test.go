package pipeline_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

// instantLog takes every command and says at once that all of it was appended:
// what is measured is the pipeline, and the decoding of its commands, by which
// the log knows how many answers it owes.
type instantLog struct {
	commands chan *instant
	sequence uint64
}

type instant struct {
	command []byte
	done    chan struct{}
	result  *fsm.BatchResult
}

func (i *instant) Error() error  { <-i.done; return nil }
func (i *instant) Response() any { return i.result }

func (l *instantLog) Apply(command []byte, _ time.Duration) pipeline.Future {
	i := &instant{command: command, done: make(chan struct{})}
	l.commands <- i
	return i
}

func (l *instantLog) Barrier(time.Duration) error { return nil }

// run answers commands, one after the other as raft does.
func (l *instantLog) run(b *testing.B) {
	for i := range l.commands {
		var c fsm.Command
		if err := c.UnmarshalBinary(i.command); err != nil {
			b.Error(err)
		}
		i.result = &fsm.BatchResult{Results: make([]fsm.Result, len(c.Batch.Events))}
		for k := range i.result.Results {
			i.result.Results[k] = fsm.Result{Status: fsm.Appended, Sequence: l.sequence}
			l.sequence++
		}
		i.result.Head.Size = l.sequence
		close(i.done)
	}
}

// nowhere is a cluster of one.
type nowhere struct{}

func (nowhere) Call(context.Context, string, string, []byte) ([]byte, error) {
	return nil, pipeline.ErrNotSent
}

// BenchmarkSubmit is n callers, each with one event of 256 bytes at a time that
// passes its gate, and a log that answers at once. Aim: 200,000 events a second
// with 1,024 callers on one core.
func BenchmarkSubmit(b *testing.B) {
	payload := fmt.Appendf(nil, `{"agent_id":"a-1","pid":7,"parent_pid":1,"program":"%0200d"}`, 1)
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			g := newGroup(b, gates.Production)
			log := &instantLog{commands: make(chan *instant, 4)}
			p := pipeline.New(pipeline.Config{
				NodeID: "n1", Log: log, Peer: nowhere{}, View: g.fsm.View, Clock: time.Now,
				Head:   func() chain.Head { return g.fsm.View().Head() },
				Logger: slog.New(slog.DiscardHandler),
			})
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { log.run(b) })
			var pumping sync.WaitGroup
			pumping.Go(func() { _ = p.Run(ctx) }) // it has no error but ctx's
			p.SetRole(pipeline.Role{Leading: true})
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var writing sync.WaitGroup
			for range callers {
				writing.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						pending, err := p.Submit(ctx, server.Caller{Principal: "local"}, []chain.Event{{
							Workspace: "w", Source: "urn:bench", ID: strconv.FormatInt(n, 10), Kind: "agent.spawn", Payload: payload,
						}})
						if err != nil {
							b.Error(err)
							return
						}
						if acks, err := pending.Wait(ctx); err != nil || acks[0].Err != nil {
							b.Error(err, acks)
							return
						}
					}
				})
			}
			writing.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(b.N)/float64(p.Stats().Commands.Load()), "events/command")
			cancel()
			pumping.Wait()
			close(log.commands)
			running.Wait()
		})
	}
}
