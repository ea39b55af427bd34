//go:build js && wasm

// Command wasm gives the chain's verifiers to exonode.js, which alone calls it: its one
// argument names a global function, to which it hands the functions below. They take
// Uint8Arrays and strings, and return objects: with ok true and what was verified, or with
// ok false, a code and a message. They read no clock and no network, and keep nothing.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall/js"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/follow"
	"github.com/exonode/exonode/chain/receipt"
)

func main() {
	js.Global().Call(os.Args[1], map[string]any{
		"verifyReceipt":    function(verifyReceipt),
		"verifyNote":       function(verifyNote),
		"checkpointTiles":  function(checkpointTiles),
		"followCheckpoint": function(followCheckpoint),
	})
	select {} // the functions can be called as long as main runs
}

// maxSafe is JavaScript's Number.MAX_SAFE_INTEGER: larger numbers are not exact there.
const maxSafe = 1<<53 - 1

var (
	errArgument = errors.New("argument")
	errPolicy   = errors.New("not a policy")
	errSize     = errors.New("beyond the integers that JavaScript has")
	errTiles    = errors.New("a tile is missing, or has another length")
)

// codes are the errors by what the caller does about them; the first that fits counts.
var codes = []struct {
	err  error
	code string
}{
	{errArgument, "argument"},
	{errPolicy, "policy"},
	{errSize, "size"},
	{errTiles, "tiles"},
	{follow.ErrStale, "stale"},
	{follow.ErrOrigin, "origin"},
	{checkpoint.ErrSignature, "signature"},
	{checkpoint.ErrQuorum, "quorum"},
	{receipt.ErrEntry, "entry"},
	{chain.ErrProof, "proof"},
	{receipt.ErrFormat, "format"},
	{checkpoint.ErrFormat, "format"},
}

func refusal(err error) map[string]any {
	out := map[string]any{"ok": false, "code": "internal", "message": err.Error()}
	var fork *follow.Equivocation
	if errors.As(err, &fork) {
		proof := make([]any, len(fork.Proof))
		for i, h := range fork.Proof {
			proof[i] = h.String()
		}
		out["code"] = "equivocation"
		out["evidence"] = map[string]any{
			"trusted": string(fork.Trusted.Bytes()), "note": string(fork.Note.Bytes()),
			"root": fork.Root.String(), "proof": proof,
		}
		return out
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			out["code"] = c.code
			break
		}
	}
	return out
}

// function makes f one of JavaScript. f's result gets ok: true.
func function(f func(args []js.Value) (map[string]any, error)) js.Func {
	return js.FuncOf(func(_ js.Value, args []js.Value) any {
		out, err := f(args)
		if err != nil {
			return refusal(err)
		}
		out["ok"] = true
		return out
	})
}

// bytesAt copies an argument, a Uint8Array of at most limit bytes.
func bytesAt(args []js.Value, i, limit int) ([]byte, error) {
	if i >= len(args) || !args[i].InstanceOf(js.Global().Get("Uint8Array")) {
		return nil, fmt.Errorf("%w %d: want a Uint8Array", errArgument, i)
	}
	n := args[i].Get("byteLength").Int()
	if n > limit {
		return nil, fmt.Errorf("%w %d: %d bytes, at most %d", errArgument, i, n, limit)
	}
	b := make([]byte, n)
	js.CopyBytesToGo(b, args[i])
	return b, nil
}

func policyAt(args []js.Value, i int) (*checkpoint.Policy, error) {
	b, err := bytesAt(args, i, checkpoint.MaxPolicy)
	if err != nil {
		return nil, err
	}
	p, err := checkpoint.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	return p, nil
}

func noteAt(args []js.Value, i int) (*checkpoint.Note, error) {
	b, err := bytesAt(args, i, checkpoint.MaxNote)
	if err != nil {
		return nil, err
	}
	n, err := checkpoint.ParseNote(b)
	if err != nil {
		return nil, err
	}
	if n.Checkpoint.Size > maxSafe {
		return nil, fmt.Errorf("%w: a tree of %d entries", errSize, n.Checkpoint.Size)
	}
	return n, nil
}

// notesAt reads the trusted note, null where there is none, and the one after it.
func notesAt(args []js.Value, i int) (trusted, note *checkpoint.Note, err error) {
	if i >= len(args) || !args[i].IsNull() {
		if trusted, err = noteAt(args, i); err != nil {
			return nil, nil, fmt.Errorf("the trusted checkpoint: %w", err)
		}
	}
	note, err = noteAt(args, i+1)
	return trusted, note, err
}

