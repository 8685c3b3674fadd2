# The two commands a newcomer needs are `make demo` and `make test`; `make help` lists the rest.
#
# The tool environment (.poetry) exports poetry.lock as a requirements file with hashes, and pip installs exactly that.
# `poetry install` would do the same, but it needs the JSON API of the index, which many mirrors and caching proxies do not
# have. pip with hashes works with all of them, and is as strict.

PYTHON ?= python3
MINUTES ?= 20
POETRY_VERSION := 2.5.1
EXPORT_VERSION := 1.10.0

VENV   := .venv
BIN    := $(VENV)/bin
POETRY := .poetry/bin/poetry
# Stamps record what is installed, and from which lock. The dev environment includes main, and peers includes dev.
MAIN := $(VENV)/.installed-main
DEV  := $(VENV)/.installed-dev
PEERS := $(VENV)/.installed-peers
comma := ,
# Several workers of pytest-xdist, each with servers of its own (tests/spreading.py).
SIDE_BY_SIDE := -n auto --dist loadgroup

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export POETRY_NO_INTERACTION := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo serve test test-all test-docker chaos fuzz soak lint format bench bench-smoke bench-gateway scaling latency volumes memory env servers browser clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(DEV) ## make .venv with all that tests and checks need

demo: $(MAIN) ## run the embedded pipeline on a contacts file and on random messages; needs no server
	$(BIN)/smsim simulate --contacts examples/5000contacts.csv --text "Hi {name}, this is a test alert." \
		--senders 1000 --mean-processing-time 0.5
	$(BIN)/smsim simulate --num-messages 200000 --senders 20000 --mean-processing-time 1

serve: $(MAIN) ## run a local stand-in for an SMS service on http://localhost:8000; needs no server
	@$(BIN)/smsim serve

test: $(DEV) servers browser ## run the tests in minutes, on real servers too
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-all: $(DEV) servers browser ## run the tests in their long forms, too
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not docker" --hypothesis-profile=long

test-docker: $(DEV) ## run the tests of the image and of the compose stack; needs a Docker engine
	$(BIN)/pytest -m docker tests/docker

chaos: $(DEV) servers ## try every fault on real processes and servers; the table of docs/reliability.md
	$(BIN)/python -m tests.chaos --out docs/reliability.json
	$(BIN)/python -m tests.chaos.table docs/reliability.json

fuzz: $(DEV) servers ## send 100,000 random and mutated bodies to a real sender
	FUZZ_BODIES=100000 $(BIN)/pytest tests/fuzz

soak: $(DEV) servers ## run 20 minutes of steady load with rolling restarts; MINUTES=5 for another length
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

lint: $(DEV) ## check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## let ruff format and fix the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(PEERS) servers ## measure this pipeline and its peers, 10 minutes; a table, JSON and a chart
	@scripts/install-bench.sh || true
	$(BIN)/python -m studies.bench

bench-smoke: $(DEV) servers ## compare with plain pika and with the recorded run, 2 minutes
	$(BIN)/python -m studies.bench.smoke

bench-gateway: $(DEV) servers ## measure the gateway under load, 3 minutes; a table and JSON
	@scripts/install-bench.sh wrk
	$(BIN)/python -m studies.gateway

scaling: $(DEV) servers ## run the scaling study, embedded and on servers, 11 minutes; into docs/scaling
	$(BIN)/python -m studies.on_servers --none $(BIN)/smsim scale --fresh --out docs/scaling
	$(BIN)/python -m studies.on_servers $(BIN)/smsim scale --distributed --fresh --out docs/scaling
	$(BIN)/python -m studies.pages

latency: $(DEV) servers ## measure latency against offered load, 5 minutes; into docs/capacity
	$(BIN)/python -m studies.latency

volumes: $(DEV) servers ## record CPU and memory of every service with 5, 5,000 and 500,000 messages
	$(BIN)/python -m studies.capacity.volumes

memory: $(DEV) servers ## measure the memory of sender, producer and ledger
	$(BIN)/python -m studies.capacity.memory

env: ## write .env, and random passwords into secrets/, for docker-compose (never overwrites)
	@scripts/make-env.sh

servers: ## install redis-server and rabbitmq-server where they are missing (Debian and Ubuntu)
	@scripts/install-servers.sh

browser: ## install Chromium for the dashboard's tests where it is missing (Debian); the tests are skipped without it
	@scripts/install-browser.sh || [ -z "$$CI" ]

clean: ## remove the environments and caches
	rm -rf $(VENV) .poetry .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,<options of poetry export>,<name of the requirements file>)
define install
	$(POETRY) export --quiet --format requirements.txt $(1) --output $(VENV)/$(2)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $(VENV)/$(2)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(POETRY) install --quiet --only-root
endef

$(MAIN): $(BIN)/python $(POETRY) poetry.lock pyproject.toml
	$(call install,,requirements-main.txt)
	@touch $@

$(DEV): $(BIN)/python $(POETRY) poetry.lock pyproject.toml
	$(call install,--with dev --extras study,requirements-dev.txt)
	@touch $(MAIN) $@

$(PEERS): $(DEV)
	$(call install,--with dev$(comma)bench --extras study,requirements-bench.txt)
	@touch $@

# No prerequisites: an existing environment is kept, independent of its date.
$(BIN)/python:
	@$(check-python)
	$(PYTHON) -m venv $(VENV)

$(POETRY):
	@$(check-python)
	$(PYTHON) -m venv .poetry
	.poetry/bin/python -m pip install --quiet poetry==$(POETRY_VERSION) poetry-plugin-export==$(EXPORT_VERSION)

define check-python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	|| { echo "Python lacks venv; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef
