// Package web is the verifier for browsers and Node.js: exonode.js is its face, wasm the
// WebAssembly behind it, index.html an example. `make web` puts them together in bin/web,
// docs/BROWSER.md describes them, test/web runs them. No Go program imports it.
package web
