# Freehold. A Rust toolchain (rustup.rs, or the one named in Cargo.toml under rust-version) is the only precondition;
# everything else is named, and installed where that is possible, by `make setup`. Debian and Ubuntu.

CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release/freehold

.DEFAULT_GOAL := help
.PHONY: help setup build demo test bench pauses compatibility isolation versions chaos check fmt config

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## installs what is missing, by package name: PostgreSQL, a linker, a second PostgreSQL major
	@deploy/setup.sh

build: ## the freehold binary, in release mode
	$(CARGO) build --release --locked --bin freehold

demo: setup build ## moves a live database there and back under load, and computes the verdict
	@$(BIN) demo $(DEMO_ARGS)

# Without documentation examples (there are none to run), so that the runner's closing line comes last.
test: setup ## all tests, on PostgreSQL servers that they start themselves
	$(CARGO) test --locked --lib --bins --tests

bench: ## the relay beside PgBouncer and HAProxy on one PostgreSQL; takes about 25 minutes, best on an idle machine
	@deploy/setup.sh pgbouncer haproxy
	$(CARGO) bench --locked --bench parts
	$(CARGO) bench --locked --bench proxies -- $(BENCH_ARGS)

pauses: setup ## how long clients wait in a move with 16, 200 and 1,000 sessions; takes about 15 minutes
	$(CARGO) bench --locked --bench pause -- $(PAUSES_ARGS)

# SUITES="regress asyncpg" runs only those.
compatibility: setup build ## drivers' own test suites and PostgreSQL's, directly and through Freehold; fetches them; 15 minutes
	@FREEHOLD_BIN=$(BIN) tests/compatibility/run.sh $(SUITES)

check: ## format, lints as errors, documentation, licences and sources and known faults of crates
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	@deploy/check-crates.sh

isolation: setup ## every attack on lent connections, on every installed major, in both forms of pooling; 20 minutes
	FREEHOLD_ISOLATION=full $(CARGO) test --locked --test dataplane isolation:: -- --test-threads 1 --nocapture

# FREEHOLD_PG_DIRS names further installations: directories that hold bin/postgres, separated by colons.
versions: setup ## databases of everything odd, from each installed major to each newer one, back and there again; 10 minutes
	FREEHOLD_VERSIONS=all $(CARGO) test --locked --test moves versions:: -- --nocapture

chaos: setup ## kill -9 at every record of a move, and on both sides of every commit of every command; 15 minutes
	FREEHOLD_CHAOS=all $(CARGO) test --locked --test crash --test one_change -- --nocapture
	FREEHOLD_CHAOS=all $(CARGO) test --locked --test moves -- --nocapture crashes:: aborts::

fmt: ## formats the sources
	$(CARGO) fmt

config: ## renders config/freehold.toml anew from the table of settings
	FREEHOLD_RENDER=1 $(CARGO) test --locked --quiet --lib the_reference_file_is_what_the_table_renders
