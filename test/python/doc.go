// Package python tests scripts/verify.py, the verifier in another language: it
// accepts our golden vectors, it refuses what was changed in any way, and wherever
// it is asked about odd bytes it answers as package chain does.
//
// The tests are skipped where there is no python3, unless -must is given.
package python
