package outbox_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/outbox"
)

const (
	headerSize = 32
	batchSize  = 32 + 8 + 5 // one item of five bytes
)

// sixItems returns the files of a closed queue with the items "item1" to
// "item6" in two segments, three batches each, and their names.
func sixItems(t *testing.T) (files *crashFS, first, second string) {
	t.Helper()
	files = newCrashFS()
	q := mustOpen(t, t.TempDir(), outbox.Options{
		SegmentBytes: headerSize + 3*batchSize,
		Wrap:         func(outbox.FS) outbox.FS { return files },
	})
	for i := range 6 {
		mustAppend(t, q, fmt.Sprintf("item%d", i+1))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(files.names))
	if len(names) != 2 {
		t.Fatalf("%d segments, want 2", len(names))
	}
	return files, names[0], names[1]
}

// reopen opens a copy of files, which change has changed.
func reopen(dir string, files *crashFS, change func(names map[string]*crashFile)) (*outbox.Queue, *crashFS, error) {
	files = files.restart(everything, nil)
	change(files.names)
	q, err := outbox.Open(dir, outbox.Options{Wrap: func(outbox.FS) outbox.FS { return files }})
	return q, files, err
}

// TestFlippedByte flips each byte of each file. All of them are found, and named
// with their batch, but in the last batch, which is dropped as torn.
func TestFlippedByte(t *testing.T) {
	whole, first, second := sixItems(t)
	dir := t.TempDir()
	for _, name := range []string{first, second} {
		for offset := range headerSize + 3*batchSize {
			q, files, err := reopen(dir, whole, func(names map[string]*crashFile) { names[name].data[offset] ^= 1 })
			batch := int64(headerSize + (offset-headerSize)/batchSize*batchSize)
			if offset < headerSize {
				batch = 0
			}
			if name == second && batch == headerSize+2*batchSize {
				if err != nil {
					t.Fatalf("byte %d of the last batch: %v", offset, err)
				}
				wantContent(t, q, "1:item1", "2:item2", "3:item3", "4:item4", "5:item5")
				want := outbox.Recovery{File: second, Offset: batch, Bytes: batchSize}
				if q.Recovery() != want {
					t.Errorf("byte %d: recovery is %+v, want %+v", offset, q.Recovery(), want)
				}
				if n := len(files.names[second].synced); int64(n) != batch {
					t.Errorf("byte %d: the file has %d bytes, want %d", offset, n, batch)
				}
				q.Close()
				continue
			}
			var damage *outbox.CorruptError
			if !errors.As(err, &damage) {
				t.Fatalf("byte %d of %s: %v, want a CorruptError", offset, name, err)
			}
			if damage.File != name || damage.Offset != batch || !strings.Contains(err.Error(), name) {
				t.Errorf("byte %d of %s: found in %s at %d, want %d", offset, name, damage.File, damage.Offset, batch)
			}
		}
	}
}

// TestCutShort truncates the newest file at each length.
func TestCutShort(t *testing.T) {
	whole, _, second := sixItems(t)
	dir := t.TempDir()
	for size := range headerSize + 3*batchSize {
		q, _, err := reopen(dir, whole, func(names map[string]*crashFile) { names[second].data = names[second].data[:size] })
		if err != nil {
			t.Fatalf("cut to %d: %v", size, err)
		}
		want := []string{"1:item1", "2:item2", "3:item3"}
		for i := range max(0, size-headerSize) / batchSize {
			want = append(want, fmt.Sprintf("%d:item%[1]d", 4+i))
		}
		wantContent(t, q, want...)
		if last := mustAppend(t, q, "new"); last != uint64(len(want)+1) {
			t.Errorf("cut to %d: next id is %d", size, last)
		}
		q.Close()
	}
}

func TestFilesGone(t *testing.T) {
	whole, first, second := sixItems(t)
	for name, change := range map[string]func(map[string]*crashFile){
		"first missing": func(names map[string]*crashFile) { delete(names, first) },
		"renamed":       func(names map[string]*crashFile) { names[second] = names[first]; delete(names, first) },
		"twice":         func(names map[string]*crashFile) { names["0000000000000002.seg"] = names[first] },
	} {
		_, _, err := reopen(t.TempDir(), whole, change)
		var damage *outbox.CorruptError
		if !errors.As(err, &damage) {
			t.Errorf("%s: %v, want a CorruptError", name, err)
		}
	}
}

func flip(t *testing.T, file string, offset int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[offset] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestForgedBatch: an item that holds a whole batch of another queue does not
// pass for a batch of this one when the batch around it is torn.
func TestForgedBatch(t *testing.T) {
	forged := outbox.AppendBatches(nil, 0, 1, 0, 1, func(b []byte, _ int) []byte { return outbox.AppendRecord(b, 1, []byte("x")) })
	dir := t.TempDir()
	q := mustOpen(t, dir, outbox.Options{})
	mustAppend(t, q, "one")
	mustAppend(t, q, string(forged)+"tail")
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	file := segments(t, dir)[0]
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	wantContent(t, mustOpen(t, dir, outbox.Options{}), "1:one")
}

// TestDamageUnderfoot damages an item of an open queue.
func TestDamageUnderfoot(t *testing.T) {
	dir := t.TempDir()
	q := mustOpen(t, dir, outbox.Options{})
	mustAppend(t, q, "one")
	flip(t, segments(t, dir)[0], 32+32+8)
	if _, err := q.Peek(1); err == nil {
		t.Error("a damaged item was handed out")
	}
}

func FuzzParseSegment(f *testing.F) {
	const salt = 7
	good := outbox.AppendSegmentHeader(nil, 5, 2, salt)
	good = outbox.AppendBatches(good, salt, 5, 4, 2, func(b []byte, i int) []byte {
		return outbox.AppendRecord(b, uint64(5+i), []byte("item"))
	})
	good = outbox.AppendBatches(good, salt, 7, 6, 1, func(b []byte, _ int) []byte { return outbox.AppendRemoved(b, 7) })
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		first, acked, n, end, err := outbox.ParseSegment(data)
		if end > int64(len(data)) {
			t.Fatalf("end %d of %d bytes", end, len(data))
		}
		if err != nil {
			// What is before the damage must be good by itself.
			if end == 0 {
				return
			}
			data = data[:end]
		} else if end != int64(len(data)) {
			t.Fatalf("ends at %d of %d bytes without an error", end, len(data))
		}
		first2, acked2, n2, end2, err := outbox.ParseSegment(data)
		if err != nil || first2 != first || acked2 != acked || n2 != n || end2 != end {
			t.Fatalf("read again: %d %d %d %d %v", first2, acked2, n2, end2, err)
		}
		if acked >= first+uint64(n) {
			t.Fatalf("acknowledges %d of items %d to %d", acked, first, first+uint64(n)-1)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 64} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			q, err := outbox.Open(b.TempDir(), outbox.Options{MaxBytes: 1 << 40})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			item := make([]byte, 256)
			b.SetBytes(256)
			b.SetParallelism(appenders)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := q.Append(item); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
