package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// TestPauseLeader stops the leader where it stands, with events in flight. The
// others elect another one and go on; then the old leader goes on too, believing
// for a moment that it still leads. Nothing is lost or doubled, and it tells
// nobody of a chain without what was acknowledged meanwhile.
func TestPauseLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	l := c.startLoad("pause", 6)
	for round := range 2 {
		l.progress(60)
		c.pauseLeader(round, func() { l.progress(60) })
		l.progress(60)
	}
	l.stop()
	l.check()
	// The cluster is idle: no event takes the reads along, and no quorum has
	// said anything to the old leader when it answers them.
	for round := range 3 {
		c.pauseLeader(2+round, func() {})
	}
	c.checkIdentical()
	c.checkDisks()
}

// pauseLeader pauses the leader until another one has sealed an event, and asks
// it for that one as it wakes up.
func (c *cluster) pauseLeader(round int, meanwhile func()) {
	c.t.Helper()
	old := c.leader()
	must(c.t, c.Pause(old))
	others := slices.DeleteFunc(c.running(), func(name string) bool { return name == old })
	c.leader(others...)
	meanwhile()
	ack, err := c.newClient(c.index(others[0])).Append(c.ctx, testEvent("marker", round))
	must(c.t, err)
	answers := c.readsAt(old, 32, ack)
	must(c.t, c.Resume(old))
	answers()
	must(c.t, c.WaitReady(c.ctx))
}

func (c *cluster) index(name string) int {
	for i, n := range c.Nodes() {
		if n.Name == name {
			return i
		}
	}
	c.t.Fatalf("no node %s", name)
	return 0
}

// readsAt writes linearizable reads into the sockets of a node that is paused,
// half of them for an event that was acknowledged, half for the head. The
// returned function waits for the answers: each is an error, or one that knows
// the event.
func (c *cluster) readsAt(name string, n int, ack client.Ack) (answers func()) {
	c.t.Helper()
	var conns []net.Conn
	for i := range n {
		conn, err := (&net.Dialer{}).DialContext(c.ctx, "tcp", c.addr(name))
		must(c.t, err)
		path := "/v1/head"
		if i%2 == 0 {
			path = "/v1/lookup?" + url.Values{"workspace": {ack.Key.Workspace}, "source": {ack.Key.Source}, "id": {ack.Key.ID}}.Encode()
		}
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: exonode\r\nConnection: close\r\n\r\n", path)
		must(c.t, err)
		conns = append(conns, conn)
	}
	return func() {
		c.t.Helper()
		answered := 0
		for i, conn := range conns {
			defer conn.Close()
			deadline, _ := c.ctx.Deadline()
			must(c.t, conn.SetDeadline(deadline))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(c.t, err)
			body, err := io.ReadAll(resp.Body)
			must(c.t, err)
			var answer struct {
				Size  uint64
				Entry struct{ Sequence uint64 }
			}
			must(c.t, json.Unmarshal(body, &answer))
			switch {
			case resp.StatusCode == http.StatusServiceUnavailable:
				continue
			case resp.StatusCode != http.StatusOK:
				c.t.Fatalf("stale read: %s answers %s: %s", name, resp.Status, body)
			case i%2 == 1:
				if answer.Size <= ack.Sequence {
					c.t.Fatalf("stale read: %s tells of %s after entry %d was acknowledged", name, body, ack.Sequence)
				}
			case answer.Entry.Sequence != ack.Sequence:
				c.t.Fatalf("stale read: %s says %s of entry %d", name, body, ack.Sequence)
			}
			answered++
		}
		c.t.Logf("%d of %d linearizable reads answered by %s, all fresh", answered, len(conns), name)
	}
}
