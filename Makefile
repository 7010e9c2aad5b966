# Commands for development and CI. `make help` lists them.
export PATH := $(PATH):$(HOME)/.cargo/bin

PROFILE_DIR := target/release
# With the recorded profile: docs/adr/0022.
RELEASE := RUSTFLAGS="$$RUSTFLAGS -Cprofile-use=$(CURDIR)/deploy/pgo/triggers.profdata" cargo build --release --locked
ARGS ?=
SCENARIO ?= smoke
RECORDS ?= 10000000
ROWS ?= 5000000
RETRIES ?= 100000
SEED ?=
ADVISORY_DB ?=
LENGTH ?= short
# Tests wait more than they compute.
TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

.PHONY: help tools up test lint schema docs deny advisories load peers bench micro instructions pgo python conformance \
  fuzz scale retries faults sabotage ci

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)

tools: ## install what the build and the local stack need
	@deploy/install-tools.sh

up: tools ## build and start everything on this machine; ARGS='--port 8080 --data-dir .triggers --ephemeral'
	@$(RELEASE) -p triggers
	@exec $(PROFILE_DIR)/triggers up $(ARGS)

test: tools ## run all tests on a real Kafka and PostgreSQL, and the short fault suite; ARGS=FILTER runs some tests
	cargo test --profile ci --locked --workspace --no-run
	RUST_TEST_THREADS=$(TEST_THREADS) target/ci/devstack exec -- cargo test --profile ci --locked --workspace $(ARGS)
	$(if $(ARGS),,target/ci/faults --short --work target/faults-short)

lint: tools ## check formatting, words, line length, digests of images, that patches apply, and clippy
	cargo fmt --all --check
	.ci/words
	.ci/columns
	! grep -nE '^(FROM| *image:) ' docker-compose.yml deploy/Dockerfile | grep -v -e @sha256: -e triggers:latest
	for patch in loadtests/sabotage/*.patch; do git apply --check "$$patch" || exit 1; done
	cargo clippy --profile ci --locked --workspace --all-targets -- -D warnings

deny: tools ## check licences, sources and duplicate versions of the crates against deny.toml
	@deploy/cargo-deny check licenses sources bans

# Separate from `deny` because it needs github.com, which some machines cannot reach.
advisories: tools ## check known vulnerabilities of the crates; ADVISORY_DB=FOLDER uses a clone of RustSec/advisory-db
	@$(if $(ADVISORY_DB),GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0='url.file://$(abspath $(ADVISORY_DB)).insteadOf' \
	GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db) deploy/cargo-deny check advisories

load: tools ## run a load test against the system of `make up`; SCENARIO=spike: bench run --help lists them
	$(RELEASE) -p bench
	$(PROFILE_DIR)/bench run --scenario $(SCENARIO) $(ARGS)

peers: tools ## measure Apache Camel and Durable Streams beside the system of `make up`; ARGS for more options
	$(RELEASE) -p bench
	for peer in camel camel-deliver durable-streams; do $(PROFILE_DIR)/bench peer $$peer $(ARGS) || exit 1; done

bench: tools ## print the figures of the table of targets, each beside its bare loop; ARGS='--steps s1,s2 --rounds 3'
	$(RELEASE) -p triggers -p bench
	$(PROFILE_DIR)/bench all $(ARGS)

schema: tools ## regenerate schemas/postgres/schema.sql after a new migration
	WRITE_SCHEMA=1 cargo test --profile ci --locked -p runtime --test it schema

docs: tools ## regenerate docs/configuration.md, docs/http-api.md and schemas/openapi.json
	WRITE_DOCS=1 cargo test --profile ci --locked -p triggers --bin triggers -- documents

scale: ## print what claims and changes of endpoints cost beside many scheduled webhooks; ROWS=5000000: four minutes
	CLAIM_ROWS=$(ROWS) cargo test --profile ci --locked -p dispatcher --lib scale:: -- --nocapture --test-threads 1

retries: tools ## kill and restart a dispatcher beside many scheduled retries; RETRIES=100000 takes ten minutes
	RETRIES=$(RETRIES) cargo test --profile ci --locked -p triggers --test it scheduled_retries -- --nocapture

fuzz: ## feed ten million random and mutated records to each decoder; RECORDS and SEED change that
	DECODER_RECORDS=$(RECORDS) $(if $(SEED),DECODER_SEED=$(SEED)) cargo test --profile ci --locked \
	  -p schemas -p http-server -p kafka -p tenancy -p materializer -p dispatcher decoder -- --nocapture

micro: ## print nanoseconds per operation of the paths without Kafka and PostgreSQL; ARGS=token measures some
	cargo bench --locked -p micro --bench micro -- $(ARGS)

# Not in .ci/run: it needs a release build, and counts of the profile ci are not those of the product.
instructions: tools ## compare instruction counts with loadtests/micro/instructions.txt; ARGS=--renew writes them
	cargo run --release --locked -p micro --bin instructions -- $(ARGS)

pgo: tools ## record the profile that release builds use, deploy/pgo/triggers.profdata: half an hour
	$(RELEASE) -p bench
	deploy/pgo/train

# The server is built together with the tests: a separate build would select other features and rebuild many crates.
python: tools ## check the Python client: lints, types, its tests against a real system; ARGS for pytest
	cargo test --profile ci --locked --workspace --no-run
	.ci/python target/ci/triggers $(ARGS)

conformance: tools ## send requests that are made from /openapi.json, and check the answers; LENGTH=short|long
	cargo test --profile ci --locked --workspace --no-run
	.ci/conformance target/ci/triggers $(LENGTH)

# Built as above.
faults: tools ## run the fault suite on three brokers; ARGS='--seed 7 --count 20' adds random faults, --resume continues
	cargo test --profile ci --locked --workspace --no-run
	target/ci/faults $(ARGS)

sabotage: tools ## check that the fault suite detects deliberately broken code; ARGS=fence runs one patch
	loadtests/sabotage/run $(ARGS)

ci: ## run everything that continuous integration runs
	.ci/run
