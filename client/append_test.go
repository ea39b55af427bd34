package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

func testEvent(i int) chain.Event {
	return chain.Event{Kind: "test.event", Payload: fmt.Appendf(nil, `{"n":%d}`, i)}
}

// appendMany appends n events from as many goroutines and returns the acks.
func appendMany(t *testing.T, c *client.Client, n int) []client.Ack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	acks := make([]client.Ack, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if acks[i], err = c.Append(ctx, testEvent(i)); err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return acks
}

// checkAcks fails unless each ack names its event's own entry, and the chain
// holds nothing else.
func checkAcks(t *testing.T, cl *cluster, acks []client.Ack) {
	t.Helper()
	if cl.size() != len(acks) {
		t.Fatalf("the chain has %d entries for %d events", cl.size(), len(acks))
	}
	seen := make(map[uint64]bool)
	for i, a := range acks {
		id, payload := cl.event(int(a.Sequence))
		if want := fmt.Sprintf(`{"n":%d}`, i); payload != want || id != a.Key.ID {
			t.Errorf("event %d (%s) was acknowledged as entry %d, which is %s %s", i, a.Key.ID, a.Sequence, id, payload)
		}
		if seen[a.Sequence] {
			t.Errorf("entry %d acknowledged two events", a.Sequence)
		}
		seen[a.Sequence] = true
	}
}

// TestAppendExactlyOnce: whatever happens to messages, every event is in the
// chain once and is acknowledged with its own entry.
func TestAppendExactlyOnce(t *testing.T) {
	// Each case is what the nodes do with the first messages.
	cases := map[string]func(n int, events []*exonodev1.Event) fault{
		"no fault": nil,
		"breaks after the commit": func(n int, _ []*exonodev1.Event) fault {
			return fault{drop: n%2 == 0 && n < 6}
		},
		"breaks before the commit": func(n int, _ []*exonodev1.Event) fault {
			return fault{lost: n < 3}
		},
		"no leader": func(n int, _ []*exonodev1.Event) fault {
			if n < 2 {
				return fault{code: api.NoLeader}
			}
			return fault{}
		},
		"unknown outcome of a message's second half": func(n int, events []*exonodev1.Event) fault {
			if n < 3 {
				return fault{code: api.UnknownOutcome, from: len(events) / 2}
			}
			return fault{}
		},
		"queue full for a message's second half": func(n int, events []*exonodev1.Event) fault {
			if n < 4 {
				return fault{code: api.QueueFull, from: len(events) / 2, retry: 50 * time.Millisecond}
			}
			return fault{}
		},
		"never answers": func(n int, _ []*exonodev1.Event) fault {
			return fault{hang: n == 0}
		},
		"answers nonsense": func(n int, _ []*exonodev1.Event) fault {
			return fault{garble: n == 0}
		},
	}
	for name, f := range cases {
		for _, spread := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, spread %v", name, spread), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cl := three(t)
					for _, n := range cl.nodes {
						n.onMessage = f
					}
					c := cl.client(func(cfg *client.Config) { cfg.Spread = spread })
					checkAcks(t, cl, appendMany(t, c, 500))
					c.Close()
					cl.stop()
				})
			})
		}
	}
}

// TestBatchOrder: the events of a batch stay in order over failures.
func TestBatchOrder(t *testing.T) {
	cases := map[string]func(n int, events []*exonodev1.Event) fault{
		"breaks":                      func(n int, _ []*exonodev1.Event) fault { return fault{lost: n == 1} },
		"refused with much in flight": func(int, []*exonodev1.Event) fault { return fault{code: api.NoLeader} },
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := three(t)
				// The first node fails; the others are well.
				cl.nodes[address(0)].onMessage = f
				c := cl.client(nil)
				events := make([]chain.Event, 4000)
				for i := range events {
					events[i] = testEvent(i)
				}
				events[7].ID = "seven"
				for i, r := range c.AppendBatch(t.Context(), events) {
					if r.Err != nil {
						t.Fatal(r.Err)
					}
					if r.Ack.Sequence != uint64(i) {
						t.Fatalf("event %d is entry %d", i, r.Ack.Sequence)
					}
				}
				if events[7].ID != "seven" || events[8].ID != "" {
					t.Error("the caller's events were changed")
				}
				c.Close()
				cl.stop()
			})
		})
	}
}

