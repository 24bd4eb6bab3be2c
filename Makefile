# devenv: every command a developer types. `make` lists them.

PROFILE ?= aio
NAME ?=
ARGS ?=

BIN := .venv/bin
GATES := $(BIN)/python tools/run_gates.py
ON := $(if $(NAME),--name $(NAME))

# CPython reads a program from stdin byte by byte when this is set: each Ansible module would start 60 ms later.
unexport PYTHONUNBUFFERED

.DEFAULT_GOAL := help
.PHONY: help setup packages venv bundle up down test lint unit artifact sanity molecule e2e matrix chaos bench nightly docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Debian packages, virtual environment, bundle (only what is missing)
	@tools/setup packages venv bundle

packages: ## Debian packages alone
	@tools/setup packages

venv: ## virtual environment alone (all that lint and unit need)
	@tools/setup venv

bundle: ## programs and images of the Kubernetes version alone
	@tools/setup venv bundle

up: setup ## a cluster: make up PROFILE=aio [NAME=mine] [ARGS=...]
	$(BIN)/devenv up --profile $(PROFILE) $(ON) $(ARGS)

down: venv ## take it down: make down [PROFILE=aio] [NAME=mine]
	$(BIN)/devenv down --name $(or $(NAME),$(PROFILE)) $(ARGS)

test: ## everything, as continuous integration runs it
	@tools/setup packages test-packages venv limits
	@$(GATES) all

lint: venv ## format, style, types, YAML, Ansible, generated docs
	@$(GATES) lint

unit: venv ## tests without root, network or containers
	@$(GATES) unit

artifact: venv ## collection archive and wheel: build, install elsewhere, use
	@$(GATES) artifact

sanity: venv ## ansible-test sanity on the built archive
	@$(GATES) sanity

molecule: setup ## roles on containers
	@tools/setup test-packages test-bundle limits
	@$(GATES) molecule

e2e: setup ## real clusters, through the command and through Ansible
	@tools/setup test-packages test-bundle limits
	@$(GATES) machine e2e

matrix: setup ## make every profile that has a name and no test of its own (MATRIX_ONLY: a pattern of names)
	@tools/setup test-packages test-bundle limits
	@$(GATES) matrix --nightly

chaos: setup ## kill the making of a cluster at random moments: the next must put it right (CHAOS_KILLS, CHAOS_SEED)
	@tools/setup test-packages test-bundle limits
	@$(GATES) chaos --nightly

nightly: ## test, and what takes too long for every change
	@tools/setup packages test-packages venv limits
	@$(GATES) all --nightly
	@$(MAKE) --no-print-directory bench

bench: setup ## what an up costs beside the bare commands: writes bench.json
	$(BIN)/python tests/bench/bench.py $(ARGS)

docs: venv ## write the generated pages anew
	$(BIN)/python tools/generated.py

clean: ## remove what building and testing left in this folder (not environments, not the bundle)
	rm -rf .cache .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist bench.json
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
