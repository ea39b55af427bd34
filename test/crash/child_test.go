package crash_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/outbox"
)

// childEnv tells a process of the test binary that it is the child: a task in JSON.
const childEnv = "EXONODE_CRASH_TASK"

// task is what a child does.
type task struct {
	Dir     string // of the stores
	Said    string // the file for its announcements
	Backend raftstore.Backend
	Seed    uint64
	Orders  int    // how many
	N       uint64 // the number of the first
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0) // nothing is closed: what is to be durable is
	}
	os.Exit(m.Run())
}

// worker is a child at work.
type worker struct {
	task
	said   *os.File
	stores *raftstore.Stores
	queue  *outbox.Queue
	r      *rand.Rand
	n      uint64

	first, last, term  uint64
	manifest, received uint64 // the newest, 0 for none
	receivedID         string
	acked, pushed      uint64
}

func child(text string) (err error) {
	w := new(worker)
	if err := json.Unmarshal([]byte(text), &w.task); err != nil {
		return err
	}
	if w.said, err = os.OpenFile(w.Said, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return err
	}
	w.r, w.n = rand.New(rand.NewPCG(w.Seed, 1)), w.N
	if err := w.do(order{Op: "open"}, w.open); err != nil {
		return err
	}
	if err := w.mend(); err != nil {
		return err
	}
	for range w.Orders {
		if err := w.one(); err != nil {
			return err
		}
	}
	return nil
}

// do announces an operation, does it, and announces that it is done.
func (w *worker) do(o order, f func() error) error {
	w.n++
	o.N = w.n
	if _, err := w.said.WriteString(o.String()); err != nil {
		return err
	}
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	_, err := w.said.WriteString("done\n")
	return err
}

func (w *worker) open() (err error) {
	if w.stores, err = openStores(w.Dir, w.Backend, func(error) {}); err != nil {
		return err
	}
	if w.queue, err = openQueue(w.Dir); err != nil {
		return err
	}
	st, err := w.stores.State()
	if err != nil {
		return err
	}
	w.first, w.last, w.term, w.manifest = st.FirstLog, st.LastLog, max(st.Term, 1), st.SnapshotIndex
	if w.pushed, err = w.queue.Append(); err != nil {
		return err
	}
	w.acked = w.pushed - uint64(w.queue.Len())
	pending, err := w.stores.Manifests.Pending()
	if len(pending) > 0 && pending[0].Index > w.manifest {
		w.received, w.receivedID = pending[0].Index, pending[0].ID
	}
	return err
}

// mend is what a node does before raft starts.
func (w *worker) mend() error {
	if w.last == 0 || w.last >= w.manifest {
		return nil
	}
	o := order{Op: "delete", A: w.first, B: w.last}
	w.first, w.last = 0, 0
	return w.do(o, func() error {
		dropped, err := w.stores.Mend()
		if err == nil && !dropped {
			err = errors.New("a log that ends before the manifest stays")
		}
		return err
	})
}

// one does what comes next; raft does the like in the same order.
func (w *worker) one() error {
	switch dice := w.r.IntN(100); {
	case dice < 55:
		return w.append()
	case dice < 61 && w.last > max(w.first, w.manifest)+4:
		return w.conflict()
	case dice < 67 && w.last > w.manifest+2:
		return w.snapshot()
	case dice < 70:
		return w.install()
	case dice < 75:
		w.term += 1 + w.r.Uint64N(3)
		o := order{Op: "term", Term: w.term}
		return w.do(o, func() error { return w.stores.Vote.SetUint64([]byte("CurrentTerm"), w.term) })
	case dice < 82:
		return w.vote()
	case dice < 94 || w.acked == w.pushed:
		return w.push()
	default:
		w.acked += 1 + w.r.Uint64N(w.pushed-w.acked)
		return w.do(order{Op: "ack", B: w.acked}, func() error { return w.queue.Ack(w.acked) })
	}
}

func (w *worker) append() error {
	o := order{Op: "append", N: w.n + 1, A: max(w.last, w.manifest) + 1, Term: w.term}
	o.B = o.A + w.r.Uint64N([]uint64{1, 2, 12}[w.r.IntN(3)])
	if w.last == 0 {
		w.first = o.A
	}
	w.last = o.B
	return w.do(o, func() error { return w.stores.Log.StoreLogs(o.entries()) })
}

func (w *worker) delete(lo, hi uint64) error {
	return w.do(order{Op: "delete", A: lo, B: hi}, func() error { return w.stores.Log.DeleteRange(lo, hi) })
}

// conflict drops the end of the log, of what is beyond the newest manifest, and another
// leader's entries come instead.
func (w *worker) conflict() error {
	from := w.last - w.r.Uint64N(min(w.last-max(w.first, w.manifest), 40))
	if err := w.delete(from, w.last); err != nil {
		return err
	}
	w.last = from - 1
	w.term++
	return w.append()
}

// snapshot takes a manifest, and drops the beginning of the log.
func (w *worker) snapshot() error {
	w.manifest = w.last - w.r.Uint64N(min(w.last-w.manifest, 5))
	var l raft.Log
	if err := w.stores.Log.GetLog(w.manifest, &l); err != nil {
		return err
	}
	if err := w.take("take", w.manifest, l.Term, true); err != nil {
		return err
	}
	keep := w.manifest - min(w.manifest, w.r.Uint64N(12))
	if keep < w.first {
		return nil
	}
	lo := w.first
	w.first = keep + 1
	if w.first > w.last {
		w.first, w.last = 0, 0
	}
	return w.delete(lo, keep)
}

func (w *worker) take(op string, index, term uint64, local bool) error {
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a.1", Address: "a"}}}
	return w.do(order{Op: op, A: index, Term: term}, func() error {
		sink, err := w.stores.Manifests.Create(1, index, term, conf, 1, nil)
		if err != nil {
			return err
		}
		if local {
			sink.(raftstore.LocalSink).Local()
		} else {
			w.receivedID = sink.ID()
		}
		_, err = sink.Write([]byte(manifestText(index)))
		return errors.Join(err, sink.Close())
	})
}

// install receives a manifest from beyond the log, and confirms it the next time; then
// the log goes, as raft drops it.
func (w *worker) install() error {
	if w.received == 0 {
		w.received = max(w.last, w.manifest) + 1 + w.r.Uint64N(50)
		return w.take("receive", w.received, w.term, false)
	}
	index, id := w.received, w.receivedID
	w.received = 0
	if index <= max(w.manifest, w.last) {
		return nil // overtaken
	}
	err := w.do(order{Op: "confirm", A: index}, func() error {
		return w.stores.Manifests.Confirm(id)
	})
	if err != nil || w.last == 0 {
		w.manifest = index
		return err
	}
	lo, hi := w.first, w.last
	w.manifest, w.first, w.last = index, 0, 0
	return w.delete(lo, hi)
}

func (w *worker) vote() error {
	o := order{Op: "vote", A: w.r.Uint64N(1000), Term: w.term}
	return w.do(o, func() error {
		return errors.Join(w.stores.Vote.SetUint64([]byte("LastVoteTerm"), o.Term), w.stores.Vote.Set([]byte("LastVoteCand"), []byte(o.candidate())))
	})
}

func (w *worker) push() error {
	o := order{Op: "push", N: w.n + 1, A: w.pushed + 1}
	o.B = o.A + w.r.Uint64N(4)
	w.pushed = o.B
	return w.do(o, func() error {
		_, err := w.queue.Append(o.items()...)
		return err
	})
}
