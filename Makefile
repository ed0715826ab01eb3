# Each target sets up what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
# Of the demo: a folder, or an fsspec URL for its data up to the mixtures.
ROOT ?= build/demo
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# matplotlib would keep its list of fonts in the home folder.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/cache/matplotlib

.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos bench lint clean

help:
	@echo "make demo      the whole chain on the demo's six sources -> build/demo/report/index.html"
	@echo "make test      the tests (under 12 minutes on 2 cores)"
	@echo "make test-all  the tests, slow ones included"
	@echo "make chaos     50 faults at seeded moments of the chain, and what is lost by them"
	@echo "make bench     comparisons with other tools"
	@echo "make lint      ruff, mypy, import-linter"

$(STAMP): pyproject.toml constraints.txt
	@echo "==> creating $(VENV) and installing Headwater with its packages (once, about 3 minutes and 8 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headwater needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@echo "==> running the demo into $(ROOT)"
	$(BIN)/headwater demo --root $(ROOT)

test: $(STAMP)
	@echo "==> running the tests"
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)
	$(BIN)/python -m pytest

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

bench: $(STAMP)
	@set -e; for file in $$(grep -l "^def main" benchmarks/*.py); do \
		name=$$(basename $$file .py); echo "==> $$name"; $(BIN)/python -m benchmarks.$$name; done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf build $(VENV)