// verified is what a note says, and who signed it. Times of cosignatures are rounded
// where JavaScript can't hold them, in some 285 million years.
func verified(n *checkpoint.Note, by *checkpoint.Judgement) map[string]any {
	cosigned := make([]any, len(by.Cosigned))
	for i, c := range by.Cosigned {
		cosigned[i] = map[string]any{"witness": c.Witness, "key": c.Key.Name, "time": float64(c.Time)}
	}
	return map[string]any{
		"origin": n.Checkpoint.Origin, "size": float64(n.Checkpoint.Size), "root": n.Checkpoint.Root.String(), "cosigned": cosigned,
	}
}

// verifyReceipt(receipt, policy)
func verifyReceipt(args []js.Value) (map[string]any, error) {
	b, err := bytesAt(args, 0, receipt.MaxSize)
	if err != nil {
		return nil, err
	}
	policy, err := policyAt(args, 1)
	if err != nil {
		return nil, err
	}
	r, err := receipt.Parse(b)
	if err != nil {
		return nil, err
	}
	if r.Note.Checkpoint.Size > maxSafe {
		return nil, fmt.Errorf("%w: a tree of %d entries", errSize, r.Note.Checkpoint.Size)
	}
	p, err := r.Verify(policy)
	if err != nil {
		return nil, err
	}
	h := &p.Header
	out := verified(r.Note, &p.By)
	for name, value := range map[string]any{
		"chainId": h.ChainID.String(), "epoch": float64(h.Epoch), "sequence": float64(h.Sequence), "hash": p.Hash.String(),
		"time": time.Unix(0, h.Time).UTC().Format(time.RFC3339Nano), "workspace": h.Workspace, "source": h.Source, "id": h.ID,
		"kind": h.Kind, "subject": h.Subject, "principal": h.Principal, "contentType": h.Envelope.ContentType,
		"decision": nil, "payload": nil,
	} {
		out[name] = value
	}
	if h.Verdict != nil {
		out["decision"] = h.Verdict.Decision.String()
	}
	if p.Envelope != nil {
		payload := js.Global().Get("Uint8Array").New(len(p.Envelope.Payload))
		js.CopyBytesToJS(payload, p.Envelope.Payload)
		out["payload"] = payload
	}
	return out, nil
}

// verifyNote(note, policy)
func verifyNote(args []js.Value) (map[string]any, error) {
	n, err := noteAt(args, 0)
	if err != nil {
		return nil, err
	}
	policy, err := policyAt(args, 1)
	if err != nil {
		return nil, err
	}
	by, err := policy.Verify(n)
	if err != nil {
		return nil, err
	}
	return verified(n, &by), nil
}

// checkpointTiles(trusted, note): the paths of the tiles that followCheckpoint needs.
func checkpointTiles(args []js.Value) (map[string]any, error) {
	trusted, note, err := notesAt(args, 0)
	if err != nil {
		return nil, err
	}
	paths := []any{}
	if trusted != nil {
		for _, t := range follow.Tiles(trusted.Checkpoint.Size, note.Checkpoint.Size) {
			paths = append(paths, t.Path())
		}
	}
	return map[string]any{"paths": paths}, nil
}

// followCheckpoint(trusted, note, policy, tiles): tiles is an object of Uint8Arrays, by
// path.
func followCheckpoint(args []js.Value) (map[string]any, error) {
	trusted, note, err := notesAt(args, 0)
	if err != nil {
		return nil, err
	}
	policy, err := policyAt(args, 2)
	if err != nil {
		return nil, err
	}
	if len(args) < 4 || args[3].Type() != js.TypeObject {
		return nil, fmt.Errorf("%w 3: want an object of tiles", errArgument)
	}
	by, err := follow.Next(trusted, note, policy, &tileObject{note.Checkpoint.Size, args[3]})
	if err != nil {
		return nil, err
	}
	out := verified(note, &by)
	out["grown"] = trusted == nil || note.Checkpoint.Size > trusted.Checkpoint.Size
	return out, nil
}

// tileObject reads tiles of a tree of some size from an object.
type tileObject struct {
	size uint64
	js.Value
}

func (o *tileObject) ReadTile(level int, index uint64, _ int) ([]byte, error) {
	tile := follow.Tile(level, index, o.size)
	b, err := bytesAt([]js.Value{o.Get(tile.Path())}, 0, chain.TileSize)
	if err != nil || len(b) < tile.Width*len(chain.Hash{}) || len(b)%len(chain.Hash{}) != 0 {
		return nil, fmt.Errorf("%w: %s, %d hashes or the full tile's", errTiles, tile.Path(), tile.Width)
	}
	return b, nil
}

var _ chain.TileReader = (*tileObject)(nil)
