package outbox_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/exonode/exonode/outbox"
)

// A history is what a process did with a queue, and what it was told.
type history struct {
	next     int      // number of the next item to append
	appended []string // items[i] has id i+1; "" where its fate is unknown
	durable  uint64   // the last id that Append returned
	acked    uint64   // the last id that Ack was called with
	scrubs   bool     // Scrub of the items with "secret" was called
	scrubbed bool     // and returned
}

func open(dir string, files *crashFS) (*outbox.Queue, error) {
	return outbox.Open(dir, outbox.Options{
		SegmentBytes: 400,
		Wrap:         func(outbox.FS) outbox.FS { return files },
	})
}

func (h *history) append(q *outbox.Queue, n int, word string) error {
	var items [][]byte
	for range n {
		items = append(items, fmt.Appendf(nil, "%s %d %s", word, h.next, bytes.Repeat([]byte("x"), h.next*7%50)))
		h.next++
	}
	last, err := q.Append(items...)
	if err != nil {
		return err
	}
	// A failed Append may have left items behind that a later one follows.
	for uint64(len(h.appended)) < last-uint64(n) {
		h.appended = append(h.appended, "")
	}
	h.appended = h.appended[:last-uint64(n)]
	for _, item := range items {
		h.appended = append(h.appended, string(item))
	}
	h.durable = last
	return nil
}

func (h *history) ack(q *outbox.Queue, upTo uint64) error {
	h.acked = max(h.acked, upTo)
	return q.Ack(upTo)
}

// life does some of everything, over several segments and two opens.
func (h *history) life(dir string, files *crashFS) error {
	q, err := open(dir, files)
	if err != nil {
		return err
	}
	defer func() { q.Close() }()
	for i := range 12 {
		word := "plain"
		if i%3 == 0 && !h.scrubbed {
			word = "secret"
		}
		if err := h.append(q, 1+i%3, word); err != nil {
			return err
		}
		switch i {
		case 4, 6:
			if err := h.ack(q, h.durable/2); err != nil {
				return err
			}
		case 7:
			h.scrubs = true
			if _, err := q.Scrub(func(item []byte) bool { return bytes.HasPrefix(item, []byte("secret")) }); err != nil {
				return err
			}
			h.scrubbed = true
		case 8:
			if err := q.Close(); err != nil {
				return err
			}
			next, err := open(dir, files)
			if err != nil {
				return err
			}
			q = next
		case 10:
			if err := h.ack(q, h.durable); err != nil {
				return err
			}
		}
	}
	return q.Close()
}

// check opens what a crash left and compares it with the history.
func (h *history) check(t *testing.T, dir string, files *crashFS) {
	t.Helper()
	q, err := open(dir, files)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer func() { q.Close() }()
	h.compare(t, q)
	if h.scrubbed {
		for name, f := range files.names {
			if bytes.Contains(f.data, []byte("secret")) {
				t.Fatalf("%s still holds what was scrubbed", name)
			}
		}
	}
	// The queue goes on, and remembers.
	if err := h.append(q, 2, "plain"); err != nil {
		t.Fatalf("append: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	again, err := open(dir, files)
	if err != nil {
		t.Fatalf("open again: %v", err)
	}
	q = again
	h.compare(t, q)
}

// compare checks that every durable item that was not acknowledged is there, in
// order, with its id, and that nothing else is but what may be.
func (h *history) compare(t *testing.T, q *outbox.Queue) {
	t.Helper()
	got := map[uint64]string{}
	last := uint64(0)
	for item, err := range q.Items(0) {
		if err != nil {
			t.Fatalf("items: %v", err)
		}
		if item.ID <= last {
			t.Fatalf("item %d after item %d", item.ID, last)
		}
		last = item.ID
		got[item.ID] = string(item.Data)
	}
	if q.Len() != len(got) {
		t.Fatalf("Len is %d, there are %d items", q.Len(), len(got))
	}
	for i, want := range h.appended {
		id := uint64(i) + 1
		have, ok := got[id]
		secret := bytes.HasPrefix([]byte(want), []byte("secret"))
		switch {
		case ok && want != "" && have != want:
			t.Fatalf("item %d is %q, want %q", id, have, want)
		case ok && secret && h.scrubbed:
			t.Fatalf("item %d was scrubbed and is back", id)
		case !ok && want != "" && id > h.acked && id <= h.durable && !(secret && h.scrubs):
			t.Fatalf("item %d (%q) is lost", id, want)
		}
	}
}

// crashed returns a history that ended in a crash at an operation, and the file
// system as the dying process had it.
func crashed(t *testing.T, dir string, at int) (*history, *crashFS) {
	t.Helper()
	files := newCrashFS()
	files.crashAt = at
	h := new(history)
	if err := h.life(dir, files); err == nil {
		t.Fatalf("no crash at operation %d", at)
	}
	return h, files
}

// afterwards is the life after a crash: it opens the queue and appends.
func (h *history) afterwards(dir string, files *crashFS) error {
	q, err := open(dir, files)
	if err != nil {
		return err
	}
	defer func() { q.Close() }()
	if err := h.append(q, 2, "plain"); err != nil {
		return err
	}
	return q.Close()
}

// TestCrash crashes at every operation, with several outcomes for what was not
// synced; goes on, after a restart of the machine or of the process alone; and
// crashes again at every operation of that.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	whole := newCrashFS()
	if err := new(history).life(dir, whole); err != nil {
		t.Fatal(err)
	}
	outcomes := []survivor{nothing, everything, anything, anything, anything, anything}
	crashes := 0
	for at := 1; at <= whole.ops; at++ {
		for i, outcome := range outcomes {
			for _, machine := range []bool{true, false} {
				for again := 1; ; again++ {
					rng := rand.New(rand.NewPCG(uint64(at), uint64(i)))
					h, files := crashed(t, dir, at)
					if machine {
						files = files.restart(outcome, rng)
					}
					files.revive(again)
					err := h.afterwards(dir, files)
					if err != nil && !files.crashed {
						t.Fatalf("operation %d, outcome %d, machine %t: %v", at, i, machine, err)
					}
					t.Run("", func(t *testing.T) { h.check(t, dir, files.restart(outcome, rng)) })
					if t.Failed() {
						t.Fatalf("operation %d, outcome %d, machine %t, then operation %d", at, i, machine, again)
					}
					if crashes++; !files.crashed {
						break
					}
				}
			}
		}
	}
	t.Logf("%d operations, %d crashes", whole.ops, crashes)
}
