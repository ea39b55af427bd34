package bench

import (
	"fmt"
	"slices"
)

// Client is the way in which events are submitted.
type Client string

// The clients.
const (
	// GoClient is package client: concurrent Appends share a stream.
	GoClient Client = "go"
	// GoStream is package client's Pump: events that wait for nothing.
	GoStream Client = "go-stream"
	// GRPC is a gRPC client without anything of ours: one unary call for each
	// event.
	GRPC Client = "grpc"
	// HTTP is plain HTTP/1.1: one CloudEvent in JSON to POST /v1/events.
	HTTP Client = "http"
)

// Target is where events are submitted.
type Target string

// The targets.
const (
	Leader Target = "leader"
	All    Target = "all" // spread evenly over all nodes
)

// Cell is one thing to measure.
type Cell struct {
	Client Client `json:"client"`
	Target Target `json:"target"`
	// Gated: events are of a kind that has a gate.
	Gated bool `json:"gated"`
	// Writers is how many events wait for their answers at any time; the
	// number of streams of GoStream.
	Writers int `json:"writers"`
}

// Name is how --only finds a cell, and benchstat.
func (c Cell) Name() string {
	gate := "no"
	if c.Gated {
		gate = "yes"
	}
	return fmt.Sprintf("client=%s/to=%s/gate=%s/writers=%d", c.Client, c.Target, gate, c.Writers)
}

// cells are the cells to be measured, in order. All events pass their gate but
// where the two are compared.
func (b *bench) cells() []Cell {
	var all []Cell
	add := func(c Cell) {
		if b.cfg.wanted(c.Name()) {
			all = append(all, c)
		}
	}
	nodes := b.cfg.Nodes
	targets := []Target{Leader, All}
	if nodes == 1 {
		targets = targets[:1]
	}
	for _, to := range targets {
		for _, n := range b.cfg.Writers {
			add(Cell{GoClient, to, true, n})
		}
	}
	for _, to := range targets {
		streams := 1
		if to == All {
			streams = nodes
		}
		add(Cell{GoStream, to, true, streams})
	}
	most := slices.Max(b.cfg.Writers)
	add(Cell{GoClient, Leader, false, most})
	add(Cell{GoStream, Leader, false, 1})
	for _, c := range []Client{GRPC, HTTP} {
		for _, n := range b.cfg.Writers {
			add(Cell{c, Leader, true, n})
		}
		if nodes > 1 {
			add(Cell{c, All, true, most})
		}
	}
	return all
}
