package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// refusal is an error as the API tells it.
type refusal struct {
	Code, Message, Hint, Field string
}

// post sends a body to a node and reads its answer.
func (c *cluster) post(ctx context.Context, name, path string, header map[string]string, body string) (status int, r refusal, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr(name)+path, strings.NewReader(body))
	if err != nil {
		return 0, r, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, r, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, r, err
	}
	if path != "/v1/events" {
		// A Connect error: ours is its detail.
		var e struct {
			Details []struct{ Debug refusal }
		}
		if err := json.Unmarshal(answer, &e); err == nil && len(e.Details) > 0 {
			r = e.Details[0].Debug
		}
		return resp.StatusCode, r, nil
	}
	return resp.StatusCode, r, json.Unmarshal(answer, &r)
}

var cloudEvent = map[string]string{"Content-Type": "application/cloudevents+json"}

// TestBadInput sends what no node may take: each has a code of its own, on the
// leader and on a follower, and leaves nothing in the chain.
func TestBadInput(t *testing.T) {
	t.Parallel()
	const queue = 16
	c := startCluster(t, lab.Config{Environment: "production", Args: []string{"--queue-events", fmt.Sprint(queue)}})
	before := c.appendOne("before")
	event := func(change map[string]any) string {
		e := map[string]any{
			"specversion": "1.0", "type": "artifact.store", "source": "bad", "id": "bad-1",
			"data": map[string]any{"hash": "h", "size": 1, "content_type": "text/plain"},
		}
		maps.Copy(e, change)
		b, err := json.Marshal(e)
		must(t, err)
		return string(b)
	}
	tests := map[string]struct {
		header map[string]string
		body   string
		status int
		code   api.Code
		field  string
	}{
		"malformed JSON":     {cloudEvent, event(nil)[:40], 400, api.Malformed, ""},
		"trailing JSON":      {cloudEvent, event(nil) + "{}", 400, api.Malformed, ""},
		"another media type": {map[string]string{"Content-Type": "text/html"}, "<p>", 415, api.Malformed, ""},
		"unknown kind":       {cloudEvent, event(map[string]any{"type": "no.such.kind"}), 422, api.UnknownKind, ""},
		"bad kind":           {cloudEvent, event(map[string]any{"type": "No Kind"}), 400, api.BadField, "kind"},
		"wrong field type":   {cloudEvent, event(map[string]any{"data": map[string]any{"hash": "h", "size": "one", "content_type": "t"}}), 422, api.PayloadInvalid, "data.size"},
		"missing field":      {cloudEvent, event(map[string]any{"data": map[string]any{"hash": "h"}}), 422, api.PayloadInvalid, "data.size"},
		"too large":          {cloudEvent, event(map[string]any{"data": strings.Repeat("x", 1<<20)}), 413, api.TooLarge, ""},
		"body too large":     {cloudEvent, event(map[string]any{"data": strings.Repeat("x", 9<<20)}), 413, api.TooLarge, ""},
		"effect above 1":     {cloudEvent, event(map[string]any{"type": "agent.spawn", "effect": "risk=1.5"}), 400, api.EffectRange, "effect"},
		"effect below 0":     {cloudEvent, event(map[string]any{"type": "agent.spawn", "effect": "risk=-0.1"}), 400, api.EffectRange, "effect"},
		"effect too fine":    {cloudEvent, event(map[string]any{"type": "agent.spawn", "effect": "risk=0.00001"}), 400, api.EffectRange, "effect"},
		"empty id":           {cloudEvent, event(map[string]any{"id": ""}), 400, api.BadField, "id"},
		"long id":            {cloudEvent, event(map[string]any{"id": strings.Repeat("i", 5000)}), 400, api.BadField, "id"},
		"id with a control":  {cloudEvent, event(map[string]any{"id": "a\nb"}), 400, api.BadField, "id"},
		"reserved workspace": {cloudEvent, event(map[string]any{"workspace": "system"}), 403, api.ReservedSpace, ""},
		"reserved kind":      {cloudEvent, event(map[string]any{"type": "chain.genesis"}), 403, api.ReservedKind, ""},
		"future cause":       {cloudEvent, event(map[string]any{"causes": "999999"}), 400, api.BadField, "causes"},
		"used id":            {cloudEvent, event(map[string]any{"source": before.Key.Source, "id": before.Key.ID}), 409, api.Conflict, ""},
	}
	leader := c.leader()
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		tc := tests[name]
		for _, node := range []string{leader, c.follower()} {
			status, r, err := c.post(c.ctx, node, "/v1/events", tc.header, tc.body)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if status != tc.status || r.Code != string(tc.code) || r.Message == "" || tc.field != "" && r.Field != tc.field {
				t.Errorf("%s: answered %d %+v, want %d, code %s, field %q", name, status, r, tc.status, tc.code, tc.field)
			}
		}
	}
	c.checkAbsent("bad")

	status, r, err := c.post(c.ctx, leader, "/exonode.v1.LedgerService/Append", map[string]string{"Content-Type": "application/json"}, `{"event":{"kind":7}}`)
	if err != nil || status != http.StatusBadRequest || r.Code != string(api.Malformed) {
		t.Errorf("an RPC with a wrong field type: %d, %+v, %v", status, r, err)
	}
	c.noQuorum(queue)
	if got := c.appendOne("before"); got.Sequence != before.Sequence || !got.Duplicate {
		t.Errorf("entry %d is %+v after all that", before.Sequence, got)
	}
	c.checkIdentical()
	c.checkDisks()
}

