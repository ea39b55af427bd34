package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// bubble runs a test in a synctest bubble with three nodes, a client and a
// chain of some entries.
func bubble(t *testing.T, entries int, f func(*testing.T, *cluster, *client.Client)) {
	synctest.Test(t, func(t *testing.T) {
		cl := three(t)
		c := cl.client(nil)
		fill(t, c, 0, entries)
		f(t, cl, c)
		c.Close()
		cl.stop()
	})
}

// fill appends events numbered from (inclusive) to to (exclusive), in order.
func fill(t *testing.T, c *client.Client, from, to int) {
	t.Helper()
	var events []chain.Event
	for i := from; i < to; i++ {
		ev := testEvent(i)
		ev.ID = fmt.Sprint("id", i)
		events = append(events, ev)
	}
	for _, r := range c.AppendBatch(t.Context(), events) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func TestGetAndLookup(t *testing.T) {
	bubble(t, 3, func(t *testing.T, cl *cluster, c *client.Client) {
		e, err := c.Get(t.Context(), 1)
		if err != nil || e.Header.ID != "id1" || string(e.Envelope.Payload) != `{"n":1}` || e.Hash != chain.HeaderHash(e.Record.Header) {
			t.Errorf("get: %+v, %v", e, err)
		}
		if _, err = c.Get(t.Context(), 3); api.CodeOf(err) != api.NotFound {
			t.Errorf("beyond the head: %v", err)
		}
		l, err := c.Lookup(t.Context(), chain.Key{ID: "id2"})
		if err != nil || l.State != client.Sealed || l.Entry.Sequence != 2 {
			t.Errorf("lookup: %+v, %v", l, err)
		}
		l, err = c.Lookup(t.Context(), chain.Key{ID: "none"})
		if err != nil || l.State != client.Unknown || l.Entry != nil {
			t.Errorf("lookup of nothing: %+v, %v", l, err)
		}
	})
}

// TestVerifiesEntries: a node that changes anything about an entry is caught,
// and not asked again.
func TestVerifiesEntries(t *testing.T) {
	cases := map[string]struct {
		change  func(*exonodev1.Entry)
		problem string
	}{
		"a bit of the header":   {func(e *exonodev1.Entry) { e.Header[40] ^= 1 }, "hashes to"},
		"the hash":              {func(e *exonodev1.Entry) { e.Hash[0] ^= 1 }, "hashes to"},
		"a short hash":          {func(e *exonodev1.Entry) { e.Hash = e.Hash[:31] }, "31 bytes"},
		"a bit of the envelope": {func(e *exonodev1.Entry) { e.Envelope[5] ^= 1 }, "envelope hashes"},
		"the sequence":          {func(e *exonodev1.Entry) { e.Sequence++ }, "says that it is entry"},
		"no header": {func(e *exonodev1.Entry) {
			h := chain.HeaderHash(nil)
			e.Header, e.Hash = nil, h[:]
		}, "decoded"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, cl *cluster, c *client.Client) {
				reads := 0
				for _, n := range cl.nodes {
					n.change = tc.change
					n.onRead = func(context.Context) error { reads++; return nil }
				}
				var v *client.VerifyError
				if _, err := c.Get(t.Context(), 1); !errors.As(err, &v) || !strings.Contains(v.Problem, tc.problem) || reads != 1 {
					t.Errorf("get, %d reads: %v", reads, err)
				}
				for _, err := range c.List(t.Context(), client.ListQuery{}) {
					if !errors.As(err, &v) {
						t.Errorf("list: %v", err)
					}
				}
				for _, err := range c.Watch(t.Context(), client.WatchQuery{}) {
					if !errors.As(err, &v) {
						t.Errorf("watch: %v", err)
					}
				}
			})
		})
	}
}

// TestOtherEntry: the right bytes of another entry are no answer.
func TestOtherEntry(t *testing.T) {
	bubble(t, 3, func(t *testing.T, cl *cluster, c *client.Client) {
		other := cl.records[2]
		for _, n := range cl.nodes {
			n.change = func(e *exonodev1.Entry) {
				h := chain.HeaderHash(other.Header)
				e.Sequence, e.Hash, e.Header, e.Envelope = 2, h[:], other.Header, other.Envelope
			}
		}
		var v *client.VerifyError
		if _, err := c.Get(t.Context(), 1); !errors.As(err, &v) {
			t.Errorf("get: %v", err)
		}
		if _, err := c.Lookup(t.Context(), chain.Key{ID: "id1"}); !errors.As(err, &v) {
			t.Errorf("lookup: %v", err)
		}
	})
}

