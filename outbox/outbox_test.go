package outbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/outbox"
)

func mustOpen(t *testing.T, dir string, options outbox.Options) *outbox.Queue {
	t.Helper()
	q, err := outbox.Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func mustAppend(t *testing.T, q *outbox.Queue, items ...string) uint64 {
	t.Helper()
	var list [][]byte
	for _, item := range items {
		list = append(list, []byte(item))
	}
	last, err := q.Append(list...)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// content returns the items that wait, as "id:data".
func content(t *testing.T, q *outbox.Queue) []string {
	t.Helper()
	var list []string
	for item, err := range q.Items(0) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%d:%s", item.ID, item.Data))
	}
	return list
}

func wantContent(t *testing.T, q *outbox.Queue, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, content(t, q)); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
	if q.Len() != len(want) {
		t.Errorf("Len is %d, want %d", q.Len(), len(want))
	}
}

func TestQueue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	q := mustOpen(t, dir, outbox.Options{})
	wantContent(t, q)
	if last := mustAppend(t, q, "one", "two"); last != 2 {
		t.Errorf("last id is %d, want 2", last)
	}
	if last := mustAppend(t, q, ""); last != 3 {
		t.Errorf("last id is %d, want 3", last)
	}
	if last := mustAppend(t, q); last != 3 {
		t.Errorf("last id without items is %d, want 3", last)
	}
	wantContent(t, q, "1:one", "2:two", "3:")
	items, err := q.Peek(2)
	if err != nil || len(items) != 2 || items[1].ID != 2 {
		t.Errorf("Peek(2) is %v, %v", items, err)
	}
	if err := q.Ack(4); err == nil {
		t.Error("an item to come was acknowledged")
	}
	for _, id := range []uint64{1, 1, 0} {
		if err := q.Ack(id); err != nil {
			t.Error(err)
		}
	}
	wantContent(t, q, "2:two", "3:")

	// What was acknowledged stays so over a close, and ids go on.
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = mustOpen(t, dir, outbox.Options{})
	mustAppend(t, q, "four")
	wantContent(t, q, "2:two", "3:", "4:four")
	if r := q.Recovery(); r != (outbox.Recovery{}) {
		t.Errorf("recovery of a closed queue: %+v", r)
	}
}