// TestSlowIsNotDown: what waits long while others are answered is not given up
// for one failure.
func TestSlowIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		cl.nodes[address(0)].onMessage = func(n int, _ []*exonodev1.Event) fault {
			if n == 0 || n == 8 {
				return fault{code: api.NoLeader}
			}
			return fault{delay: 5 * time.Second}
		}
		c := cl.client(func(cfg *client.Config) { cfg.MaxInFlight, cfg.RetryFor = 1, 20*time.Second })
		events := make([]chain.Event, 10)
		for i := range events {
			events[i] = testEvent(i)
		}
		for i, r := range c.AppendBatch(t.Context(), events) {
			if r.Err != nil {
				t.Errorf("event %d: %v", i, r.Err)
			}
		}
		c.Close()
		cl.stop()
	})
}

// TestResendIsDuplicate: an event whose first answer was lost is acknowledged
// as a duplicate of itself.
func TestResendIsDuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		cl.nodes[address(0)].onMessage = func(n int, _ []*exonodev1.Event) fault { return fault{drop: true} }
		c := cl.client(nil)
		ack, err := c.Append(t.Context(), testEvent(0))
		if err != nil || !ack.Duplicate || ack.Sequence != 0 {
			t.Errorf("ack %+v, error %v, want a duplicate", ack, err)
		}
		c.Close()
		cl.stop()
	})
}

func TestDeterminateErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		c := cl.client(nil)
		defer cl.stop()
		defer c.Close()
		first := testEvent(0)
		first.ID = "same"
		if _, err := c.Append(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		other := testEvent(1)
		other.ID = "same"
		_, err := c.Append(t.Context(), other)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.Conflict || !e.HasSequence || e.Sequence != 0 {
			t.Errorf("conflict: %v", err)
		}
		ack, err := c.Append(t.Context(), chain.Event{Kind: "test.denied"})
		if api.CodeOf(err) != api.GateDenied || ack.Verdict == nil || ack.Verdict.Decision != chain.Deny {
			t.Errorf("denied: %+v, %v", ack, err)
		}
		if _, err = c.Append(t.Context(), chain.Event{Kind: "Not A Kind"}); api.CodeOf(err) != api.BadField {
			t.Errorf("bad kind: %v", err)
		}
		_, err = c.Append(t.Context(), chain.Event{Kind: "a", Extensions: []chain.Extension{{Name: "x", Value: int64(1) << 40}}})
		if err == nil || !strings.Contains(err.Error(), "32 bits") {
			t.Errorf("extension: %v", err)
		}
		if cl.submitted != 4 {
			t.Errorf("%d submissions, want 4: a refused event was sent again", cl.submitted)
		}
	})
}

// TestDeadline: a call ends with its context, and says whether the event may
// have been sent.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		c := cl.client(nil)
		defer cl.stop()
		defer c.Close()
		for _, n := range cl.nodes {
			n.set(func(n *node) { n.down = true })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Append(ctx, testEvent(0))
		var inc *client.IncompleteError
		var unreachable *client.UnreachableError
		if !errors.As(err, &inc) || inc.Sent || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &unreachable) {
			t.Fatalf("nobody there: %v", err)
		}
		if len(unreachable.Tried) != 3 || !strings.Contains(err.Error(), "exonode dev") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("text: %v", err)
		}

		n := cl.nodes[address(0)]
		n.set(func(n *node) {
			n.down = false
			n.onMessage = func(int, []*exonodev1.Event) fault { return fault{hang: true} }
		})
		ctx, cancel = context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		_, err = c.Append(ctx, testEvent(1))
		if !errors.As(err, &inc) || !inc.Sent {
			t.Fatalf("no answer: %v", err)
		}
		// The event is there: asking again with its id says so.
		n.set(func(n *node) { n.onMessage = nil })
		again := testEvent(1)
		again.ID = inc.Key.ID
		ack, err := c.Append(t.Context(), again)
		if err != nil || !ack.Duplicate {
			t.Errorf("again: %+v, %v", ack, err)
		}
	})
}