func TestRedactedEntry(t *testing.T) {
	bubble(t, 1, func(t *testing.T, cl *cluster, c *client.Client) {
		for _, n := range cl.nodes {
			n.change = func(e *exonodev1.Entry) { e.Envelope = nil }
		}
		e, err := c.Get(t.Context(), 0)
		if err != nil || e.Envelope != nil || e.Record.Envelope != nil {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

func TestReadsFailOver(t *testing.T) {
	bubble(t, 1, func(t *testing.T, cl *cluster, c *client.Client) {
		cl.nodes[address(0)].stop()
		cl.nodes[address(0)].set(func(n *node) { n.down = true })
		cl.nodes[address(1)].onRead = func(context.Context) error { return &api.Error{Code: api.NotReady, Message: "booting"} }
		if _, err := c.Get(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		// A node that hangs gets only part of the time.
		cl.nodes[address(2)].onRead = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		cl.nodes[address(1)].onRead = nil
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, err := c.Get(ctx, 0); err != nil {
			t.Error(err)
		}
		// One node only: no failing over.
		r, err := c.On(address(0))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var u *client.UnreachableError
		if _, err := r.Get(ctx, 0); !errors.As(err, &u) || len(u.Tried) != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("on node 0: %v", err)
		}
		if _, err := c.On("elsewhere:1"); err == nil {
			t.Error("On takes any address")
		}
	})
}

// TestConsistency: what a read asks for.
func TestConsistency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		var asked *exonodev1.Consistency
		rec := &recorder{node: cl.nodes[address(0)], head: func(r *exonodev1.HeadRequest) { asked = r.Consistency }}
		rec.install()
		c := cl.client(func(cfg *client.Config) { cfg.Consistency = client.Session })
		defer cl.stop()
		defer c.Close()
		check := func(r client.Reader, want string) {
			t.Helper()
			if _, err := r.Head(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%v %d", asked.GetLevel(), asked.GetSequence()); got != want {
				t.Errorf("asked for %s, want %s", got, want)
			}
		}
		check(c.Reader, "CONSISTENCY_LEVEL_STALE 0") // nothing seen yet
		fill(t, c, 0, 5)
		check(c.Reader, "CONSISTENCY_LEVEL_SESSION 4")
		check(c.At(client.Linearizable), "CONSISTENCY_LEVEL_LINEARIZABLE 0")
		check(c.At(client.Stale), "CONSISTENCY_LEVEL_STALE 0")
	})
}

func TestList(t *testing.T) {
	bubble(t, 7, func(t *testing.T, cl *cluster, c *client.Client) {
		list := func(q client.ListQuery) string {
			var got []string
			for e, err := range c.List(t.Context(), q) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprint(e.Sequence))
			}
			return strings.Join(got, " ")
		}
		if got := list(client.ListQuery{}); got != "0 1 2 3 4 5 6" {
			t.Errorf("all: %s", got)
		}
		if got := list(client.ListQuery{From: 2, To: 6, Reverse: true}); got != "5 4 3 2" {
			t.Errorf("part, reversed: %s", got)
		}
		for e := range c.List(t.Context(), client.ListQuery{}) {
			if e.Sequence == 1 {
				break
			}
		}
		// The second page comes from another node.
		reads := 0
		cl.nodes[address(0)].onRead = func(context.Context) error {
			if reads++; reads > 1 {
				return &api.Error{Code: api.NotReady, Message: "stopping"}
			}
			return nil
		}
		if got := list(client.ListQuery{}); got != "0 1 2 3 4 5 6" {
			t.Errorf("over two nodes: %s", got)
		}
	})
}

