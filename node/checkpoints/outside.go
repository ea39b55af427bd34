package checkpoints

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// outsideTimeout bounds a request to an outside witness.
const outsideTimeout = 10 * time.Second

// outside is what the leader asks of one outside witness (c2sp.org/tlog-witness). It is in
// the way of nothing: a witness that does not answer misses checkpoints, and gets a later
// one.
type outside struct {
	key   checkpoint.Key
	url   string
	http  *http.Client
	proof func(from, to uint64) ([]chain.Hash, error)

	mu sync.Mutex // guards the fields below
	// size is what the witness cosigned last, as this node knows it.
	size uint64
	// next is the newest final checkpoint, not sent yet; nil is none.
	next *Final
	// problem is why the last request failed.
	problem string
	wake    chan struct{}
}

func newOutside(w checkpoint.PolicyWitness, client *http.Client, proof func(from, to uint64) ([]chain.Hash, error)) *outside {
	return &outside{key: w.Key, url: strings.TrimSuffix(w.URL, "/") + "/" + tlogwitness.Path, http: client, proof: proof, wake: make(chan struct{}, 1)}
}

// offer hands over a final checkpoint; one that was not sent yet is forgotten.
func (o *outside) offer(f *Final) {
	o.mu.Lock()
	o.next = f
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run asks for a cosignature of each checkpoint that is offered, the newest only where
// the witness is slow, and hands on what it gets.
func (o *outside) run(ctx context.Context, got func(*Final, checkpoint.Signature)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		o.mu.Lock()
		f := o.next
		o.next = nil
		o.mu.Unlock()
		if f == nil {
			continue
		}
		signature, err := o.ask(ctx, f.Note)
		o.mu.Lock()
		o.problem = ""
		if err != nil {
			o.problem = err.Error()
		}
		o.mu.Unlock()
		if err == nil {
			got(f, signature)
		}
	}
}

// ask asks for a cosignature; where the witness knows another size than was thought, once
// more from there.
func (o *outside) ask(ctx context.Context, note *checkpoint.Note) (checkpoint.Signature, error) {
	signature, err := o.request(ctx, note)
	var conflict *conflictError
	if errors.As(err, &conflict) {
		if conflict.size > note.Checkpoint.Size {
			return checkpoint.Signature{}, fmt.Errorf("the witness has cosigned %d entries of this log already, %d are asked for: another node leads, or somebody signs another chain with the log's key", conflict.size, note.Checkpoint.Size)
		}
		o.mu.Lock()
		o.size = conflict.size
		o.mu.Unlock()
		signature, err = o.request(ctx, note)
	}
	if err == nil {
		o.mu.Lock()
		o.size = note.Checkpoint.Size
		o.mu.Unlock()
	}
	return signature, err
}

// conflictError is a 409: the witness knows another size.
type conflictError struct{ size uint64 }

func (e *conflictError) Error() string { return fmt.Sprintf("the witness has size %d", e.size) }

func (o *outside) request(ctx context.Context, note *checkpoint.Note) (checkpoint.Signature, error) {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	o.mu.Lock()
	r := tlogwitness.Request{Old: o.size, Note: note}
	o.mu.Unlock()
	if r.Old > note.Checkpoint.Size {
		return checkpoint.Signature{}, &conflictError{r.Old}
	}
	var err error
	if r.Old > 0 && r.Old < note.Checkpoint.Size {
		if r.Proof, err = o.proof(r.Old, note.Checkpoint.Size); err != nil {
			return checkpoint.Signature{}, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(r.Bytes()))
	if err != nil {
		return checkpoint.Signature{}, err
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return checkpoint.Signature{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, checkpoint.MaxNote))
	if err != nil {
		return checkpoint.Signature{}, err
	}
	switch {
	case resp.StatusCode == http.StatusConflict && resp.Header.Get("Content-Type") == tlogwitness.SizeType:
		size, err := tlogwitness.ParseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return checkpoint.Signature{}, err
		}
		return checkpoint.Signature{}, &conflictError{size}
	case resp.StatusCode != http.StatusOK:
		return checkpoint.Signature{}, fmt.Errorf("the witness answers %s: %.200s", resp.Status, strings.TrimSpace(string(body)))
	}
	return o.genuine(note, body)
}

// genuine is the witness's own signature among those that it answered.
func (o *outside) genuine(note *checkpoint.Note, body []byte) (checkpoint.Signature, error) {
	signatures, err := checkpoint.ParseSignatures(body)
	if err != nil {
		return checkpoint.Signature{}, err
	}
	with := &checkpoint.Note{Checkpoint: note.Checkpoint, Signatures: signatures}
	by, err := with.Verify(o.key)
	if err != nil {
		return checkpoint.Signature{}, err
	}
	if len(by) == 1 {
		for _, s := range signatures {
			if s.Name == o.key.Name && s.KeyID == o.key.ID() {
				return s, nil
			}
		}
	}
	return checkpoint.Signature{}, fmt.Errorf("none of the witness's signatures is of %s", o.key.String())
}

// status is why the witness has not cosigned lately; "" where it has.
func (o *outside) status() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.problem
}
