# Each target makes what it needs and says so. PYTHON: the interpreter to begin with, 3.11 or later.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
WORKERS_OF_TESTS ?= 2
# embedded: SQLite and the bundled store. real: PostgreSQL and Redis, of DATABASE_URL and REDIS_URL or of this machine.
STORES ?= embedded
# What runs on real stores: all that writes rows or events. The others cannot differ: providers, pages, bench and
# architecture have no store of their own or only look through REST at one; config is about the embedded ones; the
# ignored are pure.
TESTS_OF_STORES := tests/streams tests/chat tests/sockets tests/rest tests/accounts tests/flows \
	tests/config/test_real_stores.py \
	$(patsubst %,--ignore=tests/%.py,flows/test_graph flows/test_conditions flows/test_templates)
SHELL := /bin/sh

# Stamps: a target is made again when what it was made from has changed.
RUN_STAMP := $(VENV)/.run-$(shell cksum < requirements.txt | cut -d' ' -f1)
DEV_STAMP := $(VENV)/.dev-$(shell cat requirements*.txt | cksum | cut -d' ' -f1)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run setup test test-embedded test-real lint bench faults chromium nginx messages clean

help:
	@echo "make run     serve on http://localhost:8000/ (first makes packages, tables, users, demo flows)"
	@echo "make test    all tests; STORES=real: those that differ, on PostgreSQL and Redis; SERVER=daphne: sockets on it"
	@echo "make lint    style, import contracts, migrations, documents"
	@echo "make bench   measurements; ROW=<name> for one"
	@echo "make faults  twenty faults on real workers, and what held, beside what two peers lose (PEERS=off: without);"
	@echo "             ONLY=<number> for one, RUNS=<k> of each;"
	@echo "             SIEGE=kills, rolling (TURNS=<n>), churn or attack (MINUTES=<n>): long runs on three workers"

$(PY):
	@echo "== virtual environment in $(VENV)"
	@command -v "$(firstword $(PYTHON))" >/dev/null 2>&1 || \
		{ echo "headrace: there is no $(PYTHON); set PYTHON to Python 3.11 or later."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headrace: $(PYTHON) is too old; set PYTHON to Python 3.11 or later."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements.txt | $(PY)
	@echo "== packages to run (requirements.txt)"
	@$(PY) -m pip install -q -r requirements.txt
	@rm -f $(VENV)/.run-* && touch $@

$(DEV_STAMP): requirements.txt requirements-otel.txt requirements-dev.txt | $(PY)
	@echo "== packages to test (requirements-dev.txt)"
	@$(PY) -m pip install -q -r requirements-dev.txt
	@rm -f $(VENV)/.dev-* $(VENV)/.run-* && touch $@ $(RUN_STAMP)

setup: $(RUN_STAMP) messages
	@HEADRACE_ALLOW_PRIVATE_PROVIDERS=$${HEADRACE_ALLOW_PRIVATE_PROVIDERS:-on} $(PY) manage.py setup

run: setup
	@HEADRACE_ALLOW_PRIVATE_PROVIDERS=$${HEADRACE_ALLOW_PRIVATE_PROVIDERS:-on} exec $(PY) manage.py serve

# SERVER=daphne: the socket tests on Daphne; tests/serving.py says what it cannot do.
SERVER ?= uvicorn
TESTS_OF_SERVERS := tests/sockets
export SERVER

PYTEST := $(PY) -m pytest -n $(WORKERS_OF_TESTS) --dist loadfile

test: test-$(STORES)

test-real: $(DEV_STAMP)
	@echo "== tests on PostgreSQL and Redis"
	@$(PY) -m tests.local_stores $(PYTEST) $(or $(ARGS),$(if $(filter daphne,$(SERVER)),$(TESTS_OF_SERVERS),$(TESTS_OF_STORES)))

test-embedded: $(DEV_STAMP) messages chromium nginx
	@echo "== tests"
	@$(PYTEST) $(or $(ARGS),$(if $(filter daphne,$(SERVER)),$(TESTS_OF_SERVERS)))
	@if command -v node >/dev/null 2>&1; then \
		echo "== tests of the page's modules"; node --test tests/web/*.test.mjs; \
	else echo "== node is not here: tests of the page's modules are left out"; fi

lint: $(DEV_STAMP)
	@echo "== style"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet .
	@echo "== import contracts"
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache
	@echo "== migrations, checks, documents"
	@$(PY) -m tests.command makemigrations --check --dry-run
	@$(PY) -m tests.command check
	@$(PY) -m tests.command document_settings --check

bench: $(DEV_STAMP)
	@$(PY) -m bench $(if $(ROW),--row $(ROW))

faults: $(DEV_STAMP)
	@$(PY) -m faults $(if $(SIEGE),--siege $(SIEGE) --workers 3) $(if $(TURNS),--turns $(TURNS)) \
		$(if $(filter off,$(PEERS)),--no-peers) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY)) $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

# A browser for the tests of the pages: the system's, else Playwright's, else those tests say that they need one.
chromium: $(DEV_STAMP)
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || \
		command -v google-chrome >/dev/null 2>&1 || { \
			echo "== Chromium for the tests of the pages"; \
			if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
				apt-get -qq update && apt-get -qq install -y chromium; \
			else $(PY) -m playwright install chromium; fi; \
		} || echo "== no Chromium to be had: the tests of the pages will fail"

# nginx for the tests of docs/nginx.conf, installed but not started: RUNLEVEL 1 starts no services.
nginx:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v nginx >/dev/null 2>&1 || { \
			echo "== nginx for the tests of docs/nginx.conf"; \
			[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && apt-get -qq update && \
				RUNLEVEL=1 apt-get -qq install -y --no-install-recommends nginx-light; \
		} || echo "== no nginx to be had: the tests of docs/nginx.conf will fail"

# By a library of ours, so that no machine needs gettext's own tools for it.
messages: $(RUN_STAMP)
	@$(PY) -m config.translations

clean:
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
