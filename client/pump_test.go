package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

func events(n int) iter.Seq2[chain.Event, error] {
	return func(yield func(chain.Event, error) bool) {
		for i := range n {
			ev := testEvent(i)
			ev.ID = fmt.Sprint("id", i)
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// after leaves out the first n events.
func after(n uint64, seq iter.Seq2[chain.Event, error]) iter.Seq2[chain.Event, error] {
	return func(yield func(chain.Event, error) bool) {
		i := uint64(0)
		for ev, err := range seq {
			if i++; i > n && !yield(ev, err) {
				return
			}
		}
	}
}

func TestPump(t *testing.T) {
	bubble(t, 5, func(t *testing.T, cl *cluster, c *client.Client) {
		for _, n := range cl.nodes {
			n.onMessage = func(n int, _ []*exonodev1.Event) fault { return fault{drop: n%5 == 1} }
		}
		var next, checkpoint uint64
		stats, err := c.Pump(t.Context(), events(5000), client.PumpOptions{
			Window: 100,
			Acked: func(i uint64, ack client.Ack, err error) error {
				if i != next || err != nil || ack.Sequence != i {
					return fmt.Errorf("index %d after %d: %+v, %w", i, next, ack, err)
				}
				next++
				return nil
			},
			Checkpoint: func(done uint64) error {
				if done <= checkpoint || done > next {
					t.Errorf("checkpoint %d after %d, at %d", done, checkpoint, next)
				}
				checkpoint = done
				return nil
			},
		})
		if err != nil || stats.Done != 5000 || stats.Sealed+stats.Duplicates != 5000 || stats.Failed != 0 || checkpoint != 5000 {
			t.Errorf("%+v, checkpoint %d, %v", stats, checkpoint, err)
		}
		if stats.Duplicates < 5 || cl.size() != 5000 {
			t.Errorf("%+v, %d entries", stats, cl.size())
		}
	})
}

// TestPumpResumes: interrupted anywhere and started again from its checkpoint,
// a pump leaves each event in the chain once.
func TestPumpResumes(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		stop := errors.New("interrupted")
		done := uint64(0)
		for round := 0; ; round++ {
			base := done
			_, err := c.Pump(t.Context(), after(base, events(300)), client.PumpOptions{
				Window: 50, CheckpointEvery: 7,
				Acked: func(i uint64, _ client.Ack, err error) error {
					if i == 40 {
						return stop
					}
					return err
				},
				Checkpoint: func(n uint64) error { done = base + n; return nil },
			})
			if err == nil {
				break
			}
			if !errors.Is(err, stop) || round > 10 {
				t.Fatal(err)
			}
		}
		if done != 300 || cl.size() != 300 {
			t.Errorf("checkpoint %d, %d entries", done, cl.size())
		}
	})
}

func TestPumpFailures(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		input := `{"kind":"test.event","id":"1"}
{"kind":"test.denied","id":"2"}
not json
{"kind":"test.event","id":"4"}`
		var failed []string
		stats, err := c.Pump(t.Context(), client.EventLines(strings.NewReader(input), client.LineOptions{Source: "urn:file"}), client.PumpOptions{
			Acked: func(i uint64, _ client.Ack, err error) error {
				if err != nil {
					failed = append(failed, fmt.Sprint(i, " ", api.CodeOf(err)))
				}
				return nil
			},
		})
		if got := strings.Join(failed, ", "); err != nil || got != "1 denied, 2 malformed" || stats.Failed != 2 || stats.Done != 4 {
			t.Errorf("%s; %+v, %v", got, stats, err)
		}
		// Without Acked the first failure stops.
		stats, err = c.Pump(t.Context(), client.EventLines(strings.NewReader(input), client.LineOptions{Source: "urn:file"}), client.PumpOptions{})
		if api.CodeOf(err) != api.GateDenied || stats.Done != 1 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}

// TestPumpEndsWithContext: also while nothing is answered.
func TestPumpEndsWithContext(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		for _, n := range cl.nodes {
			n.onMessage = func(int, []*exonodev1.Event) fault { return fault{hang: true} }
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			cl.await(10)
			cancel(errors.New("enough"))
		}()
		stats, err := c.Pump(ctx, events(100000), client.PumpOptions{Window: 64})
		if err == nil || err.Error() != "enough" || stats.Done != 0 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
}
