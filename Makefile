# `make demo` shows it, `make test` tries it. Each installs what it needs (Debian 12, root, a stable
# Rust toolchain); nothing has to be prepared.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: install deb demo test test-long lint bench bench-restore bench-daemon bench-offsite bench-physical schema

install: ## into PREFIX (/usr/local), with unit, user, man pages and completions; DESTDIR for packages
	cargo build --release --quiet
	systemd/install target/release/pgvigil

deb: ## a Debian package in target/debian
	tests/support/install build cargo-deb
	cargo build --release --quiet
	rm -rf target/stage
	PREFIX=/usr DESTDIR=target/stage systemd/install target/release/pgvigil
	cargo deb --no-build --quiet

demo: ## the main job, shown on a throwaway PostgreSQL with sample data
	tests/support/install build
	cargo build --quiet
	tests/support/with-servers tests/support/demo

test: ## all tests, each kind at a size that finds regressions
	tests/support/install all
	tests/support/with-servers cargo nextest run

test-long: ## the same and the campaigns at full size (two hours and a half on 2 cores)
	tests/support/install all
	PGVIGIL_TEST_LONG=1 PROPTEST_CASES=2000 tests/support/with-servers cargo nextest run --profile long

lint: ## format, clippy, the examples in config/ (whose secrets are not here)
	tests/support/install build
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo build --quiet
	for file in config/*.toml systemd/pgvigil.toml; do \
		told=$$(target/debug/pgvigil --config $$file check --offline 2>&1); code=$$?; \
		[[ $$code =~ ^(0|3|78)$$ ]] || { echo "$$file: $$told"; exit 1; }; \
		grep -q '^ok  *file:' <<<"$$told" || { echo "$$file: $$told"; exit 1; }; \
		! grep '^FAILED' <<<"$$told" | grep -vE '^FAILED  *(secrets|signing_key):' || exit 1; \
	done

bench: ## the table of docs/performance.md, on this machine
	tests/support/install all
	cargo build --release --quiet
	tests/support/with-servers tests/bench/plain-tools $(RUNS)

bench-restore: ## restores and drills against gunzip | psql and pg_restore
	tests/support/install all
	cargo build --release --quiet
	tests/support/with-servers tests/bench/restore $(RUNS)

bench-daemon: ## what the daemon costs at rest, and how soon it begins
	tests/support/install all
	cargo build --release --quiet
	tests/support/with-servers tests/bench/daemon $(SECONDS_AT_REST)

bench-offsite: ## runs into S3 and over ssh against rclone, scp and rsync
	tests/support/install all
	cargo build --release --quiet
	tests/support/with-servers tests/bench/offsite s3 $(GIB) $(RUNS)
	tests/support/with-servers tests/bench/offsite ssh $(GIB) $(RUNS)

bench-physical: ## base backups, restores, pushes and replay against pgBackRest, pg_basebackup and cp
	tests/support/install all pgbackrest
	cargo build --release --quiet
	tests/support/with-servers tests/bench/physical $(RUNS)

schema: ## docs/pgvigil.schema.json from the types of the file
	cargo run --quiet -- schema > docs/pgvigil.schema.json
