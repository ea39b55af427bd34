package raftstore_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

// TestDamagedEntry changes what the store beneath gives back, in every field: the log
// refuses it, says so once, and is read no more.
func TestDamagedEntry(t *testing.T) {
	entry := func() *raft.Log {
		return &raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, Data: []byte("an event"), Extensions: []byte("ext")}
	}
	for name, damage := range map[string]func(*raft.Log){
		"none":                func(*raft.Log) {},
		"index":               func(l *raft.Log) { l.Index++ },
		"term":                func(l *raft.Log) { l.Term++ },
		"type":                func(l *raft.Log) { l.Type = raft.LogBarrier },
		"data":                func(l *raft.Log) { l.Data[3] ^= 1 },
		"data cut":            func(l *raft.Log) { l.Data = l.Data[:4] },
		"data into extension": func(l *raft.Log) { l.Extensions = append(l.Data[7:8:8], l.Extensions...); l.Data = l.Data[:7] },
		"extensions":          func(l *raft.Log) { l.Extensions[0] ^= 1 },
		"checksum":            func(l *raft.Log) { l.Extensions[len(l.Extensions)-1] ^= 1 },
		"no checksum":         func(l *raft.Log) { l.Extensions = nil },
	} {
		t.Run(name, func(t *testing.T) {
			told := 0
			guard, err := raftstore.NewGuard(time.Minute, func(error) { told++ })
			if err != nil {
				t.Fatal(err)
			}
			under := raft.NewInmemStore()
			log := raftstore.NewLog(under, guard, raftstore.Key{})
			if err := log.StoreLog(entry()); err != nil {
				t.Fatal(err)
			}
			var stored raft.Log
			if err := under.GetLog(7, &stored); err != nil {
				t.Fatal(err)
			}
			stored.Data, stored.Extensions = bytes.Clone(stored.Data), bytes.Clone(stored.Extensions)
			damage(&stored)
			at := stored.Index
			stored.Index = 7 // where the store keeps it
			if err := under.StoreLog(&stored); err != nil {
				t.Fatal(err)
			}
			stored.Index = at
			var got raft.Log
			err = log.GetLog(7, &got)
			if name == "none" {
				if diff := cmp.Diff(entry(), &got); err != nil || diff != "" {
					t.Errorf("%v\n%s", err, diff)
				}
				return
			}
			if !errors.Is(err, raftstore.ErrDamaged) || !errors.Is(err, raftstore.ErrFailed) || told != 1 {
				t.Errorf("read %+v, %v; told %d times", got, err, told)
			}
			if err := log.StoreLog(entry()); !errors.Is(err, raftstore.ErrFailed) {
				t.Errorf("and goes on: %v", err)
			}
		})
	}
}

// panicky is a store that meets bytes which it never writes.
type panicky struct{ *raft.InmemStore }

func (panicky) GetLog(uint64, *raft.Log) error { panic("slice bounds out of range") }
func (panicky) LastIndex() (uint64, error)     { panic("index out of range") }

// TestPanickyStore: where a backend panics on what it reads, that is damage, and latches.
func TestPanickyStore(t *testing.T) {
	for name, read := range map[string]func(*raftstore.Log) error{
		"entry": func(l *raftstore.Log) error { return l.GetLog(1, new(raft.Log)) },
		"end":   func(l *raftstore.Log) error { _, err := l.LastIndex(); return err },
	} {
		told := 0
		guard, err := raftstore.NewGuard(time.Minute, func(error) { told++ })
		if err != nil {
			t.Fatal(err)
		}
		err = read(raftstore.NewLog(panicky{raft.NewInmemStore()}, guard, raftstore.Key{}))
		if !errors.Is(err, raftstore.ErrDamaged) || !errors.Is(err, raftstore.ErrFailed) || told != 1 {
			t.Errorf("%s: %v; told %d times", name, err, told)
		}
	}
}
