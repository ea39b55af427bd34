package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Plan is everything that is wrong at a node. The zero value is a node that is well.
type Plan struct {
	// Links are those to other nodes, by their node ids.
	Links map[string]Link `json:"links,omitempty"`
	Disk  Disk            `json:"disk,omitzero"`
	Clock Clock           `json:"clock,omitzero"`
	Crash Crash           `json:"crash,omitzero"`
}

// Link is what happens to what this node sends to another one. On connections
// nothing is lost or overtakes, as TCP sees to that: what a network drops comes late.
type Link struct {
	// Cut holds everything back; no connection can be opened. What a
	// connection holds arrives once the link is whole again.
	Cut bool `json:"cut,omitempty"`
	// Deaf is for the other direction being cut there: no connection can be
	// opened to a node whose answers do not come.
	Deaf bool `json:"deaf,omitempty"`
	// Delay is how long what is sent is under way, and Jitter how much longer
	// at the most.
	Delay  Duration `json:"delay,omitempty"`
	Jitter Duration `json:"jitter,omitempty"`
	// Drop is the part of packets that a network loses, 0 to 1: gossip's are
	// lost, those of a connection come later by the time of a retransmission.
	Drop float64 `json:"drop,omitempty"`
	// Rate is how many bytes a second a connection carries; 0 is any number.
	Rate int64 `json:"rate,omitempty"`
	// Reorder is the part of gossip's packets that others overtake, 0 to 1.
	Reorder float64 `json:"reorder,omitempty"`
}

// Disk is what happens to what this node writes.
type Disk struct {
	// Stores are those that are concerned; none is all.
	Stores []Store `json:"stores,omitempty"`
	// Slow is how much longer each write takes.
	Slow Duration `json:"slow,omitempty"`
	// Hang has writes not end before it is taken back.
	Hang bool `json:"hang,omitempty"`
	// Error fails them: "EIO" or "ENOSPC".
	Error string `json:"error,omitempty"`
}

// Store is a part of what a node keeps.
type Store string

// The stores.
const (
	RaftLog  Store = "raft-log"
	RaftVote Store = "raft-vote"
	Ledger   Store = "ledger"
)

// Clock is how wrong this node's clock is.
type Clock struct {
	// Offset is added to the time.
	Offset Duration `json:"offset,omitempty"`
}

// Crash ends the process, as SIGKILL does, when it reaches a point.
type Crash struct {
	Point Point `json:"point,omitempty"`
	// After is how many times it passes the point before.
	After int `json:"after,omitempty"`
}

// Point is a step at which a node may be made to crash.
type Point string

// The points.
const (
	BeforeAppend   Point = "before-append"   // to raft's log
	MidAppend      Point = "mid-append"      // half of it is written: a torn write
	AfterAppend    Point = "after-append"    // it is synced, and nobody knows
	BeforeVote     Point = "before-vote"     // or a new term
	AfterVote      Point = "after-vote"      // it is synced, and not yet answered
	BeforeApply    Point = "before-apply"    // of committed entries
	AfterApply     Point = "after-apply"     // the ledger has them, unsynced
	BeforeSnapshot Point = "before-snapshot" // before the ledger is synced for it
	AfterSnapshot  Point = "after-snapshot"  // it is synced, the manifest not written
	BeforeCosign   Point = "before-cosign"   // of a checkpoint: nothing of it is on disk
	AfterCosign    Point = "after-cosign"    // that it is signed is on disk, and nobody has the signature
)

// Points are all points.
func Points() []Point {
	return []Point{BeforeAppend, MidAppend, AfterAppend, BeforeVote, AfterVote, BeforeApply, AfterApply, BeforeSnapshot, AfterSnapshot, BeforeCosign, AfterCosign}
}

// Duration is written like "1.5s" in JSON.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Validate names the first field that can't be carried out.
func (p *Plan) Validate() error {
	for peer, l := range p.Links {
		switch {
		case peer == "":
			return fmt.Errorf("links: a link to no node")
		case l.Delay < 0 || l.Jitter < 0 || l.Rate < 0:
			return fmt.Errorf("links[%s]: delay, jitter and rate are at least 0", peer)
		case !(l.Drop >= 0 && l.Drop <= 1) || !(l.Reorder >= 0 && l.Reorder <= 1):
			return fmt.Errorf("links[%s]: drop and reorder are 0 to 1", peer)
		}
	}
	for _, s := range p.Disk.Stores {
		if s != RaftLog && s != RaftVote && s != Ledger {
			return fmt.Errorf("disk.stores: %q is none of %s, %s, %s", s, RaftLog, RaftVote, Ledger)
		}
	}
	if p.Disk.Slow < 0 {
		return fmt.Errorf("disk.slow: want at least 0")
	}
	if _, ok := diskErrors[p.Disk.Error]; !ok && p.Disk.Error != "" {
		return fmt.Errorf("disk.error: %q is neither EIO nor ENOSPC", p.Disk.Error)
	}
	if p.Crash.Point != "" && !slices.Contains(Points(), p.Crash.Point) {
		names := make([]string, 0, len(Points()))
		for _, at := range Points() {
			names = append(names, string(at))
		}
		return fmt.Errorf("crash.point: %q is none of %s", p.Crash.Point, strings.Join(names, ", "))
	}
	if p.Crash.After < 0 {
		return fmt.Errorf("crash.after: want at least 0")
	}
	return nil
}

// faulty reports whether a link does anything to what is sent.
func (l *Link) faulty() bool {
	return l.Cut || l.Delay > 0 || l.Jitter > 0 || l.Drop > 0 || l.Rate > 0
}
