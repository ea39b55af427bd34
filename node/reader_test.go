package node

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/server"
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrowth(3)
		if !closed(g.beyond(2)) {
			t.Error("there are more than 2 of 3")
		}
		next := g.beyond(3)
		var wg sync.WaitGroup
		var reached [6]bool // by size; read once all wait again
		for size := range uint64(6) {
			wg.Go(func() {
				if err := g.await(t.Context(), size); err != nil {
					t.Error(err)
				}
				reached[size] = true
			})
		}
		synctest.Wait()
		if reached != [6]bool{true, true, true, true} {
			t.Errorf("with 3 entries, reached are %v", reached)
		}
		g.set(2) // a batch that was replayed
		if closed(next) {
			t.Error("told of growth without any")
		}
		g.set(4)
		synctest.Wait()
		if !closed(next) || reached != [6]bool{true, true, true, true, true} {
			t.Errorf("with 4 entries, reached are %v", reached)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.await(ctx, 9); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		g.set(5)
		wg.Wait()
	})
}

// store is a ledger in memory, without proofs and scans.
type store struct {
	*ledgertest.Memory
	proofStore
}

func (store) Scan(chain.Filter, uint64, uint64, bool) iter.Seq2[chain.Record, error] { return nil }

func codeOf(err error) api.Code {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// TestReaderSaysWhy: every refusal of a read has its code.
func TestReaderSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := ledgertest.NewMemory()
		if err := memory.Commit(ledgertest.NewBuilder(1).NextN(3, 10)); err != nil {
			t.Fatal(err)
		}
		r := reader{store: store{Memory: memory}, growth: newGrowth(3)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if size, err := r.Await(ctx, server.Consistency{Level: server.Session, Sequence: 2}); size != 3 || err != nil {
			t.Errorf("entry 2 of 3: %d, %v", size, err)
		}
		if size, err := r.Await(ctx, server.Consistency{Level: server.Stale}); size != 3 || err != nil {
			t.Errorf("stale: %d, %v", size, err)
		}
		_, behind := r.Await(ctx, server.Consistency{Level: server.Session, Sequence: 3})
		_, missing := r.Record(ctx, 3)
		_, unknown := r.Lookup(ctx, chain.Key{Workspace: "w", Source: "s", ID: "i"})
		_, beyond := r.RootAt(ctx, 4)
		_, outside := r.InclusionProof(ctx, 3, 3)
		_, backward := r.ConsistencyProof(ctx, 3, 2)
		for _, test := range []struct {
			name string
			err  error
			want api.Code
		}{
			{"a session that is ahead", behind, api.BehindSession},
			{"an entry that is not there", missing, api.NotFound},
			{"a key that is not there", unknown, api.NotFound},
			{"a tree that is not there", beyond, api.NotFound},
			{"an entry outside of the tree", outside, api.BadField},
			{"from the larger to the smaller", backward, api.BadField},
		} {
			if got := codeOf(test.err); got != test.want {
				t.Errorf("%s: %v, want code %s", test.name, test.err, test.want)
			}
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := r.Await(gone, server.Consistency{Level: server.Session, Sequence: 3}); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that left: %v", err)
		}
		if err := storeError(errors.New("disk")); codeOf(err) != api.Internal {
			t.Errorf("a store's error: %v", err)
		}
		if err := storeError(context.DeadlineExceeded); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: %v", err)
		}
	})
}
