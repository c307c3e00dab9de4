# One command per habit. Every target does its own set-up.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# The command line, also where the installed script was moved.
MESATEE := $(PY) -c "from mesatee.cli.main import main; main()"
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock pyproject.toml
PYTEST_WORKERS ?= 2
# The benchmark to run, e.g. `make bench NAME=channel`.
NAME ?=

.PHONY: setup demo test test-fast test-slow lint bench docs lock clean

setup: $(VENV)/.built

$(VENV)/.deps: requirements/dev.lock
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --require-hashes -r requirements/dev.lock
	touch $@

$(VENV)/.built: $(VENV)/.deps $(RUST_SOURCES)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(PY) -m maturin develop --release --locked -q
	touch $@

demo: setup
	$(MESATEE) demo

test: setup
	$(PY) -m pytest -n $(PYTEST_WORKERS) -m "not slow"

test-fast: setup
	$(PY) -m pytest -n $(PYTEST_WORKERS) -m "not slow and not e2e"

test-slow: setup
	$(PY) -m pytest -n $(PYTEST_WORKERS) -m slow

lint: setup
	$(PY) -m ruff format --check src tests docs
	$(PY) -m ruff check src tests docs
	$(PY) -m mypy
	$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-cache
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --locked -- -D warnings

bench: setup
	$(MESATEE) bench $(NAME)

docs: setup
	$(PY) docs/generate.py

lock:
	$(PY) -m pip install -q uv
	$(PY) -m uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/base.lock
	$(PY) -m uv pip compile pyproject.toml --all-extras --group tooling --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/dev.lock

clean:
	rm -rf $(VENV) target src/mesatee/*.so
