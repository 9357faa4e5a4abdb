# The only door for people and CI. `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv/bin
# The set-up runs before there is an environment.
SETUP := python3 docker/local/bootstrap.py
STACK := PYTHONPATH=docker/local:jobs $(VENV)/python -m embedded
CHECKED := jobs plugins dags docker/local tests
ROOMS := dags instructions training embeddings search prompts serving

# For tests and benchmarks: ninja and the tools on the PATH, compiled operators and converted models kept in the clone.
TESTING := PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH="$(CURDIR)/jobs:$(CURDIR)/plugins:$(CURDIR)/docker/local" \
	TORCH_EXTENSIONS_DIR="$(CURDIR)/.cache/torch_extensions" LLMJOBS_MODEL_CACHE="$(CURDIR)/.cache/models" \
	MAX_JOBS=2 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false GX_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true

.PHONY: help setup up down run status ask check-contract test test-long check lint tour faults lock bench $(ROOMS:%=bench-%)

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup:  ## the environment from the lock; does nothing when it is there
	@$(SETUP) run

run: setup  ## start the stack, drive a whole night through Airflow, print the figures
	@$(STACK) run

up: setup  ## start the stack without a run
	@$(STACK) up

down:  ## end every process of this stack, and no other
	@if [ -x $(VENV)/python ]; then $(STACK) down; else echo "no environment, so nothing was started from here"; fi

status: setup  ## what runs, and how much memory it takes
	@$(STACK) status

ask: setup  ## make ask q="How do I stop everything?": answer from the guide
	@$(STACK) ask -- "$$NIGHTSHIFT_QUESTION"
ask: export NIGHTSHIFT_QUESTION = $(q)

check-contract: setup  ## make check-contract contract=dags/contracts/tickets.yaml files="a.jsonl b.csv": lint, and try
	@PYTHONPATH=jobs $(VENV)/python -m llmjobs.instructions.check $(contract) $(files)

test: setup-tests check  ## every check and test; CI runs this
	@$(TESTING) $(VENV)/pytest -rs $(PYTEST_ARGUMENTS)

check: setup lint  ## ruff, mypy strict and the arrow tests; repairs nothing
	@$(VENV)/pytest -q tests/test_arrows.py

lint:
	@$(VENV)/ruff check $(CHECKED)
	@$(VENV)/ruff format --check $(CHECKED)
	@$(VENV)/mypy $(CHECKED)

test-long: setup-tests  ## the tests that take minutes each, which `make test` leaves out
	@$(TESTING) $(VENV)/pytest -rs -m long $(PYTEST_ARGUMENTS)

tour: setup-tests  ## the browser tests alone: a real Chromium walks through Airflow; screenshots in .cache
	@NIGHTSHIFT_SCREENSHOTS="$${NIGHTSHIFT_SCREENSHOTS:-$(CURDIR)/.cache/screenshots}" $(TESTING) \
		$(VENV)/pytest -rs tests/browser $(PYTEST_ARGUMENTS)

faults: setup-tests  ## the fault tests alone: kill -9 here and there, and see it pick up
	@$(TESTING) $(VENV)/pytest -rs tests -k "faults or kill" $(PYTEST_ARGUMENTS)

lock: setup  ## compile requirements.txt from requirements.in
	@$(VENV)/python docker/local/lock.py

bench: $(ROOMS:%=bench-%)  ## every benchmark; bench-dags, bench-training, ...: those of one room

$(ROOMS:%=bench-%): bench-%: setup
	@$(TESTING) $(VENV)/python -m tests.benchmarks $*

.PHONY: setup-tests
setup-tests:
	@$(SETUP) test
