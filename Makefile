# devenv: the commands of developers. `make` lists them.

PROFILE ?= aio
NAME ?=
ARGS ?=

BIN := .venv/bin
GATES := $(BIN)/python tools/run_gates.py
ON := $(if $(NAME),--name $(NAME))

# With this variable, CPython reads a program from stdin byte by byte: each Ansible module would start 60 ms later.
unexport PYTHONUNBUFFERED

.DEFAULT_GOAL := help
.PHONY: help setup packages venv bundle up down test lint unit artifact sanity molecule e2e coverage matrix chaos bench nightly docs site clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## install Debian packages, virtual environment and bundle, if missing; raise kernel limits
	@tools/setup packages venv limits bundle

packages: ## install the Debian packages only
	@tools/setup packages

venv: ## create the virtual environment only (sufficient for lint and unit)
	@tools/setup venv

bundle: ## build the bundle of binaries and images only
	@tools/setup venv bundle

up: setup ## create a cluster: make up PROFILE=aio [NAME=mine] [ARGS=...]
	$(BIN)/devenv up --profile $(PROFILE) $(ON) $(ARGS)

down: venv ## remove it: make down [PROFILE=aio] [NAME=mine]
	$(BIN)/devenv down --name $(or $(NAME),$(PROFILE)) $(ARGS)

test: ## run all gates, as continuous integration does
	@tools/setup packages test-packages venv limits
	@$(GATES) all

lint: venv ## check format, style, types, YAML, Ansible, generated docs
	@$(GATES) lint

unit: venv ## run the tests that need no root, network or containers
	@$(GATES) unit

artifact: venv ## build the collection archive and the wheel, install and use them elsewhere
	@$(GATES) artifact

sanity: venv ## run ansible-test sanity on the built archive
	@$(GATES) sanity

molecule: setup ## test the roles in containers
	@tools/setup test-packages test-bundle limits
	@$(GATES) molecule

e2e: setup ## test real clusters, through the command and through Ansible
	@tools/setup test-packages test-bundle limits
	@$(GATES) machine e2e

coverage: venv ## unit and integration tests with their coverage, subprocesses included
	@$(GATES) coverage --nightly

matrix: setup ## create every named profile without a test of its own (MATRIX_ONLY: a pattern of names)
	@tools/setup test-packages test-bundle limits
	@$(GATES) matrix --nightly

chaos: setup ## kill `up` at random moments; the next one must converge (CHAOS_KILLS, CHAOS_SEED)
	@tools/setup test-packages test-bundle limits
	@$(GATES) chaos --nightly

nightly: ## run test, and what takes too long for every change
	@tools/setup packages test-packages venv limits
	@$(GATES) all --nightly
	@$(MAKE) --no-print-directory bench

bench: setup ## compare the time of an up with that of the bare commands; fails above a bar (ARGS=--report-only: never)
	$(BIN)/python tests/bench/bench.py $(ARGS)

docs: venv ## regenerate the generated pages
	$(BIN)/python tools/generated.py

site: venv ## the documentation site, in site/
	$(BIN)/python tools/build_site.py

clean: ## remove what building and testing left in this folder (not environments, not the bundle)
	rm -rf .cache .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site bench.json
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
