package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

func openDurable(t *testing.T, c *client.Client, dir string, opt client.DurableOptions) *client.Durable {
	t.Helper()
	d, err := c.Durable(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func enqueue(t *testing.T, d *client.Durable, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := d.Enqueue(testEvent(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDurableOverRestarts: what was enqueued is in the chain once and in order,
// though the cluster is away at first, commits without answering, and the
// process restarts in between.
func TestDurableOverRestarts(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		dir := t.TempDir()
		for _, n := range cl.nodes {
			n.set(func(n *node) { n.down = true })
		}
		d := openDurable(t, c, dir, client.DurableOptions{})
		enqueue(t, d, 0, 20)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := d.Flush(ctx)
		var u *client.UnreachableError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &u) || d.Len() != 20 || d.LastError() == nil {
			t.Errorf("flush without a cluster, %d waiting: %v", d.Len(), err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}

		// Now the first node takes events, and never says so.
		for _, n := range cl.nodes {
			n.set(func(n *node) {
				n.down = false
				n.onMessage = func(int, []*exonodev1.Event) fault { return fault{hang: true} }
			})
		}
		d = openDurable(t, c, dir, client.DurableOptions{})
		enqueue(t, d, 20, 30)
		cl.await(1)
		d.Close()
		for _, n := range cl.nodes {
			n.set(func(n *node) { n.onMessage = nil })
		}

		var delivered []string
		d = openDurable(t, c, dir, client.DurableOptions{Delivered: func(a client.Ack) { delivered = append(delivered, a.Key.ID) }})
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if d.Len() != 0 || len(delivered) != 30 || cl.size() != 30 {
			t.Fatalf("%d wait, %d delivered, %d in the chain", d.Len(), len(delivered), cl.size())
		}
		for i := range 30 {
			if id, payload := cl.event(i); payload != fmt.Sprintf(`{"n":%d}`, i) || id != delivered[i] {
				t.Errorf("entry %d is %s %s, delivered was %s", i, id, payload, delivered[i])
			}
		}
	})
}

// TestDurableDeadLetters: what is refused is put aside and holds nothing up.
func TestDurableDeadLetters(t *testing.T) {
	bubble(t, 1, func(t *testing.T, cl *cluster, c *client.Client) {
		dir := t.TempDir()
		d := openDurable(t, c, dir, client.DurableOptions{})
		conflict := chain.Event{ID: "id0", Kind: "test.event", Payload: []byte("other\n")}
		events := []chain.Event{testEvent(1), {Kind: "test.denied"}, conflict, testEvent(2)}
		if _, err := d.Enqueue(events...); err != nil {
			t.Fatal(err)
		}
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if cl.size() != 3 {
			t.Errorf("%d entries, want 3", cl.size())
		}
		b, err := os.ReadFile(filepath.Join(dir, "dead.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for line := range strings.Lines(string(b)) {
			var l struct {
				Code  string
				Event struct{ Kind, Id, Data string }
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			codes = append(codes, l.Code+" "+l.Event.Kind)
		}
		if got := strings.Join(codes, ", "); got != "denied test.denied, conflict test.event" {
			t.Errorf("dead letters: %s", got)
		}
	})
}

// TestDurableKeepsDeadLetters: a dead letter that can't be put aside stays.
func TestDurableKeepsDeadLetters(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		tries := 0
		d := openDurable(t, c, t.TempDir(), client.DurableOptions{DeadLetter: func(l client.DeadLetter) error {
			if tries++; tries < 3 {
				return errors.New("disk full")
			}
			if l.Err.Code != api.GateDenied || l.Event.Kind != "test.denied" {
				t.Errorf("dead letter %+v", l)
			}
			return nil
		}})
		if _, err := d.Enqueue(chain.Event{Kind: "test.denied"}, testEvent(0)); err != nil {
			t.Fatal(err)
		}
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tries != 3 || cl.size() != 1 {
			t.Errorf("%d tries, %d entries", tries, cl.size())
		}
	})
}

// TestDurableUnauthorized: events wait for the authorization, and are not lost.
func TestDurableUnauthorized(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		start := time.Now()
		for _, n := range cl.nodes {
			n.onMessage = func(int, []*exonodev1.Event) fault {
				if time.Since(start) < time.Minute {
					return fault{refuse: &api.Error{Code: api.Unauthorized, Message: "no grant yet"}}
				}
				return fault{}
			}
		}
		d := openDurable(t, c, t.TempDir(), client.DurableOptions{})
		enqueue(t, d, 0, 10)
		if err := d.Flush(t.Context()); err != nil || cl.size() != 10 {
			t.Errorf("%d entries, %v", cl.size(), err)
		}
	})
}

func TestDurableRefusesAtOnce(t *testing.T) {
	bubble(t, 0, func(t *testing.T, cl *cluster, c *client.Client) {
		dir := t.TempDir()
		d := openDurable(t, c, dir, client.DurableOptions{})
		_, err := d.Enqueue(testEvent(0), chain.Event{Kind: "Bad Kind"})
		var f *chain.FieldError
		if !errors.As(err, &f) || f.Field != "kind" || d.Len() != 0 {
			t.Errorf("%d waiting, %v", d.Len(), err)
		}
		if _, err := c.Durable(dir, client.DurableOptions{}); err == nil {
			t.Error("the directory was opened twice")
		}
		c.Close()
		d.Close()
		if err := d.Flush(t.Context()); err != nil {
			t.Errorf("flush of an empty queue: %v", err)
		}
		if _, err := d.Enqueue(testEvent(0)); err == nil {
			t.Error("enqueue after Close")
		}
	})
}