// TestWatchOverFailures: every entry once and in order, whatever breaks.
func TestWatchOverFailures(t *testing.T) {
	bubble(t, 9, func(t *testing.T, cl *cluster, c *client.Client) {
		for _, n := range cl.nodes {
			n.watchLimit = 2
		}
		filled := make(chan struct{})
		defer func() { <-filled }()
		go func() {
			defer close(filled)
			for i := 9; i < 30; i++ {
				time.Sleep(7 * time.Second) // of the bubble
				fill(t, c, i, i+1)
			}
		}()
		want := uint64(2)
		for e, err := range c.Watch(t.Context(), client.WatchQuery{From: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Sequence != want {
				t.Fatalf("entry %d, want %d", e.Sequence, want)
			}
			if want++; want == 30 {
				break
			}
		}
	})
}

func TestWatchNewOnly(t *testing.T) {
	bubble(t, 4, func(t *testing.T, cl *cluster, c *client.Client) {
		var seen []uint64
		var progress uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for e, err := range c.Watch(t.Context(), client.WatchQuery{NewOnly: true, Progress: func(next uint64) { progress = next }}) {
				if err != nil {
					t.Error(err)
				}
				if seen = append(seen, e.Sequence); len(seen) == 2 {
					return
				}
			}
		}()
		synctest.Wait()
		if progress != 4 {
			t.Errorf("progress %d, want 4", progress)
		}
		fill(t, c, 4, 6)
		<-done
		if fmt.Sprint(seen) != "[4 5]" {
			t.Errorf("seen %v", seen)
		}
	})
}

func TestWatchEndsWithContext(t *testing.T) {
	bubble(t, 1, func(t *testing.T, cl *cluster, c *client.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var last error
		for _, last = range c.Watch(ctx, client.WatchQuery{}) {
			continue
		}
		if !errors.Is(last, context.DeadlineExceeded) {
			t.Errorf("the last error is %v", last)
		}
		// And where nobody is there, after RetryFor.
		for _, n := range cl.nodes {
			n.onRead = func(context.Context) error { return &api.Error{Code: api.NotReady, Message: "no"} }
		}
		var u *client.UnreachableError
		for _, last = range c.Watch(t.Context(), client.WatchQuery{}) {
			continue
		}
		if !errors.As(last, &u) {
			t.Errorf("the last error is %v", last)
		}
	})
}

// TestWatchCatchesForks: a chain that goes on after another entry than the one
// seen is not followed.
func TestWatchCatchesForks(t *testing.T) {
	bubble(t, 2, func(t *testing.T, cl *cluster, c *client.Client) {
		filled := make(chan struct{})
		defer func() { <-filled }()
		go func() {
			defer close(filled)
			time.Sleep(time.Minute) // of the bubble
			cl.mu.Lock()
			grown := cl.grown
			cl.clear()
			cl.epoch = 9
			cl.grown = grown
			cl.mu.Unlock()
			fill(t, c, 100, 103)
		}()
		var v *client.VerifyError
		for e, err := range c.Watch(t.Context(), client.WatchQuery{}) {
			if e.Sequence > 1 {
				t.Fatalf("entry %d of the fork was delivered", e.Sequence)
			}
			errors.As(err, &v)
		}
		if v == nil || v.Sequence != 2 || !strings.Contains(v.Problem, "links to") {
			t.Errorf("%v", v)
		}
	})
}

// TestWatchCatchesGapsAndRewinds: entries that are left out, or come again.
func TestWatchCatchesGapsAndRewinds(t *testing.T) {
	skip := func(m *exonodev1.WatchResponse) {
		if len(m.Entries) == 2 && m.Entries[0].Sequence == 2 {
			m.Entries = m.Entries[1:]
		}
	}
	skipAll := func(m *exonodev1.WatchResponse) {
		if len(m.Entries) == 2 && m.Entries[0].Sequence == 2 {
			m.Entries = nil
		}
	}
	swap := func(m *exonodev1.WatchResponse) {
		if len(m.Entries) == 2 && m.Entries[0].Sequence == 2 {
			m.Entries[0], m.Entries[1] = m.Entries[1], m.Entries[0]
		}
	}
	some := chain.Filter{Kind: "test.*"}
	cases := map[string]struct {
		filter  chain.Filter
		change  func(*exonodev1.WatchResponse)
		problem string
	}{
		"an entry left out":  {chain.Filter{}, skip, "skipped entry 2"},
		"a message left out": {chain.Filter{}, skipAll, "went on to 4"},
		"a rewind":           {some, swap, "was at 4 already"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, 6, func(t *testing.T, cl *cluster, c *client.Client) {
				cl.nodes[address(0)].onWatch = tc.change
				var last error
				for _, last = range c.Watch(t.Context(), client.WatchQuery{Filter: tc.filter}) {
					continue
				}
				var v *client.VerifyError
				if !errors.As(last, &v) || !strings.Contains(v.Problem, tc.problem) {
					t.Errorf("%v", last)
				}
			})
		})
	}
}