// TestRetryFor: without a deadline a call is given up in the end.
func TestRetryFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		c := cl.client(func(cfg *client.Config) { cfg.RetryFor = 20 * time.Second })
		defer cl.stop()
		defer c.Close()
		for _, n := range cl.nodes {
			n.onMessage = func(int, []*exonodev1.Event) fault { return fault{code: api.NoLeader} }
		}
		start := time.Now()
		_, err := c.Append(t.Context(), testEvent(0))
		var inc *client.IncompleteError
		if took := time.Since(start); !errors.As(err, &inc) || api.CodeOf(err) != api.NoLeader || took < 20*time.Second || took > 25*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// TestNoLeaderIsDetermined: where a node says that it has no leader, the event is
// not in the chain, and the caller learns why.
func TestNoLeaderIsDetermined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		c := cl.client(nil)
		defer cl.stop()
		defer c.Close()
		cl.nodes[address(0)].onMessage = func(int, []*exonodev1.Event) fault { return fault{code: api.NoLeader, retry: 200 * time.Millisecond} }
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Append(ctx, testEvent(0))
		var inc *client.IncompleteError
		if !errors.As(err, &inc) || inc.Sent || api.CodeOf(inc.Last) != api.NoLeader {
			t.Errorf("got %v", err)
		}
	})
}

// TestSilentNode: a short RetryFor also ends a call whose event is at a node that
// does not answer, after each address had its part of it.
func TestSilentNode(t *testing.T) {
	for _, n := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			cl := newCluster(t, []string{address(0), address(1), address(2)}[:n]...)
			c := cl.client(func(cfg *client.Config) { cfg.RetryFor = 3 * time.Second })
			defer cl.stop()
			defer c.Close()
			var asked atomic.Int32
			for _, n := range cl.nodes {
				n.onMessage = func(int, []*exonodev1.Event) fault { asked.Add(1); return fault{hang: true} }
			}
			start := time.Now()
			_, err := c.Append(t.Context(), testEvent(0))
			var inc *client.IncompleteError
			if took := time.Since(start); !errors.As(err, &inc) || !inc.Sent || took > 5*time.Second || int(asked.Load()) < n {
				t.Errorf("after %v and %d nodes: %v", took, asked.Load(), err)
			}
		})
	}
}

// TestQueueFullHint: the node's hint is kept to, and nothing is sent meanwhile.
func TestQueueFullHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		var at []time.Time
		cl.nodes[address(0)].onMessage = func(n int, _ []*exonodev1.Event) fault {
			at = append(at, time.Now())
			if n == 0 {
				return fault{code: api.QueueFull, retry: 4 * time.Second}
			}
			return fault{}
		}
		c := cl.client(nil)
		if _, err := c.Append(t.Context(), testEvent(0)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		cl.stop()
		if len(at) != 2 || at[1].Sub(at[0]) < 4*time.Second {
			t.Errorf("sent at %v", at)
		}
	})
}

// TestRefusedStream: who may not submit at all is told so at once.
func TestRefusedStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		for _, n := range cl.nodes {
			n.onMessage = func(int, []*exonodev1.Event) fault {
				return fault{refuse: &api.Error{Code: api.Unauthorized, Message: "who are you?"}}
			}
		}
		c := cl.client(nil)
		start := time.Now()
		_, err := c.Append(t.Context(), testEvent(0))
		if api.CodeOf(err) != api.Unauthorized || time.Since(start) > time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		c.Close()
		cl.stop()
	})
}

