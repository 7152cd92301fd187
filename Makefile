# What there is to do here. `make` alone explains itself.
.DEFAULT_GOAL := help
.PHONY: help demo test fuzz bench soak regress matrix routes hostile fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## start PostgreSQL clusters, demo tenants and pgward; Ctrl-C stops all
	@scripts/prepare demo
	cargo build --profile quick --locked
	@exec "$${CARGO_TARGET_DIR:-target}/quick/pgward" demo

test: ## everything that is checked before a change is taken
	@scripts/prepare test
	@scripts/test

fuzz: ## the fuzz targets led by coverage, SECONDS=60 each, TARGETS="frame sasl ..." or all
	@scripts/prepare test
	@scripts/fuzz $(or $(SECONDS),60) $(TARGETS)

bench: ## pgward beside PgBouncer on this machine
	@scripts/prepare bench
	@scripts/bench

soak: ## hours of load with every read checked, while servers lag and die
	@scripts/prepare bench
	@scripts/soak

regress: ## PostgreSQL's own regression suite straight, through PgBouncer and through pgward
	@scripts/prepare bench
	@scripts/regress

matrix: ## docs/features.md anew: feature by feature, pgward and PgBouncer
	@scripts/prepare bench
	@scripts/matrix

routes: ## docs/routes.md anew: what goes to a replica and what to the primary
	PGWARD_ROUTES=page cargo test --locked --test routes the_page_has_the_list -- --exact

hostile: ## docs/hostile.md anew: what a hostile tenant may try, and what comes of it
	@scripts/prepare bench
	@scripts/hostile

fmt: ## format the code
	cargo fmt

clean: ## remove what was built
	cargo clean
