package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/client"
)

func TestVerifierFollowsGrowth(t *testing.T) {
	bubble(t, 3, func(t *testing.T, cl *cluster, c *client.Client) {
		path := filepath.Join(t.TempDir(), "trust.json")
		v, err := c.VerifierFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for size := 3; size < 40; size += 5 {
			h, err := v.VerifyHead(t.Context())
			if err != nil || h.Size != uint64(size) || v.Trusted() != h {
				t.Fatalf("at %d: %v, %v", size, h, err)
			}
			// Asking again without growth, and with a new verifier on the file.
			if _, err := v.VerifyHead(t.Context()); err != nil {
				t.Fatal(err)
			}
			if v, err = c.VerifierFile(path); err != nil || v.Trusted() != h {
				t.Fatalf("reopened: %v, %v", v.Trusted(), err)
			}
			fill(t, c, size, size+5)
		}
		e, err := v.VerifyEntry(t.Context(), 7)
		if err != nil || e.Header.ID != "id7" {
			t.Errorf("entry 7: %+v, %v", e.Header, err)
		}
		if _, err = v.VerifyEntry(t.Context(), 1000); api.CodeOf(err) != api.NotFound {
			t.Errorf("entry 1000: %v", err)
		}
	})
}

// TestVerifierCatches: each way of changing history is told with both heads, and
// trust stays where it was.
func TestVerifierCatches(t *testing.T) {
	cases := map[string]struct {
		tamper  func(*cluster)
		refill  int
		problem string
	}{
		"shrunk":           {func(cl *cluster) { cl.clear() }, 5, "shrank"},
		"same size":        {func(cl *cluster) { cl.clear(); cl.head.Time = 1 << 61 }, 10, "another root"},
		"forked and grew":  {func(cl *cluster) { cl.clear(); cl.head.Time = 1 << 61 }, 15, "does not begin with"},
		"lost by recovery": {func(cl *cluster) { cl.clear(); cl.epoch = 1 }, 5, "recovery"},
		"another chain":    {func(cl *cluster) { cl.clear(); cl.id[0] ^= 1 }, 15, "another chain"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, 10, func(t *testing.T, cl *cluster, c *client.Client) {
				v := c.Verifier(client.Head{})
				was, err := v.VerifyHead(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				cl.mu.Lock()
				tc.tamper(cl)
				cl.mu.Unlock()
				fill(t, c, 0, tc.refill)
				for range 2 {
					_, err = v.VerifyHead(t.Context())
					var i *client.InconsistentError
					if !errors.As(err, &i) || !strings.Contains(i.Problem, tc.problem) || i.Trusted != was || i.Told.Size != uint64(tc.refill) {
						t.Errorf("%v", err)
					}
				}
				if v.Trusted() != was {
					t.Error("trust moved")
				}
			})
		})
	}
}

// TestVerifierHeadHash: the root can be right while the hash told is not.
func TestVerifierHeadHash(t *testing.T) {
	bubble(t, 10, func(t *testing.T, cl *cluster, c *client.Client) {
		var v *client.VerifyError
		cl.nodes[address(0)].badRoot = true
		if _, err := c.Verifier(client.Head{}).VerifyHead(t.Context()); !errors.As(err, &v) || !strings.Contains(v.Problem, "not in the tree") {
			t.Errorf("wrong root: %v", err)
		}
		cl.nodes[address(0)].badRoot = false
		cl.head.Hash[0] ^= 1
		if _, err := c.Verifier(client.Head{}).VerifyHead(t.Context()); !errors.As(err, &v) || !strings.Contains(v.Problem, "head told") {
			t.Errorf("wrong hash: %v", err)
		}
	})
}

// The node that told the head may begin anew before it is asked for the entry,
// and is behind then: it is to wait until it has got there again.
func TestVerifierWaitsForTheHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := newCluster(t, address(0))
		var asked *exonodev1.Consistency
		rec := &recorder{node: cl.nodes[address(0)], get: func(r *exonodev1.GetRequest) { asked = r.Consistency }}
		rec.install()
		c := cl.client(func(*client.Config) {})
		defer cl.stop()
		defer c.Close()
		fill(t, c, 0, 5)
		if _, err := c.Verifier(client.Head{}).VerifyHead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked.GetLevel() != exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION || asked.GetSequence() != 4 {
			t.Errorf("the newest entry was asked for with %v", asked)
		}
	})
}

func TestVerifierFileErrors(t *testing.T) {
	bubble(t, 0, func(t *testing.T, _ *cluster, c *client.Client) {
		path := filepath.Join(t.TempDir(), "trust.json")
		for _, text := range []string{"", "{", `{"format":2}`, `{"format":1,"root":"zz"}`} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := c.VerifierFile(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
