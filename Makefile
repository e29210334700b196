# `make up` is all a new checkout needs. PYTHON=python3.12 picks another interpreter for the virtual environment.
PYTHON ?= python3
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help up test chaos lint bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: .venv/installed ## run everything here until Ctrl-C
	@exec .venv/bin/tocsin up

test: .venv/installed ## run the tests; ARGS="-k inbox" for some
	@.venv/bin/pytest -n $(WORKERS) --dist loadfile -m "not chaos" $(ARGS)

chaos: .venv/installed ## kill every process and server under load, and count what arrives
	@.venv/bin/pytest -s -m chaos $(ARGS)

lint: .venv/installed ## check style, types and the direction of imports
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: .venv/installed ## measure it and its peers, 5 minutes at most; ARGS="--only idle" for some
	@.venv/bin/python -m tests.benchmarks $(ARGS)

clean: ## remove the virtual environment and the data of `make up`
	@rm -rf .venv .tocsin

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' || \
		{ echo "Tocsin needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing into .venv …"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
