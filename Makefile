# The commands of a working day. `make help` lists them.
export PATH := $(PATH):$(HOME)/.cargo/bin

PROFILE_DIR := target/release
ARGS ?=
SCENARIO ?= smoke
RECORDS ?= 10000000
SEED ?=
ADVISORY_DB ?=

.PHONY: help tools up test lint schema docs deny advisories load fuzz faults sabotage ci

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)

tools: ## install what the build and the local stack need
	@deploy/install-tools.sh

up: tools ## build and start everything on this machine; ARGS='--port 8080 --data-dir .triggers --ephemeral'
	@cargo build --release --locked -p triggers
	@exec $(PROFILE_DIR)/triggers up $(ARGS)

test: tools ## all tests, against a real Kafka and a real PostgreSQL, and the short form of the faults; ARGS='FILTER' runs only some tests
	cargo test --profile ci --locked --workspace --no-run
	target/ci/devstack exec -- cargo test --profile ci --locked --workspace $(ARGS)
	$(if $(ARGS),,target/ci/faults --short --work target/faults-short)

lint: tools ## formatting, the word list, patches that still apply, and clippy; warnings are errors
	cargo fmt --all --check
	.ci/words
	for patch in loadtests/sabotage/*.patch; do git apply --check "$$patch" || exit 1; done
	cargo clippy --profile ci --locked --workspace --all-targets -- -D warnings

deny: tools ## licences, sources and duplicates of the crates, by deny.toml
	@deploy/cargo-deny check licenses sources bans

# Apart from `deny`, because it needs github.com: a machine that reaches only package registries cannot run it.
advisories: tools ## known vulnerabilities of the crates; ADVISORY_DB=FOLDER reads a clone of RustSec/advisory-db instead of github.com
	@$(if $(ADVISORY_DB),GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0='url.file://$(abspath $(ADVISORY_DB)).insteadOf' \
	GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db) deploy/cargo-deny check advisories

load: tools ## load test against what `make up` started; SCENARIO=smoke|full, ARGS for more
	cargo build --release --locked -p bench
	$(PROFILE_DIR)/bench run --scenario $(SCENARIO) $(ARGS)

schema: tools ## write schemas/postgres/schema.sql again after a new migration
	WRITE_SCHEMA=1 cargo test --profile ci --locked -p runtime --test it schema

docs: tools ## write docs/configuration.md again after a change of options
	WRITE_DOCS=1 cargo test --profile ci --locked -p triggers --bin triggers documents

fuzz: ## ten million arbitrary and mutated records through each decoder; RECORDS, SEED for others
	DECODER_RECORDS=$(RECORDS) $(if $(SEED),DECODER_SEED=$(SEED)) cargo test --profile ci --locked -p schemas -p http-server -p kafka -p tenancy -p materializer -p dispatcher decoder -- --nocapture

# Built with the tests' features, or half of the graph would be built again.
faults: tools ## each fault alone under load, on three brokers; ARGS='--seed 7 --count 20' adds a random sequence, --resume continues a run
	@deploy/install-tools.sh faults || echo 'The faults that step clocks will be reported as not run.' >&2
	cargo test --profile ci --locked --workspace --no-run
	target/ci/faults $(ARGS)

sabotage: tools ## shows that the faults notice what is broken on purpose; ARGS=fence for one patch
	loadtests/sabotage/run $(ARGS)

ci: ## what continuous integration runs
	.ci/run
