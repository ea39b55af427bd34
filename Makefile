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

export CGO_ENABLED ?= 0

.PHONY: all build demo test race lint generate generate-check wasm fuzz sim bench e2e-long interop netns clean help

all: build

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/exonode, one static binary
	$(GO) build -o $(BIN) ./cmd/exonode

demo: build ## three nodes, a git history, a killed leader (REPO=path, ARGS=--exit)
	@$(GO) run ./scripts/demo --binary $(BIN) --repo $(REPO) $(ARGS)

test: ## the tests
	$(GO) test ./...

race: ## the tests under the race detector, but for those of processes, which it does not see into
	CGO_ENABLED=1 $(GO) test -race -short $$($(GO) list ./... | grep -v /test/e2e)

lint: ## gofmt, vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	scripts/staticcheck.sh ./...

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

fuzz: ## every fuzz target for a moment (FUZZTIME=3s)
	scripts/fuzz.sh $(FUZZTIME)

bench: build ## throughput and latency of three node processes, beside the machine's limits
	$(BIN) bench $(ARGS)

sim: ## clusters in bubbles, under seeded faults (SEEDS=1-100 LENGTH=2m PACE=2s THINK=500ms FAULTS=pause,crash ARGS=-trace)
	cd test/sim && $(GO) test -count=1 -timeout 0 -run 'TestSim$$' -args -seeds=$(SEEDS) -length=$(LENGTH) -pace=$(PACE) -think=$(THINK) -faults=$(FAULTS) $(ARGS)

e2e-long: ## the long process tests: a million entries
	EXONODE_LONG=1 $(GO) test -count=1 -timeout 20m -v -run Million ./test/e2e

interop: ## tools that others wrote read our log: x/mod, formats, tessera, torchwood
	cd test/interop && $(GO) vet . && $(GO) test -count=1 .

netns: ## hosts in network namespaces, real multicast (root, iproute2, iptables)
	$(GO) test -tags netns -count=1 -timeout 15m ./test/netns

clean:
	rm -rf bin