func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outbox")
	mustAppend(t, mustOpen(t, dir, outbox.Options{}), "secret")
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("files: %v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	q := mustOpen(t, dir, outbox.Options{})
	if _, err := outbox.Open(dir, outbox.Options{}); !errors.Is(err, outbox.ErrLocked) {
		t.Errorf("second Open: %v, want ErrLocked", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, outbox.Options{})
}

func TestClosed(t *testing.T) {
	q := mustOpen(t, t.TempDir(), outbox.Options{})
	mustAppend(t, q, "one")
	ready := q.Ready(1)
	for range 2 {
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	<-ready
	<-q.Ready(1)
	_, appendErr := q.Append([]byte("two"))
	_, peekErr := q.Peek(1)
	_, scrubErr := q.Scrub(func([]byte) bool { return true })
	for i, err := range []error{appendErr, peekErr, scrubErr, q.Ack(1)} {
		if !errors.Is(err, outbox.ErrClosed) {
			t.Errorf("call %d: %v, want ErrClosed", i, err)
		}
	}
}

func TestLimits(t *testing.T) {
	q := mustOpen(t, t.TempDir(), outbox.Options{MaxBytes: 2 * (10 + 8)})
	ten := []byte("0123456789")
	if _, err := q.Append(ten, ten); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Append(nil); !errors.Is(err, outbox.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	if err := q.Ack(1); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Append(ten); err != nil {
		t.Errorf("after an acknowledgement: %v", err)
	}
	if _, err := q.Append(make([]byte, outbox.MaxItem+1)); !errors.Is(err, outbox.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if _, err := q.Append(slicesOf(make([]byte, outbox.MaxItem), 9)...); !errors.Is(err, outbox.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	wantContent(t, q, "2:0123456789", "3:0123456789")
	if _, err := outbox.Open(t.TempDir(), outbox.Options{MaxBytes: -1}); err == nil {
		t.Error("a negative limit was accepted")
	}
}

func slicesOf(item []byte, n int) (list [][]byte) {
	for range n {
		list = append(list, item)
	}
	return list
}

// TestSegmentsGo checks that files are removed once all in them is
// acknowledged, and that ids go on in the next life.
func TestSegmentsGo(t *testing.T) {
	dir := t.TempDir()
	options := outbox.Options{SegmentBytes: 200}
	q := mustOpen(t, dir, options)
	for i := range 20 {
		mustAppend(t, q, fmt.Sprintf("item %d %s", i, bytes.Repeat([]byte("x"), 60)))
	}
	if n := len(segments(t, dir)); n < 5 {
		t.Fatalf("%d segments of 20 items", n)
	}
	if err := q.Ack(20); err != nil {
		t.Fatal(err)
	}
	if n := len(segments(t, dir)); n > 2 {
		t.Errorf("%d segments of none", n)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = mustOpen(t, dir, options)
	if last := mustAppend(t, q, "next"); last != 21 {
		t.Errorf("next id is %d, want 21", last)
	}
	wantContent(t, q, "21:next")
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestReadSurvivesAck reads an item whose file is removed meanwhile.
func TestReadSurvivesAck(t *testing.T) {
	q := mustOpen(t, t.TempDir(), outbox.Options{SegmentBytes: 1})
	mustAppend(t, q, "one")
	mustAppend(t, q, "two")
	var got []string
	for item, err := range q.Items(0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(item.Data))
		if err := q.Ack(item.ID); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"one", "two"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReady(t *testing.T) {
	q := mustOpen(t, t.TempDir(), outbox.Options{})
	first := q.Ready(0)
	select {
	case <-first:
		t.Fatal("ready without an item")
	default:
	}
	mustAppend(t, q, "one")
	<-first
	<-q.Ready(0)
	second := q.Ready(1)
	select {
	case <-second:
		t.Fatal("ready for a second item")
	default:
	}
	mustAppend(t, q, "two")
	<-second
}

// TestGroupCommit holds the first sync until all other appenders wait: they
// share the second.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const appenders = 50
		files := newCrashFS()
		q, err := outbox.Open(t.TempDir(), outbox.Options{Wrap: func(outbox.FS) outbox.FS { return files }})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		before := files.syncs
		held := make(chan struct{})
		files.onSync = func() { <-held }
		ids := make([]uint64, appenders)
		appendOne := func(i int) {
			id, err := q.Append(fmt.Append(nil, i))
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		}
		go appendOne(0)
		synctest.Wait()
		for i := range appenders - 1 {
			go appendOne(1 + i)
		}
		synctest.Wait()
		if q.Len() != 0 {
			t.Errorf("%d items before the first sync", q.Len())
		}
		close(held)
		synctest.Wait()
		if n := files.syncs - before; n != 2 {
			t.Errorf("%d syncs, want 2", n)
		}
		for i, id := range ids {
			items, err := q.Peek(appenders)
			if err != nil || id == 0 || string(items[id-1].Data) != fmt.Sprint(i) {
				t.Errorf("appender %d was told id %d (%v)", i, id, err)
			}
		}
	})
}

// TestConcurrent has several appenders, one reader, and a scrubber that finds
// nothing: every appender's items come once and in its order.
func TestConcurrent(t *testing.T) {
	const appenders, each = 8, 50
	q := mustOpen(t, t.TempDir(), outbox.Options{SegmentBytes: 2000})
	var wait sync.WaitGroup
	for a := range appenders {
		wait.Go(func() {
			for i := range each {
				if _, err := q.Append(fmt.Appendf(nil, "%d %d", a, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Go(func() {
		for range 20 {
			if _, err := q.Scrub(func([]byte) bool { return false }); err != nil {
				t.Error(err)
			}
		}
	})
	next := [appenders]int{}
	after := uint64(0)
	for after < appenders*each {
		<-q.Ready(after)
		for item, err := range q.Items(after) {
			if err != nil {
				t.Fatal(err)
			}
			var a, i int
			if _, err := fmt.Sscanf(string(item.Data), "%d %d", &a, &i); err != nil || next[a] != i || item.ID != after+1 {
				t.Fatalf("item %d is %q, want %d of appender %d (%v)", item.ID, item.Data, next[a], a, err)
			}
			next[a]++
			after = item.ID
			if err := q.Ack(after); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait.Wait()
	wantContent(t, q)
}

func TestScrub(t *testing.T) {
	dir := t.TempDir()
	options := outbox.Options{SegmentBytes: 120}
	q := mustOpen(t, dir, options)
	for i := range 12 {
		word := "keep"
		if i%4 == 0 || i == 7 {
			word = "burn"
		}
		mustAppend(t, q, fmt.Sprintf("%s%d", word, i))
	}
	if err := q.Ack(1); err != nil { // burn0 lies in a file still
		t.Fatal(err)
	}
	n, err := q.Scrub(func(item []byte) bool { return bytes.HasPrefix(item, []byte("burn")) })
	if err != nil || n != 4 {
		t.Fatalf("Scrub: %d, %v; want 4", n, err)
	}
	want := []string{"2:keep1", "3:keep2", "4:keep3", "6:keep5", "7:keep6", "10:keep9", "11:keep10", "12:keep11"}
	wantContent(t, q, want...)
	mustAppend(t, q, "keep12")
	want = append(want, "13:keep12")
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range segments(t, dir) {
		text, err := os.ReadFile(name)
		if err != nil || bytes.Contains(text, []byte("burn")) {
			t.Errorf("%s holds what was removed (%v)", name, err)
		}
	}
	q = mustOpen(t, dir, options)
	wantContent(t, q, want...)
	if n, err := q.Scrub(func([]byte) bool { return true }); err != nil || n < len(want) {
		t.Errorf("Scrub of all: %d, %v", n, err)
	}
	wantContent(t, q)
	if last := mustAppend(t, q, "next"); last != 14 {
		t.Errorf("next id is %d, want 14", last)
	}
	wantContent(t, q, "14:next")
}

// TestScrubDropsAcknowledged: what was acknowledged goes from a file that is
// rewritten anyway.
func TestScrubDropsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	q := mustOpen(t, dir, outbox.Options{})
	mustAppend(t, q, "delivered", "burn", "keep")
	if err := q.Ack(1); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Scrub(func(item []byte) bool { return string(item) == "burn" }); err != nil || n != 1 {
		t.Fatalf("Scrub: %d, %v; want 1", n, err)
	}
	text, err := os.ReadFile(segments(t, dir)[0])
	if err != nil || bytes.Contains(text, []byte("delivered")) || !bytes.Contains(text, []byte("keep")) {
		t.Errorf("the file is %q (%v)", text, err)
	}
	wantContent(t, q, "3:keep")

	// The rewritten file can be read, also once an acknowledgement of items
	// in it is durable.
	mustAppend(t, q, "burn", "last")
	if err := q.Ack(3); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, q, "more")
	if n, err := q.Scrub(func(item []byte) bool { return string(item) == "burn" }); err != nil || n != 1 {
		t.Fatalf("Scrub: %d, %v; want 1", n, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	wantContent(t, mustOpen(t, dir, outbox.Options{}), "5:last", "6:more")
}

// TestCloseWaitsForReader: a file that is to be removed stays open until its
// reader is through.
func TestCloseWaitsForReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := newCrashFS()
		q, err := outbox.Open(t.TempDir(), outbox.Options{SegmentBytes: 1, Wrap: func(outbox.FS) outbox.FS { return files }})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		mustAppend(t, q, "one")
		mustAppend(t, q, "two")
		held := make(chan struct{})
		files.onRead = func() { <-held }
		go func() {
			items, err := q.Peek(1)
			if err != nil || len(items) != 1 || string(items[0].Data) != "one" {
				t.Errorf("Peek: %v, %v", items, err)
			}
		}()
		synctest.Wait()
		if err := q.Ack(1); err != nil {
			t.Fatal(err)
		}
		if n := files.closed; n != 0 {
			t.Errorf("%d files closed under their reader", n)
		}
		close(held)
		synctest.Wait()
		if n := files.closed; n != 1 {
			t.Errorf("%d files closed after the read, want 1", n)
		}
	})
}

// TestBroken: after a failed sync the queue refuses everything.
func TestBroken(t *testing.T) {
	files := newCrashFS()
	q, err := outbox.Open(t.TempDir(), outbox.Options{Wrap: func(outbox.FS) outbox.FS { return files }})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, q, "one")
	ready := q.Ready(1)
	files.crashed = true
	_, first := q.Append([]byte("two"))
	files.crashed = false
	_, second := q.Append([]byte("three"))
	<-ready
	_, peek := q.Peek(1)
	for i, err := range []error{first, second, peek, q.Ack(1)} {
		if !errors.Is(err, outbox.ErrBroken) || !errors.Is(err, errCrash) {
			t.Errorf("call %d: %v, want ErrBroken with its cause", i, err)
		}
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
