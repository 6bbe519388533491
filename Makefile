# Thin names for the scripts in scripts/; each target sets up what it needs by itself.

.DEFAULT_GOAL := help
.PHONY: help setup build cli run test test-workers sim parity chaos fuzz bench docs lint package clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what all the others need (ENVOY=path, MATRIX_EDGE_AUTH_TOOLCHAIN=rustup|distribution)
	@scripts/setup

build: ## Build the module: dist/matrix-edge-auth.wasm
	@scripts/build

cli: ## Build the command-line program: dist/matrix-edge-auth
	@scripts/cli

run: ## Run all on loopback, with a page to watch (MAS_URL=, MAS_SECRET=, HOMESERVER_URL=, SERVER_NAME= for your own)
	@scripts/run

test: ## Run all tests (LAYER="native core module envoy chaos manifests ops synapse"; also page clients versions workers)
	@scripts/test $(LAYER)

test-workers: ## Test with a real Synapse of several processes; needs PostgreSQL and Redis
	@scripts/test workers

sim: ## Run the deterministic simulation over random seeds (SEEDS=100000, SCENARIO_SEED=n replays one)
	@scripts/sim $(SEEDS)

parity: ## Compare generated requests through the module with Synapse alone (REQUESTS=50000, SEED=n, REQUEST=n for one)
	@scripts/parity "$(REQUESTS)" "$(SEED)" "$(REQUEST)"

chaos: ## Let everything fail at once around a real Envoy (SECONDS=600, SEED=n replays one)
	@scripts/chaos $(or $(SECONDS),600) $(SEED)

fuzz: ## Fuzz what reads bytes from outside (SECONDS=30, TARGET="endpoint worker" picks some)
	@scripts/fuzz $(or $(SECONDS),30) $(TARGET)

bench: ## Measure the module in a real Envoy (PART="cold latency" picks some, QUICK=1 takes 5 minutes)
	@scripts/bench $(PART)

docs: ## Write the generated parts of docs/: the JSON Schema and the reference of the configuration
	@WRITE_DOCS=1 cargo test --quiet --test schema documents::the_
	@echo "docs: docs/configuration.schema.json and the tables of docs/configuration.md are up to date"

lint: ## Check formatting, lints, crates and the project's own rules
	@scripts/lint

package: ## Build the release: the module twice, its bill of materials, an OCI image layout in dist/oci, SHA256SUMS
	@scripts/package

clean: ## Remove what was built, keep what setup installed
	@cargo clean --quiet && rm -rf dist
