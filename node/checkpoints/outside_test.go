package checkpoints

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogwitness"
	"github.com/exonode/exonode/node/signing"
)

// foreign is an outside witness: ours, behind HTTP as a node serves it.
type foreign struct {
	mu      sync.Mutex // guards the fields below
	witness *signing.Witness
	broken  bool
}

// RoundTrip answers as the witness's server would.
func (f *foreign) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	witness, broken := f.witness, f.broken
	f.mu.Unlock()
	if broken || witness == nil {
		return nil, io.ErrUnexpectedEOF
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	a := AnswerWitness(witness, body)
	rec.Header().Set("Content-Type", a.ContentType)
	rec.WriteHeader(a.Status)
	_, err = rec.Write(a.Body)
	return rec.Result(), err
}

func (f *foreign) set(broken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = broken
}

// inMemory opens a witness's memory that forgets nothing while it lives.
func inMemory(t *testing.T) *signing.Memory {
	t.Helper()
	m, err := signing.OpenMemory("witness.json", &files{m: map[string][]byte{}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestOutsideWitnesses: final checkpoints become witnessed by a quorum of outside witnesses,
// and stay final without.
func TestOutsideWitnesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := &checkpoint.Policy{Quorum: "two"}
		group := checkpoint.PolicyGroup{Name: "two", Threshold: 2}
		outside := map[string]*foreign{}
		var signers []*checkpoint.Signer
		for i := range 3 {
			name := fmt.Sprint("w", i)
			s, err := checkpoint.NewCosigner("witness.example/"+name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(100 + i)}, 32)))
			if err != nil {
				t.Fatal(err)
			}
			signers = append(signers, s)
			policy.Witnesses = append(policy.Witnesses, checkpoint.PolicyWitness{Name: name, Key: s.Key(), URL: "http://" + name + "/prefix/"})
			group.Members = append(group.Members, name)
			outside[name] = new(foreign)
		}
		policy.Groups = []checkpoint.PolicyGroup{group}
		transport := func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/prefix/"+tlogwitness.Path {
				return nil, fmt.Errorf("asked at %s", r.URL)
			}
			return outside[r.URL.Host].RoundTrip(r)
		}
		c := newCluster(t, 3, func(id string, cfg *Config) {
			cfg.Witnesses, cfg.HTTP = policy, &http.Client{Transport: roundTripper(transport)}
		})
		view := c.members["n1"].fsm.View()
		for i := range signers {
			w, err := signing.NewWitness(inMemory(t), logKeys(view), time.Now, signers[i])
			if err != nil {
				t.Fatal(err)
			}
			o := outside[fmt.Sprint("w", i)]
			o.mu.Lock()
			o.witness = w
			o.mu.Unlock()
		}
		time.Sleep(time.Minute)
		for _, id := range c.order {
			m := c.members[id]
			if s := m.Status(); s.Witnessed != m.Size() || s.Size != m.Size() {
				t.Errorf("%s: of %d entries, %d are final and %d witnessed: %v", id, m.Size(), s.Size, s.Witnessed, s.Witnesses)
			}
			if by, err := m.Final().Note.Verify(signers[0].Key(), signers[1].Key(), signers[2].Key()); err != nil || len(by) != 3 {
				t.Errorf("%s: %d outside cosignatures, %v", id, len(by), err)
			}
		}
		// One of them out of order is not missed; and who leads next has to find out how
		// far each is.
		outside["w0"].set(true)
		c.leading.Store("n2")
		c.grow(5)
		time.Sleep(time.Minute)
		n2 := c.members["n2"]
		if s := n2.Status(); s.Witnessed != n2.Size() || s.Witnesses["w0"] == "" || len(s.Witnesses) != 1 {
			t.Errorf("%+v, %d entries", s, n2.Size())
		}
		// Two out of order: final, and not witnessed.
		was := n2.Status().Witnessed
		outside["w1"].set(true)
		c.grow(5)
		time.Sleep(time.Minute)
		if s := n2.Status(); s.Size != n2.Size() || s.Witnessed != was {
			t.Errorf("%+v, %d entries", s, n2.Size())
		}
		// Back again, they cosign the next.
		outside["w0"].set(false)
		outside["w1"].set(false)
		c.grow(1)
		time.Sleep(time.Minute)
		if s := n2.Status(); s.Witnessed != n2.Size() || len(s.Witnesses) != 0 {
			t.Errorf("%+v, %d entries", s, n2.Size())
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestOutsideRefused: what an outside witness answers is checked.
func TestOutsideRefused(t *testing.T) {
	note := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: "o", Size: 10, Root: chain.Hash{1}}}
	own, err := checkpoint.NewCosigner("w", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := checkpoint.NewCosigner("w", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	line := func(s *checkpoint.Signer, size uint64) string {
		p := note.Checkpoint
		p.Size = size
		sig, err := s.Sign(&p, 5)
		if err != nil {
			t.Fatal(err)
		}
		return sig.Line()
	}
	for name, answer := range map[string]struct {
		status      int
		contentType string
		body        string
		want        string // "" is no error
	}{
		"good":                   {200, "", line(own, 10), ""},
		"among others":           {200, "", line(other, 10) + line(own, 10), ""},
		"another key":            {200, "", line(other, 10), "none of"},
		"of another tree":        {200, "", line(own, 11), "signature"},
		"nothing":                {200, "", "", "none of"},
		"an error":               {500, "text/plain", "no disk", "500"},
		"a conflict":             {409, tlogwitness.SizeType, "11\n", "another node leads"},
		"a conflict, no size":    {409, tlogwitness.SizeType, "x\n", "size"},
		"a conflict of roots":    {409, "text/plain", "", "409"},
		"the same size for ever": {409, tlogwitness.SizeType, "7\n", "size 7"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				asked++
				rec := httptest.NewRecorder()
				rec.Header().Set("Content-Type", answer.contentType)
				rec.WriteHeader(answer.status)
				_, err := io.WriteString(rec, answer.body)
				return rec.Result(), err
			})}
			o := newOutside(checkpoint.PolicyWitness{Name: "w", Key: own.Key(), URL: "http://w"}, client,
				func(from, to uint64) ([]chain.Hash, error) { return []chain.Hash{{9}}, nil })
			_, err := o.ask(context.Background(), note)
			if answer.want == "" && err != nil || answer.want != "" && (err == nil || !strings.Contains(err.Error(), answer.want)) {
				t.Errorf("%v, want %q", err, answer.want)
			}
			if asked > 2 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}
