# The commands of a working day. `make help` lists them.
export PATH := $(PATH):$(HOME)/.cargo/bin

PROFILE_DIR := target/release
ARGS ?=
SCENARIO ?= smoke
RECORDS ?= 10000000
SEED ?=

.PHONY: help tools up test lint load fuzz ci

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)

tools: ## install what the build and the local stack need
	@deploy/install-tools.sh

up: tools ## build and start everything on this machine; ARGS='--port 8080 --data-dir .triggers --ephemeral'
	@cargo build --release --locked -p triggers
	@exec $(PROFILE_DIR)/triggers up $(ARGS)

test: tools ## all tests, against a real Kafka and a real PostgreSQL
	cargo test --profile ci --locked --workspace --no-run
	target/ci/devstack exec -- cargo test --profile ci --locked --workspace $(ARGS)

lint: tools ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --profile ci --locked --workspace --all-targets -- -D warnings

load: tools ## load test against what `make up` started; SCENARIO=smoke|full, ARGS for more
	cargo build --release --locked -p loadtests
	$(PROFILE_DIR)/loadtests run --scenario $(SCENARIO) $(ARGS)

fuzz: ## ten million arbitrary and mutated records through each decoder; RECORDS, SEED for others
	DECODER_RECORDS=$(RECORDS) $(if $(SEED),DECODER_SEED=$(SEED)) cargo test --profile ci --locked -p schemas -p platform -p tenancy -p materializer -p dispatcher decoder -- --nocapture

ci: ## what continuous integration runs
	.ci/run
