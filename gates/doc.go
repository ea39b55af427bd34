// Package gates decides: it folds the governance state of a chain from its
// entries and evaluates, over that state, whether an event may pass its gate.
//
// It is pure. There is no clock, no randomness, no floating point, no map
// order and no I/O: the same entries give the same state, and the same state
// and event the same verdict, on every machine for ever. The leader calls it
// before it commits an event, voters call it again before they cosign, and
// verifiers when they replay a chain. It reports; whoever calls it acts.
//
// It imports nothing of ours but catalog, and compiles to WebAssembly.
package gates