func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		c := cl.client(func(cfg *client.Config) {
			cfg.Token = func(context.Context) (string, error) { return "secret", nil }
		})
		if _, err := c.Append(t.Context(), testEvent(0)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		c.Close()
		cl.stop()
		for _, h := range cl.nodes[address(0)].headers {
			if got := h.Get("Authorization"); got != "Bearer secret" {
				t.Errorf("Authorization: %q", got)
			}
		}

		cl = newCluster(t, address(0))
		c = cl.client(func(cfg *client.Config) {
			cfg.Token = func(context.Context) (string, error) { return "", errors.New("no token today") }
		})
		_, err := c.Append(t.Context(), testEvent(0))
		if api.CodeOf(err) != api.Unauthorized || !strings.Contains(err.Error(), "no token today") {
			t.Errorf("append without a token: %v", err)
		}
		c.Close()
		cl.stop()
	})
}

// TestClose: what is under way fails, later calls fail, and nothing is left.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		for _, n := range cl.nodes {
			n.onMessage = func(int, []*exonodev1.Event) fault { return fault{hang: true} }
		}
		c := cl.client(nil)
		done := make(chan error)
		go func() {
			_, err := c.Append(t.Context(), testEvent(0))
			done <- err
		}()
		synctest.Wait()
		c.Close()
		var inc *client.IncompleteError
		if err := <-done; !errors.Is(err, client.ErrClosed) || !errors.As(err, &inc) || !inc.Sent {
			t.Errorf("under way: %v", err)
		}
		if _, err := c.Append(t.Context(), testEvent(1)); !errors.Is(err, client.ErrClosed) {
			t.Errorf("append after Close: %v", err)
		}
		if _, err := c.Get(t.Context(), 0); !errors.Is(err, client.ErrClosed) {
			t.Errorf("get after Close: %v", err)
		}
		c.Close()
		cl.stop()
	})
}

func TestVerifyAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		c := cl.client(func(cfg *client.Config) { cfg.VerifyAcks = true })
		defer cl.stop()
		defer c.Close()
		ev := testEvent(0)
		ev.Extensions = []chain.Extension{{Name: "a", Value: "b"}, {Name: "n", Value: int64(-3)}}
		if _, err := c.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		// A node that seals something else.
		cl.nodes[address(0)].onMessage = func(_ int, events []*exonodev1.Event) fault {
			events[0].Subject = "forged"
			return fault{}
		}
		_, err := c.Append(t.Context(), testEvent(1))
		var v *client.VerifyError
		if !errors.As(err, &v) || !strings.Contains(v.Problem, "subject") {
			t.Errorf("forged: %v", err)
		}
		cl.nodes[address(0)].onMessage = func(int, []*exonodev1.Event) fault { return fault{wrongHash: true} }
		if _, err = c.Append(t.Context(), testEvent(2)); !errors.As(err, &v) || !strings.Contains(v.Problem, "acknowledged with") {
			t.Errorf("wrong hash: %v", err)
		}
	})
}

func TestConfig(t *testing.T) {
	for _, addresses := range [][]string{nil, {""}, {"localhost"}, {"ftp://a:1"}, {"http://a:1/path"}, {"http://user@a:1"}, {"::1"}, {"a:65536"}} {
		c, err := client.New(client.Config{Addresses: addresses})
		if err == nil {
			t.Errorf("%q: no error", addresses)
			c.Close()
		} else if len(addresses) > 0 && !errors.Is(err, client.ErrAddress) {
			t.Errorf("%q: %v", addresses, err)
		}
	}
	c, err := client.New(client.Config{Addresses: []string{"a:1", "http://a:1/", "https://b", "[::1]:7"}, Transport: http.DefaultTransport})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := fmt.Sprint(c.Addresses()); got != "[a:1 b:443 [::1]:7]" {
		t.Errorf("addresses: %s", got)
	}
}