// noQuorum kills two of three nodes: the last one has no leader, says so, and
// says so too once its queue is full. What it refused is in the chain never.
func (c *cluster) noQuorum(queue int) {
	t := c.t
	last := c.follower()
	for _, name := range c.running() {
		if name != last {
			c.kill(name)
		}
	}
	c.await("the last node to know that there is no leader", func(ctx context.Context) (bool, error) {
		s, err := c.on(last).Status(ctx)
		return err == nil && s.Leader == "", err
	})
	// As many as the queue holds wait until their deadline, of those beyond
	// it each is refused at once.
	var mu sync.Mutex
	codes := make(map[string]int)
	var wg sync.WaitGroup
	rpc := map[string]string{"Content-Type": "application/json", "Connect-Timeout-Ms": "3000"}
	for i := range 3 * queue {
		body, err := json.Marshal(map[string]any{"event": map[string]any{
			"source": "queued", "id": fmt.Sprint(i), "kind": "agent.exit", "text": `{"agent_id":"a","pid":1,"exit_code":0}`,
		}})
		must(t, err)
		wg.Go(func() {
			status, r, err := c.post(c.ctx, last, "/exonode.v1.LedgerService/Append", rpc, string(body))
			if err != nil {
				t.Errorf("no quorum: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			codes[fmt.Sprintf("%d %s", status, r.Code)]++
		})
	}
	wg.Wait()
	t.Logf("without a quorum, %d events at once, a queue for %d: %v", 3*queue, queue, codes)
	if codes["503 no_leader"] == 0 || codes["429 queue_full"] == 0 || codes["503 no_leader"]+codes["429 queue_full"] != 3*queue {
		t.Errorf("without a quorum: %v", codes)
	}
	// The client tries again until its time is over, and says what was last.
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	_, err := c.newClient(c.index(last)).Append(ctx, testEvent("queued", 1000))
	var incomplete *client.IncompleteError
	if !errors.As(err, &incomplete) {
		t.Errorf("the client says %v", err)
	}
	head, err := c.on(last).At(client.Stale).Head(c.ctx)
	if err != nil || head.Size == 0 {
		t.Errorf("a stale read without a quorum: %+v, %v", head, err)
	}
	ctx, cancel = context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	if _, err := c.on(last).Head(ctx); err == nil {
		t.Error("a linearizable read was answered without a quorum")
	}
	for _, n := range c.Nodes() {
		must(t, c.Start(n.Name))
	}
	must(t, c.WaitReady(c.ctx))
	for e, err := range c.client.List(c.ctx, client.ListQuery{Filter: testFilter("queued")}) {
		must(t, err)
		if e.Header.ID != "1000" { // the client did not know
			t.Errorf("event %s is in the chain, and was refused", e.Header.ID)
		}
	}
}

func (c *cluster) follower() string {
	c.t.Helper()
	leader := c.leader()
	for _, name := range c.running() {
		if name != leader {
			return name
		}
	}
	c.t.Fatal("no follower")
	return ""
}

func (c *cluster) appendOne(source string) client.Ack {
	c.t.Helper()
	ack, err := c.client.Append(c.ctx, testEvent(source, 0))
	must(c.t, err)
	return ack
}

func (c *cluster) checkAbsent(source string) {
	c.t.Helper()
	for e, err := range c.client.List(c.ctx, client.ListQuery{Filter: chain.Filter{Source: source}}) {
		must(c.t, err)
		c.t.Errorf("entry %d was sealed: event %s of %s", e.Sequence, e.Header.ID, source)
	}
}

// TestAnotherBackend starts a node with another store of raft's log than it was
// made with: it would see an empty log, and forget what it acknowledged.
func TestAnotherBackend(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Nodes: 1})
	ack := c.appendOne("backend")
	c.stop("n1")
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, exonode, "serve", "--cluster", c.ClusterFile(), "--data", c.DataDir("n1"), "--raft-log", "boltdb",
		"--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr.String(), "another backend") {
		t.Errorf("%v: %s", err, stderr.String())
	}
	t.Logf("%s", strings.TrimSpace(stderr.String()))
	c.start("n1")
	if got := c.appendOne("backend"); !got.Duplicate || got.Sequence != ack.Sequence {
		t.Errorf("%+v, want %+v again", got, ack)
	}
}
