package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// The examples have no output to compare, as they need a cluster; they compile.
// docs/CLIENT.md shows them: TestGuide holds the two together.

func Example() {
	c, err := client.New(client.Config{
		Addresses: []string{"10.0.0.1:7482", "10.0.0.2:7482", "10.0.0.3:7482"},
		Workspace: "payments",
		Source:    "urn:service:refunds",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ack, err := c.Append(ctx, chain.Event{
		Kind:    "agent.spawn",
		Subject: "agent-17",
		Payload: []byte(`{"agent_id": "agent-17", "pid": 4711, "parent_pid": 1, "program": "agent"}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("entry", ack.Sequence, "hash", ack.Hash)
}

func ExampleClient_Append_errors() {
	var c *client.Client
	var ctx context.Context
	var ev chain.Event

	_, err := c.Append(ctx, ev)
	var refused *api.Error
	var incomplete *client.IncompleteError
	switch {
	case err == nil:
		// It is on the disks of a quorum.
	case errors.As(err, &incomplete):
		// Nobody knows yet: append it again with the id that it had.
		ev.ID = incomplete.Key.ID
		_, err = c.Append(ctx, ev)
	case errors.As(err, &refused):
		// Decided: refused.Code says what, refused.Hint what to do.
	}
}

func ExampleClient_Watch() {
	var c *client.Client
	var ctx context.Context

	query := client.WatchQuery{Filter: chain.Filter{Kind: "agent.*"}, NewOnly: true}
	for e, err := range c.Watch(ctx, query) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Sequence, e.Header.Kind, e.Header.Subject)
	}
}

func ExampleClient_List() {
	var c *client.Client
	var ctx context.Context

	query := client.ListQuery{Filter: chain.Filter{Source: "urn:service:refunds"}, Reverse: true}
	for e, err := range c.At(client.Stale).List(ctx, query) {
		if err != nil {
			log.Fatal(err)
		}
		if e.Envelope == nil {
			fmt.Println(e.Sequence, "redacted")
			continue
		}
		fmt.Printf("%d %s\n", e.Sequence, e.Envelope.Payload)
	}
}

func ExampleClient_VerifierFile() {
	var c *client.Client
	var ctx context.Context

	v, err := c.VerifierFile("trusted-head.json")
	if err != nil {
		log.Fatal(err)
	}
	head, err := v.VerifyHead(ctx)
	var fork *client.InconsistentError
	if errors.As(err, &fork) {
		log.Fatalf("history was changed: %v", fork)
	}
	if err != nil {
		log.Fatal(err)
	}
	entry, err := v.VerifyEntry(ctx, head.Size-1)
	fmt.Println(entry.Hash, err)
}

func ExampleClient_Durable() {
	var c *client.Client

	d, err := c.Durable("/var/lib/refunds/outbox", client.DurableOptions{
		Delivered: func(ack client.Ack) { fmt.Println("entry", ack.Sequence) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	// Returns once the event is synced to the local disk.
	if _, err := d.Enqueue(chain.Event{Kind: "agent.exit", Payload: []byte(`{"agent_id": "agent-17", "pid": 4711, "exit_code": 0}`)}); err != nil {
		log.Fatal(err)
	}
}

func ExampleClient_Pump() {
	var c *client.Client
	var ctx context.Context

	lines := client.EventLines(os.Stdin, client.LineOptions{Source: "urn:import", Stream: "import-2026-01"})
	stats, err := c.Pump(ctx, lines, client.PumpOptions{
		Acked: func(index uint64, ack client.Ack, err error) error {
			if err != nil {
				return fmt.Errorf("event %d: %w", index, err)
			}
			return nil
		},
	})
	fmt.Println(stats.Sealed, "sealed,", stats.Duplicates, "were there before:", err)
}