// TestWatchProgress: what a node that is behind says does not make entries come
// again, and a watch goes on over what did not match.
func TestWatchProgress(t *testing.T) {
	bubble(t, 4, func(t *testing.T, cl *cluster, c *client.Client) {
		cl.nodes[address(0)].watchLimit = 3
		cl.nodes[address(0)].onWatch = func(m *exonodev1.WatchResponse) {
			if len(m.Entries) == 0 {
				m.NextSequence = 1
			}
		}
		filled := make(chan struct{})
		defer func() { <-filled }()
		go func() {
			defer close(filled)
			time.Sleep(time.Minute) // of the bubble
			fill(t, c, 4, 5)
		}()
		var seen []uint64
		last := uint64(0)
		q := client.WatchQuery{Filter: chain.Filter{Kind: "test.*"}, Progress: func(next uint64) {
			if next < last {
				t.Errorf("progress went from %d to %d", last, next)
			}
			last = next
		}}
		for e, err := range c.Watch(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			if seen = append(seen, e.Sequence); e.Sequence == 4 {
				break
			}
		}
		if fmt.Sprint(seen) != "[0 1 2 3 4]" {
			t.Errorf("seen %v", seen)
		}
	})
}

// TestWhatTheLastNodeSaid: a read's time is over while a node is silent, and
// another had said that there is no leader.
func TestWhatTheLastNodeSaid(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		cl.nodes[address(0)].onRead = silent
		cl.nodes[address(1)].onRead = func(context.Context) error { return &api.Error{Code: api.NoLeader, Message: "no leader"} }
		cl.nodes[address(2)].onRead = silent
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Head(ctx)
		if api.CodeOf(err) != api.NoLeader || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("head: %v", err)
		}
		// What is done once, and was not answered, may have been done.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Remove(ctx, "x"); api.CodeOf(err) != api.DeadlineExceeded {
			t.Errorf("remove: %v", err)
		}
	})
}

func TestCluster(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		ctx := t.Context()
		cl.nodes[address(0)].onRead = func(context.Context) error { return &api.Error{Code: api.NoLeader, Message: "no leader"} }
		if err := c.Remove(ctx, "x"); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := c.Transfer(ctx, ""); err != nil {
			t.Errorf("transfer: %v", err)
		}
		m, err := c.Members(ctx)
		if err != nil || len(m) != 1 || m[0].Suffrage != "voter" || m[0].LastContact >= 0 {
			t.Errorf("members: %+v, %v", m, err)
		}
		if err := c.Leave(ctx, address(1), "id-of-node2:7101"); api.CodeOf(err) != api.Precondition {
			t.Errorf("another node leaves: %v", err)
		}
		if err := c.Leave(ctx, address(1), "id-of-"+address(1)); err != nil {
			t.Errorf("leave: %v", err)
		}
		r, _ := c.On(address(2))
		s, err := r.Status(ctx)
		if err != nil || s.NodeID != "id-of-node2:7101" || s.Address != address(2) {
			t.Errorf("status: %+v, %v", s, err)
		}
		// What may have been done is not done again.
		calls := 0
		for _, n := range cl.nodes {
			n.onRead = func(context.Context) error {
				calls++
				return &api.Error{Code: api.UnknownOutcome, Message: "leadership lost"}
			}
		}
		if err := c.Remove(ctx, "x"); api.CodeOf(err) != api.UnknownOutcome || calls != 1 {
			t.Errorf("remove, %d calls: %v", calls, err)
		}
	})
}
