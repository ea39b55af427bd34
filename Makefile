# Exonode. `make demo` shows it, `make test` checks it; a machine needs Go, git
# and make.

SHELL := /bin/bash
GO ?= go
BIN := bin/exonode
REPO ?= .
ARGS ?=
BENCH ?= .
FUZZTIME ?= 3s
SEEDS ?= 1-100
LENGTH ?= 2m
PACE ?= 2s
THINK ?= 500ms
FAULTS ?=
CRASHES ?= 20
SEED ?= 0
SCENARIO ?= ci
PLANTED ?= all
MUST ?= node
BUGS ?= double fork head lost_ack no_lookup reorder session stale_read stall verdict
# Simulated nodes write their keys to files: where those are synced for nothing.
SIMDIR ?= $(or $(wildcard /dev/shm),$(TMPDIR),/tmp)

export CGO_ENABLED ?= 0

.PHONY: all build demo test race lint generate generate-check wasm web web-test fuzz sim traps sim-planted bench crash e2e-long interop verify-python planted chaos netns clean help

all: build

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/exonode, one static binary
	$(GO) build -o $(BIN) ./cmd/exonode

demo: build ## three nodes, a git history, a killed leader (REPO=path, ARGS=--exit)
	@$(GO) run ./scripts/demo --binary $(BIN) --repo $(REPO) $(ARGS)

test: ## the tests
	$(GO) test ./...

race: ## the race detector, over all packages that start goroutines; it does not see into the processes of cmd/ and test/e2e
	CGO_ENABLED=1 $(GO) test -race -short -vet=off $$(git grep -lE 'go func|[.]Go\(|[.]Parallel\(|RunParallel|^[[:space:]]+go [a-z]' -- '*.go' | xargs -n1 dirname | sort -u | sed 's|^|./|' | grep -v -E '^./(cmd|scripts|test/(e2e|python|interop|netns|planted|web|crash))(/|$$)')

lint: ## gofmt, vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	scripts/staticcheck.sh ./...
	GOOS=js GOARCH=wasm $(GO) vet ./client/web/...
	GOOS=js GOARCH=wasm scripts/staticcheck.sh ./client/web/...

generate: ## generated code: catalog and protobuf
	$(GO) generate ./...
	scripts/generate.sh

generate-check: ## fail where generated code is stale
	scripts/generate.sh --check
	$(GO) generate ./...
	git diff --exit-code -- '*_gen.go'

wasm: ## what verifies in a browser compiles for one
	GOOS=js GOARCH=wasm $(GO) build -o /dev/null ./chain/... ./gates/... ./catalog/...
	GOOS=wasip1 GOARCH=wasm $(GO) build -o /dev/null ./chain/... ./gates/... ./catalog/...

web: ## the verifier for browsers and Node.js, in bin/web
	GO=$(GO) scripts/web.sh $(CURDIR)/bin/web
	@printf 'verify.wasm: %d bytes, %d with gzip\n' $$(wc -c <bin/web/verify.wasm) $$(gzip -9c bin/web/verify.wasm | wc -c)

fuzz: ## every fuzz target for a moment (FUZZTIME=3s)
	scripts/fuzz.sh $(FUZZTIME)

bench: build ## throughput and latency of three node processes, beside the machine's limits
	$(BIN) bench $(ARGS)

sim: ## clusters in bubbles, under seeded faults (SEEDS=1-100 LENGTH=2m PACE=2s THINK=500ms FAULTS=pause,crash ARGS=-trace)
	cd test/sim && TMPDIR=$(SIMDIR) $(GO) test -count=1 -timeout 0 -run 'TestSim$$' -args -seeds=$(SEEDS) -length=$(LENGTH) -pace=$(PACE) -think=$(THINK) -faults=$(FAULTS) $(ARGS)

traps: ## known traps of the parts we use, with our fixes and without
	cd test/sim && TMPDIR=$(SIMDIR) $(GO) test -count=1 -timeout 20m -run TestTrap -v . -args -before

sim-planted: ## bugs planted in the binary, which the simulation must find (those of the watch stand above it)
	cd test/sim && $(GO) test -c -tags planted -o $(SIMDIR)/exonode-sim-planted . && for bug in $(BUGS); do \
		EXONODE_PLANTED=$$bug TMPDIR=$(SIMDIR) $(SIMDIR)/exonode-sim-planted -test.run 'TestPlanted$$' -test.v | grep 'is found by' || { echo "$$bug is not found"; exit 1; }; done; \
		rm $(SIMDIR)/exonode-sim-planted

crash: ## power cuts beneath raft's stores, CRASHES=20 seeds of them (strace)
	$(GO) test -count=1 -timeout 60m ./test/crash -args -must -seeds=$(CRASHES)

e2e-long: ## the long process tests: a million entries
	EXONODE_LONG=1 $(GO) test -count=1 -timeout 20m -v -run Million ./test/e2e

planted: ## bugs planted in the binary, which the lab must find (PLANTED=watch_gap,watch_twice)
	$(GO) test -count=1 -timeout 30m -v ./test/planted -args -bugs=$(PLANTED)

chaos: build ## a scenario of the lab, judged (SCENARIO=ci SEED=0, which draws one)
	$(BIN) chaos run $(SCENARIO) --seed $(SEED) $(ARGS)

web-test: ## the JavaScript face in Node.js; in a browser too: MUST=node,chromium
	$(GO) test -count=1 ./test/web -args -must=$(MUST)
	$(GO) test -count=1 -run TestJavaScript ./test/e2e -args -must

interop: ## tools that others wrote read our log: x/mod, formats, tessera, torchwood
	cd test/interop && $(GO) vet . && $(GO) test -count=1 .

verify-python: build ## scripts/verify.py, written from docs/FORMAT.md alone: its tests, and a demo cluster's exports and receipt
	$(GO) test -count=1 ./test/python -args -must
	@$(GO) run ./scripts/demo --binary $(BIN) --repo $(REPO) --exit --python scripts/verify.py

netns: ## hosts in network namespaces, real multicast (root, iproute2, iptables)
	$(GO) test -tags netns -count=1 -timeout 15m ./test/netns

clean:
	rm -rf bin
