package tlogtiles_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain/tlogtiles"
)

func TestPaths(t *testing.T) {
	for path, want := range map[string]struct {
		tile tlogtiles.Tile
		end  uint64
	}{
		"tile/0/000":                          {tlogtiles.Tile{Width: 256}, 256},
		"tile/0/000.p/1":                      {tlogtiles.Tile{Width: 1}, 1},
		"tile/1/x001/x234/067":                {tlogtiles.Tile{Level: 1, Index: 1234067, Width: 256}, 1234068 << 16},
		"tile/entries/x001/000.p/255":         {tlogtiles.Tile{Entries: true, Index: 1000, Width: 255}, 256_255},
		"tile/7/000.p/64":                     {tlogtiles.Tile{Level: 7, Width: 64}, 64 << 56},
		"tile/0/x036/x028/x797/x018/x963/967": {tlogtiles.Tile{Index: 36028797018963967, Width: 256}, 1 << 63},
	} {
		got, err := tlogtiles.Parse(path)
		if err != nil || got != want.tile || got.Path() != path {
			t.Errorf("%s: %+v, %q, %v", path, got, got.Path(), err)
		}
		if end, ok := got.End(); end != want.end || !ok {
			t.Errorf("%s: ends at %d, %v", path, end, ok)
		}
	}
	for _, path := range []string{"tile/7/000.p/129", "tile/7/001", "tile/0/x036/x028/x797/x018/x963/968"} {
		if got, err := tlogtiles.Parse(path); err != nil {
			t.Error(err)
		} else if end, ok := got.End(); ok {
			t.Errorf("%s: ends at %d", path, end)
		}
	}
	for _, path := range strings.Fields("tile tile/ tile/0 tile/0/ tile/8/000 tile/-1/000 tile/00/000 tile/x/000 tile/0/0 tile/0/0000 " +
		"tile/0/1000 tile/0/x000/000 tile/0/001/000 tile/0/x1/000 tile/0/x001/x000 tile/0/000.p/0 tile/0/000.p/256 tile/0/000.p/01 " +
		"tile/0/000.p/ tile/0/000.p/-1 tile/0/000.p/1.p/1 tile/0/000/ /tile/0/000 tile/entries tile/data/000 tile/0/+01 " +
		"tile/0/x999/x999/x999/x999/x999/x999/x999/999") {
		if got, err := tlogtiles.Parse(path); !errors.Is(err, tlogtiles.ErrPath) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("tile/1/x001/x234/067")
	f.Add("tile/entries/000.p/5")
	f.Fuzz(func(t *testing.T, path string) {
		if got, err := tlogtiles.Parse(path); err == nil && got.Path() != path {
			t.Fatalf("accepted %q, wrote %q", path, got.Path())
		}
	})
}

func FuzzBundle(f *testing.F) {
	f.Add(tlogtiles.AppendEntry(tlogtiles.AppendEntry(nil, []byte("one")), nil))
	f.Add([]byte{0, 2, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := tlogtiles.ReadBundle(data)
		if err != nil {
			if !errors.Is(err, tlogtiles.ErrBundle) {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		for _, e := range entries {
			again = tlogtiles.AppendEntry(again, e)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, wrote %x", data, again)
		}
	})
}
