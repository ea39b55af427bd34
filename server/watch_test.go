package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

// A watch that is cut off again and again, and resumed each time, delivers every
// entry once and in order, while others append.
func TestWatchResumes(t *testing.T) {
	const total = 400
	r := start(t, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < total; i += 20 {
			fill(t, r, i, 20)
		}
	})
	next, want := uint64(0), uint64(0)
	for want <= total {
		ctx, cancel := context.WithCancel(t.Context())
		w, err := r.ledger(connect.WithGRPC()).Watch(ctx, &exonodev1.WatchRequest{SequenceFrom: next, Form: exonodev1.EntryForm_ENTRY_FORM_RAW})
		if err != nil {
			t.Fatal(err)
		}
		for message := 0; message < 3 && want <= total; message++ {
			if !w.Receive() {
				t.Fatal(w.Err())
			}
			for _, e := range w.Msg().GetEntries() {
				if e.GetSequence() != want {
					t.Fatalf("delivered %d, want %d", e.GetSequence(), want)
				}
				want++
			}
			next = w.Msg().GetNextSequence()
			if next != want {
				t.Fatalf("next sequence %d after %d without a filter", next, want)
			}
		}
		cancel()
		w.Close()
	}
	wg.Wait()
}

// With a filter, what does not match is skipped, and next_sequence gets past it.
func TestWatchFilters(t *testing.T) {
	r := start(t, nil)
	for i := range 30 {
		e := event(i)
		e.Kind = []string{"agent.spawn", "agent.stop", "tool.execute"}[i%3]
		if _, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	for kind, want := range map[string]int{"agent.*": 20, "agent.stop": 10, "none.such": 0, "": 31} {
		t.Run(kind, func(t *testing.T) {
			w, err := r.ledger().Watch(t.Context(), &exonodev1.WatchRequest{
				Filter: &exonodev1.Filter{Kind: kind}, Heartbeat: durationpb.New(100 * time.Millisecond),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			got := 0
			for w.Receive() {
				got += len(w.Msg().GetEntries())
				if w.Msg().GetNextSequence() == 31 {
					break
				}
			}
			if got != want {
				t.Errorf("%d entries, want %d (%v)", got, want, w.Err())
			}
		})
	}
}

func TestWatchNewOnly(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 5)
	w, err := r.ledger().Watch(t.Context(), &exonodev1.WatchRequest{NewOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !w.Receive() || w.Msg().GetHead().GetSize() != 6 || w.Msg().GetNextSequence() != 6 || len(w.Msg().GetEntries()) != 0 {
		t.Fatalf("first message %v, %v", w.Msg(), w.Err())
	}
	fill(t, r, 5, 1)
	if !w.Receive() || len(w.Msg().GetEntries()) != 1 || w.Msg().GetEntries()[0].GetSequence() != 6 {
		t.Fatalf("second message %v, %v", w.Msg(), w.Err())
	}
}

func TestWatchRefuses(t *testing.T) {
	r := start(t, nil)
	for name, test := range map[string]struct {
		req   *exonodev1.WatchRequest
		field string
	}{
		"both starts": {&exonodev1.WatchRequest{NewOnly: true, SequenceFrom: 1}, "new_only"},
		"heartbeat":   {&exonodev1.WatchRequest{Heartbeat: durationpb.New(time.Millisecond)}, "heartbeat"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := r.ledger().Watch(t.Context(), test.req)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if w.Receive() {
				t.Fatalf("got %v", w.Msg())
			}
			if e := wantCode(t, w.Err(), api.BadField); e.Field != test.field {
				t.Errorf("field %q", e.Field)
			}
		})
	}
}

// A stopping server tells a watch to go elsewhere.
func TestWatchEndsWhenTheServerStops(t *testing.T) {
	r := start(t, nil)
	w, err := r.ledger().Watch(t.Context(), &exonodev1.WatchRequest{SequenceFrom: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !w.Receive() {
		t.Fatal(w.Err())
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if w.Receive() {
		t.Fatalf("got %v", w.Msg())
	}
	wantCode(t, w.Err(), api.NotReady)
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Pages of a listing are the chain as it was at the first one, whatever their
// size and order, while the chain grows.
func TestListPages(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 50)
	for _, test := range []struct {
		from, to uint64
		reverse  bool
		page     int32
		want     []uint64
	}{
		{page: 7, want: sequences(0, 51, false)},
		{page: 1000, want: sequences(0, 51, false)},
		{page: 7, reverse: true, want: sequences(0, 51, true)},
		{from: 10, to: 20, page: 3, want: sequences(10, 20, false)},
		{from: 10, to: 20, page: 5, reverse: true, want: sequences(10, 20, true)},
		{from: 45, to: 900, page: 2, want: sequences(45, 51, false)},
		{from: 51, page: 2},
		{from: 900, page: 2},
		{from: 20, to: 10, page: 2},
	} {
		t.Run(fmt.Sprintf("%d to %d by %d reverse %v", test.from, test.to, test.page, test.reverse), func(t *testing.T) {
			r := start(t, nil)
			fill(t, r, 0, 50)
			req := &exonodev1.ListRequest{SequenceFrom: test.from, SequenceTo: test.to, Reverse: test.reverse, PageSize: test.page}
			var got []uint64
			for page := 0; ; page++ {
				res, err := r.ledger().List(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				if res.GetChainSize() != 51 {
					t.Fatalf("listing of a chain of %d entries", res.GetChainSize())
				}
				for _, e := range res.GetEntries() {
					got = append(got, e.GetSequence())
				}
				if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
					break
				}
				if len(res.GetEntries()) != int(test.page) {
					t.Fatalf("%d entries on page %d", len(res.GetEntries()), page)
				}
				fill(t, r, 100+page, 1)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("listed %v, want %v", got, test.want)
			}
		})
	}
}

// A page of large entries is cut before it is too large for a gRPC client, and
// loses none.
func TestListOfLargeEntries(t *testing.T) {
	r := start(t, nil)
	for i := range 5 {
		e := event(i)
		e.Text = `"` + strings.Repeat("x", 300<<10) + `"`
		if _, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	req := new(exonodev1.ListRequest)
	var got []uint64
	pages := 0
	for ; pages == 0 || req.PageToken != ""; pages++ {
		res, err := r.ledger().List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(res); size > 4<<20 {
			t.Errorf("page %d has %d bytes", pages, size)
		}
		for _, e := range res.GetEntries() {
			got = append(got, e.GetSequence())
		}
		req.PageToken = res.GetNextPageToken()
	}
	if fmt.Sprint(got) != "[0 1 2 3 4 5]" || pages < 2 {
		t.Errorf("listed %v on %d pages", got, pages)
	}
}

// A session read that waits in vain says that the node is behind.
func TestSessionReadBehind(t *testing.T) {
	// Long enough for the read to begin its wait on a busy machine.
	r := start(t, func(c *server.Config) { c.RequestTimeout = 300 * time.Millisecond })
	_, err := r.ledger().Head(t.Context(), &exonodev1.HeadRequest{Consistency: &exonodev1.Consistency{
		Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION, Sequence: 9,
	}})
	if e := wantCode(t, err, api.BehindSession); e.Sequence != 9 {
		t.Errorf("error %+v", e)
	}
}

// A later page waits, on any node, for the chain that the first one saw.
func TestLaterPagesAreOfTheSameChain(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 5)
	res, err := r.ledger().List(t.Context(), &exonodev1.ListRequest{PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan server.Consistency, 1)
	r.node.SetHooks(servertest.Hooks{Await: func(_ context.Context, c server.Consistency) error {
		asked <- c
		return nil
	}})
	if _, err := r.ledger().List(t.Context(), &exonodev1.ListRequest{PageSize: 2, PageToken: res.GetNextPageToken()}); err != nil {
		t.Fatal(err)
	}
	if got, want := <-asked, (server.Consistency{Level: server.Session, Sequence: 5}); got != want {
		t.Errorf("the second page asks for %+v, want %+v", got, want)
	}
}

func TestPageTokenBelongsToItsListing(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 5)
	base := func() *exonodev1.ListRequest {
		return &exonodev1.ListRequest{PageSize: 2, Filter: &exonodev1.Filter{Source: "test"}}
	}
	res, err := r.ledger().List(t.Context(), base())
	if err != nil {
		t.Fatal(err)
	}
	token := res.GetNextPageToken()
	for name, change := range map[string]func(*exonodev1.ListRequest){
		"filter":   func(q *exonodev1.ListRequest) { q.Filter.Source = "other" },
		"range":    func(q *exonodev1.ListRequest) { q.SequenceTo = 4 },
		"order":    func(q *exonodev1.ListRequest) { q.Reverse = true },
		"tampered": func(q *exonodev1.ListRequest) { q.PageToken = "B" + token[1:] },
		"position": func(q *exonodev1.ListRequest) { q.PageToken = token[:8] + "ABCD" + token[12:] },
		"short":    func(q *exonodev1.ListRequest) { q.PageToken = token[:20] },
		"no token": func(q *exonodev1.ListRequest) { q.PageToken = "%%%" },
	} {
		t.Run(name, func(t *testing.T) {
			req := base()
			req.PageToken = token
			change(req)
			_, err := r.ledger().List(t.Context(), req)
			wantCode(t, err, api.Malformed)
		})
	}
	req := base()
	req.PageToken, req.PageSize = token, 1 // the page size may change
	if _, err := r.ledger().List(t.Context(), req); err != nil {
		t.Error(err)
	}
}

func sequences(from, to uint64, reverse bool) []uint64 {
	var list []uint64
	for i := from; i < to; i++ {
		n := i
		if reverse {
			n = to - 1 - (i - from)
		}
		list = append(list, n)
	}
	return list
}
